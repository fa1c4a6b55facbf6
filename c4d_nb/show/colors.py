"""Colours for fields: flow by direction and length, a segmentation by object, the outline of what moves."""

import cv2
import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.colors import hsv_to_rgb, to_rgb
from torch import Tensor

from c4d_nb.camera import pixel_grid
from c4d_nb.show.figures import DYNAMIC_COLOR

BACKGROUND_GRAY = 205
UNKNOWN_GRAY = 90


def flow_image(flow: Float[Tensor, "*b h w 2"], max_px: float) -> UInt8[Tensor, "*b h w 3"]:
    """Flow as colour: direction is the hue, length the saturation, full at ``max_px``; no motion is white.

    Unknown flow (NaN) is dark grey.
    """
    u, v = flow.double().unbind(dim=-1)
    hue = torch.atan2(v, u) / (2 * torch.pi) % 1.0
    saturation = (torch.hypot(u, v) / max_px).clamp(max=1.0)
    hsv = torch.stack([hue, saturation, torch.ones_like(hue)], dim=-1)
    rgb = torch.from_numpy(hsv_to_rgb(hsv.nan_to_num().numpy()) * 255)
    unknown = flow.isnan().any(dim=-1, keepdim=True)
    return torch.where(unknown, UNKNOWN_GRAY, rgb.round()).to(torch.uint8)


def flow_wheel(side: int = 65) -> UInt8[Tensor, "side side 4"]:
    """The key of ``flow_image``: the colour at a place, seen from the middle, is that of flow that way; RGBA."""
    reach = (side - 1) / 2
    away = pixel_grid(side, side) / reach - 1
    opaque = (away.norm(dim=-1, keepdim=True) <= 1) * 255
    return torch.cat([flow_image(away, 1.0), opaque.to(torch.uint8)], dim=-1)


def segment_image(segmentation: Int[Tensor, "*b h w"]) -> UInt8[Tensor, "*b h w 3"]:
    """A colour an object, twenty of them before they repeat; the background is light grey."""
    colors = np.array(matplotlib.colormaps["tab20"].colors) * 255
    palette = torch.cat([torch.full((1, 3), BACKGROUND_GRAY), torch.from_numpy(colors.round())]).to(torch.uint8)
    return palette[torch.where(segmentation > 0, (segmentation - 1) % len(colors) + 1, 0)]


def outline_image(frame: UInt8[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]) -> UInt8[Tensor, "h w 3"]:
    """The frame with an outline, two pixels wide, around what is dynamic."""
    inside = mask.numpy().astype(np.uint8)
    border = torch.from_numpy(cv2.dilate(inside, np.ones((5, 5), np.uint8)) > inside)
    color = (255 * torch.tensor(to_rgb(DYNAMIC_COLOR))).round().to(torch.uint8)
    return torch.where(border[..., None], color, frame)
