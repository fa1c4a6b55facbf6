"""Scores: evo as the oracle for paths, hand-worked cases for the rest."""

import json
import math

import numpy as np
import pytest
import roma
import torch
from evo.core import metrics, sync
from evo.core.trajectory import PosePath3D
from evo.tools import file_interface

from c4d_nb.camera import pose
from c4d_nb.errors import InputError
from c4d_nb.metrics import (
    align_path,
    associate_timestamps,
    dynamic_accuracy,
    motion_iou,
    tap_vid,
    trajectory_errors,
    video_depth,
)


def path(generator, t=20):
    """A smooth random path."""
    rotvec = (0.2 * torch.randn(t, 3, dtype=torch.float64, generator=generator)).cumsum(0)
    return pose(roma.rotvec_to_rotmat(rotvec), torch.randn(t, 3, dtype=torch.float64, generator=generator).cumsum(0))


def disturbed(of, generator, angle=0.05, shift=0.1):
    t = len(of)
    turn = roma.rotvec_to_rotmat(angle * torch.randn(t, 3, dtype=torch.float64, generator=generator))
    return of @ pose(turn, shift * torch.randn(t, 3, dtype=torch.float64, generator=generator))


def moved(of, generator, scale):
    """The same path in another world frame, of another scale."""
    by = pose(roma.random_rotmat(dtype=torch.float64, generator=generator), torch.tensor([3.0, -1, 7]).double())
    scaled = of.clone()
    scaled[:, :3, 3] *= scale
    return by @ scaled


def evo_align(estimate, reference, alignment):
    """evo's switches for each of our names."""
    if alignment in ("sim3", "se3"):
        estimate.align(reference, correct_scale=alignment == "sim3")
    if alignment == "scale":
        estimate.align(reference, correct_only_scale=True)
    if alignment in ("scale", "origin"):
        estimate.align_origin(reference)


def evo_errors(predicted, target, alignment="sim3", delta=1):
    """APE, and RPE over all pairs so many frames apart."""
    estimate, reference = (PosePath3D(poses_se3=[p.numpy() for p in poses]) for poses in (predicted, target))
    evo_align(estimate, reference, alignment)
    kinds = {"ate": metrics.APE(metrics.PoseRelation.translation_part)}
    for name, relation in (("rpe_t", "translation_part"), ("rpe_r_deg", "rotation_angle_deg")):
        kinds[name] = metrics.RPE(
            metrics.PoseRelation[relation], delta=delta, delta_unit=metrics.Unit.frames, all_pairs=True
        )
    for metric in kinds.values():
        metric.process_data((reference, estimate))
    return {name: metric.get_statistic(metrics.StatisticsType.rmse) for name, metric in kinds.items()}


@pytest.mark.parametrize("scale", [1.0, 0.2, 8.0])
@pytest.mark.parametrize("t", [3, 20])
def test_path_errors_against_evo(generator, t, scale):
    target = path(generator, t)
    predicted = moved(disturbed(target, generator), generator, scale)
    ours, theirs = trajectory_errors(predicted, target), evo_errors(predicted, target)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)


