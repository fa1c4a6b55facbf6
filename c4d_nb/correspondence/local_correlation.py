"""Features of a video at several resolutions, and how like a query's surroundings are to those of an estimate.

No volume of all pairs is ever built: memory grows with points x frames x neighbours, not with the size of the frames.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from c4d_nb.correspondence.encoders import STRIDE


@dataclass(frozen=True, eq=False)
class FeaturePyramid:
    """Features of the frames of a batch of videos; channels last, so that a pixel's features lie side by side."""

    levels: tuple[Float[Tensor, "b t _ _ c"], ...]
    """Level i has a stride of 4 x 2^i px."""
    size: tuple[int, int]
    """(height, width) of the frames, px."""

    def window(self, start: int, stop: int) -> "FeaturePyramid":
        """Frames start to stop - 1."""
        return FeaturePyramid(tuple(level[:, start:stop] for level in self.levels), self.size)


def build_pyramid(features: Float[Tensor, "b t c h w"], *, levels: int, size: tuple[int, int]) -> FeaturePyramid:
    """Every level is the one before, averaged over 2x2 cells. ``size`` is that of the frames, px."""
    batch = features.shape[:2]
    maps = [features.flatten(0, 1)]
    for _ in range(levels - 1):
        maps.append(F.avg_pool2d(maps[-1], 2))
    return FeaturePyramid(tuple(m.permute(0, 2, 3, 1).contiguous().unflatten(0, batch) for m in maps), size)


def cells_from_uv(uv: Float[Tensor, "*b 2"], *, level: int) -> Float[Tensor, "*b 2"]:
    """Pixels to cells (column, row) of a level: both have their centres at integers, so their borders agree at -0.5."""
    stride = STRIDE * 2**level
    return (uv + 0.5) / stride - 0.5


def neighborhoods(
    level: Float[Tensor, "b t h w c"], frame: Int[Tensor, "b n"], cells: Float[Tensor, "b n 2"], *, radius: int
) -> Float[Tensor, "b n k c"]:
    """Bilinear features in the k = (2 radius + 1)^2 cells around each point, row by row; ``frame`` is each point's.

    Beyond the border the nearest cell's.
    """
    values, fraction = _surrounding_cells(level, frame, cells, radius)
    return _interpolate(values, fraction).flatten(2, 3)


def local_correlation(
    level: Float[Tensor, "b t h w c"],
    queries: Float[Tensor, "b n k c"],
    cells: Float[Tensor, "b n t 2"],
    *,
    radius: int,
) -> Float[Tensor, "b n t k2"]:
    """Products of every feature around the query with every one around its estimate in each frame; k2 = k x k.

    The order is (row, column) around the estimate, then the query's neighbour. Bilinear interpolation is linear in the
    features: products are taken at whole cells, and it is these few that are interpolated, not the many channels.
    """
    frame = torch.arange(level.shape[1], device=cells.device).expand(cells.shape[:-1])
    values, fraction = _surrounding_cells(level, frame, cells, radius)
    products = values.flatten(2, 4) @ queries.mT  # all frames of a point in one matrix product
    return _interpolate(products.unflatten(2, values.shape[2:5]), fraction).flatten(3)


class Match(NamedTuple):
    """Where around an estimate a query's own feature, without its neighbours, is matched best."""

    cells: Float[Tensor, "b n t 2"]
    """The way there, (column, row): a mean of all ways, weighted by the softmax of the products (a soft argmax)."""
    peak: Float[Tensor, "b n t"]
    """The largest product."""
    here: Float[Tensor, "b n t"]
    """That at the estimate itself."""


def best_match(products: Float[Tensor, "b n t k2"], sharpness: Float[Tensor, ""]) -> Match:
    """From what ``local_correlation`` returns. The sharper, the nearer to the argmax."""
    k = math.isqrt(products.shape[-1])
    own = products.unflatten(-1, (k, k))[..., k // 2]
    radius = math.isqrt(k) // 2
    axis = torch.arange(-radius, radius + 1, dtype=products.dtype, device=products.device)
    row, column = torch.meshgrid(axis, axis, indexing="ij")
    ways = torch.stack([column.flatten(), row.flatten()], dim=-1)
    return Match((sharpness * own).softmax(dim=-1) @ ways, own.amax(dim=-1), own[..., k // 2])


def _surrounding_cells(
    level: Float[Tensor, "b t h w c"], frame: Int[Tensor, "b *n"], cells: Float[Tensor, "b *n 2"], radius: int
) -> tuple[Float[Tensor, "b *n d d c"], Float[Tensor, "b *n 2"]]:
    """The d = 2 radius + 2 whole cells each way that a neighbourhood is interpolated from, and the fraction of a cell.

    To clamp whole cells is to clamp the point itself: beyond the border both sides of it are the same cell.
    """
    batch, frames, height, width, channels = level.shape
    corner = cells.floor()
    offset = torch.arange(-radius, radius + 2, device=cells.device)
    column, row = (corner.long()[..., None] + offset).unbind(-2)
    column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    video = torch.arange(batch, device=cells.device).view(-1, *(1,) * (frame.ndim - 1))
    image = (video * frames + frame)[..., None, None]
    index = (image * height + row[..., :, None]) * width + column[..., None, :]
    # An embedding is a table look-up by row; unlike indexing, its backward pass is fast on a CPU.
    return F.embedding(index, level.reshape(-1, channels)), cells - corner


def _interpolate(values: Float[Tensor, "*b d d c"], fraction: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b side side c"]:
    """Between neighbouring columns, then between neighbouring rows: one cell less each way."""
    x, y = fraction.to(values.dtype)[..., None, None, None].unbind(-4)
    values = torch.lerp(values[..., :-1, :], values[..., 1:, :], x)
    return torch.lerp(values[..., :-1, :, :], values[..., 1:, :, :], y)
