"""COLMAP's sparse model in its binary form, with the images: what Gaussian splatting and its kin start from.

Layout and formats: https://colmap.github.io/format.html. COLMAP's image coordinates have (0.5, 0.5) at the centre of
the top-left pixel, so ours plus one half; its poses are cam_from_world with quaternions wxyz. Every point is seen in
the one image that it comes from, at its pixel.
"""

from pathlib import Path

import numpy as np
import roma
import torch

from c4d_nb.archive import atomic_folder
from c4d_nb.errors import InputError
from c4d_nb.export.check import camera_probes, check_reprojection, checked_sample, optional_package
from c4d_nb.export.images import FRAME_FILES, Frames, frame_name, write_frames
from c4d_nb.export.scene import Cameras, Points, original_cameras, scene_points
from c4d_nb.reconstruction import Reconstruction

PINHOLE = 1
MODEL = Path("sparse", "0")
FILES = {"cameras.bin", "images.bin", "points3D.bin"}


def to_colmap(
    result: Reconstruction,
    path: str | Path,
    *,
    originals: Frames | None = None,
    min_confidence: float | None = None,
    max_points: int = 100_000,
) -> Path:
    """``path/sparse/0`` with cameras, poses and static points, ``path/images`` with the frames; needs pycolmap.

    ``originals`` are the video's own frames; without them the clip's are enlarged to the size of the video. Other files
    in ``path`` stay, except that a model of another writer in ``sparse/0`` is an ``InputError``.
    """
    path = Path(path)
    optional_package("pycolmap", "COLMAP's model")
    refuse_other_model(path)
    cameras = original_cameras(result)
    points = scene_points(result, min_confidence=min_confidence, max_points=max_points)
    with atomic_folder(path, argument="path", replaces=FRAME_FILES) as folder:
        write_frames(result, folder / "images", originals)
        write_model(cameras, points, folder / MODEL)
        check_model(cameras, points, folder / MODEL)
    return path


def refuse_other_model(path: Path) -> None:
    """Readers prefer some files of a model to others: a mixture of two would be neither."""
    others = {file.name for file in (path / MODEL).glob("*")} - FILES
    if others:
        raise InputError(f"path: expected no model of another writer in {path / MODEL}, but there is {min(others)}")


def write_model(cameras: Cameras, points: Points, folder: Path) -> None:
    """The three binary files."""
    folder.mkdir(parents=True)
    t = len(cameras.intrinsics)
    shared = bool((cameras.intrinsics == cameras.intrinsics[0]).all())
    (folder / "cameras.bin").write_bytes(_camera_table(cameras, 1 if shared else t))
    counts = torch.bincount(points.frame, minlength=t)
    first = counts.cumsum(0) - counts
    quaternions = roma.rotmat_to_unitquat(cameras.cam_from_world[:, :3, :3]).roll(1, dims=-1).numpy()
    seen = np.empty(len(points), [("xy", "<f8", 2), ("point", "<i8")])
    seen["xy"], seen["point"] = points.uv.numpy() + 0.5, np.arange(len(points)) + 1
    with open(folder / "images.bin", "wb") as file:
        file.write(np.uint64(t).tobytes())
        for i in range(t):
            file.write(np.int32(i + 1).tobytes() + quaternions[i].astype("<f8").tobytes())
            file.write(cameras.cam_from_world[i, :3, 3].numpy().astype("<f8").tobytes())
            file.write(np.int32(1 if shared else i + 1).tobytes() + frame_name(i, ".jpg").encode() + b"\0")
            file.write(np.uint64(int(counts[i])).tobytes() + seen[first[i] : first[i] + counts[i]].tobytes())
    (folder / "points3D.bin").write_bytes(_point_table(points, torch.arange(len(points)) - first[points.frame]))


def _camera_table(cameras: Cameras, count: int) -> bytes:
    table = np.empty(count, [("id", "<i4"), ("model", "<i4"), ("size", "<u8", 2), ("parameters", "<f8", 4)])
    table["id"], table["model"], table["size"] = np.arange(count) + 1, PINHOLE, (cameras.width, cameras.height)
    K = cameras.intrinsics[:count].numpy()
    table["parameters"] = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2] + 0.5, K[:, 1, 2] + 0.5], axis=-1)
    return np.uint64(count).tobytes() + table.tobytes()


def _point_table(points: Points, place: torch.Tensor) -> bytes:
    """``place`` is a point's number among those that its image sees."""
    columns = [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")]
    table = np.empty(len(points), [*columns, ("image", "<i4"), ("place", "<i4")])
    table["id"], table["xyz"], table["rgb"] = np.arange(len(points)) + 1, points.xyz_world.numpy(), points.color.numpy()
    table["error"], table["length"] = 0, 1
    table["image"], table["place"] = points.frame.numpy() + 1, place.numpy()
    return np.uint64(len(points)).tobytes() + table.tobytes()


def check_model(cameras: Cameras, points: Points, folder: Path) -> None:
    """pycolmap reads the model, and its own projection puts all where it belongs."""
    model = optional_package("pycolmap", "COLMAP's model").Reconstruction(str(folder))
    if (len(model.images), len(model.points3D)) != (len(cameras.intrinsics), len(points)):
        raise InputError(
            f"result: expected {len(cameras.intrinsics)} images and {len(points)} points in {folder.name} when it is "
            f"read back, but there are {len(model.images)} and {len(model.points3D)}"
        )
    probes = camera_probes(cameras)
    projected = [
        model.images[frame + 1].project_point(xyz)
        for frame, xyz in zip(probes.frame.tolist(), probes.xyz_world.numpy(), strict=True)
    ]
    check_reprojection(folder, _pixels(projected), probes.uv)
    sample = checked_sample(points)
    ids = torch.arange(len(sample)) * len(points) // len(sample) + 1
    seen = [model.points3D[i] for i in ids.tolist()]
    elements = [point.track.elements[0] for point in seen]
    images = [model.images[element.image_id] for element in elements]
    check_reprojection(
        folder, _pixels([image.project_point(point.xyz) for image, point in zip(images, seen, strict=True)]), sample.uv
    )
    marked = [image.points2D[element.point2D_idx].xy for image, element in zip(images, elements, strict=True)]
    check_reprojection(folder, _pixels(marked), sample.uv)


def _pixels(uv_colmap: list[np.ndarray | None]) -> torch.Tensor:
    """In our convention; NaN for a point behind its camera."""
    nowhere = np.full(2, np.nan)
    return torch.from_numpy(np.array([nowhere if uv is None else uv for uv in uv_colmap])) - 0.5
