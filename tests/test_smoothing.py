"""Trajectory smoothing worked by hand and against a plain loop; every trap that the method notes."""

import math

import numpy as np
import pytest
import roma
import torch

from c4d_nb.camera import invert, transform, unproject
from c4d_nb.clip import Tracks
from c4d_nb.errors import InputError
from c4d_nb.linear_blend import linear_blend_displacement
from c4d_nb.smoothing import lift_tracks, median_step, sample_weights, smooth_pointmaps, smooth_trajectories

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


def test_weights_by_hand():
    """Arriving steps 1, 1, 0; then a gap, whose sample has none and whose next one has 1. By both: 1, 1/2, 0 and 0."""
    track, seen = column(0, 1, 1, NAN, 7, 9), torch.tensor([1, 1, 1, 0, 1, 1]).bool()[:, None]
    found = sample_weights(track, seen)[:, 0]
    torch.testing.assert_close(found, torch.tensor([-1.0, -1, 0, -math.inf, 0, -2]).exp())
    found = sample_weights(track, seen, decay=2.0, both_steps=True)[:, 0]
    torch.testing.assert_close(found, torch.tensor([-2.0, -1, 0, -math.inf, -4, -4]).exp())
    assert sample_weights(track[:1], seen[:1]).item() == 1


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


def loop(xyz, kernel_size=5, decay=1.0, visible=None, per_median_step=False, both_steps=False, shrink_at_ends=False):
    """The formulas, sample by sample, in float64."""
    x = xyz.double().numpy()
    t, n, _ = x.shape
    seen = np.isfinite(x).all(-1) & (True if visible is None else visible.numpy())
    steps = {
        (i, j): np.linalg.norm(x[i + 1, j] - x[i, j])
        for i in range(t - 1)
        for j in range(n)
        if seen[i, j] and seen[i + 1, j]
    }
    if per_median_step and steps:
        decay = decay / np.median(list(steps.values()))
    out = x.copy()
    for j in range(n):
        weight = np.zeros(t)
        for i in range(t):
            arriving, leaving = steps.get((max(i - 1, 0), j)), steps.get((i, j))
            if i == 0:
                leaving = leaving if both_steps else None
                arriving = arriving if not both_steps else None
            factors = [
                math.exp(-decay * s) for s in ((arriving, leaving) if both_steps else (arriving,)) if s is not None
            ]
            weight[i] = seen[i, j] * math.prod(factors) ** (1 / max(1, len(factors)))
        for i in range(t):
            half = kernel_size // 2
            if shrink_at_ends:
                half = min(half, i, t - 1 - i)
            around = [s for s in range(max(0, i - half), min(t, i + half + 1)) if seen[s, j]]
            total = sum(weight[s] for s in around)
            if seen[i, j] and total / kernel_size > 1e-12:
                out[i, j] = sum(weight[s] * x[s, j] for s in around) / total
    return torch.from_numpy(out)


