"""DynPT's sliding window over whole clips, what it costs, and how trackers are scored."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from c4d_nb import Clip
from c4d_nb.clip import Tracks, Truth
from c4d_nb.correspondence import evaluation, tracking
from c4d_nb.correspondence.dynpt import DynPT, DynPTConfig, TrackState
from c4d_nb.correspondence.evaluation import SCORES, clip_scores, main, score_table
from c4d_nb.correspondence.queries import Queries, check_queries, clip_queries
from c4d_nb.correspondence.toy import sliding_clip
from c4d_nb.correspondence.tracking import Tracker, chain_flow, track, window_spans
from c4d_nb.correspondence.weights import save_dynpt
from c4d_nb.errors import InputError
from c4d_nb.kubric.generate import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from c4d_nb.resize import Resize

CONFIG = DynPTConfig(
    encoders=("cnn",),
    channels=8,
    cnn_widths=(4, 6, 8, 10),
    levels=2,
    radius=1,
    correlation=(8, 6),
    displacement_bands=4,
    width=16,
    depth=1,
    heads=2,
    virtual=2,
    passes=1,
    long_side=32,
)


def network(kind: type[DynPT] = DynPT, *, head: float | None = None, **changes) -> DynPT:
    """``head``: deviation of the head's weights, if not an untrained one's."""
    torch.manual_seed(0)
    model = kind(replace(CONFIG, **changes))
    if head is not None:
        torch.nn.init.normal_(model.head.weight, std=head)
    return model.eval()


class Steps(DynPT):
    """Every word on a point moves it by (1, 2) px, and calls it hidden, sure and dynamic."""

    def refine(self, pyramid, query_features, state):
        logits = [torch.full_like(part, value) for part, value in zip(state[1:], (-3.0, 2.0, 4.0), strict=True)]
        return [TrackState(state.uv + torch.tensor([1.0, 2.0]), *logits)]


class Saying(DynPT):
    """Leaves points where they are, and says the same of the visibility of all."""

    def refine(self, pyramid, query_features, state):
        return [state._replace(visibility=torch.full_like(state.visibility, self.logit))]


class Counting(DynPT):
    """Calls all points seen, and their mobility's logit 0 in the first window, 1 in the next and so on."""

    def refine(self, pyramid, query_features, state):
        self.windows = getattr(self, "windows", -1) + 1
        seen, mobility = torch.ones_like(state.visibility), torch.full_like(state.mobility, self.windows)
        return [state._replace(visibility=seen, mobility=mobility)]


class Alone(DynPT):
    """A point moves by what is seen at its query; points do not hear of each other."""

    def refine(self, pyramid, query_features, state):
        moves = query_features[0].mean(dim=2)[..., :2]
        return [state._replace(uv=state.uv + moves[:, None], mobility=state.mobility + moves[:, None, :, 0])]


class Watched(DynPT):
    """Notes which frames are encoded: frame i of the clip is 10 i all over."""

    def encode(self, frames):
        self.encoded = getattr(self, "encoded", [])
        self.encoded += ((frames[0].mean(dim=(1, 2, 3)) + 1) * 12.75).round().int().tolist()
        return super().encode(frames)


@pytest.fixture
def unanchored(monkeypatch):
    """No patch is found again."""
    monkeypatch.setattr(tracking, "anchor", finding(lambda queries, frames: torch.zeros(frames, len(queries.frame))))


def finding(pattern: Callable[[Queries, int], Tensor]):
    """An ``anchor`` that finds what the pattern of the queries and the count of frames says, and moves nothing."""

    def anchor(frames, queries, uv):
        uv, index = uv.clone(), torch.arange(len(queries.frame))
        uv[queries.frame, index] = queries.uv
        return uv, pattern(queries, len(frames)).bool()

    return anchor


def clip_of(t: int, size: tuple[int, int] = (24, 32), seed: int = 0) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    return Clip(torch.randint(256, (t, *size, 3), generator=generator, dtype=torch.uint8), 12.0)


