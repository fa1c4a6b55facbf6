"""Alignments of depth: cases by hand, numpy and scipy as oracles, what each may and may not undo."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from c4d_nb.depth_alignment import DEPTH_ALIGNMENTS, align_depth
from c4d_nb.errors import InputError
from c4d_nb.metrics import video_depth

SHIFTING = ("scale_and_shift", "scale_and_shift_l1")


def maps(generator, t=3, side=8):
    """Depth about 4 to 9, and a prediction of it with errors, of which some are gross."""
    target = 4 + 5 * torch.rand(t, side, side, dtype=torch.float64, generator=generator)
    noise = 0.2 * torch.randn(t, side, side, dtype=torch.float64, generator=generator)
    gross = torch.rand(t, side, side, generator=generator) < 0.1
    return 0.5 * (target + noise + 6 * gross), target


def everywhere(depth):
    return torch.ones_like(depth, dtype=torch.bool)


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        ("metric", [1, 2, 4]),
        ("median", [3, 6, 12]),  # 6 over 2
        ("scale", [20 / 7, 40 / 7, 80 / 7]),  # (3 + 12 + 45... = 1*3 + 2*6 + 4*11.25) / (1 + 4 + 16)
        ("scale_l1", [2.8125, 5.625, 11.25]),  # ratios 3, 3, 2.8125 weigh 1, 2, 4
    ],
)
def test_scales_by_hand(alignment, expected):
    predicted, target = torch.tensor([[[1.0, 2, 4]]]), torch.tensor([[[3.0, 6, 11.25]]])
    aligned = align_depth(predicted, target, everywhere(target), alignment=alignment)
    assert aligned.flatten().tolist() == pytest.approx(expected)


def test_a_line_by_hand():
    """Target = 2 d + 1, and 1 / target = 0.5 / d + 0.25: each by its own name, exactly."""
    depth = torch.tensor([[[1.0, 2, 4]]])
    for alignment in SHIFTING:
        aligned = align_depth(depth, 2 * depth + 1, everywhere(depth), alignment=alignment)
        assert torch.allclose(aligned, (2 * depth + 1).double())
    target = 1 / (0.5 / depth + 0.25)
    assert torch.allclose(align_depth(depth, target, everywhere(depth), alignment="disparity"), target.double())


def test_least_squares_against_numpy(generator):
    predicted, target = maps(generator)
    columns = np.stack([predicted.flatten(), np.ones(predicted.numel())], axis=1)
    (scale, shift), *_ = np.linalg.lstsq(columns, target.flatten().numpy(), rcond=None)
    aligned = align_depth(predicted, target, everywhere(target), alignment="scale_and_shift")
    assert torch.allclose(aligned, scale * predicted + shift)


def test_least_absolute_deviations_against_scipy(generator):
    predicted, target = maps(generator)

    def deviation(line):
        return (line[0] * predicted + line[1] - target).abs().mean().item()

    best = min(minimize(deviation, start, method="Nelder-Mead").fun for start in ([1, 0], [2, 0.1]))
    aligned = align_depth(predicted, target, everywhere(target), alignment="scale_and_shift_l1")
    assert (aligned - target).abs().mean().item() == pytest.approx(best, rel=1e-3)
    best = minimize(lambda scale: deviation([scale[0], 0]), [2.0], method="Nelder-Mead").fun
    aligned = align_depth(predicted, target, everywhere(target), alignment="scale_l1")
    assert (aligned - target).abs().mean().item() == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("alignment", [name for name in DEPTH_ALIGNMENTS if name != "metric"])
def test_what_an_alignment_undoes(generator, alignment):
    """A scale by all; a line by those that have one; and a frame's own scale by those that ask frame by frame."""
    _, target = maps(generator)
    undone = [0.3 * target]
    if alignment.startswith(SHIFTING):
        undone.append(0.3 * target + 2)
    if alignment.endswith("per_frame"):
        undone.append(target * torch.tensor([1.0, 3, 0.2])[:, None, None])
    for predicted in undone:
        assert video_depth(predicted, target, alignment=alignment)["abs_rel"] < 1e-6
    if not alignment.endswith("per_frame"):
        several = target * torch.tensor([1.0, 3, 0.2])[:, None, None]
        assert video_depth(several, target, alignment=alignment)["abs_rel"] > 0.1


@pytest.mark.parametrize("alignment", DEPTH_ALIGNMENTS)
def test_only_valid_pixels_decide(generator, alignment):
    predicted, target = maps(generator)
    valid = torch.rand(target.shape, generator=generator) < 0.5
    garbage = torch.where(valid, target, 1e3)
    expected = align_depth(predicted, target, valid, alignment=alignment)[valid]
    assert torch.equal(align_depth(predicted, garbage, valid, alignment=alignment)[valid], expected)
    assert torch.isfinite(align_depth(predicted, garbage, torch.zeros_like(valid), alignment=alignment)).all()


@pytest.mark.parametrize("alignment", ["scale_and_shift", "scale_and_shift_l1", "disparity"])
def test_constant_depth_has_a_finite_line(alignment):
    target = torch.tensor([[[1.0, 2, 6]]])
    aligned = align_depth(torch.full_like(target, 0.1), target, everywhere(target), alignment=alignment)
    assert torch.isfinite(aligned).all()
    assert aligned.std() < 1e-9
    if alignment == "scale_and_shift":
        assert aligned.mean().item() == pytest.approx(3)


def test_depth_that_a_shift_makes_negative_is_missed():
    """The line through (1, 0.1) and most of the rest is below zero at 0: 5 d - 4.9."""
    predicted, target = torch.tensor([[[0.0, 1, 2, 3, 4]]]), torch.tensor([[[0.5, 0.1, 5.1, 10.1, 15.1]]])
    aligned = align_depth(predicted, target, everywhere(target), alignment="scale_and_shift_l1")
    assert aligned.flatten().tolist() == pytest.approx([-4.9, 0.1, 5.1, 10.1, 15.1], abs=0.05)
    scores = video_depth(predicted, target, alignment="scale_and_shift_l1")
    assert scores["delta_1"] == pytest.approx(0.8)
    assert scores["abs_rel"] == pytest.approx(5.4 / 0.5 / 5, rel=0.05)


def test_disparity_beyond_infinity_is_set_to_the_farthest_truth():
    predicted, target = torch.tensor([[[1.0, 1.1, 50]]]), torch.tensor([[[1.0, 2, 3]]])
    aligned = align_depth(predicted, target, everywhere(target), alignment="disparity")
    assert aligned.min() > 0
    assert aligned.max() <= 3 + 1e-9


@pytest.mark.parametrize(
    ("predicted", "alignment", "message"),
    [
        (1.0, "least", "alignment: expected one of metric, median, scale,"),
        (float("nan"), "median", "predicted: expected finite depth at every valid pixel, but 4 of 4 are not"),
        (0.0, "median", "predicted: expected a positive median depth, but it is 0"),
        (0.0, "scale", "predicted: expected depth that a scale can change"),
        (0.0, "scale_l1", "predicted: expected some positive depth"),
        (0.0, "disparity_per_frame", "predicted: expected positive depth to invert, but the least is 0"),
    ],
)
def test_what_cannot_be_aligned(predicted, alignment, message):
    with pytest.raises(InputError, match=message):
        video_depth(torch.full((1, 2, 2), predicted), torch.ones(1, 2, 2), alignment=alignment)
