"""``--export`` of the command: refused before any work, or whole beside the results."""

import argparse
import json
import sys

import imageio.v3 as iio
import numpy as np
import pycolmap
import pytest
import torch

from c4d_nb import command_line, load_clip
from c4d_nb.__main__ import _parser, main
from c4d_nb.clip import select_frames
from c4d_nb.command_line import TWO_VIEW
from c4d_nb.export import FORMATS
from c4d_nb.reconstruction import Reconstruction


@pytest.fixture(scope="module")
def video(yard, tmp_path_factory):
    """A folder of eight frames of the yard, of which every second from the first on is used."""
    folder = tmp_path_factory.mktemp("video")
    for i, frame in enumerate(select_frames(yard, max_frames=8).frames):
        iio.imwrite(folder / f"{i}.png", frame.numpy())
    return folder


@pytest.fixture
def quick(monkeypatch, yard):
    """The truth in place of a reconstruction; what is exported is what counts here."""

    def reconstruct(clip, config, *, network, masks, tracker):
        chosen = select_frames(yard, 1, 2, len(clip)).truth
        step = clip.original
        sampled = [chosen.depth, torch.full_like(chosen.depth, 5.0), chosen.motion_mask]
        small = [m[:, ::2, ::2].contiguous() for m in sampled]
        tracks = chosen.tracks
        xyz = torch.full((*tracks.uv.shape[:2], 3), torch.nan)
        return Reconstruction(
            small[0], small[1], step.intrinsics_from_original(chosen.intrinsics), chosen.world_from_cam, small[2],
            tracks, xyz, {}, clip,
        )  # fmt: skip

    def write_outputs(result, folder):
        (folder / "reconstruction.npz").touch()
        return ["reconstruction.npz"]

    monkeypatch.setattr(command_line, "reconstruct", reconstruct)
    monkeypatch.setattr(command_line, "write_outputs", write_outputs)


SELECTION = ["--start", "1", "--stride", "2", "--max-frames", "3", "--long-side", "128", "--pointmaps", TWO_VIEW]


def test_all_formats_at_once(video, quick, yard, tmp_path, capsys):
    """Cameras and images are of the video's own size, and the images are its own frames, the selected ones."""
    out = tmp_path / "out"
    assert main([str(video), "--out", str(out), *SELECTION, "--export", ",".join(FORMATS)]) == 0
    names = {form.name for form in FORMATS.values()}
    assert {path.name for path in out.iterdir()} == names | {"reconstruction.npz"}
    said = capsys.readouterr().out
    assert all(name in said for name in names)
    model = pycolmap.Reconstruction(str(out / "colmap" / "sparse" / "0"))
    assert (model.cameras[1].width, model.cameras[1].height) == (256, 192)
    np.testing.assert_allclose(model.cameras[1].params[0], yard.truth.intrinsics[0, 0, 0], rtol=1e-6)
    for i in range(3):
        image = torch.from_numpy(iio.imread(out / "colmap" / "images" / f"frame_0000{i}.jpg")).float()
        off = [(image - frame.float()).abs().mean() for frame in yard.frames[:8]]
        assert int(torch.stack(off).argmin()) == 1 + 2 * i
        assert min(off) < 4
    assert len(json.loads((out / "nerfstudio" / "transforms.json").read_text())["frames"]) == 3
    assert main([str(video), "--out", str(out), *SELECTION, "--export", "colmap,tum"]) == 0  # once more, over it


def test_archive_of_shrunk_frames_has_no_originals(yard, tmp_path):
    select_frames(yard, max_frames=3).save(tmp_path / "whole.npz")
    load_clip(tmp_path / "whole.npz", long_side=64).save(tmp_path / "shrunk.npz")
    for name, expected in (("whole", (192, 256, 3)), ("shrunk", None)):
        clip = load_clip(tmp_path / f"{name}.npz", long_side=32)
        options = argparse.Namespace(video=str(tmp_path / f"{name}.npz"), start=1, stride=1, max_frames=2)
        frames = command_line._original_frames(options, clip)
        if expected is None:
            assert frames is None
        else:
            assert [frame.shape for frame in frames] == [expected] * 2


def test_unknown_format_is_refused_before_any_work(tmp_path, capsys):
    line = ["nowhere.mp4", "--out", str(tmp_path / "out"), "--export", "ply,obj"]
    assert main(line) == 2
    assert "error: export: expected some of colmap, nerfstudio, ply," in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_package_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    assert main(["nowhere.mp4", "--out", str(tmp_path / "out"), "--export", "glb"]) == 2
    assert "pip install trimesh" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_failed_export_keeps_the_reconstruction(video, quick, tmp_path, capsys, monkeypatch):
    line = [str(video), "--out", str(tmp_path / "out"), *SELECTION, "--export", "tum,ply"]
    assert main([*line, "--min-confidence", "50"]) == 2
    error = capsys.readouterr().err
    assert "error: export: result: expected static pixels with finite positive depth of a confidence above 50" in error
    assert f"the reconstruction itself is in {tmp_path / 'out'}" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"reconstruction.npz", "trajectory.txt"}

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "export", interrupted)
    assert main(line) == 2
    assert "export: interrupted; the reconstruction itself is in" in capsys.readouterr().err


def test_help_names_every_format():
    [action] = [action for action in _parser()._actions if action.dest == "export"]
    assert all(name in action.help for name in FORMATS)
