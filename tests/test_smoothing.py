"""Trajectory smoothing and linear blend displacement, worked by hand; every trap that the method notes."""

import math

import pytest
import roma
import torch

from c4d_nb.camera import invert, transform, unproject
from c4d_nb.clip import Tracks
from c4d_nb.errors import InputError
from c4d_nb.smoothing import lift_tracks, linear_blend_displacement, smooth_pointmaps, smooth_trajectories

NAN = float("nan")


def line(t, step=(0.1, 0.2, -0.1)):
    return torch.arange(t)[:, None, None] * torch.tensor(step)


def column(*values):
    """One track along x."""
    return torch.tensor([[[float(x), 0.0, 0.0]] for x in values])


def random_tracks(generator, t=12, n=5):
    return torch.randn(t, n, 3, generator=generator, dtype=torch.float64).cumsum(0) * 0.3


def still_tracks(t, uv):
    n = len(uv)
    ones = torch.ones(t, n)
    return Tracks(uv.expand(t, n, 2).clone(), ones.bool(), ones, 0 * ones, torch.zeros(n, dtype=torch.long))


# Trajectories


def test_constant_track_stays():
    track = torch.tensor([1.0, -2, 3]).expand(9, 4, 3)
    torch.testing.assert_close(smooth_trajectories(track), track)


def test_constant_velocity_stays_in_the_interior():
    torch.testing.assert_close(smooth_trajectories(line(10))[2:-2], line(10)[2:-2])


def test_constant_velocity_is_bent_at_the_ends():
    """The window loses its far side: the first two frames move by 1.0 and 0.5 steps, the last two backwards."""
    moved = (smooth_trajectories(line(10)) - line(10))[:, 0] / torch.tensor([0.1, 0.2, -0.1])
    expected = torch.tensor([1, 0.5, 0, 0, 0, 0, 0, 0, -0.5, -1])
    torch.testing.assert_close(moved, expected[:, None].expand(10, 3), atol=1e-5, rtol=0)


def test_small_case_by_hand():
    """x = 0, 1, 1: steps 1 and 0, so weights e^-1, e^-1, 1 (the first step's weight stands for the first frame)."""
    w = math.exp(-1)
    expected = column(w / (2 * w), (w + 1) / (2 * w + 1), (w + 1) / (w + 1))
    torch.testing.assert_close(smooth_trajectories(column(0, 1, 1), kernel_size=3), expected)


def test_decay_scales_the_step():
    w = math.exp(-0.5)
    expected = column(w / (2 * w), (w + 1) / (2 * w + 1), 1)
    torch.testing.assert_close(smooth_trajectories(column(0, 1, 1), kernel_size=3, decay=0.5), expected)


def test_without_decay_it_is_a_moving_average():
    smoothed = smooth_trajectories(column(0, 3, 9, 0, 2), kernel_size=3, decay=0.0)
    torch.testing.assert_close(smoothed, column(1.5, 4, 4, 11 / 3, 1))


def test_step_is_the_length_in_space():
    """A step of (3, 4, 0) weighs as a step of 5, whatever the direction."""
    track = torch.tensor([[[0.0, 0, 0]], [[3, 4, 0]], [[3, 4, 0]]])
    expected = smooth_trajectories(column(0, 5, 5), kernel_size=3)[..., :1] * torch.tensor([0.6, 0.8, 0])
    torch.testing.assert_close(smooth_trajectories(track, kernel_size=3), expected)


def test_kernel_of_one_changes_nothing(generator):
    track = random_tracks(generator)
    torch.testing.assert_close(smooth_trajectories(track, kernel_size=1), track)


def test_one_frame_stays():
    assert torch.equal(smooth_trajectories(column(5)), column(5))


@pytest.mark.parametrize("t", [2, 3, 4])
def test_track_shorter_than_the_kernel(t):
    assert torch.isfinite(smooth_trajectories(line(t))).all()


def test_point_stays_where_all_weights_underflow():
    jumps = column(0, 1e4, 0, 1e4, 0)
    assert torch.equal(smooth_trajectories(jumps), jumps)


def test_jitter_shrinks(generator):
    noisy = line(40, (0.01, 0, 0)) + 0.05 * torch.randn(40, 20, 3, generator=generator)
    before, after = (
        (x - line(40, (0.01, 0, 0)))[2:-2].norm(dim=-1).mean() for x in (noisy, smooth_trajectories(noisy))
    )
    assert after < 0.55 * before


def test_tracks_do_not_mix(generator):
    tracks = random_tracks(generator)
    alone = torch.cat([smooth_trajectories(tracks[:, i : i + 1]) for i in range(tracks.shape[1])], dim=1)
    torch.testing.assert_close(smooth_trajectories(tracks), alone)


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_bad_sample_does_not_reach_its_neighbours(bad):
    """Constant but for one bad sample: all others stay what they are."""
    track = column(*[2.0] * 9)
    track[4, 0, 1] = bad
    smoothed = smooth_trajectories(track)
    others = [i for i in range(9) if i != 4]
    torch.testing.assert_close(smoothed[others], column(*[2.0] * 8))
    torch.testing.assert_close(smoothed[4], track[4], equal_nan=True)


