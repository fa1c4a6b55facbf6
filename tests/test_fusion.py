"""Geometry and a network as one depth, on a room in closed form: what each is worth; scales, bends, strangers."""

from dataclasses import replace

import pytest
import roma
import torch
from scenes import room

from c4d_nb.camera import invert, pose, transform
from c4d_nb.clip import PairPointmaps
from c4d_nb.pointmaps.fusion import BEST_DEVIATION, fused_with_network
from c4d_nb.pointmaps.losses import ALPHA
from c4d_nb.pointmaps.two_view import FLAT_CONFIDENCE, TwoViewConfig, two_view_pointmaps

EDGES = torch.tensor([[0, 1], [1, 2], [0, 2], [1, 0], [2, 1], [2, 0]])
BACK = [3, 4, 5, 0, 1, 2]
SIZE = (72, 96)


@pytest.fixture(scope="module")
def scene():
    """Seen from above, so that no two rows of the floor are equally far."""
    level = room(t=3, size=SIZE, focal_px=90.0, stride_m=0.2)
    down = pose(roma.rotvec_to_rotmat(torch.tensor([-0.5, 0.0, 0.0]).double()), torch.zeros(3).double())
    return replace(level, world_from_cam=level.world_from_cam @ down)


@pytest.fixture(scope="module")
def turning(scene):
    """Pairs without parallax."""
    return two_view_pointmaps(*scene.turning().views(EDGES))


@pytest.fixture(scope="module")
def learned(scene):
    """A network that knows the truth, each pair at a scale of its own."""
    pairs = scene.pairs(EDGES, torch.Generator().manual_seed(3))
    confidence = torch.full_like(pairs.conf_1, 1.5)
    return replace(pairs, conf_1=confidence, conf_2=confidence.clone())


