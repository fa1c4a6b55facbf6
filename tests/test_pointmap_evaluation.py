"""Errors of pointmaps on static clips: of the truth, of constant depth, of a network; the grid they are taken at."""

from dataclasses import replace

import pytest
import torch

from c4d_nb import Clip
from c4d_nb.camera import pinhole, pixel_grid, project
from c4d_nb.checkpoints import save_dust3r
from c4d_nb.clip import PairPointmaps, Truth
from c4d_nb.kubric.takes import static_takes
from c4d_nb.pointmaps.dust3r import DUSt3R, DUSt3RConfig
from c4d_nb.pointmaps.evaluation import (
    constant_depth_method,
    error_table,
    main,
    network_method,
    point_errors,
    true_pointmaps,
    two_view_method,
)
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.inference import pointmaps_on_grid, predict_pointmaps
from c4d_nb.pointmaps.scene_graph import sliding_window_graph

ROWS = ["network", "two-view geometry", "fused", "constant depth"]
EDGES = torch.tensor([[0, 1], [0, 2], [1, 0], [2, 0]])


@pytest.fixture(scope="module")
def clip() -> Clip:
    return static_takes(5, takes=1, frames=4, size=32, samples=1)[0]


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    clip.save(folder / "0.npz")
    return folder


@pytest.fixture(scope="module")
def network() -> DUSt3R:
    torch.manual_seed(0)
    return DUSt3R(DUSt3RConfig("linear", encoder=(32, 2, 2), decoder=(32, 2, 2), long_side=32, coordinates=True)).eval()


def frames(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, height, width, 3), generator=generator, dtype=torch.uint8)


def told(xyz_1, xyz_2):
    """A method that knows the answer."""
    ones = torch.ones(xyz_1.shape[:-1])
    return lambda clip, edges, grid: PairPointmaps(edges, xyz_1, xyz_2, ones, ones)


def truth_of(clip):
    return true_pointmaps(clip, sliding_window_graph(len(clip)), PixelGrid.within(clip.size, 96))


# Errors


def test_the_truth_has_no_error(clip):
    xyz_1, xyz_2 = truth_of(clip)
    edges, errors = point_errors(clip, {"truth": told(xyz_1, xyz_2), "scaled": told(3 * xyz_1, 3 * xyz_2)})
    assert torch.equal(edges, sliding_window_graph(4))
    assert errors["truth"].max() < 1e-6
    assert errors["scaled"].max() < 1e-6


def test_true_points_are_one_scene(clip):
    """Both frames' points of every edge, moved into the world, are those of the frames themselves."""
    edges = sliding_window_graph(4)
    xyz_1, xyz_2 = truth_of(clip)
    world_from_cam = clip.truth.world_from_cam[edges[:, 0]]
    world = [
        xyz.flatten(1, 2) @ world_from_cam[:, :3, :3].mT + world_from_cam[:, None, :3, 3] for xyz in (xyz_1, xyz_2)
    ]
    for e, (n, m) in enumerate(edges.tolist()):
        as_first = world[0][int((edges[:, 0] == m).nonzero()[0])]
        torch.testing.assert_close(world[1][e], as_first, atol=1e-3, rtol=1e-4)
        assert n != m


@pytest.mark.parametrize("unknown", [0.0, -1.0, torch.nan, torch.inf])
def test_pixels_without_depth_do_not_count(clip, unknown):
    """Whatever is predicted there: it is wrong at two thirds of the pixels, which would be the median."""
    xyz_1, xyz_2 = (xyz.clone() for xyz in truth_of(clip))
    xyz_1[:, 10:], xyz_2[:, 10:] = 100.0, 100.0
    depth = clip.truth.depth.clone()
    depth[:, 10:] = unknown
    holed = replace(clip, truth=replace(clip.truth, depth=depth))
    assert point_errors(holed, {"truth": told(xyz_1, xyz_2)})[1]["truth"].max() < 1e-6
    assert point_errors(clip, {"truth": told(xyz_1, xyz_2)})[1]["truth"].min() > 0.1


def test_constant_depth_is_right_of_a_wall_before_a_still_camera():
    intrinsics = pinhole(torch.full((2,), 30.0), 24, 32)
    still = Truth(torch.full((2, 24, 32), 5.0), torch.eye(4).repeat(2, 1, 1), intrinsics)
    wall = Clip(frames(24, 32)[:2], 12.0, truth=still)
    assert point_errors(wall, {"constant": constant_depth_method})[1]["constant"].max() < 1e-6
    slope = torch.linspace(1, 5, 32).expand(2, 24, 32).contiguous()
    slanted = replace(wall, truth=replace(still, depth=slope))
    assert point_errors(slanted, {"constant": constant_depth_method})[1]["constant"].min() > 0.2


def test_network_has_the_error_of_its_pointmaps(clip, network):
    grid, edges = PixelGrid.within(clip.size, 96), sliding_window_graph(4)
    said = pointmaps_on_grid(network, clip.frames, edges, grid)
    _, errors = point_errors(clip, {"network": network_method(network), "told": told(said.xyz_1, said.xyz_2)})
    assert torch.equal(errors["network"], errors["told"])
    assert (errors["network"] > 0.05).all()


