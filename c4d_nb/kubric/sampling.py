"""Random scenes as Kubric's MOVi workers make them.

Every random number of a scene comes from one seed. Training and validation scenes never share a stream of random
numbers, for the subset is part of what seeds it, and so are the split and the forced case.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from c4d_nb.camera import pinhole, pixel_grid, rotation_angle_deg
from c4d_nb.errors import InputError
from c4d_nb.kubric.camera_paths import sample_camera
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.mobility import with_background
from c4d_nb.kubric.ranges import CASES, SPLITS, SUBSETS
from c4d_nb.kubric.scene import Scene
from c4d_nb.kubric.shapes import FLOOR_PATTERNS, WALL_PATTERNS, sample_light, sample_texture
from c4d_nb.kubric.staging import hit_bodies, stage

_STREAM = 0xC4D
ATTEMPTS = 100
CLEARANCE_M = 0.3
"""Between the camera and the sphere around any body."""
PROBE_PX = 48
"""Side of the small segmentations that show whether a forced case can be seen."""


def sample_scene(
    seed: int,
    *,
    split: str = "movi_e",
    subset: str = "train",
    case: str | None = None,
    size: int = 256,
    frames: int = 24,
    images: Sequence[str] = (),
) -> Scene:
    """The scene of a seed: square frames of ``size`` px. ``images`` are paths of pictures to paint with.

    A drawn scene whose camera is inside a body, or that does not show its forced ``case``, is drawn again from the same
    stream. Raises ``InputError`` for an unknown split, subset or case, or a seed below 0.
    """
    for name, value, known in (("split", split, SPLITS), ("subset", subset, SUBSETS), ("case", case, (None, *CASES))):
        if value not in known:
            raise InputError(f"{name}: expected one of {', '.join(map(str, known))}, but it is {value!r}")
    for name, value, least in (("seed", seed, 0), ("size", size, 8), ("frames", frames, 1)):
        if value < least:
            raise InputError(f"{name}: expected {least} or more, but it is {value}")
    stream = [_STREAM, list(SPLITS).index(split), SUBSETS.index(subset), (None, *CASES).index(case), seed]
    rng = np.random.default_rng(stream)
    for _ in range(ATTEMPTS):
        scene = _draw(rng, split, case, size, frames, images)
        if camera_is_clear(scene) and (case is None or _shows(scene, case)):
            return scene
    raise RuntimeError(f"no scene of seed {seed} shows the case {case} after {ATTEMPTS} attempts")


def _draw(
    rng: np.random.Generator, split: str, case: str | None, size: int, frames: int, images: Sequence[str]
) -> Scene:
    ranges = SPLITS[split]
    half, height = float(rng.uniform(14, 26)), float(rng.uniform(13, 20))
    room = ((-half, -half, 0.0), (half, half, height))
    camera = sample_camera(rng, ranges, frames, case)
    return Scene(
        bodies=stage(rng, ranges, camera, room, images, case),
        room=room,
        floor=sample_texture(rng, 4.0, FLOOR_PATTERNS, images, saturation=0.5),
        walls=sample_texture(rng, 6.0, WALL_PATTERNS, images, saturation=0.5),
        world_from_cam=camera,
        intrinsics=pinhole(ranges.focal * size, size, size).double(),
        height=size,
        width=size,
        light=sample_light(rng),
        motion_blur=float(rng.uniform(*ranges.motion_blur)),
    )


def camera_is_clear(scene: Scene) -> bool:
    """Whether the camera stays out of every body's sphere."""
    center = scene.world_from_cam[:, :3, 3]
    reach = torch.tensor([body.radius_m + CLEARANCE_M for body in scene.bodies])
    return bool(((scene.positions - center).norm(dim=-1) > reach[:, None]).all())


def _shows(scene: Scene, case: str) -> bool:
    if case == "pure_rotation":
        turn = scene.world_from_cam[0, :3, :3].mT @ scene.world_from_cam[-1, :3, :3]
        return float(rotation_angle_deg(turn)) > 5
    if case == "hit":
        hit = hit_bodies(scene.bodies)
        return bool(hit.any()) and bool((_moving_share(scene, hit) > 0.01).all())
    if case == "large_mover":
        return bool((_moving_share(scene, scene.is_dynamic) > 0.55).all())
    if case == "epipolar":
        return bool((_moving_share(scene, scene.is_dynamic) > 0.01).all())
    return True


def _moving_share(scene: Scene, chosen: Bool[Tensor, "o"]) -> Tensor:
    """Share of the image that the chosen bodies cover, in every fourth frame."""
    small = replace(
        scene,
        intrinsics=pinhole(scene.intrinsics[0, 0] * PROBE_PX / scene.width, PROBE_PX, PROBE_PX),
        height=PROBE_PX,
        width=PROBE_PX,
    )
    grid = pixel_grid(PROBE_PX, PROBE_PX).double().reshape(-1, 2)
    frames = [*range(0, len(scene), 4), len(scene) - 1]
    return torch.stack([with_background(chosen)[cast(small, t, grid)[1]].float().mean() for t in frames])
