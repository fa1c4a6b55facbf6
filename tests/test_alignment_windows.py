"""Long videos: windows cover all frames, fit together, and are found again after an interruption."""

from dataclasses import replace

import pytest
import torch
from scenes import room

from c4d_nb.alignment import AlignConfig, FastConfig, align_windows, windows
from c4d_nb.alignment.windows import window_spans
from c4d_nb.errors import InputError
from c4d_nb.metrics import trajectory_errors, video_depth
from c4d_nb.pointmaps.scene_graph import sliding_window_graph

T, SIZE = 16, (12, 16)
OPTIONS = {"length": 8, "overlap": 4, "config": FastConfig(weight_cts=0.0)}
QUICK = {"length": 8, "overlap": 4, "config": FastConfig(rounds=1, full_rounds=1), "focal_px": 15.0}


@pytest.fixture(scope="module")
def scene():
    return room(T, SIZE, focal_px=15.0, stride_m=0.15)


@pytest.fixture(scope="module")
def pairs(scene):
    return scene.pairs(sliding_window_graph(T, offsets=(1, 3)), torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def joined(pairs):
    return align_windows(pairs, **OPTIONS)


@pytest.fixture
def solved(monkeypatch):
    """The first frames' numbers of the windows that were solved, not found."""
    seen, solve = [], windows._solve

    def counting(window, config):
        seen.append(len(window))
        return solve(window, config)

    monkeypatch.setattr(windows, "_solve", counting)
    return seen


def test_windows_by_hand():
    assert window_spans(20, 8, 4) == [(0, 8), (4, 12), (8, 16), (12, 20)]
    assert window_spans(18, 8, 4) == [(0, 8), (4, 12), (8, 16), (10, 18)]
    assert window_spans(8, 8, 4) == [(0, 8)]
    assert window_spans(3, 8, 4) == [(0, 3)]


@pytest.mark.parametrize(("length", "overlap"), [(8, 0), (8, 8), (4, 9)])
def test_impossible_windows_are_refused(length, overlap):
    with pytest.raises(InputError, match=r"^overlap: expected more than 0 and less than the length"):
        window_spans(20, length, overlap)


def test_windows_make_the_true_scene(scene, joined):
    """Each has its own gauge and every pair its own scale; together they are one."""
    errors = trajectory_errors(joined.world_from_cam.double(), scene.world_from_cam)
    assert errors["ate_percent"] < 0.2
    assert video_depth(joined.depth, scene.depth.float())["abs_rel"] < 2e-3
    torch.testing.assert_close(joined.intrinsics[:, 0, 0], torch.full((T,), 15.0), rtol=2e-3, atol=0)


def test_focal_is_one(joined):
    assert (joined.intrinsics == joined.intrinsics[0]).all()


def test_every_pair_has_its_place(scene, pairs, joined):
    """The pairs' points, moved by what is told of them, lie on those of the frames."""
    n = pairs.edges[:, 0]
    similarity = joined.world_from_pair
    points = pairs.xyz_1.flatten(1, 2) @ similarity[:, :3, :3].mT + similarity[:, None, :3, 3]
    away = (points - joined.xyz_world()[n].flatten(1, 2)).norm(dim=-1)
    assert (away / joined.depth[n].flatten(1)).median() < 2e-3
    assert (similarity[:, 3, 3] == 1).all()


def test_shapes_and_losses(pairs, joined):
    assert joined.depth.shape == joined.confidence.shape == (T, *SIZE)
    assert joined.world_from_pair.shape == (len(pairs.edges), 4, 4)
    assert {name: len(values) for name, values in joined.losses.items()} == {"ga": 3, "cts": 3}


def test_one_window_is_no_window(scene, pairs):
    """A short video is solved as a whole."""
    found = align_windows(pairs, length=T, overlap=4, intrinsics=scene.intrinsics.float())
    assert len(found.losses["ga"]) == 1
    assert len(found.depth) == T


def test_known_intrinsics_and_poses_are_kept(scene, pairs):
    K, known = scene.intrinsics.float(), scene.world_from_cam.float()
    found = align_windows(pairs, intrinsics=K, world_from_cam=known, **OPTIONS)
    assert torch.equal(found.intrinsics, K)
    assert torch.equal(found.world_from_cam, known)
    torch.testing.assert_close(found.depth, scene.depth.float(), rtol=0.02, atol=0)


def test_adam_in_windows(scene, pairs):
    found = align_windows(pairs, **OPTIONS | {"config": AlignConfig(iterations=2)})
    assert found.depth.shape == (T, *SIZE)


def test_it_goes_on_where_it_was_interrupted(pairs, tmp_path, solved):
    first = align_windows(pairs, **QUICK, folder=tmp_path)
    assert len(solved) == 3
    sorted(tmp_path.glob("*.npz"))[1].unlink()
    again = align_windows(pairs, **QUICK, folder=tmp_path)
    assert len(solved) == 4
    assert torch.equal(again.depth, first.depth)
    assert torch.equal(again.world_from_cam, first.world_from_cam)
    assert torch.equal(again.losses["ga"], first.losses["ga"])


def test_windows_of_something_else_are_not_taken(pairs, tmp_path, solved):
    align_windows(pairs, **QUICK, folder=tmp_path)
    other = replace(pairs, xyz_1=pairs.xyz_1.clone())
    other.xyz_1[-1] *= 1.01  # of the last window alone
    align_windows(other, **QUICK, folder=tmp_path)
    assert len(solved) == 4
    align_windows(other, **QUICK | {"config": FastConfig(rounds=2, full_rounds=1)}, folder=tmp_path)
    assert len(solved) == 7


def test_a_damaged_window_is_told(pairs, tmp_path):
    (tmp_path / "window_000000.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"^path: .* is damaged"):
        align_windows(pairs, **QUICK, folder=tmp_path)


def test_pairs_longer_than_the_overlap_are_refused(pairs):
    with pytest.raises(InputError, match=r"^overlap: expected at least 3"):
        align_windows(pairs, length=8, overlap=2)
