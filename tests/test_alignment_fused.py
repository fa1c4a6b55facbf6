"""The passes that make value and gradient at once: those of the plain objectives, compiled and by chunks."""

from dataclasses import replace

import pytest
import roma
import torch
from scenes import room

from c4d_nb.alignment import AlignConfig, fused
from c4d_nb.alignment.fused import fused_camera_motion, fused_global_alignment, image_maps, pack_flows, pack_pairs
from c4d_nb.alignment.initialise import initialise
from c4d_nb.alignment.inputs import check_problem
from c4d_nb.alignment.objectives import (
    camera_motion_alignment,
    camera_trajectory_smoothness,
    frame_points,
    global_alignment,
    observations,
)
from c4d_nb.alignment.solve import descend
from c4d_nb.alignment.state import Scene
from c4d_nb.camera import invert, pose
from c4d_nb.clip import PairPointmaps
from c4d_nb.pointmaps.scene_graph import sliding_window_graph

T, SIZE = 4, (47, 50)
"""More pixels than one tile of the compiled loop, and not a multiple of it."""


def as_type(pairs: PairPointmaps, dtype: torch.dtype) -> PairPointmaps:
    return PairPointmaps(
        pairs.edges, *(getattr(pairs, name).to(dtype) for name in ("xyz_1", "xyz_2", "conf_1", "conf_2"))
    )


@pytest.fixture(scope="module")
def case():
    """A room off the truth everywhere, in float64: pairs, flows with holes, and a state."""
    generator = torch.Generator().manual_seed(3)
    scene, edges = room(T, SIZE, focal_px=45.0), sliding_window_graph(T, offsets=(1, 2))
    pairs = as_type(scene.pairs(edges, generator), torch.float64)

    def shaken(values):
        return values * (1 + 0.1 * torch.rand(values.shape, dtype=torch.float64, generator=generator))

    pairs = PairPointmaps(edges, *(shaken(getattr(pairs, name)) for name in ("xyz_1", "xyz_2", "conf_1", "conf_2")))
    flows = torch.stack([scene.flow(n, m) for n, m in edges.tolist()]).double()
    flows += 2 * torch.randn(flows.shape, dtype=torch.float64, generator=generator)
    flows[0, :5] += 100
    static = torch.rand(flows.shape[:3], generator=generator) > 0.3
    turn = roma.random_rotmat(len(edges), dtype=torch.float64, generator=generator)
    similarity = pose(0.7 * turn, torch.randn(len(edges), 3, dtype=torch.float64, generator=generator))
    return pairs, flows, static, (shaken(scene.depth), scene.world_from_cam, scene.intrinsics, similarity)


def plain(case, state):
    pairs, flows, static, _ = case
    depth, world_from_cam, K, similarity = state
    points = frame_points(depth, K, world_from_cam)
    return (
        global_alignment(observations(pairs), points, similarity),
        camera_motion_alignment(flows, static, pairs.edges, points, invert(world_from_cam), K),
    )


def in_one_pass(case, state, **options):
    pairs, flows, static, _ = case
    depth, world_from_cam, K, similarity = state
    from_image, to_image = image_maps(world_from_cam, K)
    return (
        fused_global_alignment(pack_pairs(pairs, T, **options), depth.flatten(1), from_image, similarity),
        fused_camera_motion(pack_flows(flows, static, pairs.edges, T), depth.flatten(1), from_image, to_image),
    )


@pytest.fixture(params=["compiled", "by chunks"])
def way(request, monkeypatch):
    """Both ways; the second, which is that of a GPU, here in chunks of two edges."""
    if request.param == "by chunks":
        monkeypatch.setattr(fused, "_align_compiled", fused._align_by_chunks)
        monkeypatch.setattr(fused, "_move_compiled", fused._move_by_chunks)
        monkeypatch.setattr(fused, "_chunks", lambda edges, depth, mib: torch.arange(len(edges)).split(2))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("objective", [0, 1])
def test_value_and_gradient_are_those_of_the_plain_objectives(case, objective):
    state = [value.clone().requires_grad_() for value in case[3]]
    expected, found = plain(case, state)[objective], in_one_pass(case, state)[objective]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, state, allow_unused=True) for loss in (expected, found)]
    for right, own in zip(*gradients, strict=True):
        if right is not None:
            torch.testing.assert_close(own, right, rtol=1e-8, atol=1e-10 * right.abs().max().item())


@pytest.mark.usefixtures("way")
def test_single_precision_agrees(case):
    expected = plain(case, case[3])
    single = (as_type(case[0], torch.float32), case[1].float(), case[2], None)
    found = in_one_pass(single, [value.float() for value in case[3]])
    for right, own in zip(expected, found, strict=True):
        assert own.item() == pytest.approx(right.item(), rel=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_half_precision_agrees_at_any_scale(case, scale):
    """Points in units of their pair's size: 1e6 would overflow, 1e-6 vanish."""
    pairs, flows, static, (depth, cameras, K, similarity) = case
    scaled = replace(pairs, xyz_1=scale * pairs.xyz_1, xyz_2=scale * pairs.xyz_2)
    shrunk = similarity.clone()
    shrunk[:, :3, :3] /= scale
    single = (as_type(scaled, torch.float32), flows.float(), static, None)
    state = [value.float() for value in (depth, cameras, K, shrunk)]
    found = in_one_pass(single, state, half=True)[0]
    assert found.item() == pytest.approx(plain(case, case[3])[0].item(), rel=1e-4)


@pytest.mark.usefixtures("way")
def test_pairs_may_come_in_half_precision(case):
    halved = (as_type(case[0], torch.float16), case[1].float(), case[2], None)
    found = in_one_pass(halved, [value.float() for value in case[3]])[0]
    assert found.item() == pytest.approx(plain(case, case[3])[0].item(), rel=1e-3)


def test_points_are_not_copied(case):
    packed = pack_pairs(case[0], T)
    assert packed.xyz[0].data_ptr() == case[0].xyz_1.data_ptr()
    assert packed.xyz[1].data_ptr() == case[0].xyz_2.data_ptr()


def test_threads_share_the_frames(case):
    """The same sums, whichever thread makes them."""
    alone = in_one_pass(case, case[3])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        shared = in_one_pass(case, case[3])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.stack(alone), torch.stack(shared))