def queries_in(clip: Clip, n: int = 7, seed: int = 0) -> Queries:
    """Random ones, from the first frame to the last."""
    generator = torch.Generator().manual_seed(seed)
    height, width = clip.size
    uv = torch.rand(n, 2, generator=generator) * torch.tensor([width - 1, height - 1])
    frame = torch.randint(len(clip), (n,), generator=generator)
    frame[:2] = torch.tensor([0, len(clip) - 1])
    return Queries(uv, frame)


def asked_at(*frames: int) -> Queries:
    return Queries(torch.full((len(frames), 2), 9.0), torch.tensor(frames))


def assert_same(a: Tracks, b: Tracks, atol: float = 1e-4) -> None:
    for name in ("uv", "confidence", "mobility"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=atol, rtol=1e-4)
    assert torch.equal(a.visible, b.visible)
    assert torch.equal(a.query_frame, b.query_frame)


# Windows


@pytest.mark.parametrize(
    ("frames", "window", "stride", "expected"),
    [
        (24, 16, 4, [(0, 16), (4, 20), (8, 24)]),
        (26, 16, 4, [(0, 16), (4, 20), (8, 24), (10, 26)]),
        (17, 16, 4, [(0, 16), (1, 17)]),
        (16, 16, 4, [(0, 16)]),
        (5, 16, 4, [(0, 5)]),
        (1, 16, 4, [(0, 1)]),
        (7, 3, 2, [(0, 3), (2, 5), (4, 7)]),
        (4, 2, 1, [(0, 2), (1, 3), (2, 4)]),
    ],
)
def test_window_spans(frames, window, stride, expected):
    spans = window_spans(frames, window=window, stride=stride)
    assert [(span.start, span.stop) for span in spans] == expected


# The sweep


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (0, [0] + [1] * 3 + [2] * 4 + [3] * 16),
        (12, [1] * 4 + [2] * 4 + [3] * 4 + [0] + [3] * 11),
        (17, [2] * 8 + [3] * 8 + [2] + [0] + [2] * 6),
        (23, [3] * 16 + [2] * 4 + [1] * 3 + [0]),
    ],
)
def test_windows_go_both_ways_from_the_first_with_the_query(frame, words):
    """24 frames in windows 0-15, 4-19 and 8-23, by hand: how many words had moved a point when its last came.

    A window begins with what is known, in new frames with the nearest position.
    """
    found = track(clip_of(24), asked_at(frame), model=network(Steps))
    expected = torch.tensor(words)[:, None, None] * torch.tensor([1.0, 2.0]) + 9
    torch.testing.assert_close(found.uv, expected)


@pytest.mark.parametrize(("frames", "window", "stride"), [(24, 16, 4), (11, 4, 3), (9, 3, 1), (3, 8, 4)])
def test_every_point_is_refined_once_in_every_window(monkeypatch, frames, window, stride):
    """Over both sweeps: in the first that has its query, in all after it and in all before it."""
    clip, seen = clip_of(frames), Counter()
    queries, refine = queries_in(clip, n=12), tracking._Sweep.refine

    def counted(self, pyramid, span, points):
        seen.update((span.start, point) for point in points.tolist())
        return refine(self, pyramid, span, points)

    monkeypatch.setattr(tracking._Sweep, "refine", counted)
    track(clip, queries, model=network(Steps), window=window, stride=stride)
    starts = [span.start for span in window_spans(frames, window=window, stride=stride)]
    assert seen == Counter((start, point) for start in starts for point in range(12))


@pytest.mark.parametrize(("frames", "window", "stride"), [(24, 16, 4), (11, 4, 3), (3, 8, 4), (1, 16, 4)])
def test_every_frame_of_every_point_is_estimated(frames, window, stride):
    clip = clip_of(frames)
    queries = queries_in(clip)
    found = track(clip, queries, model=network(Steps), window=window, stride=stride)
    assert found.uv.shape == (frames, 7, 2)
    torch.testing.assert_close(found.mobility, torch.full((frames, 7), 4.0 - math.log(2)).sigmoid())  # half the odds
    torch.testing.assert_close(found.confidence, torch.full((frames, 7), 2.0).sigmoid())


