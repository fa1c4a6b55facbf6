"""The oracle of the ray caster, against depths worked by hand."""

import math

import pytest
import roma
import torch
from mujoco_oracle import cast_oracle

from c4d_nb.camera import pinhole
from c4d_nb.kubric.scene import Body, Part, Scene, Texture, look_at

PAINT = Texture("marble")


def part(shape, half, center=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)):
    return Part(shape, half, PAINT, center, tuple(quaternion(turn).tolist()))


def quaternion(turn):
    return roma.rotvec_to_unitquat(torch.tensor(turn, dtype=torch.float64))


def body(*parts, at, turn=(0.0, 0.0, 0.0)):
    return Body(parts, torch.tensor([at], dtype=torch.float64), quaternion(turn)[None])


def scene(*bodies):
    """Seen along y from (0, -5, 2) with f = 40 px; (20, 15) is the centre, u grows with x and v falls with z."""
    eye, target = torch.tensor([[0, -5, 2]], dtype=torch.float64), torch.tensor([[0, 0, 2]], dtype=torch.float64)
    room = ((-6.0, -7.0, 0.0), (6.0, 8.0, 9.0))
    return Scene(bodies, room, PAINT, PAINT, look_at(eye, target), pinhole(40.0, 31, 41).double(), 31, 41)


def hits(world, *uv):
    depth, segmentation = cast_oracle(world, 0, torch.tensor(uv, dtype=torch.float64))
    return depth.tolist(), segmentation.tolist()


def beside(x, y):
    """The two pixels left and right of the image of a vertical edge at (x, y, 2), inside first."""
    edge = 40 * abs(x) / (y + 5)
    return [(20 + math.copysign(gap, x), 15) for gap in (edge - 1e-6, edge + 1e-6)]


def test_sphere():
    """Its limb is at the angle whose sine is radius over distance."""
    world = scene(body(part("ellipsoid", (1.5, 1.5, 1.5)), at=(0, 0, 2)))
    limb = 40 * math.tan(math.asin(1.5 / 5))
    depth, segmentation = hits(world, (20, 15), (20 + limb - 1e-6, 15), (20, 15 - limb - 1e-6))
    assert depth[0] == pytest.approx(3.5, abs=1e-9)
    assert segmentation == [1, 1, 0]


def test_ellipsoid():
    """Turned by a quarter about z its longest half axis points to the camera."""
    turned = body(part("ellipsoid", (2.0, 0.5, 0.7)), at=(0, 0, 2), turn=(0, 0, math.pi / 2))
    depth, _ = hits(scene(turned), (20, 15), (20 + 1e-6, 15))
    assert depth == pytest.approx([3.0, 3.0], abs=1e-9)


def test_box():
    """z-depth, not distance: one for the whole face."""
    world = scene(body(part("box", (1.0, 0.5, 0.8)), at=(0, 0, 2)))
    depth, segmentation = hits(world, (20, 15), (12, 9), *beside(1.0, -0.5), *beside(-1.0, -0.5))
    assert depth[:2] == pytest.approx([4.5, 4.5], abs=1e-9)
    assert segmentation == [1, 1, 1, 0, 1, 0]


def test_cylinder():
    """Upright: its side is an arc in depth, its top an edge."""
    world = scene(body(part("cylinder", (0.8, 0.8, 1.2)), at=(0, 0, 2)))
    top = 40 * 1.2 / 4.2
    depth, segmentation = hits(world, (20, 15), (20, 15 - top + 1e-6), (20, 15 - top - 1e-6), (24, 15))
    assert depth[:2] == pytest.approx([4.2, 4.2], abs=1e-9)
    assert segmentation == [1, 1, 0, 1]
    # x = d / 10 and y = d - 5 on x^2 + y^2 = 0.8^2.
    a, b, c = 1.01, -10, 25 - 0.64
    assert depth[3] == pytest.approx((-b - math.sqrt(b * b - 4 * a * c)) / (2 * a), abs=1e-9)


def test_capsule():
    """Half of 1.5 m in all: a core of 1 m up and down, and caps of 0.5 m."""
    world = scene(body(part("capsule", (0.5, 0.5, 1.5)), at=(0, 0, 2)))
    cap = 40 * (math.tan(math.atan(1 / 5) + math.asin(0.5 / math.hypot(5, 1))))
    depth, segmentation = hits(world, (20, 15), (20, 15 - cap + 1e-6), (20, 15 - cap - 1e-6), (20, 15 - 10))
    assert depth[0] == pytest.approx(4.5, abs=1e-9)
    assert segmentation == [1, 1, 0, 1]
    # z - 2 = d / 4 and y = d - 5 on the upper cap: y^2 + (z - 3)^2 = 0.5^2.
    a, b, c = 1 + 1 / 16, -10.5, 25 + 1 - 0.25
    assert depth[3] == pytest.approx((-b - math.sqrt(b * b - 4 * a * c)) / (2 * a), abs=1e-9)


def test_turned_part_of_a_turned_compound():
    """The part's quarter about x swaps its y and z, then the body's quarter about z swaps x and y."""
    slab = part("box", (0.2, 0.3, 0.4), center=(1.0, 0.3, 0.1), turn=(math.pi / 2, 0, 0))
    far = part("ellipsoid", (0.1, 0.1, 0.1), center=(-2.0, 1.0, 0.0))
    world = scene(
        body(part("ellipsoid", (0.1,) * 3), at=(4, 2, 1)), body(slab, far, at=(0, 0, 2), turn=(0, 0, math.pi / 2))
    )
    # The slab: half (0.4, 0.2, 0.3) about (-0.3, 1, 2.1), so x from -0.7 to 0.1 in its front, y = 0.8.
    uv = [*beside(-0.7, 0.8), *beside(0.1, 0.8)]
    up, down = (15 - 40 * z / 5.8 for z in (0.4, -0.2))
    uv += [(18, up + 1e-6), (18, up - 1e-6), (18, down - 1e-6), (18, down + 1e-6)]
    depth, segmentation = hits(world, *uv)
    assert segmentation == [2, 0] * 4
    assert depth[::2] == pytest.approx([5.8] * 4, abs=1e-9)
    # The other part lies at (-1, -2, 2), nearer: along the ray to its centre its near side is 0.1 m before it.
    depth, segmentation = hits(world, (20 - 40 / 3, 15))
    assert depth == pytest.approx([3 * (1 - 0.1 / math.hypot(3, 1))], abs=1e-9)
    assert segmentation == [2]


def test_room_is_the_background():
    """Floor, walls and ceiling from inside; the floor's depth is f h / (v - cy)."""
    depth, segmentation = hits(scene(), (20, 15), (20, 30), (20 + 40, 15), (20 - 40, 15), (20, 15 - 40))
    assert depth == pytest.approx([13, 40 * 2 / 15, 6, 6, 7], abs=1e-9)
    assert segmentation == [0] * 5
