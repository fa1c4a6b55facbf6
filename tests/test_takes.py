"""Static scenes in takes: nothing moves, everything else is drawn anew, and the truth is that of the picture."""

import numpy as np
import pytest
import torch

from c4d_nb import load_clip
from c4d_nb.camera import invert, project, transform, unproject
from c4d_nb.errors import InputError
from c4d_nb.kubric import takes
from c4d_nb.kubric.takes import main, static_takes

SMALL = {"takes": 2, "frames": 3, "size": 48, "samples": 1}


@pytest.fixture(scope="module")
def clips():
    return static_takes(3, **SMALL)


def test_the_same_arguments_give_the_same_clips(clips):
    for clip, again in zip(clips, static_takes(3, **SMALL), strict=True):
        assert torch.equal(clip.frames, again.frames)
        assert torch.equal(clip.truth.depth, again.truth.depth)


def test_takes_and_subsets_differ(clips):
    validation = static_takes(3, subset="validation", **SMALL)
    pictures = [clip.frames for clip in (*clips, *validation)]
    for i, picture in enumerate(pictures):
        assert not any(torch.equal(picture, other) for other in pictures[:i])


def test_a_share_of_takes_begins_near_the_floor():
    heights = [clip.truth.world_from_cam[0, 2, 3] for clip in static_takes(3, **(SMALL | {"takes": 6}), low=0.5)]
    assert all(height < takes.LOW_M + 1 for height in heights[:3])  # a take's first frame is not its path's
    assert max(heights[3:]) > takes.LOW_M + 1


def test_shapes(clips):
    for clip in clips:
        assert clip.frames.shape == (3, 48, 48, 3)
        assert clip.truth.depth.shape == (3, 48, 48)
        assert (clip.truth.depth > 0).all()
        assert clip.truth.intrinsics[0, 0, 0].item() == pytest.approx(48 * 35 / 32)


def test_nothing_moves(clips):
    """What one frame sees lies, in another, at the depth which that one sees there: except where it is hidden."""
    truth = clips[0].truth
    xyz = unproject(truth.depth[:1].double(), truth.intrinsics[:1].double()).flatten(1, 2)
    from_first = invert(truth.world_from_cam[2:].double()) @ truth.world_from_cam[:1].double()
    uv, depth = project(transform(from_first, xyz), truth.intrinsics[2:].double())
    u, v = uv[0].round().long().unbind(-1)
    inside = (u >= 0) & (u < 48) & (v >= 0) & (v < 48)
    error = (truth.depth[2, v[inside], u[inside]] / depth[0, inside] - 1).abs()
    assert inside.float().mean() > 0.5
    assert error.median() < 0.02


def test_shown_bodies_rest_in_the_room():
    bodies = takes._fallen_bodies(np.random.default_rng(0))
    for body in bodies:
        low = body.positions[0, 2] - body.radius_m
        assert -2 * body.radius_m < low < 1
        assert body.positions.shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("takes", 0), ("frames", 0), ("frames", 13), ("seed", -1), ("subset", "test"), ("low", 1.1), ("low", -0.1)],
)
def test_errors_name_the_argument(name, value):
    arguments = {"seed": 0, **SMALL, name: value}
    with pytest.raises(InputError, match=f"^{name}: expected"):
        static_takes(arguments.pop("seed"), **arguments)


def test_command_makes_what_is_missing(tmp_path, caplog):
    command = ["--seeds", "0:2", "--out", str(tmp_path), "--takes", "2", "--frames", "2", "--size", "16", "--jobs", "1"]
    assert main(command) == 0
    paths = sorted(tmp_path.glob("*.npz"))
    assert [path.name for path in paths] == [
        f"static-train-00000{seed}-{take}.npz" for seed in (0, 1) for take in (0, 1)
    ]
    kept, before = paths[0].stat().st_mtime_ns, load_clip(paths[3]).frames
    paths[3].unlink()
    assert main(command) == 0
    assert paths[0].stat().st_mtime_ns == kept
    assert torch.equal(load_clip(paths[3]).frames, before)


def test_command_refuses_bad_seeds(tmp_path, caplog):
    assert main(["--seeds", "x", "--out", str(tmp_path)]) == 2
    assert "seeds: expected" in caplog.text
