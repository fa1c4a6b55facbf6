"""Motion masks from dual correspondences: epipolar geometry of the static points, tested on every pixel's flow.

Static points come from the tracker (long-term), their matches from optical flow (short-term). Their fundamental matrix
describes the camera alone, so a pixel whose flow violates it moves by itself (main text of C4D, motion mask).
"""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Tracks
from c4d_nb.correspondence.flow import sample_map
from c4d_nb.errors import InputError

MIN_STATIC_POINTS = 15
_METHODS = {"lmeds": cv2.FM_LMEDS, "magsac": cv2.USAC_MAGSAC}


def fundamental_matrix(
    uv_1: Float[Tensor, "n 2"], uv_2: Float[Tensor, "n 2"], *, method: str = "lmeds"
) -> Float[Tensor, "3 3"]:
    """F of unit Frobenius norm with ``x_2^T F x_1 = 0`` for static matches.

    ``lmeds``: Least Median of Squares, then one 8-point refit on its own inliers (2.5 robust standard deviations),
    which makes it several times more exact on contaminated matches (a test holds it to that). ``magsac``: USAC_MAGSAC.
    ``8point``: all matches. Raises ``InputError`` below 8 matches or when no F can be found.
    """
    if len(uv_1) < 8:
        raise InputError(f"uv_1: expected at least 8 matches for a fundamental matrix, but there are {len(uv_1)}")
    points_1, points_2 = uv_1.double().cpu().numpy(), uv_2.double().cpu().numpy()
    if method == "8point":
        found = _eight_point(points_1, points_2)
    elif method in _METHODS:
        cv2.setRNGSeed(0)
        found, inliers = cv2.findFundamentalMat(points_1, points_2, _METHODS[method], 1.0, 0.99, 1000)
        if found is not None and method == "lmeds":
            inliers = inliers[:, 0] > 0
            found = _eight_point(points_1[inliers], points_2[inliers]) if inliers.sum() >= 8 else found[:3]
    else:
        raise InputError(f"method: expected 'lmeds', 'magsac' or '8point', but it is {method!r}")
    if found is None or not np.isfinite(found).all():
        raise InputError("uv_1: expected matches that determine a fundamental matrix, but they are degenerate")
    return torch.from_numpy(found[:3] / np.linalg.norm(found[:3])).to(uv_1)


def sampson_error(
    F: Float[Tensor, "*b 3 3"], uv_1: Float[Tensor, "*b n 2"], uv_2: Float[Tensor, "*b n 2"]
) -> Float[Tensor, "*b n"]:
    """First-order squared distance of a match to the epipolar constraint, in px^2 (Hartley and Zisserman, 11.4.3)."""
    x_1 = torch.cat([uv_1, torch.ones_like(uv_1[..., :1])], dim=-1)
    x_2 = torch.cat([uv_2, torch.ones_like(uv_2[..., :1])], dim=-1)
    line_2, line_1 = x_1 @ F.mT, x_2 @ F
    algebraic = (x_2 * line_2).sum(-1)
    gradient = line_2[..., :2].square().sum(-1) + line_1[..., :2].square().sum(-1)
    return algebraic.square() / gradient.clamp(min=1e-12)


def homography_error(
    H: Float[Tensor, "3 3"], uv_1: Float[Tensor, "n 2"], uv_2: Float[Tensor, "n 2"]
) -> Float[Tensor, "n"]:
    """Squared transfer distance |x_2 - H x_1|^2, in px^2."""
    mapped = torch.cat([uv_1, torch.ones_like(uv_1[..., :1])], dim=-1) @ H.mT
    return (uv_2 - mapped[..., :2] / mapped[..., 2:]).square().sum(-1)


