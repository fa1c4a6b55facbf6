"""DynPT: correlations against loops, symmetries, what gradients reach, and what cannot be used."""

import copy

import pytest
import torch
from torch.autograd import gradcheck

from c4d_nb.correspondence.dynpt import PAPER, SMALL, DynPT, DynPTConfig, TrackState, initial_state
from c4d_nb.correspondence.flow import sample_map
from c4d_nb.correspondence.local_correlation import (
    best_match,
    build_pyramid,
    cells_from_uv,
    local_correlation,
    neighborhoods,
)
from c4d_nb.correspondence.space_time import (
    EPIPOLAR_PX,
    SpaceTimeTransformer,
    displacement_code,
    epipolar_motion,
    epipolar_motion_code,
    fourier_code,
    own_motion,
    own_motion_code,
    place_code,
    time_code,
)
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import SMALL as SMALL_DUST3R
from c4d_nb.pointmaps.dust3r import VITL_DPT, DUSt3R, DUSt3RConfig

SIZES = {
    "channels": 8,
    "cnn_widths": (4, 6, 8, 10),
    "levels": 3,
    "radius": 1,
    "correlation": (8, 6),
    "displacement_bands": 4,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "virtual": 3,
}


def network(**changes) -> DynPT:
    """Heads that change something from the start."""
    torch.manual_seed(0)
    geometry = DUSt3R(DUSt3RConfig("linear", encoder=(16, 1, 2), decoder=(16, 1, 2)))
    model = DynPT(DynPTConfig(**SIZES | changes), geometry=geometry)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def small() -> DynPT:
    """Do not write to it: all tests share it."""
    return network()


