"""Pair pointmaps from exact flow of a scene in closed form: pose, depth, confidence; grids and dense depth."""

import pytest
import roma
import torch
from scenes import room

from c4d_nb.camera import invert, pinhole, pixel_grid, pose, project, rays, rotation_angle_deg, transform
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.densify import densify_depth
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.relative_pose import estimate_focal_ratio, pair_matches, relative_pose
from c4d_nb.pointmaps.two_view import (
    FLAT_CONFIDENCE,
    TwoViewConfig,
    fill_holes,
    triangulate,
    two_view_pointmaps,
)

EDGES = torch.tensor([[0, 1], [1, 2], [0, 2], [1, 0], [2, 1], [2, 0]])
SIZE = (72, 96)


@pytest.fixture(scope="module")
def scene():
    return room(t=3, size=SIZE, focal_px=90.0, stride_m=0.4)


@pytest.fixture(scope="module")
def seen(scene):
    return scene.views(EDGES)


@pytest.fixture(scope="module")
def pairs(seen):
    return two_view_pointmaps(*seen)


@pytest.fixture(scope="module")
def turning():
    return room(t=3, size=SIZE, focal_px=90.0).turning()


def find_pose(flows, usable, edges, K, i):
    """The library's choice for edge i."""
    config = TwoViewConfig()
    uv_n, uv_m = pair_matches(flows, usable, edges)[i]
    return relative_pose(uv_n, uv_m, K, noise_px=config.noise_px, min_parallax=config.min_parallax)


def true_pose(scene, n, m):
    """m_from_n with a translation of length 1."""
    m_from_n = invert(scene.world_from_cam[m]) @ scene.world_from_cam[n]
    m_from_n[:3, 3] /= m_from_n[:3, 3].norm()
    return m_from_n.float()


def angle_deg(a, b):
    return torch.rad2deg(torch.arccos((a @ b / a.norm() / b.norm()).clamp(-1, 1)))


# Two views


@pytest.mark.parametrize("i", range(3))
def test_pose_of_exact_flow(scene, seen, i):
    """Rotation within 0.1 degrees, direction of translation within 0.5."""
    found = find_pose(*seen, i).m_from_n
    expected = true_pose(scene, *EDGES[i].tolist())
    assert rotation_angle_deg(expected[:3, :3].T @ found[:3, :3]) < 0.1
    assert angle_deg(found[:3, 3], expected[:3, 3]) < 0.5
    assert found[:3, 3].norm().item() == pytest.approx(1)


@pytest.mark.parametrize("jump_px", [(6.0, -9.0), (3.0, -4.0), (0.0, 12.0)])
def test_pose_withstands_wrong_matches(scene, seen, jump_px):
    """A patch of 7 % of the matches moves by itself; all others are exact."""
    flows, usable, edges, K = (x.clone() for x in seen)
    flows[2, :, :20] += torch.tensor(jump_px)
    found = find_pose(flows, usable, edges, K, 2).m_from_n
    assert rotation_angle_deg(true_pose(scene, 0, 2)[:3, :3].T @ found[:3, :3]) < 0.2


def test_pose_without_matches_is_the_identity(seen):
    flows, usable, edges, K = seen
    found = find_pose(flows, torch.zeros_like(usable), edges, K, 0)
    assert torch.equal(found.m_from_n, torch.eye(4))
    assert torch.equal(found.turn, torch.eye(4))


def test_matches_of_both_directions_are_pooled(scene, seen):
    """They are the same correspondences, so both edges of a pair hold them, exchanged."""
    flows, usable, edges, _ = seen
    matches = pair_matches(flows, usable, edges, limit=50)
    assert [len(uv_n) for uv_n, _ in matches] == [100] * 6
    assert torch.equal(matches[0][0][:50], matches[3][1][50:])
    assert torch.equal(matches[0][1][:50], matches[3][0][50:])


