"""Pictures of Kubric's truth: colours worked by hand, what each figure says, truth as if it were a result."""

import json

import ipywidgets
import matplotlib.colors
import numpy as np
import pytest
import roma
import torch

from c4d_nb.camera import invert, pinhole, project, transform
from c4d_nb.clip import Clip
from c4d_nb.errors import InputError
from c4d_nb.kubric.mobility import mobility_labels, position_steps
from c4d_nb.kubric.render import render_clip
from c4d_nb.kubric.scene import Body, Part, Scene, Texture, look_at
from c4d_nb.kubric.tracks import point_tracks, sample_tapvid_queries
from c4d_nb.show import kubric as show
from c4d_nb.show.cells import source, table
from c4d_nb.show.colors import BACKGROUND_GRAY, UNKNOWN_GRAY, flow_image, flow_wheel, outline_image, segment_image
from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR
from c4d_nb.show.truth import track_paths, tracks_in_space, tracks_still, truth_as_result, visibility_figure
from c4d_nb.show.widgets import mobility_explorer

FRAMES = 6
TOSSED, STRUCK, RESTING, TURNING, UNSEEN = range(5)


def body(shape, half, start, steps=(0, 0, 0, 0, 0), turn_deg=0.0, tossed=False):
    """Moves along x by ``steps`` (m) and turns about z by ``turn_deg`` a frame."""
    x = torch.tensor([0, *steps], dtype=torch.float64).cumsum(dim=0)
    along = torch.tensor([1.0, 0, 0]).double()
    angle = torch.deg2rad(turn_deg * torch.arange(FRAMES).double())
    turn = roma.rotvec_to_unitquat(angle[:, None] * torch.tensor([0.0, 0, 1]).double())
    return Body(
        (Part(shape, half, Texture("checks")),), torch.tensor(start).double() + x[:, None] * along, turn, tossed
    )


@pytest.fixture(scope="module")
def scene():
    eye = torch.tensor([[0.2 * t, -7.0, 3.0] for t in range(FRAMES)], dtype=torch.float64)
    return Scene(
        bodies=(
            body("ellipsoid", (0.5, 0.5, 0.5), (-2.5, 0.0, 0.5), (0.3, 0.3, 0.3, 0.0, 0.0), tossed=True),
            body("box", (0.5, 0.5, 0.5), (-0.8, 0.0, 0.5), (0.0, 0.0, 0.0, 0.2, 0.2)),
            body("box", (0.4, 0.4, 0.6), (2.0, 1.0, 0.6), (0.0001,) * 5),
            body("cylinder", (0.4, 0.4, 0.3), (1.0, -1.0, 0.3), turn_deg=20.0),
            body("box", (0.4, 0.4, 0.4), (0.0, -12.0, 0.4), (0.5,) * 5, tossed=True),
        ),
        room=((-14.0, -14.0, 0.0), (14.0, 14.0, 9.0)),
        floor=Texture("checks"),
        walls=Texture("checks"),
        world_from_cam=look_at(eye, torch.tensor([0.0, 0.0, 0.5]).double().expand_as(eye)),
        intrinsics=pinhole(80.0, 64, 72).double(),
        height=64,
        width=72,
    )


@pytest.fixture(scope="module")
def clip(scene):
    return render_clip(scene, fps=12, samples=1, n_tracks=60)


@pytest.fixture(scope="module")
def truth(clip):
    return clip.truth


@pytest.fixture(scope="module")
def result(clip):
    return truth_as_result(clip, clip.truth.tracks)


def shown(ax):
    """The picture on axes."""
    return ax.images[0].get_array()


def legend_of(figure):
    return [text.get_text() for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()]


# Colours


def test_flow_colors():
    """Right, down, left, half as long, none, unknown."""
    nan = float("nan")
    flow = torch.tensor([[[4.0, 0], [0, 4], [-8, 0], [2, 0], [0, 0], [nan, 0]]])
    assert flow_image(flow, 4.0).tolist() == [
        [[255, 0, 0], [128, 255, 0], [0, 255, 255], [255, 128, 128], [255, 255, 255], [UNKNOWN_GRAY] * 3]
    ]


