"""Pair pointmaps of a clip by a network: every frame is encoded once, every pair is decoded from the stored tokens."""

import logging

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import PairPointmaps
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.grid import PixelGrid

STORED = torch.float16
"""Depth to one part in 2,000, far below what a network knows of it."""

_log = logging.getLogger(__name__)


def predict_pointmaps(
    model: DUSt3R,
    frames: UInt8[Tensor, "t h w 3"],
    edges: Int[Tensor, "e 2"],
    *,
    batch_size: int = 8,
    at: Int[Tensor, "gh gw 2"] | None = None,
) -> PairPointmaps:
    """Both pointmaps of every edge, on the CPU in half precision, computed where the model is.

    DUSt3R's own code encodes both frames of every pair; here each of the t frames is encoded once, in batches of
    ``batch_size`` frames, and pairs are decoded ``batch_size`` at a time. Both directions of a pair are decoded in one
    batch where ``edges`` lists them together. Of the maps all pixels are kept or, of each, those ``at`` (x, y). How
    much memory the result takes is logged before the work begins.

    Raises ``InputError`` for frames whose sides are no multiples of the model's patch, or edges beyond the frames.
    """
    _check(model, frames, edges, batch_size)
    height, width = frames.shape[1:3]
    kept = (height, width) if at is None else tuple(at.shape[:2])
    size_mb = len(edges) * kept[0] * kept[1] * 8 * STORED.itemsize / 1e6
    _log.info("pointmaps of %d pairs of %dx%d px take %.0f MB", len(edges), kept[1], kept[0], size_mb)
    maps = [torch.empty(len(edges), *kept, *c, dtype=STORED) for c in ((3,), (3,), (), ())]
    order, limits = _directions_together(edges), torch.finfo(STORED)
    with torch.inference_mode():
        tokens = encode_frames(model, frames, batch_size=batch_size)
        for batch in tqdm(order.split(batch_size), desc="pointmaps", unit="batch", leave=False):
            n, m = edges[batch].unbind(-1)
            decoded = model.decode(tokens[n], tokens[m], (height, width))
            parts = decoded.xyz_1, decoded.xyz_2, decoded.conf_1, decoded.conf_2
            for stored, part in zip(maps, parts, strict=True):
                if at is not None:
                    part = part[:, at[..., 1], at[..., 0]]
                stored[batch] = part.clamp(limits.min, limits.max).to(STORED).cpu()
    return PairPointmaps(edges, *maps)


def pointmaps_on_grid(
    model: DUSt3R, frames: UInt8[Tensor, "t h w 3"], edges: Int[Tensor, "e 2"], grid: PixelGrid
) -> PairPointmaps:
    """Pointmaps at the pixels of a ``grid`` of frames of any size, in single precision.

    The network sees the frames at the size it was trained on, both sides a multiple of its patch. Each pixel of the
    grid takes the nearest of its answers, for a mean over an outline would be a point in the air.
    """
    patch = model.config.patch
    height, width = (
        max(1, round(side * model.config.long_side / max(grid.height, grid.width) / patch)) * patch
        for side in (grid.height, grid.width)
    )
    seen = torch.stack([torch.from_numpy(_resized(frame.numpy(), height, width)) for frame in frames])
    scale = torch.tensor([width / grid.width, height / grid.height])
    uv = grid.sample(pixel_grid(grid.height, grid.width)[None])[0]
    at = ((uv + 0.5) * scale - 0.5).round().long().clamp(min=0)
    at = torch.minimum(at, torch.tensor([width - 1, height - 1]))
    found = predict_pointmaps(model, seen, edges, at=at)
    return PairPointmaps(edges, *(x.float() for x in (found.xyz_1, found.xyz_2, found.conf_1, found.conf_2)))


def encode_frames(
    model: DUSt3R, frames: UInt8[Tensor, "t h w 3"], *, batch_size: int = 8
) -> Float[Tensor, "t tokens c"]:
    """The encoder's tokens of every frame, where the model is."""
    weight = next(model.parameters())
    batches = frames.split(batch_size)
    return torch.cat([model.encode(network_images(batch).to(weight)) for batch in batches])


def network_images(frames: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Frames as DUSt3R takes them: RGB in [-1, 1], channels first."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    smaller = height * width < frame.shape[0] * frame.shape[1]
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _directions_together(edges: Int[Tensor, "e 2"]) -> Int[Tensor, "e"]:
    """The numbers of all edges, sorted so that (n, m) and (m, n) are neighbours."""
    low, high = edges.min(dim=1).values, edges.max(dim=1).values
    return torch.argsort(low * (int(edges.max()) + 1) + high, stable=True)


def _check(model: DUSt3R, frames: Tensor, edges: Tensor, batch_size: int) -> None:
    patch = model.config.patch
    if frames.shape[1] % patch or frames.shape[2] % patch:
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        raise InputError(f"frames: expected sides that are multiples of {patch} px, but they are {size}")
    if not len(edges) or int(edges.min()) < 0 or int(edges.max()) >= len(frames):
        raise InputError(f"edges: expected pairs of the {len(frames)} frames, but they are {edges.tolist()[:3]} ...")
    if batch_size < 1:
        raise InputError(f"batch_size: expected 1 or more, but it is {batch_size}")