def test_unrelated_paths_against_evo(generator):
    predicted, target = path(generator), path(generator)
    ours, theirs = trajectory_errors(predicted, target), evo_errors(predicted, target)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    ("truth", "estimate"),
    [
        ("fr2_desk_groundtruth.txt", "fr2_desk_ORB.txt"),
        ("freiburg1_xyz-groundtruth.txt", "freiburg1_xyz-rgbdslam.txt"),
        ("slambook_ch4_groundtruth.txt", "slambook_ch4_estimated.txt"),
    ],
)
def test_published_paths_against_evo(reference_data, truth, estimate):
    folder = reference_data / "data" / "traj"
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist")
    files = (file_interface.read_tum_trajectory_file(str(folder / name)) for name in (truth, estimate))
    associated = sync.associate_trajectories(*files)
    target, predicted = (torch.from_numpy(np.stack(of.poses_se3[:1000])) for of in associated)
    ours, theirs = trajectory_errors(predicted, target), evo_errors(predicted, target)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("truth", "estimate", "max_difference_s", "published_m", "n_pairs"),
    [
        ("fr2_desk_groundtruth.txt", "fr2_desk_ORB.txt", 0.02, 0.008144, 2223),
        ("freiburg1_xyz-groundtruth.txt", "freiburg1_xyz-rgbdslam.txt", 0.01, 0.01347, 785),
    ],
)
def test_published_errors(reference_data, truth, estimate, max_difference_s, published_m, n_pairs):
    """ATE under SE(3), as published; a Sim(3) has one more freedom, so it may only be lower, and not by much."""
    folder = reference_data / "data" / "traj"
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist")
    paths = [file_interface.read_tum_trajectory_file(str(folder / name)) for name in (truth, estimate)]
    times = (torch.from_numpy(path.timestamps) for path in paths)
    pairs = associate_timestamps(*times, max_difference_s=max_difference_s)
    assert len(pairs) == n_pairs
    both = zip(paths, pairs.T, strict=True)
    target, predicted = (torch.from_numpy(np.stack(path.poses_se3))[index] for path, index in both)
    ate = trajectory_errors(predicted, target, alignment="se3")["ate"]
    assert ate == pytest.approx(published_m, abs=2e-6)
    assert 0.5 * ate < trajectory_errors(predicted, target)["ate"] <= ate


@pytest.mark.parametrize("delta", [1, 5])
@pytest.mark.parametrize("alignment", ["sim3", "se3", "scale", "origin", "none"])
def test_every_alignment_against_evo(generator, alignment, delta):
    target = path(generator)
    predicted = moved(disturbed(target, generator), generator, 0.7)
    first = torch.arange(len(target) - delta)
    pairs = torch.stack([first, first + delta], dim=-1)
    ours = trajectory_errors(predicted, target, alignment=alignment, pairs=pairs)
    theirs = evo_errors(predicted, target, alignment, delta)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)


def test_a_similarity_leaves_the_least_error(generator):
    target = path(generator)
    predicted = moved(disturbed(target, generator), generator, 3.0)
    ate = {name: trajectory_errors(predicted, target, alignment=name)["ate"] for name in ("sim3", "se3", "scale")}
    assert ate["sim3"] < min(ate["se3"], ate["scale"])
    assert torch.equal(align_path(predicted, target, alignment="none"), predicted)


def test_a_camera_that_stands_still(generator):
    """Nothing is divided by its spread of zero: the error is the truth's own spread."""
    target = path(generator)
    still = pose(torch.eye(3).double().expand(20, 3, 3), torch.tensor([1.0, 2, 3]).double().expand(20, 3))
    errors = trajectory_errors(still, target)
    centre = target[:, :3, 3]
    assert errors["ate"] == pytest.approx((centre - centre.mean(0)).square().sum(-1).mean().sqrt().item())
    assert all(math.isfinite(value) for value in errors.values())
    turned_about = trajectory_errors(target, still)
    assert turned_about["ate"] == pytest.approx(0, abs=1e-9)
    assert math.isnan(turned_about["ate_percent"]) or math.isinf(turned_about["ate_percent"])


@pytest.mark.usefixtures("unchecked")
def test_path_options_that_are_not(generator):
    target = path(generator)
    with pytest.raises(InputError, match="alignment: expected one of sim3, se3, scale, origin, none, but it is 'best'"):
        trajectory_errors(target, target, alignment="best")
    for pairs in (torch.zeros(0, 2).long(), torch.tensor([[0, 20]])):
        with pytest.raises(InputError, match="pairs: expected some, of frames 0 to 19, but they are"):
            trajectory_errors(target, target, pairs=pairs)
    with pytest.raises(InputError, match="predicted: expected finite poses"):
        trajectory_errors(target.clone().fill_(torch.nan), target)


