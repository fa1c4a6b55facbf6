"""The mobility label: the supplement's rule worked by hand, and what it must not depend on."""

import math

import pytest
import roma
import torch

from c4d_nb.errors import InputError
from c4d_nb.kubric.mobility import (
    compare_with_is_dynamic,
    first_frame_distances,
    mobility_labels,
    position_steps,
    with_background,
)

NAN = float("nan")
QUARTER = 0.25  # exact in binary, and so are its sums


def along_x(*rows):
    """Objects that move along x: a row of places for each."""
    x = torch.tensor(rows, dtype=torch.float64)
    return torch.stack([x, 0 * x, 0 * x], dim=-1)


def turning(*angles_deg):
    """One object that turns about z in place."""
    angle = torch.deg2rad(torch.tensor(angles_deg, dtype=torch.float64))
    return roma.rotvec_to_unitquat(torch.stack([0 * angle, 0 * angle, angle], dim=-1))[None]


def random_walks(generator, objects=40, frames=10):
    """Steps of about the threshold, so that both labels are frequent."""
    return torch.randn(objects, frames, 3, generator=generator, dtype=torch.float64).mul(0.0035).cumsum(dim=1)


# The rule


def test_only_more_than_the_threshold_is_dynamic():
    positions = along_x([0, QUARTER, 2 * QUARTER], [0, 0, math.nextafter(QUARTER, 1)], [1, 1, 1])
    assert mobility_labels(positions, threshold=QUARTER).tolist() == [False, True, False]


def test_threshold_is_a_centimetre():
    assert mobility_labels(along_x([0, 0.0099], [0, 0.0101], [0, -0.0101])).tolist() == [False, True, True]


def test_threshold_zero_takes_any_motion():
    assert mobility_labels(along_x([1, 1, 1], [1, 1, 1 + 1e-12]), threshold=0).tolist() == [False, True]


def test_step_is_the_euclidean_length():
    """3-4-5: no coordinate alone passes 4.5."""
    positions = torch.tensor([[[0.0, 0, 0], [3, 4, 0]]])
    assert position_steps(positions).tolist() == [[5]]
    assert mobility_labels(positions, threshold=4.5).tolist() == [True]
    assert mobility_labels(positions, threshold=5).tolist() == [False]


def test_frame_labels_take_both_ends_of_a_step():
    positions = along_x([0, 0, 1, 1, 1], [0, 1, 1, 1, 2], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4])
    assert mobility_labels(positions, mode="frame").int().tolist() == [
        [0, 1, 1, 0, 0],
        [1, 1, 0, 1, 1],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
    ]


def test_drift_is_seen_only_against_the_first_frame():
    """Steps of 8 mm add up to 24 mm."""
    drift = along_x([0, 0.008, 0.016, 0.024])
    assert not mobility_labels(drift).any()
    assert not mobility_labels(drift, mode="frame").any()
    assert mobility_labels(drift, mode="first").tolist() == [True]
    torch.testing.assert_close(first_frame_distances(drift), torch.tensor([[0, 0.008, 0.016, 0.024]]).double())


def test_there_and_back_is_dynamic_in_every_mode():
    """The difference of the last and the first frame would not see it."""
    positions = along_x([0, 0, 1, 0])
    assert mobility_labels(positions).tolist() == [True]
    assert mobility_labels(positions, mode="first").tolist() == [True]
    assert mobility_labels(positions, mode="frame").tolist() == [[False, True, True, True]]


def test_one_frame_and_no_object():
    assert mobility_labels(along_x([3], [4])).tolist() == [False, False]
    assert mobility_labels(along_x([3], [4]), mode="first").tolist() == [False, False]
    assert mobility_labels(along_x([3], [4]), mode="frame").tolist() == [[False], [False]]
    assert position_steps(along_x([3])).shape == (1, 0)
    assert mobility_labels(torch.zeros(0, 5, 3)).shape == (0,)
    assert mobility_labels(torch.zeros(0, 5, 3), mode="frame").shape == (0, 5)


# A spin in place


def test_spin_counts_only_when_asked_for():
    """2 degrees at 0.3 m are an arc of 10.5 mm; at 0.2 m of 7 mm."""
    positions, quaternions = along_x([0, 0], [0, 0]), turning(0, 2).expand(2, 2, 4)
    radii = torch.tensor([0.3, 0.2], dtype=torch.float64)
    assert not mobility_labels(positions).any()
    assert mobility_labels(positions, quaternions=quaternions, radii=radii).tolist() == [True, False]
    arcs = position_steps(positions, quaternions=quaternions, radii=radii)
    torch.testing.assert_close(arcs[:, 0], math.radians(2) * radii)