def test_matches_are_usable_ones(seen):
    flows, usable, edges, _ = seen
    u, v = pair_matches(flows, usable, edges)[0][0][:1000].long().unbind(-1)
    assert usable[0, v, u].all()


def test_focal_length_of_exact_matches(seen):
    """90 px over 96 px; on a grid of values 12 % apart."""
    flows, usable, edges, _ = seen
    ratio = estimate_focal_ratio(pair_matches(flows, usable, edges), SIZE, expected=1.2)
    assert ratio == pytest.approx(90 / 96, rel=0.1)


@pytest.mark.parametrize("true_ratio", [0.8, 1.2, 2.0])
def test_focal_length_of_a_camera_that_only_turns(generator, true_ratio):
    """There a translation would absorb any wrong focal length; 0.2 px of noise, on a grid of values 12 % apart."""
    K = pinhole(true_ratio * SIZE[1], *SIZE)
    pairs = []
    for turn in torch.linspace(-0.12, 0.12, 8):
        uv_n = torch.rand(400, 2, generator=generator) * torch.tensor([SIZE[1], SIZE[0]])
        turned = rays(K, uv_n) @ roma.rotvec_to_rotmat(torch.tensor([0.03, 0, 0]) + turn * torch.tensor([0, 1, 0.2])).T
        uv_m = project(turned, K)[0] + 0.2 * torch.randn(uv_n.shape, generator=generator)
        pairs.append((uv_n, uv_m))
    assert estimate_focal_ratio(pairs, SIZE) == pytest.approx(true_ratio, rel=0.06)


def test_focal_length_of_coincident_matches_is_one_that_was_tried():
    """No essential matrix fits them."""
    uv = torch.full((50, 2), 40.0)
    assert 0.5 <= estimate_focal_ratio([(uv, uv + 1)], SIZE) <= 3


def test_focal_length_without_matches_is_the_expected_one(seen):
    flows, usable, edges, _ = seen
    assert estimate_focal_ratio(pair_matches(flows, 0 * usable > 0, edges), SIZE, expected=1.3) == 1.3


@pytest.mark.parametrize("i", range(6))
def test_depth_of_exact_flow(scene, seen, pairs, i):
    """Within 1 % up to the pair's scale, at every pixel that is seen in both frames."""
    n = EDGES[i, 0]
    ratio = pairs.xyz_1[i, ..., 2] / scene.depth[n].float()
    usable = seen[1][i]
    ratio = ratio / ratio[usable].median()
    assert (ratio[usable] - 1).abs().max() < 0.01


