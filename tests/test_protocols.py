"""The switchboard: each protocol by hand or by another road, ours where it must be, and the spread between them."""

import math
from dataclasses import replace

import pytest
import roma
import torch

from c4d_nb.camera import pinhole, pose
from c4d_nb.clip import Clip, Tracks, Truth
from c4d_nb.metrics import motion_iou, tap_vid, trajectory_errors, video_depth
from c4d_nb.protocols import (
    SPREAD_HEADER,
    ProtocolScore,
    by_measure,
    depth_protocols,
    exact_tracks,
    influence,
    main,
    mask_protocols,
    pose_protocols,
    score_protocols,
    spread_rows,
    track_protocols,
)
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.protocols import protocol_figure
from c4d_nb.show.truth import truth_as_result

T, HEIGHT, WIDTH, N = 12, 20, 32, 9


@pytest.fixture
def truth(generator) -> Truth:
    depth = 4 + 30 * torch.rand(T, HEIGHT, WIDTH, generator=generator)
    depth[0, 0, :4] = 0
    mask = torch.zeros(T, HEIGHT, WIDTH, dtype=torch.bool)
    mask[1:, 4:12, 5:20] = True
    turns = roma.rotvec_to_rotmat(0.1 * torch.randn(T, 3, generator=generator).cumsum(0))
    path = pose(turns, torch.randn(T, 3, generator=generator).cumsum(0))
    uv = WIDTH * torch.rand(T, N, 2, generator=generator)
    visible = torch.rand(T, N, generator=generator) < 0.8
    tracks = Tracks(uv, visible, visible.float(), torch.zeros(T, N), torch.arange(N) % 4)
    return Truth(depth=depth, world_from_cam=path, motion_mask=mask, tracks=tracks)


@pytest.fixture
def result(truth, generator) -> Reconstruction:
    """The truth with errors, in another unit."""
    noise = torch.randn(T, HEIGHT, WIDTH, generator=generator)
    path = truth.world_from_cam.clone()
    path[:, :3, 3] = 0.3 * path[:, :3, 3] + 0.05 * torch.randn(T, 3, generator=generator)
    tracks = replace(truth.tracks, uv=truth.tracks.uv + 3 * torch.randn(T, N, 2, generator=generator))
    return Reconstruction(
        depth=0.3 * truth.depth * (0.2 * noise).exp() + 0.1,
        confidence=1 + noise.abs(),
        intrinsics=pinhole(torch.full((T,), 30.0), HEIGHT, WIDTH),
        world_from_cam=path,
        motion_mask=truth.motion_mask ^ (noise > 1.5),
        tracks=tracks,
        tracks_xyz=torch.zeros(T, N, 3),
        losses={},
        clip=Clip(torch.zeros(T, HEIGHT, WIDTH, 3, dtype=torch.uint8), fps=4.0),
    )


def value(scores, measure, **choices):
    """Of the one protocol that makes these choices."""
    wanted = {(name.replace("_", " "), choice) for name, choice in choices.items()}
    (found,) = (s.value for s in scores if s.measure == measure and wanted <= set(s.choices))
    return found


def test_ours_is_what_the_metrics_say(result, truth):
    scores = score_protocols(result, truth, tracks=truth.tracks)
    ours = {score.measure: score.value for score in scores if score.is_ours}
    assert list(ours) == list(dict.fromkeys(score.measure for score in scores)), "one of each measure"
    assert sum(score.is_ours for score in scores) == len(ours)
    depth = video_depth(result.depth, truth.depth)
    path = trajectory_errors(result.world_from_cam, truth.world_from_cam)
    points = {"uv_true": truth.tracks.uv, "visible_true": truth.tracks.visible}
    points |= {"query_frame": truth.tracks.query_frame, "mode": "first", "size": (HEIGHT, WIDTH)}
    tracks = tap_vid(result.tracks.uv, result.tracks.visible, **points)
    assert ours == {
        "depth AbsRel": depth["abs_rel"],
        "depth delta < 1.25": depth["delta_1"],
        "pose RPE translation": path["rpe_t"],
        "pose RPE rotation (deg)": path["rpe_r_deg"],
        "pose ATE": path["ate"],
        "mask IoU": motion_iou(result.motion_mask, truth.motion_mask),
        "tracks AJ": tracks["aj"],
        "tracks delta_avg": tracks["delta_avg"],
        "tracks OA": tracks["oa"],
    }


