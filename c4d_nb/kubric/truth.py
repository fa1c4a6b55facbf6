"""Exact truth that follows from depth, segmentation and poses alone, without a renderer."""

from dataclasses import replace

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.camera import invert, pixel_grid, pose, project, rays, transform
from c4d_nb.clip import Truth
from c4d_nb.kubric.mobility import with_background
from c4d_nb.kubric.scene import Scene


def complete_truth(truth: Truth) -> Truth:
    """The same truth with flow both ways, object coordinates and motion mask, which archives leave out."""
    return replace(
        truth,
        flow=truth_flow(truth),
        backward_flow=truth_flow(truth, backward=True),
        object_coordinates=object_coordinates(truth),
        motion_mask=with_background(truth.mobility)[truth.segmentation.long()],
    )


def truth_flow(truth: Truth, *, backward: bool = False) -> Float[Tensor, "t_minus_1 h w 2"]:
    """Exact flow of the surface that each pixel sees, occluded in the other frame or not.

    Forward: entry t leads from frame t to t + 1; backward: from the pixels of frame t + 1 to frame t. NaN where the
    surface point is behind the other camera.
    """
    world_from_cam, intrinsics = truth.world_from_cam.double(), truth.intrinsics.double()
    world_from_obj = object_poses(truth)
    source_uv = sample_positions(truth)
    steps = range(len(truth.depth) - 1)
    flow = []
    for source, target in ((t + 1, t) if backward else (t, t + 1) for t in steps):
        target_from_source = world_from_obj[:, target] @ invert(world_from_obj[:, source])
        camera_step = invert(world_from_cam[target]) @ target_from_source @ world_from_cam[source]
        xyz_cam = truth.depth[source].double()[..., None] * rays(intrinsics[source], source_uv)
        moved = transform(camera_step[truth.segmentation[source].long()], xyz_cam[..., None, :])
        uv, depth = project(moved, intrinsics[target])
        flow.append(torch.where(depth > 0, uv[..., 0, :] - source_uv, torch.nan))
    return torch.stack(flow).to(truth.depth) if flow else truth.depth.new_zeros(0, *source_uv.shape)


def points_at_time(truth: Truth, frame: int, time: int) -> Float[Tensor, "h w 3"]:
    """Where the surface that each pixel of ``frame`` sees is in frame ``time``, in the world (metres)."""
    world_from_obj = object_poses(truth)
    then_from_now = world_from_obj[:, time] @ invert(world_from_obj[:, frame]) @ truth.world_from_cam[frame].double()
    xyz_cam = truth.depth[frame].double()[..., None] * rays(truth.intrinsics[frame].double(), sample_positions(truth))
    moved = transform(then_from_now[truth.segmentation[frame].long()], xyz_cam[..., None, :])
    return moved[..., 0, :].to(truth.depth)


def object_coordinates(truth: Truth) -> Float[Tensor, "t h w 3"]:
    """Where in its object's box a pixel's surface point lies: 0 at the lowest corner, 1 at the highest; Kubric's layer
    of that name. 0 on the background."""
    boxes = torch.cat([truth.boxes.new_tensor([[[0, 0, 0], [1, 1, 1]]]), truth.boxes]).double()
    obj_from_world = invert(object_poses(truth))
    world_from_cam, intrinsics = truth.world_from_cam.double(), truth.intrinsics.double()
    source_uv = sample_positions(truth)
    coordinates = []
    for t, segment in enumerate(truth.segmentation.long()):
        xyz_cam = truth.depth[t].double()[..., None] * rays(intrinsics[t], source_uv)
        xyz_obj = transform((obj_from_world[:, t] @ world_from_cam[t])[segment], xyz_cam[..., None, :])[..., 0, :]
        low, high = boxes[segment].unbind(dim=-2)
        share = ((xyz_obj - low) / (high - low)).clamp(0, 1)
        coordinates.append(torch.where(segment[..., None] > 0, share, 0.0))
    return torch.stack(coordinates).to(truth.depth)


def sample_positions(truth: Truth) -> Float[Tensor, "h w 2"]:
    """The uv at which each pixel of the truth's maps was sampled: its centre, unless the truth says otherwise."""
    grid = pixel_grid(*truth.depth.shape[1:]).double()
    return grid if truth.sample_offset_px is None else grid + truth.sample_offset_px.double()


def object_poses(source: Scene | Truth) -> Float[Tensor, "bodies t 4 4"]:
    """world_from_obj of every value of a segmentation; that of the background is the identity."""
    bodies = pose(roma.unitquat_to_rotmat(source.quaternions.double()), source.positions.double())
    return torch.cat([torch.eye(4).to(bodies).expand(1, bodies.shape[1], 4, 4), bodies])