@pytest.mark.parametrize("i", range(6))
def test_points_lie_on_their_rays(seen, pairs, i):
    _, _, _, K = seen
    uv, _ = project(pairs.xyz_1[i].reshape(-1, 3), K)
    torch.testing.assert_close(uv, pixel_grid(*SIZE).reshape(-1, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("i", range(6))
def test_second_member_is_seen_from_the_first(scene, seen, pairs, i):
    """xyz_2 is in n's frame: pixels of m that are visible in n project to where the flow m -> n says."""
    flows, usable, _, K = seen
    back = (i + 3) % 6
    uv, _ = project(pairs.xyz_2[i].reshape(-1, 3), K)
    expected = (pixel_grid(*SIZE) + flows[back]).reshape(-1, 2)
    kept = usable[back].reshape(-1)
    torch.testing.assert_close(uv[kept], expected[kept], atol=0.1, rtol=0)


@pytest.mark.parametrize("i", range(3))
def test_both_directions_agree(scene, pairs, i):
    """xyz_2 of (n, m) is xyz_1 of (m, n), moved by one similarity whose rotation is n_from_m."""
    source, target = pairs.xyz_1[i + 3].reshape(-1, 3), pairs.xyz_2[i].reshape(-1, 3)
    scale, rotation, translation = roma_similarity(source, target)
    n_from_m = invert(true_pose(scene, *EDGES[i].tolist()))
    assert rotation_angle_deg(n_from_m[:3, :3].T @ rotation) < 0.1
    assert angle_deg(translation, n_from_m[:3, 3]) < 0.5
    torch.testing.assert_close(scale * source @ rotation.T + translation, target, atol=1e-3, rtol=0)


def test_confidences_are_shared_by_both_directions(pairs):
    assert torch.equal(pairs.conf_2[:3], pairs.conf_1[3:])


@pytest.mark.parametrize("i", range(6))
def test_both_members_show_one_surface(scene, seen, pairs, i):
    """Pixels of n and their matches in m have the same point, up to 2 % of its depth."""
    flows, usable, _, _ = seen
    target = (pixel_grid(*SIZE) + flows[i]).round().long()
    inside = usable[i] & (target >= 0).all(-1) & (target[..., 0] < SIZE[1]) & (target[..., 1] < SIZE[0])
    u, v = target[inside].unbind(-1)
    gap = (pairs.xyz_2[i][v, u] - pairs.xyz_1[i][inside]).norm(dim=-1) / pairs.xyz_1[i][inside][:, 2]
    assert gap.median() < 0.02


@pytest.mark.parametrize("i", range(6))
def test_unusable_pixels_have_the_confidence_of_a_guess(seen, pairs, i):
    """And depth all the same."""
    usable = seen[1][i]
    assert (~usable).any()
    assert (pairs.conf_1[i][~usable] == FLAT_CONFIDENCE).all()
    assert torch.isfinite(pairs.xyz_1[i]).all()
    assert (pairs.xyz_1[i, ..., 2] > 0).all()


def test_confidence_grows_with_parallax(pairs, seen):
    """The pair (0, 2) has twice the step of (0, 1)."""
    both = seen[1][0] & seen[1][2]
    assert pairs.conf_1[2][both].mean() > pairs.conf_1[0][both].mean()


def test_confidence_is_bounded(pairs):
    assert pairs.conf_1.min() >= FLAT_CONFIDENCE
    assert pairs.conf_1.max() <= 1 + TwoViewConfig().saturation + 1e-4


def test_usable_pixels_of_exact_flow_are_confident(seen, pairs):
    assert pairs.conf_1[seen[1]].median() > 5


def test_movers_are_not_believed(seen):
    """A patch that leaves its epipolar lines by 4 px counts no more than a guess does, nearly."""
    flows, usable, edges, K = (x.clone() for x in seen)
    flows[0, 30:40, 30:40, 1] += 4
    pairs = two_view_pointmaps(flows, usable, edges, K)
    assert pairs.conf_1[0, 30:40, 30:40].max() < 1.1


def test_turning_camera_keeps_its_rotation(turning):
    found = find_pose(*turning.views(EDGES), 2).m_from_n
    expected = invert(turning.world_from_cam[2]) @ turning.world_from_cam[0]
    assert rotation_angle_deg(expected[:3, :3].float().T @ found[:3, :3]) < 0.1
    assert (found[:3, 3] == 0).all()


def test_turning_camera_has_no_depth(turning):
    """Depth 1 at the confidence of a guess, and the second member turned into the first's frame."""
    pairs = two_view_pointmaps(*turning.views(EDGES))
    assert (pairs.conf_1 == FLAT_CONFIDENCE).all()
    assert (pairs.xyz_1[..., 2] == 1).all()
    n_from_m = (invert(turning.world_from_cam[0]) @ turning.world_from_cam[1]).float()
    expected = transform(n_from_m, rays(turning.intrinsics[0].float(), pixel_grid(*SIZE)).reshape(-1, 3))
    torch.testing.assert_close(pairs.xyz_2[0].reshape(-1, 3), expected, atol=2e-3, rtol=0)


def test_triangulation_in_units_of_the_baseline(scene, seen):
    flows, usable, edges, K = seen
    m_from_n = (invert(scene.world_from_cam[edges[:, 1]]) @ scene.world_from_cam[edges[:, 0]]).float()
    depth, confidence = triangulate(flows, usable, m_from_n, K, TwoViewConfig())
    true = scene.depth[edges[:, 0]].float()
    torch.testing.assert_close(depth[usable], true[usable], rtol=2e-3, atol=0)
    assert (confidence[~usable] == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 16), (31, 18)])
