"""Temporal smoothness: second differences along tracks, changes of the depth's error under true flow."""

import math
from dataclasses import replace

import pytest
import torch

from c4d_nb.errors import InputError
from c4d_nb.kubric.truth import complete_truth
from c4d_nb.metrics import depth_flicker, temporal_smoothness, trajectory_flicker


def paths(*values):
    """Tracks along x, one a row."""
    xyz = torch.zeros(len(values[0]), len(values), 3, dtype=torch.float64)
    xyz[..., 0] = torch.tensor(values, dtype=torch.float64).T
    return xyz


def test_rest_and_uniform_motion_do_not_flicker():
    assert trajectory_flicker(paths([5, 5, 5, 5], [0, 1, 2, 3])) == 0


def test_second_difference_by_hand():
    """0, 1, 0 bends by 2, 0, 0, 3 by 3, and 0, 0, 100 by 100: the median is 3."""
    assert trajectory_flicker(paths([0, 1, 0], [0, 0, 3], [0, 0, 100])).item() == pytest.approx(3)


def test_length_in_space():
    xyz = torch.zeros(3, 1, 3)
    xyz[2, 0] = torch.tensor([3.0, 4, 0])
    assert trajectory_flicker(xyz).item() == pytest.approx(5)


@pytest.mark.parametrize("how", ["unseen", "nan"])
def test_only_three_seen_in_a_row_count(how):
    """Bends by 2 and 1 around frames 1 and 2 remain of 0, 1, 0, 0, 9, 0; the lower one is torch's median."""
    xyz, seen = paths([0, 1, 0, 0, 9, 0]), torch.ones(6, 1, dtype=torch.bool)
    if how == "nan":
        xyz[4] = torch.nan
    else:
        seen[4] = False
    assert trajectory_flicker(xyz, seen).item() == pytest.approx(1)
    assert trajectory_flicker(xyz[:3], seen[:3]).item() == pytest.approx(2)


@pytest.mark.parametrize("frames", [1, 2])
def test_too_short_to_bend_is_nan(frames):
    assert trajectory_flicker(torch.zeros(frames, 4, 3)).isnan()


def test_flicker_has_the_unit_of_length(generator):
    xyz = torch.randn(9, 5, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(trajectory_flicker(100 * xyz), 100 * trajectory_flicker(xyz))


@pytest.fixture(scope="module")
def truth(yard):
    return complete_truth(yard.truth)


def flicker(depth, truth, valid=None):
    return depth_flicker(depth, truth.depth, truth.flow, truth.backward_flow, valid)


def test_true_depth_does_not_flicker_whatever_its_scale(truth):
    assert flicker(truth.depth, truth) == 0
    assert flicker(7 * truth.depth, truth) < 1e-6


def test_one_factor_a_frame_is_the_mean_change_of_its_logarithm(truth):
    factor = 1 + 0.1 * (torch.arange(len(truth.depth)) % 2)[:, None, None]
    assert flicker(factor * truth.depth, truth).item() == pytest.approx(math.log(1.1), rel=1e-4)


def test_an_error_that_travels_with_the_surface_does_not_flicker(truth):
    """The ball is too near in every frame; but for its outline, where pixels mix."""
    ball = truth.motion_mask
    depth = torch.where(ball, 0.8, 1.0) * truth.depth
    assert flicker(depth, truth) < 0.1 * flicker(torch.where(ball.roll(5, 0), 0.8, 1.0) * truth.depth, truth)


def test_hidden_and_invalid_pixels_do_not_count():
    """Two frames of 1 x 4 px, the camera moves by a pixel: the last has left the image, the first is excluded."""
    flow = torch.tensor([1.0, 0]).expand(1, 1, 4, 2)
    predicted = torch.tensor([[[9.0, 1, 1, 9]], [[1, 1, 1, math.e]]])
    ones = torch.ones(2, 1, 4)
    valid = torch.tensor([[[False, True, True, True]]]).expand(2, 1, 4)
    assert depth_flicker(predicted, ones, flow, -flow, valid).item() == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_pixel_without_depth_does_not_count(bad):
    predicted = torch.ones(3, 4, 4)
    predicted[1, 2, 2] = bad
    still = torch.zeros(2, 4, 4, 2)
    assert depth_flicker(predicted, torch.ones(3, 4, 4), still, still) == 0


def test_nothing_to_compare_is_nan():
    still = torch.zeros(1, 4, 4, 2)
    assert depth_flicker(torch.zeros(2, 4, 4), torch.ones(2, 4, 4), still, still).isnan()


@pytest.mark.usefixtures("unchecked")
def test_missing_step_is_named():
    still = torch.zeros(1, 4, 4, 2)
    with pytest.raises(InputError, match=r"^flow: expected 2 steps"):
        depth_flicker(torch.ones(3, 4, 4), torch.ones(3, 4, 4), still, still)


def scores(depth, truth):
    return temporal_smoothness(depth, truth.intrinsics, truth.world_from_cam, truth)


def test_noise_shows_in_both_numbers(truth, generator):
    """Every frame's depth is off by its own factor, by 1 % and by 2 %: twice the flicker, and none without."""
    noise = torch.randn(len(truth.depth), 1, 1, generator=generator)
    none, little, much = (scores(truth.depth * (size * noise).exp(), truth) for size in (0.0, 0.01, 0.02))
    assert none["depth"] == 0
    assert none["trajectory"] < 0.1 * little["trajectory"]  # between pixels, depth is read but bilinearly
    assert much["depth"] == pytest.approx(2 * little["depth"], rel=1e-3)
    assert much["trajectory"] == pytest.approx(2 * little["trajectory"], rel=0.1)


def test_tracks_of_movers_do_not_count(truth):
    moving = replace(truth.tracks, mobility=torch.ones_like(truth.tracks.mobility))
    assert math.isnan(scores(truth.depth, replace(truth, tracks=moving))["trajectory"])


def test_smoothness_is_blind_to_the_scale_of_the_scene(truth, generator):
    depth = truth.depth * (0.02 * torch.randn(len(truth.depth), 1, 1, generator=generator)).exp()
    cameras = truth.world_from_cam.clone()
    cameras[:, :3, 3] *= 5
    larger = temporal_smoothness(5 * depth, truth.intrinsics, cameras, truth)
    assert larger == pytest.approx(scores(depth, truth), rel=1e-3)


@pytest.mark.parametrize("name", ["depth", "tracks", "flow", "backward_flow"])
def test_missing_truth_is_named(truth, name):
    with pytest.raises(InputError, match=f"^truth: expected .* no {name}$"):
        scores(truth.depth, replace(truth, **{name: None}))
