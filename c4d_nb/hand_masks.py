"""Motion masks by hand: outlines drawn in a few frames, which move evenly in between."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from c4d_nb.errors import InputError

_SUBPIXEL_BITS = 4


def polygon_masks(
    corners: Mapping[int, Sequence[tuple[float, float]]], *, frames: int, size: tuple[int, int]
) -> Bool[Tensor, "t h w"]:
    """Masks of one outline in ``frames`` frames of ``size`` (height, width).

    ``corners`` are of some frames: (u, v) in px, always as many and in the same order. Between two such frames each
    corner moves evenly; before the first and after the last it stands. Several movers are several masks, joined by
    ``|``. Raises ``InputError`` for corners that are no outline, or of frames that are not there.
    """
    counts = {len(outline) for outline in corners.values()}
    if len(counts) != 1 or min(counts) < 3:
        raise InputError(f"corners: expected outlines of 3 corners or more, always as many, but they have {counts}")
    outside = [frame for frame in corners if not 0 <= frame < frames]
    if outside:
        raise InputError(f"corners: expected frames from 0 to {frames - 1}, but there is {outside[0]}")
    drawn = sorted(corners)
    known = np.array([corners[frame] for frame in drawn], dtype=np.float64).reshape(len(drawn), -1)
    if not np.isfinite(known).all():
        raise InputError("corners: expected finite numbers, but there is NaN or infinity among them")
    time = np.arange(frames)
    path = np.stack([np.interp(time, drawn, values) for values in known.T], axis=1).reshape(frames, -1, 2)
    return torch.from_numpy(np.stack([_filled(outline, size) for outline in path]))


def _filled(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    points = np.round(outline * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(mask, [points], 1, shift=_SUBPIXEL_BITS)
    return mask.astype(bool)
