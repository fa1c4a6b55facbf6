"""Rigid bodies that fall, collide and come to rest in a room, computed by MuJoCo.

World axes as of ``scene``: z is up, metres and seconds. A solid is the parts of one body in axes whose origin is its
centre of mass: ``centered`` sees to that. All have one density, and where parts overlap it counts twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.errors import InputError
from c4d_nb.kubric.mujoco_model import GRAVITY_M_S2, SUBSTEPS_HZ, Solid, Surface, room_model
from c4d_nb.kubric.ranges import Region

SETTLING_FRAMES, SETTLING_FPS = 101, 12.0
ATTEMPTS = 1000
# Those of Kubric's workers for MOVi-D to F.
SETTLING, RUNNING, FLOOR = Surface(1.0, 0.0), Surface(0.5, 0.5), Surface(0.3, 0.5)


@dataclass(frozen=True, eq=False)
class State:
    """Poses and velocities of bodies at an instant, in float64."""

    positions: Float[Tensor, "o 3"]
    quaternions: Float[Tensor, "o 4"]
    """world_from_obj, xyzw."""
    velocities: Float[Tensor, "o 3"]
    """Of the centres of mass, m/s."""
    angular_velocities: Float[Tensor, "o 3"]
    """rad/s, about the world's axes."""

    def __post_init__(self) -> None:
        for name, width in (("positions", 3), ("quaternions", 4), ("velocities", 3), ("angular_velocities", 3)):
            value, expected = getattr(self, name), (len(self.positions), width)
            if value.shape != expected or value.dtype != torch.float64:
                came = f"{value.dtype} {tuple(value.shape)}"
                raise InputError(f"{name}: expected float64 {expected}, as many as positions, but it is {came}")
            if not torch.isfinite(value).all():
                raise InputError(f"{name}: expected finite numbers, but some are not")
        if ((self.quaternions.norm(dim=-1) - 1).abs() > 1e-4).any():
            raise InputError(f"quaternions: expected unit norm, but norms are {self.quaternions.norm(dim=-1).tolist()}")

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class Motion:
    """States at the instants of frames, and two figures that tell how sound the simulation is."""

    positions: Float[Tensor, "o t 3"]
    quaternions: Float[Tensor, "o t 4"]
    velocities: Float[Tensor, "o t 3"]
    angular_velocities: Float[Tensor, "o t 3"]
    energy_j: Float[Tensor, "t"]
    """Kinetic, and potential above the floor, of bodies of 1,000 kg/m3."""
    penetration_m: Float[Tensor, "t"]
    """The deepest overlap of any two bodies, or of one with floor or walls, since the frame before; 0 for none."""


def centered(parts: Solid) -> Solid:
    """The parts shifted so that the mean of their centres, weighted by volume, is the origin."""
    centers = torch.tensor([part.center_m for part in parts], dtype=torch.float64)
    volumes = torch.tensor([part.volume_m3 for part in parts], dtype=torch.float64)
    centers = centers - volumes @ centers / volumes.sum()
    return tuple(replace(part, center_m=tuple(center)) for part, center in zip(parts, centers.tolist(), strict=True))


def place(
    solids: Sequence[Solid],
    region: Region,
    *,
    rng: np.random.Generator,
    room: Region,
    occupied: tuple[Sequence[Solid], State] | None = None,
) -> State:
    """Bodies at rest with origins and rotations drawn uniformly, one after another, each drawn again until it
    overlaps no body before it, none that is there already (``occupied``), nor floor nor walls.

    Raises ``InputError`` for a region outside of the room, and where 1,000 draws found no place for a body.
    """
    if not all(a <= b <= c <= d for a, b, c, d in zip(room[0], *region, room[1], strict=True)):
        raise InputError(f"region: expected lowest and highest corner inside the room {room}, but it is {region}")
    others, there = occupied or ((), _at_rest(np.zeros((0, 7))))
    _check_count("occupied", others, there)
    model = room_model([*others, *solids], room, SETTLING, FLOOR)
    data = mujoco.MjData(model)
    poses = data.qpos.reshape(-1, 7)
    poses[:, 2] = room[1][2] + 1e3 * np.arange(1, len(poses) + 1)  # out of the way: the room has no ceiling
    poses[: len(others)] = _poses(there)
    for body in range(len(others), len(poses)):
        for _ in range(ATTEMPTS):
            quaternion = rng.normal(size=4)
            poses[body] = np.concatenate([rng.uniform(*region), quaternion / np.linalg.norm(quaternion)])
            mujoco.mj_fwdPosition(model, data)
            if not (model.geom_bodyid[data.contact.geom] == body + 1).any():
                break
        else:
            number = body - len(others)
            raise InputError(f"region: expected space for solid {number}, but {ATTEMPTS} random places overlap others")
    return _at_rest(poses[len(others) :])


