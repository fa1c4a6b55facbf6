"""Relative pose and focal length from the flow of a pair, both directions taken together."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import roma
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.camera import pinhole, pixel_grid, pose, rays
from c4d_nb.correspondence.flow import FLOW_NOISE_PX, reverse_edges
from c4d_nb.motion_mask import MIN_STATIC_POINTS, sampson_error

ONLY_TURNS = 5.0
"""Error of the best rotation over that of the best essential matrix, up to which a camera only turns. Noise alone makes
it 2.2, as the one is a distance in the plane and the other a distance to a line, shared by both images."""


@dataclass(frozen=True, eq=False)
class RelativePose:
    """From frame n to frame m. ``m_from_n`` has a translation of length 1, or 0 where there is no parallax."""

    m_from_n: Float[Tensor, "4 4"]
    turn: Float[Tensor, "4 4"]
    """The pure rotation that explains the flow best."""


def relative_pose(
    uv_n: Float[Tensor, "p 2"],
    uv_m: Float[Tensor, "p 2"],
    intrinsics: Float[Tensor, "3 3"],
    *,
    noise_px: float,
    min_parallax: float,
) -> RelativePose:
    """The essential matrix by RANSAC, decomposed by the points' being in front of both cameras.

    Where a pure rotation explains half of the matches, or 60 % of those that the essential matrix explains, to within
    ``min_parallax`` times ``noise_px``, there is no translation to find, and any would fit.
    """
    if len(uv_n) < MIN_STATIC_POINTS:
        return RelativePose(torch.eye(4), torch.eye(4))
    ray_n, ray_m = rays(intrinsics, uv_n), rays(intrinsics, uv_m)
    rotation = _pure_rotation(ray_n, ray_m)
    turn = pose(rotation, torch.zeros(3))
    focal = float(intrinsics[0, 0])
    parallax_px = focal * (dehomogenise(ray_n @ rotation.T) - ray_m[:, :2]).norm(dim=-1)
    if parallax_px.median() < min_parallax * noise_px:
        return RelativePose(turn, turn)
    points_n, points_m = (ray[:, :2].double().numpy() for ray in (ray_n, ray_m))
    E, inliers = _essential_matrix(points_n, points_m, 2 * noise_px / focal)
    if E is None:
        return RelativePose(turn, turn)
    error = sampson_error(torch.from_numpy(E), ray_n[:, :2].double(), ray_m[:, :2].double()).sqrt() * focal
    explained_by_turn = (parallax_px < min_parallax * noise_px).float().mean()
    if explained_by_turn > 0.6 * (error < min_parallax * noise_px).float().mean():
        return RelativePose(turn, turn)
    _, R, T, _ = cv2.recoverPose(E, points_n, points_m, np.eye(3), mask=inliers)
    return RelativePose(pose(torch.from_numpy(R).float(), torch.from_numpy(T[:, 0]).float()), turn)


def pair_matches(
    flows: Float[Tensor, "e h w 2"], usable: Bool[Tensor, "e h w"], edges: Int[Tensor, "e 2"], *, limit: int = 1000
) -> list[tuple[Tensor, Tensor]]:
    """(uv in n, uv in m) of every edge: at most ``limit`` usable matches of its flow and as many of its reverse's."""
    one_way = [_spread_matches(flow, good, limit) for flow, good in zip(flows, usable, strict=True)]
    return [
        (torch.cat([uv_n, one_way[back][1]]), torch.cat([uv_m, one_way[back][0]]))
        for (uv_n, uv_m), back in zip(one_way, reverse_edges(edges).tolist(), strict=True)
    ]


