"""Superpixels that agree on what moves."""

import pytest
import torch

from c4d_nb.consensus import agree, between_two_modes, smooth_within_edges, superpixels


@pytest.fixture
def two_colors():
    """Three frames, an orange disc that wanders over a green ground; both a little noisy."""
    generator = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(72), torch.arange(96), indexing="ij")
    disc = torch.stack([(row - 36) ** 2 + (column - 30 - 12 * t) ** 2 < 18**2 for t in range(3)])
    color = torch.where(disc[..., None], torch.tensor([230.0, 140, 30]), torch.tensor([60.0, 150, 70]))
    noise = 6 * torch.randn(color.shape, generator=generator)
    return (color + noise).clamp(0, 255).to(torch.uint8), disc


def test_evidence_spreads_over_what_looks_alike(two_colors):
    """It is known in the first frame, on a third of the disc and of the ground; the rest follows."""
    frames, disc = two_colors
    weight = torch.zeros(disc.shape)
    weight[0, :, 20:34] = 1
    found = agree(frames, disc.float(), weight) > 0.5
    assert (found == disc).float().mean() > 0.97


def test_evidence_of_one_value_stays(two_colors):
    frames, disc = two_colors
    found = agree(frames, torch.full(disc.shape, 0.3), torch.ones(disc.shape))
    torch.testing.assert_close(found, torch.full(disc.shape, 0.3), atol=1e-6, rtol=0)


def test_nothing_known_is_nothing_said(two_colors):
    frames, disc = two_colors
    assert not agree(frames, disc.float(), torch.zeros(disc.shape)).any()


def test_result_stays_within_the_evidence(two_colors):
    frames, disc = two_colors
    found = agree(frames, 0.2 + 0.5 * disc.float(), torch.rand(disc.shape))
    assert found.min() >= 0.2 - 1e-6
    assert found.max() <= 0.7 + 1e-6


def test_frames_of_one_colour():
    frames = torch.full((2, 40, 56, 3), 128, dtype=torch.uint8)
    found = agree(frames, torch.rand(2, 40, 56), torch.ones(2, 40, 56))
    assert torch.isfinite(found).all()


def test_superpixels_are_numbered_through_the_clip(two_colors):
    labels = superpixels(two_colors[0].numpy())
    assert labels.min() == 0
    assert labels[0].max() + 1 == labels[1].min()


def test_smoothing_stops_at_edges(two_colors):
    frames, disc = two_colors
    smooth = smooth_within_edges(frames, disc.float())
    assert ((smooth > 0.5) == disc).float().mean() > 0.99


@pytest.mark.parametrize(("modes", "expected"), [((0.1, 0.8), 0.45), ((0.05, 0.1), 0.3), ((0.7, 0.95), 0.6)])
def test_threshold_between_two_modes(generator, modes, expected):
    """Between them, but never outside 0.3 to 0.6."""
    values = torch.cat([mode + 0.01 * torch.randn(500, generator=generator) for mode in modes])
    assert between_two_modes(values, 0.3, 0.6) == pytest.approx(expected, abs=0.35 if expected == 0.45 else 1e-6)