def test_no_protocol_is_scored_twice(result, truth):
    scores = score_protocols(result, truth, tracks=truth.tracks, metric=True)
    assert len({(score.measure, score.choices) for score in scores}) == len(scores)
    counts = {measure: len(group) for measure, group in by_measure(scores).items()}
    assert counts == {
        "depth AbsRel": 13 * 3 * 2,  # of the three limits only 10 leaves out something
        "depth delta < 1.25": 13 * 3 * 2,
        "pose RPE translation": 5 * 3,
        "pose RPE rotation (deg)": 3,
        "pose ATE": 5,
        "mask IoU": 4 * 2 * 2,
        "tracks AJ": 2 * 2,
        "tracks delta_avg": 2 * 2,
        "tracks OA": 2,
    }


def test_only_what_the_truth_knows_is_scored(result, truth):
    part = Truth(world_from_cam=truth.world_from_cam)
    assert {score.measure.split()[0] for score in score_protocols(result, part)} == {"pose"}
    assert score_protocols(result, Truth()) == []


def test_a_scale_is_asked_for_only_of_what_has_one(result, truth):
    """Depth and path in another unit are right but for it; a metric protocol calls them wrong."""
    wrong_unit = replace(result, depth=0.1 * truth.depth, world_from_cam=truth.world_from_cam.clone())
    wrong_unit.world_from_cam[:, :3, 3] *= 0.1
    names = {name for score in score_protocols(wrong_unit, truth) for name in dict(score.choices).values()}
    assert not names & {"metric", "se3", "origin"}
    scores = score_protocols(wrong_unit, truth, metric=True)
    assert value(scores, "depth AbsRel", alignment="metric", pixels="all", depth="any depth") == pytest.approx(0.9)
    assert value(scores, "depth AbsRel", alignment="median", pixels="all", depth="any depth") < 1e-6
    assert value(scores, "pose ATE", path_alignment="se3") > 1
    assert value(scores, "pose ATE", path_alignment="sim3") < 1e-5


def test_depth_protocols_choose_their_pixels(result, truth):
    confident = result.confidence > 2
    scores = depth_protocols(result.depth, truth.depth, motion_mask=truth.motion_mask, confident=confident)
    for kind, pixels in {"static": ~truth.motion_mask, "confident": confident}.items():
        expected = video_depth(result.depth, truth.depth, pixels & (truth.depth < 10), alignment="scale_l1")
        assert value(scores, "depth AbsRel", alignment="scale_l1", pixels=kind, depth="< 10") == expected["abs_rel"]


def test_large_depth_is_scored_on_a_part(result, truth):
    few = depth_protocols(result.depth, truth.depth, max_pixels=T * 10 * 16)
    assert few == depth_protocols(result.depth[:, ::2, ::2], truth.depth[:, ::2, ::2])


def test_steps_of_the_relative_pose(result, truth):
    scores = pose_protocols(result.world_from_cam, truth.world_from_cam, fps=4.0)
    pairs = torch.tensor([[i, i + 4] for i in range(T - 4)])
    expected = trajectory_errors(result.world_from_cam, truth.world_from_cam, pairs=pairs)["rpe_r_deg"]
    assert value(scores, "pose RPE rotation (deg)", steps="one second") == expected
    pairs = torch.tensor([[i, j] for i in range(T) for j in range(i + 1, T)])
    expected = trajectory_errors(result.world_from_cam, truth.world_from_cam, pairs=pairs, alignment="scale")["rpe_t"]
    found = value(scores, "pose RPE translation", steps="all pairs", path_alignment="scale")
    assert found == pytest.approx(expected)
    short = pose_protocols(result.world_from_cam, truth.world_from_cam, fps=float(T))
    assert {dict(score.choices).get("steps") for score in short} == {"next frame", "all pairs", None}


