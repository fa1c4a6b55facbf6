"""Motion masks from dual correspondences: epipolar geometry of the static points, tested on every pixel's flow.

Static points come from the tracker (long-term), their matches from optical flow (short-term). Their fundamental matrix
describes the camera alone, so a pixel whose flow violates it moves by itself (main text of C4D, motion mask). ``paper``
is that; ``robust`` keeps what each pair says as evidence and lets pixels that belong together agree (``consensus``).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Tracks
from c4d_nb.consensus import agree, between_two_modes, smooth_within_edges
from c4d_nb.correspondence.flow import sample_map
from c4d_nb.epipolar import (
    FUNDAMENTAL,
    HOMOGRAPHY,
    homography_error,
    least_median,
    least_squares,
    sampson_error,
    spread,
)
from c4d_nb.errors import InputError

MIN_STATIC_POINTS = 15
LEAST_SPREAD_PX = 1e-3
"""Of the static points: within less they determine nothing."""
EXPLAINED = 0.95
"""Of what F explains: a homography that explains as much leaves F undetermined."""
EXPLAINED_EXACTLY, AS_EXACT = 0.88, 3.0
"""Fewer are enough for one whose median error is at most so many times F's: an undetermined F also bends to movers that
are taken for static. (With noise in the second view alone the two medians are 2.5 times apart.)"""
LEAST_NOISE_PX = 0.02
PAIRS_AT_ONCE = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RobustConfig:
    """What ``robust`` adds to the paper's masks; every part can be switched off."""

    homography: bool = True
    """Whether to measure against a homography where that explains the static points as well as F does."""
    checked: bool = True
    """Whether flow that fails its forward-backward check says nothing."""
    noise: float = 3.0
    """The threshold of a pair is at least so many times the robust standard deviation of its static points."""
    appearance: bool = True
    """Whether superpixels that look alike agree on what moves."""
    threshold_range: tuple[float, float] = (0.25, 0.4)
    """Of the evidence, 0 to 1, above which a pixel is dynamic. Within it the threshold parts the clip's two modes."""
    edges: bool = True
    """Whether evidence is smoothed within the edges of the image, at last."""


def fundamental_matrix(
    uv_1: Float[Tensor, "n 2"], uv_2: Float[Tensor, "n 2"], *, method: str = "lmeds"
) -> Float[Tensor, "3 3"]:
    """F of unit Frobenius norm with ``x_2^T F x_1 = 0`` for static matches.

    ``lmeds``: Least Median of Squares, then one 8-point refit on its own inliers (2.5 robust standard deviations),
    which makes it several times more exact on contaminated matches (a test holds it to that). ``magsac``: USAC_MAGSAC
    of OpenCV. ``8point``: all matches. Raises ``InputError`` below 8 matches, for matches that are not finite, or when
    no F can be found.
    """
    for name, uv in (("uv_1", uv_1), ("uv_2", uv_2)):
        if not torch.isfinite(uv).all():
            raise InputError(f"{name}: expected finite pixels, but there is NaN or infinity among them")
    if len(uv_1) < 8:
        raise InputError(f"uv_1: expected at least 8 matches for a fundamental matrix, but there are {len(uv_1)}")
    count = torch.tensor([len(uv_1)], device=uv_1.device)
    found = None
    if min(spread(uv[None], count).min() for uv in (uv_1, uv_2)) > LEAST_SPREAD_PX:
        if method == "lmeds":
            found = least_median(FUNDAMENTAL, uv_1[None], uv_2[None], count)[0]
        elif method == "8point":
            found = least_squares(FUNDAMENTAL, uv_1, uv_2, torch.ones_like(uv_1[:, 0])).to(uv_1)
        elif method == "magsac":
            found = _magsac(uv_1, uv_2)
        else:
            raise InputError(f"method: expected 'lmeds', 'magsac' or '8point', but it is {method!r}")
    if found is None or not torch.isfinite(found).all():
        raise InputError("uv_1: expected matches that determine a fundamental matrix, but they are degenerate")
    return found


@dataclass(frozen=True, eq=False)
class StaticMatches:
    """Static points of each pair's first frame and their matches in the second; the first ``count`` are the pair's."""

    uv_1: Float[Tensor, "e n 2"]
    uv_2: Float[Tensor, "e n 2"]
    count: Int[Tensor, "e"]


