"""The proof that an export is right: read back, its points fall on the pixels that they came from."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.camera import pixel_grid, rays
from c4d_nb.errors import InputError
from c4d_nb.export.scene import Cameras, Points

TOLERANCE_PX = 1e-3
CHECKED_POINTS = 5000


def optional_package(name: str, what: str) -> ModuleType:
    """A package of the extra ``export``, imported only now. Raises ``InputError`` with pip's line where it is not."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"export: {what} needs {name}, which is not installed: pip install {name}") from error


def checked_sample(points: Points) -> Points:
    """So many of the points, spread evenly, as are read back."""
    count = min(len(points), CHECKED_POINTS)
    return points[torch.arange(count) * len(points) // count]


def camera_probes(cameras: Cameras) -> Points:
    """Points that pin every camera down: pixels from corner to corner of each frame, at two depths."""
    t = len(cameras.intrinsics)
    lattice = pixel_grid(3, 3).double().reshape(-1, 2) / 2
    uv = lattice * lattice.new_tensor([cameras.width - 1, cameras.height - 1])
    centres = cameras.world_from_cam[:, :3, 3]
    depth = (centres - centres.mean(dim=0)).norm(dim=-1).max().clamp(min=1) * uv.new_tensor([1, 3])
    xyz_cam = rays(cameras.intrinsics, uv)[:, None] * depth[:, None, None]
    pose = cameras.world_from_cam[:, None, None]
    xyz_world = (pose[..., :3, :3] @ xyz_cam[..., None])[..., 0] + pose[..., :3, 3]
    return Points(
        frame=torch.arange(t).repeat_interleave(2 * len(uv)),
        uv=uv.expand(t, 2, -1, 2).reshape(-1, 2),
        xyz_world=xyz_world.reshape(-1, 3),
        color=torch.zeros(2 * t * len(uv), 3, dtype=torch.uint8),
    )


def check_reprojection(path: Path, found: Float[Tensor, "n 2"], expected: Float[Tensor, "n 2"]) -> None:
    """Raises ``InputError`` unless all projected points are where they belong, in original pixels."""
    off = (found - expected).norm(dim=-1).max().item() if found.shape == expected.shape else float("inf")
    if not off <= TOLERANCE_PX:  # NaN is not
        raise InputError(
            f"result: expected {path.name}, when it is read back, to project within {TOLERANCE_PX} px of its pixels, "
            f"but a point is {off:.2g} px off; nothing was written"
        )
