"""GA, CMA, CTS and PTS: the published implementation's values, gradients, and what must leave them unchanged."""

import json
from dataclasses import replace

import numpy as np
import pytest
import roma
import torch
from scenes import room

from c4d_nb.alignment.objectives import (
    camera_motion_alignment,
    camera_trajectory_smoothness,
    ego_flow,
    frame_points,
    global_alignment,
    observations,
    point_trajectory_smoothness,
)
from c4d_nb.camera import intrinsics_matrix, invert, pose, transform, unproject
from c4d_nb.clip import PairPointmaps
from c4d_nb.pointmaps.scene_graph import sliding_window_graph


@pytest.fixture(scope="module")
def reference(shared_vectors):
    """DUSt3R's global alignment: pairs, the states after initialisation and after 300 iterations, their losses."""
    with np.load(shared_vectors / "global_alignment.npz") as file:
        return {
            name: torch.from_numpy(file[name]) if file[name].dtype.kind != "U" else json.loads(str(file[name]))
            for name in file
        }


@pytest.fixture
def scene():
    return room(t=4, size=(6, 8), focal_px=8.0)


@pytest.fixture
def case(generator):
    """Random pointmaps, points, poses and pair similarities in float64: 3 frames, 4 edges, 2x3 pixels."""

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    edges = torch.tensor([[0, 1], [1, 2], [1, 0], [2, 1]])
    pairs = PairPointmaps(edges, *random(2, 4, 2, 3, 3), *(2 + random(2, 4, 2, 3) ** 2))
    scale = 0.5 + torch.rand(4, 1, 1, dtype=torch.float64, generator=generator)
    similarity = pose(scale * roma.random_rotmat(4, dtype=torch.float64, generator=generator), random(4, 3))
    return pairs, random(3, 3, 6), similarity


@pytest.fixture
def viewed(generator):
    """Three float64 cameras before depth about 4, random flow of a few px and a static mask: 2 edges, 3x4 pixels."""
    depth = 4 + torch.rand(3, 3, 4, dtype=torch.float64, generator=generator)
    turn = 0.1 * torch.randn(3, 3, dtype=torch.float64, generator=generator)
    shift = 0.3 * torch.randn(3, 3, dtype=torch.float64, generator=generator)
    K = intrinsics_matrix(torch.full((3, 2), 5.0).double(), torch.tensor([1.5, 1.0]).double().expand(3, 2))
    flows = 2 * torch.randn(2, 3, 4, 2, dtype=torch.float64, generator=generator)
    static = torch.rand(2, 3, 4, generator=generator) > 0.3
    return depth, K, pose(roma.rotvec_to_rotmat(turn), shift), flows, static, torch.tensor([[0, 1], [2, 1]])


def gauge(generator, scale=1.0):
    rotation = roma.random_rotmat(dtype=torch.float64, generator=generator)
    return pose(scale * rotation, torch.randn(3, dtype=torch.float64, generator=generator))


def move(xyz_world, by):
    return by[:3, :3] @ xyz_world + by[:3, 3:]


def cma(viewed, xyz_world=None, cam_from_world=None):
    depth, K, world_from_cam, flows, static, edges = viewed
    xyz_world = frame_points(depth, K, world_from_cam) if xyz_world is None else xyz_world
    cam_from_world = invert(world_from_cam) if cam_from_world is None else cam_from_world
    return camera_motion_alignment(flows, static, edges, xyz_world, cam_from_world, K)


@pytest.mark.parametrize("state", ["start", "end"])
def test_ga_of_the_reference(reference, state):
    """The published loss at the published state. Principal point (W/2, H/2) there, at integer pixels."""
    pairs = PairPointmaps(*(reference[name] for name in ("edges", "xyz_1", "xyz_2", "conf_1", "conf_2")))
    depth = reference[f"{state}_depth"]
    t, h, w = depth.shape
    focal = reference[f"{state}_focal"][:, None].expand(t, 2)
    K = intrinsics_matrix(focal, torch.tensor([w / 2, h / 2]).expand(t, 2))
    xyz_world = frame_points(depth, K, reference[f"{state}_world_from_cam"])
    loss = global_alignment(observations(pairs), xyz_world, reference[f"{state}_pair_world_from_cam_scaled"])
    assert loss.item() == pytest.approx(reference[f"{state}_loss"].item(), rel=1e-5)