def test_query_is_exact_and_visible():
    """Elsewhere this model calls everything hidden."""
    clip = clip_of(20)
    queries, index = queries_in(clip), torch.arange(7)
    found = track(clip, queries, model=network(Steps))
    assert torch.equal(found.uv[queries.frame, index], queries.uv)
    assert found.visible[queries.frame, index].all()
    assert found.visible.sum() == 7
    assert torch.equal(found.query_frame, queries.frame)


@pytest.mark.parametrize(("asked", "again"), [((0,), []), ((0, 15), []), ((16,), range(16)), ((0, 23), range(20))])
def test_each_frame_is_encoded_once_a_sweep(asked, again):
    """Forward all of them; backward those of the windows that some point has not been in."""
    frames = (10 * torch.arange(24, dtype=torch.uint8)).view(24, 1, 1, 1).expand(24, 24, 32, 3).contiguous()
    model = network(Watched)
    track(Clip(frames, 12.0), asked_at(*asked), model=model)
    assert model.encoded[:24] == list(range(24))
    assert sorted(model.encoded[24:]) == list(again)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("frames", "window", "stride"), [(14, 6, 4), (11, 4, 3), (12, 5, 1)])
def test_streamed_features_are_those_of_the_whole(frames, window, stride, backward):
    clip, model = clip_of(frames), network()
    sweep = tracking._Sweep(model, clip, queries_in(clip), Resize(24, 32, 24, 32))
    spans = window_spans(frames, window=window, stride=stride)
    if backward:
        spans = spans[::-1]
    with torch.inference_mode():
        whole = sweep._encode(slice(0, frames))
        for span, pyramid in zip(spans, sweep.pyramids(spans), strict=True):
            for level, expected in zip(pyramid.levels, whole.window(span.start, span.stop).levels, strict=True):
                torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 3, 6])
def test_groups_of_points(monkeypatch, at_once):
    """A model in which points do not hear of each other says the same of all at once and of a few at a time."""
    clip, model = clip_of(14), network(Alone)
    queries = queries_in(clip)
    whole = track(clip, queries, model=model, window=6)
    monkeypatch.setattr(tracking, "POINTS_AT_ONCE", at_once)
    assert_same(track(clip, queries, model=model, window=6), whole)


def test_no_group_is_too_large(monkeypatch):
    sizes, refine = [], Alone.refine
    monkeypatch.setattr(tracking, "POINTS_AT_ONCE", 3)
    monkeypatch.setattr(
        Alone, "refine", lambda self, p, f, state: (sizes.append(state.uv.shape[2]), refine(self, p, f, state))[1]
    )
    clip = clip_of(14)
    track(clip, queries_in(clip, n=10), model=network(Alone), window=6)
    assert 0 < max(sizes) <= 3


def test_order_of_the_queries_does_not_matter(generator):
    clip, model = clip_of(14), network(head=0.1)
    queries, order = queries_in(clip), torch.randperm(7, generator=generator)
    whole = track(clip, queries, model=model, window=6)
    found = track(clip, Queries(queries.uv[order], queries.frame[order]), model=model, window=6)
    parts = (whole.uv, whole.visible, whole.confidence, whole.mobility)
    assert (whole.uv - queries.uv).abs().max() > 0.5
    assert_same(found, Tracks(*(part[:, order] for part in parts), whole.query_frame[order]), atol=1e-3)


def test_one_window_is_the_network_itself():
    """A clip as long as the window, at the network's own size."""
    clip, model = clip_of(6), network(head=0.1)
    queries = queries_in(clip)
    found = track(clip, queries, model=model, window=6)
    frames = clip.frames.permute(0, 3, 1, 2)[None] / 127.5 - 1
    with torch.inference_mode():
        last = model(frames, torch.cat([queries.frame[:, None], queries.uv], dim=1)[None])[-1]
    elsewhere = torch.arange(6)[:, None] != queries.frame
    torch.testing.assert_close(found.uv[elsewhere], last.uv[0][elsewhere], atol=1e-3, rtol=0)
    assert torch.equal(found.visible[elsewhere], last.visibility[0][elsewhere] > 0)
    assert not found.visible.all()
    for i in range(7):  # a track's mobility: of the mean logit where it is seen
        expected = last.mobility[0, found.visible[:, i], i].mean().sub(math.log(2)).sigmoid().expand(6)
        torch.testing.assert_close(found.mobility[:, i], expected, atol=1e-3, rtol=0)