@pytest.mark.parametrize("jitter_s", [0.0, 0.004, 0.02])
def test_association_against_evo(generator, jitter_s):
    """Where no entry has two partners both say the same."""
    first = torch.arange(60).double() / 30 + 1.3e9
    keep = torch.rand(60, generator=generator) < 0.7
    second = (first + jitter_s * (torch.rand(60, dtype=torch.float64, generator=generator) - 0.5))[keep]
    pairs = associate_timestamps(first, second, max_difference_s=0.01)
    theirs = sync.matching_time_indices(first.numpy(), second.numpy(), 0.01)
    assert pairs.T.tolist() == [list(side) for side in theirs]


def test_association_by_hand():
    """Unordered times; two are near one, which takes the nearer, and the other takes what is left; one is too far."""
    first, second = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.004, 2.009, 1.03, 3.0])
    assert associate_timestamps(first, second).tolist() == [[0, 3], [2, 0]]
    assert associate_timestamps(second, first, max_difference_s=0.05).tolist() == [[0, 2], [2, 1], [3, 0]]
    beside = torch.tensor([2.0, 2.012])
    assert associate_timestamps(beside, second).tolist() == [[0, 0], [1, 1]]
    assert associate_timestamps(beside, torch.tensor([2.005, 2.03])).tolist() == [[0, 0], [1, 1]]
    assert associate_timestamps(first, second[:0]).shape == (0, 2)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_path_errors_do_not_depend_on_the_frame_of_the_prediction(generator, scale):
    target = path(generator)
    predicted = disturbed(target, generator)
    assert trajectory_errors(moved(predicted, generator, scale), target) == pytest.approx(
        trajectory_errors(predicted, target), rel=1e-6
    )


def test_path_errors_are_in_units_of_the_truth(generator):
    target = path(generator)
    predicted = disturbed(target, generator)
    before, after = trajectory_errors(predicted, target), trajectory_errors(predicted, moved(target, generator, 10.0))
    expected = {"ate": 10 * before["ate"], "rpe_t": 10 * before["rpe_t"]}
    assert after == pytest.approx(before | expected, rel=1e-6)


def test_perfect_path_has_no_error(generator):
    target = path(generator)
    assert trajectory_errors(moved(target, generator, 3.0), target) == pytest.approx(
        {"ate": 0, "ate_percent": 0, "rpe_t": 0, "rpe_r_deg": 0}, abs=1e-5
    )


def test_percentage_is_of_the_true_length(generator):
    target = path(generator)
    errors = trajectory_errors(disturbed(target, generator), target)
    length = target[:, :3, 3].diff(dim=0).norm(dim=-1).sum().item()
    assert errors["ate_percent"] == pytest.approx(100 * errors["ate"] / length)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("predicted", "target"), [(2, 2), (4, 5), (0, 0)])
def test_paths_that_cannot_be_compared_are_refused(predicted, target):
    with pytest.raises(InputError, match=r"^predicted: expected"):
        trajectory_errors(torch.eye(4).repeat(predicted, 1, 1), torch.eye(4).repeat(target, 1, 1))


def test_depth_by_hand():
    """Predicted 1, 2, 3 against 2, 4, 8: medians give the scale 2, so only the last is off, by 2 of 8."""
    scores = video_depth(torch.tensor([[[1.0, 2, 3]]]), torch.tensor([[[2.0, 4, 8]]]))
    assert scores == pytest.approx({"abs_rel": 0.25 / 3, "rmse": math.sqrt(4 / 3), "delta_1": 2 / 3})


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_depth_scores_do_not_depend_on_scale(generator, scale):
    predicted, target = 1 + torch.rand(2, 3, 10, 10, generator=generator)
    assert video_depth(scale * predicted, target) == pytest.approx(video_depth(predicted, target), rel=1e-5)


def test_one_scale_serves_the_whole_video():
    """Two frames that are each right up to a scale of their own are not right together."""
    target = torch.ones(2, 4, 4)
    predicted = target * torch.tensor([1.0, 2.0])[:, None, None]
    assert video_depth(predicted, target)["abs_rel"] > 0.4


