"""Pinhole cameras, rigid poses and similarities. Conventions: the docstring of ``c4d_nb``.

Functions accept any leading batch dimensions, written ``*b``.
"""

import roma
import torch
from jaxtyping import Float
from torch import Tensor


def pixel_grid(height: int, width: int, *, like: Tensor | None = None) -> Float[Tensor, "h w 2"]:
    """The uv of every pixel centre: ``pixel_grid(h, w)[v, u] == (u, v)``; dtype and device of ``like``."""
    options = {} if like is None else {"dtype": like.dtype, "device": like.device}
    v, u = torch.meshgrid(torch.arange(height, **options), torch.arange(width, **options), indexing="ij")
    return torch.stack([u, v], dim=-1).to(options.get("dtype", torch.float32))


def pinhole(focal_px: Float[Tensor, "*b"] | float, height: int, width: int) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics with square pixels and the principal point in the middle of the image."""
    focal_px = torch.as_tensor(focal_px)
    centre = focal_px.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(*focal_px.shape, 2)
    return intrinsics_matrix(torch.stack([focal_px, focal_px], dim=-1), centre)


def intrinsics_matrix(focal_px: Float[Tensor, "*b 2"], centre_px: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 3 3"]:
    """K from (fx, fy) and (cx, cy)."""
    upper = torch.cat([torch.diag_embed(focal_px), centre_px[..., None]], dim=-1)
    last = focal_px.new_tensor([[0, 0, 1]]).expand(*focal_px.shape[:-1], 1, 3)
    return torch.cat([upper, last], dim=-2)


def rays(intrinsics: Float[Tensor, "*b 3 3"], uv: Float[Tensor, "*c 2"]) -> Float[Tensor, "*d 3"]:
    """Viewing rays of pixels in camera coordinates, scaled to z = 1: ``depth * ray`` is the point.

    One K: ``uv`` of any shape. K with leading dimensions b: ``uv`` (..., 2) broadcasts against (*b, ..., 2) on
    trailing point dimensions, so a batch (t,) of K and a grid (h, w, 2) give (t, h, w, 3).
    """
    batch = intrinsics.shape[:-2]
    if batch and uv.shape[: len(batch)] != batch:
        uv = uv.expand(*batch, *uv.shape)
    points = uv.ndim - 1 - len(batch)
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)
    shape = (*batch, *(1,) * points, 2)
    xy = (uv - intrinsics[..., :2, 2].reshape(shape)) / focal.reshape(shape)
    return torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)


def unproject(depth: Float[Tensor, "*b h w"], intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b h w 3"]:
    """Depth maps (z) to points in each camera's frame."""
    grid = pixel_grid(*depth.shape[-2:], like=depth)
    return depth[..., None] * rays(intrinsics, grid)


def project(
    xyz_cam: Float[Tensor, "*#b n 3"], intrinsics: Float[Tensor, "*#b 3 3"]
) -> tuple[Float[Tensor, "*#b n 2"], Float[Tensor, "*#b n"]]:
    """Points in the camera's frame to (uv, depth). Points with depth <= 0 are behind the camera: uv is then
    meaningless."""
    homogeneous = xyz_cam @ intrinsics.mT
    depth = xyz_cam[..., 2]
    safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
    return homogeneous[..., :2] / safe[..., None], depth


def transform(b_from_a: Float[Tensor, "*#b 4 4"], xyz: Float[Tensor, "*#b n 3"]) -> Float[Tensor, "*#b n 3"]:
    """Apply a rigid or similarity matrix to points."""
    return xyz @ b_from_a[..., :3, :3].mT + b_from_a[..., None, :3, 3]


def pose(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """The 4x4 matrix of ``x -> rotation x + translation``."""
    upper = torch.cat([rotation, translation[..., None]], dim=-1)
    last = rotation.new_tensor([[0, 0, 0, 1]]).expand(*rotation.shape[:-2], 1, 4)
    return torch.cat([upper, last], dim=-2)


def invert(b_from_a: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """The inverse of a rigid matrix: a_from_b."""
    rotation = b_from_a[..., :3, :3].mT
    return pose(rotation, -(rotation @ b_from_a[..., :3, 3:])[..., 0])


def rotation_angle_deg(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle of a rotation in degrees; exact near 0, where arccos of the trace is not."""
    return torch.rad2deg(roma.rotmat_to_rotvec(rotation).norm(dim=-1))


def fit_similarity(
    source: Float[Tensor, "*b n 3"], target: Float[Tensor, "*b n 3"], weights: Float[Tensor, "*b n"] | None = None
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    """(scale, R, T) with ``target ~ scale * R source + T`` in weighted least squares (Umeyama; Procrustes by roma)."""
    rotation, translation, scale = roma.rigid_points_registration(source, target, weights, compute_scaling=True)
    return scale, rotation, translation