def static_matches(
    flows: Float[Tensor, "e h w 2"],
    tracks: Tracks,
    edges: Int[Tensor, "e 2"],
    *,
    believed: Bool[Tensor, "e h w"],
    max_age: int = 4,
    majority: bool = False,
) -> StaticMatches:
    """Tracks visible in n with mobility below one half, queried within the last ``max_age`` frames (the latest
    tracker window), where flow is ``believed``. ``majority``: all such tracks of a pair with fewer than
    ``MIN_STATIC_POINTS`` static ones, in the hope that most of them rest."""
    height, width = flows.shape[1:3]
    found = []
    for flow, sure, n in zip(flows, believed, edges[:, 0].tolist(), strict=True):
        recent = (tracks.query_frame <= n) & (tracks.query_frame > n - max_age) & tracks.visible[n]
        column, row = tracks.uv[n].round().long().unbind(-1)
        recent &= sure[row.clamp(0, height - 1), column.clamp(0, width - 1)]
        static = recent & (tracks.mobility[n] < 0.5)
        if majority and static.sum() < MIN_STATIC_POINTS:
            static = recent
        uv = tracks.uv[n, static].to(flows)
        found.append((uv, uv + sample_map(flow, uv)))
    uv_1, uv_2 = (pad_sequence(list(uv), batch_first=True) for uv in zip(*found, strict=True))
    return StaticMatches(uv_1, uv_2, torch.tensor([len(uv) for uv, _ in found], device=flows.device))


def camera_residuals(
    static: StaticMatches,
    uv_1: Float[Tensor, "e p 2"],
    uv_2: Float[Tensor, "e p 2"],
    *,
    tolerance_px: float,
    homography: bool = True,
) -> Float[Tensor, "e p"]:
    """How far, in px, matches are from what the camera's motion alone, seen at the static ones, allows.

    The root Sampson error of the static matches' fundamental matrix; or, where one homography explains nearly all
    that F explains (a still or purely rotating camera, a flat scene), the distance to it: F is undetermined there,
    and anything would fit one. NaN for pairs with fewer than ``MIN_STATIC_POINTS`` static matches, or in one place.
    """
    usable = (static.count >= MIN_STATIC_POINTS) & (spread(static.uv_1, static.count) > LEAST_SPREAD_PX)
    residual = torch.full(uv_1.shape[:2], torch.nan, dtype=uv_1.dtype, device=uv_1.device)
    kept = usable.nonzero()[:, 0]
    if not len(kept):
        return residual
    own_1, own_2, count = static.uv_1[kept], static.uv_2[kept], static.count[kept]
    own = torch.arange(own_1.shape[1], device=own_1.device) < count[:, None]
    F = least_median(FUNDAMENTAL, own_1, own_2, count)
    flat = torch.zeros_like(count, dtype=torch.bool)
    if homography:
        H = least_median(HOMOGRAPHY, own_1, own_2, count)
        errors = [sampson_error(F, own_1, own_2), homography_error(H, own_1, own_2)]
        by_F, by_H = (((error < tolerance_px**2) & own).sum(dim=1) for error in errors)
        of_F, of_H = (error.sqrt().masked_fill(~own, torch.nan).nanmedian(dim=1).values for error in errors)
        exact = of_H < AS_EXACT * of_F.clamp(min=LEAST_NOISE_PX)
        flat = (by_H > EXPLAINED * by_F) | (exact & (by_H > EXPLAINED_EXACTLY * by_F))
        residual[kept[flat]] = homography_error(H[flat], uv_1[kept[flat]], uv_2[kept[flat]]).sqrt()
    residual[kept[~flat]] = sampson_error(F[~flat], uv_1[kept[~flat]], uv_2[kept[~flat]]).sqrt()
    return residual


