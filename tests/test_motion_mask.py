"""Epipolar geometry of static points, and the masks that come of it."""

from dataclasses import replace

import cv2
import kornia
import numpy as np
import pytest
import roma
import torch
from scenes import exact_flow, room

from c4d_nb.camera import invert, pinhole, pixel_grid, pose, project, transform
from c4d_nb.clip import Tracks
from c4d_nb.errors import InputError
from c4d_nb.metrics import motion_iou
from c4d_nb.motion_mask import (
    camera_residual_px,
    epipolar_motion_masks,
    fundamental_matrix,
    homography_error,
    sampson_error,
)

SIZE = 192, 256
K = pinhole(280.0, *SIZE).double()
M_FROM_N = pose(
    roma.rotvec_to_rotmat(torch.tensor([0.02, -0.05, 0.01]).double()), torch.tensor([-0.4, 0.05, 0.1]).double()
)


def true_F(m_from_n=M_FROM_N):
    """K^-T [T]x R K^-1."""
    x, y, z = m_from_n[:3, 3].tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    F = K.inverse().T @ cross @ m_from_n[:3, :3] @ K.inverse()
    return F / F.norm()


def matches(generator, count, m_from_n=M_FROM_N):
    """Exact matches of random points in front of both cameras."""
    uv = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([255.0, 191])
    depth = 3 + 6 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    xyz = depth * torch.cat([(uv - K[:2, 2]) / K[0, 0], torch.ones(count, 1)], dim=-1)
    return uv, project(transform(m_from_n, xyz), K)[0]


def contaminated(generator, count=2000, share=0.3, noise_px=0.3):
    """Matches with noise, the first ``share`` of them outliers."""
    uv_1, uv_2 = matches(generator, count)
    uv_2 = uv_2 + noise_px * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    wrong = int(share * count)
    uv_2[:wrong] += 40 * (torch.rand(wrong, 2, generator=generator, dtype=torch.float64) - 0.5)
    return uv_1, uv_2


