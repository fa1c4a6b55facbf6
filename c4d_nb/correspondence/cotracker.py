"""A tracker of another project in this pipeline: CoTracker3 (Karaev et al., 2024), its mobility from our residual.

Its code and weights, CC BY-NC 4.0 (non-commercial use only), are no part of this package: torch.hub downloads both when
they are asked for. Any model that is called as CoTracker3's offline predictor is can take its place.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from c4d_nb.clip import Tracks
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.tracking import Tracker
from c4d_nb.errors import InputError
from c4d_nb.mobility import epipolar_mobility

HUB = "facebookresearch/co-tracker", "cotracker3_offline"
POINTS_AT_ONCE = 1024
"""Points are refined together: more help each other, and take more memory."""


def load_cotracker(device: str | torch.device = "cuda") -> torch.nn.Module:
    """CoTracker3's offline predictor. Raises ``InputError`` if it cannot be had."""
    try:
        return torch.hub.load(*HUB, trust_repo=True).to(device).eval()
    except Exception as error:  # of the network, of the downloaded code, of what that imports
        raise InputError(
            f"model: expected {HUB[1]} of github.com/{HUB[0]} by torch.hub, but it cannot be had "
            f"({type(error).__name__}: {error})"
        ) from error


def cotracker(
    model: Callable[..., tuple[Tensor, Tensor]],
    *,
    device: str | torch.device = "cpu",
    noise: float = 0.002,
    horizons: tuple[int, ...] = (4, 8),
) -> Tracker:
    """A tracker for ``reconstruct`` of a model called as ``model(video, queries=queries)``.

    It gets the video (1,t,3,h,w), float, 0 to 255, and queries (1,n,3) of (frame, x, y), in px with integers at pixel
    centres; it answers with tracks (1,t,n,2) and visibility (1,t,n), yes or no or a probability, which here is the
    confidence as well. It cannot tell what moves: mobility is ``epipolar_mobility``, whose ``noise`` is a share of the
    image diagonal. In the frame of its query a point is where it was asked for, and visible.
    """

    def follow(frames: UInt8[Tensor, "t h w 3"], queries: Queries) -> Tracks:
        video = rearrange(frames, "t h w c -> 1 t c h w").to(device, torch.float32)
        asked = torch.cat([queries.frame[:, None], queries.uv], dim=1)[None].to(device, torch.float32)
        with torch.no_grad():
            found = [model(video, queries=part) for part in asked.split(POINTS_AT_ONCE, dim=1)]
        uv, seen = (torch.cat(parts, dim=2)[0].float().cpu() for parts in zip(*found, strict=True))
        index = torch.arange(len(queries.frame))
        uv[queries.frame, index], seen[queries.frame, index] = queries.uv.float(), 1.0
        visible = seen > 0.5
        tolerance_px = noise * (frames.shape[1] ** 2 + frames.shape[2] ** 2) ** 0.5
        mobility = epipolar_mobility(uv, visible, tolerance_px=tolerance_px, horizons=horizons)
        return Tracks(uv, visible, seen, mobility, queries.frame)

    return follow
