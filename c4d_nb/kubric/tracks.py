"""Exact point tracks: random pixels that ride on what they show, and when a ray still sees them."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from c4d_nb.camera import invert, project, rays, transform
from c4d_nb.clip import Tracks, Truth
from c4d_nb.errors import InputError
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.scene import Scene
from c4d_nb.kubric.truth import moving_segments, object_poses

VISIBLE_TOLERANCE = 1e-4
"""Share of its depth by which a point may lie behind the first hit of its ray and still count as visible."""


def point_tracks(scene: Scene, truth: Truth, *, n_tracks: int = 256, seed: int = 0) -> Tracks:
    """Exact tracks of random pixels of all frames: each rides on the body, or the background, that it shows.

    A pixel's chance falls with the square root of its segment's area, so that small bodies get their share.
    """
    shape, segments = truth.depth.shape, truth.segmentation.flatten()
    if not 0 < n_tracks <= len(segments):
        raise InputError(f"n_tracks: expected 1 to {len(segments)}, the number of pixels, but it is {n_tracks}")
    share = segments.bincount().clamp(min=1).double().rsqrt().numpy()[segments.numpy()]
    # The n smallest exponential waiting times: a weighted draw without replacement.
    waiting = np.random.default_rng(seed).exponential(size=len(segments)) / share
    chosen = np.sort(np.argpartition(waiting, n_tracks - 1)[:n_tracks])
    query_frame, v, u = (torch.from_numpy(index) for index in np.unravel_index(chosen, shape))
    segment = segments[torch.from_numpy(chosen)]

    world_from_cam, intrinsics = scene.world_from_cam.double(), scene.intrinsics.double()
    depth = truth.depth[query_frame, v, u].double()
    xyz_cam = depth[:, None] * rays(intrinsics, torch.stack([u, v], dim=-1).double())
    world_from_obj = object_poses(scene)[segment]
    obj_from_cam = invert(world_from_obj[torch.arange(n_tracks), query_frame]) @ world_from_cam[query_frame]
    xyz_obj = transform(obj_from_cam, xyz_cam[:, None])
    uv, visible = [], []
    for t in range(len(scene)):
        position, depth = project(
            transform(invert(world_from_cam[t]) @ world_from_obj[:, t], xyz_obj)[:, 0], intrinsics
        )
        uv.append(position)
        visible.append(_is_visible(scene, t, position, depth))
    mobility = moving_segments(scene.positions)[segment].float().expand(len(scene), n_tracks).clone()
    visible = torch.stack(visible)
    return Tracks(torch.stack(uv).float(), visible, torch.ones_like(mobility), mobility, query_frame)


def _is_visible(scene: Scene, frame: int, uv: Tensor, depth: Tensor) -> Bool[Tensor, "n"]:
    low, high = uv.new_tensor([-0.5, -0.5]), uv.new_tensor([scene.width - 0.5, scene.height - 0.5])
    first = cast(scene, frame, uv)[0]
    return (depth > 0) & ((uv >= low) & (uv <= high)).all(-1) & ((first - depth).abs() <= VISIBLE_TOLERANCE * depth)