@pytest.fixture(scope="module")
def half_seen(scene):
    """Nothing can be triangulated in the left half of the frames."""
    flows, usable, edges, K = scene.views(EDGES)
    usable[:, :, : SIZE[1] // 2] = False
    return two_view_pointmaps(flows, usable, edges, K)


def measured_in(pairs):
    return pairs.conf_1 > FLAT_CONFIDENCE


def with_depth(learned, factor):
    """The same network, that takes every point of a first view for so many times as far."""
    return replace(learned, xyz_1=learned.xyz_1 * factor.expand_as(learned.conf_1)[..., None])


def noisy_pairs(scene, parallax, generator):
    """True pairs, whose depth is wrong as triangulation's is: by a relative deviation of 1 / parallax."""
    exact = scene.pairs(EDGES)
    xyz = exact.xyz_1 * (torch.randn(exact.conf_1.shape, generator=generator) / parallax).exp()[..., None]
    n_from_m = invert(scene.world_from_cam[EDGES[:, 0]]) @ scene.world_from_cam[EDGES[:, 1]]
    xyz_2 = transform(n_from_m.float(), xyz[BACK].flatten(1, 2)).reshape(xyz.shape)
    confidence = 1 + parallax.expand_as(exact.conf_1)
    return PairPointmaps(EDGES, xyz, xyz_2, confidence, confidence[BACK])


def by_frame(deviation, generator):
    """Factors of depth: errors of each pixel of a frame that all its pairs share."""
    return (deviation * torch.randn(3, *SIZE, generator=generator)).exp()[EDGES[:, 0]]


def error(pairs, scene):
    """Of the logarithm of depth, by pixel, with the best scale for each pair."""
    ratio = (pairs.xyz_1[..., 2] / scene.depth[EDGES[:, 0]].float()).log()
    return ratio - ratio.flatten(1).median(dim=1).values[:, None, None]


# Two measurements of one depth


def test_fusion_is_better_than_either(scene, learned, generator):
    """Errors of 5 and of 4 %, independent of each other, leave 3.1 %: the root of 1 / (1 / 0.05^2 + 1 / 0.04^2)."""
    pairs = noisy_pairs(scene, torch.tensor(20.0), generator)
    found = error(fused_with_network(pairs, with_depth(learned, by_frame(0.04, generator))), scene).std()
    assert error(pairs, scene).std() == pytest.approx(0.05, rel=0.05)
    assert found == pytest.approx(0.0312, rel=0.1)


def test_depth_is_nearer_to_what_is_better_known(scene, learned, generator):
    """True depth with more and more parallax, beside a network that is wrong by a tenth, more or less."""
    rows = torch.linspace(1, 20, SIZE[0])[:, None]
    pairs = replace(noisy_pairs(scene, rows, generator), xyz_1=scene.pairs(EDGES).xyz_1)
    off = error(fused_with_network(pairs, with_depth(learned, by_frame(0.1, generator))), scene).abs().mean(dim=(0, 2))
    assert off[:10].mean() == pytest.approx(0.08, abs=0.02)  # of Gaussian errors, the mean is that
    assert off[60:].mean() < 0.5 * off[30:40].mean() < 0.5 * off[:10].mean()


def test_confidence_grows_by_a_network_that_agrees(half_seen, learned):
    fused, measured = fused_with_network(half_seen, learned), measured_in(half_seen)
    assert (fused.conf_1[measured] > half_seen.conf_1[measured]).all()
    assert (fused.conf_1[~measured] > 20).all()  # as deviations of less than 5 % allow
    most = TwoViewConfig().saturation
    assert (fused.conf_1 <= 1 + (most**2 + BEST_DEVIATION**-2) ** 0.5 + 1e-3).all()
    assert torch.equal(fused.conf_2, fused.conf_1[BACK])
    assert torch.equal(fused.edges, EDGES)


def test_rays_and_poses_stay(half_seen, learned):
    """Only depth changes: second members are the reverse pairs' first ones, placed as before."""
    fused = fused_with_network(half_seen, learned)
    for found, before in zip(fused.xyz_1, half_seen.xyz_1, strict=True):
        torch.testing.assert_close(found / found[..., 2:], before / before[..., 2:])
    expected = place(half_seen)
    found = place(fused)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def place(pairs):
    """n_from_m of every edge, as three points and a fourth of each map are placed."""
    here, there = (xyz.flatten(1, 2)[:, [0, 95, 3000, 6000]] for xyz in (pairs.xyz_1[BACK], pairs.xyz_2))
    homogeneous = torch.cat([here, torch.ones_like(here[..., :1])], dim=-1).double()
    return torch.linalg.solve(homogeneous, there.double()).mT


# What a network is worth


@pytest.mark.parametrize("off", [0.05, 0.1])
def test_deviation_is_what_the_clip_shows(half_seen, learned, generator, off):
    """Half of Gaussian errors are below 0.67 of their deviation. Where nothing was triangulated, confidence follows."""
    fused = fused_with_network(half_seen, with_depth(learned, by_frame(off, generator)))
    found = fused.conf_1[~measured_in(half_seen)].median() - 1
    assert found == pytest.approx(1 / (0.67 * off), rel=0.25)


def test_a_foreign_network_is_left_out(half_seen, learned, generator):
    """Depth that has nothing to do with the room is no better than a constant, bend it as one may."""
    assert fused_with_network(half_seen, with_depth(learned, by_frame(2.0, generator))) is half_seen


def test_a_poor_network_has_little_say(half_seen, learned, generator):
    fused = fused_with_network(half_seen, with_depth(learned, by_frame(0.3, generator)))
    measured = measured_in(half_seen)
    assert fused.conf_1[~measured].median() < 10
    moved = (fused.xyz_1[..., 2] / half_seen.xyz_1[..., 2]).log().abs()[measured]
    assert moved.median() < 0.02


def test_its_own_confidence_tells_where(half_seen, learned, generator):
    """Twice as confident in the left quarter, where nothing was triangulated: half the deviation there."""
    network = with_depth(learned, by_frame(0.2, generator))
    confidence = network.conf_1.clone()
    confidence[:, :, :24] *= 2
    even = fused_with_network(half_seen, network).conf_1 - 1
    uneven = fused_with_network(half_seen, replace(network, conf_1=confidence)).conf_1 - 1
    expected = torch.where(torch.arange(SIZE[1]) < 24, 2.0, 1.0).expand_as(even)
    left = ~measured_in(half_seen)
    assert (((uneven / even)[left] / expected[left] - 1).abs() < 1e-3).float().mean() > 0.999


def test_what_is_contradicted_is_not_believed(half_seen, learned):
    """A patch that the network takes for half as far, as other pixels are, keeps its triangulated depth, nearly; and a
    pair that does not see its parallax has no say there."""
    seeing, blind = 0, 2  # the pairs of frames 0 and 1, 0 and 2
    factor = torch.ones(SIZE)
    patch = slice(16, 26), slice(60, 80)
    factor[patch] = 0.5
    confidence = half_seen.conf_1.clone()
    confidence[blind, *patch] = FLAT_CONFIDENCE
    pairs = replace(half_seen, conf_1=confidence, conf_2=confidence[BACK])
    fused = fused_with_network(pairs, with_depth(learned, factor))
    sure = half_seen.conf_1[seeing, *patch] > 10
    moved = (fused.xyz_1[seeing, ..., 2] / half_seen.xyz_1[seeing, ..., 2])[patch].log().abs()
    assert moved[sure].quantile(0.75) < 0.05  # of the network's log 2 = 0.7
    assert fused.conf_1[blind, *patch][sure].median() < 5 < 50 < fused.conf_1[blind].median()


# Scales and bends


@pytest.mark.parametrize("i", range(6))
def test_the_network_fills_in_the_rest(scene, half_seen, learned, i):
    """At the scale of what was triangulated: one scene, in both members."""
    filled = fused_with_network(half_seen, learned)
    for found, expected in ((filled.xyz_1[i], learned.xyz_1[i]), (filled.xyz_2[i], learned.xyz_2[i])):
        ratio = found.norm(dim=-1) / expected.norm(dim=-1)
        assert (ratio / ratio.median() - 1).abs().quantile(0.95) < 0.02
    before = half_seen.xyz_1[i, ..., 2] / scene.depth[EDGES[i, 0]]
    assert (before[:, :40] / before[:, 60:].median() - 1).abs().max() > 0.1  # the blend alone is wrong


@pytest.mark.parametrize("bend", [lambda z: z**0.7, lambda z: z**1.4, lambda z: z + 0.2 * z**3])
def test_a_bent_network_is_bent_back(scene, half_seen, learned, bend):
    """Any curve that all frames share, on the left too, where nothing was triangulated."""
    depth = learned.xyz_1[..., 2]
    over_median = depth / depth.flatten(1).median(dim=1).values[:, None, None]
    network = with_depth(learned, bend(over_median) / over_median)
    off = error(fused_with_network(half_seen, network), scene).abs()
    assert error(network, scene).abs().mean() > 0.05
    assert off.mean() < 0.015
    assert off[:, :, :48].mean() < 0.02


def test_the_networks_scale_does_not_matter(half_seen, learned):
    scale = torch.linspace(0.1, 5, 6)[:, None, None, None]
    scaled = replace(learned, xyz_1=scale * learned.xyz_1, xyz_2=scale * learned.xyz_2)
    expected, found = fused_with_network(half_seen, learned), fused_with_network(half_seen, scaled)
    torch.testing.assert_close(found.xyz_1, expected.xyz_1, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.xyz_2, expected.xyz_2, rtol=1e-3, atol=1e-3)


# Where nothing, or next to nothing, is triangulated


def test_a_frame_has_one_depth_in_all_its_pairs(turning, learned, generator):
    """The mean of what the network says, so that pairs which differ by chance do not pull at cameras."""
    noise = 1 + 0.1 * torch.randn(6, *SIZE, generator=generator).clamp(-3, 3)
    filled = fused_with_network(turning, with_depth(learned, noise))
    for n in range(3):
        first, *others = filled.xyz_1[EDGES[:, 0] == n]
        assert all(torch.equal(first, other) for other in others)


def test_turning_camera_has_the_networks_depth(turning, learned):
    """Over its median, with the deviation that the loss promises; the pose stays a turn."""
    filled = fused_with_network(turning, learned)
    depth = learned.xyz_1[..., 2]
    expected = depth / depth.flatten(1).median(dim=1).values[:, None, None]
    torch.testing.assert_close(filled.xyz_1[..., 2], expected)
    torch.testing.assert_close(filled.xyz_2.norm(dim=-1), filled.xyz_1[BACK].norm(dim=-1), rtol=0, atol=1e-3)
    torch.testing.assert_close(filled.conf_1, 1 + 1.5 * expected / ALPHA, rtol=1e-3, atol=0)
    assert (filled.conf_2 == FLAT_CONFIDENCE).all()  # the frame's depth is known, the camera's step is not


@pytest.mark.parametrize("pixels", [1, 150, 700])
def test_a_few_pixels_give_a_scale(half_seen, learned, pixels):
    """Too few for a curve, or for one of many points: the network's depth at their scale, finite everywhere."""
    confidence = torch.where(measured_in(half_seen), half_seen.conf_1, FLAT_CONFIDENCE).flatten()
    known = torch.nonzero(confidence > FLAT_CONFIDENCE)[:, 0]
    confidence[known[pixels:]] = FLAT_CONFIDENCE
    confidence = confidence.reshape(half_seen.conf_1.shape)
    fused = fused_with_network(replace(half_seen, conf_1=confidence, conf_2=confidence[BACK]), learned)
    assert torch.isfinite(fused.xyz_1).all()
    assert torch.isfinite(fused.xyz_2).all()
    ratio = fused.xyz_1[0, ..., 2] / learned.xyz_1[0, ..., 2]
    assert (ratio / ratio.median() - 1).abs().quantile(0.9) < 0.05


def test_a_network_that_sees_one_distance_is_left_out(half_seen, learned):
    depth = learned.xyz_1[..., 2]
    assert fused_with_network(half_seen, with_depth(learned, 2 / depth)) is half_seen
