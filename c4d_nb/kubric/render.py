"""Scenes of analytic bodies in a room, rendered to clips with their whole truth.

Colour is supersampled, over the pixel and over the time that the shutter is open; depth, segmentation, tracks and
visibility come from one exact ray each, in float64, at the frame's instant; flow comes from poses and depth, never from
rendered images.

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
from tqdm import tqdm

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Clip, Truth
from c4d_nb.errors import InputError
from c4d_nb.kubric.appearance import light_arrays, paint_arrays, shutter
from c4d_nb.kubric.cast import cast, instants
from c4d_nb.kubric.kernels import render_pixels
from c4d_nb.kubric.mobility import mobility_labels
from c4d_nb.kubric.scene import Scene
from c4d_nb.kubric.tracks import point_tracks, sample_tapvid_queries
from c4d_nb.kubric.truth import complete_truth


def render_clip(
    scene: Scene, *, fps: float, samples: int = 4, n_tracks: int = 256, seed: int = 0, threads: int | None = None
) -> Clip:
    """Render a scene with its whole truth. ``samples`` x ``samples`` rays colour a pixel; ``seed`` chooses the tracks.

    ``threads`` render side by side, one a core if None; a single one shows no progress, for it is one of many workers.
    K is in ``clip.truth`` only: a pipeline that is given the clip has to find it.
    """
    check_samples(samples)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        frames = pool.map(partial(render_frame, scene, samples=samples), range(len(scene)))
        silent = {"disable": True} if threads == 1 else {}
        frames = zip(*tqdm(frames, "rendering", len(scene), leave=False, **silent), strict=True)
        return with_truth(scene, *map(torch.stack, frames), fps=fps, n_tracks=n_tracks, seed=seed)


def with_truth(
    scene: Scene,
    rgb: UInt8[Tensor, "t h w 3"],
    depth: Float[Tensor, "t h w"],
    segmentation: Int[Tensor, "t h w"],
    *,
    fps: float,
    n_tracks: int,
    seed: int,
) -> Clip:
    """The clip of a scene's rendered frames, with everything that is known of them."""
    truth = complete_truth(
        Truth(
            depth=depth,
            world_from_cam=scene.world_from_cam.float(),
            intrinsics=scene.intrinsics.float().expand(len(scene), 3, 3).clone(),
            segmentation=segmentation,
            positions=scene.positions.float(),
            quaternions=scene.quaternions.float(),
            is_dynamic=scene.is_dynamic,
            mobility=mobility_labels(scene.positions),
            boxes=scene.boxes_m.float(),
        )
    )
    queries = sample_tapvid_queries(truth, n_queries=n_tracks, generator=torch.Generator().manual_seed(seed))
    return Clip(rgb, fps, truth=replace(truth, tracks=point_tracks(truth, queries, scene=scene)))


def render_frame(
    scene: Scene, frame: int, *, samples: int = 4
) -> tuple[UInt8[Tensor, "h w 3"], Float[Tensor, "h w"], Int[Tensor, "h w"]]:
    """(sRGB colour, z-depth, segmentation) of one frame. The last two do not depend on ``samples``."""
    check_samples(samples)
    grid = pixel_grid(scene.height, scene.width).double()
    depth, segmentation = cast(scene, frame, grid.reshape(-1, 2))
    rgb = np.empty((scene.height, scene.width, 3), dtype=np.uint8)
    camera, geometry = instants(scene, shutter(frame, scene.motion_blur))
    paint, lights = paint_arrays(scene), light_arrays(scene.light, samples)
    render_pixels(camera, scene.intrinsics.double().numpy(), geometry, paint, lights, samples, rgb)
    return torch.from_numpy(rgb), depth.float().reshape(grid.shape[:2]), segmentation.reshape(grid.shape[:2])


def check_samples(samples: int) -> None:
    if samples < 1:
        raise InputError(f"samples: expected 1 or more, but it is {samples}")
