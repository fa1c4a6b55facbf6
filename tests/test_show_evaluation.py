"""The error atlas: what it draws is what is wrong, and where nothing is wrong it draws nothing."""

from dataclasses import replace

import pytest
import roma
import torch

from c4d_nb.camera import pose
from c4d_nb.errors import InputError
from c4d_nb.metrics import align_path, trajectory_errors
from c4d_nb.protocols import exact_tracks
from c4d_nb.show import evaluation as show
from c4d_nb.show.truth import track_paths, truth_as_result


@pytest.fixture(scope="module")
def perfect(shipped):
    return truth_as_result(shipped, shipped.truth.tracks)


@pytest.fixture(scope="module")
def exact(perfect):
    return exact_tracks(perfect)


def test_depth_errors_are_signed_shares_after_one_scale(perfect):
    truth = perfect.clip.truth
    wrong = 3 * truth.depth.clone()
    wrong[5, 10, 20] *= 1.2
    wrong[6, 30, 40] *= 0.5
    errors = show.relative_depth_errors(wrong, truth.depth)
    assert errors[5, 10, 20] == pytest.approx(0.2, abs=1e-5)
    assert errors[6, 30, 40] == pytest.approx(-0.5, abs=1e-5)
    assert (errors.abs() > 1e-5).sum() == 2
    unknown = truth.depth.clone()
    unknown[0, 0, 0] = 0
    assert show.relative_depth_errors(wrong, unknown)[0, 0, 0].isnan()


def test_every_pixel_is_of_one_kind(perfect):
    truth = perfect.clip.truth
    wrong = replace(perfect, depth=torch.where(truth.motion_mask, 1.5 * truth.depth, truth.depth))
    rows = {row[0]: row[1:] for row in show.depth_error_rows(wrong, truth)}
    assert sum(row[0] for row in rows.values()) == pytest.approx(100, abs=0.2)
    share = 100 * float(truth.motion_mask.float().mean())
    assert rows["movers"] == pytest.approx([share, 50, 100], abs=0.1)
    assert rows["measured"][1:] == [0, 0]
    assert rows["guessed"][0] == 0
    unsure = replace(wrong, confidence=torch.ones_like(wrong.confidence))
    rows = {row[0]: row[1:] for row in show.depth_error_rows(unsure, truth)}
    assert rows["measured"][0] == 0
    assert rows["guessed"][0] > 50


def test_outlines_of_a_step():
    depth = torch.full((1, 20, 30), 4.0)
    depth[:, :, 15:] = 6.0
    found = show.depth_outlines(depth)
    columns = found[0].all(dim=0).nonzero()[:, 0].tolist()
    assert columns == list(range(15 - show.OUTLINE_PX, 15 + show.OUTLINE_PX + 1))
    assert found.sum() == 20 * len(columns)
    ramp = torch.linspace(4, 8, 30).expand(1, 20, 30)
    assert not show.depth_outlines(ramp).any()


def test_depth_figure_draws_the_errors(perfect):
    truth = perfect.clip.truth
    figure = show.depth_error_figure(replace(perfect, depth=0.1 * truth.depth), truth, [0, 12])
    assert figure.axes[0].get_title() == "frame 0"
    drawn = figure.axes[2].images[0].get_array()
    assert drawn.shape == truth.depth.shape[1:]
    assert abs(drawn).max() < 1e-3


def test_pose_figure_of_the_truth_in_another_world(perfect):
    true = perfect.world_from_cam
    elsewhere = pose(roma.rotvec_to_rotmat(torch.tensor([2.0, -1, 0.5])).to(true), torch.tensor([1.0, 2, 3])) @ true
    elsewhere[:, :3, 3] *= 0.2
    place, turn, step = show.pose_error_figure(elsewhere, true).axes
    for ax in (place, turn):
        assert max(abs(line.get_ydata()).max() for line in ax.lines[:3]) < 0.05
    assert max(bar.get_height() for bar in step.patches) < 0.1
    assert len(step.patches) == len(true) - 1


def test_pose_figure_says_in_which_direction(perfect):
    """One camera, moved in its own axes: down by 10 cm, which the fit of the whole path hardly takes up."""
    off = perfect.world_from_cam.double().clone()
    off[11, :3, 3] += 0.1 * off[11, :3, 1]
    place = show.pose_error_figure(off, perfect.world_from_cam).axes[0]
    values = {line.get_label(): line.get_ydata()[11] for line in place.lines[:3]}
    assert values["down"] == pytest.approx(10, abs=1)
    assert abs(values["right"]) < 1
    assert abs(values["forward"]) < 1


def test_a_turn_about_a_straight_path(perfect):
    """The shipped path is a line: ATE is blind to cameras that are all turned about it, their orientations are not."""
    true = perfect.world_from_cam.double()
    along = torch.nn.functional.normalize(true[-1, :3, 3] - true[0, :3, 3], dim=0)
    turned = true.clone()
    turn = roma.rotvec_to_rotmat(0.2 * along)
    turned[:, :3, :3] = turn @ true[:, :3, :3]
    assert trajectory_errors(turned, true)["ate"] < 1e-5
    torch.testing.assert_close(show.common_turn(turned, true), turn.mT)
    aligned = show.align_by_orientations(turned, true)
    torch.testing.assert_close(aligned[:, :3, :3], true[:, :3, :3])
    assert (aligned[:, :3, 3] - true[:, :3, 3]).norm(dim=-1).max() < 1e-5  # the turn leaves the line where it is
    assert not torch.allclose(align_path(turned, true)[:, :3, :3], true[:, :3, :3], atol=0.05)


