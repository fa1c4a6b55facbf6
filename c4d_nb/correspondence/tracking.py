"""Long-term correspondence: points followed through the clip, with visibility, confidence and mobility.

``track_by_flow`` is the weight-free tracker: optical flow chained from frame to frame, in both directions of time.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm import tqdm

from c4d_nb.clip import Tracks
from c4d_nb.correspondence.flow import estimate_flows, sample_map
from c4d_nb.correspondence.queries import Queries
from c4d_nb.errors import InputError
from c4d_nb.motion_mask import MIN_STATIC_POINTS, camera_residual_px
from c4d_nb.pointmaps.scene_graph import sliding_window_graph


def track_by_flow(
    frames: UInt8[Tensor, "t h w 3"], queries: Queries, *, noise: float = 0.002, horizons: tuple[int, ...] = (4, 8)
) -> Tracks:
    """Follow the queries by chaining flow between neighbouring frames, forward and backward in time.

    A track is lost, for good, where the flow fails its forward-backward check or leaves the image: from there on it
    is invisible and keeps its last position. Confidence falls with the distance in frames from the query, as a chain
    drifts. Mobility comes from the track's own epipolar residual against all other tracks (``epipolar_mobility``).
    """
    edges = sliding_window_graph(len(frames), offsets=(1,))
    flows, valid = estimate_flows(frames, edges)
    half = len(frames) - 1
    uv = queries.uv.expand(len(frames), -1, 2).clone()
    visible = torch.zeros(uv.shape[:2], dtype=torch.bool)
    visible[queries.frame, torch.arange(uv.shape[1])] = True
    for n in range(half):
        _step(uv, visible, n, n + 1, queries.frame <= n, flows[n], valid[n])
    for n in range(half, 0, -1):
        _step(uv, visible, n, n - 1, queries.frame >= n, flows[half + n - 1], valid[half + n - 1])
    age = (torch.arange(len(frames))[:, None] - queries.frame).abs()
    diagonal = (frames.shape[1] ** 2 + frames.shape[2] ** 2) ** 0.5
    return Tracks(
        uv=uv,
        visible=visible,
        confidence=visible * torch.exp(-age / 16),
        mobility=epipolar_mobility(uv, visible, tolerance_px=noise * diagonal, horizons=horizons),
        query_frame=queries.frame,
    )


def epipolar_mobility(
    uv: Float[Tensor, "t n 2"], visible: Bool[Tensor, "t n"], *, tolerance_px: float, horizons: tuple[int, ...]
) -> Float[Tensor, "t n"]:
    """Mobility without a network: 1/2 where a track's motion is ``tolerance_px`` from what the camera allows.

    For each horizon and frame, F of all tracks seen in both frames by a robust estimator (the majority is taken to be
    static, which a learned tracker need not assume), and each track's residual r. A track's mobility is r^2 / (r^2 +
    tolerance^2) for the upper quartile of its residuals: one number a track, as Kubric's label is, in all its frames.
    """
    t, n = visible.shape
    residuals = [torch.full((n,), torch.nan)]
    for horizon in horizons:
        for frame in tqdm(range(0, t - horizon, max(1, horizon // 2)), desc="mobility", unit="pair", leave=False):
            both = visible[frame] & visible[frame + horizon]
            if both.sum() < MIN_STATIC_POINTS:
                continue
            uv_1, uv_2 = uv[frame, both], uv[frame + horizon, both]
            row = torch.full((n,), torch.nan)
            try:
                row[both] = camera_residual_px(uv_1, uv_2, uv_1, uv_2, tolerance_px=tolerance_px, method="magsac")
            except InputError:
                continue  # these tracks determine no camera motion
            residuals.append(row)
    typical = torch.stack(residuals).nanquantile(0.75, dim=0).nan_to_num(0.0)
    return (typical**2 / (typical**2 + tolerance_px**2)).expand(t, n).clone()


def _step(uv: Tensor, visible: Tensor, n: int, m: int, started: Tensor, flow: Tensor, valid: Tensor) -> None:
    """Carry the tracks that are under way from frame n to its neighbour m, in place."""
    column, row = uv[n].round().long().unbind(-1)
    inside = (column >= 0) & (row >= 0) & (column < flow.shape[1]) & (row < flow.shape[0])
    safe_row, safe_column = row.clamp(0, flow.shape[0] - 1), column.clamp(0, flow.shape[1] - 1)
    followed = started & visible[n] & inside & valid[safe_row, safe_column]
    moved = uv[n] + sample_map(flow, uv[n])
    uv[m, started] = torch.where(followed[:, None], moved, uv[n])[started]
    visible[m, started] = followed[started]