def test_tracking_is_repeatable():
    clip, model = clip_of(10), network(head=0.1)
    assert_same(*(track(clip, model=model, window=6, stride=3) for _ in range(2)), atol=0)


@pytest.mark.parametrize("size", [(48, 64), (24, 32), (50, 70), (70, 45)])
def test_positions_are_in_the_clips_pixels(size, unanchored):
    """A network that changes nothing leaves every point at its query, up to the borders."""
    clip = clip_of(9, size)
    queries = queries_in(clip)
    queries.uv[:2] = torch.tensor([[-0.5, -0.5], [size[1] - 0.5, size[0] - 0.5]])
    found = track(clip, queries, model=network(head=0.0, matching=False), window=6)
    torch.testing.assert_close(found.uv, queries.uv.expand(9, -1, -1), atol=1e-4, rtol=0)


def test_steps_are_of_the_networks_pixels():
    """The clip is twice as large as what the network sees."""
    found = track(clip_of(5, (48, 64)), asked_at(0), model=network(Steps))
    torch.testing.assert_close(found.uv[1:] - 9, torch.tensor([2.0, 4.0]).expand(4, 1, -1))


def test_default_queries_are_the_grids():
    clip, model = clip_of(10), network()
    expected = clip_queries(clip.frames, every=3, generator=torch.Generator().manual_seed(5))
    found = track(clip, model=model, window=6, stride=3, seed=5)
    assert torch.equal(found.query_frame, expected.frame)
    assert torch.equal(found.uv[expected.frame, torch.arange(len(expected.frame))], expected.uv)


def test_tracking_leaves_the_clip_and_the_queries_alone():
    clip = clip_of(9, (48, 64))
    queries = queries_in(clip)
    before = [part.clone() for part in (clip.frames, queries.uv, queries.frame)]
    track(clip, queries, model=network(Steps), window=6)
    assert all(torch.equal(a, b) for a, b in zip((clip.frames, queries.uv, queries.frame), before, strict=True))


# What cannot be used


@pytest.mark.parametrize(
    ("uv", "frame", "found"),
    [
        ((32.0, 5.0), 2, r"\(32, 5\) in frame 2"),
        ((5.0, -0.75), 2, r"\(5, -0\.75\) in frame 2"),
        ((5.0, 23.75), 0, r"\(5, 23\.75\) in frame 0"),
        ((5.0, 5.0), 9, r"\(5, 5\) in frame 9"),
        ((5.0, 5.0), -1, r"\(5, 5\) in frame -1"),
        ((float("nan"), 5.0), 2, r"\(nan, 5\) in frame 2"),
        ((5.0, float("inf")), 2, r"\(5, inf\) in frame 2"),
    ],
)
def test_queries_outside(uv, frame, found):
    clip = clip_of(9)
    queries = queries_in(clip)
    queries.uv[4], queries.frame[4] = torch.tensor(uv), frame
    message = r"^queries: expected points within 9 frames of 32x24 px, but there is " + found + "$"
    with pytest.raises(InputError, match=message):
        track(clip, queries, model=network())
    with pytest.raises(InputError, match=message):
        check_queries(queries, 9, (24, 32))


def test_queries_up_to_the_borders():
    uv = torch.tensor([[-0.5, -0.5], [31.5, 23.5], [0, 0]])
    assert check_queries(Queries(uv, torch.tensor([0, 8, 4])), 9, (24, 32)) is None


def test_no_queries():
    queries = Queries(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError, match=r"^queries: expected points \(n, 2\) and a frame for each, but .*\(0, 2\)"):
        track(clip_of(9), queries, model=network())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("points", "frames"), [((3, 2), (4,)), ((3, 3), (3,)), ((4, 3, 2), (4,))])