def test_filling_leaves_known_pixels_alone(generator, size):
    depth = 1 + torch.rand(2, *size, generator=generator)
    known = torch.rand(2, *size, generator=generator) > 0.6
    assert torch.equal(fill_holes(depth, known)[known], depth[known])


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (31, 18)])
def test_constant_depth_is_filled_exactly(generator, size, share):
    known = torch.rand(1, *size, generator=generator) < share
    known[0, 0, 0] = True
    depth = torch.where(known, 3.0, 7.0)
    torch.testing.assert_close(fill_holes(depth, known), torch.full((1, *size), 3.0))


def test_holes_stay_between_what_surrounds_them(generator):
    depth = 2 + 3 * torch.rand(1, 20, 30, generator=generator)
    known = torch.ones_like(depth).bool()
    known[0, 5:15, 8:22] = False
    filled = fill_holes(depth, known)[~known]
    assert depth[known].min() <= filled.min()
    assert filled.max() <= depth[known].max()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 16)])
def test_nothing_known_gives_depth_one(size):
    depth = torch.full((2, *size), 7.0)
    torch.testing.assert_close(fill_holes(depth, torch.zeros(2, *size).bool()), torch.ones(2, *size))


@pytest.mark.parametrize("unknown", [0.0, float("nan"), float("inf"), -1.0])
def test_what_stands_in_a_hole_does_not_matter(generator, unknown):
    known = torch.rand(1, 12, 15, generator=generator) < 0.5
    depth = 1 + torch.rand(1, 12, 15, generator=generator)
    assert torch.equal(fill_holes(torch.where(known, depth, unknown), known), fill_holes(depth, known))


# The grid


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_grid_pixels_are_full_pixels(stride):
    """The value sampled at grid pixel (i, j) is the uv of a full pixel, and ``to_grid`` maps it back to (i, j)."""
    grid = PixelGrid(31, 47, stride)
    sampled = grid.sample(pixel_grid(31, 47)[None])[0]
    torch.testing.assert_close(grid.to_grid(sampled), pixel_grid(*sampled.shape[:2]))


@pytest.mark.parametrize(
    ("size", "long_side", "stride"), [((192, 256), 96, 3), ((96, 72), 96, 1), ((97, 72), 96, 3), ((480, 854), 96, 9)]
)
def test_grid_is_the_finest_with_an_odd_stride(size, long_side, stride):
    grid = PixelGrid.within(size, long_side)
    assert grid.stride == stride
    assert max(grid.sample(torch.zeros(1, *size)).shape) <= long_side


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_grid_intrinsics_keep_the_rays(stride):
    grid, K = PixelGrid(31, 47, stride), pinhole(50.0, 31, 47)
    uv = torch.tensor([[3.0, 5], [40, 30]])
    torch.testing.assert_close(rays(grid.intrinsics(K), grid.to_grid(uv)), rays(K, uv))


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_grid_intrinsics_map_forth_and_back(stride):
    grid, K = PixelGrid(31, 47, stride), pinhole(torch.tensor([50.0, 60]), 31, 47)
    torch.testing.assert_close(grid.intrinsics_to_full(grid.intrinsics(K)), K)


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_upsampled_map_has_its_values_at_the_grid(generator, stride):
    grid, size = PixelGrid(31, 47, stride), (31, 47)
    coarse = torch.rand_like(grid.sample(torch.zeros(2, *size)))
    torch.testing.assert_close(grid.sample(grid.upsample(coarse)), coarse)


def test_upsampling_a_ramp_is_exact_inside():
    grid, ramp = PixelGrid(30, 45, 3), pixel_grid(30, 45)[None, ..., 0]
    torch.testing.assert_close(grid.upsample(grid.sample(ramp))[0, :, 1:-1], ramp[0, :, 1:-1])