def test_unseen_sample_has_no_weight_and_stays():
    track = column(0, 0, 100, 0, 0, 0)
    visible = torch.tensor([[True], [True], [False], [True], [True], [True]])
    torch.testing.assert_close(smooth_trajectories(track, visible=visible), track)


def test_first_sample_after_a_gap_has_weight_one():
    """x = 0, -, 5, 5 with kernel 3: the sample at 5 after the gap counts 1, as does the next."""
    visible = torch.tensor([[True], [False], [True], [True]])
    smoothed = smooth_trajectories(column(0, 0, 5, 6), kernel_size=3, visible=visible)
    w = math.exp(-1)
    torch.testing.assert_close(smoothed, column(0, 0, (5 + 6 * w) / (1 + w), (5 + 6 * w) / (1 + w)))


def test_track_never_seen_stays():
    track = torch.full((5, 2, 3), NAN)
    torch.testing.assert_close(smooth_trajectories(track), track, equal_nan=True)


@pytest.mark.parametrize("kernel_size", [0, 2, 4, -1])
def test_even_kernel_is_refused(kernel_size):
    with pytest.raises(InputError, match=r"^kernel_size: expected"):
        smooth_trajectories(line(8), kernel_size=kernel_size)


def test_rigid_motion_of_the_world_commutes(generator):
    tracks, R = random_tracks(generator), roma.random_rotmat(dtype=torch.float64, generator=generator)
    shift = torch.tensor([5.0, -3, 1]).double()
    moved = smooth_trajectories(tracks @ R.T + shift)
    torch.testing.assert_close(moved, smooth_trajectories(tracks) @ R.T + shift)


def test_decay_has_the_unit_of_one_over_length(generator):
    tracks = random_tracks(generator)
    torch.testing.assert_close(smooth_trajectories(10 * tracks, decay=0.1), 10 * smooth_trajectories(tracks))


# Linear blend displacement


def brute_force(points, controls, displacements, k):
    distance, index = torch.cdist(points, controls).topk(k, dim=1, largest=False)
    weight = 1 / distance
    return points + (weight[..., None] * displacements[index]).sum(1) / weight.sum(1, keepdim=True)


@pytest.fixture
def cloud(generator):
    """200 points, 30 controls and their displacements."""
    return tuple(torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (200, 30, 30))


@pytest.mark.parametrize("k", [1, 2, 4, 30])
def test_blend_against_brute_force(cloud, k):
    torch.testing.assert_close(linear_blend_displacement(*cloud, k=k), brute_force(*cloud, k))


def test_blend_uses_four_neighbours(cloud):
    torch.testing.assert_close(linear_blend_displacement(*cloud), brute_force(*cloud, 4))


def test_blend_by_hand():
    """Distances 1 and 3 weigh 3/4 and 1/4."""
    controls = torch.tensor([[1.0, 0, 0], [-3, 0, 0]])
    moved = linear_blend_displacement(torch.zeros(1, 3), controls, torch.tensor([[0.0, 4, 0], [0, 0, 8]]))
    torch.testing.assert_close(moved, torch.tensor([[0.0, 3, 2]]))


def test_exact_hit_takes_that_displacement(cloud):
    _, controls, displacements = cloud
    torch.testing.assert_close(linear_blend_displacement(controls, controls, displacements), controls + displacements)


@pytest.mark.parametrize("copies", [2, 4, 6])
def test_several_controls_at_one_place_give_their_mean(copies):
    controls = torch.cat([torch.zeros(copies, 3), torch.ones(3, 3)])
    displacements = torch.cat([torch.arange(copies)[:, None].expand(copies, 3).float(), torch.full((3, 3), 100.0)])
    moved = linear_blend_displacement(torch.zeros(1, 3), controls, displacements)
    torch.testing.assert_close(moved, torch.full((1, 3), (copies - 1) / 2))


def test_fewer_controls_than_neighbours_are_all_used(cloud):
    points, controls, displacements = cloud
    moved = linear_blend_displacement(points, controls[:3], displacements[:3], k=4)
    torch.testing.assert_close(moved, brute_force(points, controls[:3], displacements[:3], 3))


def test_without_controls_nothing_moves(cloud):
    none = torch.zeros(0, 3, dtype=torch.float64)
    assert torch.equal(linear_blend_displacement(cloud[0], none, none), cloud[0])


def test_without_points_there_is_nothing(cloud):
    assert linear_blend_displacement(torch.zeros(0, 3).double(), *cloud[1:]).shape == (0, 3)


