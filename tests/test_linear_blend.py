"""Linear blend displacement, worked by hand and against a plain loop."""

import math

import numpy as np
import pytest
import torch

from c4d_nb import linear_blend
from c4d_nb.errors import InputError
from c4d_nb.linear_blend import linear_blend_displacement, nearest_by_distances, nearest_by_tree

NAN = float("nan")


def loop(points, controls, displacements, k=4, power=1, radius=math.inf, point_class=None, control_class=None):
    """The formulas, point by point, in float64."""
    points, controls, displacements = (x.double().numpy() for x in (points, controls, displacements))
    moved = points.copy()
    for j, point in enumerate(points):
        own = np.isfinite(controls).all(1) & np.isfinite(displacements).all(1)
        if point_class is not None:
            own &= (control_class == point_class[j]).numpy()
        distance = np.linalg.norm(controls[own] - point, axis=1)
        nearest = np.argsort(distance)[:k]
        weight = np.array([1 / distance[i] ** power if 0 < distance[i] <= radius else 0.0 for i in nearest])
        if (distance == 0).any():
            moved[j] += displacements[own][distance == 0].mean(0)
        elif weight.sum() > 0:
            moved[j] += (weight[:, None] * displacements[own][nearest]).sum(0) / weight.sum()
    return torch.from_numpy(moved)


@pytest.fixture
def cloud(generator):
    """200 points, 30 controls and their displacements."""
    return tuple(torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (200, 30, 30))


@pytest.mark.parametrize("k", [1, 2, 4, 30])
def test_blend_against_a_plain_loop(cloud, k):
    torch.testing.assert_close(linear_blend_displacement(*cloud, k=k), loop(*cloud, k))


def test_blend_uses_four_neighbours(cloud):
    torch.testing.assert_close(linear_blend_displacement(*cloud), loop(*cloud, 4))


def test_blend_by_hand():
    """Distances 1 and 3 weigh 3/4 and 1/4."""
    controls = torch.tensor([[1.0, 0, 0], [-3, 0, 0]])
    moved = linear_blend_displacement(torch.zeros(1, 3), controls, torch.tensor([[0.0, 4, 0], [0, 0, 8]]))
    torch.testing.assert_close(moved, torch.tensor([[0.0, 3, 2]]))


def test_exact_hit_takes_that_displacement(cloud):
    _, controls, displacements = cloud
    torch.testing.assert_close(linear_blend_displacement(controls, controls, displacements), controls + displacements)


@pytest.mark.parametrize("copies", [2, 4, 6])
def test_several_controls_at_one_place_give_their_mean(copies):
    controls = torch.cat([torch.zeros(copies, 3), torch.ones(3, 3)])
    displacements = torch.cat([torch.arange(copies)[:, None].expand(copies, 3).float(), torch.full((3, 3), 100.0)])
    moved = linear_blend_displacement(torch.zeros(1, 3), controls, displacements)
    torch.testing.assert_close(moved, torch.full((1, 3), (copies - 1) / 2))


def test_fewer_controls_than_neighbours_are_all_used(cloud):
    points, controls, displacements = cloud
    moved = linear_blend_displacement(points, controls[:3], displacements[:3], k=4)
    torch.testing.assert_close(moved, loop(points, controls[:3], displacements[:3], 3))


def test_without_controls_nothing_moves(cloud):
    none = torch.zeros(0, 3, dtype=torch.float64)
    assert torch.equal(linear_blend_displacement(cloud[0], none, none), cloud[0])


def test_without_points_there_is_nothing(cloud):
    assert linear_blend_displacement(torch.zeros(0, 3).double(), *cloud[1:]).shape == (0, 3)


def test_constant_displacement_moves_all(cloud):
    points, controls, _ = cloud
    shift = torch.tensor([1.0, -2, 3]).double()
    torch.testing.assert_close(linear_blend_displacement(points, controls, shift.expand(30, 3)), points + shift)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, 1e-30, 1e-13, 1e-7])
def test_points_near_a_control_stay_finite(dtype, gap):
    controls = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=dtype)
    points = controls + torch.tensor([gap, 0, 0], dtype=dtype)
    moved = linear_blend_displacement(points, controls, controls)
    torch.testing.assert_close(moved, 2 * controls, atol=1e-5, rtol=0)


OPTIONS = [{}, {"k": 1}, {"k": 9}, {"power": 2}, {"radius": 0.7}, {"power": 2, "radius": 0.5, "k": 3}]


@pytest.fixture(params=[nearest_by_tree, nearest_by_distances])
def nearest(request, monkeypatch):
    """Both ways to find neighbours, that of a GPU too, in small parts."""
    monkeypatch.setattr(linear_blend, "nearest_by_tree", request.param)
    monkeypatch.setattr(linear_blend, "DISTANCES_AT_ONCE", 1000)
    return request.param