def camera_residual_px(
    static_1: Float[Tensor, "n 2"],
    static_2: Float[Tensor, "n 2"],
    uv_1: Float[Tensor, "p 2"],
    uv_2: Float[Tensor, "p 2"],
    *,
    tolerance_px: float,
    method: str = "lmeds",
) -> Float[Tensor, "p"]:
    """How far, in px, matches are from what the camera's motion alone, seen at the static matches, allows.

    The root Sampson error of the static matches' fundamental matrix; or, where one homography explains nearly all
    that F explains (a still or purely rotating camera, a flat scene), the distance to it: F is undetermined there,
    and anything would fit one.
    """
    H = _homography(static_1, static_2, tolerance_px)
    try:
        F = fundamental_matrix(static_1, static_2, method=method)
    except InputError:
        if H is None:
            raise
        return homography_error(H, uv_1, uv_2).sqrt()  # matches that do not move determine no F at all
    if H is not None:
        explained_by_F = (sampson_error(F, static_1, static_2) < tolerance_px**2).float().mean()
        explained_by_H = (homography_error(H, static_1, static_2) < tolerance_px**2).float().mean()
        if explained_by_H > 0.95 * explained_by_F:
            return homography_error(H, uv_1, uv_2).sqrt()
    return sampson_error(F, uv_1, uv_2).sqrt()


def epipolar_motion_masks(
    flows: Float[Tensor, "e h w 2"],
    tracks: Tracks,
    edges: Int[Tensor, "e 2"],
    *,
    valid: Bool[Tensor, "e h w"] | None = None,
    threshold: float = 0.002,
    votes: float = 0.0,
    max_age: int = 4,
    method: str = "lmeds",
) -> Bool[Tensor, "t h w"]:
    """The pixels of each frame that move by themselves.

    For every edge (n, m): the static points of frame n, their matches in m by flow, their fundamental matrix, its
    error at every pixel of n. A pixel is dynamic in the pair above ``threshold`` (of the image diagonal); the mask of
    n is the union over its pairs. ``votes`` asks for more than a union: the share of a pixel's pairs that must agree.

    Static points are tracks visible in n with mobility below one half, queried within the last ``max_age`` frames
    (the latest tracker window). ``valid`` marks flow that may be believed: elsewhere a pair says nothing. A pair with
    fewer than 15 static points, or whose points determine no camera motion, is left out; a frame without any usable
    pair has an empty mask.
    """
    t = len(tracks.uv)
    height, width = flows.shape[1:3]
    threshold_px = threshold * (height**2 + width**2) ** 0.5
    grid = pixel_grid(height, width, like=flows).reshape(-1, 2)
    dynamic, pairs = torch.zeros(2, t, height * width)
    for i, (n, _) in enumerate(tqdm(edges.tolist(), desc="motion masks", unit="pair", leave=False)):
        believed = torch.ones(height * width, dtype=torch.bool) if valid is None else valid[i].reshape(-1)
        static_1, static_2 = _static_matches(tracks, n, flows[i], believed.reshape(height, width), max_age)
        if len(static_1) < MIN_STATIC_POINTS:
            continue
        try:
            residual = camera_residual_px(
                static_1, static_2, grid, grid + flows[i].reshape(-1, 2), tolerance_px=threshold_px, method=method
            )
        except InputError:
            continue  # static points that determine no camera motion: the pair is unusable
        dynamic[n] += (residual > threshold_px) & believed
        pairs[n] += believed
    masks = (dynamic > 0) & (dynamic >= votes * pairs)
    return masks.reshape(t, height, width)


def _static_matches(tracks: Tracks, frame: int, flow: Tensor, believed: Tensor, max_age: int) -> tuple[Tensor, Tensor]:
    recent = (tracks.query_frame <= frame) & (tracks.query_frame > frame - max_age)
    uv = tracks.uv[frame, recent & tracks.visible[frame] & (tracks.mobility[frame] < 0.5)]
    column, row = uv.round().long().unbind(-1)
    height, width = believed.shape
    uv = uv[believed[row.clamp(0, height - 1), column.clamp(0, width - 1)]]
    return uv, uv + sample_map(flow, uv)


def _homography(uv_1: Tensor, uv_2: Tensor, tolerance_px: float) -> Tensor | None:
    cv2.setRNGSeed(0)
    found, _ = cv2.findHomography(uv_1.double().numpy(), uv_2.double().numpy(), cv2.USAC_MAGSAC, tolerance_px)
    return None if found is None else torch.from_numpy(found).to(uv_1)


def _eight_point(points_1: np.ndarray, points_2: np.ndarray) -> np.ndarray | None:
    """Linear least squares on isotropically normalised points (OpenCV)."""
    return cv2.findFundamentalMat(points_1, points_2, cv2.FM_8POINT)[0]
