"""Exact inputs of stage 1 are exact, what spoils them spoils by as much as it says, and stage 1 answers to it."""

import pytest
import torch

from c4d_nb.alignment import AlignConfig
from c4d_nb.camera import invert, project, transform
from c4d_nb.clip import select_frames
from c4d_nb.errors import InputError
from c4d_nb.kubric.truth import points_at_time
from c4d_nb.noise_study import (
    SCORES,
    exact_inputs,
    noise_curve,
    noise_field,
    spoiled,
    stage_1_scores,
    triangulated,
)

FAST = AlignConfig(iterations=60)


@pytest.fixture(scope="module")
def truth(shipped):
    return select_frames(shipped, max_frames=8).truth


@pytest.fixture(scope="module")
def given(truth):
    return exact_inputs(truth, long_side=24, offsets=(1, 3))


def test_pointmaps_are_of_each_frame_at_its_own_time(truth, given):
    for edge in (0, 7, -1):
        n, m = given.pairs.edges[edge].tolist()
        for xyz, frame in ((given.pairs.xyz_1[edge], n), (given.pairs.xyz_2[edge], m)):
            world = transform(truth.world_from_cam[n], xyz.reshape(-1, 3))
            true = given.grid.sample(points_at_time(truth, frame, frame)[None])[0].reshape(-1, 3)
            torch.testing.assert_close(world, true, rtol=1e-4, atol=1e-4)


def test_flow_leads_to_where_the_surface_is(truth, given):
    """In pixels of the full image, of movers too."""
    for edge in (0, 7, -1):
        n, m = given.pairs.edges[edge].tolist()
        moved = given.grid.sample(points_at_time(truth, n, m)[None])[0].reshape(-1, 3)
        uv, _ = project(transform(invert(truth.world_from_cam[m]), moved), truth.intrinsics[m])
        height, width = given.flows.shape[1:3]
        start = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1)
        found = given.grid.stride * (start + given.flows[edge]) + torch.tensor(given.grid.offset)
        torch.testing.assert_close(found.reshape(-1, 2), uv, rtol=0, atol=1e-3)


def test_what_is_hidden_is_not_valid(truth, given):
    """Where flow is valid, the frame it leads to shows the same object nearly everywhere."""
    same = []
    for edge in range(len(given.pairs.edges)):
        n, m = given.pairs.edges[edge].tolist()
        start = given.grid.sample(
            torch.stack(torch.meshgrid(*map(torch.arange, truth.depth.shape[1:]), indexing="ij"), -1)[None]
        )[0]
        there = (start.flip(-1) + given.grid.stride * given.flows[edge]).round().long()
        valid = given.valid[edge]
        column, row = there[valid].unbind(-1)
        same.append(truth.segmentation[m][row, column] == given.truth.segmentation[n][valid])
    assert torch.cat(same).float().mean() > 0.97
    assert 0.5 < given.valid.float().mean() < 1


def test_exact_inputs_give_the_truth(given):
    scores = stage_1_scores(given, config=AlignConfig(weight_cts=0.0, iterations=60))
    assert scores["ate_percent"] < 0.1
    assert scores["rpe_r_deg"] < 0.05
    assert scores["abs_rel"] < 1e-3


@pytest.mark.parametrize("smooth", [True, False])
def test_noise_has_unit_variance(smooth, generator):
    field = noise_field(400, (20, 28), smooth=smooth, generator=generator)
    assert field.shape == (400, 20, 28)
    assert field[:, 0, 0].std() == pytest.approx(1, abs=0.1)
    assert field[:, 9, 13].std() == pytest.approx(1, abs=0.35)
    step = field.diff(dim=2).std()
    assert step < 0.3 if smooth else step > 1.3


def test_flow_is_wrong_by_pixels_of_the_full_image(given):
    wrong = spoiled(given, "flow_px", 2.0, smooth=False, seed=0)
    error_px = given.grid.stride * (wrong.flows - given.flows)
    assert error_px.std() == pytest.approx(2.0, rel=0.02)
    assert wrong.pairs is given.pairs
    assert wrong.motion_masks is given.motion_masks


def test_points_stay_on_their_rays(given):
    wrong = spoiled(given, "pointmaps", 0.1, smooth=False, seed=0)
    for old, new in ((given.pairs.xyz_1, wrong.pairs.xyz_1), (given.pairs.xyz_2, wrong.pairs.xyz_2)):
        ratio = new.norm(dim=-1) / old.norm(dim=-1)
        torch.testing.assert_close(new, ratio[..., None] * old, rtol=1e-4, atol=1e-4)
        assert ratio.log().std() == pytest.approx(0.1, rel=0.05)
    assert wrong.flows is given.flows


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_masks_are_wrong_in_the_share_that_was_asked_for(given, amount, smooth):
    masks = given.motion_masks
    missed = spoiled(given, "missed", amount, smooth=smooth, seed=1).motion_masks
    assert not (missed & ~masks).any()
    assert (masks & ~missed).sum() == round(amount * int(masks.sum()))
    alarms = spoiled(given, "false_alarms", amount, smooth=smooth, seed=1).motion_masks
    assert (alarms & masks).sum() == masks.sum()
    assert (alarms & ~masks).sum() == round(amount * int((~masks).sum()))


def test_a_seed_gives_the_same_noise(given):
    first, second, other = (spoiled(given, "flow_px", 1.0, smooth=True, seed=seed).flows for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_unknown_and_impossible(given, unchecked):
    with pytest.raises(InputError, match="wrong: expected flow_px, pointmaps, missed or false_alarms"):
        spoiled(given, "depth", 0.1, smooth=True, seed=0)
    with pytest.raises(InputError, match="amount: expected a share of pixels"):
        spoiled(given, "missed", 1.5, smooth=True, seed=0)


def test_triangulation_of_exact_flow(given):
    """Geometry alone finds the same pairs, each up to its scale."""
    pairs = triangulated(given).pairs
    assert torch.equal(pairs.edges, given.pairs.edges)
    known = (pairs.conf_1 > 1.5) & ~given.motion_masks[pairs.edges[:, 0]]
    errors = []
    for found, true, where in zip(pairs.xyz_1[..., 2], given.pairs.xyz_1[..., 2], known, strict=True):
        if where.sum() > 20:
            ratio = found[where] / true[where]
            errors.append((ratio / ratio.median() - 1).abs())
    assert torch.cat(errors).median() < 0.01


def test_a_curve_has_a_row_an_amount(given):
    curve = noise_curve(given, "pointmaps", (0.0, 0.2), config=FAST)
    assert curve.shape == (2, len(SCORES))
    assert curve[1, 2] > 3 * curve[0, 2]
