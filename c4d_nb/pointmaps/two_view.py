"""Pair pointmaps without a network: relative pose from flow, depth by triangulation along the flow.

The weight-free stand-in for DUSt3R, with the same result, ``PairPointmaps``. It needs camera motion between the frames:
without parallax a pair has a rotation but no depth, and says so by its confidence.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from c4d_nb.camera import invert, pixel_grid, pose, rays, transform
from c4d_nb.clip import PairPointmaps
from c4d_nb.correspondence.flow import FLOW_NOISE_PX, reverse_edges
from c4d_nb.pointmaps.fill import fill_holes
from c4d_nb.pointmaps.relative_pose import dehomogenise, pair_matches, relative_pose
from c4d_nb.statistics import weighted_median

FLAT_CONFIDENCE = 1.02
"""Of depth that is a guess: filled in from its surroundings, or a pair without parallax."""

MAX_DEPTH = 20.0
"""Farthest depth of a pair, over its median: beyond it parallax is noise, and must not weigh on the alignment."""


@dataclass(frozen=True)
class TwoViewConfig:
    """What counts as parallax, and as agreement."""

    noise_px: float = FLOW_NOISE_PX
    """Standard deviation of a flow match in pixels of the flow at hand; parallax and errors are judged against it."""
    saturation: float = 80.0
    """Parallax, in noises, above which confidence grows no more."""
    min_parallax: float = 3.0
    """Median parallax, in noises, below which a pair counts as having none."""
    agreement: float = 0.2
    """Relative depth error, against a frame's other pairs, at which confidence falls to exp(-1/2)."""
    min_agreement: float = 0.4
    """Mean agreement below which a pair's translation is not believed: it then counts as without parallax."""
    min_share: float = 0.1
    """Share of the pairs with parallax below which none is believed: in a clip without any, a few seem to have some."""


def two_view_pointmaps(
    flows: Float[Tensor, "e h w 2"],
    usable: Bool[Tensor, "e h w"],
    edges: Int[Tensor, "e 2"],
    intrinsics: Float[Tensor, "3 3"],
    config: TwoViewConfig = TwoViewConfig(),
) -> PairPointmaps:
    """Both pointmaps of every edge from flow n -> m alone, at the flow's resolution.

    ``usable`` marks static pixels whose flow may be believed; ``edges`` hold both directions of every pair. Each
    pair's scale is its own: median depth 1. Confidence is ``1 + s exp(-r^2 / 2) a`` with s the parallax and r the
    epipolar error, both in units of ``noise_px`` (s saturates), and a the agreement with the frame's other pairs
    (``depth_agreement``). Pixels that were not triangulated take the depth of their surroundings (``fill_holes``) at
    confidence 1.02. A pair without parallax, or that agrees with no other, keeps the rotation that explains it best,
    no translation, and depth 1 at confidence 1.02.
    """
    back = reverse_edges(edges)
    m_from_n, turn = _relative_poses(flows, usable, edges, intrinsics, config)
    depth, confidence = triangulate(flows, usable, m_from_n, intrinsics, config)
    agreement = depth_agreement(depth, confidence, edges, config.agreement)
    trusted = _mean_agreement(agreement, confidence, back) > config.min_agreement
    trusted &= trusted.float().mean() >= config.min_share
    confidence = 1 + (confidence - 1) * agreement * trusted[:, None, None]
    m_from_n = torch.where(trusted[:, None, None], m_from_n, turn)

    scale = _median_depth(depth, confidence)
    scale = (scale + scale[back]) / 2
    depth = fill_holes((depth / scale[:, None, None]).clamp(1 / MAX_DEPTH, MAX_DEPTH), confidence > 1)
    confidence = confidence.clamp(min=FLAT_CONFIDENCE)
    xyz = depth[..., None] * rays(intrinsics, pixel_grid(*depth.shape[1:], like=depth))
    n_from_m = pose(m_from_n[back, :3, :3], m_from_n[back, :3, 3] / scale[:, None])
    xyz_2 = transform(n_from_m, xyz[back].flatten(1, 2)).reshape(xyz.shape)
    return PairPointmaps(edges=edges, xyz_1=xyz, xyz_2=xyz_2, conf_1=confidence, conf_2=confidence[back])


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
    parallax = focal * (dehomogenise(turned) - seen[..., :2]).norm(dim=-1) / config.noise_px
    error = focal * (dehomogenise(moved) - seen[..., :2]).norm(dim=-1) / config.noise_px
    good = usable & (depth > 0) & (moved[..., 2] > 0) & (translation.square().sum(-1) > 0)
    confidence = 1 + good * parallax.clamp(max=config.saturation) * torch.exp(-error.square() / 2)
    return torch.where(good, depth, torch.ones_like(depth)), confidence


def depth_agreement(
    depth: Float[Tensor, "e h w"], confidence: Float[Tensor, "e h w"], edges: Int[Tensor, "e 2"], tolerance: float
) -> Float[Tensor, "e h w"]:
    """How well each pair's depth agrees with the other pairs of its first frame, in [0, 1] by pixel.

    ``exp(-x^2 / 2)`` for x the log-ratio to the frame's consensus over ``tolerance``. The consensus is the weighted
    median over the frame's pairs, each at its own best scale. A wrong relative pose, which flow and epipolar error
    alone do not show, bends a pair's depth away from it.
    """
    weight = confidence.log().flatten(1)
    log_depth = depth.clamp(1e-3, 1e3).log().flatten(1)
    agreement = torch.ones_like(weight)
    for frame in edges[:, 0].unique():
        pairs = torch.nonzero(edges[:, 0] == frame)[:, 0]
        aligned = log_depth[pairs]
        for _ in range(4):
            error = aligned - weighted_median(aligned.T, (weight[pairs] * agreement[pairs]).T)
            aligned = aligned - weighted_median(error, weight[pairs])[:, None]
            agreement[pairs] = torch.exp(-(error / tolerance).square() / 2)
    return agreement.reshape(depth.shape)


def _mean_agreement(agreement: Tensor, confidence: Tensor, back: Tensor) -> Float[Tensor, "e"]:
    """Mean agreement of a pair's pixels, the lower of its two directions, which share one pose; 0 without any depth."""
    weight = confidence.log()
    mean = (agreement * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-9)
    return torch.minimum(mean, mean[back])


def _relative_poses(
    flows: Tensor, usable: Tensor, edges: Tensor, intrinsics: Tensor, config: TwoViewConfig
) -> tuple[Float[Tensor, "e 4 4"], Float[Tensor, "e 4 4"]]:
    """(m_from_n, pure rotation) of every edge; the two directions of a pair are each other's inverse."""
    matches = pair_matches(flows, usable, edges)
    m_from_n, turn = torch.eye(4).repeat(2, len(edges), 1, 1)
    back = reverse_edges(edges).tolist()
    forward = torch.nonzero(edges[:, 0] < edges[:, 1])[:, 0].tolist()
    for i in tqdm(forward, desc="two-view poses", unit="pair", leave=False):
        found = relative_pose(*matches[i], intrinsics, noise_px=config.noise_px, min_parallax=config.min_parallax)
        m_from_n[i], turn[i] = found.m_from_n, found.turn
        m_from_n[back[i]], turn[back[i]] = invert(found.m_from_n), invert(found.turn)
    return m_from_n, turn


def _median_depth(depth: Tensor, confidence: Tensor) -> Tensor:
    """Of the triangulated pixels of each map; 1 where there are none."""
    known = torch.where(confidence > 1, depth, torch.full_like(depth, torch.nan)).flatten(1)
    return known.nanmedian(dim=1).values.nan_to_num(1.0)
