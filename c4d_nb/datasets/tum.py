"""TUM RGB-D (Sturm et al., IROS 2012): a Kinect's colour and depth, with the camera's path from motion capture.

The layout into which a sequence unpacks::

    rgbd_dataset_freiburg3_walking_xyz/rgb.txt           lines of "timestamp rgb/timestamp.png", # begins a comment
                                       depth.txt         the same for depth/timestamp.png: 16 bits, 5000 are a metre
                                       groundtruth.txt   "timestamp tx ty tz qx qy qz qw": world from camera

The three have times of their own, which are associated as by the benchmark's own tool: closest pairs first, none over
20 ms. Licence: CC BY 4.0. Page: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/download
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.camera import intrinsics_matrix, pose
from c4d_nb.clip import Clip, Truth, check_selection, resize_clip
from c4d_nb.datasets.layout import (
    PROTOCOL_FRAMES,
    PROTOCOL_STRIDE,
    chosen,
    read_depth_png,
    readable_file,
    required,
    stacked,
)
from c4d_nb.errors import InputError
from c4d_nb.metrics import associate_timestamps
from c4d_nb.video import read_image

PAGE = "https://cvg.cit.tum.de/data/datasets/rgbd-dataset/download"
FPS = 30.0
DEPTH_STEPS_PER_M = 5000
CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
"""fx, fy, cx, cy of the colour cameras as published, px. The first two also distort, which is not undone."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A camera's path in TUM's format: seconds (of 1970, usually) and poses, both float64."""

    times_s: Float[Tensor, "t"]
    world_from_cam: Float[Tensor, "t 4 4"]


def read_tum(
    path: str | Path,
    *,
    start: int = 0,
    stride: int = PROTOCOL_STRIDE,
    max_frames: int | None = PROTOCOL_FRAMES,
    long_side: int | None = None,
) -> Clip:
    """A sequence with metric depth (0 is unknown) and poses; the protocol's frames by default, all with ``stride=1,
    max_frames=None``.

    Frames without a pose within 20 ms are left out before they are counted; a frame without a depth image has depth 0
    all over. Without ``groundtruth.txt`` or ``depth.txt`` that truth is None. Intrinsics follow from ``freiburg1`` to
    ``freiburg3`` in the folder's name, else they are None.
    """
    check_selection(start, stride, max_frames, long_side)
    path = Path(path)
    times, files = _read_list(required(path / "rgb.txt", "a sequence of TUM RGB-D", PAGE))
    every, poses = range(len(times)), None
    if (path / "groundtruth.txt").exists():
        trajectory = read_trajectory(path / "groundtruth.txt")
        pairs = associate_timestamps(times, trajectory.times_s).tolist()
        if not pairs:
            raise InputError(f"path: expected poses within 20 ms of the frames, but groundtruth.txt of {path} has none")
        every, poses = [i for i, _ in pairs], trajectory.world_from_cam[[nearest for _, nearest in pairs]]
        poses = poses[start::stride][:max_frames].float()
    kept = chosen(every, path, start, stride, max_frames)
    frames = stacked([required(path / files[i], "a frame of TUM RGB-D", PAGE) for i in kept], read_image)
    truth = Truth(
        depth=_read_depth(path, times[kept], tuple(frames.shape[1:3])),
        world_from_cam=poses,
        intrinsics=_intrinsics(path, len(kept)),
    )
    return resize_clip(Clip(frames, FPS / stride, truth=truth), long_side)


def read_trajectory(path: str | Path) -> Trajectory:
    """A path in TUM's format, in the order of the file; commas and comments are allowed, as by TUM's tools.

    Raises ``InputError`` for a file without poses, a line that is none and a quaternion of no length.
    """
    path, what = Path(path), "lines of: timestamp tx ty tz qx qy qz qw"
    rows = _rows(path, what)
    with readable_file(path, what):
        values = torch.from_numpy(np.array(rows, dtype=np.float64).reshape(len(rows), -1))
        if values.shape[1] != 8 or not values.isfinite().all():
            raise ValueError("expected 8 finite numbers a line")
    quaternions = values[:, 4:]
    if (quaternions.norm(dim=-1) < 1e-6).any():
        raise InputError(f"path: expected unit quaternions, but {path} has one of length 0")
    rotation = roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternions, dim=-1))
    return Trajectory(values[:, 0], pose(rotation, values[:, 1:4]))


def _read_list(file: Path) -> tuple[Float[Tensor, "n"], list[str]]:
    what = "lines of: timestamp file"
    rows = _rows(file, what)
    with readable_file(file, what):
        times = torch.tensor([float(row[0]) for row in rows], dtype=torch.float64)
        if any(len(row) != 2 for row in rows) or not times.isfinite().all():
            raise ValueError("expected a time and a file a line")
    return times, [row[1] for row in rows]


def _rows(file: Path, what: str) -> list[list[str]]:
    with readable_file(file, what):
        lines = [line.replace(",", " ").split() for line in file.read_text().splitlines()]
        rows = [line for line in lines if line and not line[0].startswith("#")]
        if not rows:
            raise ValueError("it has no line")
    return rows


def _read_depth(path: Path, times: Float[Tensor, "t"], size: tuple[int, int]) -> Float[Tensor, "t h w"] | None:
    """The depth image nearest to each frame; 0 where there is none."""
    if not (path / "depth.txt").exists():
        return None
    depth_times, files = _read_list(path / "depth.txt")
    depth = torch.zeros(len(times), *size)
    for i, nearest in associate_timestamps(times, depth_times).tolist():
        file = required(path / files[nearest], "a depth image of TUM RGB-D", PAGE)
        depth[i] = stacked([file], read_depth_png, size)[0].float() / DEPTH_STEPS_PER_M
    return depth


def _intrinsics(path: Path, count: int) -> Float[Tensor, "t 3 3"] | None:
    named = re.search("freiburg[123]", path.resolve().name)
    if named is None:
        return None
    fx, fy, cx, cy = CAMERAS[named[0]]
    return intrinsics_matrix(torch.tensor([fx, fy]), torch.tensor([cx, cy])).expand(count, 3, 3).clone()
