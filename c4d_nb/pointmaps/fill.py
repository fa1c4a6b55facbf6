"""Depth where none was measured: holes from their surroundings, movers from the ground they stand on. Guesses, both."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def fill_holes(depth: Float[Tensor, "e h w"], known: Bool[Tensor, "e h w"]) -> Float[Tensor, "e h w"]:
    """Depth where it is not known: inverse depth blended from the known surroundings, nearer ones heavier (pull-push).

    A map without any known depth becomes 1 everywhere.
    """
    weight = known.float()
    levels = [(torch.where(known, 1 / depth, 0.0)[:, None], weight[:, None])]
    while max(levels[-1][0].shape[-2:]) > 1:
        value, weight = (F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in levels[-1])
        levels.append((value, weight))
    value, weight = levels.pop()
    filled = torch.where(weight > 0, value / weight.clamp(min=1e-12), torch.ones_like(value))
    for value, weight in reversed(levels):
        coarse = F.interpolate(filled, size=value.shape[-2:], mode="bilinear", align_corners=False)
        certain = (weight * 4).clamp(max=1)
        filled = certain * value / weight.clamp(min=1e-12) + (1 - certain) * coarse
    return torch.where(known, depth, 1 / filled[:, 0].clamp(min=1e-6))


def stand_on_ground(
    depth: Float[Tensor, "t h w"], moving: Bool[Tensor, "t h w"], measured: Bool[Tensor, "t h w"], *, foot: float = 0.2
) -> Float[Tensor, "t h w"]:
    """Each connected moving region becomes an upright billboard where it touches the ground.

    A mover has no parallax of its own to tell its distance by, but most things stand on something: the region takes the
    median depth of the measured pixels right below the lowest ``foot`` of its height. A region without such pixels,
    one that leaves the image below for instance, stays as it is.
    """
    result = depth.clone()
    for frame, mask in enumerate(moving.numpy().astype(np.uint8)):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        for label in range(1, count):
            region = labels == label
            top, height = stats[label, cv2.CC_STAT_TOP], stats[label, cv2.CC_STAT_HEIGHT]
            below = np.zeros_like(region)
            below[1:] = region[:-1]
            below[: top + int(height * (1 - foot))] = False
            ground = depth[frame][torch.from_numpy(below & (mask == 0)) & measured[frame]]
            if len(ground):
                result[frame][torch.from_numpy(region)] = ground.median()
    return result
