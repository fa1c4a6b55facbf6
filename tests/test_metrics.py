"""Scores: evo as the oracle for paths, hand-worked cases for the rest."""

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
from c4d_nb.metrics import dynamic_accuracy, motion_iou, trajectory_errors, video_depth


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


def evo_errors(predicted, target):
    """APE and RPE of consecutive frames after Umeyama with scale."""
    estimate, reference = (PosePath3D(poses_se3=[p.numpy() for p in poses]) for poses in (predicted, target))
    estimate.align(reference, correct_scale=True)
    kinds = {"ate": metrics.APE(metrics.PoseRelation.translation_part)}
    for name, relation in (("rpe_t", "translation_part"), ("rpe_r_deg", "rotation_angle_deg")):
        kinds[name] = metrics.RPE(
            metrics.PoseRelation[relation], delta=1, delta_unit=metrics.Unit.frames, all_pairs=True
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


def test_error_of_fr2_desk_is_near_the_published_one(reference_data):
    """0.008144 m under SE(3); a Sim(3) has one more freedom, so it may only be lower, and not by much."""
    folder = reference_data / "data" / "traj"
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist")
    names = ("fr2_desk_groundtruth.txt", "fr2_desk_ORB.txt")
    associated = sync.associate_trajectories(*(file_interface.read_tum_trajectory_file(str(folder / n)) for n in names))
    target, predicted = (torch.from_numpy(np.stack(of.poses_se3)) for of in associated)
    ate = trajectory_errors(predicted, target)["ate"]
    assert 0.005 < ate <= 0.008144 + 1e-5


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
