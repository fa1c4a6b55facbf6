"""What a rendered scene is: textured rigid bodies in a room, a camera path, a sun.

World axes are right-handed with z up, lengths are in metres.
"""

import math
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.camera import pose
from c4d_nb.clip import check_intrinsics
from c4d_nb.errors import InputError

Vector = tuple[float, float, float]
SHAPES = {"ellipsoid": 0, "box": 1, "cylinder": 2, "capsule": 3}
PATTERNS = {"marble": 0, "checks": 1, "stripes": 2, "tiles": 3, "bricks": 4, "dots": 5, "cells": 6, "image": 7}


@dataclass(frozen=True)
class Texture:
    """A solid texture: a pattern of two colours, flecked with the third, under noise of many octaves; or an image."""

    pattern: str
    colors: tuple[Vector, Vector, Vector] = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    """sRGB in [0, 1]; the first tints an image."""
    scale_m: float = 1.0
    """Size of a check, a tile or the coarsest noise, and the width of an image; stripes are half as wide."""
    seed: int = 0
    grain: float = 0.95
    """Contrast of the noise."""
    gloss: float = 0.0
    """Strength of the sun's reflection, in [0, 1]."""
    image: str | None = None
    """Path of the picture, for the pattern "image"."""

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise InputError(f"pattern: expected one of {', '.join(PATTERNS)}, but it is {self.pattern!r}")
        if not self.scale_m > 0:
            raise InputError(f"scale_m: expected a positive length, but it is {self.scale_m}")
        if (self.pattern == "image") != (self.image is not None):
            raise InputError('image: expected a path with the pattern "image", and None with any other')


@dataclass(frozen=True)
class Part:
    """A convex solid with its place in the axes of the body it belongs to."""

    shape: str
    half_size_m: Vector
    """Half the extent along the part's own axes; cylinders and capsules stand along z, the latter with their caps."""
    texture: Texture
    center_m: Vector = (0.0, 0.0, 0.0)
    quaternion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """body_from_part, xyzw."""

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"shape: expected one of {', '.join(SHAPES)}, but it is {self.shape!r}")
        x, y, z = self.half_size_m
        round_part = self.shape in ("cylinder", "capsule")
        if min(x, y, z) <= 0 or (round_part and x != y) or (self.shape == "capsule" and z < x):
            raise InputError(
                "half_size_m: expected positive lengths, the first two equal for a cylinder and a capsule, the third "
                f"no less for a capsule, but it is {self.half_size_m} for a {self.shape}"
            )

    @property
    def body_from_part(self) -> Float[Tensor, "4 4"]:
        rotation = roma.unitquat_to_rotmat(roma.quat_normalize(torch.tensor(self.quaternion, dtype=torch.float64)))
        return pose(rotation, torch.tensor(self.center_m, dtype=torch.float64))

    @property
    def volume_m3(self) -> float:
        x, y, z = self.half_size_m
        if self.shape == "box":
            return 8 * x * y * z
        if self.shape == "cylinder":
            return 2 * math.pi * x * x * z
        return 4 / 3 * math.pi * x * y * z if self.shape == "ellipsoid" else math.pi * x * x * (2 * z - 2 / 3 * x)

    @property
    def radius_m(self) -> float:
        """Of the sphere around the part, about its own centre."""
        x, y, z = self.half_size_m
        return {"box": math.hypot(x, y, z), "cylinder": math.hypot(x, z)}.get(self.shape, max(x, y, z))

    @property
    def box_m(self) -> Float[Tensor, "2 3"]:
        """Lowest and highest corner of the tightest box along the body's axes."""
        place = self.body_from_part
        half, axes = place.new_tensor(self.half_size_m), place[:3, :3]
        radius, along = half[0], axes[:, 2].abs()
        reach = {
            "ellipsoid": (axes * half).norm(dim=1),
            "box": axes.abs() @ half,
            "cylinder": half[2] * along + radius * (1 - along**2).clamp(min=0).sqrt(),
            "capsule": (half[2] - radius) * along + radius,
        }[self.shape]
        return torch.stack([place[:3, 3] - reach, place[:3, 3] + reach])


@dataclass(frozen=True, eq=False)
class Body:
    """A rigid body: one part, or a compound of several, and where its origin and axes are in every frame."""

    parts: tuple[Part, ...]
    positions: Float[Tensor, "t 3"]
    quaternions: Float[Tensor, "t 4"]
    """world_from_obj, xyzw."""
    is_dynamic: bool = False
    """Kubric's flag: tossed at the start."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("parts: expected at least one, but there is none")
        if self.positions.shape != (len(self.quaternions), 3) or self.quaternions.shape[1:] != (4,):
            raise InputError(
                f"quaternions: expected (t, 4) beside positions (t, 3), but they are {tuple(self.quaternions.shape)} "
                f"and {tuple(self.positions.shape)}"
            )
        if not torch.isfinite(self.positions).all() or ((self.quaternions.norm(dim=-1) - 1).abs() > 1e-4).any():
            raise InputError("quaternions: expected unit norm, and finite positions")

    @property
    def box_m(self) -> Float[Tensor, "2 3"]:
        """Lowest and highest corner, in the body's own axes."""
        return parts_box(self.parts)

    @property
    def radius_m(self) -> float:
        """Of a sphere around the body, about its origin."""
        return max(math.hypot(*part.center_m) + part.radius_m for part in self.parts)


@dataclass(frozen=True)
class Light:
    """A sun, as a disc far away, and a sky that shines from everywhere above the surface."""

    sun: Vector = (-0.5, -0.6, 0.9)
    """Direction **towards** the sun, of any length."""
    sun_color: Vector = (0.78, 0.73, 0.64)
    """Linear; a white surface that faces the sun has this colour, and the sky's."""
    sky_color: Vector = (0.38, 0.41, 0.47)
    sun_radius: float = 0.07
    """Of the disc, in radians: how soft shadows are."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Bodies in a closed room, so that every pixel has a depth; a camera path; a light that shines through walls."""

    bodies: tuple[Body, ...]
    room: tuple[Vector, Vector]
    """Lowest and highest corner; the floor is the lowest face."""
    floor: Texture
    walls: Texture
    world_from_cam: Float[Tensor, "t 4 4"]
    intrinsics: Float[Tensor, "3 3"]
    height: int
    width: int
    light: Light = Light()
    motion_blur: float = 0.0
    """How long the shutter is open, in frames, centred on the frame's instant. Truth stays sharp."""

    def __post_init__(self) -> None:
        check_intrinsics(self.intrinsics)
        if not 0 <= self.motion_blur <= 2:
            raise InputError(f"motion_blur: expected 0 to 2 frames, but it is {self.motion_blur}")
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

    @property
    def boxes_m(self) -> Float[Tensor, "o 2 3"]:
        return torch.stack([b.box_m for b in self.bodies]) if self.bodies else torch.zeros(0, 2, 3)

    @property
    def is_dynamic(self) -> Bool[Tensor, "o"]:
        return torch.tensor([b.is_dynamic for b in self.bodies], dtype=torch.bool)


def parts_box(parts: tuple[Part, ...]) -> Float[Tensor, "2 3"]:
    """Lowest and highest corner of a compound, in the body's own axes."""
    corners = torch.stack([part.box_m for part in parts])
    return torch.stack([corners[:, 0].amin(dim=0), corners[:, 1].amax(dim=0)])


def look_at(eye: Float[Tensor, "*b 3"], target: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """world_from_cam of upright cameras at ``eye`` that look at ``target`` (world z is up)."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = forward.new_tensor([0, 0, 1]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    return pose(torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1), eye)