def test_ga_by_hand():
    """One edge of one pixel: log 2 x 5 for the first member, log 3 x 1 for the second."""
    points = torch.tensor([[[3.0, 4, 0]], [[0, 0, 1]]])[:, None, None, 0]
    pairs = PairPointmaps(
        torch.tensor([[0, 1]]), points[:1], points[1:], torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 3.0)
    )
    loss = global_alignment(observations(pairs), torch.zeros(2, 3, 1), torch.eye(4)[None])
    assert loss.item() == pytest.approx(np.log(2) * 5 + np.log(3))


def test_ga_ignores_points_without_information(case):
    pairs, xyz_world, similarity = case
    silent = replace(pairs, conf_1=torch.ones_like(pairs.conf_1), conf_2=torch.ones_like(pairs.conf_2))
    assert global_alignment(observations(silent), xyz_world, similarity) == 0


def test_ga_of_the_truth_is_zero(scene):
    edges = sliding_window_graph(4)
    xyz_world = frame_points(scene.depth, scene.intrinsics, scene.world_from_cam).float()
    similarity = scene.world_from_cam[edges[:, 0]].float()
    assert global_alignment(observations(scene.pairs(edges)), xyz_world, similarity) < 1e-6


def test_cma_of_the_truth_is_zero(scene):
    edges = sliding_window_graph(4)
    flows = torch.stack([scene.flow(n, m) for n, m in edges.tolist()]).double()
    xyz_world = frame_points(scene.depth, scene.intrinsics, scene.world_from_cam)
    static = torch.ones(flows.shape[:3], dtype=torch.bool)
    assert (
        camera_motion_alignment(flows, static, edges, xyz_world, invert(scene.world_from_cam), scene.intrinsics) < 1e-10
    )


@pytest.mark.parametrize(("error_px", "loss"), [(0.5, 0.125), (1.0, 0.5), (3.0, 2.5), (49.0, 48.5), (51.0, 0.0)])
def test_cma_is_smooth_l1_and_drops_the_impossible(scene, error_px, loss):
    """The same error in both coordinates: the mean over coordinates is that of one."""
    edges = sliding_window_graph(4)
    flows = torch.stack([scene.flow(n, m) for n, m in edges.tolist()]).double() + error_px
    xyz_world = frame_points(scene.depth, scene.intrinsics, scene.world_from_cam)
    static = torch.ones(flows.shape[:3], dtype=torch.bool)
    value = camera_motion_alignment(flows, static, edges, xyz_world, invert(scene.world_from_cam), scene.intrinsics)
    assert value.item() == pytest.approx(loss, abs=1e-5)


def test_cma_counts_static_pixels_only(viewed):
    """Flow may be anything where it is dynamic."""
    depth, K, world_from_cam, flows, static, edges = viewed
    changed = torch.where(static[..., None], flows, 7.0)
    assert cma(viewed) == cma((depth, K, world_from_cam, changed, static, edges))


def test_cma_without_static_pixels_is_zero(viewed):
    depth, K, world_from_cam, flows, static, edges = viewed
    assert cma((depth, K, world_from_cam, flows, torch.zeros_like(static), edges)) == 0


def test_cma_drops_points_behind_the_camera(viewed):
    """A camera that looks away from the scene sees nothing of it: no loss, and no NaN."""
    back = pose(torch.diag(torch.tensor([-1.0, 1, -1])).double(), torch.zeros(3).double())
    value = cma(viewed, cam_from_world=back @ invert(viewed[2]))
    assert value == 0


def test_ego_flow_of_a_still_camera_is_zero(viewed):
    depth, K, world_from_cam = viewed[:3]
    ego = ego_flow(frame_points(depth, K, world_from_cam), invert(world_from_cam), K, (3, 4))
    assert ego.flow.abs().max() < 1e-12
    assert ego.in_front.all()


def test_cts_of_a_still_camera_is_zero():
    assert camera_trajectory_smoothness(gauge(torch.Generator().manual_seed(1)).expand(6, 4, 4)) < 1e-12


def test_cts_by_hand():
    """Two steps of 2 and a half turn, for which |R - I|_F = sqrt(8)."""
    turned = torch.diag(torch.tensor([-1.0, -1, 1]))
    path = pose(torch.stack([torch.eye(3), torch.eye(3), turned]), torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 2, 0]]))
    assert camera_trajectory_smoothness(path).item() == pytest.approx(4 + 8**0.5)


def test_pts_by_hand():
    """Distances 5 and 0: the Euclidean mean is 2.5."""
    smoothed = torch.tensor([[[3.0, 0], [4, 0], [0, 0]]])
    assert point_trajectory_smoothness(torch.zeros(1, 3, 2), smoothed).item() == pytest.approx(2.5)


