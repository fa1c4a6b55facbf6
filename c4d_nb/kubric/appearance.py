"""What a scene looks like to the compiled renderer: its textures and lights as arrays, the instants of a shutter."""

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.errors import InputError
from c4d_nb.kubric.kernels import Lights
from c4d_nb.kubric.patterns import Paint
from c4d_nb.kubric.scene import PATTERNS, Light, Scene, Texture

INSTANTS = 48
"""Sub-frame poses over which motion blur is averaged; each pixel picks as many of them as it has rays."""
LARGEST_IMAGE = 512
"""Longer sides of image textures are reduced to this."""


def shutter(frame: int, motion_blur: float) -> Float[Tensor, "s"]:
    """The times, in frames, over which a frame's colour is averaged."""
    if motion_blur == 0:
        return torch.tensor([float(frame)], dtype=torch.float64)
    share = (torch.arange(INSTANTS, dtype=torch.float64) + 0.5) / INSTANTS - 0.5
    return frame + motion_blur * share


def paint_arrays(scene: Scene) -> Paint:
    """Of the floor, the walls and each part, in the order of the bodies."""
    return _painted((scene.floor, scene.walls, *(part.texture for body in scene.bodies for part in body.parts)))


@lru_cache(maxsize=4)
def _painted(textures: tuple[Texture, ...]) -> Paint:
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


def light_arrays(light: Light, samples: int) -> Lights:
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