def test_depth_without_truth_is_left_out():
    target = torch.tensor([[[2.0, 0, float("nan"), float("inf"), -1, 4]]])
    predicted = torch.tensor([[[1.0, 9, 9, 9, 9, 2]]])
    assert video_depth(predicted, target)["abs_rel"] == 0


def test_depth_outside_the_valid_pixels_is_left_out():
    predicted, target = torch.tensor([[[1.0, 2, 9]]]), torch.tensor([[[1.0, 2, 3]]])
    assert video_depth(predicted, target, torch.tensor([[[True, True, False]]]))["delta_1"] == 1


def test_depth_without_any_truth_is_refused():
    with pytest.raises(InputError, match=r"^target: expected"):
        video_depth(torch.ones(1, 2, 2), torch.zeros(1, 2, 2))


@pytest.mark.usefixtures("unchecked")
def test_maps_of_different_shapes_are_refused():
    """Also where torch would repeat the one frame for all."""
    one, two = torch.ones(1, 2, 2), torch.ones(3, 2, 2)
    with pytest.raises(InputError, match=r"^predicted: expected \(3, 2, 2\), as of target, but it is \(1, 2, 2\)"):
        video_depth(one, two)
    with pytest.raises(InputError, match=r"^predicted: expected \(1, 2, 2\), as of target, but it is \(3, 2, 2\)"):
        motion_iou(two.bool(), one.bool())


def masks(*rows):
    return torch.tensor([[[bool(x) for x in row]] for row in rows])


@pytest.mark.parametrize(
    ("predicted", "target", "iou"),
    [
        ([[1, 1, 0, 0]], [[0, 1, 1, 0]], 1 / 3),
        ([[0, 0, 0, 0]], [[0, 0, 0, 0]], 1),
        ([[1, 0, 0, 0]], [[0, 0, 0, 0]], 0),
        ([[0, 0, 0, 0]], [[1, 0, 0, 0]], 0),
        ([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], 2.5 / 3),
    ],
)
def test_iou_by_hand(predicted, target, iou):
    assert motion_iou(masks(*predicted), masks(*target)) == pytest.approx(iou)


def test_accuracy_by_hand():
    """TP 2, FN 1, FP 1, TN 6."""
    target = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]).bool()
    predicted = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0, 0, 0]).bool()
    assert dynamic_accuracy(predicted, target) == pytest.approx(
        {"d_acc": 0.8, "balanced": (2 / 3 + 6 / 7) / 2, "f1": 2 / 3, "base_rate": 0.3, "always_static": 0.7}
    )


def test_always_static_scores_its_own_figure():
    target = torch.tensor([True, False, False, False])
    scores = dynamic_accuracy(torch.zeros(4).bool(), target)
    assert scores["d_acc"] == scores["always_static"] == 0.75
    assert scores["balanced"] == 0.5


def test_accuracy_without_dynamic_cases_has_no_balance():
    scores = dynamic_accuracy(torch.zeros(4).bool(), torch.zeros(4).bool())
    assert scores["d_acc"] == 1
    assert math.isnan(scores["balanced"])
    assert math.isnan(scores["f1"])


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_accuracy_takes_any_shape(shape):
    assert dynamic_accuracy(torch.ones(shape).bool(), torch.ones(shape).bool())["d_acc"] == 1


NAMES = {"occlusion_accuracy": "oa", "average_jaccard": "aj", "average_pts_within_thresh": "delta_avg"}
NAMES |= {f"pts_within_{px}": f"delta_{px}" for px in (1, 2, 4, 8, 16)}
NAMES |= {f"jaccard_{px}": f"jaccard_{px}" for px in (1, 2, 4, 8, 16)}


@pytest.mark.parametrize("mode", ["first", "strided"])
def test_tracks_against_the_published_scores(shared_vectors, mode):
    with np.load(shared_vectors / "tapvid_metrics.npz") as file:
        vectors = {name: torch.from_numpy(file[name]) for name in file if name != "expected"}
        expected = json.loads(str(file["expected"]))[mode]
    for clip in range(3):
        found = tap_vid(
            vectors["pred_tracks"][clip].transpose(0, 1),
            ~vectors["pred_occluded"][clip].T,
            uv_true=vectors["gt_tracks"][clip].transpose(0, 1),
            visible_true=~vectors["gt_occluded"][clip].T,
            query_frame=vectors[f"query_points_{mode}"][clip, :, 0].long(),
            mode=mode,
        )
        assert found == pytest.approx({NAMES[name]: values[clip] for name, values in expected.items()}, abs=1e-6)


