"""The objectives of C4D as pure functions: GA, CMA, CTS (stage 1) and PTS (stage 2).

Points are stored coordinate-first, ``(..., 3, p)`` with p pixels in row order: a pose then acts by one matrix
product, and norms run over contiguous rows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.camera import pixel_grid, rays
from c4d_nb.clip import PairPointmaps


@dataclass(frozen=True, eq=False)
class Observations:
    """The pair pointmaps of all edges as one list: first members of edges 0..e-1, then second members."""

    frame: Int[Tensor, "m"]
    edge: Int[Tensor, "m"]
    xyz: Float[Tensor, "m 3 p"]
    weight: Float[Tensor, "m p"]
    """log confidence, divided by the pixel count of the member's half (e p)."""


def observations(pairs: PairPointmaps) -> Observations:
    """Arrange pair pointmaps for ``global_alignment``."""
    e, h, w = pairs.conf_1.shape
    return Observations(
        frame=pairs.edges.T.reshape(-1),
        edge=torch.arange(e, device=pairs.edges.device).repeat(2),
        xyz=torch.cat([pairs.xyz_1, pairs.xyz_2]).flatten(1, 2).mT.contiguous(),
        weight=torch.cat([pairs.conf_1, pairs.conf_2]).flatten(1).log() / (e * h * w),
    )


def global_alignment(
    observed: Observations, xyz_world: Float[Tensor, "t 3 p"], world_from_pair: Float[Tensor, "e 4 4"]
) -> Float[Tensor, ""]:
    """GA: each pair's pointmaps, moved by one similarity, meet the frames' points.

    ``sum over edges, members v, pixels of log C ||X^v - sigma_e P_e X^{v;e}||_2``, each half divided by its pixel
    count (DUSt3R). ``world_from_pair`` holds sigma multiplied into its upper three rows. The norm is Euclidean: not
    squared, not by coordinate.
    """
    similarity = world_from_pair[observed.edge]
    predicted = torch.baddbmm(similarity[:, :3, 3:], similarity[:, :3, :3], observed.xyz)
    return (_length(predicted - xyz_world.index_select(0, observed.frame)) * observed.weight).sum()


def camera_motion_alignment(
    flows: Float[Tensor, "e h w 2"],
    static: Bool[Tensor, "e h w"],
    edges: Int[Tensor, "e 2"],
    xyz_world: Float[Tensor, "t 3 p"],
    cam_from_world: Float[Tensor, "t 4 4"],
    intrinsics: Float[Tensor, "t 3 3"],
    *,
    max_error_px: float = 50.0,
) -> Float[Tensor, ""]:
    """CMA: the flow that camera motion alone causes agrees with optical flow on the static pixels.

    Smooth-L1 (beta 1 px) of ego-flow minus flow for every edge (n, m) at the pixels of n that ``static`` keeps;
    coordinates off by more than ``max_error_px`` are dropped, and so are points behind m; the mean over what remains
    (MonST3R's form).
    """
    n, m = edges.unbind(-1)
    ego = ego_flow(xyz_world.index_select(0, n), cam_from_world[m], intrinsics[m], flows.shape[1:3])
    error = (ego.flow - flows.flatten(1, 2).mT).abs()
    kept = (error < max_error_px) & (static.flatten(1) & ego.in_front)[:, None]
    loss = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")
    return torch.where(kept, loss, 0.0).sum() / kept.sum().clamp(min=1)


@dataclass(frozen=True, eq=False)
class EgoFlow:
    """Flow of static points under camera motion; meaningless where a point is not ``in_front`` of the second camera."""

    flow: Float[Tensor, "e 2 p"]
    in_front: Bool[Tensor, "e p"]


def ego_flow(
    xyz_world: Float[Tensor, "e 3 p"],
    cam_from_world: Float[Tensor, "e 4 4"],
    intrinsics: Float[Tensor, "e 3 3"],
    size: tuple[int, int],
) -> EgoFlow:
    """Where the points of one frame's (h, w) pixels appear in another camera, minus where they were."""
    image_from_world = intrinsics @ cam_from_world[:, :3]
    projected = torch.baddbmm(image_from_world[:, :, 3:], image_from_world[:, :, :3], xyz_world)
    depth = projected[:, 2]
    in_front = depth > 1e-3
    uv = projected[:, :2] / torch.where(in_front, depth, 1.0)[:, None]
    source = pixel_grid(*size, like=uv).reshape(-1, 2).T
    return EgoFlow(flow=uv - source, in_front=in_front)


def camera_trajectory_smoothness(world_from_cam: Float[Tensor, "t 4 4"]) -> Float[Tensor, ""]:
    """CTS: ``sum over t of ||R_t^T R_{t+1} - I||_F + ||R_t^T (T_{t+1} - T_t)||_2``."""
    rotation, translation = world_from_cam[:, :3, :3], world_from_cam[:, :3, 3]
    turn = rotation[:-1].mT @ rotation[1:] - torch.eye(3).to(rotation)
    step = (rotation[:-1].mT @ (translation[1:] - translation[:-1])[..., None])[..., 0]
    return turn.flatten(1).norm(dim=-1).sum() + step.norm(dim=-1).sum()


def point_trajectory_smoothness(
    xyz_world: Float[Tensor, "t 3 p"], smoothed: Float[Tensor, "t 3 p"]
) -> Float[Tensor, ""]:
    """PTS: mean distance between the pointmaps and their smoothed version, which is a constant target.

    The paper's "L1" is read as the sum of Euclidean distances, as in GA: a sum over coordinates would depend on how
    the world frame happens to be turned.
    """
    return _length(xyz_world - smoothed).mean()


def frame_points(
    depth: Float[Tensor, "t h w"], intrinsics: Float[Tensor, "t 3 3"], world_from_cam: Float[Tensor, "t 4 4"]
) -> Float[Tensor, "t 3 p"]:
    """World points of every pixel of every frame, coordinate-first."""
    grid = pixel_grid(*depth.shape[1:], like=depth).reshape(-1, 2)
    xyz_cam = rays(intrinsics, grid).mT * depth.flatten(1)[:, None]
    return torch.baddbmm(world_from_cam[:, :3, 3:], world_from_cam[:, :3, :3], xyz_cam)


def _length(vectors: Float[Tensor, "b 3 p"]) -> Float[Tensor, "b p"]:
    """Euclidean norm with gradient 0 at 0. Written out: torch's norm over a strided axis is far slower on a CPU."""
    x, y, z = vectors.unbind(1)
    return (x * x + y * y + z * z).clamp(min=1e-30).sqrt()
