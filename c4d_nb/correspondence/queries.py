"""Which points to track: grid query sampling (supplement of C4D)."""

from dataclasses import dataclass

import cv2
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from c4d_nb.errors import InputError


@dataclass(frozen=True, eq=False)
class GridQueries:
    """The query points of one frame: the gradient point of every cell, row by row, then the random point of every
    cell."""

    uv: Float[Tensor, "n 2"]
    is_gradient: Bool[Tensor, "n"]


@dataclass(frozen=True, eq=False)
class Queries:
    """Query points of a clip: where, and in which frame."""

    uv: Float[Tensor, "n 2"]
    frame: Int[Tensor, "n"]


def sample_grid_queries(frame: UInt8[Tensor, "h w 3"], *, cell: int = 20, generator: torch.Generator) -> GridQueries:
    """Two queries a cell of ``cell`` x ``cell`` px: its pixel of largest image gradient, and one at random.

    The cells start at the top left; those cut off by the right and lower border are cells too. The gradient is the
    magnitude of the Sobel derivative of the grey image; of equal ones the first in row order is taken.
    """
    if cell < 1:
        raise InputError(f"cell: expected at least 1 px, but it is {cell}")
    height, width = frame.shape[:2]
    cell = min(cell, max(height, width))
    strongest = _strongest_pixel(gradient_magnitude(frame), cell)
    top_left = _cell_corners(height, width, cell)
    extent = torch.minimum(torch.tensor([width, height]) - top_left, torch.tensor(cell))
    random = top_left + (torch.rand(top_left.shape, generator=generator) * extent).long()
    return GridQueries(
        uv=torch.cat([strongest, random]).float(),
        is_gradient=torch.arange(2 * len(random)) < len(random),
    )


def uniform_queries(size: tuple[int, int], *, count: int) -> Float[Tensor, "n 2"]:
    """A regular lattice of about ``count`` pixels of frames of ``size`` (height, width), to compare with."""
    height, width = size
    step = (height * width / count) ** 0.5
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    v, u = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([u * width, v * height], dim=-1).reshape(-1, 2).floor()


def gradient_magnitude(frame: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "h w"]:
    """Of the Sobel derivative of the grey image, whose border is repeated outside."""
    gray = cv2.cvtColor(frame.cpu().numpy(), cv2.COLOR_RGB2GRAY)
    du = cv2.Sobel(gray, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    dv = cv2.Sobel(gray, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    return torch.from_numpy(cv2.magnitude(du, dv))


def clip_queries(
    frames: UInt8[Tensor, "t h w 3"], *, every: int = 4, cell: int = 20, generator: torch.Generator
) -> Queries:
    """Grid queries in the first frame of every tracker window: frames 0, ``every``, 2 ``every``, ..."""
    if every < 1:
        raise InputError(f"every: expected at least 1 frame, but it is {every}")
    starts = range(0, len(frames), every)
    grids = [sample_grid_queries(frames[s], cell=cell, generator=generator).uv for s in starts]
    counts = torch.tensor([len(grid) for grid in grids])
    return Queries(uv=torch.cat(grids), frame=torch.tensor(list(starts)).repeat_interleave(counts))


def check_queries(queries: Queries, frames: int, size: tuple[int, int]) -> None:
    """Raises ``InputError`` unless there are queries, all within ``frames`` frames of ``size`` (height, width)."""
    if queries.uv.shape != (len(queries.frame), 2) or not len(queries.frame):
        raise InputError(
            f"queries: expected points (n, 2) and a frame for each, but their shapes are {tuple(queries.uv.shape)} and "
            f"{tuple(queries.frame.shape)}"
        )
    height, width = size
    inside = ((queries.uv >= -0.5) & (queries.uv <= queries.uv.new_tensor([width - 0.5, height - 0.5]))).all(dim=-1)
    outside = ~(inside & (queries.frame >= 0) & (queries.frame < frames))  # NaN is outside
    if outside.any():
        x, y = queries.uv[outside][0].tolist()
        raise InputError(
            f"queries: expected points within {frames} frames of {width}x{height} px, but there is "
            f"({x:g}, {y:g}) in frame {int(queries.frame[outside][0])}"
        )


def _cell_corners(height: int, width: int, cell: int) -> Tensor:
    top, left = torch.meshgrid(torch.arange(0, height, cell), torch.arange(0, width, cell), indexing="ij")
    return torch.stack([left, top], dim=-1).reshape(-1, 2)


def _strongest_pixel(magnitude: Tensor, cell: int) -> Tensor:
    """uv of the largest value in every cell; the padding of cut-off cells never wins."""
    height, width = magnitude.shape
    padded = F.pad(magnitude, (0, -width % cell, 0, -height % cell), value=-1.0)
    rows, columns = padded.shape[0] // cell, padded.shape[1] // cell
    cells = padded.reshape(rows, cell, columns, cell).transpose(1, 2).reshape(rows * columns, cell * cell)
    inside = cells.argmax(dim=1)
    return _cell_corners(height, width, cell) + torch.stack([inside % cell, inside // cell], dim=-1)
