"""Rigid bodies against mechanics worked by hand, and random clips against bounds that were measured on 320 others."""

import math
from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from c4d_nb.errors import InputError
from c4d_nb.kubric.mujoco_model import ROLL_M
from c4d_nb.kubric.physics import RUNNING, State, Surface, centered, place, settle, simulate
from c4d_nb.kubric.scene import Part, Texture

PAINT = Texture("marble")
ROOM = ((-15.0, -15.0, 0.0), (15.0, 15.0, 14.0))
VAST = ((-500.0, -500.0, 0.0), (500.0, 500.0, 500.0))
RESTING, TOSSED = ((-7.0, -7.0, 0.0), (7.0, 7.0, 10.0)), ((-5.0, -5.0, 1.0), (5.0, 5.0, 5.0))
UPRIGHT = (0.0, 0.0, 0.0, 1.0)
DENSITY = 1000


def part(shape, half, center=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)):
    quaternion = roma.rotvec_to_unitquat(torch.tensor(turn, dtype=torch.float64))
    return Part(shape, tuple(half), PAINT, center, tuple(quaternion.tolist()))


def ball(radius=0.5):
    return (part("ellipsoid", (radius,) * 3),)


def box(*half):
    return (part("box", half),)


def ring(radius=1.0, thick=0.2, count=10):
    angles = [2 * math.pi * (i + 0.5) / count for i in range(count)]
    length = radius * math.tan(math.pi / count) + thick
    return tuple(
        part(
            "capsule",
            (thick, thick, length),
            (radius * math.cos(a), radius * math.sin(a), 0.0),
            (-math.pi / 2 * math.cos(a), -math.pi / 2 * math.sin(a), 0.0),
        )
        for a in angles
    )


def table(a=1.0, b=0.7):
    legs = [part("cylinder", (0.1, 0.1, 0.4), (x * a * 0.85, y * b * 0.85, -0.4)) for x in (-1, 1) for y in (-1, 1)]
    return (part("box", (a, b, 0.08)), *legs)


def dumbbell():
    ends = [part("ellipsoid", (r,) * 3, (0.0, 0.0, z)) for r, z in ((0.45, 0.8), (0.35, -0.8))]
    return (part("cylinder", (0.15, 0.15, 0.8)), *ends)


def random_solid(rng):
    """Largest side 0.75 to 3 m, nearly half of them compounds."""
    size, (a, b) = rng.uniform(0.375, 1.5), rng.uniform(0.35, 1, 2)
    return centered(
        [
            lambda: ball(size),
            lambda: (part("ellipsoid", (size * a, size * b, size)),),
            lambda: box(size * a, size * b, size),
            lambda: (part("cylinder", (size * a, size * a, size * b)),),
            lambda: (part("capsule", (size * a / 2, size * a / 2, size)),),
            lambda: _scaled(ring(), size / 1.2),
            lambda: _scaled(table(), size),
            lambda: _scaled(dumbbell(), size / 1.2),
        ][rng.integers(8)]()
    )


def _scaled(parts, factor):
    return tuple(
        replace(
            p,
            half_size_m=tuple(factor * x for x in p.half_size_m),
            center_m=tuple(factor * x for x in p.center_m),
        )
        for p in parts
    )


def state(*bodies):
    """From (position, velocity, angular velocity, quaternion), the last three optional."""
    defaults = ((0, 0, 0), (0, 0, 0), (0, 0, 0), UPRIGHT)
    rows = [(*body, *defaults[len(body) :]) for body in bodies]
    position, velocity, spin, quaternion = (torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True))
    return State(position, quaternion, velocity, spin)


def joined(*states):
    names = ("positions", "quaternions", "velocities", "angular_velocities")
    return State(*(torch.cat([getattr(s, name) for s in states]) for name in names))


def masses(solids):
    return torch.tensor([DENSITY * sum(p.volume_m3 for p in parts) for parts in solids], dtype=torch.float64)


def steps(motion):
    """How far each body ever moves within a frame."""
    return motion.positions.diff(dim=1).norm(dim=-1).amax(dim=1)


