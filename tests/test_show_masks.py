"""Pictures of motion masks, and the explorers' response."""

from dataclasses import replace

import pytest
import torch
from scenes import exact_flow

from c4d_nb import failure_zoo
from c4d_nb.clip import Tracks
from c4d_nb.mask_evaluation import all_static, with_true_mobility
from c4d_nb.show.masks import (
    epipolar_figure,
    evidence_figure,
    frame_errors,
    mask_scores,
    methods_figure,
    pair_geometry,
    second_look_figure,
    threshold_figure,
    union_figure,
    zoo_figure,
)
from c4d_nb.show.widgets import epipolar_explorer, threshold_explorer

EDGES = torch.tensor([[4, 9], [4, 5], [4, 1]])


@pytest.fixture(scope="module")
def flows(yard):
    return torch.stack([exact_flow(yard.truth, n, m) for n, m in EDGES.tolist()])


@pytest.fixture(scope="module")
def static(yard) -> Tracks:
    return with_true_mobility(all_static(len(yard), *yard.size), yard.truth.motion_mask)


def titles(figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def test_geometry_of_a_pair_from_true_static_points(yard, flows, static):
    """Exact flow: static pixels have no error, the mover's is its motion, all static points vote."""
    pair = pair_geometry(flows[0], static, 4, 9)
    moving = yard.truth.motion_mask[4]
    assert pair.error_px[~moving].max() < 0.01
    assert pair.error_px[moving].median() > 1
    assert pair.voted.float().mean() > 0.9


def test_mislabelled_points_are_outvoted(yard, flows):
    pair = pair_geometry(flows[0], all_static(len(yard), *yard.size), 4, 9)
    column, row = pair.static_uv.long().unbind(-1)
    moving = yard.truth.motion_mask[4][row, column]
    assert not pair.voted[moving].float().mean() > 0.1
    assert pair.voted[~moving].float().mean() > 0.9


def test_errors_of_a_frame_begin_with_the_nearest_partner(flows, static):
    errors = frame_errors(flows, static, EDGES, 4)
    torch.testing.assert_close(errors[0], pair_geometry(flows[1], static, 4, 5).error_px)
    torch.testing.assert_close(errors[2], pair_geometry(flows[0], static, 4, 9).error_px)


def test_scores_by_hand():
    found, true = torch.tensor([[True, True, False, False]]), torch.tensor([[True, False, True, False]])
    assert mask_scores(found, true) == {"IoU": pytest.approx(1 / 3), "precision": 0.5, "recall": 0.5}
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert mask_scores(nothing, nothing) == {"IoU": 1.0, "precision": 1.0, "recall": 1.0}


def test_epipolar_figure_tells_the_error(yard, flows, static):
    pair = pair_geometry(flows[0], static, 4, 9)
    figure = epipolar_figure(yard, pair, (3, 2), 0.6)
    assert "pixel (3, 2)" in titles(figure)[0]
    assert f"{pair.error_px[2, 3]:.2f} px: as the camera moves" in titles(figure)[1]


def test_threshold_and_union(yard, flows, static):
    errors, true = frame_errors(flows, static, EDGES, 4), yard.truth.motion_mask[4]
    figure = threshold_figure(yard.frames[4], errors, true, 0.6, votes=2)
    assert titles(figure)[0] == "above 0.6 px in 2 of 3"
    score = mask_scores((errors > 0.6).sum(dim=0) >= 2, true)["IoU"]
    assert f"IoU {100 * score:.0f}" in [text.get_text() for text in figure.axes[1].get_legend().texts]
    assert titles(union_figure(yard.frames[4], errors, true, 0.6))[:3] == ["1 pair", "2 pairs", "3 pairs"]


def test_other_pictures(yard):
    true = yard.truth.motion_mask
    evidence = {"one": true[4].float(), "two": 0.4 * true[4].float()}
    assert titles(evidence_figure(yard.frames[4], evidence, 0.3, true[4]))[2] == "above 0.30: IoU 100 %"
    figure = methods_figure(yard.frames, {"right": true, "none": torch.zeros_like(true)}, true, [1, 2])
    assert figure.axes[0].get_ylabel() == "right\nIoU 100 %"
    specimen = failure_zoo.wrong_flow()
    assert titles(zoo_figure(specimen, {"it": specimen.mask}))[2] == "it\n0 % of the rest"


def test_second_look_circles_what_is_wrong(yard):
    truth = yard.truth.tracks
    n = truth.uv.shape[1]
    dynamic = truth.mobility[0] > 0.5
    turned = replace(truth, mobility=1 - truth.mobility)
    judged = {"turned round": turned, "right": truth}
    figure = second_look_figure(yard, judged, yard.truth.motion_mask, dynamic, [2, 5])
    assert titles(figure) == ["frame 2", "frame 5", "", ""]
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == [f"turned round\n{n} of {n} wrong", "", f"right\n0 of {n} wrong", ""]
    circles = [len(ax.collections[-1].get_offsets()) for ax in figure.axes]
    assert circles == [int(truth.visible[2].sum()), int(truth.visible[5].sum()), 0, 0]


def test_explorers_draw_anew(yard, flows, static):
    explorer = epipolar_explorer(yard, flows, EDGES, {"truth": static})
    picture, pixel = explorer.children[-1], explorer.children[1].children[0]
    before = picture.value
    pixel.value = 7
    assert picture.value != before
    errors = {"truth": frame_errors(flows, static, EDGES, 4)}
    explorer = threshold_explorer(yard.frames[4], errors, yard.truth.motion_mask[4])
    picture, threshold = explorer.children[-1], explorer.children[0].children[0]
    before = picture.value
    threshold.value = 5.0
    assert picture.value != before
