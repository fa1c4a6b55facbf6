"""The losses of pointmaps: values by hand, gradients, units of length, and pixels without truth."""

import math

import pytest
import torch

from c4d_nb.pointmaps.losses import (
    confidence_loss,
    mean_distance,
    mean_error,
    regression_error,
    relative_point_error,
)


@pytest.fixture
def case(generator):
    """Random float64 predictions and truths of two pairs of 2x3 pixels; a third of the pixels has no truth."""
    points = [3 + torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=generator) for _ in range(4)]
    valid = [torch.rand(2, 2, 3, generator=generator) > 1 / 3 for _ in range(2)]
    return *points, *valid


@pytest.fixture
def confidences(generator):
    return [1.5 + torch.rand(2, 2, 3, dtype=torch.float64, generator=generator) for _ in range(2)]


def depths(*values):
    """Points straight ahead: one pair, one row."""
    return torch.tensor([[0.0, 0.0, z] for z in values])[None, None]


def every(*shape):
    return torch.ones(*shape, dtype=torch.bool)


def none(*shape):
    return torch.zeros(*shape, dtype=torch.bool)


def loss_of(predicted_1, predicted_2, conf_1, conf_2, xyz_1, xyz_2, valid_1, valid_2):
    errors = regression_error(predicted_1, predicted_2, xyz_1, xyz_2, valid_1, valid_2)
    return confidence_loss(*errors, conf_1, conf_2, valid_1, valid_2)


# By hand


def test_mean_distance_is_over_both_views():
    """5, 1 and, without truth, 9."""
    xyz_1, xyz_2 = torch.tensor([[[[3.0, 4.0, 0.0], [9.0, 0.0, 0.0]]]]), depths(1.0, 1.0)
    unit = mean_distance(xyz_1, xyz_2, torch.tensor([[[True, False]]]), torch.tensor([[[True, False]]]))
    assert unit.tolist() == pytest.approx([3.0])


def test_errors_by_hand():
    """Both units are 2: depths of 0.5 and 1.5 units instead of 1."""
    predicted, truth, valid = depths(1.0, 3.0), depths(2.0, 2.0), every(1, 1, 2)
    error_1, error_2 = regression_error(predicted, truth, truth, truth, valid, valid)
    torch.testing.assert_close(error_1, torch.tensor([[[0.5, 0.5]]]))
    torch.testing.assert_close(error_2, torch.zeros(1, 1, 2))
    assert mean_error(error_1, error_2, valid, valid).item() == pytest.approx(0.25)


def test_confidence_loss_by_hand():
    errors, conf, valid = torch.tensor([[[0.5, 3.0]]]), torch.tensor([[[2.0, 1.0]]]), every(1, 1, 2)
    loss = confidence_loss(errors, 0 * errors, conf, conf, valid, none(1, 1, 2), alpha=0.4)
    assert loss.item() == pytest.approx((2 * 0.5 - 0.4 * math.log(2) + 3) / 2)


@pytest.mark.parametrize("error", [0.02, 0.05, 0.1])
def test_confidence_loss_is_least_at_alpha_over_error(error):
    best = 0.2 / error

    def loss(confidence):
        conf = torch.tensor([[[confidence]]], dtype=torch.float64, requires_grad=True)
        errors = torch.full((1, 1, 1), error, dtype=torch.float64)
        value = confidence_loss(errors, errors, conf, conf, every(1, 1, 1), every(1, 1, 1))
        return value, torch.autograd.grad(value, conf)[0].item()

    assert loss(best)[1] == pytest.approx(0, abs=1e-12)
    assert loss(best)[0] < min(loss(0.99 * best)[0], loss(1.01 * best)[0])


def test_relative_error_by_hand():
    """s is the median of 1, 1/2, 1/4: errors of 1/2, 0 and 1."""
    predicted, truth = depths(1.0, 2.0, 4.0), depths(1.0, 1.0, 1.0)
    error = relative_point_error(predicted, predicted, truth, truth, every(1, 1, 3), none(1, 1, 3))
    assert error.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_relative_error_of_a_scaled_truth_is_zero(case, scale):
    _, _, xyz_1, xyz_2, *valid = case
    assert relative_point_error(scale * xyz_1, scale * xyz_2, xyz_1, xyz_2, *valid).max() < 1e-12


def test_relative_error_without_truth_is_unknown(case):
    """Of the pair that has none; the other one keeps its error."""
    expected = relative_point_error(*case)
    valid_1, valid_2 = (x.clone() for x in case[4:])
    valid_1[1], valid_2[1] = False, False
    found = relative_point_error(*case[:4], valid_1, valid_2)
    assert found[0] == expected[0]
    assert found[1].isnan()