def static_tracks(t, height, width, step=8):
    """A grid of still tracks, asked for in every frame of theirs."""
    uv = pixel_grid(height, width)[::step, ::step].reshape(-1, 2)
    uv = uv.repeat(t, 1)
    query_frame = torch.arange(t).repeat_interleave(len(uv) // t)
    shape = t, len(uv)
    return Tracks(uv.expand(*shape, 2), torch.ones(shape).bool(), torch.ones(shape), torch.zeros(shape), query_frame)


def test_sampson_error_against_kornia(generator):
    uv_1, uv_2 = contaminated(generator, 200)
    expected = kornia.geometry.epipolar.sampson_epipolar_distance(uv_1[None], uv_2[None], true_F()[None], squared=True)
    torch.testing.assert_close(sampson_error(true_F(), uv_1, uv_2), expected[0], rtol=1e-5, atol=1e-9)


def test_sampson_error_by_hand():
    """Sideways motion, y_2 = y_1: with F = [[0 0 0] [0 0 -1] [0 1 0]] a gap of 2 rows gives 2^2 / (1 + 1)."""
    F = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert sampson_error(F, torch.tensor([[3.0, 5]]), torch.tensor([[9.0, 7]])).item() == 2


def test_sampson_error_does_not_depend_on_the_scale_of_F(generator):
    uv_1, uv_2 = contaminated(generator, 50)
    torch.testing.assert_close(sampson_error(-7 * true_F(), uv_1, uv_2), sampson_error(true_F(), uv_1, uv_2))


def test_sampson_error_of_exact_matches_is_zero(generator):
    assert sampson_error(true_F(), *matches(generator, 100)).max() < 1e-18


def test_sampson_error_of_a_batch(generator):
    uv_1, uv_2 = contaminated(generator, 20)
    F = torch.stack([true_F(), true_F().T])
    batch = sampson_error(F, uv_1.expand(2, 20, 2), uv_2.expand(2, 20, 2))
    torch.testing.assert_close(batch, torch.stack([sampson_error(f, uv_1, uv_2) for f in F]))


def test_homography_error_by_hand():
    shift = torch.tensor([[1.0, 0, 3], [0, 1, 0], [0, 0, 1]])
    assert homography_error(shift, torch.tensor([[1.0, 1]]), torch.tensor([[4.0, 3]])).item() == 4


@pytest.mark.parametrize("method", ["lmeds", "magsac", "8point"])
def test_exact_matches_recover_the_true_matrix(generator, method):
    F, expected = fundamental_matrix(*matches(generator, 300), method=method), true_F()
    assert min((F - expected).norm(), (F + expected).norm()) < 1e-5


@pytest.mark.parametrize("method", ["lmeds", "magsac"])
def test_outliers_are_survived(generator, method):
    """METHOD: LMedS with refit 0.04 px at 2,000 matches, 30 % outliers."""
    inliers = matches(generator, 500)
    F = fundamental_matrix(*contaminated(generator), method=method)
    assert sampson_error(F, *inliers).sqrt().median() < 0.06


def test_refit_is_several_times_better_than_bare_lmeds(generator):
    """Median error at exact matches, over five draws; measured 0.131 against 0.018 px, 4 to 11 times."""
    ratios = []
    inliers = matches(generator, 500)
    for _ in range(5):
        uv_1, uv_2 = contaminated(generator)
        cv2.setRNGSeed(0)
        raw, _ = cv2.findFundamentalMat(uv_1.numpy(), uv_2.numpy(), cv2.FM_LMEDS, 1.0, 0.99, 1000)
        bare, refit = (
            sampson_error(F, *inliers).sqrt().median() for F in (torch.from_numpy(raw), fundamental_matrix(uv_1, uv_2))
        )
        ratios.append(float(bare / refit))
    assert np.median(ratios) > 3


def test_estimate_repeats_itself(generator):
    uv_1, uv_2 = contaminated(generator, 300)
    assert torch.equal(fundamental_matrix(uv_1, uv_2), fundamental_matrix(uv_1, uv_2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_has_unit_norm_and_the_type_of_the_points(generator, dtype):
    F = fundamental_matrix(*(uv.to(dtype) for uv in matches(generator, 50)))
    assert F.dtype == dtype
    assert F.norm().item() == pytest.approx(1)


@pytest.mark.parametrize("count", [0, 7])
def test_too_few_matches_are_refused(count):
    with pytest.raises(InputError, match=r"^uv_1: expected at least 8"):
        fundamental_matrix(torch.rand(count, 2), torch.rand(count, 2))


@pytest.mark.parametrize("method", ["lmeds", "magsac", "8point"])
def test_coincident_matches_are_refused(method):
    with pytest.raises(InputError, match=r"^uv_1: expected"):
        fundamental_matrix(torch.ones(20, 2), torch.ones(20, 2), method=method)


def test_unknown_method_is_refused(generator):
    with pytest.raises(InputError, match=r"^method: expected"):
        fundamental_matrix(*matches(generator, 20), method="ransac")


@pytest.fixture
def turning(generator):
    """A camera that only turns; 400 static matches with noise, of which 10 % are mislabelled movers."""
    turn = pose(M_FROM_N[:3, :3], torch.zeros(3).double())
    uv_1, uv_2 = matches(generator, 400, turn)
    uv_2 = uv_2 + 0.1 * torch.randn(400, 2, generator=generator, dtype=torch.float64)
    uv_2[:40] += torch.tensor([6.0, 8.0])
    return uv_1, uv_2


def test_turning_camera_leaves_static_points_small(turning):
    uv_1, uv_2 = turning
    assert camera_residual_px(uv_1, uv_2, uv_1[40:], uv_2[40:], tolerance_px=0.64).max() < 0.64


def test_turning_camera_shows_every_mover(turning):
    """Even one that an undetermined F would explain: the distance to the homography is the motion, 10 px."""
    uv_1, uv_2 = turning
    residual = camera_residual_px(uv_1, uv_2, uv_1[:40], uv_2[:40], tolerance_px=0.64)
    torch.testing.assert_close(residual, torch.full_like(residual, 10), atol=0.5, rtol=0)


def test_still_camera_shows_motion(generator):
    uv, _ = matches(generator, 100)
    residual = camera_residual_px(uv, uv.clone(), uv[:5], uv[:5] + 3, tolerance_px=0.6)
    torch.testing.assert_close(residual, torch.full_like(residual, 18**0.5), atol=1e-3, rtol=0)


def test_moving_camera_is_not_taken_for_a_turning_one(generator):
    uv_1, uv_2 = matches(generator, 400)
    assert camera_residual_px(uv_1, uv_2, uv_1, uv_2, tolerance_px=0.6).max() < 0.1


@pytest.fixture(scope="module")
def light_masks(yard):
    """Masks of the yard from exact flow and true tracks, by offset of the scene graph."""
    truth = yard.truth
    edges = torch.tensor([(n, n + k) for n in range(0, 20, 4) for k in (1, 3)])
    edges = torch.cat([edges, edges.flip(1)])
    flows = torch.stack([exact_flow(truth, n, m) for n, m in edges.tolist()])
    masks = {}
    for k in (1, 3):
        chosen = (edges[:, 1] - edges[:, 0]).abs() == k
        masks[k] = epipolar_motion_masks(flows[chosen], truth.tracks, edges[chosen], max_age=24)
    return masks


@pytest.mark.parametrize(("offset", "bound"), [(1, 0.95), (3, 0.98)])
def test_masks_of_the_yard(yard, light_masks, offset, bound):
    """Measured 0.976 and 0.996: a longer step shows motion more clearly. Only frames that begin a pair count."""
    frames = range(4, 20, 4)
    mask = torch.stack([light_masks[offset][n] for n in frames])
    assert motion_iou(mask, torch.stack([yard.truth.motion_mask[n] for n in frames])) > bound


def test_static_scene_has_an_empty_mask():
    scene = room(t=3, size=(48, 64), focal_px=60.0)
    edges = torch.tensor([[0, 2], [2, 0], [0, 1], [1, 0]])
    flows = torch.stack([scene.flow(n, m) for n, m in edges.tolist()])
    assert not epipolar_motion_masks(flows, static_tracks(3, 48, 64), edges).any()


@pytest.fixture
def two_movers():
    """Frame 0 with two pairs, still camera: the left square moves in both, the right square in the second pair only."""
    flows = torch.zeros(2, 60, 80, 2)
    flows[:, 10:20, 10:20] = torch.tensor([0.0, 5.0])
    flows[1, 40:50, 60:70] = torch.tensor([4.0, 0.0])
    return flows, static_tracks(3, 60, 80), torch.tensor([[0, 1], [0, 2]])


@pytest.mark.parametrize(("votes", "right"), [(0.0, True), (0.5, True), (0.6, False), (1.0, False)])
def test_votes(two_movers, votes, right):
    expected = torch.zeros(60, 80, dtype=torch.bool)
    expected[10:20, 10:20] = True
    expected[40:50, 60:70] = right
    assert torch.equal(epipolar_motion_masks(*two_movers, votes=votes)[0], expected)


def test_pair_says_nothing_where_its_flow_is_not_valid(two_movers):
    """With the left square invalid in the first pair, the second alone decides; invalid in both, none does."""
    valid = torch.ones(2, 60, 80, dtype=torch.bool)
    valid[0, 10:20, 10:20] = False
    valid[:, 40:50, 60:70] = False
    mask = epipolar_motion_masks(*two_movers, valid=valid, votes=1.0)[0]
    assert mask[10:20, 10:20].all()
    assert not mask[40:50, 60:70].any()


def test_frames_without_a_pair_have_an_empty_mask(two_movers):
    assert not epipolar_motion_masks(*two_movers)[1:].any()


@pytest.mark.parametrize(("static", "any_mask"), [(14, False), (15, True)])
def test_fewer_than_15_static_points_leave_a_pair_out(two_movers, static, any_mask):
    flows, tracks, edges = two_movers
    visible = torch.zeros_like(tracks.visible)
    still = torch.nonzero((tracks.query_frame == 0) & (tracks.uv[0, :, 1] > 20) & (tracks.uv[0, :, 1] < 40))[:static, 0]
    assert len(still) == static
    visible[0, still] = True
    assert epipolar_motion_masks(flows, replace(tracks, visible=visible), edges).any().item() is any_mask


def test_static_points_come_from_the_latest_window(two_movers):
    flows, tracks, edges = two_movers
    edges = torch.tensor([[2, 0], [2, 1]])
    old = replace(tracks, query_frame=torch.zeros_like(tracks.query_frame))
    assert not epipolar_motion_masks(flows, old, edges, max_age=2).any()
    assert epipolar_motion_masks(flows, old, edges, max_age=3).any()


def test_threshold_is_a_share_of_the_diagonal(two_movers):
    """The diagonal is 100 px, the left square moves by 5."""
    below, above = (epipolar_motion_masks(*two_movers, threshold=x)[0, 10:20, 10:20] for x in (0.049, 0.051))
    assert below.all()
    assert not above.any()


def test_masks_survive_mislabelled_static_points(yard):
    """METHOD: F from static points tolerates 20 % of movers among them."""
    truth = yard.truth
    tracks = replace(truth.tracks, mobility=torch.zeros_like(truth.tracks.mobility))
    edges = torch.tensor([[12, 15]])
    mask = epipolar_motion_masks(exact_flow(truth, 12, 15)[None], tracks, edges, max_age=24)
    assert motion_iou(mask[12:13], truth.motion_mask[12:13]) > 0.95


def test_exact_flow_agrees_with_the_camera(yard):
    """The helper itself: static flow obeys the true F."""
    truth, grid = yard.truth, pixel_grid(*SIZE).reshape(-1, 2).double()
    m_from_n = invert(truth.world_from_cam[9].double()) @ truth.world_from_cam[4].double()
    error = sampson_error(true_F(m_from_n), grid, grid + exact_flow(truth, 4, 9).reshape(-1, 2)).reshape(SIZE)
    assert error[~truth.motion_mask[4]].max() < 1e-4


def test_a_pair_whose_static_points_coincide_is_left_out():
    """One place says nothing about the camera: no error, no mask."""
    n = 40
    tracks = Tracks(
        uv=torch.full((2, n, 2), 10.0),
        visible=torch.ones(2, n, dtype=torch.bool),
        confidence=torch.ones(2, n),
        mobility=torch.zeros(2, n),
        query_frame=torch.zeros(n, dtype=torch.long),
    )
    flows = torch.ones(2, 32, 48, 2)
    assert not epipolar_motion_masks(flows, tracks, torch.tensor([[0, 1], [1, 0]])).any()
