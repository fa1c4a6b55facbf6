"""Who is in a scene and what happens to them: bodies that settled on the floor, bodies tossed among them, and the
forced cases of the failure zoo."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.kubric.mobility import mobility_labels
from c4d_nb.kubric.mujoco_model import GRAVITY_M_S2
from c4d_nb.kubric.physics import State, centered, place, settle, simulate
from c4d_nb.kubric.ranges import MoviRanges, Region
from c4d_nb.kubric.scene import Body, Part
from c4d_nb.kubric.shapes import sample_parts

Parts = tuple[Part, ...]
TOSSES = 10
"""How often another body is tossed at the same resting ones until it hits one."""
CLEAR_HIT_M = 0.05
"""A step that nobody overlooks."""


def stage(
    rng: np.random.Generator,
    ranges: MoviRanges,
    world_from_cam: Float[Tensor, "t 4 4"],
    room: Region,
    images: Sequence[str] = (),
    case: str | None = None,
) -> tuple[Body, ...]:
    """The bodies of a scene with their paths; the movers come last."""
    solids = _sample(rng, ranges, ranges.resting, images)
    rested = settle(solids, place(solids, ranges.resting_region, rng=rng, room=room), room=room)
    frames = len(world_from_cam)
    if case == "static":
        return _still(solids, rested, frames)
    if case in ("epipolar", "large_mover"):
        rail = _along_epipolar_lines if case == "epipolar" else _before_the_camera
        mover = rail(rng, ranges, world_from_cam, images)
        return *(body for body in _still(solids, rested, frames) if not _meet(body, mover)), mover
    for _ in range(TOSSES if case == "hit" else 1):
        bodies = _run(rng, ranges, solids, rested, frames, room, images, case)
        if case == "hit" and hit_bodies(bodies).any():
            break
    return bodies


def hit_bodies(bodies: Sequence[Body]) -> Bool[Tensor, "o"]:
    """Which bodies rest for three frames at least, and then clearly move."""
    positions = torch.stack([body.positions for body in bodies])
    rested = ~torch.tensor([body.is_dynamic for body in bodies]) & ~mobility_labels(positions[:, :4])
    return rested & mobility_labels(positions, threshold=CLEAR_HIT_M)


def _run(
    rng: np.random.Generator,
    ranges: MoviRanges,
    solids: list[Parts],
    rested: State,
    frames: int,
    room: Region,
    images: Sequence[str],
    case: str | None,
) -> tuple[Body, ...]:
    """What becomes of resting bodies when others are tossed among them."""
    tossed = _sample(rng, ranges, (1, 1) if case == "hit" else ranges.tossed, images)
    thrown = (_tossed_at_one if case == "hit" else _tossed)(rng, ranges, tossed, (solids, rested), room)
    everybody, start = [*solids, *tossed], _joined(rested, thrown)
    # Kubric renders frames 1 to t of those it simulates.
    motion = simulate(everybody, start, frames=frames + 1, fps=ranges.fps, room=room)
    return tuple(
        Body(parts, motion.positions[i, 1:], motion.quaternions[i, 1:], is_dynamic=i >= len(solids))
        for i, parts in enumerate(everybody)
    )


def _sample(rng: np.random.Generator, ranges: MoviRanges, count: tuple[int, int], images: Sequence[str]) -> list[Parts]:
    number = rng.integers(count[0], count[1] + 1)
    return [centered(sample_parts(rng, float(rng.uniform(*ranges.size_m)), images)) for _ in range(number)]


def _tossed(
    rng: np.random.Generator, ranges: MoviRanges, tossed: list[Parts], others: tuple[list[Parts], State], room: Region
) -> State:
    """From anywhere in the air, towards the middle."""
    start = place(tossed, ranges.tossed_region, rng=rng, room=room, occupied=others)
    aim = ranges.toss_m_s * torch.from_numpy(rng.uniform([-1, -1, 0], [1, 1, 0], (len(tossed), 3)))
    return replace(start, velocities=aim - start.positions * aim.new_tensor([1.0, 1.0, 0.0]))


def _tossed_at_one(
    rng: np.random.Generator, ranges: MoviRanges, tossed: list[Parts], others: tuple[list[Parts], State], room: Region
) -> State:
    """At a body that rests near the middle, so that it is hit within a second."""
    resting = others[1].positions
    near = resting[:, :2].norm(dim=1).argsort()[:4]
    target = resting[near[rng.integers(len(near))]]
    around = target + target.new_tensor([[-3.5, -3.5, 1.5], [3.5, 3.5, 3.5]])
    region = tuple(tuple(corner.tolist()) for corner in around)
    start = place(tossed, region, rng=rng, room=room, occupied=others)
    seconds, way = rng.uniform(0.5, 0.9), target - start.positions
    return replace(start, velocities=way / seconds + way.new_tensor([0.0, 0.0, GRAVITY_M_S2 * seconds / 2]))


def _joined(a: State, b: State) -> State:
    return State(
        torch.cat([a.positions, b.positions]),
        torch.cat([a.quaternions, b.quaternions]),
        torch.cat([a.velocities, b.velocities]),
        torch.cat([a.angular_velocities, b.angular_velocities]),
    )


def _still(solids: list[Parts], rested: State, frames: int) -> tuple[Body, ...]:
    return tuple(
        Body(parts, rested.positions[i].repeat(frames, 1), rested.quaternions[i].repeat(frames, 1))
        for i, parts in enumerate(solids)
    )


def _along_epipolar_lines(
    rng: np.random.Generator, ranges: MoviRanges, world_from_cam: Float[Tensor, "t 4 4"], images: Sequence[str]
) -> Body:
    """Glides over the floor parallel to the camera's path, so that every point of it stays on its epipolar lines."""
    parts = centered(sample_parts(rng, float(rng.uniform(1.2, 2.2)), images))
    travelled = world_from_cam[:, :3, 3] - world_from_cam[len(world_from_cam) // 2, :3, 3]
    upright = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64).expand(len(travelled), 4).clone()
    body = Body(parts, torch.zeros_like(travelled), upright, is_dynamic=True)
    middle = torch.tensor([*rng.uniform(-1.5, 1.5, 2), -float(body.box_m[0, 2])], dtype=torch.float64)
    share = float(rng.uniform(0.5, 1.0) * rng.choice([-1, 1]))
    return Body(parts, middle + share * travelled, upright, is_dynamic=True)