def epipolar_motion_masks(
    flows: Float[Tensor, "e h w 2"],
    tracks: Tracks,
    edges: Int[Tensor, "e 2"],
    *,
    method: Literal["paper", "robust"] = "paper",
    frames: UInt8[Tensor, "t h w 3"] | None = None,
    valid: Bool[Tensor, "e h w"] | None = None,
    threshold: float = 0.002,
    votes: int = 1,
    max_age: int = 4,
    robust: RobustConfig = RobustConfig(),
    ego_flows: Float[Tensor, "e h w 2"] | None = None,
) -> Bool[Tensor, "t h w"]:
    """The pixels of each frame that move by themselves.

    ``paper``: for every edge (n, m) the static points of frame n, their matches in m by flow, their fundamental
    matrix, its error at every pixel of n. A pixel is dynamic in the pair above ``threshold`` (of the image diagonal);
    the mask of n is the union over its pairs. With ``votes``, so many pairs must agree instead of one.

    ``robust`` needs the ``frames`` too: see ``RobustConfig``, ``motion_evidence`` and ``consensus``. It also takes
    ``ego_flows``, where depth tells them (``ego_flow.pair_ego_flows``): they show motion along the epipolar line.

    Static points are those of ``static_matches``. ``valid`` marks flow that may be believed (not finite flow never
    is): elsewhere a pair says nothing. A pair with fewer than 15 static points says nothing (``robust`` takes all
    points of such a pair for static); a frame without any pair that says something has an empty mask.
    """
    _check(flows, tracks, edges, frames, valid, ego_flows)
    believed = torch.isfinite(flows).all(dim=-1)
    if valid is not None and (method == "paper" or robust.checked):
        believed &= valid
    common = {"believed": believed, "threshold": threshold, "max_age": max_age}
    if method == "paper":
        dynamic = torch.zeros(len(tracks.uv), *flows.shape[1:3], dtype=torch.int16, device=flows.device)
        for pair in _pair_residuals(flows, tracks, edges, homography=False, **common):
            moves = (pair.px > _px(threshold, flows)) & pair.sure
            dynamic.index_add_(0, edges[pair.edge, 0], moves.to(torch.int16))
        return dynamic >= votes
    if method != "robust":
        raise InputError(f"method: expected 'paper' or 'robust', but it is {method!r}")
    if frames is None:
        raise InputError("frames: expected the clip's frames for method 'robust', but it is None")
    evidence, weight = motion_evidence(flows, tracks, edges, config=robust, ego_flows=ego_flows, **common)
    if robust.appearance:
        evidence = agree(frames, evidence, weight)
    if robust.edges:
        evidence = smooth_within_edges(frames, evidence)
    return evidence > between_two_modes(evidence, *robust.threshold_range)


def motion_evidence(
    flows: Float[Tensor, "e h w 2"],
    tracks: Tracks,
    edges: Int[Tensor, "e 2"],
    *,
    believed: Bool[Tensor, "e h w"],
    threshold: float = 0.002,
    max_age: int = 4,
    config: RobustConfig = RobustConfig(),
    ego_flows: Float[Tensor, "e h w 2"] | None = None,
) -> tuple[Float[Tensor, "t h w"], Float[Tensor, "t h w"]]:
    """(how far each pixel moves by itself, 0 to 1; the share of the frame's pairs that say so or otherwise).

    In a pair it is r^2 / (r^2 + tau^2), one half where the residual r is at the pair's threshold tau; the pixel's is
    the mean over its pairs. Unlike a union a mean does not add up the false alarms of ten pairs, and unlike a vote it
    still tells what is just below the threshold from what rests.

    With ``ego_flows`` a pair's evidence is the larger of that and of the distance of flow from ego-flow, whose
    threshold is held to the noise of the static points in the same way: where depth is poor, it says nothing.
    """
    shape = len(tracks.uv), *flows.shape[1:3]
    total, pairs = torch.zeros(2, *shape, device=flows.device)
    least = _px(threshold, flows)
    options = {"believed": believed, "threshold": threshold, "max_age": max_age, "homography": config.homography}
    for pair in _pair_residuals(flows, tracks, edges, majority=True, **options):
        evidence = _evidence(pair.px, (config.noise * pair.noise_px).clamp(min=least))
        if ego_flows is not None:
            apart = (flows[pair.edge] - ego_flows[pair.edge]).norm(dim=-1)
            at_static = [sample_map(px[..., None], uv)[:, 0] for px, uv in zip(apart, pair.static.uv_1, strict=True)]
            noise = _noise(torch.stack(at_static), pair.static.count)
            evidence = evidence.maximum(_evidence(apart, (config.noise * noise).clamp(min=least)).nan_to_num())
        total.index_add_(0, edges[pair.edge, 0], torch.where(pair.sure, evidence, 0.0))
        pairs.index_add_(0, edges[pair.edge, 0], pair.sure.to(pairs))
    most = torch.zeros(len(tracks.uv), device=flows.device).index_add_(0, edges[:, 0], pairs.new_ones(len(edges)))
    return total / pairs.clamp(min=1), pairs / most.clamp(min=1)[:, None, None]


def _evidence(residual: Float[Tensor, "b h w"], tau: Float[Tensor, "b"]) -> Float[Tensor, "b h w"]:
    squares = residual.square()
    return squares / (squares + tau[:, None, None].square())


