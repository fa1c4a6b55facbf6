"""Long-term correspondence: points followed through the clip, with visibility, confidence and mobility.

``track`` runs DynPT in a sliding window; ``track_by_flow`` is the weight-free tracker: optical flow chained from frame
to frame, in both directions of time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm import tqdm

from c4d_nb.clip import Clip, Tracks
from c4d_nb.correspondence.anchoring import anchor
from c4d_nb.correspondence.dynpt import DynPT, TrackState, first_logits
from c4d_nb.correspondence.flow import estimate_flows, sample_map
from c4d_nb.correspondence.local_correlation import FeaturePyramid
from c4d_nb.correspondence.losses import NEAR_PX
from c4d_nb.correspondence.queries import Queries, check_queries, clip_queries
from c4d_nb.errors import InputError
from c4d_nb.mobility import DYNAMIC_SHARE, epipolar_mobility
from c4d_nb.pointmaps.inference import network_images
from c4d_nb.resize import Resize, shrink, target_size

Tracker = Callable[[UInt8[Tensor, "t h w 3"], Queries], Tracks]
"""What ``reconstruct`` asks of any tracker: the queries, in their order, followed through the frames."""
PAIRS_AT_ONCE = 32
"""Whose flow is in memory."""
POINTS_AT_ONCE = 2048
"""More are followed in groups, each on its own, so that memory stays within bounds."""


def track(
    clip: Clip, queries: Queries | None = None, *, model: DynPT, window: int = 16, stride: int = 4, seed: int = 0
) -> Tracks:
    """Follow the queries with DynPT, both ways in time; by default grid queries in every ``stride``-th frame.

    A point's first window is the earliest that has its query's frame in it. From there windows go forward to the end of
    the clip, and backward to its beginning. Each begins with the positions that the one before it left, in new frames
    with the last of these; where windows overlap the later word counts.

    A network that was trained on starts by flow begins with those of ``chain_flow``, and they keep a say: where flow
    still follows a point and the network agrees to within 12 px of its own frames, the position is flow's, which is the
    finest there is. All others are anchored (``anchor``): drawn to where the patch around the query is found again in
    the full frames. A point is visible where two of three witnesses have it: flow, the network, the patch; for want of
    flow the network alone decides. In the frame of its query it is where it was asked for, and visible. C4D,
    supplement: windows of 16 frames, a stride of 4.

    Mobility is one number a track, as Kubric's label is, in all its frames: of the mean logit of all windows over
    frames that show the point, for what the network says while it is hidden is worth little. The loss balances the
    classes, as if half of all points moved; ``DYNAMIC_SHARE`` puts that right.

    Each sweep encodes a frame when the first window reaches it and forgets it behind the last: but for the result and
    the video in grey, memory grows with points x window. Raises ``InputError`` for queries outside the clip and windows
    without overlap.
    """
    if window < 2:
        raise InputError(f"window: expected 2 frames or more, but it is {window}")
    if not 1 <= stride < window:
        raise InputError(f"stride: expected 1 to {window - 1}, less than the window, but it is {stride}")
    if queries is None:
        queries = clip_queries(clip.frames, every=stride, generator=torch.Generator().manual_seed(seed))
    check_queries(queries, len(clip), clip.size)
    resize = Resize(*clip.size, *target_size(*clip.size, model.config.long_side))
    spans = window_spans(len(clip), window=window, stride=stride)
    stops = torch.tensor([span.stop for span in spans])
    first = torch.searchsorted(stops, queries.frame, right=True)
    groups = torch.arange(len(first)).chunk(-(-len(first) // POINTS_AT_ONCE))
    sweep = _Sweep(model, clip, queries, resize)
    back = int(first.max())
    with torch.inference_mode(), tqdm(total=len(spans) + back, desc="tracking", unit="window") as bar:
        for number, pyramid in enumerate(sweep.pyramids(spans)):
            sweep.take_features(pyramid, spans[number], (first == number).nonzero()[:, 0])
            for group in groups:
                sweep.refine(pyramid, spans[number], group[first[group] <= number])
            bar.update()
        before = range(back - 1, -1, -1)
        for number, pyramid in zip(before, sweep.pyramids([spans[i] for i in before]), strict=True):
            for group in groups:
                sweep.refine(pyramid, spans[number], group[first[group] > number])
            bar.update()
    return sweep.tracks()


def dynpt_tracker(model: DynPT) -> Tracker:
    """DynPT as ``reconstruct`` takes it."""
    return lambda frames, queries: track(Clip(frames, fps=1.0), queries, model=model)


def window_spans(frames: int, *, window: int, stride: int) -> list[slice]:
    """Windows of a clip, ``stride`` frames apart; the last one ends with the clip."""
    last = max(0, frames - window)
    starts = sorted({*range(0, last, stride), last})
    return [slice(start, min(start + window, frames)) for start in starts]


class _Sweep:
    """What is known of all points while windows go over a clip, in the network's pixels."""

    def __init__(self, model: DynPT, clip: Clip, queries: Queries, resize: Resize) -> None:
        self.model, self.frames, self.queries, self.resize = model, clip.frames, queries, resize
        self.device = next(model.parameters()).device
        config, count = model.config, len(queries.frame)
        uv = queries.uv.float().expand(len(clip), -1, -1)
        self.known = queries.frame.expand(2, -1).clone()
        """The first and the last frame in which each point's position is known."""
        self.seen = torch.zeros(len(clip), count)
        """Logits of visibility that every window begins with."""
        self.flowed = self.followed = None
        if config.flow_start:
            uv, self.followed = chain_flow(clip.frames, queries)
            self.flowed = resize.uv_from_original(uv)
            self.known[0], self.known[1] = 0, len(clip) - 1
            self.seen = first_logits(self.followed)
        uv = resize.uv_from_original(uv).clone()
        self.state = TrackState(uv, *torch.zeros(3, len(clip), count))
        """The latest word on positions, visibility and confidence, and the sum of all words on mobility."""
        self.words = torch.zeros(len(clip), count)
        """How many these are."""
        shape = (1, count, (2 * config.radius + 1) ** 2, config.channels)
        self.features = [torch.zeros(shape, device=self.device) for _ in range(config.levels)]

    def pyramids(self, spans: Sequence[slice]) -> Iterator[FeaturePyramid]:
        """Features of window after window; of frames that the one before had too, its own."""
        before, pyramid = slice(0, 0), None
        for span in spans:
            shared = slice(max(span.start, before.start), min(span.stop, before.stop))
            if shared.start >= shared.stop:
                pyramid = self._encode(span)
            else:
                parts = [pyramid.window(shared.start - before.start, shared.stop - before.start)]
                if span.start < shared.start:
                    parts.insert(0, self._encode(slice(span.start, shared.start)))
                if shared.stop < span.stop:
                    parts.append(self._encode(slice(shared.stop, span.stop)))
                levels = zip(*(part.levels for part in parts), strict=True)
                pyramid = FeaturePyramid(tuple(torch.cat(level, dim=1) for level in levels), pyramid.size)
            before = span
            yield pyramid

    def take_features(self, pyramid: FeaturePyramid, span: slice, points: Tensor) -> None:
        """Those around the queries of ``points``, whose frames are in this window."""
        if not len(points):
            return
        frame = self.queries.frame[points]
        asked = torch.cat([(frame - span.start)[:, None].float(), self.state.uv[frame, points]], dim=1)
        asked[:, 1:] = asked[:, 1:].clamp(min=-0.5).minimum(torch.tensor(pyramid.size[::-1]) - 0.5)  # of rounding
        found = self.model.query_features(pyramid, asked[None].to(self.device))
        for known, level in zip(self.features, found, strict=True):
            known[:, points.to(self.device)] = level

    def refine(self, pyramid: FeaturePyramid, span: slice, points: Tensor) -> None:
        """The network's word on ``points`` in one window. It begins with the nearest positions that are known."""
        if not len(points):
            return
        nearest = torch.arange(span.start, span.stop)[:, None].clamp(*self.known[:, points])
        uv = self.state.uv[nearest, points][None].to(self.device)
        unknown = torch.zeros_like(uv[..., 0])
        begin = TrackState(uv, self.seen[span][:, points][None].to(self.device), unknown, unknown)
        features = tuple(level[:, points.to(self.device)] for level in self.features)
        found = self.model.refine(pyramid, features, begin)[-1]
        found = found._replace(mobility=found.mobility + self.state.mobility[span][:, points].to(self.device))
        for known, new in zip(self.state, found, strict=True):
            known[span.start : span.stop, points] = new[0].float().cpu()
        self.words[span.start : span.stop, points] += 1
        self.known[0, points] = self.known[0, points].clamp(max=span.start)
        self.known[1, points] = self.known[1, points].clamp(min=span.stop - 1)

    def tracks(self) -> Tracks:
        """The result, in the clip's pixels."""
        uv, visible = self.state.uv, self.state.visibility > 0
        if self.flowed is None:
            uv, _ = anchor(self.frames, self.queries, self.resize.uv_to_original(uv))
        else:
            agree = self.followed & ((uv - self.flowed).norm(dim=-1) < NEAR_PX)
            uv = self.resize.uv_to_original(torch.where(agree[..., None], self.flowed, uv))
            anchored, found = anchor(self.frames, self.queries, uv)
            uv = torch.where(agree[..., None], uv, anchored)
            visible = (visible & self.followed) | (visible & found) | (self.followed & found)
        visible[self.queries.frame, torch.arange(len(self.queries.frame))] = True
        logit = (visible * self.state.mobility).sum(dim=0) / (visible * self.words).sum(dim=0)
        mobility = (logit + math.log(DYNAMIC_SHARE / (1 - DYNAMIC_SHARE))).sigmoid()
        confidence = self.state.confidence.sigmoid()
        return Tracks(uv, visible, confidence, mobility.expand(len(uv), -1).clone(), self.queries.frame)

    def _encode(self, span: slice) -> FeaturePyramid:
        size = self.resize.height, self.resize.width
        small = np.stack([shrink(frame.numpy(), *size) for frame in self.frames[span]])
        return self.model.encode(network_images(torch.from_numpy(small))[None].to(self.device))


