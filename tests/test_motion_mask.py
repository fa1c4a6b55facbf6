"""Epipolar geometry of static points, and the masks that come of it."""

from dataclasses import replace

import cv2
import kornia
import numpy as np
import pytest
import roma
import torch
from scenes import exact_flow, room

from c4d_nb import failure_zoo
from c4d_nb.camera import invert, pinhole, pixel_grid, pose, project, transform
from c4d_nb.clip import Tracks
from c4d_nb.epipolar import homography_error
from c4d_nb.errors import InputError
from c4d_nb.metrics import motion_iou
from c4d_nb.motion_mask import (
    RobustConfig,
    StaticMatches,
    camera_residuals,
    epipolar_motion_masks,
    fundamental_matrix,
    motion_evidence,
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


def residual_px(static_1, static_2, uv_1, uv_2, **options):
    """Of one pair."""
    static = StaticMatches(static_1[None], static_2[None], torch.tensor([len(static_1)]))
    return camera_residuals(static, uv_1[None], uv_2[None], **options)[0]


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
    assert residual_px(uv_1, uv_2, uv_1[40:], uv_2[40:], tolerance_px=0.64).max() < 0.64


def test_turning_camera_shows_every_mover(turning):
    """Even one that an undetermined F would explain: the distance to the homography is the motion, 10 px."""
    uv_1, uv_2 = turning
    residual = residual_px(uv_1, uv_2, uv_1[:40], uv_2[:40], tolerance_px=0.64)
    torch.testing.assert_close(residual, torch.full_like(residual, 10), atol=0.5, rtol=0)


def test_still_camera_shows_motion(generator):
    uv, _ = matches(generator, 100)
    residual = residual_px(uv, uv.clone(), uv[:5], uv[:5] + 3, tolerance_px=0.6)
    torch.testing.assert_close(residual, torch.full_like(residual, 18**0.5), atol=1e-3, rtol=0)


def test_moving_camera_is_not_taken_for_a_turning_one(generator):
    uv_1, uv_2 = matches(generator, 400)
    assert residual_px(uv_1, uv_2, uv_1, uv_2, tolerance_px=0.6).max() < 0.1


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
    """Frame 0 with two pairs, a camera that moves sideways past a rough wall: the left square moves down by 5 px in
    both, the right one by 4 px in the second pair only. Root Sampson errors are these by sqrt 2."""
    x, y = pixel_grid(60, 80).unbind(-1)
    flows = torch.stack([1 + 3 * torch.sin(x / 9) * torch.cos(y / 7), torch.zeros_like(x)], dim=-1).repeat(2, 1, 1, 1)
    flows[:, 10:20, 10:20] += torch.tensor([0.0, 5.0])
    flows[1, 40:50, 60:70] += torch.tensor([0.0, 4.0])
    return flows, static_tracks(3, 60, 80), torch.tensor([[0, 1], [0, 2]])


@pytest.mark.parametrize(("votes", "right"), [(1, True), (2, False)])
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
    mask = epipolar_motion_masks(*two_movers, valid=valid)[0]
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
    """The diagonal is 100 px, the left square's error 3.54."""
    below, above = (epipolar_motion_masks(*two_movers, threshold=x)[0, 10:20, 10:20] for x in (0.035, 0.036))
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


# The robust masks, and where either kind fails


def test_robust_masks_of_a_static_scene_are_empty():
    scene = room(t=3, size=(48, 64), focal_px=60.0)
    edges = torch.tensor([[0, 2], [2, 0], [0, 1], [1, 0]])
    flows = torch.stack([scene.flow(n, m) for n, m in edges.tolist()])
    shade = (30 * scene.depth).clamp(0, 255).to(torch.uint8)[..., None].expand(-1, -1, -1, 3)
    assert not epipolar_motion_masks(flows, static_tracks(3, 48, 64), edges, method="robust", frames=shade).any()


def test_robust_masks_of_the_yard(yard):
    """From exact flow and true tracks; the outline is a superpixel's, so not quite exact. Measured 0.91."""
    truth = yard.truth
    edges = torch.tensor([(n, n + k) for n in range(0, 20, 4) for k in (1, 3)])
    edges = torch.cat([edges, edges.flip(1)])
    flows = torch.stack([exact_flow(truth, n, m) for n, m in edges.tolist()])
    masks = epipolar_motion_masks(flows, truth.tracks, edges, max_age=24, method="robust", frames=yard.frames)
    frames = list(range(4, 20, 4))
    assert motion_iou(masks[frames], truth.motion_mask[frames]) > 0.8


def test_evidence_is_one_half_at_the_threshold(two_movers):
    """The left square's error is 3.54 px, the diagonal 100 px."""
    flows, tracks, edges = two_movers
    believed = torch.ones(flows.shape[:3], dtype=torch.bool)
    config = RobustConfig(homography=False)
    evidence, weight = motion_evidence(flows, tracks, edges, believed=believed, threshold=0.0354, config=config)
    assert evidence[0, 12:18, 12:18].mean().item() == pytest.approx(0.5, abs=0.02)
    assert evidence[0, 30:35, 30:40].max() < 0.01
    assert (weight[0] == 1).all()
    assert not weight[1:].any()


@pytest.mark.parametrize("method", ["paper", "robust"])
def test_flow_that_is_not_finite_says_nothing(two_movers, method):
    flows, tracks, edges = two_movers
    frames = torch.full((3, 60, 80, 3), 90, dtype=torch.uint8)
    frames[0, 10:20, 10:20] = 200
    flows = flows.clone()
    flows[:, 30:32] = torch.nan
    flows[:, 34] = torch.inf
    masks = epipolar_motion_masks(flows, tracks, edges, method=method, frames=frames)
    assert masks[0, 12:18, 12:18].float().mean() > 0.9
    if method == "paper":
        assert not masks[0, 30:32].any()


@pytest.mark.parametrize("method", ["paper", "robust"])
def test_constant_frames_have_empty_masks(method):
    flows = torch.zeros(2, 40, 48, 2)
    frames = torch.full((2, 40, 48, 3), 90, dtype=torch.uint8)
    edges = torch.tensor([[0, 1], [1, 0]])
    assert not epipolar_motion_masks(flows, static_tracks(2, 40, 48), edges, method=method, frames=frames).any()


def test_everything_dynamic_is_told(two_movers, caplog):
    """Paper: no pair says anything, and a sentence says so. Robust: the majority of all points stands for the static
    ones."""
    flows, tracks, edges = two_movers
    moving = replace(tracks, mobility=torch.ones_like(tracks.mobility))
    assert not epipolar_motion_masks(flows, moving, edges).any()
    assert "2 of 2 pairs have too few static points" in caplog.text
    frames = torch.full((3, 60, 80, 3), 90, dtype=torch.uint8)
    frames[0, 10:20, 10:20] = 200
    masks = epipolar_motion_masks(flows, moving, edges, method="robust", frames=frames)
    assert masks[0, 12:18, 12:18].float().mean() > 0.9


def recall(found, mask):
    return (found[0] & mask).sum() / mask.sum()


def zoo_masks(specimen, static=None, **options):
    return epipolar_motion_masks(specimen.flows, specimen.tracks(static), specimen.edges, **options)


def robust_zoo_masks(specimen, **options):
    return zoo_masks(specimen, method="robust", frames=specimen.frames, **options)


def test_zoo_mover_over_most_of_the_frame():
    """F of all points is the mover's: it looks static and the ground dynamic. F of the static points is right. This
    is what DynPT is for."""
    specimen = failure_zoo.mover_over_most_of_the_frame()
    of_all = zoo_masks(specimen, torch.ones_like(specimen.mask))
    assert recall(of_all, specimen.mask) < 0.1
    assert recall(of_all, ~specimen.mask) > 0.5
    right = zoo_masks(specimen)
    assert recall(right, specimen.mask) > 0.95
    assert not right[0, ~specimen.mask].any()


def test_zoo_motion_along_the_epipolar_line_is_invisible():
    """A point that moves as the camera does only looks nearer or farther."""
    specimen = failure_zoo.along_the_epipolar_line()
    assert recall(zoo_masks(specimen), specimen.mask) < 0.05
    assert recall(robust_zoo_masks(specimen), specimen.mask) < 0.05


@pytest.mark.parametrize(("depth_error", "seen"), [(0.0, True), (0.5, False)])
def test_zoo_motion_along_the_epipolar_line_is_seen_with_depth(depth_error, seen):
    """Ego-flow knows how far a static point would go. With depth that is half wrong it says nothing, and nothing
    wrong."""
    specimen = failure_zoo.along_the_epipolar_line()
    noise = depth_error * torch.randn(specimen.mask.shape, generator=torch.Generator().manual_seed(0))
    found = robust_zoo_masks(specimen, ego_flows=specimen.ego_flows * (1 + noise)[..., None])
    assert recall(found, specimen.mask) > 0.95 if seen else recall(found, specimen.mask) < 0.05
    assert found[0, ~specimen.mask].float().mean() < 0.01


@pytest.mark.parametrize("homography", [False, True])
def test_zoo_pure_rotation(homography):
    """F is undetermined, and with some movers taken for static it may be one that explains them. A homography
    explains what rests, and no mover."""
    specimen = failure_zoo.pure_rotation()
    found = robust_zoo_masks(specimen, robust=RobustConfig(homography=homography, appearance=False, edges=False))
    if homography:
        assert recall(found, specimen.mask) > 0.95
        assert not found[0, ~specimen.mask].any()
    else:
        assert recall(found, specimen.mask) < 0.95


def test_zoo_foot_at_rest():
    """What stands still in every pair is static to any F; the paper's union sees it if it moves in one."""
    specimen = failure_zoo.foot_at_rest()
    tracks = specimen.tracks()
    first, both = (epipolar_motion_masks(specimen.flows[:k], tracks, specimen.edges[:k]) for k in (1, 2))
    assert not first.any()
    assert recall(both, specimen.mask) > 0.95


def test_zoo_wrong_flow_is_dynamic_unless_it_is_checked():
    specimen = failure_zoo.wrong_flow()
    wrong = ~specimen.valid[0]
    assert recall(zoo_masks(specimen), wrong) > 0.95
    assert not zoo_masks(specimen, valid=specimen.valid).any()


def test_zoo_is_what_it_says():
    """Static flow obeys one F, and equals ego-flow; what passes for static is static but for the rotation's eighth."""
    for make in (failure_zoo.mover_over_most_of_the_frame, failure_zoo.along_the_epipolar_line):
        specimen = make()
        torch.testing.assert_close(specimen.flows[:, ~specimen.mask], specimen.ego_flows[:, ~specimen.mask])
        assert torch.equal(specimen.static, ~specimen.mask)
        assert not torch.allclose(specimen.flows[:, specimen.mask], specimen.ego_flows[:, specimen.mask])
    assert failure_zoo.pure_rotation().static.float().mean() > 1 - 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "best"}, r"^method: expected 'paper' or 'robust'"),
        ({"method": "robust"}, r"^frames: expected the clip's frames"),
        ({"frames": torch.zeros(3, 8, 8, 3, dtype=torch.uint8)}, r"^frames: expected \(3, 60, 80\)"),
        ({"edges": torch.tensor([[0, 1]])}, r"^edges: expected one for each of 2 flows"),
        ({"edges": torch.tensor([[0, 1], [0, 3]])}, r"^edges: expected frames 0 to 2"),
        ({"valid": torch.ones(1, 60, 80, dtype=torch.bool)}, r"^valid: expected \(2, 60, 80\)"),
        ({"ego_flows": torch.ones(1, 60, 80, 2)}, r"^ego_flows: expected \(2, 60, 80, 2\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(two_movers, change, message):
    flows, tracks, edges = two_movers
    with pytest.raises(InputError, match=message):
        epipolar_motion_masks(**({"flows": flows, "tracks": tracks, "edges": edges} | change))