def test_a_turn_across_the_path_is_an_error_of_position(perfect):
    """Centres that lie on another line than the orientations say: no similarity is free to hide it."""
    true = perfect.world_from_cam.double()
    bent = true.clone()
    across = torch.nn.functional.normalize(torch.linalg.cross(true[0, :3, 2], true[-1, :3, 3] - true[0, :3, 3]), dim=0)
    bent[:, :3, 3] = true[:, :3, 3] @ roma.rotvec_to_rotmat(0.1 * across).mT
    assert trajectory_errors(bent, true)["ate"] < 1e-5
    length = (true[-1, :3, 3] - true[0, :3, 3]).norm()
    ends = (show.align_by_orientations(bent, true) - true)[[0, -1], :3, 3].norm(dim=-1)
    torch.testing.assert_close(ends, (0.1 * length / 2).expand(2), rtol=0.02, atol=0)


def test_confusion_counts_pixels(perfect):
    truth = perfect.clip.truth
    predicted = truth.motion_mask.clone()
    predicted[3] = False
    predicted[7, :10] = True
    figure = show.confusion_figure(predicted, truth)
    left, right, score = figure.axes[0], figure.axes[1], figure.axes[2]
    iou = score.lines[0].get_ydata()
    assert iou[3] == 0
    assert iou[0] == 100
    assert iou[7] < 100
    assert [c.get_label() for c in left.collections] == ["right", "missed", "false alarm"]
    rows = right.images[0].get_array()
    assert rows[:, 3].max() == 0
    assert rows[:, 0].min() == 100


def test_objects_are_listed_with_when_they_move(perfect):
    truth = perfect.clip.truth
    right = show.confusion_figure(truth.motion_mask, truth).axes[1]
    labels = [label.get_text() for label in right.get_yticklabels()]
    assert labels == ["0, dynamic", "7, dynamic", "12, dynamic"]
    dots = right.lines[0].get_xydata()
    assert set(dots[dots[:, 1] == 2][:, 0]) == set(range(len(truth.depth)))  # the tossed box always moves
    assert dots[dots[:, 1] == 1][:, 0].min() > 3  # what it falls on rests at first


def test_true_tracks_have_no_error(perfect, exact):
    errors = show.track_errors(perfect, exact)
    assert errors.total.nan_to_num().max() < 1e-3
    known = perfect.tracks.visible & exact.visible
    assert torch.equal(torch.isfinite(errors.total), known)


def test_track_errors_along_and_across_the_ray(perfect, exact):
    """In another world and unit; dynamic points too far by 10 %, all else right."""
    truth = perfect.clip.truth
    centre = truth.world_from_cam[:, None, :3, 3].double()
    ray = track_paths(truth, exact) - centre
    dynamic = exact.mobility[0] >= 0.5
    moved = centre + torch.where(dynamic[:, None], 1.1, 1.0) * ray
    turn = roma.rotvec_to_rotmat(torch.tensor([0.1, 2.0, -1.0]).double())
    moved = torch.where(perfect.tracks.visible[..., None], 0.3 * moved @ turn.T + 5, torch.nan)
    errors = show.track_errors(replace(perfect, tracks_xyz=moved.float()), exact)
    assert errors.total[:, ~dynamic].nan_to_num().max() < 1e-3
    known = torch.isfinite(errors.total) & dynamic
    torch.testing.assert_close(errors.along[known], 0.1 * ray.norm(dim=-1)[known], rtol=1e-3, atol=1e-3)
    assert errors.across[known].max() < 1e-2


def test_a_few_wild_points_do_not_turn_the_scene(perfect, exact):
    wild = perfect.tracks_xyz.clone()
    static = ~(exact.mobility[0] >= 0.5)
    chosen = static.nonzero()[::10, 0]
    wild[:, chosen] *= 2
    errors = show.track_errors(replace(perfect, tracks_xyz=wild), exact)
    rest = static.clone()
    rest[chosen] = False
    assert errors.total[:, rest].nanmedian() < 0.02


def test_tracks_need_static_points(perfect, exact):
    unseen = replace(perfect, tracks_xyz=torch.full_like(perfect.tracks_xyz, torch.nan))
    with pytest.raises(InputError, match="exact: expected at least 8 static points"):
        show.track_errors(unseen, exact)


def test_track_figure(perfect, exact):
    errors = show.track_errors(perfect, exact)
    figure = show.track_error_figure(perfect, errors, 12)
    names = [line.get_label() for line in figure.axes[0].lines]
    assert names == [f"static: {int((~errors.dynamic).sum())} tracks", f"dynamic: {int(errors.dynamic.sum())} tracks"]
    assert len(figure.axes[2].collections[0].get_offsets()) == int(torch.isfinite(errors.total[12]).sum())


def test_noise_figure_has_a_column_an_input():
    curve = torch.tensor([[0.1, 0.2, 0.03], [1.0, 0.5, 0.06]])
    figure = show.noise_figure(
        {"flow (px)": ((0, 1), {"a": curve, "b": 2 * curve}), "masks (%)": ((0, 50), {"a": curve})}
    )
    assert len(figure.axes) == 4
    assert [line.get_ydata().tolist() for line in figure.axes[2].lines] == [
        pytest.approx([3, 6]),
        pytest.approx([6, 12]),
    ]
    assert figure.axes[3].get_xlabel() == "masks (%)"
