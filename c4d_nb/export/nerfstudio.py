"""nerfstudio's ``transforms.json`` with images, masks and points (https://docs.nerf.studio, data conventions).

Its cameras look along -z with y up (OpenGL), so y and z of ours are turned about; its principal point counts from the
corner of the image as COLMAP's does, so it is ours plus one half; ``masks/`` is black where a pixel is not to be
learned from, which here is where something moves.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from c4d_nb.archive import atomic_folder
from c4d_nb.errors import InputError
from c4d_nb.export.check import camera_probes, check_reprojection
from c4d_nb.export.images import FRAME_FILES, Frames, frame_name, write_frames, write_image
from c4d_nb.export.ply import write_checked_ply
from c4d_nb.export.scene import Cameras, check_maps, original_cameras, scene_points
from c4d_nb.reconstruction import Reconstruction

GL_FROM_CV = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
INTRINSICS = ("fl_x", "fl_y", "cx", "cy")


def to_nerfstudio(
    result: Reconstruction,
    path: str | Path,
    *,
    originals: Frames | None = None,
    min_confidence: float | None = None,
    max_points: int = 100_000,
) -> Path:
    """A data folder for ``ns-train``: ``transforms.json``, ``images``, ``masks`` and ``points.ply``, the static points.

    ``originals`` are the video's own frames; without them the clip's are enlarged to the size of the video.
    """
    cameras = original_cameras(result)
    check_maps(result)
    points = scene_points(result, min_confidence=min_confidence, max_points=max_points)
    with atomic_folder(path, argument="path", replaces=FRAME_FILES) as folder:
        write_frames(result, folder / "images", originals)
        _write_masks(result, folder / "masks")
        write_checked_ply(points, cameras, folder / "points.ply")
        text = json.dumps(_transforms(cameras), indent=1, allow_nan=False)
        (folder / "transforms.json").write_text(text, encoding="utf-8")
        _check(cameras, folder)
    return Path(path)


def read_transforms(file: str | Path) -> Cameras:
    """The cameras of a ``transforms.json`` of this module, in our conventions."""
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    frames = content["frames"]
    K = torch.eye(3, dtype=torch.float64).repeat(len(frames), 1, 1)
    fx, fy, cx, cy = torch.tensor([[f[name] for name in INTRINSICS] for f in frames], dtype=torch.float64).unbind(-1)
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = fx, fy, cx - 0.5, cy - 0.5
    world_from_gl = torch.tensor([f["transform_matrix"] for f in frames], dtype=torch.float64)
    return Cameras(K, world_from_gl @ GL_FROM_CV, content["h"], content["w"])


def _transforms(cameras: Cameras) -> dict[str, object]:
    world_from_gl = (cameras.world_from_cam @ GL_FROM_CV).tolist()
    K = cameras.intrinsics
    values = torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2] + 0.5, K[:, 1, 2] + 0.5], dim=-1).tolist()
    frames = [
        {
            "file_path": f"images/{frame_name(i, '.jpg')}",
            "mask_path": f"masks/{frame_name(i, '.png')}",
            "transform_matrix": world_from_gl[i],
            **dict(zip(INTRINSICS, values[i], strict=True)),
        }
        for i in range(len(K))
    ]
    size = {"w": cameras.width, "h": cameras.height}
    return {"camera_model": "OPENCV", **size, "ply_file_path": "points.ply", "frames": frames}


def _write_masks(result: Reconstruction, folder: Path) -> None:
    folder.mkdir()
    for i, mask in enumerate(result.motion_mask.cpu()):
        static = ~result.clip.original.mask_to_original(mask[None])[0]
        write_image(folder / frame_name(i, ".png"), 255 * static.numpy().astype(np.uint8))


def _check(cameras: Cameras, folder: Path) -> None:
    file = folder / "transforms.json"
    probes = camera_probes(cameras)
    check_reprojection(file, read_transforms(file).project(probes.frame, probes.xyz_world), probes.uv)
    for kind in ("images", "masks"):
        for image in sorted((folder / kind).iterdir()):
            size = cv2.imread(str(image), cv2.IMREAD_UNCHANGED).shape[:2]
            if size != (cameras.height, cameras.width):
                raise InputError(f"result: expected {image.name} of {cameras.width}x{cameras.height} px, it is {size}")