def test_queries_of_shapes_that_do_not_fit(points, frames):
    queries = Queries(torch.zeros(points), torch.zeros(frames, dtype=torch.long))
    with pytest.raises(InputError, match="queries: expected points"):
        check_queries(queries, 9, (24, 32))


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (4, 5), (16, 0)])
def test_windows_without_overlap(window, stride):
    with pytest.raises(InputError, match=f"^stride: expected 1 to {window - 1}, less than the window, .* is {stride}$"):
        track(clip_of(9), asked_at(0), model=network(), window=window, stride=stride)


def test_window_of_one_frame_says_what_to_change():
    """No stride is possible."""
    with pytest.raises(InputError, match=r"^window: expected "):
        track(clip_of(9), asked_at(0), model=network(), window=1, stride=1)


def test_clip_too_small_for_the_network():
    with pytest.raises(InputError, match="expected sides of 8 px or more"):
        track(clip_of(3, (6, 32)), Queries(torch.full((1, 2), 3.0), torch.tensor([0])), model=network())


# Scores

MADE: list[Clip] = []
"""By ``with_tracks``: trackers are shown frames, and some of those here know the truth of them."""


def with_tracks(clip: Clip, n: int = 8, seed: int = 1) -> Clip:
    """Points at random, of which the second half is dynamic; each is seen in its query's frame, and in most others."""
    generator = torch.Generator().manual_seed(seed)
    t, (height, width) = len(clip), clip.size
    uv = torch.rand(t, n, 2, generator=generator) * torch.tensor([width - 1, height - 1])
    visible = torch.rand(t, n, generator=generator) < 0.7
    query_frame = torch.randint(t - 1, (n,), generator=generator)
    visible[query_frame, torch.arange(n)] = True
    mobility = (torch.arange(n) >= n // 2).float().expand(t, n).clone()
    MADE.append(replace(clip, truth=Truth(tracks=Tracks(uv, visible, torch.ones(t, n), mobility, query_frame))))
    return MADE[-1]


def perfect(frames: Tensor, queries: Queries) -> Tracks:
    return next(clip.truth.tracks for clip in MADE if torch.equal(clip.frames, frames))


def static(frames: Tensor, queries: Queries) -> Tracks:
    truth = perfect(frames, queries)
    return replace(truth, mobility=torch.zeros_like(truth.mobility))


def scores_of(clip: Clip, tracker: Tracker) -> dict[str, float]:
    """Beside masks in which nothing moves."""
    return clip_scores(clip, tracker, torch.zeros(clip.frames.shape[:3], dtype=torch.bool))


def test_scores_of_a_perfect_tracker():
    clip = with_tracks(clip_of(9))
    scores = scores_of(clip, perfect)
    assert tuple(scores) == SCORES
    assert {name: scores[name] for name in SCORES if name != "always_static"} == pytest.approx(
        dict.fromkeys(("d_acc", "d_acc+masks", "balanced", "f1", "aj", "delta_avg", "oa"), 100)
    )
    assert 0 < scores["always_static"] < 100


def test_trackers_are_asked_for_the_clips_own_points():
    clip, asked = with_tracks(clip_of(9)), []
    scores_of(clip, lambda frames, queries: (asked.append(queries), clip.truth.tracks)[1])
    (queries,), truth = asked, clip.truth.tracks
    assert torch.equal(queries.frame, truth.query_frame)
    assert torch.equal(queries.uv, truth.uv[truth.query_frame, torch.arange(8)])


def test_calling_all_static_is_the_base_line():
    scores = scores_of(with_tracks(clip_of(9)), static)
    assert scores["d_acc"] == scores["always_static"]
    assert scores["balanced"] == pytest.approx(50)
    assert scores["f1"] == 0
    assert scores["aj"] == pytest.approx(100)


def test_second_look_is_scored_beside_the_first():
    """Points that lie where the mask is in half of all frames; a tracker that knows nothing calls none of them
    dynamic."""
    clip = with_tracks(clip_of(9))
    truth = clip.truth.tracks
    still = truth.uv[:1].expand_as(truth.uv)
    found = replace(
        truth, uv=still, visible=torch.ones_like(truth.visible), mobility=torch.full_like(truth.mobility, 0.5)
    )
    mask = torch.zeros(clip.frames.shape[:3], dtype=torch.bool)
    column, row = still[0, truth.mobility[0] > 0.5].round().long().unbind(-1)
    mask[::2, row, column] = True
    scores = clip_scores(clip, lambda frames, queries: found, mask)
    assert scores["d_acc"] == scores["always_static"]
    assert scores["d_acc+masks"] == pytest.approx(100)


def test_mobility_counts_from_the_query_on():
    """The rest counts in all frames but that one, so what comes before the query is wrong for it only."""

    def wrong_before(frames, queries):
        truth = perfect(frames, queries)
        before = torch.arange(len(frames))[:, None] < queries.frame
        return replace(
            truth,
            mobility=torch.where(before, 1 - truth.mobility, truth.mobility),
            visible=truth.visible ^ before,
        )

    scores = scores_of(with_tracks(clip_of(9)), wrong_before)
    assert scores["d_acc"] == pytest.approx(100)
    assert scores["oa"] < 90


def test_positions_are_measured_at_256_px():
    """3 px of 32 are 24 of 256: beyond every threshold; a thirty-second of that is within all but the first."""

    def off(px):
        return lambda frames, queries: replace(clip.truth.tracks, uv=clip.truth.tracks.uv + torch.tensor([px, 0.0]))

    clip = with_tracks(clip_of(9))
    assert scores_of(clip, off(3.0))["delta_avg"] == 0
    assert scores_of(clip, off(0.15))["delta_avg"] == pytest.approx(80)  # 1.2 px


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips of two splits."""
    path = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("movi_e-0000", "movi_e-0001", "panning_movi_e-0000")):
        with_tracks(clip_of(6, seed=seed), seed=seed).save(path / f"{name}.npz")
    return path


def test_table_has_means_by_split(folder):
    table = score_table(folder, {"perfect": perfect, "static": static})
    assert list(table) == ["movi_e", "panning_movi_e"]
    assert all(list(rows) == ["perfect", "static"] for rows in table.values())
    single = [scores_of(Clip.load(path), static) for path in sorted(folder.glob("movi_e-*.npz"))]
    assert len(single) == 2
    for name in SCORES:
        assert table["movi_e"]["static"][name] == pytest.approx((single[0][name] + single[1][name]) / 2)
        assert table["panning_movi_e"]["perfect"]["oa"] == pytest.approx(100)


def test_table_leaves_out_what_has_no_case(tmp_path):
    """Of a clip where all is static there is no recall of the dynamic."""
    clip = with_tracks(clip_of(6))
    clip.save(tmp_path / "a-0.npz")
    still = replace(clip.truth.tracks, mobility=torch.zeros(6, 8))
    replace(clip, truth=Truth(tracks=still)).save(tmp_path / "a-1.npz")
    row = score_table(tmp_path, {"static": static})["a"]["static"]
    assert row["balanced"] == pytest.approx(50)
    assert row["d_acc"] == row["always_static"] == pytest.approx((scores_of(clip, static)["d_acc"] + 100) / 2)


# The command


def weights(path, **changes):
    return save_dynpt(network(**changes), path)


def test_command_prints_a_row_for_each_tracker(folder, tmp_path, capsys):
    names = [str(weights(tmp_path / f"{name}.safetensors")) for name in ("one", "two")]
    assert main([str(folder), "--weights", *names]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("movi_e", *names, "flow-chained"),
        *("panning_movi_e", *names, "flow-chained"),
    ]
    assert lines[0].split()[1:] == list(SCORES)
    assert all(len(line.split()) == 1 + len(SCORES) for line in lines)
    assert len({len(line) for line in lines}) == 1


def test_command_tells_weights_of_one_name_apart(folder, tmp_path, capsys):
    """Every training calls its weights the same."""
    names = [str(weights(tmp_path / name / "model.safetensors")) for name in ("a", "b")]
    assert main([str(folder), "--weights", *names]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_command_refuses_absent_weights(folder, caplog):
    assert main([str(folder), "--weights", "absent"]) == EXIT_BAD_INPUT
    assert len(caplog.messages) == 1
    assert "error: weights: " in caplog.text
    assert "dynpt, dynpt_cnn, dynpt_3d, but it is absent" in caplog.text
    assert "\n" not in caplog.messages[0]


def test_command_refuses_a_folder_without_clips(tmp_path, caplog):
    path = weights(tmp_path / "w.safetensors")
    assert main([str(tmp_path), "--weights", str(path)]) == EXIT_BAD_INPUT
    assert "clips: expected a folder of clip archives" in caplog.text


def test_command_can_be_interrupted(folder, tmp_path, monkeypatch, caplog):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "score_table", interrupted)
    with caplog.at_level(logging.ERROR):
        code = main([str(folder), "--weights", str(weights(tmp_path / "w.safetensors"))])
    assert code == EXIT_INTERRUPTED


# Starts by flow


@pytest.mark.parametrize("long_side", [32, 64])
def test_network_that_changes_nothing_leaves_the_flow(long_side, unanchored):
    """In the clip's pixels, whatever the network's; but for patches that are found."""
    clip = sliding_clip(1, frames=9)
    true = clip.truth.tracks
    asked = Queries(true.uv[true.query_frame, torch.arange(len(true.query_frame))], true.query_frame)
    model = network(head=0.0, matching=False, flow_start=True, long_side=long_side)
    found = track(clip, asked, model=model, window=6)
    uv, visible = chain_flow(clip.frames, asked)
    torch.testing.assert_close(found.uv, uv, atol=1e-3, rtol=1e-4)
    assert torch.equal(found.visible, visible)


@pytest.mark.parametrize("sees", [True, False])
def test_two_of_three_witnesses_make_a_point_visible(monkeypatch, sees):
    """Flow, which loses some points; the network, which has one word for all; the patch, found of every other."""
    clip = sliding_clip(1, frames=9)
    asked = queries_in(clip, n=40)
    monkeypatch.setattr(tracking, "anchor", finding(lambda queries, frames: (torch.arange(40) % 2).expand(frames, -1)))
    _, followed = chain_flow(clip.frames, asked)
    model = network(Saying, flow_start=True)
    model.logit = 1.0 if sees else -1.0
    found = track(clip, asked, model=model, window=6)
    patch = (torch.arange(40) % 2).bool().expand(9, -1)
    expected = (followed | patch) if sees else (followed & patch)
    elsewhere = torch.arange(9)[:, None] != asked.frame
    assert torch.equal(found.visible[elsewhere], expected[elsewhere])
    assert 0.1 < followed.float().mean() < 0.95


def test_mobility_is_the_mean_of_all_words_where_a_point_is_seen():
    """12 frames in windows 0-5, 4-9 and 6-11, by hand: each word counts, in every frame."""
    found = track(clip_of(12), asked_at(0), model=network(Counting), window=6)
    expected = torch.tensor((0 + 1 + 2) / 3 - math.log(2)).sigmoid()
    torch.testing.assert_close(found.mobility, expected.expand(12, 1))


def test_flow_has_the_word_where_it_follows_and_the_patch_where_it_does_not(shipped):
    """With a network that changes nothing, on a clip as users have them."""
    true = shipped.truth.tracks
    asked = Queries(true.uv[true.query_frame, torch.arange(len(true.query_frame))], true.query_frame)
    found = track(shipped, asked, model=network(head=0.0, matching=False, flow_start=True, long_side=64))
    flow, followed = chain_flow(shipped.frames, asked)
    torch.testing.assert_close(found.uv[followed], flow[followed], atol=1e-2, rtol=1e-4)
    lost = ~followed & true.visible
    near = [((uv - true.uv).norm(dim=-1)[lost] < 1).float().mean() for uv in (found.uv, flow)]
    assert near[0] > near[1] + 0.05
