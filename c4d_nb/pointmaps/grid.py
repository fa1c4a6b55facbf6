"""Every s-th pixel of an image, as an image of its own with pixel centres that are pixel centres of the full one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from c4d_nb.camera import pixel_grid
from c4d_nb.correspondence.flow import sample_map
from c4d_nb.errors import InputError


@dataclass(frozen=True)
class PixelGrid:
    """Pixel ``(i, j)`` of the grid is pixel ``stride (i, j) + offset`` of the full image, (x, y).

    ``stride`` is odd and the grid is centred, so that its middle is the middle of the full image.
    """

    height: int
    width: int
    """Of the full image."""
    stride: int

    @staticmethod
    def within(size: tuple[int, int], long_side: int) -> "PixelGrid":
        """The finest grid of an image of (height, width) whose longer side has at most ``long_side`` pixels."""
        if long_side < 1:
            raise InputError(f"long_side: expected at least 1 px, but it is {long_side}")
        stride = -(-max(size) // long_side)
        return PixelGrid(*size, stride + (stride + 1) % 2)

    @property
    def offset(self) -> tuple[int, int]:
        """(x, y): half of what the grid leaves over. A side and its grid are both odd or both even."""
        steps = ((self.width - 1) // self.stride, (self.height - 1) // self.stride)
        sides = (self.width, self.height)
        return tuple(
            (side - 1 - self.stride * max(0, n - (n + side - 1) % 2)) // 2 for n, side in zip(steps, sides, strict=True)
        )

    def sample(self, maps: Shaped[Tensor, "b h w *c"]) -> Shaped[Tensor, "b gh gw *c"]:
        """Maps at the grid's pixels."""
        x, y = self.offset
        return maps[:, y : self.height - y : self.stride, x : self.width - x : self.stride].contiguous()

    def to_grid(self, uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        return (uv - uv.new_tensor(self.offset)) / self.stride

    def intrinsics(self, full: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
        """K of the grid's pixels."""
        mapped = full.clone()
        mapped[..., :2, 2] -= full.new_tensor(self.offset)
        mapped[..., :2, :] /= self.stride
        return mapped

    def intrinsics_to_full(self, of_grid: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
        mapped = of_grid.clone()
        mapped[..., :2, :] *= self.stride
        mapped[..., :2, 2] += of_grid.new_tensor(self.offset)
        return mapped

    def upsample(self, maps: Float[Tensor, "t gh gw"]) -> Float[Tensor, "t h w"]:
        """Bilinear values at every pixel of the full image; beyond the outermost grid pixels theirs."""
        uv = self.to_grid(pixel_grid(self.height, self.width, like=maps))
        return torch.stack([sample_map(values[..., None], uv)[..., 0] for values in maps])