@pytest.mark.usefixtures("nearest")
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_against_a_plain_loop(cloud, generator, options, classes, scale):
    """With points on controls, controls at one place (of one displacement, or it would matter which of them are among
    the nearest), and some that are not finite."""
    points, controls, displacements = cloud
    controls[5:11], displacements[5:11] = controls[4], displacements[4]
    points[:30] = controls
    controls[20, 1], displacements[21, 0] = NAN, float("inf")
    points, controls, displacements = scale * points, scale * controls, scale * displacements
    options = {name: scale * value if name == "radius" else value for name, value in options.items()}
    if classes:
        options["point_class"], options["control_class"] = (
            torch.randint(3, (n,), generator=generator) for n in (200, 30)
        )
    found, expected = (blend(points, controls, displacements, **options) for blend in (linear_blend_displacement, loop))
    usable = torch.isfinite(points).all(1)
    torch.testing.assert_close(found[usable], expected[usable], rtol=0, atol=1e-6 * scale)
    assert torch.isnan(found[~usable]).any(1).all()


@pytest.mark.usefixtures("nearest")
@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_scale_of_the_scene_does_not_matter_in_single_precision(cloud, scale):
    small = [x.float() for x in cloud]
    moved = linear_blend_displacement(*(scale * x for x in small)) / scale
    torch.testing.assert_close(moved, linear_blend_displacement(*small), rtol=1e-4, atol=1e-5)


def test_ways_to_find_neighbours_agree(cloud):
    points, controls, _ = cloud
    (by_tree, first), (by_distances, second) = (
        find(points, controls, 7) for find in (nearest_by_tree, nearest_by_distances)
    )
    assert torch.equal(first, second)
    torch.testing.assert_close(by_tree, by_distances)


def test_two_controls_at_one_place_count_twice_for_others():
    """As in the formula: weights 1, 1 and 1/2."""
    controls = torch.tensor([[1.0, 0, 0], [1, 0, 0], [-2, 0, 0]])
    moved = linear_blend_displacement(torch.zeros(1, 3), controls, torch.tensor([[0, 0, 1.0], [0, 0, 2], [0, 5, 0]]))
    torch.testing.assert_close(moved, torch.tensor([[0, 1.0, 1.2]]))


def test_power_by_hand():
    """Distances 1 and 3 weigh 9/10 and 1/10 by the inverse square."""
    controls = torch.tensor([[1.0, 0, 0], [-3, 0, 0]])
    displacements = torch.tensor([[0, 10.0, 0], [0, 0, 20]])
    moved = linear_blend_displacement(torch.zeros(1, 3), controls, displacements, power=2)
    torch.testing.assert_close(moved, torch.tensor([[0, 9.0, 2]]))


def test_radius_by_hand():
    """Within 2 only the first control counts, within 0.5 none; one at just that distance does."""
    controls = torch.tensor([[1.0, 0, 0], [-3, 0, 0]])
    for radius, expected in ((0.5, 0), (1.0, 4), (2.0, 4), (3.0, 3)):
        moved = linear_blend_displacement(
            torch.zeros(1, 3), controls, torch.tensor([[0, 4.0, 0], [0, 0, 0]]), radius=radius
        )
        torch.testing.assert_close(moved, torch.tensor([[0, float(expected), 0]]))


def test_a_class_does_not_bleed_into_another():
    """A mover's point beside static controls follows the mover's far ones only; one of a third class stays."""
    controls = torch.tensor([[0.1, 0, 0], [0.2, 0, 0], [50, 0, 0]])
    displacements = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 7.0, 0]])
    moved = linear_blend_displacement(
        torch.zeros(3, 3),
        controls,
        displacements,
        point_class=torch.tensor([0, 1, 2]),
        control_class=torch.tensor([0, 0, 1]),
    )
    torch.testing.assert_close(moved, torch.tensor([[0, 0, 0], [0, 7.0, 0], [0, 0, 0]]))


def test_masks_are_classes(cloud):
    points, controls, displacements = cloud
    left, right = points[:, 0] < 0, controls[:, 0] < 0
    moved = linear_blend_displacement(points, controls, displacements, point_class=left, control_class=right)
    alone = linear_blend_displacement(points[left], controls[right], displacements[right])
    torch.testing.assert_close(moved[left], alone)


def test_points_that_are_not_finite_stay(cloud):
    points, controls, displacements = cloud
    whole = linear_blend_displacement(points, controls, displacements)
    holed = points.clone()
    holed[3, 1], holed[7] = NAN, float("inf")
    moved = linear_blend_displacement(holed, controls, displacements)
    good = torch.isfinite(holed).all(1)
    torch.testing.assert_close(moved[good], whole[good])
    assert not torch.isfinite(moved[~good]).all(1).any()


def test_without_any_finite_control_nothing_moves(cloud):
    points, controls, displacements = cloud
    assert torch.equal(linear_blend_displacement(points, NAN * controls, displacements), points)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("k", {"k": 0}),
        ("power", {"power": 3}),
        ("radius", {"radius": 0.0}),
        ("radius", {"radius": NAN}),
        ("control_class", {"point_class": torch.zeros(200, dtype=torch.long)}),
        ("point_class", {"control_class": torch.zeros(30, dtype=torch.long)}),
    ],
)
def test_bad_option_is_named(cloud, name, options):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        linear_blend_displacement(*cloud, **options)