@pytest.fixture(scope="module", params=range(6))
def clip(request):
    """Bodies that settled and were left alone, and the same with one to three others tossed at them."""
    rng = np.random.default_rng(request.param)
    resting, tossed = ([random_solid(rng) for _ in range(rng.integers(*n))] for n in ((10, 21), (1, 4)))
    settled = settle(resting, place(resting, RESTING, rng=rng, room=ROOM), room=ROOM)
    alone = simulate(resting, settled, frames=24, room=ROOM)
    thrown = place(tossed, TOSSED, rng=rng, room=ROOM, occupied=(resting, settled))
    velocity = torch.from_numpy(rng.uniform((-4, -4, 0), (4, 4, 0), (len(tossed), 3)))
    thrown = replace(thrown, velocities=velocity - thrown.positions * torch.tensor([1.0, 1, 0]).double())
    return settled, alone, simulate([*tossed, *resting], joined(thrown, settled), frames=24, room=ROOM), len(tossed)


def test_settled_bodies_stay_where_they_are(clip):
    """Mobility begins at 0.01 m a frame. Of 4,804 bodies in 320 other clips 2 came to it."""
    settled, alone, _, _ = clip
    assert steps(alone).max() < 0.005
    assert not settled.velocities.any()
    assert not settled.angular_velocities.any()


def test_settled_bodies_touch_but_do_not_overlap(clip):
    """0.0026 m was the worst of 320 clips."""
    _, alone, _, _ = clip
    assert alone.penetration_m.max() < 0.003
    assert (alone.positions[..., 2] > 0).all()


def test_run_is_sound(clip):
    """The worst of 320 clips: energy rose by 0.0055 of its start in a frame, as springs let go; overlap was 0.055 m."""
    _, _, run, tossed = clip
    assert (run.energy_j.diff() < 0.01 * run.energy_j[0]).all()
    assert run.energy_j[-1] < run.energy_j[0]
    assert run.penetration_m.max() < 0.06
    assert (steps(run)[:tossed] > 0.01).all()
    low, high = torch.tensor(ROOM)
    assert ((run.positions > low) & (run.positions[..., :2] < high[:2]).all(-1, keepdim=True)).all()


def test_free_flight_is_a_parabola():
    start = state(((0, 0, 100), (1, 2, -1), (0.5, -3, 2), (0.5, 0.5, 0.5, 0.5)))
    motion = simulate([ball()], start, frames=25, room=VAST)
    t = torch.arange(25, dtype=torch.float64)[:, None] / 12
    velocity = start.velocities + t * t.new_tensor([0, 0, -10])
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(motion.velocities[0], velocity, **close)
    torch.testing.assert_close(motion.positions[0], start.positions + t * (start.velocities + velocity) / 2, **close)
    assert (motion.energy_j / motion.energy_j[0] - 1).abs().max() < 1e-12
    assert not motion.penetration_m.any()
    # A ball's spin is constant in the world's axes: each frame turns by exp(w t), applied after the first pose.
    turned = roma.quat_product(roma.rotvec_to_unitquat(t * start.angular_velocities), start.quaternions.expand(25, 4))
    assert roma.unitquat_geodesic_distance(motion.quaternions[0], turned).max() < 1e-6
    torch.testing.assert_close(motion.angular_velocities[0], start.angular_velocities.expand(25, 3), **close)


def test_frames_do_not_depend_on_the_rate():
    start = state(((0, 0, 3), (1, 0, 0), (0, 2, 0)))
    fine = simulate([ball()], start, frames=9, fps=28, room=VAST)
    coarse = simulate([ball()], start, frames=3, fps=7, room=VAST)
    torch.testing.assert_close(fine.positions[:, ::4], coarse.positions, rtol=0, atol=1e-9)


def test_tumbling_keeps_its_energy_and_spin():
    """A brick that spins at 5 rad/s about its middle axis turns over; first-order steps lose some of it."""
    half = torch.tensor([0.6, 0.3, 0.15], dtype=torch.float64)
    motion = simulate([box(*half.tolist())], state(((0, 0, 100), (0, 0, 0), (0, 5, 0.1))), frames=37, room=VAST)
    inertia = ((half**2).sum() - half**2) / 3
    local = roma.quat_action(roma.quat_conjugation(motion.quaternions[0]), motion.angular_velocities[0])
    energy, momentum = local**2 @ inertia, roma.quat_action(motion.quaternions[0], local * inertia)
    assert (energy / energy[0] - 1).abs().max() < 0.01
    assert (momentum - momentum[0]).norm(dim=1).max() < 0.005 * momentum[0].norm()
    assert local[:, 1].min() < -4.5