def test_gradient_of_fused_ga():
    """Against finite differences, where the loop has a tile of 6 pixels."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    edges = torch.tensor([[0, 1], [1, 2], [1, 0]])
    packed = pack_pairs(PairPointmaps(edges, *random(2, 3, 2, 3, 3), *(2 + random(2, 3, 2, 3) ** 2)), 3)
    inputs = random(3, 6).exp(), random(3, 3, 4), random(3, 4, 4)
    assert torch.autograd.gradcheck(
        lambda *x: fused_global_alignment(packed, *x), tuple(x.requires_grad_() for x in inputs)
    )


def test_gradient_of_fused_cma():
    scene, edges = room(3, (3, 4), focal_px=5.0), torch.tensor([[0, 1], [2, 1]])
    flows = torch.stack([scene.flow(n, m) for n, m in edges.tolist()]).double() + 0.4
    packed = pack_flows(flows, torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) > 0.3, edges, 3)
    inputs = (scene.depth.flatten(1), *image_maps(scene.world_from_cam, scene.intrinsics))
    assert torch.autograd.gradcheck(
        lambda *x: fused_camera_motion(packed, *x), tuple(x.clone().requires_grad_() for x in inputs)
    )


def test_gradient_at_zero_distance_is_zero():
    """No NaN from 0 / 0."""
    edges, sure = torch.tensor([[0, 1]]), torch.full((1, 4, 5), 3.0)
    pairs = PairPointmaps(edges, torch.zeros(1, 4, 5, 3), torch.zeros(1, 4, 5, 3), sure, sure)
    state = [x.requires_grad_() for x in (torch.zeros(2, 20), torch.zeros(2, 3, 4), torch.eye(4)[None].clone())]
    fused_global_alignment(pack_pairs(pairs, 2), *state).backward()
    assert all((x.grad == 0).all() for x in state)


def test_flow_that_is_not_finite_is_not_static(case):
    pairs, flows, static, (depth, cameras, K, _) = case
    maps = image_maps(cameras, K)
    hole = torch.zeros_like(static)
    hole[2, 3:7, 4:9] = True
    broken = torch.where(hole[..., None], float("nan"), flows)
    found = fused_camera_motion(pack_flows(broken, static, pairs.edges, T), depth.flatten(1), *maps)
    expected = fused_camera_motion(pack_flows(flows, static & ~hole, pairs.edges, T), depth.flatten(1), *maps)
    assert found == expected


def test_confidence_below_one_is_none(case):
    pairs, state = case[0], case[3]
    low = replace(pairs, conf_1=torch.full_like(pairs.conf_1, 0.2), conf_2=torch.zeros_like(pairs.conf_2))
    assert in_one_pass((low, *case[1:3], None), state)[0] == 0


def test_chunks_fit_their_memory():
    edges, depth = torch.zeros(270, 2, dtype=torch.long), torch.zeros(32, 128 * 128)
    chunks = fused._chunks(edges, depth, 16)
    assert torch.equal(torch.cat(chunks), torch.arange(270))
    assert max(map(len, chunks)) * 16 * depth[0].numel() * 4 <= 16 * 2**20
    assert len(fused._chunks(edges, depth, 0)) == 270


def test_descent_is_that_of_autograd(case):
    """Ten iterations of Adam with all three objectives, in float64: the same losses to the last digits."""
    pairs, flows, static, (_, _, K, _) = case
    problem = check_problem(pairs, flows, None, static, None, 40.0, None)
    problem = replace(problem, known_intrinsics=False)
    guess, config = initialise(pairs, problem.intrinsics), AlignConfig(iterations=10)
    losses = descend(problem, guess, config).losses
    scene = Scene(guess, shared_focal=True, known_intrinsics=False, known_poses=False)
    optimiser = torch.optim.Adam(scene.parameters(), betas=config.betas)
    for step in range(10):
        optimiser.param_groups[0]["lr"] = 0.01 - 0.009 * step / 9
        world_from_cam, K = scene.world_from_cam(), scene.intrinsics()
        points = frame_points(scene.depth(), K, world_from_cam)
        terms = {"ga": global_alignment(observations(pairs), points, scene.world_from_pair())}
        if step >= 1:
            cma = camera_motion_alignment(flows, static, pairs.edges, points, invert(world_from_cam), K)
            terms["cma"] = 0.01 * cma
        terms["cts"] = 0.01 * camera_trajectory_smoothness(world_from_cam)
        for name, value in terms.items():
            assert losses[name][step].item() == pytest.approx(value.item(), rel=1e-6), (name, step)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
