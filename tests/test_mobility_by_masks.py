"""A second look at mobility, with motion masks at hand."""

from dataclasses import replace

import pytest
import torch

from c4d_nb.clip import Tracks
from c4d_nb.correspondence.tracking import track_by_flow
from c4d_nb.errors import InputError
from c4d_nb.mobility import INSIDE, OUTSIDE, judged_by_masks, mask_at
from c4d_nb.reconstruct import ReconstructConfig, reconstruct

T, HEIGHT, WIDTH = 4, 6, 8


@pytest.fixture
def right_half():
    mask = torch.zeros(T, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, :, WIDTH // 2 :] = True
    return mask


def at_columns(columns, *, visible=None, mobility=0.5):
    """One track, at such a column in each frame."""
    uv = torch.stack([torch.tensor(columns, dtype=torch.float32), torch.full((T,), 2.0)], dim=-1)[:, None]
    seen = torch.ones(T, 1, dtype=torch.bool) if visible is None else torch.tensor(visible)[:, None]
    return Tracks(uv, seen, torch.ones(T, 1), torch.full((T, 1), mobility), torch.zeros(1, dtype=torch.long))


def log_odds(tracks):
    return tracks.mobility.double().logit()


@pytest.mark.parametrize(
    ("columns", "share"), [([0, 1, 2, 3], 0), ([0, 1, 2, 7], 0.25), ([0, 1, 6, 7], 0.5), ([4, 5, 6, 7], 1)]
)
@pytest.mark.parametrize("mobility", [0.1, 0.5, 0.8])
def test_log_odds_add_up(right_half, columns, share, mobility):
    before = at_columns(columns, mobility=mobility)
    added = log_odds(judged_by_masks(before, right_half)) - log_odds(before)
    assert added == pytest.approx(OUTSIDE + (INSIDE - OUTSIDE) * share, abs=1e-5)


def test_only_frames_that_show_the_point_count(right_half):
    half_hidden = at_columns([0, 1, 6, 7], visible=[True, True, False, False])
    assert log_odds(judged_by_masks(half_hidden, right_half)) == pytest.approx(OUTSIDE, abs=1e-6)
    other_half = at_columns([0, 1, 6, 7], visible=[False, False, True, True])
    assert log_odds(judged_by_masks(other_half, right_half)) == pytest.approx(INSIDE, abs=1e-6)


def test_track_that_no_frame_shows_stays_as_it_is(right_half):
    hidden = at_columns([4, 5, 6, 7], visible=[False] * T, mobility=0.3)
    assert judged_by_masks(hidden, right_half).mobility == pytest.approx(0.3)


@pytest.mark.parametrize("mobility", [0.0, 1.0])
@pytest.mark.parametrize("columns", [[0, 1, 2, 3], [4, 5, 6, 7]])
def test_what_is_certain_is_not_turned_round(right_half, columns, mobility):
    judged = judged_by_masks(at_columns(columns, mobility=mobility), right_half).mobility
    assert ((judged > 0.5) == (mobility > 0.5)).all()
    assert ((judged > 0) & (judged < 1)).all()


def test_unknown_stays_unknown(right_half):
    assert judged_by_masks(at_columns([0, 1, 6, 7], mobility=torch.nan), right_half).mobility.isnan().all()


def test_mobility_that_changes_keeps_changing(right_half):
    """A tracker may have a number for each frame; what masks add is the same in all."""
    before = at_columns([0, 1, 6, 7])
    before = replace(before, mobility=torch.tensor([0.1, 0.2, 0.5, 0.9])[:, None])
    added = log_odds(judged_by_masks(before, right_half)) - log_odds(before)
    assert added == pytest.approx(added[0].item(), abs=1e-5)


def test_nothing_else_changes_and_nothing_is_written_to(right_half):
    before = at_columns([0, 1, 6, 7], mobility=0.4)
    after = judged_by_masks(before, right_half)
    for name in ("uv", "visible", "confidence", "query_frame"):
        assert getattr(after, name) is getattr(before, name)
    assert (before.mobility == 0.4).all()


def test_each_track_is_judged_alone(right_half):
    """In any order, with whatever others."""
    generator = torch.Generator().manual_seed(0)
    n = 9
    tracks = Tracks(
        uv=torch.rand(T, n, 2, generator=generator) * torch.tensor([WIDTH - 1.0, HEIGHT - 1.0]),
        visible=torch.rand(T, n, generator=generator) > 0.3,
        confidence=torch.ones(T, n),
        mobility=torch.rand(T, n, generator=generator),
        query_frame=torch.zeros(n, dtype=torch.long),
    )
    order = torch.randperm(n, generator=generator)
    some = Tracks(*(part[:, order] for part in (tracks.uv, tracks.visible, tracks.confidence, tracks.mobility)), order)
    assert torch.equal(
        judged_by_masks(some, right_half).mobility, judged_by_masks(tracks, right_half).mobility[:, order]
    )


def test_masks_of_other_frames_are_refused(right_half):
    with pytest.raises(InputError, match="motion_mask: expected 4 frames, as the tracks, but it has 3"):
        judged_by_masks(at_columns([0, 1, 6, 7]), right_half[:3])


@pytest.mark.parametrize(
    ("uv", "inside"),
    [
        ((3.4, 2.0), False),
        ((3.6, 2.0), True),
        ((-50.0, 2.0), False),
        ((99.0, -3.0), True),
        ((torch.nan, torch.nan), False),
    ],
)
def test_mask_is_looked_up_at_the_nearest_pixel(right_half, uv, inside):
    found = mask_at(right_half, torch.tensor(uv).expand(T, 1, 2))
    assert found.shape == (T, 1)
    assert (found == inside).all()


def test_pipeline_judges_by_the_masks_that_it_uses(yard):
    """Its own, or those that are given."""
    short = replace(yard, frames=yard.frames[:6], fps=yard.fps, truth=None)
    truth = yard.truth.motion_mask[:6]
    config = ReconstructConfig(query_every=3)
    seen = []

    def tracker(frames, queries):
        seen.append(track_by_flow(frames, queries))
        return seen[-1]

    own, given = (reconstruct(short, config, tracker=tracker, masks=masks) for masks in (None, truth))
    for result, tracks in zip((own, given), seen, strict=True):
        assert torch.equal(result.tracks.mobility, judged_by_masks(tracks, result.motion_mask).mobility)
    assert torch.equal(given.motion_mask, truth)
    right = mask_at(truth, given.tracks.uv)[given.tracks.query_frame, torch.arange(len(given.tracks.query_frame))]
    called = [tracks.mobility[0] > 0.5 for tracks in (seen[1], given.tracks)]
    before, after = ((own_call == right).float().mean() for own_call in called)
    assert after > before
