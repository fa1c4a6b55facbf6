"""Exact correspondences for tests: flow between any frames of a clip with truth, and a static scene in closed form."""

from dataclasses import dataclass, replace

import roma
import torch
from torch import Tensor

from c4d_nb.camera import invert, pinhole, pixel_grid, pose, project, rays, transform, unproject
from c4d_nb.clip import PairPointmaps, Truth


def exact_flow(truth: Truth, n: int, m: int) -> Tensor:
    """Flow n -> m of the surface that each pixel of n sees, hidden in m or not; after ``truth_flow``, for any pair."""
    xyz = unproject(truth.depth[n].double(), truth.intrinsics[n].double()).reshape(-1, 3)
    segment = truth.segmentation[n].reshape(-1)
    bodies = pose(roma.unitquat_to_rotmat(truth.quaternions.double()), truth.positions.double())
    moved = torch.empty_like(xyz)
    cameras = truth.world_from_cam.double()
    for label in segment.unique().tolist():
        step = torch.eye(4).double() if label == 0 else bodies[label - 1, m] @ invert(bodies[label - 1, n])
        own = segment == label
        moved[own] = transform(invert(cameras[m]) @ step @ cameras[n], xyz[own])
    uv, _ = project(moved, truth.intrinsics[m].double())
    return (uv.reshape(*truth.depth.shape[1:], 2) - pixel_grid(*truth.depth.shape[1:])).float()


@dataclass
class Room:
    """A static scene: a wall, a floor and a box on it, seen by t cameras; exact depth by ray casting, in float64."""

    world_from_cam: Tensor
    intrinsics: Tensor
    size: tuple[int, int]
    wall_z: float = 6.0
    floor_y: float = 0.9
    box: tuple[tuple[float, float, float], tuple[float, float, float]] = ((-1.0, -0.8, 3.4), (0.6, 0.9, 4.4))

    @property
    def depth(self) -> Tensor:
        grid = pixel_grid(*self.size).double()
        return torch.stack([self._cast(n, grid) for n in range(len(self.world_from_cam))])

    def xyz_world(self) -> Tensor:
        return transform(self.world_from_cam[:, None], unproject(self.depth, self.intrinsics))

    def flow(self, n: int, m: int) -> Tensor:
        xyz = unproject(self.depth[n], self.intrinsics[n]).reshape(-1, 3)
        uv, _ = project(transform(invert(self.world_from_cam[m]) @ self.world_from_cam[n], xyz), self.intrinsics[m])
        return (uv.reshape(*self.size, 2) - pixel_grid(*self.size)).float()

    def visible(self, n: int, m: int) -> Tensor:
        """The pixels of n whose point is seen in m too."""
        xyz = unproject(self.depth[n], self.intrinsics[n]).reshape(-1, 3)
        uv, z = project(transform(invert(self.world_from_cam[m]) @ self.world_from_cam[n], xyz), self.intrinsics[m])
        inside = ((uv >= -0.5) & (uv <= uv.new_tensor([self.size[1] - 0.5, self.size[0] - 0.5]))).all(-1)
        return ((self._cast(m, uv) > 0.999 * z) & inside).reshape(self.size)

    def views(self, edges: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Exact flows and visibility of all edges, the edges and K: what ``two_view_pointmaps`` takes."""
        flows = torch.stack([self.flow(n, m) for n, m in edges.tolist()])
        usable = torch.stack([self.visible(n, m) for n, m in edges.tolist()])
        return flows, usable, edges, self.intrinsics[0].float()

    def turning(self) -> "Room":
        """The same room from one place: the cameras only turn."""
        path = self.world_from_cam.clone()
        path[:, :3, 3] = 0
        return replace(self, world_from_cam=path)

    def pairs(self, edges: Tensor, generator: torch.Generator | None = None) -> PairPointmaps:
        """Exact pointmaps of every edge, each at a random scale."""
        xyz_world = self.xyz_world()
        n, m = edges.T
        scale = torch.ones(len(edges)) if generator is None else 0.3 + 2 * torch.rand(len(edges), generator=generator)
        cam_from_world = invert(self.world_from_cam)[n, None]
        xyz_1, xyz_2 = ((scale[:, None, None, None] * transform(cam_from_world, xyz_world[v])).float() for v in (n, m))
        confidence = torch.full(xyz_1.shape[:3], 3.0)
        return PairPointmaps(edges, xyz_1, xyz_2, confidence, confidence.clone())

    def _cast(self, n: int, uv: Tensor) -> Tensor:
        origin = self.world_from_cam[n, :3, 3]
        direction = rays(self.intrinsics[n], uv) @ self.world_from_cam[n, :3, :3].T
        wall = (self.wall_z - origin[2]) / direction[..., 2]
        floor = (self.floor_y - origin[1]) / direction[..., 1]
        wall = torch.where(floor > 0, torch.minimum(wall, floor), wall)
        low, high = ((origin.new_tensor(corner) - origin) / direction for corner in self.box)
        enter, leave = torch.minimum(low, high).amax(-1), torch.maximum(low, high).amin(-1)
        return torch.where((enter < leave) & (enter > 0), torch.minimum(enter, wall), wall)


def room(t: int = 5, size: tuple[int, int] = (24, 32), focal_px: float = 30.0, stride_m: float = 0.25) -> Room:
    """Cameras that walk to the right, bob and turn a little."""
    a = torch.arange(t).double()
    centre = torch.stack([stride_m * (a - (t - 1) / 2), 0.1 * torch.sin(1.3 * a), 0.08 * a], dim=-1)
    turn = roma.rotvec_to_rotmat(torch.stack([0.02 * torch.cos(a), -0.04 * (a - (t - 1) / 2), 0.01 * a], dim=-1))
    intrinsics = pinhole(torch.full((t,), focal_px, dtype=torch.float64), *size)
    return Room(pose(turn, centre), intrinsics, size)