def test_spin_and_shift_do_not_add():
    turn, radius = turning(0, 2), torch.tensor([0.2], dtype=torch.float64)
    assert position_steps(along_x([0, 0.009]), quaternions=turn, radii=radius).item() == pytest.approx(0.009)
    assert position_steps(along_x([0, 0.001]), quaternions=turn, radii=radius).item() == pytest.approx(
        0.00698, abs=1e-5
    )


def test_both_signs_of_a_quaternion_are_one_rotation():
    flipped = turning(30, 30, 30) * torch.tensor([1.0, -1, 1])[:, None]
    spin = {"quaternions": flipped, "radii": torch.ones(1).double()}
    assert not mobility_labels(along_x([0, 0, 0]), threshold=1e-6, **spin).any()


def test_slow_spin_is_seen_against_the_first_frame():
    spin = {"quaternions": turning(0, 2, 4, 6), "radii": torch.tensor([0.2], dtype=torch.float64)}
    assert mobility_labels(along_x([0] * 4), **spin).tolist() == [False]
    assert mobility_labels(along_x([0] * 4), mode="first", **spin).tolist() == [True]
    assert mobility_labels(along_x([0] * 4), threshold=0.0069, mode="frame", **spin).all()


# What the label must not depend on


@pytest.mark.parametrize("mode", ["clip", "frame", "first"])
def test_objects_are_judged_one_by_one(mode, generator):
    walks = random_walks(generator)
    labels, order = mobility_labels(walks, mode=mode), torch.randperm(len(walks), generator=generator)
    assert labels.any()
    assert not labels.all()
    assert torch.equal(mobility_labels(walks[order], mode=mode), labels[order])


@pytest.mark.parametrize("mode", ["clip", "frame", "first"])
def test_where_the_world_has_its_origin_and_axes_is_no_matter(mode, generator):
    walks, turn = random_walks(generator), roma.rotvec_to_rotmat(torch.tensor([1.0, -2, 0.5], dtype=torch.float64))
    moved = walks @ turn.T + torch.tensor([5.0, -3, 2], dtype=torch.float64)
    assert torch.equal(mobility_labels(moved, mode=mode), mobility_labels(walks, mode=mode))


def test_time_may_run_backwards(generator):
    walks = random_walks(generator)
    assert torch.equal(mobility_labels(walks.flip(1)), mobility_labels(walks))
    assert torch.equal(mobility_labels(walks.flip(1), mode="frame").flip(1), mobility_labels(walks, mode="frame"))


def test_clip_label_is_that_of_any_frame(generator):
    walks = random_walks(generator)
    assert torch.equal(mobility_labels(walks, mode="frame").any(dim=1), mobility_labels(walks))


# Masks, and Kubric's flag


def test_background_is_segment_zero_and_static():
    assert with_background(torch.tensor([True, False])).tolist() == [False, True, False]
    assert with_background(torch.zeros(0, dtype=torch.bool)).tolist() == [False]
    segmentation = torch.tensor([[0, 1], [2, 2]])
    assert with_background(torch.tensor([True, False]))[segmentation].tolist() == [[False, True], [False, False]]
    assert with_background(torch.tensor([[True, False]])).tolist() == [[False, False], [True, False]]


def test_hit_object_and_tossed_one_that_never_moves():
    """Tossed and moving, tossed and stuck, at rest, hit in the second half."""
    mobility = mobility_labels(along_x([0, 1, 2, 3], [0, 0, 0, 0], [4, 4, 4, 4], [6, 6, 6, 7]))
    verdict = compare_with_is_dynamic(mobility, torch.tensor([True, True, False, False]))
    assert verdict.hit.tolist() == [3]
    assert verdict.never_moved.tolist() == [1]


# Bad input


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("threshold: expected a length", lambda: mobility_labels(along_x([0, 1]), threshold=-1)),
        ("threshold: expected a length", lambda: mobility_labels(along_x([0, 1]), threshold=NAN)),
        ("mode: expected one of clip, frame, first", lambda: mobility_labels(along_x([0, 1]), mode="video")),
        ("positions: expected finite numbers, but object 1", lambda: mobility_labels(along_x([0, 1], [0, NAN]))),
        ("quaternions: expected beside radii", lambda: mobility_labels(along_x([0, 1]), radii=torch.ones(1))),
        ("radii: expected beside quaternions", lambda: mobility_labels(along_x([0, 1]), quaternions=turning(0, 1))),
        (
            "quaternions: expected unit norm",
            lambda: position_steps(along_x([0, 1]), quaternions=2 * turning(0, 1), radii=torch.ones(1)),
        ),
        (
            "radii: expected 0 m or more",
            lambda: first_frame_distances(along_x([0, 1]), quaternions=turning(0, 1), radii=-torch.ones(1)),
        ),
        (
            "is_dynamic: expected 2 objects",
            lambda: compare_with_is_dynamic(torch.tensor([True, False]), torch.tensor([True])),
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument(message, call):
    with pytest.raises(InputError, match=f"^{message}"):
        call()