def _noise(residual: Float[Tensor, "b n"], count: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Robust standard deviation of the first ``count`` residuals of each pair; those that are NaN do not count."""
    own = torch.arange(residual.shape[1], device=residual.device) < count[:, None]
    return 1.4826 * residual.masked_fill(~own, torch.nan).nanmedian(dim=1).values


@dataclass(frozen=True, eq=False)
class _PairResiduals:
    """Of some pairs that can be used: how far each pixel of the first frame is from what the camera allows."""

    edge: Int[Tensor, "b"]
    static: StaticMatches
    px: Float[Tensor, "b h w"]
    sure: Bool[Tensor, "b h w"]
    """Where the pair says something."""
    noise_px: Float[Tensor, "b"]
    """Of the static points."""


def _pair_residuals(
    flows: Tensor,
    tracks: Tracks,
    edges: Tensor,
    *,
    believed: Tensor,
    threshold: float,
    max_age: int,
    homography: bool,
    majority: bool = False,
) -> Iterator[_PairResiduals]:
    """Some pairs at a time, without those that say nothing."""
    if not len(edges):
        return
    height, width = flows.shape[1:3]
    grid = pixel_grid(height, width, like=flows).reshape(-1, 2)
    unusable = 0
    with tqdm(total=len(edges), desc="motion masks", unit="pair", leave=False) as bar:
        for chosen in torch.arange(len(edges), device=flows.device).split(PAIRS_AT_ONCE):
            flow = flows[chosen].nan_to_num(posinf=0.0, neginf=0.0)
            matched = {"believed": believed[chosen], "max_age": max_age, "majority": majority}
            static = static_matches(flow, tracks, edges[chosen], **matched)
            start = torch.cat([static.uv_1, grid.expand(len(chosen), -1, -1)], dim=1)
            end = torch.cat([static.uv_2, grid + flow.flatten(1, 2)], dim=1)
            residual = camera_residuals(static, start, end, tolerance_px=_px(threshold, flows), homography=homography)
            usable = ~residual[:, -1].isnan()
            bar.update(len(chosen))
            unusable += len(chosen) - int(usable.sum())
            if not usable.any():
                continue
            static = StaticMatches(static.uv_1[usable], static.uv_2[usable], static.count[usable])
            at_static, at_pixels = residual[usable].tensor_split([static.uv_1.shape[1]], dim=1)
            yield _PairResiduals(
                edge=chosen[usable],
                static=static,
                px=at_pixels.unflatten(1, (height, width)),
                sure=believed[chosen[usable]],
                noise_px=_noise(at_static, static.count),
            )
    if unusable:
        _log.warning("%d of %d pairs have too few static points: they say nothing of motion", unusable, len(edges))


def _px(threshold: float, flows: Tensor) -> float:
    return threshold * (flows.shape[1] ** 2 + flows.shape[2] ** 2) ** 0.5


def _magsac(uv_1: Tensor, uv_2: Tensor) -> Tensor | None:
    cv2.setRNGSeed(0)
    points = (uv.double().cpu().numpy() for uv in (uv_1, uv_2))
    found, _ = cv2.findFundamentalMat(*points, cv2.USAC_MAGSAC, 1.0, 0.99, 1000)
    return None if found is None else torch.from_numpy(found[:3] / np.linalg.norm(found[:3])).to(uv_1)


def _check(
    flows: Tensor,
    tracks: Tracks,
    edges: Tensor,
    frames: Tensor | None,
    valid: Tensor | None,
    ego_flows: Tensor | None,
) -> None:
    t, size = len(tracks.uv), tuple(flows.shape[1:3])
    if len(edges) != len(flows):
        raise InputError(f"edges: expected one for each of {len(flows)} flows, but there are {len(edges)}")
    if len(edges) and not (int(edges.min()) >= 0 and int(edges.max()) < t):
        raise InputError(f"edges: expected frames 0 to {t - 1}, those of the tracks, but they go to {int(edges.max())}")
    if frames is not None and tuple(frames.shape[:3]) != (t, *size):
        raise InputError(
            f"frames: expected {(t, *size)} pixels, as flow and tracks have, but it is {tuple(frames.shape)}"
        )
    if valid is not None and valid.shape != flows.shape[:3]:
        raise InputError(f"valid: expected {tuple(flows.shape[:3])}, as flow has, but it is {tuple(valid.shape)}")
    if ego_flows is not None and ego_flows.shape != flows.shape:
        raise InputError(f"ego_flows: expected {tuple(flows.shape)}, as flow has, but it is {tuple(ego_flows.shape)}")