@pytest.mark.parametrize("size", [(216, 384), (192, 256), (47, 31), (47, 32), (30, 45)])
@pytest.mark.parametrize("stride", [1, 3, 5])
def test_the_middle_of_the_grid_is_the_middle_of_the_image(size, stride):
    grid = PixelGrid(*size, stride)
    height, width = grid.sample(torch.zeros(1, *size)).shape[1:]
    torch.testing.assert_close(grid.intrinsics(pinhole(50.0, *size)), pinhole(50.0 / stride, height, width))


@pytest.mark.parametrize("long_side", [0, -3])
def test_grid_of_no_pixels_is_refused(long_side):
    with pytest.raises(InputError, match=r"^long_side: expected"):
        PixelGrid.within((30, 40), long_side)


# Dense depth


@pytest.fixture(scope="module")
def dense(scene, seen):
    """Depth from a prior that is 20 % too far."""
    flows, usable, edges, _ = seen
    return densify_depth(
        1.2 * scene.depth.float(), flows, usable, edges, scene.intrinsics.float(), scene.world_from_cam.float()
    )


def test_dense_depth_corrects_a_wrong_prior(scene, seen, dense):
    """Of pixels that both other frames see. Measured: from 20 % to 1.5 %, which is the prior's say."""
    twice = torch.stack([seen[1][EDGES[:, 0] == n].all(0) for n in range(3)])
    error = (dense[0] - scene.depth.float()).abs() / scene.depth.float()
    assert error[twice].median() < 0.025


def test_dense_depth_is_surest_where_it_is_right(scene, dense):
    error = (dense[0] - scene.depth.float()).abs() / scene.depth.float()
    sure = dense[1] > dense[1].median()
    assert error[sure].mean() < error[~sure].mean()


def test_nothing_usable_leaves_the_prior(scene, seen):
    flows, usable, edges, _ = seen
    prior = 1.2 * scene.depth.float()
    depth, certainty = densify_depth(
        prior, flows, torch.zeros_like(usable), edges, scene.intrinsics.float(), scene.world_from_cam.float()
    )
    torch.testing.assert_close(depth, prior)
    assert (certainty == 0).all()


def test_one_unusable_patch_leaves_its_prior_only(scene, seen):
    flows, usable, edges, _ = seen
    usable = usable.clone()
    usable[:, 30:40, 40:50] = False
    prior = 1.2 * scene.depth.float()
    cameras = scene.intrinsics.float(), scene.world_from_cam.float()
    depth, _ = densify_depth(prior, flows, usable, edges, *cameras)
    torch.testing.assert_close(depth[:, 30:40, 40:50], prior[:, 30:40, 40:50])
    assert (depth[:, 45:60, 10:30] / prior[:, 45:60, 10:30]).mean() < 0.9


def test_dense_depth_withstands_a_wrong_match(scene, seen):
    """From a good prior, flow that is off by 20 px in one pair has no say."""
    flows, usable, edges, _ = seen
    flows = flows.clone()
    flows[0] += 20
    cameras = scene.intrinsics.float(), scene.world_from_cam.float()
    depth, _ = densify_depth(1.02 * scene.depth.float(), flows, usable, edges, *cameras)
    assert ((depth - scene.depth.float()).abs() / scene.depth.float()).median() < 0.01


def test_still_camera_leaves_the_prior(scene, seen):
    flows, usable, edges, _ = seen
    prior = scene.depth.float()
    still = pose(torch.eye(3).expand(3, 3, 3), torch.zeros(3, 3))
    depth, certainty = densify_depth(prior, 0 * flows, usable, edges, scene.intrinsics.float(), still)
    torch.testing.assert_close(depth, prior)
    assert certainty.max() < 1e-3


def roma_similarity(source, target):
    rotation, translation, scale = roma.rigid_points_registration(source, target, compute_scaling=True)
    return scale, rotation, translation