def settle(solids: Sequence[Solid], start: State, *, room: Region) -> State:
    """Where bodies come to rest: 101 frames at 12 fps with friction 1 and without rebounds, as Kubric has it, and as
    many with the friction of the run.

    Kubric has no second round. Without it one body of twenty would move in the run, untouched: what leant on something
    slides off when friction falls, and ellipsoids go on rocking.
    """
    for surface in (SETTLING, replace(RUNNING, restitution=0.0)):
        motion = simulate(solids, start, frames=SETTLING_FRAMES + 1, room=room, fps=SETTLING_FPS, objects=surface)
        zero = torch.zeros_like(start.velocities)
        start = State(motion.positions[:, -1], motion.quaternions[:, -1], zero, zero)
    return start


def simulate(
    solids: Sequence[Solid],
    start: State,
    *,
    frames: int,
    room: Region,
    fps: float = SETTLING_FPS,
    objects: Surface = RUNNING,
    floor: Surface = FLOOR,
) -> Motion:
    """Motion under gravity (0, 0, -10) from ``start``, which is frame 0, between a floor and four walls of one surface
    and any height.

    On one machine the same input gives the same bits. Raises ``InputError`` for input that does not fit together.
    """
    if frames < 1:
        raise InputError(f"frames: expected at least 1, but it is {frames}")
    if not 0 < fps < math.inf:
        raise InputError(f"fps: expected a positive number, but it is {fps}")
    _check_count("start", solids, start)
    model = room_model(solids, room, objects, floor)
    substeps = math.ceil(SUBSTEPS_HZ / fps)
    model.opt.timestep = 1 / (fps * substeps)
    data = mujoco.MjData(model)
    data.qpos[:] = _poses(start).ravel()
    local = roma.quat_action(roma.quat_conjugation(start.quaternions), start.angular_velocities)
    data.qvel[:] = torch.cat([start.velocities, local], dim=1).numpy().ravel()
    mujoco.mj_forward(model, data)
    # MuJoCo's Euler steps are a leapfrog, exact in free flight, if velocities are half a step behind positions.
    data.qvel -= data.qacc * model.opt.timestep / 2
    records = [_record(model, data, room)]
    for _ in range(1, frames):
        depth = _advance(model, data, substeps)
        *state, last = _record(model, data, room)
        records.append((*state, max(depth, last)))
    if any(warning.number for warning in data.warning):
        raise RuntimeError("MuJoCo warned of a motion that is not finite, or of more contacts than its memory holds")
    return _motion(records)


def _advance(model: mujoco.MjModel, data: mujoco.MjData, substeps: int) -> float:
    """The deepest penetration on the way."""
    depth = 0.0
    for _ in range(substeps):
        mujoco.mj_step(model, data)
        depth = max(depth, _penetration(data))
    return depth


def _penetration(data: mujoco.MjData) -> float:
    return abs(float(data.contact.dist.min(initial=0.0)))


def _record(model: mujoco.MjModel, data: mujoco.MjData, room: Region) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(poses, velocities, energy, penetration) now, the velocities brought forward by half a substep."""
    mujoco.mj_forward(model, data)
    velocity, momentum = data.qvel + data.qacc * model.opt.timestep / 2, np.zeros(model.nv)
    mujoco.mj_mulM(model, data, momentum, velocity)
    potential = GRAVITY_M_S2 * model.body_mass[1:] @ (data.xipos[1:, 2] - room[0][2])
    return data.qpos.copy(), velocity, float(velocity @ momentum / 2 + potential), _penetration(data)


def _motion(records: list[tuple[np.ndarray, np.ndarray, float, float]]) -> Motion:
    poses, velocities, energy, depth = (torch.from_numpy(np.array(column)) for column in zip(*records, strict=True))
    positions, wxyz = poses.reshape(len(records), -1, 7).transpose(0, 1).split([3, 4], dim=-1)
    linear, local = velocities.reshape(len(records), -1, 6).transpose(0, 1).split(3, dim=-1)
    quaternions = roma.quat_wxyz_to_xyzw(wxyz)
    angular = roma.quat_action(quaternions, local)
    return Motion(*(x.contiguous() for x in (positions, quaternions, linear, angular)), energy, depth)


def _poses(state: State) -> np.ndarray:
    """(o, 7): position and quaternion wxyz, as MuJoCo has them."""
    return torch.cat([state.positions, roma.quat_xyzw_to_wxyz(state.quaternions)], dim=1).numpy()


def _at_rest(poses: np.ndarray) -> State:
    positions, wxyz = torch.from_numpy(poses.copy()).split([3, 4], dim=1)
    zero = torch.zeros_like(positions)
    return State(positions, roma.quat_wxyz_to_xyzw(wxyz), zero, zero)


def _check_count(name: str, solids: Sequence[Solid], state: State) -> None:
    if len(state) != len(solids):
        raise InputError(f"{name}: expected the state of {len(solids)} solids, but it is of {len(state)}")
