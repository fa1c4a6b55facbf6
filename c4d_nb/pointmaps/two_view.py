"""Pair pointmaps without a network: relative pose from flow, depth by triangulation along the flow.

The weight-free stand-in for DUSt3R, with the same result, ``PairPointmaps``. It needs camera motion between the frames:
without parallax a pair has a rotation but no depth, and says so by its confidence.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import roma
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from c4d_nb.camera import invert, pixel_grid, pose, rays, transform
from c4d_nb.clip import PairPointmaps
from c4d_nb.correspondence.flow import reverse_edges
from c4d_nb.motion_mask import MIN_STATIC_POINTS

FLAT_CONFIDENCE = 1.02
"""Of depth that is a guess: filled in from its surroundings, or a pair without parallax."""


@dataclass(frozen=True)
class TwoViewConfig:
    noise_px: float = 0.5
    """Standard deviation of a flow match in pixels of the flow at hand; parallax and errors are judged against it."""
    saturation: float = 20.0
    """Parallax, in noises, above which confidence grows no more."""
    min_parallax: float = 3.0
    """Median parallax, in noises, below which a pair counts as having none."""


def two_view_pointmaps(
    flows: Float[Tensor, "e h w 2"],
    usable: Bool[Tensor, "e h w"],
    edges: Int[Tensor, "e 2"],
    intrinsics: Float[Tensor, "3 3"],
    config: TwoViewConfig = TwoViewConfig(),  # noqa: B008 (frozen)
) -> PairPointmaps:
    """Both pointmaps of every edge from flow n -> m alone, at the flow's resolution.

    ``usable`` marks static pixels whose flow may be believed; ``edges`` hold both directions of every pair. Each pair's scale is
    its own: median depth 1. Confidence is ``1 + s exp(-r^2 / 2)`` with s the parallax and r the epipolar error, both in units
    of ``noise_px`` (s saturates). Pixels that were not triangulated take the depth of their surroundings (``fill_holes``)
    at confidence 1.02. A pair without parallax keeps the rotation, no translation, and depth 1 at confidence 1.02.
    """
    back = reverse_edges(edges)
    forward = edges[:, 0] < edges[:, 1]
    pairs = torch.nonzero(forward)[:, 0].tolist()
    m_from_n = torch.eye(4).repeat(len(edges), 1, 1)
    for i in tqdm(pairs, desc="two-view poses", unit="pair", leave=False):
        j = int(back[i])
        m_from_n[i] = relative_pose(flows[i], usable[i], flows[j], usable[j], intrinsics, config)
        m_from_n[j] = invert(m_from_n[i])
    depth, confidence = triangulate(flows, usable, m_from_n, intrinsics, config)
    scale = _median_depth(depth, confidence)
    scale = (scale + scale[back]) / 2
    depth = fill_holes(depth / scale[:, None, None], confidence > 1)
    confidence = confidence.clamp(min=FLAT_CONFIDENCE)
    ray = rays(intrinsics, pixel_grid(*depth.shape[1:], like=depth))
    xyz = depth[..., None] * ray
    n_from_m = m_from_n[back].clone()
    n_from_m[:, :3, 3] /= scale[:, None]
    xyz_2 = transform(n_from_m, xyz[back].flatten(1, 2)).reshape(xyz.shape)
    return PairPointmaps(edges=edges, xyz_1=xyz, xyz_2=xyz_2, conf_1=confidence, conf_2=confidence[back])


def relative_pose(
    flow: Float[Tensor, "h w 2"],
    usable: Bool[Tensor, "h w"],
    back_flow: Float[Tensor, "h w 2"],
    back_usable: Bool[Tensor, "h w"],
    intrinsics: Float[Tensor, "3 3"],
    config: TwoViewConfig,
) -> Float[Tensor, "4 4"]:
    """m_from_n from the flows n -> m and m -> n, translation of length 1; a pure rotation where there is no parallax.

    The essential matrix by USAC_MAGSAC on at most 2,000 matches of both flows, refined by OpenCV, decomposed by the points'
    being in front of both cameras.
    """
    uv_n, uv_m = _matches(flow, usable)
    back_m, back_n = _matches(back_flow, back_usable)
    uv_n, uv_m = torch.cat([uv_n, back_n]), torch.cat([uv_m, back_m])
    if len(uv_n) < MIN_STATIC_POINTS:
        return torch.eye(4)
    ray_n, ray_m = rays(intrinsics, uv_n), rays(intrinsics, uv_m)
    rotation = _pure_rotation(ray_n, ray_m)
    focal = float(intrinsics[0, 0])
    parallax = focal * (_dehomogenise(ray_n @ rotation.T) - _dehomogenise(ray_m)).norm(dim=-1) / config.noise_px
    if parallax.median() < config.min_parallax:
        return pose(rotation, torch.zeros(3))
    points_n, points_m = (r[:, :2].double().numpy() for r in (ray_n, ray_m))
    cv2.setRNGSeed(0)
    E, inliers = cv2.findEssentialMat(points_n, points_m, np.eye(3), cv2.USAC_MAGSAC, 0.999, 2 * config.noise_px / focal)
    if E is None or E.shape != (3, 3):
        return pose(rotation, torch.zeros(3))
    _, R, T, _ = cv2.recoverPose(E, points_n, points_m, np.eye(3), mask=inliers)
    return pose(torch.from_numpy(R).float(), torch.from_numpy(T[:, 0]).float())


def triangulate(
    flows: Float[Tensor, "e h w 2"],
    usable: Bool[Tensor, "e h w"],
    m_from_n: Float[Tensor, "e 4 4"],
    intrinsics: Float[Tensor, "3 3"],
    config: TwoViewConfig,
) -> tuple[Float[Tensor, "e h w"], Float[Tensor, "e h w"]]:
    """Depth in n of every pixel of n, and its confidence (1 where there is none).

    The depth d of ray r seen along ray q in the other camera, q x (d R r + T) = 0, in least squares.
    """
    grid = pixel_grid(*flows.shape[1:3], like=flows)
    focal = intrinsics[0, 0]
    ray = rays(intrinsics, grid)
    seen = rays(intrinsics, grid + flows)
    turned = (ray.reshape(-1, 3) @ m_from_n[:, :3, :3].mT).reshape(seen.shape)
    translation = m_from_n[:, None, None, :3, 3].expand_as(seen)
    a, b = torch.linalg.cross(seen, turned), torch.linalg.cross(seen, translation)
    depth = -(a * b).sum(-1) / a.square().sum(-1).clamp(min=1e-12)
    moved = depth[..., None] * turned + translation
    parallax = focal * (_dehomogenise(turned) - seen[..., :2]).norm(dim=-1) / config.noise_px
    error = focal * (_dehomogenise(moved) - seen[..., :2]).norm(dim=-1) / config.noise_px
    good = usable & (depth > 0) & (moved[..., 2] > 0) & (translation.square().sum(-1) > 0)
    confidence = 1 + good * parallax.clamp(max=config.saturation) * torch.exp(-error.square() / 2)
    return torch.where(good, depth, torch.ones_like(depth)), confidence


def fill_holes(depth: Float[Tensor, "e h w"], known: Bool[Tensor, "e h w"]) -> Float[Tensor, "e h w"]:
    """Depth where it is not known: inverse depth blended from the known surroundings, the nearer the heavier (pull-push).

    A map without any known depth becomes 1 everywhere.
    """
    weight = known.float()
    levels = [(torch.where(known, 1 / depth, 0 * depth)[:, None], weight[:, None])]
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


def _matches(flow: Tensor, usable: Tensor, limit: int = 1000) -> tuple[Tensor, Tensor]:
    """At most ``limit`` usable matches, evenly spread in row order."""
    index = torch.nonzero(usable.reshape(-1))[:, 0]
    index = index[torch.linspace(0, len(index) - 1, min(limit, len(index))).long()] if len(index) else index
    uv = pixel_grid(*flow.shape[:2], like=flow).reshape(-1, 2)[index]
    return uv, uv + flow.reshape(-1, 2)[index]


def _pure_rotation(ray_n: Tensor, ray_m: Tensor) -> Tensor:
    """The rotation that explains most of the matches: Procrustes on unit rays, reweighted five times against outliers."""
    unit_n, unit_m = F.normalize(ray_n, dim=-1), F.normalize(ray_m, dim=-1)
    weight = torch.ones(len(ray_n))
    for _ in range(5):
        rotation = roma.special_procrustes((unit_m * weight[:, None]).T @ unit_n)
        error = (unit_n @ rotation.T - unit_m).norm(dim=-1)
        weight = 1 / error.clamp(min=1e-4)
    return rotation


def _median_depth(depth: Tensor, confidence: Tensor) -> Tensor:
    """Of the triangulated pixels of each map; 1 where there are none."""
    known = torch.where(confidence > 1, depth, torch.full_like(depth, torch.nan)).flatten(1)
    return known.nanmedian(dim=1).values.nan_to_num(1.0)


def _dehomogenise(xyz: Tensor) -> Tensor:
    return xyz[..., :2] / torch.where(xyz[..., 2:].abs() < 1e-9, torch.full_like(xyz[..., 2:], 1e-9), xyz[..., 2:])
