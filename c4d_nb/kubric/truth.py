"""Exact truth that follows from poses and depth alone, without a renderer."""

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.camera import invert, pixel_grid, pose, project, transform, unproject
from c4d_nb.clip import Truth
from c4d_nb.kubric.scene import Scene


def truth_flow(truth: Truth) -> Float[Tensor, "s h w 2"]:
    """Exact forward flow of the surface that each pixel sees, occluded in the next frame or not.

    It follows from depth, segmentation and poses, so that an archive need not hold it. NaN where the surface point
    passes behind the next camera.
    """
    world_from_cam, intrinsics = truth.world_from_cam.double(), truth.intrinsics.double()
    world_from_obj = object_poses(truth)
    grid = pixel_grid(*truth.depth.shape[1:]).double()
    flow = []
    for t in range(len(truth.depth) - 1):
        next_from_now = world_from_obj[:, t + 1] @ invert(world_from_obj[:, t])
        camera_step = (invert(world_from_cam[t + 1]) @ next_from_now @ world_from_cam[t])[truth.segmentation[t].long()]
        xyz_cam = unproject(truth.depth[t].double(), intrinsics[t])
        uv, depth = project(transform(camera_step, xyz_cam[..., None, :]), intrinsics[t + 1])
        flow.append(torch.where(depth > 0, uv[..., 0, :] - grid, torch.nan))
    return torch.stack(flow).to(truth.depth) if flow else truth.depth.new_zeros(0, *grid.shape)


def object_poses(source: Scene | Truth) -> Float[Tensor, "bodies t 4 4"]:
    """world_from_obj of every value of a segmentation; that of the background is the identity."""
    bodies = pose(roma.unitquat_to_rotmat(source.quaternions.double()), source.positions.double())
    return torch.cat([torch.eye(4).to(bodies).expand(1, bodies.shape[1], 4, 4), bodies])


def moving_segments(positions: Float[Tensor, "o t 3"], threshold_m: float = 0.01) -> Bool[Tensor, "bodies"]:
    """Whether each value of a segmentation ever moves beyond the threshold in one step; the background does not."""
    moves = (positions.diff(dim=1).norm(dim=-1) > threshold_m).any(dim=-1)
    return torch.cat([moves.new_zeros(1), moves])
