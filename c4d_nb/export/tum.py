"""The camera's path in the format of TUM RGB-D: "timestamp tx ty tz qx qy qz qw", world from camera, a line a frame."""

from pathlib import Path

import roma
import torch

from c4d_nb.archive import atomic_output
from c4d_nb.datasets.tum import read_trajectory
from c4d_nb.export.check import camera_probes, check_reprojection
from c4d_nb.export.scene import Cameras, original_cameras
from c4d_nb.reconstruction import Reconstruction


def to_tum(result: Reconstruction, path: str | Path) -> Path:
    """Timestamps are frame numbers over the clip's frame rate, in seconds; the unit of length is the result's."""
    path = Path(path)
    cameras = original_cameras(result)
    times = torch.arange(len(result.clip), dtype=torch.float64) / (result.clip.fps or 1.0)
    quaternions = roma.rotmat_to_unitquat(cameras.world_from_cam[:, :3, :3])
    rows = torch.cat([times[:, None], cameras.world_from_cam[:, :3, 3], quaternions], dim=-1)
    lines = [" ".join(f"{value:.17g}" for value in row) for row in rows.tolist()]
    with atomic_output(path) as partial:
        partial.write_text("\n".join(["# timestamp tx ty tz qx qy qz qw", *lines, ""]))
        again = Cameras(cameras.intrinsics, read_trajectory(partial).world_from_cam, cameras.height, cameras.width)
        probes = camera_probes(cameras)
        check_reprojection(path, again.project(probes.frame, probes.xyz_world), probes.uv)
    return path
