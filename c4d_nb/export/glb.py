"""glTF binary (GLB): a point cloud and the cameras, for any viewer of glTF, in a browser or Blender.

glTF has y up and a viewer that looks along -z: the world is turned so that the mean camera does. Its colours are
linear, so ours, sRGB, are decoded. Its positions are float32: they are kept about the scene's middle, and the node that
holds them has the rest.
"""

from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from c4d_nb.archive import atomic_output
from c4d_nb.camera import rays
from c4d_nb.errors import InputError
from c4d_nb.export.check import check_reprojection, checked_sample, optional_package
from c4d_nb.export.scene import Cameras, Points, original_cameras, scene_points
from c4d_nb.reconstruction import Reconstruction

CAMERA_COLOR = np.array([255, 80, 0, 255], dtype=np.uint8)
FRUSTUM_SHARE = 0.05
"""Depth of the drawn frusta over the median distance of the points."""


def to_glb(
    result: Reconstruction,
    path: str | Path,
    *,
    frame: int | None = None,
    min_confidence: float | None = None,
    max_points: int = 500_000,
) -> Path:
    """The static scene, or all that one ``frame`` shows, and every camera as a frustum; needs trimesh."""
    path = Path(path)
    trimesh = optional_package("trimesh", "GLB")
    cameras = original_cameras(result)
    points = scene_points(result, frame, min_confidence=min_confidence, max_points=max_points)
    middle = points.xyz_world.median(dim=0).values
    gltf_from_world = _upright(cameras)
    gltf_from_local = gltf_from_world @ _shift(middle)
    cloud = trimesh.PointCloud((points.xyz_world - middle).numpy(), colors=_linear(points.color))
    lines = trimesh.load_path((_frusta(cameras, points) - middle).numpy())
    lines.colors = np.tile(CAMERA_COLOR, (len(lines.entities), 1))
    scene = trimesh.Scene()
    scene.add_geometry(cloud, node_name="points", geom_name="points", transform=gltf_from_local)
    scene.add_geometry(lines, node_name="cameras", geom_name="cameras", transform=gltf_from_local)
    with atomic_output(path) as partial:
        partial.write_bytes(scene.export(file_type="glb"))
        _check(trimesh, points, cameras, gltf_from_world, partial)
    return path


def _upright(cameras: Cameras) -> np.ndarray:
    """gltf_from_world, a rotation: the mean of the cameras' axes, of which y and z are turned about."""
    world_from_gl = cameras.world_from_cam[:, :3, :3] * cameras.intrinsics.new_tensor([1, -1, -1])
    matrix = np.eye(4)
    matrix[:3, :3] = roma.special_procrustes(world_from_gl.mean(dim=0)).T.numpy()
    return matrix


def _shift(by: Float[Tensor, "3"]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = by.numpy()
    return matrix


def _linear(color: UInt8[Tensor, "n 3"]) -> UInt8[np.ndarray, "n 4"]:
    """sRGB to linear light (IEC 61966-2-1), with an opaque alpha."""
    value = color.numpy() / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.pad((255 * linear).round().astype(np.uint8), ((0, 0), (0, 1)), constant_values=255)


def _frusta(cameras: Cameras, points: Points) -> Float[Tensor, "s 2 3"]:
    """Line segments: from each camera's centre to its image's corners, and around them."""
    centres = cameras.world_from_cam[:, :3, 3]
    depth = FRUSTUM_SHARE * (points.xyz_world - centres[points.frame]).norm(dim=-1).median()
    w, h = cameras.width - 0.5, cameras.height - 0.5
    uv = cameras.intrinsics.new_tensor([[-0.5, -0.5], [w, -0.5], [w, h], [-0.5, h]])
    corners_cam = depth * rays(cameras.intrinsics, uv)
    corners = corners_cam @ cameras.world_from_cam[:, :3, :3].mT + centres[:, None]
    spokes = torch.stack([centres[:, None].expand_as(corners), corners], dim=2)
    frame = torch.stack([corners, corners.roll(-1, dims=1)], dim=2)
    return torch.cat([spokes, frame], dim=1).reshape(-1, 2, 3)


def _check(trimesh: object, points: Points, cameras: Cameras, gltf_from_world: np.ndarray, path: Path) -> None:
    scene = trimesh.load(path, file_type="glb")
    gltf_from_local, name = scene.graph.get("points")
    local = np.asarray(scene.geometry[name].vertices, dtype=np.float64)
    if len(local) != len(points):
        raise InputError(f"result: expected {len(points)} points in {path.name}, but read back it has {len(local)}")
    world = torch.from_numpy(trimesh.transform_points(local, gltf_from_world.T @ gltf_from_local))
    again = checked_sample(Points(points.frame, points.uv, world, points.color))
    check_reprojection(path, cameras.project(again.frame, again.xyz_world), again.uv)
