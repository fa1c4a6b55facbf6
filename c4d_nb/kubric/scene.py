"""What a rendered scene is: textured rigid bodies in a room, a camera path, a sun.

World axes are right-handed with z up, lengths are in metres.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.camera import pose
from c4d_nb.clip import check_intrinsics
from c4d_nb.errors import InputError

Color = tuple[float, float, float]
SHAPES = {"sphere": 0, "ellipsoid": 0, "box": 1}
PATTERNS = {"marble": 0, "checks": 1, "stripes": 2, "tiles": 3, "bricks": 4}


@dataclass(frozen=True)
class Texture:
    """A procedural solid texture: a pattern of two colours, flecked with the third, under noise of many octaves."""

    pattern: str
    colors: tuple[Color, Color, Color]
    """sRGB in [0, 1]."""
    scale_m: float
    """Size of a check, a tile or the coarsest noise; stripes are half as wide."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise InputError(f"pattern: expected one of {', '.join(PATTERNS)}, but it is {self.pattern!r}")
        if not self.scale_m > 0:
            raise InputError(f"scale_m: expected a positive length, but it is {self.scale_m}")


@dataclass(frozen=True, eq=False)
class Body:
    """A rigid solid; ``positions`` of its centre in the world, ``quaternions`` (xyzw) of world_from_obj."""

    shape: str
    half_size_m: tuple[float, float, float]
    """Half the extent along the body's own axes: the semi-axes of an ellipsoid, three times the radius of a sphere."""
    positions: Float[Tensor, "t 3"]
    quaternions: Float[Tensor, "t 4"]
    texture: Texture

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"shape: expected one of {', '.join(SHAPES)}, but it is {self.shape!r}")
        if min(self.half_size_m) <= 0 or (self.shape == "sphere" and len(set(self.half_size_m)) != 1):
            raise InputError(
                f"half_size_m: expected positive lengths, equal for a sphere, but it is {self.half_size_m}"
            )
        if self.positions.shape != (len(self.quaternions), 3) or self.quaternions.shape[1:] != (4,):
            raise InputError(
                f"quaternions: expected (t, 4) beside positions (t, 3), but they are {tuple(self.quaternions.shape)} "
                f"and {tuple(self.positions.shape)}"
            )
        if not torch.isfinite(self.positions).all() or ((self.quaternions.norm(dim=-1) - 1).abs() > 1e-4).any():
            raise InputError("quaternions: expected unit norm, and finite positions")


@dataclass(frozen=True, eq=False)
class Scene:
    """Bodies in a closed room, so that every pixel has a depth; a camera path; a sun that shines through walls."""

    bodies: tuple[Body, ...]
    room: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Lowest and highest corner; the floor is the lowest face."""
    floor: Texture
    walls: Texture
    world_from_cam: Float[Tensor, "t 4 4"]
    intrinsics: Float[Tensor, "3 3"]
    height: int
    width: int
    sun: tuple[float, float, float] = (-0.5, -0.6, 0.9)
    """Direction **towards** the sun, of any length."""

    def __post_init__(self) -> None:
        check_intrinsics(self.intrinsics)
        for number, body in enumerate(self.bodies):
            if len(body.positions) != len(self):
                raise InputError(
                    f"bodies: expected {len(self)} poses, as of the camera, but body {number} has {len(body.positions)}"
                )
        centers, (low, high) = self.world_from_cam[:, :3, 3], self.world_from_cam.new_tensor(self.room)
        if not ((centers > low) & (centers < high)).all():
            raise InputError("world_from_cam: expected every camera inside the room")

    def __len__(self) -> int:
        return len(self.world_from_cam)

    @property
    def positions(self) -> Float[Tensor, "o t 3"]:
        return torch.stack([b.positions for b in self.bodies]) if self.bodies else torch.zeros(0, len(self), 3)

    @property
    def quaternions(self) -> Float[Tensor, "o t 4"]:
        return torch.stack([b.quaternions for b in self.bodies]) if self.bodies else torch.zeros(0, len(self), 4)


def look_at(eye: Float[Tensor, "*b 3"], target: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """world_from_cam of upright cameras at ``eye`` that look at ``target`` (world z is up)."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = forward.new_tensor([0, 0, 1]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    return pose(torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1), eye)