def estimate_focal_ratio(
    matches: Sequence[tuple[Tensor, Tensor]],
    size: tuple[int, int],
    *,
    expected: float = 1.2,
    noise_px: float = FLOW_NOISE_PX,
    prior_weight: float = 0.5,
    pairs: int = 24,
) -> float:
    """Focal length over the longer image side, by trying 17 values on at most ``pairs`` pairs.

    At the right focal length an essential matrix fits a pair best. Where the camera only turns any focal length will do
    for that, as a translation absorbs the error; then a rotation alone must fit best. The cost is the mean over the
    pairs, each relative to its minimum, plus ``prior_weight`` (log r - log ``expected``)^2, which decides where the
    video does not (little rotation, a flat scene).
    """
    usable = [pair for pair in matches if len(pair[0]) >= MIN_STATIC_POINTS]
    if not usable:
        return expected
    chosen = [usable[i] for i in np.linspace(0, len(usable) - 1, min(pairs, len(usable))).astype(int)]
    ratios = np.geomspace(0.5, 3.0, 17)
    tried = torch.from_numpy(ratios).float()
    costs = torch.stack([_focal_costs(pair, tried, size, noise_px) for pair in chosen]).numpy()
    least = costs.min(axis=1, keepdims=True).clip(min=1e-3)
    only_turns = least[:, 0, 1] < ONLY_TURNS * least[:, 0, 0]
    relative = np.where(only_turns[:, None], (costs / least)[..., 1], (costs / least)[..., 0])
    cost = relative.mean(axis=0) + prior_weight * np.log(ratios / expected) ** 2
    best = int(np.clip(cost.argmin(), 1, len(ratios) - 2))
    left, middle, right = cost[best - 1 : best + 2]
    shift = 0.5 * (left - right) / max(left - 2 * middle + right, 1e-12)
    return float(ratios[best] * (ratios[1] / ratios[0]) ** np.clip(shift, -1, 1))


def dehomogenise(xyz: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2"]:
    """(x / z, y / z), finite everywhere."""
    z = xyz[..., 2:]
    return xyz[..., :2] / torch.where(z.abs() < 1e-9, torch.full_like(z, 1e-9), z)


def _focal_costs(
    pair: tuple[Tensor, Tensor], ratios: Float[Tensor, "f"], size: tuple[int, int], noise_px: float
) -> Float[Tensor, "f 2"]:
    """Mean error of a pair's best essential matrix (root Sampson) and of its best rotation, in noises, at most 2."""
    focal = ratios * max(size)
    ray_n, ray_m = (rays(pinhole(focal, *size), uv.expand(len(focal), *uv.shape)) for uv in pair)
    turned = dehomogenise(ray_n @ _pure_rotation(ray_n, ray_m).mT)
    turn_error = (turned - ray_m[..., :2]).norm(dim=-1)
    points_n, points_m = ray_n[..., :2].double(), ray_m[..., :2].double()
    threshold = (2 * noise_px / focal).tolist()
    found = [_essential_matrix(*of)[0] for of in zip(points_n.numpy(), points_m.numpy(), threshold, strict=True)]
    E = torch.from_numpy(np.stack([np.full((3, 3), np.nan) if matrix is None else matrix for matrix in found]))
    error = sampson_error(E, points_n, points_m).sqrt().nan_to_num(nan=torch.inf)
    in_noises = torch.stack([error, turn_error], dim=-1) * focal[:, None, None] / noise_px
    return in_noises.clamp(max=2.0).mean(dim=1)


def _essential_matrix(points_n: np.ndarray, points_m: np.ndarray, threshold: float) -> tuple:
    """OpenCV's USAC_ACCURATE: with 20 % wrong matches ten times nearer the truth than its USAC_MAGSAC."""
    cv2.setRNGSeed(0)
    E, inliers = cv2.findEssentialMat(points_n, points_m, np.eye(3), cv2.USAC_ACCURATE, 0.999, threshold)
    return (None, None) if E is None or E.shape != (3, 3) else (E, inliers)


def _spread_matches(flow: Tensor, usable: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """At most ``limit`` usable matches, evenly spread in row order."""
    index = torch.nonzero(usable.reshape(-1))[:, 0]
    index = index[torch.linspace(0, len(index) - 1, min(limit, len(index))).long()] if len(index) else index
    uv = pixel_grid(*flow.shape[:2], like=flow).reshape(-1, 2)[index]
    return uv, uv + flow.reshape(-1, 2)[index]


def _pure_rotation(ray_n: Float[Tensor, "*b n 3"], ray_m: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b 3 3"]:
    """Procrustes on unit rays, reweighted five times by the inverse distance against outliers."""
    unit_n, unit_m = F.normalize(ray_n, dim=-1), F.normalize(ray_m, dim=-1)
    weight = torch.ones_like(unit_n[..., :1])
    for _ in range(5):
        rotation = roma.special_procrustes((unit_m * weight).mT @ unit_n)
        weight = 1 / (unit_n @ rotation.mT - unit_m).norm(dim=-1, keepdim=True).clamp(min=1e-4)
    return rotation