def tracked(errors_px, visible, visible_true, **options):
    """Scores of one point whose query is in frame 0, of which nothing counts in mode "first"."""
    uv_true = torch.tensor([30.0, 40]).expand(1 + len(errors_px), 1, 2)
    uv = uv_true + torch.tensor([99.0, *errors_px])[:, None, None] * torch.tensor([0.6, 0.8])
    flags = [torch.tensor([True, *(bool(x) for x in of)])[:, None] for of in (visible, visible_true)]
    asked = {"query_frame": torch.tensor([0]), "mode": "first"} | options
    return tap_vid(uv, flags[0], uv_true=uv_true, visible_true=flags[1], **asked)


def test_tracks_by_hand():
    """Seen at 0.5, 3 and 20 px and one missed at 3 px; two hidden, of which one is called visible."""
    scores = tracked([0.5, 3, 20, 3, 0, 0], visible=[1, 1, 1, 0, 0, 1], visible_true=[1, 1, 1, 1, 0, 0])
    assert scores["oa"] == pytest.approx(4 / 6)
    assert [scores[f"delta_{px}"] for px in (1, 2, 4, 8, 16)] == pytest.approx([1 / 4, 1 / 4, 3 / 4, 3 / 4, 3 / 4])
    assert scores["delta_avg"] == pytest.approx((2 * 1 / 4 + 3 * 3 / 4) / 5)
    # 1 px: one hit of 4 seen; false positives are the two far ones and the hidden one. 4 px: two hits, two false ones.
    assert scores["jaccard_1"] == pytest.approx(1 / 7)
    assert scores["jaccard_4"] == pytest.approx(2 / 6)
    assert scores["aj"] == pytest.approx((2 * 1 / 7 + 3 * 2 / 6) / 5)


def test_thresholds_are_strict():
    scores = tracked([4.0], visible=[1], visible_true=[1])
    assert (scores["delta_4"], scores["delta_8"]) == (0, 1)


def test_a_perfect_tracker():
    scores = tracked([0, 0, 0], visible=[1, 0, 1], visible_true=[1, 0, 1])
    assert set(scores.values()) == {1.0}


def test_frames_before_the_query_count_in_one_mode_only():
    asked = {"query_frame": torch.tensor([2])}
    scores = {m: tracked([9, 0, 0], [1, 1, 1], [1, 1, 1], mode=m, **asked) for m in ("first", "strided")}
    assert scores["first"]["delta_8"] == 1
    assert scores["strided"]["delta_8"] == pytest.approx(1 / 3)  # frame 0 is 99 px off, frame 1 is 9 px off


def test_errors_are_those_of_a_frame_of_256():
    small, square = (tracked([3], [1], [1], size=(side, side)) for side in (128, 256))
    assert (square["delta_4"], small["delta_4"], small["delta_8"]) == (1, 0, 1)
    wide = tracked([5], [1], [1], size=(256, 512))  # (3, 4) px, which is (1.5, 4)
    assert (wide["delta_4"], wide["delta_8"]) == (0, 1)


def test_tracks_without_any_frame_to_count_have_no_score():
    scores = tracked([], visible=[], visible_true=[])
    assert all(math.isnan(score) for score in scores.values())


@pytest.mark.usefixtures("unchecked")
def test_tracks_that_cannot_be_scored():
    with pytest.raises(InputError, match="mode: expected 'first' or 'strided', but it is 'last'"):
        tracked([1], [1], [1], mode="last")
    with pytest.raises(InputError, match=r"query_frame: expected 0 to 1, but it is \[2\]"):
        tracked([1], [1], [1], query_frame=torch.tensor([2]))