def track_by_flow(
    frames: UInt8[Tensor, "t h w 3"], queries: Queries, *, noise: float = 0.002, horizons: tuple[int, ...] = (4, 8)
) -> Tracks:
    """Follow the queries by chaining flow between neighbouring frames, forward and backward in time.

    A track is lost, for good, where the flow fails its forward-backward check or leaves the image: from there on it
    is invisible and keeps its last position. Confidence falls with the distance in frames from the query, as a chain
    drifts. Mobility comes from the track's own epipolar residual against all other tracks (``epipolar_mobility``).
    """
    uv, visible = chain_flow(frames, queries)
    age = (torch.arange(len(frames))[:, None] - queries.frame).abs()
    diagonal = (frames.shape[1] ** 2 + frames.shape[2] ** 2) ** 0.5
    return Tracks(
        uv=uv,
        visible=visible,
        confidence=visible * torch.exp(-age / 16),
        mobility=epipolar_mobility(uv, visible, tolerance_px=noise * diagonal, horizons=horizons),
        query_frame=queries.frame,
    )


def chain_flow(
    frames: UInt8[Tensor, "t h w 3"], queries: Queries
) -> tuple[Float[Tensor, "t n 2"], Bool[Tensor, "t n"]]:
    """(uv, visible) of the queries, carried by flow from frame to frame, forward and backward in time."""
    uv = queries.uv.float().expand(len(frames), -1, 2).clone()
    visible = torch.zeros(uv.shape[:2], dtype=torch.bool)
    visible[queries.frame, torch.arange(uv.shape[1])] = True

    @lru_cache(maxsize=1)  # of the last block, with which the way back begins
    def steps(block: range) -> list[tuple[Tensor, Tensor]]:
        return _neighbor_flows(frames[block.start : block.stop + 1])

    last = len(frames) - 1
    blocks = [range(start, min(start + PAIRS_AT_ONCE, last)) for start in range(0, last, PAIRS_AT_ONCE)]
    for block in blocks:
        for n, (flow, valid) in zip(block, steps(block)[: len(block)], strict=True):
            _step(uv, visible, n, n + 1, queries.frame <= n, flow, valid)
    for block in reversed(blocks):
        for n, (flow, valid) in zip(reversed(block), reversed(steps(block)[len(block) :]), strict=True):
            _step(uv, visible, n + 1, n, queries.frame > n, flow, valid)
    return uv, visible


def _neighbor_flows(frames: UInt8[Tensor, "t h w 3"]) -> list[tuple[Tensor, Tensor]]:
    """(flow, where it passes the forward-backward check) from each frame to the next, then from the next to each."""
    first = torch.arange(len(frames) - 1)
    pairs = torch.stack([first, first + 1], dim=1)
    return list(zip(*estimate_flows(frames, torch.cat([pairs, pairs.flip(1)]), progress=False), strict=True))


def _step(uv: Tensor, visible: Tensor, n: int, m: int, started: Tensor, flow: Tensor, valid: Tensor) -> None:
    """Carry the tracks that are under way from frame n to its neighbour m, in place."""
    column, row = uv[n].round().long().unbind(-1)
    inside = (column >= 0) & (row >= 0) & (column < flow.shape[1]) & (row < flow.shape[0])
    safe_row, safe_column = row.clamp(0, flow.shape[0] - 1), column.clamp(0, flow.shape[1] - 1)
    followed = started & visible[n] & inside & valid[safe_row, safe_column]
    moved = uv[n] + sample_map(flow, uv[n])
    uv[m, started] = torch.where(followed[:, None], moved, uv[n])[started]
    visible[m, started] = followed[started]