# Gradients


def test_gradient_of_the_loss(case, confidences):
    inputs = tuple(x.requires_grad_() for x in (*case[:2], *confidences))
    assert torch.autograd.gradcheck(lambda *predicted: loss_of(*predicted, *case[2:]), inputs)


def test_gradient_of_the_mean_error(case):
    inputs = tuple(x.requires_grad_() for x in case[:2])
    assert torch.autograd.gradcheck(lambda *p: mean_error(*regression_error(*p, *case[2:]), *case[4:]), inputs)


def test_gradient_of_the_truth_is_finite(case):
    """The error of a pixel has a kink there."""
    predicted = [xyz.clone().requires_grad_() for xyz in case[2:4]]
    error = mean_error(*regression_error(*predicted, *case[2:]), *case[4:])
    error.backward()
    assert error.abs() < 1e-12
    assert all(x.grad.isfinite().all() for x in predicted)


# Units


@pytest.mark.parametrize(("of_prediction", "of_truth"), [(5.0, 1.0), (1.0, 0.2), (0.3, 40.0)])
def test_units_of_length_do_not_matter(case, of_prediction, of_truth):
    scaled = [of_prediction * x for x in case[:2]] + [of_truth * x for x in case[2:4]]
    for found, expected in zip(regression_error(*scaled, *case[4:]), regression_error(*case), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(relative_point_error(*scaled, *case[4:]), relative_point_error(*case))


def test_both_views_have_one_unit(case):
    """A scale of one view alone is an error."""
    truth = case[2:]
    errors = regression_error(2 * truth[0], truth[1], *truth)
    assert mean_error(*errors, *truth[2:]) > 0.1


def test_pairs_have_units_of_their_own(case):
    scale = torch.tensor([2.0, 0.1], dtype=torch.float64)[:, None, None, None]
    scaled = regression_error(*(scale * x for x in case[:2]), *case[2:])
    for found, expected in zip(scaled, regression_error(*case), strict=True):
        torch.testing.assert_close(found, expected)


# Pixels without truth


@pytest.mark.parametrize("junk", [7.0, math.nan, math.inf])
@pytest.mark.parametrize("of", ["truth", "prediction"])
def test_pixels_without_truth_do_not_matter(case, confidences, of, junk):
    """Neither to values nor to gradients."""

    def results(predicted, conf, truth):
        inputs = [x.clone().requires_grad_() for x in (*predicted, *conf)]
        loss = loss_of(*inputs, *truth, *valid)
        error = mean_error(*regression_error(*inputs[:2], *truth, *valid), *valid)
        (loss + error).backward()
        relative = relative_point_error(*(x.detach() for x in inputs[:2]), *truth, *valid)
        return loss.detach(), error.detach(), relative, *(x.grad for x in inputs)

    def spoilt(maps):
        masks = [ok if x.ndim == ok.ndim else ok[..., None] for x, ok in zip(maps, valid, strict=True)]
        return [torch.where(ok, x, junk) for x, ok in zip(maps, masks, strict=True)]

    predicted, truth, valid = case[:2], case[2:4], case[4:]
    expected = results(predicted, confidences, truth)
    if of == "truth":
        found = results(predicted, confidences, spoilt(truth))
    else:
        found = results(spoilt(predicted), spoilt(confidences), truth)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_errors_are_zero_without_truth(case):
    for error, valid in zip(regression_error(*case), case[4:], strict=True):
        assert error[~valid].abs().max() < 1e-12


def test_pairs_without_truth_do_not_count(case, confidences):
    """The mean is over those that have any; of none it is 0, and so are the gradients."""
    valid_1, valid_2 = (x.clone() for x in case[4:])
    valid_1[1], valid_2[1] = False, False
    first = [x[:1] for x in case]
    torch.testing.assert_close(
        loss_of(*case[:2], *confidences, *case[2:4], valid_1, valid_2),
        loss_of(*first[:2], *(x[:1] for x in confidences), *first[2:]),
    )
    predicted = [x.requires_grad_() for x in (*case[:2], *confidences)]
    loss = loss_of(*predicted, *case[2:4], none(2, 2, 3), none(2, 2, 3))
    loss.backward()
    assert loss == 0
    assert all((x.grad == 0).all() for x in predicted)


def test_every_pair_counts_the_same(case):
    """However many of its pixels have a truth."""
    valid_1, valid_2 = every(2, 2, 3), every(2, 2, 3)
    valid_1[1, 0], valid_2[1] = False, False
    errors = [torch.ones(2, 2, 3), torch.ones(2, 2, 3)]
    errors[0][1] = 3
    assert mean_error(*errors, valid_1, valid_2).item() == pytest.approx(2)
