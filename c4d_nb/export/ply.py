"""Point clouds as binary PLY: x y z (float64, so that no pixel is lost), red green blue."""

from pathlib import Path

import numpy as np
import torch

from c4d_nb.archive import atomic_folder, atomic_output
from c4d_nb.errors import InputError
from c4d_nb.export.check import check_reprojection, checked_sample
from c4d_nb.export.images import FRAME_FILES, frame_name
from c4d_nb.export.scene import Cameras, Points, frame_points, original_cameras, scene_points
from c4d_nb.reconstruction import Reconstruction

VERTEX = np.dtype([("xyz", "<f8", 3), ("rgb", "u1", 3)])


def to_ply(
    result: Reconstruction,
    path: str | Path,
    *,
    frame: int | None = None,
    min_confidence: float | None = None,
    max_points: int = 1_000_000,
) -> Path:
    """The static scene, from all frames; or, of one ``frame``, all that it shows. In world coordinates."""
    path = Path(path)
    points = scene_points(result, frame, min_confidence=min_confidence, max_points=max_points)
    with atomic_output(path) as partial:
        write_checked_ply(points, original_cameras(result), partial)
    return path


def to_ply_sequence(
    result: Reconstruction,
    path: str | Path,
    *,
    min_confidence: float | None = None,
    max_points: int = 200_000,
) -> Path:
    """``path/frame_00000.ply`` and so on: what each frame shows, ``max_points`` a frame at most, perhaps nothing."""
    cameras, total = original_cameras(result), 0
    with atomic_folder(path, argument="path", replaces=FRAME_FILES) as folder:
        for i in range(len(result.clip)):
            points = frame_points(result, i, min_confidence=min_confidence, max_points=max_points)
            write_checked_ply(points, cameras, folder / frame_name(i, ".ply"))
            total += len(points)
        if not total:
            raise InputError("result: expected finite positive depth of the wanted confidence, but there is none")
    return Path(path)


def write_checked_ply(points: Points, cameras: Cameras, path: Path) -> None:
    """Write a cloud, and read it back."""
    vertices = np.empty(len(points), VERTEX)
    vertices["xyz"], vertices["rgb"] = points.xyz_world.numpy(), points.color.numpy()
    properties = [f"property double {axis}" for axis in "xyz"]
    properties += [f"property uchar {color}" for color in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header"]
    path.write_bytes("\n".join([*header, ""]).encode("ascii") + vertices.tobytes())
    read = torch.from_numpy(read_ply(path)["xyz"].copy())
    if len(read) != len(points):
        raise InputError(f"result: expected {len(points)} points in {path.name}, but read back it has {len(read)}")
    if len(points):
        again = checked_sample(Points(points.frame, points.uv, read, points.color))
        check_reprojection(path, cameras.project(again.frame, again.xyz_world), again.uv)


def read_ply(path: Path) -> np.ndarray:
    """The vertices (fields xyz and rgb) of a file of this module."""
    header, end, data = path.read_bytes().partition(b"end_header\n")
    if not end or not header.startswith(b"ply\nformat binary_little_endian 1.0\n") or len(data) % VERTEX.itemsize:
        raise InputError(f"path: expected a PLY file as written here, but {path} is none")
    return np.frombuffer(data, VERTEX)