@pytest.mark.parametrize("product", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("height", [0.5, 1.8, 5.0])
def test_rebound_from_the_floor(product, height):
    surfaces = {"objects": Surface(0.5, 0.9), "floor": Surface(0.3, product / 0.9)}
    frames = round(480 * (math.sqrt(height / 5) + 0.05))
    motion = simulate([ball()], state(((0, 0, height + 0.5),)), frames=frames, fps=480, room=VAST, **surfaces)
    speed = motion.velocities[0, :, 2]
    impact = speed.argmin()
    assert speed[impact].item() == pytest.approx(-math.sqrt(20 * height), rel=0.02)
    assert (speed[impact:].max() / -speed[impact]).item() == pytest.approx(product, abs=0.05)


def test_rebound_of_two_bodies_conserves_momentum():
    """Head on, and off centre: what the two had together but for gravity they have at any time."""
    solids = [ball(), centered((part("box", (0.4, 0.5, 0.6)), part("capsule", (0.2, 0.2, 0.7), (0.3, 0.2, 0.6))))]
    mass = masses(solids)
    motion = simulate(solids, state(((0, 0, 100), (4, 0, 0)), ((2, 0.1, 100.2), (-2, 0, 0))), frames=13, room=VAST)
    fall = torch.arange(13, dtype=torch.float64)[:, None] / 12 * torch.tensor([0, 0, -10]).double()
    momentum = (mass[:, None, None] * (motion.velocities - fall)).sum(dim=0)
    assert (momentum - momentum[0]).norm(dim=1).max() < 1e-12 * momentum[0].norm()
    assert motion.angular_velocities[1, -1].norm() > 0.1

    head_on = simulate(
        [ball(), ball()], state(((0, 0, 100), (4, 0, 0)), ((2, 0, 100), (-2, 0, 0))), frames=13, room=VAST
    )
    after = head_on.velocities[:, -1, 0]
    assert (after[1] - after[0]).item() / 6 == pytest.approx(RUNNING.restitution**2, abs=0.05)


@pytest.mark.parametrize(("objects", "floor"), [(0.5, 0.3), (1.0, 0.3), (0.5, 0.5)])
@pytest.mark.parametrize("direction", [0.0, 0.4])
def test_friction_of_the_floor(objects, floor, direction):
    """A slab that slides slows by the product of the frictions times g, in any direction."""
    surfaces = {"objects": Surface(objects, 0.5), "floor": Surface(floor, 0.5)}
    slab, along = [box(0.6, 0.5, 0.15)], torch.tensor([math.cos(direction), math.sin(direction), 0]).double()
    start = state(((0, 0, 0.15), tuple((4 * along).tolist())))
    motion = simulate(slab, start, frames=61, fps=60, room=VAST, **surfaces)
    seconds = 0.8 * 4 / (objects * floor * 10)
    frame = min(60, round(60 * seconds))
    slowed = (motion.velocities[0, 0] - motion.velocities[0, frame]) @ along
    assert (slowed / (frame / 60)).item() == pytest.approx(objects * floor * 10, rel=0.05)
    assert (motion.positions[0, :, 2] - 0.15).abs().max() < 0.01  # MuJoCo lifts what slides fast, by millimetres


def test_ball_rolls_to_a_stop():
    """Rolling friction slows a ball by 5/7 of ROLL_M g / r; a little less, for sliding takes its share of the cone."""
    slowing = 5 / 7 * ROLL_M * 10 / 0.5
    motion = simulate([ball()], state(((0, 0, 0.5), (1, 0, 0), (0, 2, 0))), frames=48, room=ROOM)
    assert motion.positions[0, -1, 0].item() == pytest.approx(1 / (2 * slowing), rel=0.1)
    assert motion.velocities[0, math.ceil(12 / slowing) + 2 :].norm(dim=-1).max() < 1e-3


def test_what_is_hit_moves_and_what_is_not_stays():
    solids = [ball(0.4), box(0.4, 0.4, 0.4), box(0.4, 0.4, 0.4)]
    start = state(((-4, 0, 0.4), (6, 0, 0), (0, 15, 0)), ((0, 0, 0.4),), ((0, 4, 0.4),))
    motion = simulate(solids, start, frames=24, room=ROOM)
    moved = motion.positions[:, -1] - motion.positions[:, 0]
    assert moved[1, 0] > 0.2
    assert steps(motion)[2] < 1e-4


def test_walls_hold():
    motion = simulate([ball()], state(((0, 0, 1), (40, 25, 0))), frames=24, room=ROOM)
    assert motion.positions[0, :, :2].abs().max() < 14.6
    assert motion.velocities[0, -1, 0] < 0


def test_box_and_cylinder_do_not_gain_energy_from_an_impact():
    """A pair from which MuJoCo 4.0 makes energy, by wrong normals, where it may look for several contacts."""
    solids = [(part("cylinder", (0.66, 0.66, 0.42)),), box(0.54, 0.64, 0.75)]
    turns = torch.tensor([[0.1905, 0.1805, -0.391, -0.8822], [-0.3594, 0.609, -0.609, 0.3594]], dtype=torch.float64)
    start = state(((0, 0, 100), (-6.83, 2.42, -5.5)), ((-0.61, 1.27, 98.67),))
    motion = simulate(solids, replace(start, quaternions=roma.quat_normalize(turns)), frames=13, room=VAST)
    kinetic = motion.energy_j[0] - 10 * masses(solids) @ start.positions[:, 2]
    assert motion.penetration_m.max() > 0.005
    assert motion.energy_j[1] < motion.energy_j[0] - 0.1 * kinetic
    assert motion.energy_j.diff().max() < 1e-4 * kinetic


def test_motion_repeats_itself():
    rng = np.random.default_rng(3)
    solids = [random_solid(rng) for _ in range(8)]
    start = place(solids, RESTING, rng=rng, room=ROOM)
    one, other = (simulate(solids, start, frames=30, room=ROOM) for _ in range(2))
    for name in ("positions", "quaternions", "velocities", "angular_velocities", "energy_j", "penetration_m"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.penetration_m.max() > 0


def test_first_frame_is_the_start():
    start = state(((1, 2, 3), (4, 5, 6), (0.7, 0.8, 0.9), (0.5, -0.5, 0.5, 0.5)))
    motion = simulate([table()[:1]], start, frames=1, room=ROOM)
    for name in ("positions", "quaternions", "velocities", "angular_velocities"):
        torch.testing.assert_close(getattr(motion, name)[:, 0], getattr(start, name), rtol=0, atol=1e-6)


def test_centered_by_hand():
    """Volumes 8 and 16: the centre lies two thirds of the way from the first part to the second."""
    parts = centered((part("box", (1, 1, 1), (1, 0, 0)), part("box", (1, 1, 2), (4, 3, 0))))
    assert [p.center_m for p in parts] == [pytest.approx((-2, -2, 0)), pytest.approx((1, 1, 0))]
    assert centered(ring())[0].center_m == pytest.approx(ring()[0].center_m)


def test_placed_bodies_do_not_overlap():
    rng = np.random.default_rng(0)
    radii = np.full(25, 0.7)
    placed = place([ball(r) for r in radii], TOSSED, rng=rng, room=ROOM)
    gap = torch.cdist(placed.positions, placed.positions) + 10 * torch.eye(25)
    assert gap.min() > 1.4
    low, high = torch.tensor(TOSSED)
    assert ((placed.positions >= low) & (placed.positions <= high)).all()
    assert not placed.velocities.any()
    again = place([ball(r) for r in radii], TOSSED, rng=np.random.default_rng(0), room=ROOM)
    assert torch.equal(again.positions, placed.positions)
    assert torch.equal(again.quaternions, placed.quaternions)
    others = place([ball(0.7)] * 5, TOSSED, rng=rng, room=ROOM, occupied=([ball(r) for r in radii], placed))
    assert len(others) == 5
    assert torch.cdist(others.positions, placed.positions).min() > 1.4


def test_places_and_rotations_are_uniform():
    """A uniform rotation takes z anywhere on the sphere: its components have mean 0 and mean square 1/3."""
    placed = place([ball(0.01)] * 400, RESTING, rng=np.random.default_rng(0), room=ROOM)
    z = roma.quat_action(placed.quaternions, torch.tensor([[0.0, 0, 1]]).double().expand(400, 3))
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=0.1)
    torch.testing.assert_close((z**2).mean(dim=0), torch.full((3,), 1 / 3).double(), rtol=0, atol=0.06)
    share = (placed.positions - torch.tensor(RESTING[0])) / (torch.tensor(RESTING[1]) - torch.tensor(RESTING[0]))
    torch.testing.assert_close(share.mean(dim=0), torch.full((3,), 0.5).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(share.var(dim=0), torch.full((3,), 1 / 12).double(), rtol=0, atol=0.015)


def test_holes_are_free_and_solids_are_not():
    """A ball fits in the middle of a ring, though not in the middle of a disc, nor half in floor or wall."""
    middle = ((0.0, 0.0, 5.0),) * 2
    one, there = np.random.default_rng(0), state(((0, 0, 5),))
    placed = place([ball(0.7)], middle, rng=one, room=ROOM, occupied=([ring()], there))
    assert placed.positions.tolist() == [[0, 0, 5]]
    disc = (part("cylinder", (1.2, 1.2, 0.2)),)
    for spot, occupied in (
        (middle, ([disc], there)),
        (middle, ([ball(3.0)], there)),  # wholly inside
        (((0.0, 0.0, 0.6),) * 2, None),
        (((14.5, 0.0, 5.0),) * 2, None),
        (((0.0, -14.5, 5.0),) * 2, None),
    ):
        with pytest.raises(InputError, match=r"^region: expected space for solid 0, but 1000 random"):
            place([ball(0.7)], spot, rng=one, room=ROOM, occupied=occupied)


def test_no_bodies_at_all():
    nothing = place([], RESTING, rng=np.random.default_rng(0), room=ROOM)
    motion = simulate([], settle([], nothing, room=ROOM), frames=3, room=ROOM)
    assert motion.positions.shape == (0, 3, 3)
    assert motion.quaternions.shape == (0, 3, 4)
    assert motion.energy_j.tolist() == [0, 0, 0]


ONE = state(((0, 0, 1),))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("velocities", lambda: replace(ONE, velocities=torch.zeros(2, 3).double())),
        ("quaternions", lambda: replace(ONE, quaternions=torch.zeros(1, 3).double())),
        ("quaternions", lambda: replace(ONE, quaternions=torch.full((1, 4), 1.0).double())),
        ("positions", lambda: replace(ONE, positions=torch.full((1, 3), torch.nan).double())),
        ("positions", lambda: replace(ONE, positions=torch.zeros(1, 3))),
        ("friction", lambda: Surface(-0.1, 0.5)),
        ("friction", lambda: Surface(math.inf, 0.5)),
        ("restitution", lambda: Surface(0.1, 1.0)),
        ("restitution", lambda: Surface(0.1, -0.1)),
        ("frames", lambda: simulate([ball()], ONE, frames=0, room=ROOM)),
        ("fps", lambda: simulate([ball()], ONE, frames=2, fps=0.0, room=ROOM)),
        ("start", lambda: simulate([ball()] * 2, ONE, frames=2, room=ROOM)),
        ("start", lambda: settle([], ONE, room=ROOM)),
        ("room", lambda: simulate([ball()], ONE, frames=2, room=ROOM[::-1])),
        ("solids", lambda: simulate([(part("box", (1, 1, 1), (0.1, 0, 0)),)], ONE, frames=2, room=ROOM)),
        ("region", lambda: place([ball()], VAST, rng=np.random.default_rng(0), room=ROOM)),
        ("region", lambda: place([ball()], RESTING[::-1], rng=np.random.default_rng(0), room=ROOM)),
        ("occupied", lambda: place([ball()], RESTING, rng=np.random.default_rng(0), room=ROOM, occupied=([], ONE))),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument(name, make):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        make()
