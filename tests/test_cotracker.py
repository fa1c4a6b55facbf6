"""Another project's tracker in our pipeline, offline: models that are called as CoTracker3's predictor is."""

import pytest
import torch

from c4d_nb import Clip
from c4d_nb.clip import resize_clip
from c4d_nb.correspondence import cotracker as module
from c4d_nb.correspondence.cotracker import cotracker, load_cotracker
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.tracking import chain_flow
from c4d_nb.errors import InputError
from c4d_nb.reconstruct import reconstruct


class Recorded:
    """Answers with what a function of the asked points says; remembers how it was called."""

    def __init__(self, answer):
        self.answer, self.videos, self.queries = answer, [], []

    def __call__(self, video, *, queries):
        self.videos.append(video)
        self.queries.append(queries)
        return self.answer(video, queries)


def standing(video, queries):
    """Every point stays where it was asked for, and is seen."""
    shape = 1, video.shape[1], queries.shape[1]
    return queries[:, None, :, 1:].expand(*shape, 2).clone(), torch.ones(shape, dtype=torch.bool)


def truth_of(tracks):
    """The true tracks of the clip, in the order in which they are asked for."""
    return lambda video, queries: (tracks.uv[None].clone(), tracks.visible[None].clone())


@pytest.fixture(scope="module")
def few():
    frames = torch.arange(4 * 6 * 8 * 3, dtype=torch.float32).reshape(4, 6, 8, 3).to(torch.uint8)
    return frames, Queries(torch.tensor([[1.0, 2.0], [7.0, 5.0]]), torch.tensor([0, 3]))


def test_the_model_is_called_as_published(few):
    frames, queries = few
    model = Recorded(standing)
    cotracker(model)(frames, queries)
    assert model.videos[0].shape == (1, 4, 3, 6, 8)
    assert model.videos[0].dtype == torch.float32
    assert torch.equal(model.videos[0][0, 2, 1], frames[2, :, :, 1].float())
    assert torch.equal(model.queries[0], torch.tensor([[[0.0, 1, 2], [3.0, 7, 5]]]))


def test_a_standing_model_gives_standing_tracks(few):
    frames, queries = few
    tracks = cotracker(standing)(frames, queries)
    assert torch.equal(tracks.uv, queries.uv.expand(4, 2, 2))
    assert tracks.visible.all()
    assert torch.equal(tracks.query_frame, queries.frame)


def test_a_probability_is_the_confidence_and_the_query_is_where_it_was_asked_for(few):
    frames, queries = few
    probability = torch.tensor([[0.2, 0.9], [0.5, 0.6], [0.51, 0.1], [0.7, 0.3]])
    tracks = cotracker(lambda video, queries: (torch.zeros(1, 4, 2, 2), probability[None]))(frames, queries)
    assert tracks.visible.tolist() == [[True, True], [False, True], [True, False], [True, True]]
    assert tracks.confidence[1:3].equal(probability[1:3])
    assert torch.equal(tracks.uv[queries.frame, torch.arange(2)], queries.uv)
    assert torch.equal(tracks.uv[1:3], torch.zeros(2, 2, 2))


def test_many_points_are_asked_for_in_parts_and_stay_in_order(few, monkeypatch):
    monkeypatch.setattr(module, "POINTS_AT_ONCE", 3)
    uv = torch.arange(14, dtype=torch.float32).reshape(7, 2)
    model = Recorded(standing)
    tracks = cotracker(model)(few[0], Queries(uv, torch.zeros(7, dtype=torch.long)))
    assert [asked.shape[1] for asked in model.queries] == [3, 3, 1]
    assert torch.equal(tracks.uv[3], uv)


def test_mobility_of_exact_tracks_tells_the_ball_from_the_yard(yard):
    true = yard.truth.tracks
    queries = Queries(true.uv[true.query_frame, torch.arange(true.uv.shape[1])], true.query_frame)
    found = cotracker(truth_of(true))(yard.frames, queries)
    moves, called = true.mobility[0] >= 0.5, found.mobility[0] >= 0.5
    assert called[moves].float().mean() > 0.9
    assert called[~moves].float().mean() < 0.05


def test_reconstruct_takes_any_tracker(yard):
    clip = resize_clip(Clip(yard.frames[:3], yard.fps), 96)
    model = Recorded(lambda video, queries: tuple(part[None] for part in chain_flow(clip.frames, as_queries(queries))))
    result = reconstruct(clip, tracker=cotracker(model))
    uv, visible = chain_flow(clip.frames, as_queries(model.queries[0]))
    assert len(model.queries) == 1
    assert torch.equal(result.tracks.uv, uv)
    assert torch.equal(result.tracks.visible, visible)


def test_a_tracker_that_drops_points_is_refused(yard):
    def forgetful(frames, queries):
        return cotracker(standing)(frames, Queries(queries.uv[1:], queries.frame[1:]))

    with pytest.raises(InputError, match=r"tracker: expected tracks of 3 frames and \d+ points"):
        reconstruct(Clip(yard.frames[:3], yard.fps), tracker=forgetful)


def test_what_cannot_be_downloaded_is_one_sentence(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load", refuse)
    with pytest.raises(InputError, match=r"model: expected cotracker3_offline of .* no network"):
        load_cotracker("cpu")


def as_queries(asked):
    return Queries(asked[0, :, 1:].cpu(), asked[0, :, 0].long().cpu())