def test_flow_wheel_is_its_key():
    wheel = flow_wheel(9)
    assert wheel[4, 4].tolist() == [255, 255, 255, 255]
    assert wheel[4, 8].tolist() == [255, 0, 0, 255]  # right
    assert wheel[8, 4].tolist() == [128, 255, 0, 255]  # down
    assert wheel[0, 0, 3] == 0


def test_segments_have_colors_of_their_own():
    colors = segment_image(torch.arange(22)[None])[0]
    assert colors[0].tolist() == [BACKGROUND_GRAY] * 3
    assert len(colors[:21].unique(dim=0)) == 21
    assert torch.equal(colors[21], colors[1])


def test_outline_is_around_the_mask():
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[4:8, 4:8] = True
    picture = outline_image(torch.full((12, 12, 3), 7, dtype=torch.uint8), mask)
    orange = (255 * torch.tensor(matplotlib.colors.to_rgb(DYNAMIC_COLOR))).round()
    assert (picture[mask] == 7).all()
    assert (picture[2:4, 2:10] == orange).all()
    assert (picture[:2] == 7).all()


# Cells


def test_source_is_the_functions_own():
    assert source(mobility_labels).data.startswith("def mobility_labels(\n    positions")


def test_table():
    text = table(["name", "count", "size"], [["a", 1, "2 m"], ["b", 2.5, "3 m"]]).data
    assert text == "| name | count | size |\n| :-- | --: | :-- |\n| a | 1 | 2 m |\n| b | 2.5 | 3 m |"


# The rule


def test_rules_are_readings_of_the_label(truth):
    per_clip = [True, True, False, False, True]
    assert show.MobilityRule().labels(truth).tolist() == [[moves] * FRAMES for moves in per_clip]
    assert torch.equal(show.MobilityRule(mode="frame").labels(truth), mobility_labels(truth.positions, mode="frame"))
    assert show.MobilityRule(0.0004, "first").labels(truth)[RESTING].all()
    assert not show.MobilityRule(0.0004).labels(truth)[RESTING].any()
    assert torch.equal(show.MobilityRule().distances(truth), position_steps(truth.positions))
    assert show.MobilityRule(mode="first").distances(truth)[STRUCK].tolist() == pytest.approx([0, 0, 0, 0, 0.2, 0.4])


def test_spin_counts_at_half_the_diagonal(truth):
    """The cylinder fits a box of 0.8 x 0.8 x 0.6 m."""
    rule = show.MobilityRule(spin=True)
    assert rule.labels(truth)[TURNING].all()
    arc = np.deg2rad(20) * 0.5 * np.sqrt(0.8**2 + 0.8**2 + 0.6**2)
    np.testing.assert_allclose(rule.distances(truth)[TURNING], arc, rtol=1e-5)


# Pictures of truth


def test_layers_show_what_is_there(clip, truth):
    axes = np.reshape(show.truth_layers(clip, count=2).axes, (7, 2))
    for column, frame in enumerate((1, FRAMES - 2)):
        assert axes[0, column].get_title() == f"frame {frame}"
        np.testing.assert_array_equal(shown(axes[0, column]), clip.frames[frame])
        np.testing.assert_array_equal(shown(axes[2, column]), segment_image(truth.segmentation[frame]))
        np.testing.assert_array_equal(shown(axes[5, column]), truth.object_coordinates[frame])
        tinted = (shown(axes[6, column]) != shown(axes[6, column])[..., :1]).any(axis=-1)
        np.testing.assert_array_equal(tinted, truth.motion_mask[frame])
    static = ~truth.motion_mask[1]
    forward, backward = (shown(axes[row, 0])[static].astype(int) for row in (3, 4))
    assert np.abs(forward - backward).max() > 5  # opposite ways, opposite colours
    numbers = {text.get_text() for text in axes[2, 0].texts}
    assert numbers == {str(i) for i in (TOSSED, STRUCK, RESTING, TURNING)}


def test_layers_need_complete_truth_and_three_frames(clip):
    without = Clip(clip.frames, 12.0)
    short = Clip(clip.frames[:2], 12.0, truth=clip.truth)
    for bad in (without, short):
        with pytest.raises(InputError, match=r"^clip: expected 3 frames or more with depth"):
            show.truth_layers(bad)