def frames(batch=1, t=5, size=(32, 48), seed=0):
    return torch.rand(batch, t, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def queries(batch=1, n=7, t=5, size=(32, 48), seed=0):
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randint(t, (batch, n, 1), generator=generator)
    uv = torch.rand(batch, n, 2, generator=generator) * torch.tensor([size[1] - 1, size[0] - 1])
    return torch.cat([frame, uv], dim=-1)


def random_state(batch, t, n, seed=1) -> TrackState:
    generator = torch.Generator().manual_seed(seed)
    uv = 40 * torch.rand(batch, t, n, 2, generator=generator)
    return TrackState(uv, *torch.randn(3, batch, t, n, generator=generator))


def assert_same(found: list[TrackState], expected: list[TrackState]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for values, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(values, other, rtol=1e-3, atol=1e-3)


# Local correlation


@pytest.fixture
def level(generator):
    return torch.randn(2, 3, 6, 9, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def points(generator):
    """Cells inside the map and beyond every border."""
    low, high = torch.tensor([-4.0, -3]), torch.tensor([13.0, 9])
    return low + (high - low) * torch.rand(2, 11, 3, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_neighborhoods_against_bilinear_sampling(level, points, radius):
    frame = torch.tensor([[i % 3 for i in range(11)], [(2 * i) % 3 for i in range(11)]])
    found = neighborhoods(level, frame, points[:, :, 0], radius=radius)
    for b in range(2):
        for n in range(11):
            around = [(x, y) for y in range(-radius, radius + 1) for x in range(-radius, radius + 1)]
            uv = points[b, n, 0] + torch.tensor(around, dtype=torch.float64)
            torch.testing.assert_close(found[b, n], sample_map(level[b, frame[b, n]], uv))


def test_neighborhoods_at_whole_cells_are_the_map(level):
    cells = torch.tensor([[[4.0, 2.0]], [[1.0, 3.0]]], dtype=torch.float64)
    found = neighborhoods(level, torch.tensor([[1], [2]]), cells, radius=1)
    torch.testing.assert_close(found[0, 0], level[0, 1, 1:4, 3:6].flatten(0, 1))
    torch.testing.assert_close(found[1, 0], level[1, 2, 2:5, 0:3].flatten(0, 1))


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_correlation_against_a_loop(level, points, generator, radius):
    """Every product of a query's neighbour with a feature sampled around the estimate, one at a time."""
    points = points[:, : 12 // (radius + 1) ** 2]
    side = 2 * radius + 1
    around = torch.randn(*points.shape[:2], side**2, 4, generator=generator, dtype=torch.float64)
    found = local_correlation(level, around, points, radius=radius).unflatten(-1, (side, side, side**2))
    assert found.shape == (*points.shape[:3], side, side, side**2)
    for b, n, t, row, column in torch.cartesian_prod(*map(torch.arange, found.shape[:-1])).tolist():
        uv = points[b, n, t] + torch.tensor([column - radius, row - radius])
        feature = sample_map(level[b, t], uv)
        expected = torch.stack([feature @ neighbor for neighbor in around[b, n]])
        torch.testing.assert_close(found[b, n, t, row, column], expected)


def test_correlation_of_a_feature_with_itself_is_largest(generator):
    """Unit features: 1 in the middle where the estimate is the query, and nowhere more."""
    features = torch.nn.functional.normalize(torch.randn(1, 2, 8, 8, 16, generator=generator), dim=-1)
    cells = torch.tensor([[[3.0, 4.0]]])
    around = neighborhoods(features, torch.tensor([[0]]), cells, radius=1)
    found = local_correlation(features, around, cells[:, :, None].expand(1, 1, 2, 2), radius=1)
    products = found[0, 0, 0].view(9, 9)
    torch.testing.assert_close(products.diagonal(), torch.ones(9))
    assert (products - torch.eye(9)).max() < 0.99


def test_correlation_gradients(generator):
    level = torch.randn(1, 2, 3, 4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    around = torch.randn(1, 2, 9, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    cells = torch.tensor([[[[0.3, 1.6], [-2.4, 0.2]], [[1.7, 0.4], [3.6, 5.2]]]], dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda *x: local_correlation(*x, radius=1), (level, around, cells))
    frame = torch.tensor([[0, 1]])
    assert gradcheck(lambda f, c: neighborhoods(f, frame, c[:, :, 0], radius=1), (level, cells))


def test_pyramid_levels_agree_on_where_a_pixel_is():
    """A ramp of u at stride 4: every level, sampled at the same pixel, says the same."""
    columns = 4 * torch.arange(32.0) + 1.5
    pyramid = build_pyramid(columns.expand(1, 1, 1, 16, 32), levels=4, size=(64, 128))
    assert [tuple(level.shape) for level in pyramid.levels] == [(1, 1, 16 // s, 32 // s, 1) for s in (1, 2, 4, 8)]
    uv = torch.tensor([[[61.25, 30.0]]])
    for i, level in enumerate(pyramid.levels):
        found = neighborhoods(level, torch.tensor([[0]]), cells_from_uv(uv, level=i), radius=0)
        assert found.item() == pytest.approx(61.25)


def test_borders_of_pixels_and_cells_agree():
    corners = torch.tensor([[-0.5, -0.5], [127.5, 63.5]])
    assert cells_from_uv(corners, level=0).tolist() == [[-0.5, -0.5], [31.5, 15.5]]
    assert cells_from_uv(corners, level=2).tolist() == [[-0.5, -0.5], [7.5, 3.5]]


# Codes and attention


def test_fourier_code_by_hand():
    code = fourier_code(torch.tensor([0.5, 2.0]), torch.tensor([1.0, 3.0]))
    angles = torch.tensor([0.5, 1.5, 2.0, 6.0])
    torch.testing.assert_close(code, torch.cat([angles.sin(), angles.cos()]))


@pytest.mark.parametrize(("radius", "row", "column"), [(1, 0, 2), (2, 4, 1), (2, 2, 2)])
def test_best_match_is_where_the_querys_own_feature_is_alike(radius, row, column):
    """What its neighbours are like does not count."""
    side = 2 * radius + 1
    products = torch.ones(1, 1, 1, side, side, side * side)
    products[..., side * side // 2] = 0
    products[0, 0, 0, row, column, side * side // 2] = 0.8
    match = best_match(products.flatten(3), torch.tensor(100.0))
    torch.testing.assert_close(match.cells[0, 0, 0], torch.tensor([column - radius, row - radius]).float())
    assert match.peak.item() == pytest.approx(0.8)
    assert match.here.item() == pytest.approx(0.8 if row == column == radius else 0)


def test_nothing_alike_is_no_reason_to_move():
    match = best_match(torch.zeros(1, 2, 3, 625), torch.tensor(10.0))
    torch.testing.assert_close(match.cells, torch.zeros(1, 2, 3, 2))


def test_best_match_gradients(generator):
    products = torch.rand(1, 1, 2, 81, generator=generator, dtype=torch.float64, requires_grad=True)
    sharpness = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda p, s: best_match(p, s).cells, (products, sharpness))


def test_an_untrained_network_moves_towards_the_match():
    """A picture of noise slides by 3 px a frame; features of random weights suffice to follow for a while."""
    torch.manual_seed(0)
    noise = torch.rand(1, 3, 10, 14, generator=torch.Generator().manual_seed(3)) * 2 - 1
    wide = torch.nn.functional.interpolate(noise, (64, 96), mode="bicubic").clamp(-1, 1)
    video = torch.stack([wide[..., 3 * t : 3 * t + 64] for t in range(3)], dim=1)
    asked = torch.tensor([[[0.0, x, y] for x in (24, 32, 40) for y in (24, 32, 40)]])
    model = DynPT(DynPTConfig(encoders=("cnn",), levels=1, passes=8)).eval()
    with torch.inference_mode():
        moved = model(video, asked)[-1].uv - asked[:, None, :, 1:]
    still, one, two = moved[0, :, :, 0].median(dim=1).values.tolist()
    assert abs(still) < 1
    assert two < one < still - 1


# Motion beyond the camera's


def plane_ways(generator, n=40, t=5):
    """Points that all move by one quadratic function of the place, and their weights."""
    start = torch.rand(1, n, 2, generator=generator) * torch.tensor([96.0, 64.0])
    x, y = ((start - torch.tensor([48.0, 32.0])) / 48).unbind(-1)
    basis = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)
    way = basis @ (4 * torch.randn(6, 2, generator=generator))
    return torch.stack([start + i * way for i in (0, 1)] + [start + way] * (t - 2), dim=2), torch.ones(1, n, t)


def test_what_the_camera_explains_is_no_own_motion(generator):
    uv, weight = plane_ways(generator)
    rest = own_motion(uv, weight, size=(64, 96), horizon=1)
    assert rest[:, :, 0].abs().max() < 0.05
    assert rest.shape == uv.shape


def test_own_motion_of_movers_stands_out(generator):
    """Eight of 40 move by 3 px more; the others determine what the camera does."""
    uv, weight = plane_ways(generator)
    uv[:, :8, 1:] += torch.tensor([3.0, 0.0])
    rest = own_motion(uv, weight, size=(64, 96), horizon=1)[0, :, 0]
    torch.testing.assert_close(rest[:8], torch.tensor([3.0, 0.0]).expand(8, 2), atol=0.3, rtol=0)
    assert rest[8:].norm(dim=-1).median() < 0.1


def test_own_motion_over_a_horizon(generator):
    uv, weight = plane_ways(generator, t=6)
    two = own_motion(uv, weight, size=(64, 96), horizon=2)
    assert torch.equal(two[:, :, 4], two[:, :, 3])
    assert torch.equal(two[:, :, 5], two[:, :, 3])
    assert torch.equal(own_motion(uv[:, :, :1], weight[:, :, :1], size=(64, 96), horizon=4), torch.zeros(1, 40, 1, 2))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_points_have_a_finite_own_motion(generator, n):
    uv, weight = plane_ways(generator, n=n)
    assert own_motion(uv, 0 * weight, size=(64, 96), horizon=4).isfinite().all()
    assert own_motion(uv, weight, size=(64, 96), horizon=1)[:, :, 0].norm(dim=-1).max() < 1


def test_own_motion_has_no_gradient(generator):
    uv, weight = plane_ways(generator)
    assert not own_motion(uv.requires_grad_(), weight, size=(64, 96), horizon=1).requires_grad


def test_own_motion_code_by_hand():
    code = own_motion_code(torch.tensor([[[[3.0, 4.0]]]]))[0, 0, 0]
    assert code[-1].item() == pytest.approx(torch.tensor(6.0).log().item())
    assert code[0].item() == pytest.approx(torch.tensor(3.0).sin().item())


# Distance from the camera's epipolar geometry


def sideways(generator, n=60, t=6):
    """Points at many depths under a camera that moves sideways; the first ten also go down by 2 px a frame."""
    start = torch.rand(1, n, 1, 2, generator=generator) * torch.tensor([120.0, 90.0])
    step = torch.stack([1 + 3 * torch.rand(1, n, 1, generator=generator), torch.zeros(1, n, 1)], dim=-1)
    uv = start + step * torch.arange(t)[:, None]
    uv[:, :10, :, 1] += 2.0 * torch.arange(t)
    return uv, torch.full((1, n, t), 0.9)


@pytest.mark.parametrize("horizon", [1, 3])
def test_epipolar_motion_is_the_root_sampson_error(generator, horizon):
    """By hand: 2 px down a frame, over sqrt 2, where nothing is known of who moves."""
    uv, seen = sideways(generator)
    error, sure = epipolar_motion(uv, seen, torch.full_like(seen, 0.5), size=(100, 140), horizon=horizon)
    torch.testing.assert_close(error[0, :10], torch.full((10, 6), 2**0.5 * horizon), atol=0.05, rtol=0)
    assert error[0, 10:].max() < 0.05
    torch.testing.assert_close(sure, torch.full_like(seen, 0.81))


def test_epipolar_motion_goes_by_who_was_found_static(generator):
    """Most points move alike: only the word of the pass before tells who rests."""
    uv, seen = sideways(generator)
    uv = uv.flip(1)
    uv[:, :40, :, 1] += 2.0 * torch.arange(6)  # 40 move by their own, 10 more as before, 10 rest
    mobile = torch.zeros_like(seen)
    mobile[:, :40], mobile[:, 50:] = 1, 1
    uv = torch.cat([uv, uv[:, 40:50] + 7], dim=1)  # 20 rest
    seen, mobile = (torch.cat([x, x[:, 40:50]], dim=1) for x in (seen, mobile))
    error, _ = epipolar_motion(uv, seen, mobile, size=(100, 140), horizon=1)
    assert error[0, 40:50].max() < 0.05
    assert error[0, :40].min() > 1


def test_too_few_static_points_say_nothing(generator):
    uv, seen = sideways(generator)
    mobile = torch.ones_like(seen)
    mobile[:, :14] = 0
    for values in epipolar_motion(uv, seen, mobile, size=(100, 140), horizon=1):
        assert not values.any()


def test_epipolar_motion_of_one_frame_and_without_a_gradient(generator):
    uv, seen = sideways(generator, t=1)
    error, _ = epipolar_motion(uv.requires_grad_(), seen, seen, size=(100, 140), horizon=4)
    assert not error.any()
    uv, seen = sideways(generator)
    assert not epipolar_motion(uv.requires_grad_(), seen, seen, size=(100, 140), horizon=4)[0].requires_grad


def test_epipolar_motion_code_by_hand():
    code = epipolar_motion_code(torch.tensor([[[1.0]]]), torch.tensor([[[0.5]]]))[0, 0, 0]
    expected = [0.5 / (1 + px**2) for px in EPIPOLAR_PX]
    torch.testing.assert_close(code, torch.tensor([*expected, 0.5]))


def test_displacements_are_those_to_both_neighbours():
    """One point that goes 1 px right, then 2 px down."""
    uv = torch.tensor([[[[5.0, 5.0], [6.0, 5.0], [6.0, 7.0]]]])
    sines = displacement_code(uv, bands=1)[0, 0, :, :4]
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 2, -1, 0], [0, 0, 0, -2]]).sin()
    torch.testing.assert_close(sines, expected)


def test_displacement_code_tells_small_and_large_steps():
    steps = torch.tensor([0.0, 0.1, 1.0, 10.0, 100.0])
    uv = torch.stack([torch.zeros(5), steps], dim=1)[None, :, :, None].expand(1, 5, 2, 2)
    codes = displacement_code(uv, bands=8)[0, :, 0]
    assert torch.cdist(codes, codes)[~torch.eye(5, dtype=bool)].min() > 0.1


def test_place_is_counted_from_the_middle():
    """Mirrored places have the opposite sines; the longer side spans -1 to 1."""
    uv = torch.tensor([[[[23.5, 15.5], [0.0, 15.5], [47.0, 15.5]]]])
    code = place_code(uv, (32, 48))[0, 0]
    torch.testing.assert_close(code[0, :8], torch.zeros(8))
    torch.testing.assert_close(code[1, :8], -code[2, :8])
    assert code[2, 0].item() == pytest.approx(torch.tensor(torch.pi / 2 * 23.5 / 24).sin().item())


def test_time_code_tells_frames_apart():
    code = time_code(64, 32, like=torch.zeros(()))
    assert torch.cdist(code, code)[~torch.eye(64, dtype=bool)].min() > 0.5
    torch.testing.assert_close(time_code(16, 32, like=code), code[:16])


@pytest.fixture(scope="module")
def transformer() -> SpaceTimeTransformer:
    torch.manual_seed(0)
    return SpaceTimeTransformer(16, depth=2, heads=2, mlp_ratio=2, virtual=3).eval()


def test_tracks_and_frames_hear_of_each_other(transformer, generator):
    tokens = torch.randn(1, 4, 3, 16, generator=generator)
    changed = tokens.clone()
    changed[0, 1, 2] = torch.randn(16, generator=generator)
    difference = (transformer(changed) - transformer(tokens)).abs().amax(-1)[0]
    assert (difference > 1e-6).all()


def test_videos_of_a_batch_do_not(transformer, generator):
    tokens = torch.randn(2, 4, 3, 16, generator=generator)
    torch.testing.assert_close(transformer(tokens)[1:], transformer(tokens[1:]), rtol=1e-4, atol=1e-5)


# The network


@pytest.mark.parametrize("encoders", [("cnn", "3d"), ("cnn",), ("3d",)])
@pytest.mark.parametrize("size", [(32, 48), (37, 50)])
def test_shapes(encoders, size):
    model = network(encoders=encoders, passes=3)
    with torch.inference_mode():
        states = model(frames(2, size=size), queries(2, size=size))
    assert len(states) == 3
    for state in states:
        assert state.uv.shape == (2, 5, 7, 2)
        assert all(part.shape == (2, 5, 7) for part in state[1:])
        assert all(torch.isfinite(part).all() for part in state)


@pytest.mark.parametrize("context", [True, False])
def test_order_of_the_queries_does_not_matter(context):
    model, asked = network(context=context), queries()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = model(frames(), asked)
        found = model(frames(), asked[:, order])
    assert_same(found, [TrackState(*(part[:, :, order] for part in state)) for state in expected])


def test_windows_of_a_batch_are_independent(small):
    film, asked = frames(3), queries(3)
    with torch.inference_mode():
        together = small(film, asked)
        for b in range(3):
            alone = small(film[b : b + 1], asked[b : b + 1])
            assert_same(alone, [TrackState(*(part[b : b + 1] for part in state)) for state in together])


def test_streamed_windows_need_the_queries_features_only(small):
    """A query of frame 0 is followed in frames 2 to 6 by its features and last estimate; frame 0 is gone."""
    film, asked = frames(t=7), queries(t=1)
    state = random_state(1, 5, 7)
    with torch.inference_mode():
        whole = small.encode(film)
        expected = small.refine(whole.window(2, 7), small.query_features(whole, asked), state)
        features = small.query_features(small.encode(film[:, :1]), asked)
        found = small.refine(small.encode(film[:, 2:]), features, state)
    assert_same(found, expected)


def test_begins_where_it_is_told(small):
    with torch.inference_mode():
        state = random_state(1, 5, 7)
        told = small(frames(), queries(), state)
        begun = small(frames(), queries())
        assert_same(begun, small(frames(), queries(), initial_state(queries(), 5)))
    assert (told[0].uv - begun[0].uv).abs().max() > 1


def test_initial_state_stays_at_the_query():
    state = initial_state(torch.tensor([[[2.0, 10, 20], [0, 30, 5]]]), 3)
    assert state.uv[0].tolist() == [[[10, 20], [30, 5]]] * 3
    assert not torch.stack(state[1:]).any()


def test_an_untrained_network_hardly_moves_anything():
    torch.manual_seed(0)
    model = DynPT(DynPTConfig(**SIZES | {"encoders": ("cnn",), "matching": False}))
    with torch.inference_mode():
        last = model(frames(), queries())[-1]
    assert 0 < (last.uv - initial_state(queries(), 5).uv).abs().max() < 1


def test_gradients_reach_all_but_the_frozen_encoder():
    model = network().train()
    total = 0.0
    for state in model(frames(), queries()):
        weights = torch.linspace(-1, 1, state.uv.numel()).view_as(state.uv)
        total = total + (weights * state.uv).sum() + sum((weights[..., 0] * part).sum() for part in state[1:])
    total.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    frozen = model.encoder.parts["3d"].network
    assert not frozen.training
    assert all(p.grad is None for p in frozen.parameters())


def test_positions_are_detached_between_passes(small):
    """What the last pass ends with depends on where it began, but no gradient says so: d uv_2 / d uv_0 is 0."""
    start = random_state(1, 5, 7)
    start = start._replace(uv=start.uv.requires_grad_())
    pyramid = small.encode(frames())
    states = small.refine(pyramid, small.query_features(pyramid, queries()), start)
    (gradient,) = torch.autograd.grad(states[-1].uv.sum(), start.uv, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_logits_are_added_up(small):
    """Another starting logit is seen by the network, and stays in the sum."""
    start = initial_state(queries(), 5)
    pyramid = small.encode(frames())
    features = small.query_features(pyramid, queries())
    start = start._replace(mobility=start.mobility.clone().requires_grad_())
    last = small.refine(pyramid, features, start)[-1]
    (gradient,) = torch.autograd.grad(last.mobility[0, 2, 3], start.mobility)
    assert gradient[0, 2, 3].item() == pytest.approx(1, abs=0.9)
    assert gradient.abs().argmax() == 2 * 7 + 3


def test_double_precision(small):
    model = copy.deepcopy(small).double()
    with torch.inference_mode():
        found = model(frames().double(), queries().double())
        assert_same(found, [TrackState(*(part.double() for part in state)) for state in small(frames(), queries())])


def test_mixed_precision(small):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        states = small(frames(), queries())
    assert states[-1].uv.dtype == torch.float32
    with torch.inference_mode():
        expected = small(frames(), queries())
    assert (states[0].uv - expected[0].uv).abs().max() < 0.2


def test_frozen_weights_are_not_in_the_state(small):
    assert set(small.state_dict()) == {name for name, _ in small.named_parameters()}
    frozen = {id(p) for p in small.encoder.parts["3d"].network.parameters()}
    assert frozen.isdisjoint(id(p) for p in small.parameters())


@pytest.mark.parametrize(
    ("config", "geometry", "millions"), [(SMALL, SMALL_DUST3R, (2, 4)), (PAPER, VITL_DPT, (25, 30))]
)
def test_numbers_of_parameters(config, geometry, millions):
    with torch.device("meta"):
        model = DynPT(config, geometry=DUSt3R(geometry))
    assert millions[0] < sum(p.numel() for p in model.parameters()) / 1e6 < millions[1]


# What cannot be used


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": ()}, r"encoders: expected one or both of .* but they are \(\)"),
        ({"encoders": ("cnn", "vit")}, "encoders: expected"),
        ({"encoders": ("cnn", "cnn")}, "encoders: expected .* each once"),
        ({"width": 18, "heads": 4}, "width: expected a multiple of twice the 4 heads, but it is 18"),
        ({"passes": 0}, "passes: expected 1 or more, but it is 0"),
    ],
)
def test_impossible_sizes(changes, message):
    with pytest.raises(InputError, match=message):
        DynPTConfig(**changes)


def test_3d_encoder_without_its_network():
    with pytest.raises(InputError, match="geometry: expected a DUSt3R network for the '3d' encoder, but it is None"):
        DynPT(SMALL)
    DynPT(DynPTConfig(**SIZES | {"encoders": ("cnn",)}))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ((5.0, 10, 10), r"\(5, 10, 10\)"),
        ((-1.0, 10, 10), r"\(-1, 10, 10\)"),
        ((0.0, 47.75, 10), r"\(0, 47\.75, 10\)"),
        ((0.0, 10, -0.6), "-0.6"),
        ((0.0, float("nan"), 3), "nan"),
    ],
)
def test_queries_outside(small, query, found):
    asked = queries()
    asked[0, 3] = torch.tensor(query)
    with pytest.raises(InputError, match=r"queries: expected \(frame, x, y\) within 5 frames of 48x32 px, .*" + found):
        small(frames(), asked)


def test_queries_at_the_border(small):
    asked = torch.tensor([[[0, -0.5, -0.5], [4, 47.5, 31.5]]])
    with torch.inference_mode():
        assert torch.isfinite(small(frames(), asked)[-1].uv).all()


def test_no_queries(small):
    with pytest.raises(InputError, match="queries: expected at least one point, but there are none"):
        small(frames(), torch.zeros(1, 0, 3))


@pytest.mark.usefixtures("unchecked")
def test_shapes_that_do_not_fit(small):
    with pytest.raises(InputError, match=r"frames: expected a shape of \(b, t, 3, h, w\), but it is \(5, 3, 32, 48\)"):
        small(frames()[0], queries())
    with pytest.raises(InputError, match=r"queries: expected a shape of \(1, n, 3\), but it is \(2, 7, 3\)"):
        small(frames(), queries(2))
    with pytest.raises(InputError, match=r"state: expected \(1, 5, 7\) values"):
        small(frames(), queries(), random_state(1, 4, 7))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_frames_that_are_no_numbers(small, bad):
    film = frames()
    film[0, 2, 1, 3, 4] = bad
    with pytest.raises(InputError, match="frames: expected finite numbers, but there is NaN or infinity among them"):
        small(film, queries())


def test_positions_that_are_no_numbers(small):
    state = random_state(1, 5, 7)
    state.uv[0, 1, 2, 0] = float("nan")
    with pytest.raises(InputError, match="state: expected finite positions"):
        small(frames(), queries(), state)


def test_frames_that_are_too_small(small):
    with pytest.raises(InputError, match=r"frames: expected sides of 16 px or more, but they are \(12, 48\)"):
        small(frames(size=(12, 48)), queries(size=(12, 48)))
