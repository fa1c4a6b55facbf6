"""A hand-made scene that tests know by heart: a ball rolls through a yard of eight bodies at rest, before a hand-held
camera. One moves, and moves across its epipolar lines; all else stands still."""

import math
from dataclasses import replace

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip
from c4d_nb.kubric.render import render_clip
from c4d_nb.kubric.scene import Body, Part, Scene, Texture, look_at

FRAMES, FPS, WIDTH, HEIGHT = 24, 12, 256, 192
KUBRIC_FOCAL = 1.09375
"""Focal length over image width of Kubric's MOVi clips."""
SEED = 3

CREAM, INK, RUST, TEAL = (0.95, 0.91, 0.80), (0.10, 0.13, 0.20), (0.80, 0.28, 0.14), (0.08, 0.52, 0.55)
MUSTARD, BRICK, SLATE = (0.93, 0.68, 0.16), (0.72, 0.40, 0.31), (0.36, 0.42, 0.50)
LEAF, PLUM, ROSE, WHITE = (0.30, 0.52, 0.24), (0.40, 0.22, 0.42), (0.90, 0.52, 0.50), (0.98, 0.97, 0.95)


def yard_scene() -> Scene:
    """24 frames of 256x192: eight bodies at rest, one ball that rolls across the camera's epipolar lines."""
    return Scene(
        bodies=(_rolling_ball(), *_resting_bodies()),
        room=((-8.0, -9.0, 0.0), (8.0, 4.5, 7.0)),
        floor=Texture("tiles", ((1.0, 0.92, 0.76), (0.60, 0.53, 0.46), (0.50, 0.43, 0.36)), 0.8, 11),
        walls=Texture("bricks", (BRICK, (0.84, 0.60, 0.46), (0.42, 0.26, 0.25)), 0.7, 12),
        world_from_cam=_camera_path(),
        intrinsics=pinhole(KUBRIC_FOCAL * WIDTH, HEIGHT, WIDTH).double(),
        height=HEIGHT,
        width=WIDTH,
    )


def yard_clip() -> Clip:
    """As generated clips are shipped: without the truth that follows from the rest, but with the motion mask."""
    clip = render_clip(yard_scene(), fps=float(FPS), samples=3, n_tracks=256, seed=SEED)
    return replace(clip, truth=replace(clip.truth, flow=None, backward_flow=None, object_coordinates=None))


def _camera_path() -> Float[Tensor, "t 4 4"]:
    """A hand-held step to the right and a little ahead, on a slight curve, that roughly faces the scene's middle."""
    a = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    eye = torch.stack([-0.85 + 1.6 * a, -5.9 + 0.4 * a + 0.25 * a * (1 - a), 3.1 + 0.15 * torch.sin(math.pi * a)], -1)
    target = torch.stack([-0.65 + 1.3 * a, 0.2 + 0 * a, 0.45 + 0 * a], dim=-1)
    return look_at(eye + _shake(a, 0.012, 0.3), target + _shake(a, 0.03, 1.7))


def _shake(a: Float[Tensor, "t"], amplitude_m: float, phase: float) -> Float[Tensor, "t 3"]:
    """A smooth tremor: two sinusoids a coordinate, between 1 and 2 Hz for a clip of 2 s."""
    rate = a.new_tensor([[1.7, 2.3, 2.9], [2.6, 3.3, 1.9]])
    angle = 2 * math.pi * rate * a[:, None, None] + phase * a.new_tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    return amplitude_m * (torch.sin(angle) * a.new_tensor([[1.0], [0.5]])).sum(dim=1)


def _rolling_ball() -> Body:
    """Rolls without slipping from the back right to the front left, towards the camera's side, and slows down."""
    radius = 0.68
    a = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    start, way = a.new_tensor([1.85, 1.2, radius]), a.new_tensor([-2.0, -2.3, 0])
    done = 1.15 * a - 0.15 * a**2
    axis = torch.linalg.cross(a.new_tensor([0, 0, 1]), way / way.norm())
    turn = done * way.norm() / radius
    rest = roma.rotvec_to_unitquat(a.new_tensor([0.5, 0.8, 0.3])).expand(FRAMES, 4)
    texture = Texture("checks", (CREAM, RUST, MUSTARD), 0.36, 3)
    return Body(
        parts=(Part("ellipsoid", (radius, radius, radius), texture),),
        positions=start + done[:, None] * way,
        quaternions=roma.quat_product(roma.rotvec_to_unitquat(turn[:, None] * axis), rest),
    )


def _resting_bodies() -> list[Body]:
    return [
        _resting("box", (0.55, 0.55, 0.55), (-1.9, 1.2, 0.55), 25, Texture("marble", (TEAL, CREAM, INK), 0.5, 1)),
        _resting(
            "sphere", (0.42, 0.42, 0.42), (-1.85, 1.25, 1.52), 10, Texture("stripes", (MUSTARD, INK, WHITE), 0.3, 2)
        ),
        _resting("box", (0.35, 0.9, 0.85), (2.9, 2.4, 0.85), -20, Texture("checks", (SLATE, CREAM, TEAL), 0.4, 4)),
        _resting(
            "ellipsoid", (0.75, 0.5, 0.45), (0.35, 2.7, 0.45), 35, Texture("stripes", (LEAF, CREAM, INK), 0.26, 5)
        ),
        _resting(
            "sphere", (0.38, 0.38, 0.38), (2.2, -0.9, 0.38), 70, Texture("marble", (BRICK, CREAM, MUSTARD), 0.3, 6)
        ),
        _resting("box", (0.42, 0.3, 0.26), (-1.6, -1.6, 0.26), -35, Texture("tiles", (LEAF, MUSTARD, CREAM), 0.2, 7)),
        _resting("box", (0.11, 0.11, 0.75), (1.0, -1.4, 0.75), 30, Texture("stripes", (TEAL, WHITE, INK), 0.43, 9)),
        _resting("ellipsoid", (0.6, 0.6, 0.8), (-3.4, 3.1, 0.8), 0, Texture("checks", (PLUM, CREAM, ROSE), 0.37, 8)),
    ]


def _resting(
    shape: str, half: tuple[float, float, float], at: tuple[float, float, float], turn_deg: float, texture: Texture
) -> Body:
    """A body at rest, turned about the vertical."""
    turn = torch.tensor([0, 0, math.radians(turn_deg)], dtype=torch.float64)
    return Body(
        parts=(Part("ellipsoid" if shape == "sphere" else shape, half, texture),),
        positions=torch.tensor(at, dtype=torch.float64).repeat(FRAMES, 1),
        quaternions=roma.rotvec_to_unitquat(turn).repeat(FRAMES, 1),
    )
