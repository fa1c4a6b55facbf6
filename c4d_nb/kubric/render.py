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
from functools import lru_cache, partial

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Clip, Truth
from c4d_nb.errors import InputError
from c4d_nb.kubric.cast import cast, instants
from c4d_nb.kubric.kernels import Lights, render_pixels
from c4d_nb.kubric.mobility import mobility_labels
from c4d_nb.kubric.patterns import Paint
from c4d_nb.kubric.scene import PATTERNS, Light, Scene, Texture
from c4d_nb.kubric.tracks import point_tracks, sample_tapvid_queries
from c4d_nb.kubric.truth import complete_truth

INSTANTS = 48
"""Sub-frame poses over which motion blur is averaged; each pixel picks as many of them as it has rays."""
LARGEST_IMAGE = 512
"""Longer sides of image textures are reduced to this."""


def render_clip(
    scene: Scene, *, fps: float, samples: int = 4, n_tracks: int = 256, seed: int = 0, threads: int | None = None
) -> Clip:
    """Render a scene with its whole truth. ``samples`` x ``samples`` rays colour a pixel; ``seed`` chooses the tracks.

    ``threads`` render side by side, one a core if None; a single one shows no progress, for it is one of many workers.
    K is in ``clip.truth`` only: a pipeline that is given the clip has to find it.
    """
    _check_samples(samples)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        frames = pool.map(partial(render_frame, scene, samples=samples), range(len(scene)))
        rgb, depth, segmentation = zip(
            *tqdm(frames, "rendering", len(scene), leave=False, disable=threads == 1), strict=True
        )
    truth = complete_truth(
        Truth(
            depth=torch.stack(depth),
            world_from_cam=scene.world_from_cam.float(),
            intrinsics=scene.intrinsics.float().expand(len(scene), 3, 3).clone(),
            segmentation=torch.stack(segmentation),
            positions=scene.positions.float(),
            quaternions=scene.quaternions.float(),
            is_dynamic=scene.is_dynamic,
            mobility=mobility_labels(scene.positions),
            boxes=scene.boxes_m.float(),
        )
    )
    queries = sample_tapvid_queries(truth, n_queries=n_tracks, generator=torch.Generator().manual_seed(seed))
    return Clip(torch.stack(rgb), fps, truth=replace(truth, tracks=point_tracks(truth, queries, scene=scene)))


def render_frame(
    scene: Scene, frame: int, *, samples: int = 4
) -> tuple[UInt8[Tensor, "h w 3"], Float[Tensor, "h w"], Int[Tensor, "h w"]]:
    """(sRGB colour, z-depth, segmentation) of one frame. The last two do not depend on ``samples``."""
    _check_samples(samples)
    grid = pixel_grid(scene.height, scene.width).double()
    depth, segmentation = cast(scene, frame, grid.reshape(-1, 2))
    rgb = np.empty((scene.height, scene.width, 3), dtype=np.uint8)
    camera, geometry = instants(scene, _shutter(frame, scene.motion_blur))
    light = _lights(scene.light, samples)
    render_pixels(camera, scene.intrinsics.double().numpy(), geometry, _paint(_textures(scene)), light, samples, rgb)
    return torch.from_numpy(rgb), depth.float().reshape(grid.shape[:2]), segmentation.reshape(grid.shape[:2])


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise InputError(f"samples: expected 1 or more, but it is {samples}")


def _shutter(frame: int, motion_blur: float) -> Float[Tensor, "s"]:
    if motion_blur == 0:
        return torch.tensor([float(frame)], dtype=torch.float64)
    share = (torch.arange(INSTANTS, dtype=torch.float64) + 0.5) / INSTANTS - 0.5
    return frame + motion_blur * share


def _textures(scene: Scene) -> tuple[Texture, ...]:
    return scene.floor, scene.walls, *(part.texture for body in scene.bodies for part in body.parts)


@lru_cache(maxsize=4)
def _paint(textures: tuple[Texture, ...]) -> Paint:
    images = sorted({t.image for t in textures if t.image is not None})
    levels, pixels = _pyramids(images)
    return Paint(
        pattern=np.array([PATTERNS[t.pattern] for t in textures], dtype=np.int64),
        colors=_linear(np.array([t.colors for t in textures], dtype=np.float64)),
        scale=np.array([t.scale_m for t in textures], dtype=np.float64),
        seed=np.array([t.seed for t in textures], dtype=np.int64),
        grain=np.array([t.grain for t in textures], dtype=np.float64),
        gloss=np.array([t.gloss for t in textures], dtype=np.float64),
        image=np.array([images.index(t.image) if t.image is not None else 0 for t in textures], dtype=np.int64),
        levels=levels,
        pixels=pixels,
    )


def _pyramids(paths: list[str], halvings: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """(levels, pixels) as ``Paint`` has them: each image, and itself halved again and again."""
    levels, pixels, start = np.ones((max(1, len(paths)), halvings, 3), dtype=np.int64), [], 0
    for number, path in enumerate(paths):
        image = _read_image(path)
        for halving in range(halvings):
            levels[number, halving] = start, *image.shape[:2]
            pixels.append(image.reshape(-1, 3))
            start += len(pixels[-1])
            smaller = tuple(max(1, side // 2) for side in reversed(image.shape[:2]))
            image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return levels, np.concatenate(pixels) if pixels else np.ones((1, 3), dtype=np.float32)


def _read_image(path: str) -> np.ndarray:
    """Linear RGB in [0, 1], float32."""
    image = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise InputError(f"image: expected a picture, but {path} cannot be read as one")
    scale = LARGEST_IMAGE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return _linear(image / 255).astype(np.float32)


def _linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _lights(light: Light, samples: int) -> Lights:
    """Fibonacci spirals on the sun's disc and on the sphere."""
    n = samples**2
    rank, angle = (np.arange(n) + 0.5) / n, np.arange(n) * np.pi * (3 - np.sqrt(5))
    sun = np.array(light.sun, dtype=np.float64) / np.linalg.norm(light.sun)
    side = np.linalg.svd(sun[None])[2][1:]
    disc = light.sun_radius * np.sqrt(rank)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    spots = sun + (disc @ side) * (n > 1)
    ring, height = np.sqrt(1 - (1 - 2 * rank) ** 2), 1 - 2 * rank
    sky = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=-1)
    color = np.array([light.sun_color, light.sky_color], dtype=np.float64)
    return Lights(spots / np.linalg.norm(spots, axis=1, keepdims=True), sky, color)
