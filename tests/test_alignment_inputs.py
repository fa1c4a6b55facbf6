"""What stage 1 takes, what it refuses, and what it does without: both solvers alike, and never a NaN."""

from dataclasses import fields, replace

import pytest
import torch
from scenes import room

from c4d_nb.__main__ import _parser
from c4d_nb.alignment import AlignConfig, FastConfig, Snapshot, align, align_fast, view_gap
from c4d_nb.camera import pinhole, pose
from c4d_nb.clip import PairPointmaps
from c4d_nb.command_line import SOLVERS as SOLVER_CONFIGS
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.scene_graph import sliding_window_graph

T, SIZE = 5, (10, 12)
SOLVERS = [
    pytest.param(lambda *a, **k: align(*a, **{"config": AlignConfig(iterations=20)} | k), id="paper"),
    pytest.param(lambda *a, **k: align_fast(*a, **{"config": FastConfig(rounds=4, full_rounds=1)} | k), id="fast"),
]
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def scene():
    return room(T, SIZE, focal_px=12.0)


@pytest.fixture(scope="module")
def pairs(scene):
    return scene.pairs(sliding_window_graph(T, offsets=(1, 2)), torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def flows(scene, pairs):
    return torch.stack([scene.flow(n, m) for n, m in pairs.edges.tolist()])


def assert_sound(found):
    for name in ("depth", "confidence", "intrinsics", "world_from_cam", "world_from_pair"):
        assert getattr(found, name).isfinite().all(), name
    assert (found.depth > 0).all()
    assert all(values[-1].isfinite() for values in found.losses.values())


def changed(values, index, value):
    values = values.clone()
    values[index] = value
    return values


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["xyz_1", "xyz_2", "conf_1", "conf_2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pairs_that_are_not_finite_are_refused(pairs, solver, name, value):
    broken = replace(pairs, **{name: changed(getattr(pairs, name), (3, 2, 1), value)})
    with pytest.raises(InputError, match=rf"^{name}: expected finite numbers, .* in the pair \[1, 3\]"):
        solver(broken)


@pytest.mark.parametrize("solver", SOLVERS)
def test_confidence_of_one_everywhere_is_refused(pairs, solver):
    silent = replace(pairs, conf_1=torch.ones_like(pairs.conf_1), conf_2=torch.zeros_like(pairs.conf_2))
    with pytest.raises(InputError, match=r"^conf_1, conf_2: expected some confidence above 1"):
        solver(silent)


@pytest.mark.parametrize("solver", SOLVERS)
def test_frames_without_an_edge_are_named(pairs, solver):
    with pytest.raises(InputError, match=r"^edges: .* but there is none at \[4, 5\]"):
        solver(replace(pairs, edges=torch.where(pairs.edges == 4, 6, pairs.edges)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_graph_in_two_parts_is_refused(pairs, solver):
    inside = (pairs.edges < 2).all(1) | (pairs.edges >= 2).all(1)
    apart = PairPointmaps(*(getattr(pairs, field.name)[inside] for field in fields(pairs)))
    with pytest.raises(InputError, match=r"^edges: expected a graph that joins all 5 frames"):
        solver(apart)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_pairs_are_refused(pairs, solver):
    with pytest.raises(InputError, match=r"^edges: expected at least one pair"):
        solver(PairPointmaps(*(getattr(pairs, field.name)[:0] for field in fields(pairs))))


@pytest.mark.parametrize("solver", SOLVERS)
def test_negative_frames_are_refused(pairs, solver):
    with pytest.raises(InputError, match=r"^edges: expected frame numbers from 0, but one is -1"):
        solver(replace(pairs, edges=pairs.edges - 1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_mask_over_everything_leaves_cma_out(pairs, flows, solver):
    masks = torch.ones(T, *SIZE, dtype=torch.bool)
    found = solver(pairs, flows=flows + 5, motion_masks=masks)
    assert_sound(found)
    assert found.losses["cma"][-1] == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_flow_that_is_not_finite_counts_as_unknown(pairs, flows, solver):
    hole = torch.zeros(flows.shape[:3], dtype=torch.bool)
    hole[1, 2:5] = True
    found = solver(pairs, flows=torch.where(hole[..., None], float("nan"), flows))
    expected = solver(pairs, flows=flows, flow_valid=~hole)
    assert_sound(found)
    assert torch.equal(found.world_from_cam, expected.world_from_cam)


@pytest.mark.parametrize("solver", SOLVERS)
def test_frame_of_which_nothing_is_known(pairs, solver):
    """Its edges join it, without confidence: it stays where the guess put it."""
    silent = (pairs.edges == 2).any(1)[:, None, None]
    found = solver(
        replace(pairs, conf_1=torch.where(silent, 1.0, pairs.conf_1), conf_2=torch.where(silent, 1.0, pairs.conf_2))
    )
    assert_sound(found)


@pytest.mark.parametrize("solver", SOLVERS)
def test_pairs_at_one_point_are_refused(pairs, solver):
    nothing = replace(pairs, xyz_1=torch.zeros_like(pairs.xyz_1), xyz_2=torch.zeros_like(pairs.xyz_2))
    with pytest.raises(InputError, match=r"^xyz_1, xyz_2: expected points at some distance"):
        solver(nothing)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_any_scale_of_pairs(pairs, solver, scale):
    assert_sound(solver(replace(pairs, xyz_1=scale * pairs.xyz_1, xyz_2=scale * pairs.xyz_2)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_frames_are_enough(scene, solver):
    assert_sound(solver(scene.pairs(torch.tensor([[0, 1]]))))


@pytest.mark.parametrize("solver", SOLVERS)
def test_known_focal_is_kept(pairs, solver):
    found = solver(pairs, focal_px=13.0)
    torch.testing.assert_close(found.intrinsics, pinhole(torch.full((T,), 13.0), *SIZE))


@pytest.mark.parametrize("solver", SOLVERS)
def test_focal_and_intrinsics_are_one_too_many(pairs, scene, solver):
    with pytest.raises(InputError, match=r"^focal_px: expected none beside intrinsics"):
        solver(pairs, focal_px=13.0, intrinsics=scene.intrinsics.float())


@pytest.mark.parametrize("solver", SOLVERS)
def test_known_poses_are_kept_and_set_the_scale(pairs, scene, flows, solver):
    known = scene.world_from_cam.float()
    known = pose(known[:, :3, :3], 7 * known[:, :3, 3] + 3)
    options = {"flows": flows, "world_from_cam": known, "intrinsics": scene.intrinsics.float()}
    found = solver(pairs, **options)
    assert torch.equal(found.world_from_cam, known)
    assert "cts" not in found.losses
    torch.testing.assert_close(found.depth, 7 * scene.depth.float(), rtol=0.05, atol=0)
    n = pairs.edges[:, 0]
    torch.testing.assert_close(found.world_from_pair[:, :3, 3], known[n, :3, 3], rtol=0.05, atol=0.2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_known_poses_at_one_place(pairs, scene, solver):
    """A tripod tells no scale: the pairs' stays."""
    known = pose(scene.world_from_cam[:, :3, :3].float(), torch.zeros(T, 3))
    found = solver(pairs, world_from_cam=known)
    assert_sound(found)
    assert torch.equal(found.world_from_cam, known)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", [float("nan"), 2.0])
def test_poses_that_are_none_are_refused(pairs, solver, value):
    with pytest.raises(InputError, match=r"^world_from_cam: expected"):
        solver(pairs, world_from_cam=changed(torch.eye(4).repeat(T, 1, 1), (1, 0, 0), value))


@pytest.mark.parametrize("solver", SOLVERS)
def test_focal_of_each_frame(pairs, solver):
    """Free, it goes its own way in every frame, where pairs are not exact."""
    generator = torch.Generator().manual_seed(0)
    pairs = replace(pairs, xyz_1=pairs.xyz_1 * (1 + 0.05 * torch.randn(pairs.xyz_1.shape, generator=generator)))
    config = {"shared_focal": False}
    found = solver(pairs, config=AlignConfig(iterations=3, **config)) if solver is SOLVERS[0].values[0] else None
    found = found or solver(pairs, config=FastConfig(rounds=2, full_rounds=1, **config))
    assert len(found.intrinsics[:, 0, 0].unique()) == T


@pytest.mark.parametrize("solver", SOLVERS)
def test_snapshots(pairs, flows, scene, solver):
    """Every second iteration, all that is recorded; and each is handed over when it is taken."""
    seen: list[Snapshot] = []
    config = (
        AlignConfig(iterations=6, cma_start=0.0, record_every=2),
        FastConfig(rounds=4, full_rounds=2, record_every=2),
    )
    found = solver(pairs, flows=flows, config=config[solver is SOLVERS[1].values[0]], on_step=seen.append)
    assert seen == list(found.history)
    assert [snapshot.iteration for snapshot in seen] == [0, 2, 4]
    for snapshot in seen:
        assert snapshot.value.keys() == snapshot.gradient_norm.keys() == {"ga", "cma", "cts"}
        assert all(value >= 0 for value in (*snapshot.value.values(), *snapshot.gradient_norm.values()))
        assert snapshot.world_from_cam.shape == (T, 4, 4)
        assert snapshot.focal_px.shape == (T,)
        assert 0 <= snapshot.gap < 0.1
    assert seen[0].world_from_cam.requires_grad is False


def test_snapshots_say_what_is_logged(pairs):
    found = align(pairs, config=AlignConfig(iterations=5, record_every=1))
    for name, values in found.losses.items():
        assert [snapshot.value[name] for snapshot in found.history] == values.tolist()


def test_snapshots_change_nothing(pairs, flows):
    plain, watched = (align(pairs, flows=flows, config=AlignConfig(iterations=5, record_every=k)) for k in (0, 1))
    assert torch.equal(plain.depth, watched.depth)
    assert plain.history == ()


def test_gap_of_the_truth_is_small_and_grows_with_the_error(scene, pairs):
    """A frame 10 % too deep lies apart from its neighbours."""
    state = scene.depth.float(), scene.intrinsics.float(), scene.world_from_cam.float()
    true = view_gap(*state, pairs.edges)
    off = view_gap(1.1 ** torch.arange(T)[:, None, None] * state[0], *state[1:], pairs.edges)
    assert true < 0.02
    assert off > 0.08


def test_gap_of_views_that_do_not_overlap(scene):
    """The second camera looks the other way."""
    away = pose(torch.diag(torch.tensor([-1.0, 1, -1])).expand(T, 3, 3), scene.world_from_cam[:, :3, 3].float())
    cameras = torch.cat([scene.world_from_cam[:1].float(), away[1:]])
    gap = view_gap(scene.depth.float(), scene.intrinsics.float(), cameras, torch.tensor([[0, 1], [0, 2]]))
    assert gap != gap


def test_the_command_names_both_solvers():
    assert {"paper": AlignConfig, "fast": FastConfig} == SOLVER_CONFIGS
    assert _parser().parse_args(["clip.npz", "--out", "out", "--solver", "fast"]).solver == "fast"
    with pytest.raises(SystemExit):
        _parser().parse_args(["clip.npz", "--out", "out", "--solver", "slow"])