def test_curves_are_the_steps(truth):
    figure = show.motion_figure(truth, threshold=0.02)
    above, steps = figure.axes
    assert {text.get_text() for text in above.texts} == {*map(str, range(5)), "camera"}
    curves = [line for line in steps.lines if len(line.get_xdata()) == FRAMES - 1]
    np.testing.assert_allclose(
        [line.get_ydata() for line in curves], position_steps(truth.positions).clamp(min=show.LEAST_M), rtol=1e-6
    )
    assert [line.get_color() == STATIC_COLOR for line in curves] == [False, False, True, True, False]
    assert legend_of(figure) == [
        "object 0, tossed",
        "object 1, hit",
        "object 4, tossed",
        "threshold, 0.02 m",
        "static: 2 objects",
    ]


def test_dynamic_objects_get_warm_colors_in_turn():
    colors = show.object_colors(torch.tensor([False, *[True] * 6]))
    assert colors[0] == STATIC_COLOR
    assert [colors[i] for i in (1, 2, 6)] == [*show.WARM_COLORS[:2], show.WARM_COLORS[0]]


def test_hit_is_told_frame_by_frame(clip):
    """It rests until frame 3 and moves from then on."""
    figure = show.hit_figure(clip, STRUCK, around=(-2, -1, 0, 9))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["frame 2: rests", "frame 3: moves", "frame 4: moves", "frame 5: moves", "steps of object 1"]
    (left, right), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert right - left == pytest.approx(bottom - top)
    segment = clip.truth.segmentation[2] == STRUCK + 1
    rows, columns = segment.nonzero(as_tuple=True)
    assert left < columns.min()
    assert right > columns.max()
    assert top < rows.min()
    assert bottom > rows.max()


def test_hit_of_what_does_not_move_or_is_not_seen(clip):
    with pytest.raises(InputError, match=r"^number: expected an object that moves, but 2 does not"):
        show.hit_figure(clip, RESTING)
    with pytest.raises(InputError, match=r"^number: expected an object that is seen"):
        show.hit_figure(clip, UNSEEN)


def test_variants_differ_before_the_hit(clip):
    rules = {mode: show.MobilityRule(mode=mode) for mode in ("clip", "frame")}
    figure = show.variants_figure(clip, rules, [1, 4])
    assert [ax.get_title() for ax in figure.axes] == [
        "clip, frame 1",
        "frame, frame 1",
        "clip, frame 4",
        "frame, frame 4",
    ]
    struck = clip.truth.segmentation[1] == STRUCK + 1
    by_clip, by_frame = (shown(ax)[struck.numpy()].astype(int) for ax in figure.axes[:2])
    assert (np.ptp(by_clip, axis=-1) > 0).all()
    assert (np.ptp(by_frame, axis=-1) == 0).all()


def test_label_figure_says_how_many(clip):
    figure = show.label_figure(clip, 1, show.MobilityRule(mode="frame"))
    assert figure.axes[0].get_title() == "frame 1, 2 dynamic"
    assert figure.axes[1].get_ylabel() == "|x(t+1) - x(t)| (m)"
    assert show.label_figure(clip, 1, show.MobilityRule(mode="first")).axes[1].get_ylabel() == "|x(t) - x(0)| (m)"


# Truth as a result


def test_paths_are_where_the_tracks_project(truth):
    paths = track_paths(truth, truth.tracks)
    uv, _ = project(transform(invert(truth.world_from_cam.double()), paths), truth.intrinsics.double())
    assert (uv - truth.tracks.uv).abs().max() < 1e-3


def test_paths_move_as_their_objects(truth):
    """Every object only slides along x, but the one that turns; the background stays."""
    paths = track_paths(truth, truth.tracks)
    column, row = truth.tracks.uv[truth.tracks.query_frame, torch.arange(60)].round().long().T
    segment = truth.segmentation[truth.tracks.query_frame, row, column]
    assert set(segment.tolist()) == {0, TOSSED + 1, STRUCK + 1, RESTING + 1, TURNING + 1}
    slid = torch.cat([torch.zeros(1, FRAMES, 3), truth.positions - truth.positions[:, :1]])[segment].transpose(0, 1)
    sliding = segment != TURNING + 1
    assert ((paths - paths[:1]) - slid)[:, sliding].abs().max() < 1e-5
    around = paths[:, ~sliding] - truth.positions[TURNING, :1]
    assert around.norm(dim=-1).std(dim=0).max() < 1e-6
    assert around.std(dim=0).max() > 0.05


