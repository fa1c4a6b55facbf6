"""y-t slices quickly enough to drag the column: plain images, no axes. ``figures.time_slice`` is the still picture."""

import cv2
import matplotlib
import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.colors import to_rgb
from torch import Tensor

from c4d_nb.errors import InputError
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.figures import DYNAMIC_COLOR, depth_range

GAP_PX = 6


def depth_image(result: Reconstruction) -> UInt8[Tensor, "t h w 3"]:
    """Depth in colours, near is red, all frames on one scale."""
    near, far = depth_range(result.depth)
    share = ((result.depth - near) / (far - near)).clamp(0, 1).nan_to_num()
    return _colors()[(255 * share).round().long()]


def slice_image(
    result: Reconstruction, depth: UInt8[Tensor, "t h w 3"], column: int, *, width_px: int = 320
) -> UInt8[Tensor, "v u 3"]:
    """The middle frame with the column marked, that column's colours over time, and its depth over time, side by side;
    each ``width_px`` wide. ``depth`` is of ``depth_image``: made once, for all columns."""
    t, height, width = result.depth.shape
    if not 0 <= column < width:
        raise InputError(f"column: expected 0 to {width - 1}, but it is {column}")
    panels = [result.clip.frames[t // 2]]
    panels += [frames[:, :, column].transpose(0, 1) for frames in (result.clip.frames, depth)]
    size = (width_px, round(width_px * height / width))
    large = [cv2.resize(np.ascontiguousarray(p.numpy()), size, interpolation=cv2.INTER_NEAREST) for p in panels]
    u = round((column + 0.5) * width_px / width - 0.5)
    cv2.line(large[0], (u, 0), (u, size[1]), tuple(255 * level for level in to_rgb(DYNAMIC_COLOR)), thickness=2)
    gap = np.full((size[1], GAP_PX, 3), 255, np.uint8)
    return torch.from_numpy(np.concatenate([large[0], gap, large[1], gap, large[2]], axis=1))


def _colors() -> UInt8[Tensor, "256 3"]:
    return torch.from_numpy((255 * matplotlib.colormaps["turbo_r"](np.arange(256))[:, :3]).round().astype(np.uint8))