@pytest.mark.parametrize("method", [two_view_method, constant_depth_method])
def test_baselines_know_the_rays(clip, method):
    grid = PixelGrid.within(clip.size, 12)
    pairs = method(clip, EDGES, grid)
    uv, _ = project(pairs.xyz_1.flatten(1, 2), clip.truth.intrinsics[EDGES[:, 0]])
    expected = grid.sample(pixel_grid(32, 32)[None]).flatten(1, 2).expand_as(uv)
    torch.testing.assert_close(uv, expected, atol=1e-3, rtol=0)


# The table


def test_table_has_a_row_a_method(folder, network):
    table = error_table([folder / "0.npz"], network)
    assert list(table) == ROWS
    for row in table.values():
        assert list(row) == ["all pairs", "1 frame apart", "9 frames apart", "worst tenth"]
        assert 0 < row["all pairs"] <= row["worst tenth"]
        assert row["9 frames apart"] != row["9 frames apart"]  # there are none


def test_command_prints_the_table(folder, network, tmp_path, capsys):
    weights = save_dust3r(network, tmp_path / "own.safetensors", licence="Apache-2.0")
    assert main([str(folder), "--weights", str(weights)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "relative point error"
    assert [line[:22].strip() for line in lines] == ROWS
    expected = error_table([folder / "0.npz"], network)
    assert [float(line[22:38]) for line in lines] == pytest.approx([expected[r]["all pairs"] for r in ROWS], abs=1e-4)


@pytest.mark.parametrize(
    ("clips", "weights", "message"),
    [
        ("nowhere", "own.safetensors", "clips: expected a folder"),
        (".", "absent.safetensors", "name_or_path: expected"),
        (".", "own.safetensors", "clips: expected clips with depth, poses and intrinsics"),
    ],
)
def test_command_refuses_bad_input(network, tmp_path, caplog, clips, weights, message):
    save_dust3r(network, tmp_path / "own.safetensors", licence="Apache-2.0")
    Clip(frames(32, 32), 12.0).save(tmp_path / "bare.npz")
    assert main([str(tmp_path / clips), "--weights", str(tmp_path / weights)]) == 2
    assert message in caplog.text


# The grid


def test_kept_pixels_are_those_of_the_whole_maps(network):
    at = torch.tensor([[[0, 0], [31, 0]], [[5, 7], [0, 15]], [[30, 3], [2, 14]]])  # (x, y)
    whole = predict_pointmaps(network, frames(16, 32), EDGES)
    kept = predict_pointmaps(network, frames(16, 32), EDGES, at=at)
    for name in ("xyz_1", "xyz_2", "conf_1", "conf_2"):
        found = getattr(kept, name)
        assert found.shape[:3] == (4, 3, 2)
        assert torch.equal(found, getattr(whole, name)[:, at[..., 1], at[..., 0]])


@pytest.mark.parametrize("long_side", [32, 16, 7])
def test_grid_of_frames_of_the_networks_size(network, long_side):
    grid = PixelGrid.within((16, 32), long_side)
    found = pointmaps_on_grid(network, frames(16, 32), EDGES, grid)
    whole = predict_pointmaps(network, frames(16, 32), EDGES)
    for name in ("xyz_1", "xyz_2", "conf_1", "conf_2"):
        assert torch.equal(getattr(found, name), grid.sample(getattr(whole, name).float()))
    assert torch.equal(found.edges, EDGES)


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (31, 33), (16, 200), (5, 9)])
def test_frames_of_any_size(network, size):
    grid = PixelGrid.within(size, 24)
    found = pointmaps_on_grid(network, frames(*size), EDGES, grid)
    expected = grid.sample(torch.zeros(1, *size)).shape[1:]
    assert found.conf_1.shape == (4, *expected)
    assert found.xyz_2.dtype == torch.float32
    assert all(torch.isfinite(getattr(found, name)).all() for name in ("xyz_1", "xyz_2", "conf_1", "conf_2"))


def test_enlarged_frames_say_the_same_at_the_same_place(network):
    """Every pixel of a frame of the network's size has become a square of 3 x 3, with the old centre in its middle."""
    small = frames(32, 32)
    large = small.repeat_interleave(3, 1).repeat_interleave(3, 2)
    found = pointmaps_on_grid(network, large, EDGES, PixelGrid(96, 96, 3))
    torch.testing.assert_close(
        found.xyz_1, predict_pointmaps(network, small, EDGES).xyz_1.float(), atol=1e-2, rtol=1e-2
    )


def test_points_too_far_for_half_precision_stay_finite(network, monkeypatch):
    decode = network.decode
    monkeypatch.setattr(network, "decode", lambda *args: type(d := decode(*args))(*(1e9 * part for part in d)))
    found = predict_pointmaps(network, frames(32, 32), EDGES)
    assert torch.isfinite(found.xyz_1).all()
    assert found.xyz_1.min() < -1e4
    assert torch.isfinite(found.conf_2).all()
