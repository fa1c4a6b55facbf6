"""Resizing, and the record of it that maps pixels, intrinsics and masks back to the original image."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Resize:
    """How the frames at hand came from the original ones. Pixel centres: ``u_original + 1/2 = (u + 1/2) / scale``."""

    original_height: int
    original_width: int
    height: int
    width: int

    @property
    def scale(self) -> Float[Tensor, "2"]:
        """(x, y) factors from original to current pixels; they differ by less than a pixel's rounding."""
        return torch.tensor([self.width / self.original_width, self.height / self.original_height], dtype=torch.float64)

    def uv_to_original(self, uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        return (uv + 0.5) / self.scale.to(uv) - 0.5

    def uv_from_original(self, uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        return (uv + 0.5) * self.scale.to(uv) - 0.5

    def intrinsics_to_original(self, intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
        return self._map_intrinsics(intrinsics, 1 / self.scale)

    def intrinsics_from_original(self, intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
        return self._map_intrinsics(intrinsics, self.scale)

    def mask_to_original(self, mask: Bool[Tensor, "t h w"]) -> Bool[Tensor, "t H W"]:
        """Nearest neighbour."""
        return resize_nearest(mask, self.original_height, self.original_width)

    @staticmethod
    def _map_intrinsics(intrinsics: Tensor, scale: Tensor) -> Tensor:
        scale = scale.to(intrinsics)
        mapped = intrinsics.clone()
        mapped[..., :2, :2] = intrinsics[..., :2, :2] * scale[:, None]
        mapped[..., :2, 2] = (intrinsics[..., :2, 2] + 0.5) * scale - 0.5
        return mapped


def resize_nearest(maps: Shaped[Tensor, "t h w *c"], height: int, width: int) -> Shaped[Tensor, "t H W *c"]:
    """Each new pixel takes the old one nearest to its centre."""
    rows, columns = _nearest_index(maps.shape[1], height), _nearest_index(maps.shape[2], width)
    return maps[:, rows[:, None].to(maps.device), columns[None].to(maps.device)]


def target_size(height: int, width: int, long_side: int | None) -> tuple[int, int]:
    """(height, width) whose longer side has at most ``long_side`` pixels; never enlarged."""
    if long_side is None or max(height, width) <= long_side:
        return height, width
    scale = long_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def shrink(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image averaged down to the given size."""
    if frame.shape[:2] == (height, width):
        return np.ascontiguousarray(frame)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _nearest_index(size: int, new_size: int) -> Tensor:
    """Which old pixel lies nearest to each new one's centre."""
    return ((torch.arange(new_size, dtype=torch.float64) + 0.5) * size / new_size).floor().long().clamp(max=size - 1)
