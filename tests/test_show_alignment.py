"""Pictures of the two-stage optimisation and the view of it while it runs: what they plot is what was recorded."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import roma
import torch
from scenes import room

from c4d_nb.alignment import AlignConfig, Alignment, align
from c4d_nb.camera import invert, pose, transform
from c4d_nb.clip import Truth
from c4d_nb.errors import InputError
from c4d_nb.metrics import align_path, at_scale_of_depth, path_share, trajectory_errors
from c4d_nb.pointmaps.scene_graph import sliding_window_graph
from c4d_nb.show import alignment as show
from c4d_nb.show import pair_clouds, widgets
from c4d_nb.show.figures import TRUTH_COLOR

CONFIG = AlignConfig(weight_cma=0.0, iterations=9, record_every=4)


@pytest.fixture(scope="module")
def scene():
    return room(t=5)


@pytest.fixture(scope="module")
def pairs(scene):
    return scene.pairs(sliding_window_graph(5, offsets=(1, 3)))


@pytest.fixture(scope="module")
def aligned(pairs):
    return align(pairs, config=CONFIG)


@pytest.fixture(scope="module")
def true(scene):
    return Truth(depth=scene.depth.float(), world_from_cam=scene.world_from_cam.float())


def lines(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in ax.lines}


# How it runs


def test_history_shows_what_was_recorded(aligned):
    history = aligned.history
    assert [step.iteration for step in history] == [0, 4, 8]
    axes = show.history_figure(history, true_focal_px=30.0).axes
    values, gradients, gap, focal, path, turns = axes
    assert set(lines(values)) == {"GA", "CTS"}
    np.testing.assert_allclose(lines(values)["GA"], [step.value["ga"] for step in history])
    np.testing.assert_allclose(lines(gradients)["CTS"], [step.gradient_norm["cts"] for step in history])
    np.testing.assert_allclose(gap.lines[0].get_ydata(), [100 * step.gap for step in history])
    np.testing.assert_allclose(focal.lines[0].get_ydata(), [float(step.focal_px[0]) for step in history])
    assert list(focal.lines[1].get_ydata()) == [30, 30]
    assert (len(path.lines), len(turns.lines)) == (3, 3)
    assert path.get_title() == "camera path from above"


def test_what_is_switched_off_is_not_drawn(pairs):
    history = align(pairs, config=replace(CONFIG, weight_cts=0.0, iterations=2)).history
    assert set(lines(show.history_figure(history).axes[0])) == {"GA"}


def test_history_beside_the_true_path(aligned, true):
    path, turns = show.history_figure(aligned.history, true_path=true.world_from_cam).axes[4:]
    error = trajectory_errors(aligned.history[-1].world_from_cam, true.world_from_cam)["ate_percent"]
    assert path.get_title().endswith(f"ATE {error:.1f} %")
    assert path.lines[0].get_color() == turns.lines[0].get_color() == TRUTH_COLOR
    assert len(path.lines) == 4
    rotation = true.world_from_cam[:, :3, :3].double()
    angle = torch.rad2deg(roma.rotmat_geodesic_distance(rotation[0].expand_as(rotation), rotation))
    np.testing.assert_allclose(turns.lines[0].get_ydata(), angle, atol=1e-3)


def test_of_a_long_history_some_paths_are_shown(aligned):
    history = [replace(aligned.history[0], iteration=i) for i in range(50)]
    axes = show.history_figure(history).axes
    assert len(axes[4].lines) == show.PATHS_SHOWN
    assert len(axes[2].lines[0].get_ydata()) == 50


def test_history_of_two_frames(scene):
    """Too few to lay one path on another: they are shown as they are."""
    pairs = scene.pairs(torch.tensor([[0, 1], [1, 0]]))
    history = align(pairs, config=CONFIG).history
    for true_path in (None, scene.world_from_cam[:2]):
        path = show.history_figure(history, true_path=true_path).axes[4]
        assert path.get_title() == "camera path from above"


def test_history_of_nothing():
    with pytest.raises(InputError, match="history: expected at least one snapshot"):
        show.history_figure([])


# Paths and scores


def test_a_short_path_is_seen_at_the_scale_of_depth(true):
    half = pose(true.world_from_cam[:, :3, :3], 0.5 * true.world_from_cam[:, :3, 3])
    assert path_share(half, true.depth, true) == pytest.approx(0.5, rel=1e-4)
    assert path_share(half, 0.5 * true.depth, true) == pytest.approx(1, rel=1e-4)
    assert trajectory_errors(half, true.world_from_cam)["ate_percent"] < 1e-3  # which a Sim(3) does not see


def test_the_path_at_the_scale_of_depth_lies_on_the_true_one(true):
    gauge = pose(roma.rotvec_to_rotmat(torch.tensor([0.3, -0.2, 0.5])), torch.tensor([1.0, 2, 3]))
    moved = gauge @ true.world_from_cam
    moved = pose(moved[:, :3, :3], 3 * moved[:, :3, 3])
    placed = at_scale_of_depth(moved, 3 * true.depth, true)
    torch.testing.assert_close(placed.float(), true.world_from_cam, atol=1e-4, rtol=0)


def test_paths_from_two_sides(aligned, true):
    placed = align_path(aligned.world_from_cam, true.world_from_cam)
    figure = show.paths_figure({"ours": placed}, true.world_from_cam)
    above, side = figure.axes
    assert [line.get_label() for line in above.lines] == ["truth", "ours"]
    found = np.stack([above.lines[1].get_xdata(), above.lines[1].get_ydata(), side.lines[1].get_ydata()], axis=-1)
    steps = np.linalg.norm(np.diff(found, axis=0), axis=-1)  # both views together keep every length
    np.testing.assert_allclose(steps, placed[:, :3, 3].diff(dim=0).norm(dim=-1), rtol=1e-6)
    far = show.paths_figure({"ours": pose(placed[:, :3, :3], 3 * placed[:, :3, 3])}, true.world_from_cam)
    np.testing.assert_array_equal(far.get_size_inches(), figure.get_size_inches())  # notebooks' outputs name it


def test_sweep_has_a_panel_a_score():
    panels = {"ATE": {"a": [1.0, 2.0], "b": [3.0, 4.0]}, "length": {"a": [5.0, 6.0], "b": [7.0, 8.0]}}
    first, second = show.sweep_figure([0.1, 1.0], panels, "weight", marked={"paper": 0.1}, log_scale=True).axes
    assert (first.get_title(), second.get_title()) == ("ATE", "length")
    np.testing.assert_array_equal(lines(second)["b"], [7, 8])
    assert first.get_xscale() == "log"
    assert [text.get_text() for text in first.texts] == ["paper"]
    assert show.sweep_figure([0.1, 1.0], panels, "weight").axes[0].get_xscale() == "linear"


def test_descent_has_floors():
    curves = {"paper": ([1, 2, 3], [3.0, 2.0, 1.5]), "fast": ([1, 2], [2.0, 1.0])}
    ax = show.descent_figure(curves, "seconds", "GA", floors={"closed form": 1.0}).axes[0]
    assert list(lines(ax)) == ["paper", "fast", "closed form"]
    assert list(lines(ax)["closed form"]) == [1, 1]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("seconds", "GA")


# Clouds of one frame


def test_exact_pairs_at_true_cameras_are_one_cloud(scene, pairs, true):
    placed = pair_clouds.placed_pairs(pairs, true.world_from_cam, pairs.xyz_1[..., 2])
    clouds = pair_clouds.frame_clouds(pairs, placed, 2)
    assert set(clouds) == {(n, m) for n, m in pairs.edges.tolist() if 2 in (n, m)}
    for points in clouds.values():
        torch.testing.assert_close(points, scene.xyz_world()[2].reshape(-1, 3).float(), atol=1e-4, rtol=0)
    assert pair_clouds.disagreement(clouds, true.world_from_cam[2, :3, 3]) < 1e-5


def test_pairs_are_placed_in_one_unit(pairs, true):
    """The median depth is right; that of each pair is what it was to the others."""
    placed = pair_clouds.placed_pairs(pairs, true.world_from_cam, 3 * pairs.xyz_1[..., 2])
    torch.testing.assert_close(placed[:, :3, :3].det(), torch.full((len(placed),), 27.0))
    assert torch.equal(placed[:, :3, 3], true.world_from_cam[pairs.edges[:, 0], :3, 3])


def test_disagreement_by_hand():
    """Two clouds, 1 apart in each of two points whose means are 5 away: each is 0.5 off."""
    clouds = {(0, 1): torch.tensor([[0.0, 0, 5.5], [5.5, 0, 0]]), (0, 3): torch.tensor([[0.0, 0, 4.5], [4.5, 0, 0]])}
    assert pair_clouds.disagreement(clouds, torch.zeros(3)) == pytest.approx(0.1)


def test_similarity_to_truth(scene, true):
    turn = pose(roma.rotvec_to_rotmat(torch.tensor([0.1, 0.4, -0.3])), torch.tensor([1.0, -2, 0.5]))
    here = turn @ true.world_from_cam
    found = Alignment(
        depth=2 * true.depth,
        confidence=torch.ones_like(true.depth),
        intrinsics=scene.intrinsics.float(),
        world_from_cam=pose(here[:, :3, :3], 2 * here[:, :3, 3]),
        world_from_pair=torch.eye(4)[None],
    )
    points = scene.xyz_world().float().reshape(*true.depth.shape, 3)
    to_truth = pair_clouds.similarity_to_truth(found, points)
    moved = transform(to_truth, found.xyz_world().reshape(-1, 3))
    torch.testing.assert_close(moved, points.reshape(-1, 3), atol=1e-3, rtol=0)


@pytest.fixture
def clouds(pairs, true):
    apart = pair_clouds.placed_pairs(pairs, true.world_from_cam, 2 * pairs.xyz_1[..., 2])
    together = pair_clouds.placed_pairs(pairs, true.world_from_cam, pairs.xyz_1[..., 2])
    return [pair_clouds.frame_clouds(pairs, placed, 2) for placed in (apart, together)]


def test_buttons_lead_from_before_to_after(clouds, scene, true):
    surface = scene.xyz_world()[2].reshape(-1, 3).float()
    figure = pair_clouds.clouds_in_space(*clouds, surface, true.world_from_cam[2], max_points=900)
    assert sum(len(trace.x) for trace in figure.data) <= 900
    first, last = (button.args[0]["visible"] for button in figure.layout.updatemenus[0].buttons)
    assert [trace.visible is not False for trace in figure.data] == first
    assert first == [True] + [not shown for shown in last[1:]]
    shown = [trace for trace, visible in zip(figure.data, last, strict=True) if visible]
    keep = np.linspace(0, len(surface) - 1, len(shown[0].x)).astype(int)
    for trace in shown:
        np.testing.assert_allclose(np.stack([trace.x, trace.y, trace.z], axis=-1), surface[keep], atol=1e-3)


@pytest.mark.parametrize("number", [0, 30_001])
def test_too_many_points(clouds, true, number):
    with pytest.raises(InputError, match="max_points: expected 1 to 30000"):
        pair_clouds.clouds_in_space(*clouds, true.depth.new_zeros(768, 3), true.world_from_cam[2], max_points=number)


def test_clouds_from_the_side_of_the_camera(clouds, scene, true):
    """To the right is ahead of the camera, and upwards is up."""
    surface = scene.xyz_world()[2].reshape(-1, 3).float()
    camera, up = true.world_from_cam[2], torch.tensor([0.0, -1, 0])
    panels = pair_clouds.clouds_from_side({"before": clouds[0], "after": clouds[1]}, surface, camera, up).axes
    assert [ax.get_title() for ax in panels] == ["before", "after"]
    drawn = torch.tensor(np.asarray(panels[1].collections[-1].get_offsets()))
    seen = transform(invert(camera), surface)
    torch.testing.assert_close(drawn[:, 1].float(), (surface - camera[:3, 3]) @ up, atol=1e-4, rtol=0)
    assert torch.corrcoef(torch.stack([drawn[:, 0].float(), seen[:, 2]]))[0, 1] > 0.99


# While it runs


@pytest.fixture
def drawings(monkeypatch):
    """How many snapshots each drawing showed, by a clock that goes on by 1 whenever it is looked at."""
    shown, clock = [], count()

    def draw(history, **_):
        shown.append(len(history))
        return show.sweep_figure([1.0, 2.0], {"": {"": [1.0, 1.0 + len(history)]}}, "")

    monkeypatch.setattr(widgets, "history_figure", draw)
    monkeypatch.setattr(widgets, "perf_counter", lambda: float(next(clock)))
    return shown


def test_monitor_follows_a_run(pairs):
    view, on_step = widgets.alignment_monitor(CONFIG)
    (progress, text), picture = view.children[0].children, view.children[1]
    seen = []

    def watch(snapshot):
        on_step(snapshot)
        seen.append((progress.value, text.value, picture.value))

    history = align(pairs, config=CONFIG, on_step=watch).history
    assert [value for value, _, _ in seen] == [0, 4, 9]
    assert seen[1][1] == f"4 of 9, GA {history[1].value['ga']:.4g}, CTS {history[1].value['cts']:.4g}"
    assert bytes(seen[0][2][:4]) == b"\x89PNG"
    assert seen[2][2] != seen[0][2]


def test_monitor_draws_when_there_is_time_and_at_the_end(aligned, drawings):
    """A drawing takes 1 by the clock, whose every look takes 1 more: the next is due 4 later, at the fourth look."""
    config = replace(CONFIG, iterations=40, record_every=4)
    _, on_step = widgets.alignment_monitor(config)
    for iteration in range(0, 40, 4):
        on_step(replace(aligned.history[0], iteration=iteration))
    assert drawings == [1, 5, 9, 10]


def test_monitor_begins_anew_with_another_run(aligned, drawings):
    _, on_step = widgets.alignment_monitor(CONFIG)
    for iteration in (0, 4, 8, 0, 4, 8):
        on_step(replace(aligned.history[0], iteration=iteration))
    assert drawings == [1, 3, 3]


def test_monitor_of_a_run_without_snapshots():
    with pytest.raises(InputError, match="config: expected record_every of at least 1, but it is 0"):
        widgets.alignment_monitor(AlignConfig())
