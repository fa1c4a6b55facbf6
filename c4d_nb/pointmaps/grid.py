"""Every s-th pixel of an image, as an image of its own with pixel centres that are pixel centres of the full one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.camera import pixel_grid
from c4d_nb.correspondence.flow import sample_map
from c4d_nb.errors import InputError


@dataclass(frozen=True)
class PixelGrid:
    """Pixel ``(i, j)`` of the grid is pixel ``stride (i, j) + (stride - 1) / 2`` of the full image; ``stride`` is
    odd, so that is one."""

    stride: int

    @staticmethod
    def within(size: tuple[int, int], long_side: int) -> "PixelGrid":
        """The finest grid whose longer side has at most ``long_side`` pixels."""
        if long_side < 1:
            raise InputError(f"long_side: expected at least 1 px, but it is {long_side}")
        stride = -(-max(size) // long_side)
        return PixelGrid(stride + (stride + 1) % 2)

    @property
    def offset(self) -> int:
        return (self.stride - 1) // 2

    def sample(self, maps: Tensor) -> Tensor:
        """Maps (b, h, w, ...) at the grid's pixels."""
        return maps[:, self.offset :: self.stride, self.offset :: self.stride].contiguous()

    def to_grid(self, uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        return (uv - self.offset) / self.stride

    def intrinsics(self, full: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
        """K of the grid's pixels."""
        mapped = full.clone()
        mapped[..., :2, 2] -= self.offset
        mapped[..., :2, :] /= self.stride
        return mapped

    def intrinsics_to_full(self, of_grid: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
        mapped = of_grid.clone()
        mapped[..., :2, :] *= self.stride
        mapped[..., :2, 2] += self.offset
        return mapped

    def upsample(self, maps: Float[Tensor, "t h w"], size: tuple[int, int]) -> Float[Tensor, "t H W"]:
        """Bilinear values at every pixel of the full image; beyond the outermost grid pixels theirs."""
        uv = self.to_grid(pixel_grid(*size, like=maps))
        return torch.stack([sample_map(values[..., None], uv)[..., 0] for values in maps])
