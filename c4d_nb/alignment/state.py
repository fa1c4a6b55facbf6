"""A scene while it is aligned and after: its parameters, what is recorded of it, and the result."""

from dataclasses import dataclass, field, replace

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from c4d_nb.alignment.fused import image_maps
from c4d_nb.alignment.initialise import Guess
from c4d_nb.alignment.objectives import frame_points
from c4d_nb.camera import pose


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The scene and its objectives at one iteration. Values and gradients carry their weights."""

    iteration: int
    value: dict[str, float]
    gradient_norm: dict[str, float]
    """Of each objective by all free parameters, in their encoding."""
    world_from_cam: Float[Tensor, "t 4 4"]
    focal_px: Float[Tensor, "t"]
    gap: float
    """``view_gap``: what no objective looks at."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A consistent scene at the resolution of the pointmaps."""

    depth: Float[Tensor, "t h w"]
    confidence: Float[Tensor, "t h w"]
    intrinsics: Float[Tensor, "t 3 3"]
    world_from_cam: Float[Tensor, "t 4 4"]
    world_from_pair: Float[Tensor, "e 4 4"]
    """Each pair's similarity, scale multiplied in."""
    losses: dict[str, Float[Tensor, "i"]] = field(default_factory=dict)
    history: tuple[Snapshot, ...] = ()
    """Every so many iterations, where that was asked for."""

    def xyz_world(self) -> Float[Tensor, "t h w 3"]:
        return frame_points(self.depth, self.intrinsics, self.world_from_cam).mT.reshape(*self.depth.shape, 3)

    def to(self, device: torch.device) -> "Alignment":
        """The scene on another device; what is recorded of the way there stays where it is."""
        maps = ("depth", "confidence", "intrinsics", "world_from_cam", "world_from_pair")
        return replace(self, **{name: getattr(self, name).to(device) for name in maps})


class Scene:
    """The free parameters of stage 1 in DUSt3R's encoding, and the values they stand for.

    Log-depth; quaternions normalised on use; translations as ``sign(x) log(1 + |x|)``; focal as 20 log f; a log-scale
    a pair whose mean is pinned (geometric mean one half), or everything would shrink to a point. Known poses are not
    free but for one scale of their translations: the pin stays, and ``in_units_of`` brings the result to their scale.
    """

    def __init__(self, guess: Guess, *, shared_focal: bool, known_intrinsics: bool, known_poses: bool):
        self.log_depth = guess.depth.log()
        self.cameras = _encode_pose(guess.world_from_cam)
        scale = guess.world_from_pair[:, :3, :3].det().pow(1 / 3)
        rigid = pose(guess.world_from_pair[:, :3, :3] / scale[:, None, None], guess.world_from_pair[:, :3, 3])
        self.pairs, self.log_scale = _encode_pose(rigid), scale.log()
        self.start = guess
        self.focal_code = torch.zeros(1 if shared_focal else len(guess.depth)).to(guess.depth)
        self.log_unit = torch.zeros(()).to(guess.depth)
        self.known_poses = known_poses
        self._free = [self.log_depth, *self.pairs, self.log_scale]
        self._free += [self.log_unit] if known_poses else self.cameras
        self._free += [] if known_intrinsics else [self.focal_code]

    def parameters(self) -> list[Tensor]:
        return [parameter.requires_grad_() for parameter in self._free]

    def depth(self) -> Float[Tensor, "t h w"]:
        return self.log_depth.exp()

    def intrinsics(self) -> Float[Tensor, "t 3 3"]:
        factor = (self.focal_code / 20).exp().expand(len(self.log_depth))
        ones = torch.ones_like(factor)
        rows = torch.stack([torch.stack([factor, factor, ones], -1)] * 2 + [torch.stack([ones] * 3, -1)], -2)
        return self.start.intrinsics * rows

    def world_from_cam(self) -> Float[Tensor, "t 4 4"]:
        if not self.known_poses:
            return _decode_pose(*self.cameras)
        known = self.start.world_from_cam
        return pose(known[:, :3, :3], self.log_unit.exp() * known[:, :3, 3])

    def world_from_pair(self) -> Float[Tensor, "e 4 4"]:
        scale = 0.5 * (self.log_scale - self.log_scale.mean()).exp()
        rigid = _decode_pose(*self.pairs)
        return pose(scale[:, None, None] * rigid[:, :3, :3], rigid[:, :3, 3])


def view_gap(
    depth: Float[Tensor, "t h w"],
    intrinsics: Float[Tensor, "t 3 3"],
    world_from_cam: Float[Tensor, "t 4 4"],
    edges: Int[Tensor, "e 2"],
    *,
    limit: int = 500,
) -> float:
    """How far the frames' clouds lie apart: the median of ``|z / depth_m - 1|`` of points of frame n seen in frame m.

    Over at most ``limit`` pixels of each edge (n, m) that appear in m; z is the point's depth there, ``depth_m`` the
    depth of the pixel it falls on. NaN where no two views overlap.
    """
    h, w = depth.shape[1:]
    world_from_image, image_from_world = image_maps(world_from_cam, intrinsics)
    chosen = torch.arange(0, h * w, max(1, h * w // limit), device=depth.device)
    uv1 = torch.stack([chosen % w, chosen // w, torch.ones_like(chosen)]).to(depth)
    points = depth.flatten(1)[:, None, chosen] * (world_from_image[:, :, :3] @ uv1) + world_from_image[:, :, 3:]
    n, m = edges.unbind(-1)
    x, y, z = (image_from_world[m, :, :3] @ points[n] + image_from_world[m, :, 3:]).unbind(1)
    column, row = (x / z).round(), (y / z).round()
    seen = (z > 0) & (column >= 0) & (column < w) & (row >= 0) & (row < h)
    index = torch.where(seen, row * w + column, 0.0).long()
    gap = (z / depth.flatten(1)[m].gather(1, index) - 1).abs()[seen]
    return gap.median().item() if len(gap) else float("nan")


def _encode_pose(b_from_a: Tensor) -> tuple[Tensor, Tensor]:
    translation = b_from_a[:, :3, 3]
    return roma.rotmat_to_unitquat(b_from_a[:, :3, :3]), translation.sign() * translation.abs().log1p()


def _decode_pose(quaternion: Tensor, code: Tensor) -> Tensor:
    rotation = roma.unitquat_to_rotmat(quaternion / quaternion.norm(dim=-1, keepdim=True))
    return pose(rotation, code.sign() * code.abs().expm1())