def test_constant_displacement_moves_all(cloud):
    points, controls, _ = cloud
    shift = torch.tensor([1.0, -2, 3]).double()
    torch.testing.assert_close(linear_blend_displacement(points, controls, shift.expand(30, 3)), points + shift)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, 1e-30, 1e-13, 1e-7])
def test_points_near_a_control_stay_finite(dtype, gap):
    controls = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=dtype)
    points = controls + torch.tensor([gap, 0, 0], dtype=dtype)
    moved = linear_blend_displacement(points, controls, controls)
    torch.testing.assert_close(moved, 2 * controls, atol=1e-5, rtol=0)


# Pointmaps


@pytest.fixture(scope="module")
def light(yard):
    """World points of the yard at every fourth pixel, its true tracks on that grid, and its cameras."""
    truth = yard.truth
    depth = truth.depth[:, ::4, ::4].contiguous()
    K = truth.intrinsics.clone()
    K[:, :2] /= 4
    tracks = Tracks(
        truth.tracks.uv / 4,
        truth.tracks.visible,
        truth.tracks.confidence,
        truth.tracks.mobility,
        truth.tracks.query_frame,
    )
    return depth, K, truth.world_from_cam, tracks


def world_points(depth, K, world_from_cam):
    return transform(world_from_cam, unproject(depth, K).flatten(1, 2)).reshape(*depth.shape, 3)


def test_static_scene_stays():
    """A still camera before a plane: nothing moves by more than 1e-5."""
    xyz = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij"), -1)
    xyz = torch.cat([xyz, torch.full((6, 8, 1), 4.0)], -1).expand(26, 6, 8, 3)
    tracks = still_tracks(26, torch.tensor([[1.0, 1], [5.5, 3.2], [7, 5], [0, 4]]))
    torch.testing.assert_close(smooth_pointmaps(xyz, tracks), xyz, atol=1e-5, rtol=0)


def test_constant_velocity_is_kept_across_window_edges():
    """Windows overlap by more than half a kernel: only the video's own ends are bent, not frames 20 or 40."""
    xyz = torch.zeros(50, 3, 4, 3) + torch.arange(50)[:, None, None, None] * torch.tensor([0.1, 0, 0])
    smoothed = smooth_pointmaps(xyz, still_tracks(50, torch.tensor([[1.0, 1], [2, 2]])))
    torch.testing.assert_close(smoothed[2:-2], xyz[2:-2], atol=1e-5, rtol=0)
    assert (smoothed[0] - xyz[0]).norm(dim=-1).min() > 0.05


@pytest.mark.parametrize("window", [7, 20, 100])
def test_window_size_does_not_matter_when_the_overlap_covers_the_kernel(light, window):
    depth, K, world_from_cam, tracks = light
    xyz = world_points(depth, K, world_from_cam)
    torch.testing.assert_close(smooth_pointmaps(xyz, tracks, window=window), smooth_pointmaps(xyz, tracks, window=24))


def test_jittered_depth_comes_closer_to_the_truth(light):
    """Depth of every frame off by its own few per cent, as of a per-frame estimator."""
    depth, K, world_from_cam, tracks = light
    factor = 1 + 0.04 * torch.randn(24, 1, 1, generator=torch.Generator().manual_seed(3))
    true, jittered = (world_points(d, K, world_from_cam) for d in (depth, depth * factor))
    before, after = ((x - true).norm(dim=-1).mean() for x in (jittered, smooth_pointmaps(jittered, tracks)))
    assert after < 0.75 * before


def test_frame_without_visible_tracks_stays(light):
    depth, K, world_from_cam, tracks = light
    visible = tracks.visible.clone()
    visible[5] = False
    hidden = Tracks(tracks.uv, visible, tracks.confidence, tracks.mobility, tracks.query_frame)
    xyz = world_points(depth, K, world_from_cam)
    smoothed = smooth_pointmaps(xyz, hidden)
    assert torch.equal(smoothed[5], xyz[5])
    assert torch.isfinite(smoothed).all()


def test_lifted_tracks_are_the_surface_points(light):
    """A static track stays in one place of the world; pixels across an outline are left out by the median."""
    depth, K, world_from_cam, tracks = light
    lifted = lift_tracks(world_points(depth, K, world_from_cam), tracks)
    static = lifted[:, tracks.mobility[0] == 0]
    spread = (static - static.nanmedian(dim=0).values).norm(dim=-1)
    assert spread.nanmedian() < 0.02


def test_lifted_tracks_are_nan_where_not_visible(light):
    depth, K, world_from_cam, tracks = light
    lifted = lift_tracks(world_points(depth, K, world_from_cam), tracks)
    assert torch.equal(torch.isfinite(lifted).all(-1), tracks.visible)


def test_world_points_of_the_helper(light):
    depth, K, world_from_cam, _ = light
    z = transform(invert(world_from_cam), world_points(depth, K, world_from_cam).flatten(1, 2))[..., 2]
    torch.testing.assert_close(z.reshape(depth.shape), depth, atol=1e-4, rtol=0)
