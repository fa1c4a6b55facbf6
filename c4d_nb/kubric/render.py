"""Scenes of analytic bodies in a room, rendered to clips with their whole truth.

Colour is supersampled; depth, segmentation, tracks and visibility come from one exact ray each, in float64; flow comes
from poses and depth, never from rendered images.

Frames are rendered by a pool of threads over compiled code that holds no lock, which unlike numba's own parallel loops
is safe beside forked workers.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Clip, Truth
from c4d_nb.errors import InputError
from c4d_nb.kubric.cast import camera_arrays, cast, geometry_arrays
from c4d_nb.kubric.kernels import Lights, Paint, render_pixels
from c4d_nb.kubric.scene import PATTERNS, Scene
from c4d_nb.kubric.tracks import point_tracks
from c4d_nb.kubric.truth import moving_segments, truth_flow


def render_clip(scene: Scene, *, fps: float, samples: int = 4, n_tracks: int = 256, seed: int = 0) -> Clip:
    """Render a scene with its whole truth. ``samples`` x ``samples`` rays colour a pixel; ``seed`` chooses the tracks.

    K is in ``clip.truth`` only: a pipeline that is given the clip has to find it. ``is_dynamic`` stays None, since
    nothing is tossed here.
    """
    _check_samples(samples)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        frames = pool.map(partial(render_frame, scene, samples=samples), range(len(scene)))
        rgb, depth, segmentation = zip(*tqdm(frames, "rendering", len(scene), leave=False), strict=True)
    segmentation = torch.stack(segmentation)
    moving = moving_segments(scene.positions)
    truth = Truth(
        depth=torch.stack(depth),
        world_from_cam=scene.world_from_cam.float(),
        intrinsics=scene.intrinsics.float().expand(len(scene), 3, 3).clone(),
        segmentation=segmentation,
        positions=scene.positions.float(),
        quaternions=scene.quaternions.float(),
        mobility=moving[1:],
        motion_mask=moving[segmentation],
    )
    tracks = point_tracks(scene, truth, n_tracks=n_tracks, seed=seed)
    return Clip(torch.stack(rgb), fps, truth=replace(truth, flow=truth_flow(truth), tracks=tracks))


def render_frame(
    scene: Scene, frame: int, *, samples: int = 4
) -> tuple[UInt8[Tensor, "h w 3"], Float[Tensor, "h w"], Int[Tensor, "h w"]]:
    """(sRGB colour, z-depth, segmentation) of one frame. The last two do not depend on ``samples``."""
    _check_samples(samples)
    grid = pixel_grid(scene.height, scene.width).double()
    depth, segmentation = cast(scene, frame, grid.reshape(-1, 2))
    rgb = np.empty((scene.height, scene.width, 3), dtype=np.uint8)
    camera, geometry = camera_arrays(scene, frame), geometry_arrays(scene, frame)
    render_pixels(*camera, geometry, _paint(scene), _lights(scene, samples), samples, rgb)
    return torch.from_numpy(rgb), depth.float().reshape(grid.shape[:2]), segmentation.reshape(grid.shape[:2])


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise InputError(f"samples: expected 1 or more, but it is {samples}")


def _paint(scene: Scene) -> Paint:
    textures = [scene.floor, scene.walls, *(b.texture for b in scene.bodies)]
    srgb = np.array([t.colors for t in textures], dtype=np.float64)
    return Paint(
        pattern=np.array([PATTERNS[t.pattern] for t in textures], dtype=np.int64),
        colors=np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4),
        scale=np.array([t.scale_m for t in textures], dtype=np.float64),
        seed=np.array([t.seed for t in textures], dtype=np.int64),
    )


def _lights(scene: Scene, samples: int, disc_radius: float = 0.07) -> Lights:
    """Fibonacci spirals on the sun's disc and on the sphere."""
    n = samples**2
    rank, angle = (np.arange(n) + 0.5) / n, np.arange(n) * np.pi * (3 - np.sqrt(5))
    sun = np.array(scene.sun, dtype=np.float64) / np.linalg.norm(scene.sun)
    side = np.linalg.svd(sun[None])[2][1:]
    disc = disc_radius * np.sqrt(rank)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    spots = sun + (disc @ side) * (n > 1)
    ring, height = np.sqrt(1 - (1 - 2 * rank) ** 2), 1 - 2 * rank
    sky = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=-1)
    return Lights(spots / np.linalg.norm(spots, axis=1, keepdims=True), sky)