def test_gradient_at_zero_distance_is_finite():
    points = torch.zeros(2, 3, 4, requires_grad=True)
    point_trajectory_smoothness(points, torch.zeros(2, 3, 4)).backward()
    assert (points.grad == 0).all()


def test_gradient_of_ga(case):
    pairs, xyz_world, similarity = case
    observed = observations(pairs)
    inputs = xyz_world.requires_grad_(), similarity.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: global_alignment(observed, x, s), inputs)


def test_gradient_of_cma(viewed):
    depth, K, world_from_cam, flows, static, edges = viewed

    def loss(depth, K, world_from_cam):
        xyz_world = frame_points(depth, K, world_from_cam)
        return camera_motion_alignment(flows, static, edges, xyz_world, invert(world_from_cam), K)

    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in (depth, K, world_from_cam)))


def test_gradient_of_cts(viewed):
    assert torch.autograd.gradcheck(camera_trajectory_smoothness, viewed[2].requires_grad_())


def test_gradient_of_pts(case):
    target = case[1] + 1
    assert torch.autograd.gradcheck(lambda x: point_trajectory_smoothness(x, target), case[1].requires_grad_())


def test_gradient_of_frame_points(viewed):
    assert torch.autograd.gradcheck(frame_points, tuple(x.requires_grad_() for x in viewed[:3]))


@pytest.mark.parametrize("scale", [1.0, 0.3, 4.0])
def test_world_gauge_of_ga(case, generator, scale):
    """Turning and shifting the world changes nothing; scaling it scales the loss."""
    pairs, xyz_world, similarity = case
    g, observed = gauge(generator, scale), observations(pairs)
    moved = global_alignment(observed, move(xyz_world, g), g @ similarity)
    torch.testing.assert_close(moved, scale * global_alignment(observed, xyz_world, similarity))


def test_world_gauge_of_cma(viewed, generator):
    g = gauge(generator)
    xyz_world = move(frame_points(*viewed[:3]), g)
    torch.testing.assert_close(cma(viewed, xyz_world, invert(g @ viewed[2])), cma(viewed))


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_cma_does_not_depend_on_the_scale_of_the_world(viewed, scale):
    path = viewed[2].clone()
    path[:, :3, 3] *= scale
    torch.testing.assert_close(cma(viewed, scale * frame_points(*viewed[:3]), invert(path)), cma(viewed))


def test_world_gauge_of_cts(viewed, generator):
    path = viewed[2]
    moved = camera_trajectory_smoothness(gauge(generator) @ path)
    torch.testing.assert_close(moved, camera_trajectory_smoothness(path))


def test_world_gauge_of_pts(case, generator):
    a, b, g = case[1], case[1] * 1.3 + 0.2, gauge(generator)
    torch.testing.assert_close(point_trajectory_smoothness(move(a, g), move(b, g)), point_trajectory_smoothness(a, b))


def test_order_of_edges_does_not_matter(case):
    pairs, xyz_world, similarity = case
    order = torch.tensor([2, 0, 3, 1])
    shuffled = PairPointmaps(*(x[order] for x in (pairs.edges, pairs.xyz_1, pairs.xyz_2, pairs.conf_1, pairs.conf_2)))
    torch.testing.assert_close(
        global_alignment(observations(shuffled), xyz_world, similarity[order]),
        global_alignment(observations(pairs), xyz_world, similarity),
    )


def test_order_of_members_does_not_matter(case):
    """Members of every edge exchanged, points and confidences with them."""
    pairs, xyz_world, similarity = case
    swapped = PairPointmaps(pairs.edges.flip(1), pairs.xyz_2, pairs.xyz_1, pairs.conf_2, pairs.conf_1)
    torch.testing.assert_close(
        global_alignment(observations(swapped), xyz_world, similarity),
        global_alignment(observations(pairs), xyz_world, similarity),
    )


def test_numbering_of_frames_does_not_matter(case):
    """Frame i becomes frame order[i], in the edges and in the points alike."""
    pairs, xyz_world, similarity = case
    order = torch.tensor([2, 0, 1])
    renamed = replace(pairs, edges=order[pairs.edges])
    points = torch.empty_like(xyz_world)
    points[order] = xyz_world
    torch.testing.assert_close(
        global_alignment(observations(renamed), points, similarity),
        global_alignment(observations(pairs), xyz_world, similarity),
    )


def test_frame_points_are_unprojected_and_moved(viewed):
    depth, K, world_from_cam = viewed[:3]
    expected = transform(world_from_cam, unproject(depth, K).flatten(1, 2)).mT
    torch.testing.assert_close(frame_points(depth, K, world_from_cam), expected)