OPTIONS = [
    {},
    {"decay": 0.0},
    {"decay": 3.0, "kernel_size": 9},
    {"kernel_size": 1},
    {"per_median_step": True},
    {"both_steps": True},
    {"shrink_at_ends": True},
    {"per_median_step": True, "both_steps": True, "shrink_at_ends": True, "kernel_size": 7, "decay": 2.0},
]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("t", [1, 2, 3, 4, 15])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_against_a_plain_loop(generator, options, t, scale):
    """With samples that are unseen, not finite, and the sole ones left; relative to the size of the scene."""
    tracks = scale * random_tracks(generator, t, 12)
    visible = torch.rand(t, 12, generator=generator) > 0.3
    visible[:, :6] = True
    for column, bad in enumerate((NAN, float("inf"), -float("inf"))):
        tracks[t // 2, 3 + column, column] = bad
    found = smooth_trajectories(tracks, visible=visible, **options)
    torch.testing.assert_close(
        found, loop(tracks, visible=visible, **options), rtol=0, atol=1e-6 * scale, equal_nan=True
    )


def test_single_precision_is_exact_to_its_rounding_far_from_the_origin(generator):
    """Only displacements are averaged: a scene 1000 lengths away loses nothing more than its coordinates did."""
    tracks = (random_tracks(generator) + 1000).float()
    found = smooth_trajectories(tracks)
    torch.testing.assert_close(found.double(), loop(tracks), rtol=0, atol=1e-4)
    still = tracks[:1].expand(9, -1, -1)
    assert torch.equal(smooth_trajectories(still), still)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_everything_underflows(options):
    """Steps of 1e6 leave no weight, unless they are measured against their median or do not count."""
    jumps = 1e6 * (torch.arange(8) % 2).double()[:, None, None].expand(8, 2, 3)
    found = smooth_trajectories(jumps, **options)
    torch.testing.assert_close(found, loop(jumps, **options), rtol=0, atol=1e-3)
    relative = options.get("per_median_step") or options.get("decay") == 0
    assert torch.equal(found, jumps) == (not relative)


@pytest.mark.parametrize(("step", "stays"), [(27.0, False), (27.8, True)])
def test_a_window_needs_a_mean_weight_of_1e_12(step, stays):
    """e^-27 = 1.9e-12 and e^-27.8 = 0.8e-12."""
    jumps = step * (torch.arange(9) % 2).double()[:, None, None] * torch.tensor([1.0, 0, 0]).double()
    found = smooth_trajectories(jumps)
    assert torch.equal(found[2:-2], jumps[2:-2]) == stays
    torch.testing.assert_close(found, loop(jumps))


def test_both_steps_spare_the_good_sample_after_a_spike():
    """A spike of 3 at frame 2: the sample after it has the spike's own weight e^-3 by the arriving step alone; by both,
    the spike has e^-3, its neighbours e^-1.5."""
    track, w = column(0, 0, 3, 0, 0), math.exp(-3)
    one, both = (smooth_trajectories(track, kernel_size=3, both_steps=both)[:, 0, 0] for both in (False, True))
    torch.testing.assert_close(one[2], torch.tensor(3 * w / (1 + 2 * w)))
    torch.testing.assert_close(both[2], torch.tensor(3 * w / (w + 2 * math.sqrt(w))))
    torch.testing.assert_close(one[3], torch.tensor(3 * w / (1 + 2 * w)))
    torch.testing.assert_close(both[3], torch.tensor(3 * w / (1 + w + math.sqrt(w))))
    torch.testing.assert_close(both, both.flip(0))


def test_both_steps_do_not_know_the_direction_of_time(generator):
    tracks = random_tracks(generator)
    options = {"both_steps": True, "shrink_at_ends": True}
    torch.testing.assert_close(
        smooth_trajectories(tracks.flip(0), **options), smooth_trajectories(tracks, **options).flip(0)
    )


@pytest.mark.parametrize("kernel_size", [3, 5, 9])
def test_shrinking_at_the_ends_keeps_uniform_motion(kernel_size):
    found = smooth_trajectories(line(12), kernel_size=kernel_size, shrink_at_ends=True)
    torch.testing.assert_close(found, line(12), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_per_median_step_the_scale_of_the_scene_does_not_matter(generator, scale):
    tracks = random_tracks(generator)
    found = smooth_trajectories(scale * tracks, per_median_step=True) / scale
    torch.testing.assert_close(found, smooth_trajectories(tracks, per_median_step=True))


def test_median_step_by_hand():
    """Steps 1, 2, 4 and 1: the mean of the middle two. What is unseen makes no step."""
    tracks = torch.cat([column(0, 1, 3, 7), column(0, 1, NAN, 9)], dim=1)
    assert median_step(tracks) == 1.5
    assert median_step(column(0, 1, 3, 7)) == 2


def test_median_step_of_nothing_and_of_rest():
    assert median_step(column(0, NAN, 1)) == 1
    assert median_step(column(5)) == 1
    assert 0 < median_step(column(2, 2, 2)) < 1e-20


@pytest.mark.parametrize("decay", [1.0, 1e6])
def test_rest_with_one_move_per_median_step(decay):
    """Median step 0: the sample that a step led to, of frame 4, has no weight; all others have 1. Never NaN."""
    found = smooth_trajectories(column(1, 1, 1, 1, 2, 2, 2, 2), decay=decay, per_median_step=True)
    torch.testing.assert_close(found, column(1, 1, 1, 5 / 4, 6 / 4, 7 / 4, 2, 2))


@pytest.mark.parametrize("decay", [-0.1, NAN, float("inf")])
def test_decay_that_is_not_one_is_refused(decay):
    with pytest.raises(InputError, match=r"^decay: expected"):
        smooth_trajectories(line(8), decay=decay)


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


def test_every_option_reaches_its_part(light):
    """One window over everything, put together by hand from the two parts."""
    depth, K, world_from_cam, tracks = light
    xyz, masks = world_points(depth, K, world_from_cam), depth < depth.median()
    smoothing = {"kernel_size": 7, "decay": 0.3, "per_median_step": True, "both_steps": True, "shrink_at_ends": True}
    blending = {"k": 3, "power": 2, "radius": 0.5}
    found = smooth_pointmaps(xyz, tracks, motion_masks=masks, **smoothing, **blending)
    lifted = lift_tracks(xyz, tracks)
    moved = smooth_trajectories(lifted, **smoothing)
    for frame in (0, 11, 23):
        seen = tracks.visible[frame]
        expected = linear_blend_displacement(
            xyz[frame].reshape(-1, 3),
            lifted[frame, seen],
            (moved - lifted)[frame, seen],
            point_class=masks[frame].flatten(),
            control_class=tracks.mobility[frame, seen] >= 0.5,
            **blending,
        )
        torch.testing.assert_close(found[frame].reshape(-1, 3), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("overlap", [0, 5])
def test_without_overlap_uniform_motion_is_bent_at_the_seam(overlap):
    """By the same 1.0 and 0.5 steps as at the video's ends."""
    xyz = torch.zeros(40, 3, 4, 3) + torch.arange(40)[:, None, None, None] * torch.tensor([0.1, 0, 0])
    smoothed = smooth_pointmaps(xyz, still_tracks(40, torch.tensor([[1.0, 1], [2, 2]])), overlap=overlap)
    moved = (smoothed - xyz)[18:22, 0, 0, 0] / 0.1
    expected = torch.tensor([-0.5, -1, 1, 0.5]) if overlap == 0 else torch.zeros(4)
    torch.testing.assert_close(moved, expected, atol=1e-3, rtol=0)


def test_what_moves_does_not_drag_what_stands(generator):
    """A plane whose left half jitters: the right half stays put if each half follows its own tracks, and only then."""
    plane = torch.cat([torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij"), -1)] * 2, -1)
    left = torch.zeros(24, 6, 8, dtype=torch.bool)
    left[:, :, :4] = True
    xyz = plane[..., :3] + 0.1 * left[..., None] * torch.randn(24, 1, 1, 3, generator=generator)
    tracks = still_tracks(24, torch.tensor([[1.0, 1], [2, 4], [6, 2], [5, 5]]))
    tracks.mobility[:, :2] = 1
    bled, own = (smooth_pointmaps(xyz, tracks, motion_masks=m) - xyz for m in (None, left))
    assert bled[~left].abs().max() > 0.01
    assert own[~left].abs().max() == 0
    assert own[left].abs().max() > 0.01


def test_pixels_without_a_point_stay_so_and_harm_none(light):
    depth, K, world_from_cam, tracks = light
    xyz = world_points(depth, K, world_from_cam)
    holed = xyz.clone()
    holed[:, 10:14, 20:24] = NAN
    smoothed = smooth_pointmaps(holed, tracks)
    assert torch.equal(torch.isnan(smoothed), torch.isnan(holed))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("window", {"window": 0}),
        ("overlap", {"overlap": -1}),
        ("kernel_size", {"kernel_size": 4}),
        ("decay", {"decay": -1.0}),
        ("k", {"k": 0}),
        ("motion_masks", {"motion_masks": torch.zeros(26, 6, 7, dtype=torch.bool)}),
        ("tracks", {"tracks": still_tracks(25, torch.tensor([[1.0, 1]]))}),
    ],
)
def test_bad_option_is_named(name, options):
    arguments = {"xyz_world": torch.zeros(26, 6, 8, 3), "tracks": still_tracks(26, torch.tensor([[1.0, 1]]))}
    with pytest.raises(InputError, match=f"^{name}: expected"):
        smooth_pointmaps(**(arguments | options))