def test_truth_as_a_result(result, truth):
    assert torch.equal(result.depth, truth.depth)
    assert torch.equal(result.tracks_xyz.isnan().any(dim=-1), ~truth.tracks.visible)
    assert torch.equal(result.motion_mask, truth.motion_mask)


def test_scene_with_tracks(result):
    figure = tracks_in_space(result, max_points=600, max_tracks=20)
    traces = {trace.name: trace for trace in figure.data}
    assert len(figure.layout.sliders) == 0
    assert sum(len(trace.x) for trace in figure.data) < 1_200
    assert len(traces["static tracks"].x) == 10
    assert len(traces["dynamic tracks"].x) == 10 * (FRAMES + 1)
    assert traces["static tracks"].marker.color == STATIC_COLOR
    assert traces["dynamic tracks"].line.color == DYNAMIC_COLOR
    assert len(json.dumps(figure.to_plotly_json(), default=lambda value: value.tolist())) < 200_000


def test_still_shows_the_camera_and_both_kinds(result):
    ax = tracks_still(result).axes[0]
    static, dynamic, path, frustum = ax.lines
    assert (static.get_color(), dynamic.get_color()) == (STATIC_COLOR, DYNAMIC_COLOR)
    assert len(static.get_xdata()) == int((result.tracks.mobility[0] == 0).sum())
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    for line in (path, frustum):
        assert ((line.get_xdata() > left) & (line.get_xdata() < right)).all()
        assert ((line.get_ydata() > top) & (line.get_ydata() < bottom)).all()


def test_still_of_one_kind_only(clip, truth):
    at_query = truth.tracks.mobility[0]
    for kind in (0, 1):
        chosen = at_query == kind
        queries = sample_tapvid_queries(truth, n_queries=60, generator=torch.Generator().manual_seed(0))
        tracks = point_tracks(truth, type(queries)(uv=queries.uv[chosen], frame=queries.frame[chosen]))
        result = truth_as_result(clip, tracks)
        assert tracks_still(result).axes
        assert tracks_in_space(result).data


def test_visibility_is_counted(clip, scene, truth):
    queries = sample_tapvid_queries(truth, n_queries=60, generator=torch.Generator().manual_seed(0))
    exact, rule = point_tracks(truth, queries, scene=scene), point_tracks(truth, queries)
    counts = [int(text.split(": ")[1]) for text in legend_of(visibility_figure(clip, exact, rule, 3))]
    seen, said = exact.visible[3], rule.visible[3]
    assert counts == [int((seen & said).sum()), int((~seen & ~said).sum()), int((seen != said).sum())]
    other = point_tracks(truth, type(queries)(uv=queries.uv[:9], frame=queries.frame[:9]))
    with pytest.raises(InputError, match=r"^rule: expected 60 tracks, as of exact, but it has 9"):
        visibility_figure(clip, exact, other, 0)


# Widgets


def all_widgets(widget):
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in all_widgets(child))]


def test_explorer_draws_anew(clip):
    parts = all_widgets(mobility_explorer(clip))
    assert all(type(part).__module__.startswith("ipywidgets.") for part in parts)
    (picture,) = (part for part in parts if isinstance(part, ipywidgets.Image))
    assert bytes(picture.value).startswith(b"\x89PNG")
    controls = {part.description: part for part in parts if hasattr(part, "description")}
    changes = {"threshold (m)": 0.1, "mode": "frame", "count a spin": True, "frame": FRAMES - 1}
    assert set(controls) == set(changes)
    seen = {bytes(picture.value)}
    for name, value in changes.items():
        controls[name].value = value
        seen.add(bytes(picture.value))
    assert len(seen) == 1 + len(changes)
