"""DynPT's losses: worked by hand, gradients in float64, and what is not valid counts nowhere."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from c4d_nb.correspondence.dynpt import TrackState
from c4d_nb.correspondence.losses import (
    TrackLosses,
    TrackTruth,
    confidence_loss,
    masked_mean,
    mobility_loss,
    over_passes,
    position_loss,
    since_query,
    track_losses,
    visibility_loss,
)


def mask(*values):
    return torch.tensor([[[bool(v) for v in values]]])


def softplus(x):
    return math.log1p(math.exp(x))


ALL = mask(1, 1, 1, 1)


@pytest.fixture
def case(generator):
    """Two windows of 3 frames and 4 points in float64; errors on either side of 6 and of 12 px, kinks avoided."""

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    truth = TrackTruth(
        50 + 20 * random(2, 3, 4, 2),
        *(torch.rand(3, 2, 3, 4, generator=generator) < 0.6),
        torch.tensor([[0, 1, 2, 1]] * 2),
    )
    state = TrackState(truth.uv + 10 * random(2, 3, 4, 2), *random(3, 2, 3, 4))
    return state, truth


# Position


def test_position_by_hand():
    """Visible: errors (3, 4) and (10, 0). Invisible: (-10, 6). Not valid: anything."""
    truth = torch.zeros(1, 1, 4, 2)
    uv = torch.tensor([[[[3.0, 4], [10, 0], [-10, 6], [1e6, 1e6]]]])
    found = position_loss(uv, truth, visible=mask(1, 1, 0, 1), valid=mask(1, 1, 1, 0))
    first, second = (9 / 2 + 16 / 2) / 2, (6 * (10 - 3)) / 2
    assert found.item() == pytest.approx((first + second) / 2 + 0.2 * (10 + 6) / 2)


@pytest.mark.parametrize(("error", "expected"), [(0, 0), (2, 2), (6, 18), (7, 24), (106, 618)])
def test_huber_is_a_parabola_then_a_line(error, expected):
    uv = torch.full((1, 1, 1, 2), float(error))
    found = position_loss(uv, torch.zeros_like(uv), visible=mask(1), valid=mask(1))
    assert found.item() == pytest.approx(expected)


def test_visible_and_invisible_points_are_averaged_apart():
    """More invisible points of the same error do not count for more."""
    uv, truth = torch.full((1, 1, 4, 2), 5.0), torch.zeros(1, 1, 4, 2)
    one = position_loss(uv[:, :, :2], truth[:, :, :2], visible=mask(1, 0), valid=mask(1, 1))
    many = position_loss(uv, truth, visible=mask(1, 0, 0, 0), valid=ALL)
    assert one.item() == many.item() == pytest.approx(12.5 + 0.2 * 5)


def test_position_gradients(case):
    state, truth = case

    def loss(uv):
        return position_loss(uv, truth.uv, visible=truth.visible, valid=truth.valid)

    assert gradcheck(loss, state.uv.requires_grad_())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_truth_that_is_not_valid_may_be_anything(case, bad):
    state, truth = case
    uv = state.uv.requires_grad_()
    truth.uv[~truth.valid] = bad
    expected = track_losses([state], truth._replace(uv=truth.uv.nan_to_num(0, 0, 0))).total()
    found = track_losses([state], truth).total()
    assert found.item() == pytest.approx(expected.item())
    (gradient,) = torch.autograd.grad(found, uv)
    assert torch.isfinite(gradient).all()
    assert not gradient[~truth.valid].any()


# Confidence, visibility


def test_confidence_by_hand():
    """Errors of 0, just within and just beyond 12 px, and one that is not valid."""
    uv = torch.tensor([[[[0.0, 0], [12 * 0.6, 12 * 0.8 - 1e-4], [12.001, 0], [0, 0]]]])
    logits = torch.tensor([[[2.0, -1, 3, -50]]])
    found = confidence_loss(logits, uv, uv_true=torch.zeros(1, 1, 4, 2), valid=mask(1, 1, 1, 0))
    assert found.item() == pytest.approx((softplus(-2) + softplus(1) + softplus(3)) / 3, rel=1e-5)


def test_twelve_px_are_near():
    uv = torch.tensor([[[[12.0, 0.0]]]])
    near = confidence_loss(torch.tensor([[[9.0]]]), uv, uv_true=torch.zeros_like(uv), valid=mask(1))
    assert near < 0.01


def test_confidence_does_not_move_positions(case):
    state, truth = case
    uv = state.uv.requires_grad_()
    logits = state.confidence.requires_grad_()
    loss = confidence_loss(logits, uv, uv_true=truth.uv, valid=truth.valid)
    assert torch.autograd.grad(loss, uv, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(loss, logits)[0].any()


def test_confidence_gradients(case):
    state, truth = case

    def loss(logits):
        return confidence_loss(logits, state.uv, uv_true=truth.uv, valid=truth.valid)

    assert gradcheck(loss, state.confidence.requires_grad_())


def test_visibility_by_hand():
    logits = torch.tensor([[[1.0, -2, 0, 99]]])
    found = visibility_loss(logits, mask(1, 1, 0, 0), valid=mask(1, 1, 1, 0))
    assert found.item() == pytest.approx((softplus(-1) + softplus(2) + math.log(2)) / 3)


def test_visibility_gradients(case):
    state, truth = case
    assert gradcheck(
        lambda logits: visibility_loss(logits, truth.visible, valid=truth.valid), state.visibility.requires_grad_()
    )


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_certain_and_wrong_is_finite(logit):
    found = visibility_loss(torch.full((1, 1, 1), logit), mask(logit < 0), valid=mask(1))
    assert found.item() == pytest.approx(1e4)


# Mobility


def test_mobility_by_hand():
    """One dynamic point of logit 1, two static ones of -1 and 2; one does not count."""
    found = mobility_loss(torch.tensor([[[1.0, -1, 2, 77]]]), mask(1, 0, 0, 0), valid=mask(1, 1, 1, 0))
    assert found.item() == pytest.approx((softplus(-1) + (softplus(-1) + softplus(2)) / 2) / 2)


def test_rare_class_weighs_as_much():
    """Of 100 points one is dynamic: to call all static costs as much as to call all dynamic."""
    mobile = torch.zeros(1, 1, 100, dtype=torch.bool)
    mobile[..., 0] = True
    logits, valid = torch.full((1, 1, 100), 3.0), torch.ones_like(mobile)
    all_dynamic, all_static = (mobility_loss(sign * logits, mobile, valid=valid) for sign in (1, -1))
    assert all_dynamic.item() == pytest.approx(all_static.item())


@pytest.mark.parametrize("value", [True, False])
def test_one_class_alone_is_a_plain_mean(value):
    mobile = mask(*[value] * 3)
    found = mobility_loss(torch.tensor([[[1.0, 2, 3]]]), mobile, valid=mask(1, 1, 1))
    signed = [-x if value else x for x in (1, 2, 3)]
    assert found.item() == pytest.approx(sum(softplus(x) for x in signed) / 3)


def test_mobility_gradients(case):
    state, truth = case
    valid = truth.valid & since_query(truth.query_frame, frames=3)
    assert gradcheck(lambda logits: mobility_loss(logits, truth.mobile, valid=valid), state.mobility.requires_grad_())


def test_frames_since_the_query():
    since = since_query(torch.tensor([[0, 2, 5, -3]]), frames=3)
    assert since[0].T.int().tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1]]


# All together


def test_nothing_valid_is_zero():
    none = torch.zeros(1, 1, 4, dtype=torch.bool)
    logits = torch.ones(1, 1, 4, requires_grad=True)
    state = TrackState(torch.ones(1, 1, 4, 2), logits, logits, logits)
    truth = TrackTruth(torch.zeros(1, 1, 4, 2), none, none, none, torch.zeros(1, 4, dtype=torch.long))
    losses = track_losses([state, state], truth)
    assert [part.item() for part in losses] == [0, 0, 0, 0]
    losses.total().backward()
    assert not logits.grad.any()


def test_later_passes_count_more():
    assert over_passes(torch.tensor([1.0, 10, 100])).item() == pytest.approx(0.64 + 8 + 100)
    assert over_passes(torch.tensor([1.0, 10]), gamma=0.5).item() == pytest.approx(10.5)
    assert gradcheck(over_passes, torch.rand(4, dtype=torch.float64).requires_grad_())


def test_sum_over_passes_and_parts(case):
    state, truth = case
    other = TrackState(*(part + 0.1 for part in state))
    found = track_losses([state, other], truth)
    since = truth.valid & since_query(truth.query_frame, frames=3)
    for scale, of in ((0.8, state), (1.0, other)):
        found = TrackLosses(
            found.position - scale * position_loss(of.uv, truth.uv, visible=truth.visible, valid=truth.valid),
            found.visibility - scale * visibility_loss(of.visibility, truth.visible, valid=truth.valid),
            found.confidence - scale * confidence_loss(of.confidence, of.uv, uv_true=truth.uv, valid=truth.valid),
            found.mobility - scale * mobility_loss(of.mobility, truth.mobile, valid=since),
        )
    assert [part.item() for part in found] == pytest.approx([0, 0, 0, 0], abs=1e-9)


def test_total_is_weighted():
    losses = TrackLosses(*torch.tensor([100.0, 1, 2, 4]))
    assert losses.total().item() == pytest.approx(5 + 1 + 2 + 4)
    assert losses.total(position=0, confidence=0, mobility=3).item() == pytest.approx(1 + 12)


def test_mobility_before_the_query_is_not_asked_for(case):
    state, truth = case
    changed = state._replace(mobility=state.mobility.masked_fill(~since_query(truth.query_frame, frames=3), 50.0))
    before, after = track_losses([state], truth), track_losses([changed], truth)
    assert before.mobility == after.mobility


def test_perfect_prediction_costs_next_to_nothing(case):
    _, truth = case
    sure = [
        torch.where(target, 30.0, -30.0).double()
        for target in (truth.visible, torch.ones_like(truth.visible), truth.mobile)
    ]
    assert track_losses([TrackState(truth.uv, *sure)], truth).total() < 1e-6


def test_masked_mean():
    assert masked_mean(torch.tensor([1.0, 5, math.nan]), torch.tensor([True, True, False])) == 3
    assert masked_mean(torch.tensor([1.0]), torch.tensor([False])) == 0