def test_mask_protocols_by_hand():
    """Four frames of four pixels: half right; both empty; 1 of 2, twice as large; inside out."""
    predicted = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]).bool()[:, None]
    target = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()[:, None]
    scores = mask_protocols(predicted, target)

    def iou(average, ends="counted", matching="none"):
        return value(scores, "mask IoU", average=average, ends=ends, matching=matching)

    assert iou("by frame, empty counts 1") == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)
    assert iou("by frame, empty counts 0") == pytest.approx((0.5 + 0 + 0.5 + 0) / 4)
    assert iou("by frame, empty left out") == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert iou("pooled") == pytest.approx((2 + 1) / (4 + 2 + 4))
    assert iou("pooled", ends="left out") == pytest.approx(1 / 2)
    assert iou("by frame, empty counts 1", matching="Hungarian") == pytest.approx((0.5 + 1 + 0.5 + 1) / 4)
    assert iou("pooled", matching="Hungarian") == pytest.approx((2 + 1 + 3) / (4 + 2 + 3))


@pytest.mark.parametrize("t", [1, 2])
def test_short_clips_keep_their_ends(t):
    mask = torch.ones(t, 2, 2).bool()
    assert {dict(score.choices)["ends"] for score in mask_protocols(mask, mask)} == {"counted"}


def test_tracks_in_two_units(result, truth):
    scores = track_protocols(result.tracks, truth.tracks, size=(HEIGHT, WIDTH))
    own = value(scores, "tracks AJ", frames="first", pixel_unit="own, 32x20")
    assert own > value(scores, "tracks AJ", frames="first", pixel_unit="of 256x256")
    square = track_protocols(result.tracks, truth.tracks, size=(256, 256))
    assert {dict(score.choices).get("pixel unit") for score in square} == {"of 256x256", None}


def test_influence_by_hand():
    """a moves the score by up to 5, b by up to 3, where the other is the same."""
    values = {("x", "u"): 1.0, ("x", "v"): 4.0, ("y", "u"): 6.0, ("y", "v"): 7.0}
    scores = [ProtocolScore("m", (("a", a), ("b", b)), of) for (a, b), of in values.items()]
    assert influence(scores) == {"a": 5.0, "b": 3.0}


def test_spread_rows(result, truth):
    scores = score_protocols(result, truth)
    rows = spread_rows(scores)
    assert [row[0] for row in rows] == list(by_measure(scores))
    for row in rows:
        assert len(row) == len(SPREAD_HEADER)
        ours, lowest, highest = row[2:5]
        assert lowest <= ours <= highest
    nothing = ProtocolScore("tracks AJ", (("frames", "first"),), math.nan)
    assert spread_rows([nothing, *scores]) == rows


def test_command_prints_the_spread(result, truth, tmp_path, capsys):
    saved = replace(result, clip=replace(result.clip, truth=truth)).save(tmp_path / "result.npz")
    assert main([str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = spread_rows(score_protocols(result, truth))
    assert len(lines) == 1 + 3 * len(rows)
    for line, row in zip(lines[1::3], rows, strict=True):
        assert line.startswith(row[0])
        assert [float(value) for value in line[26:].split()[:3]] == row[2:5]
    assert lines[2] == f"    lowest:  {rows[0][5]}"


def test_exact_tracks_are_those_of_the_clip(shipped):
    """Queries on the clip's own true tracks have these for truth, and are scored as perfect."""
    result = truth_as_result(shipped, shipped.truth.tracks)
    exact = exact_tracks(result)
    # The clip's are by rays, these by maps, which err at outlines.
    assert (exact.visible == shipped.truth.tracks.visible).float().mean() > 0.97
    scores = track_protocols(result.tracks, exact, size=shipped.size)
    assert value(scores, "tracks delta_avg", frames="first", pixel_unit="of 256x256") > 0.99


def test_command_needs_truth(result, tmp_path, caplog):
    saved = result.save(tmp_path / "result.npz")
    assert main([str(saved)]) == 2
    assert "result: expected the reconstruction of a clip with truth" in caplog.text


def test_figure_has_a_strip_for_each_measure(result, truth):
    scores = score_protocols(result, truth, tracks=truth.tracks)
    figure = protocol_figure(scores)
    assert len(figure.axes) == len(by_measure(scores))
    for ax, group in zip(figure.axes, by_measure(scores).values(), strict=True):
        drawn = [x for line in ax.lines if line.get_label()[0] != "_" for x in line.get_xdata()]
        assert sorted(drawn) == sorted(score.value for score in group)