def _before_the_camera(
    rng: np.random.Generator, ranges: MoviRanges, world_from_cam: Float[Tensor, "t 4 4"], images: Sequence[str]
) -> Body:
    """Large and near, drifting past while it turns; the camera hardly sees anything else."""
    size = float(rng.uniform(3.2, 4.2))
    parts = centered(sample_parts(rng, size, images))
    t = torch.arange(len(world_from_cam), dtype=torch.float64)[:, None] - (len(world_from_cam) - 1) / 2
    middle = world_from_cam[len(world_from_cam) // 2]
    drift = middle[:3, :2] @ torch.from_numpy(rng.uniform(0.02, 0.05, 2) * rng.choice([-1, 1], 2))
    turn = torch.from_numpy(rng.normal(size=3) * 0.02)
    start = roma.rotvec_to_unitquat(torch.from_numpy(rng.normal(size=3)))
    positions = middle[:3, 3] + middle[:3, 2] * size * rng.uniform(0.8, 1.0) + t * drift
    quaternions = roma.quat_product(roma.rotvec_to_unitquat(t * turn), start.expand(len(t), 4))
    return Body(parts, positions, quaternions, is_dynamic=True)


def _meet(body: Body, other: Body) -> bool:
    """Whether the spheres around two bodies ever meet."""
    return bool(((body.positions - other.positions).norm(dim=1) < body.radius_m + other.radius_m).any())
