"""Exact rays into a scene: what the ray through any image position hits first."""

import numpy as np
import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from c4d_nb.camera import pose
from c4d_nb.kubric.kernels import cast_rays
from c4d_nb.kubric.scene import SHAPES, Scene
from c4d_nb.kubric.solids import Geometry


def cast(scene: Scene, frame: int, uv: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Exact (z-depth, segmentation) of what the rays through any ``uv`` hit first, in float64."""
    depth, segmentation = np.empty(len(uv)), np.empty(len(uv), dtype=np.int64)
    camera, geometry = instants(scene, torch.tensor([float(frame)], dtype=torch.float64))
    cast_rays(camera, scene.intrinsics.double().numpy(), geometry, uv.double().numpy(), depth, segmentation)
    return torch.from_numpy(depth), torch.from_numpy(segmentation)


def instants(scene: Scene, times: Float[Tensor, "s"]) -> tuple[np.ndarray, Geometry]:
    """(world_from_cam (s, 4, 4), bodies) at any times, in frames, as the compiled code takes them.

    Between frames positions move on straight lines and axes turn at a constant rate, as Kubric's renderer has it; the
    last such step goes on beyond the clip's ends.
    """
    camera = _between(scene.world_from_cam.double(), times)
    parts = [part for body in scene.bodies for part in body.parts]
    counts = [len(body.parts) for body in scene.bodies]
    world_from_obj = pose(roma.unitquat_to_rotmat(scene.quaternions.double()), scene.positions.double())
    world_from_obj = _between(world_from_obj.transpose(0, 1), times)
    body_from_part = torch.stack([p.body_from_part for p in parts]) if parts else torch.zeros(0, 4, 4).double()
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    world_from_part = (world_from_obj[:, owner] @ body_from_part).numpy()
    return camera.numpy(), Geometry(
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        ball=_balls(scene, world_from_obj),
        shape=np.array([SHAPES[p.shape] for p in parts], dtype=np.int64),
        half=np.array([p.half_size_m for p in parts], dtype=np.float64).reshape(-1, 3),
        center=np.ascontiguousarray(world_from_part[..., :3, 3]),
        rotation=np.ascontiguousarray(world_from_part[..., :3, :3]),
        room=np.array(scene.room, dtype=np.float64),
    )


def _between(poses: Float[Tensor, "t *o 4 4"], times: Float[Tensor, "s"]) -> Float[Tensor, "s *o 4 4"]:
    """Poses at any times; exactly those given at whole ones."""
    before = times.floor().clamp(0, max(0, len(poses) - 2)).long()
    after = (before + 1).clamp(max=len(poses) - 1)
    share = (times - before).reshape(-1, *[1] * (poses.ndim - 2))
    first, last = poses[before], poses[after]
    turn = roma.rotmat_to_rotvec(first[..., :3, :3].mT @ last[..., :3, :3]) * share
    moved = pose(
        first[..., :3, :3] @ roma.rotvec_to_rotmat(turn), torch.lerp(first[..., :3, 3], last[..., :3, 3], share)
    )
    whole = times.round().clamp(0, len(poses) - 1).long()
    return torch.where((times == whole).reshape(-1, *[1] * (poses.ndim - 1)), poses[whole], moved)


def _balls(scene: Scene, world_from_obj: Float[Tensor, "s o 4 4"]) -> np.ndarray:
    """(s, o, 4): centre and squared radius of a sphere around each body, a hair too large."""
    squared = torch.tensor([(body.radius_m * (1 + 1e-9)) ** 2 for body in scene.bodies], dtype=torch.float64)
    center = world_from_obj[..., :3, 3]
    return torch.cat([center, squared[:, None].expand(*center.shape[:2], 1)], dim=-1).contiguous().numpy()
