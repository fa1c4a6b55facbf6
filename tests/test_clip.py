"""Clips from files and back: selection, sizes, archives, and one clear sentence for every bad input."""

import shutil
from dataclasses import fields

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from c4d_nb import load_clip
from c4d_nb.archive import archives_in, atomic_output, read_archive, write_archive
from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip, Tracks, Truth, clip_entries, resize_clip, select_frames
from c4d_nb.errors import InputError
from c4d_nb.video import write_video


def smooth_frames(t, height, width):
    """Gentle gradients that codecs keep; every frame has a brightness of its own."""
    v, u = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    base = torch.stack([u, v, (u + v) / 2], dim=-1)
    return torch.stack([60 + 12 * i + 60 * base for i in range(t)]).byte()


@pytest.fixture
def video(tmp_path):
    frames = smooth_frames(10, 32, 48)
    return write_video(tmp_path / "clip.mp4", frames, fps=12), frames


@pytest.fixture
def folder(tmp_path):
    """Images frame_1 .. frame_12, whose names sort wrongly as text; frame_i has the grey value 10 i."""
    path = tmp_path / "images"
    path.mkdir()
    for i in range(1, 13):
        iio.imwrite(path / f"frame_{i}.png", np.full((25, 37, 3), 10 * i, dtype=np.uint8))
    return path


@pytest.fixture
def full_clip(generator):
    """A clip of 6 frames with every kind of truth."""
    t, h, w, n, o = 6, 20, 30, 9, 2
    query_frame = torch.arange(n) % t
    tracks = Tracks(
        uv=20 * torch.rand(t, n, 2, generator=generator),
        visible=torch.rand(t, n, generator=generator) > 0.5,
        confidence=torch.rand(t, n, generator=generator),
        mobility=torch.rand(t, n, generator=generator),
        query_frame=query_frame,
    )
    truth = Truth(
        depth=1 + torch.rand(t, h, w, generator=generator),
        world_from_cam=torch.randn(t, 4, 4, generator=generator),
        intrinsics=pinhole(torch.full((t,), 25.0), h, w),
        segmentation=torch.randint(0, o + 1, (t, h, w), generator=generator),
        positions=torch.randn(o, t, 3, generator=generator),
        quaternions=torch.randn(o, t, 4, generator=generator),
        is_dynamic=torch.tensor([True, False]),
        mobility=torch.tensor([True, False]),
        flow=torch.randn(t - 1, h, w, 2, generator=generator),
        tracks=tracks,
        motion_mask=torch.rand(t, h, w, generator=generator) > 0.5,
    )
    return Clip(smooth_frames(t, h, w), 12.0, pinhole(torch.full((t,), 26.0), h, w), truth)


def means(clip):
    return clip.frames.float().mean((1, 2, 3)).round().int().tolist()


def assert_same(a, b):
    """Equal values in every field of two dataclasses."""
    for field in fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, torch.Tensor):
            assert torch.equal(left, right), field.name
        elif hasattr(left, "__dataclass_fields__"):
            assert_same(left, right)
        else:
            assert left == right, field.name


def test_video_round_trip(video):
    path, frames = video
    clip = load_clip(path)
    assert clip.frames.shape == frames.shape
    assert (clip.frames.float() - frames.float()).abs().mean() < 3


def test_video_keeps_its_frame_rate(video):
    assert load_clip(video[0]).fps == pytest.approx(12)


def test_odd_sizes_lose_a_row_and_a_column_in_video(tmp_path):
    path = write_video(tmp_path / "odd.mp4", smooth_frames(3, 33, 49), fps=10)
    assert load_clip(path).size == (32, 48)


def test_odd_sizes_stay_in_a_folder(folder):
    assert load_clip(folder).size == (25, 37)


def test_folder_is_read_in_natural_order(folder):
    assert means(load_clip(folder)) == [10 * i for i in range(1, 13)]


def test_folder_ignores_other_files(folder):
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    assert len(load_clip(folder)) == 12


@pytest.mark.parametrize(("fps", "expected"), [(None, 24), (10.0, 10)])
def test_frame_rate_of_a_folder(folder, fps, expected):
    assert load_clip(folder, fps=fps).fps == expected


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_modes_become_rgb(tmp_path, mode):
    Image.fromarray(np.full((20, 20, 3), 102, dtype=np.uint8)).convert(mode).save(tmp_path / "a.png")
    assert load_clip(tmp_path).frames.unique().tolist() == [102]


@pytest.mark.parametrize(
    ("start", "stride", "max_frames", "expected"),
    [(0, 1, None, range(1, 13)), (3, 1, 2, (4, 5)), (1, 4, None, (2, 6, 10)), (0, 5, 2, (1, 6)), (11, 3, 9, (12,))],
)
def test_selection(folder, start, stride, max_frames, expected):
    clip = load_clip(folder, start=start, stride=stride, max_frames=max_frames)
    assert means(clip) == [10 * i for i in expected]


def test_selection_of_an_archive_is_that_of_a_folder(folder, tmp_path):
    archive = load_clip(folder).save(tmp_path / "clip.npz")
    options = {"start": 2, "stride": 3, "max_frames": 3}
    assert means(load_clip(archive, **options)) == means(load_clip(folder, **options))


def test_stride_slows_the_frame_rate(video):
    assert load_clip(video[0], stride=3).fps == pytest.approx(4)


def test_long_side_shrinks(folder):
    clip = load_clip(folder, long_side=20)
    assert clip.size == (14, 20)
    assert (clip.original.original_height, clip.original.original_width) == (25, 37)


def test_long_side_never_enlarges(folder):
    clip = load_clip(folder, long_side=500)
    assert clip.size == (25, 37)
    assert clip.resize is None


def test_intrinsics_are_mapped_in(folder):
    K = pinhole(50.0, 25, 37)
    clip = load_clip(folder, long_side=20, intrinsics=K)
    assert clip.intrinsics.shape == (12, 3, 3)
    torch.testing.assert_close(clip.intrinsics[3, :2, 2], torch.tensor([9.5, 6.5]))
    torch.testing.assert_close(clip.original.intrinsics_to_original(clip.intrinsics[3]), K)


def test_archive_round_trip_keeps_everything(full_clip, tmp_path):
    assert_same(load_clip(full_clip.save(tmp_path / "clip.npz")), full_clip)


def test_archive_round_trip_without_truth(folder, tmp_path):
    clip = load_clip(folder, long_side=20)
    assert_same(load_clip(clip.save(tmp_path / "clip.npz")), clip)


def test_selected_tracks_are_renumbered(full_clip):
    chosen = select_frames(full_clip, start=2, stride=2).truth.tracks
    kept = [i for i, frame in enumerate(full_clip.truth.tracks.query_frame.tolist()) if frame in (2, 4)]
    assert chosen.query_frame.tolist() == [{2: 0, 4: 1}[full_clip.truth.tracks.query_frame[i].item()] for i in kept]
    assert torch.equal(chosen.uv, full_clip.truth.tracks.uv[[2, 4]][:, kept])


def test_flow_is_dropped_with_a_stride(full_clip):
    assert select_frames(full_clip, stride=2).truth.flow is None
    assert torch.equal(select_frames(full_clip, start=1, max_frames=3).truth.flow, full_clip.truth.flow[1:3])


def test_resized_truth_stays_consistent(yard):
    """Depth read at a track's query pixel is nearly the same before and after shrinking, away from outlines."""
    small = resize_clip(yard, 128)
    tracks, n = small.truth.tracks, torch.arange(256)
    u, v = tracks.uv[tracks.query_frame, n].round().long().unbind(-1)
    shrunk = small.truth.depth[tracks.query_frame, v.clamp(max=95), u.clamp(max=127)]
    big = yard.truth.tracks.uv[tracks.query_frame, n].round().long()
    full = yard.truth.depth[tracks.query_frame, big[:, 1], big[:, 0]]
    assert ((shrunk - full).abs() / full).median() < 0.005


def test_shrunk_twice_remembers_the_first_size(full_clip):
    twice = resize_clip(resize_clip(full_clip, 24), 18)
    assert (twice.original.original_height, twice.original.original_width) == (20, 30)


def test_mask_maps_back_to_the_original_size(full_clip):
    small = resize_clip(full_clip, 15)
    full = small.original.mask_to_original(small.truth.motion_mask)
    assert full.shape == full_clip.truth.motion_mask.shape
    assert torch.equal(full[:, ::2, ::2], small.truth.motion_mask)


@pytest.fixture
def bad_inputs(tmp_path, folder):
    """Paths that cannot be read, by name."""
    paths = {"missing": tmp_path / "nothing.mp4", "empty folder": tmp_path / "empty", "text": tmp_path / "text.mp4"}
    paths["empty folder"].mkdir()
    paths["text"].write_text("This is no video.\n" * 50, encoding="utf-8")
    paths["text archive"] = tmp_path / "text.npz"
    paths["text archive"].write_text("This is no archive.", encoding="utf-8")
    paths["empty file"] = tmp_path / "empty.mp4"
    paths["empty file"].touch()
    for name in ("corrupt image", "sizes"):
        paths[name] = tmp_path / name
        shutil.copytree(folder, paths[name])
    (paths["corrupt image"] / "frame_5.png").write_bytes((folder / "frame_5.png").read_bytes()[:40])
    iio.imwrite(paths["sizes"] / "frame_7.png", np.zeros((25, 39, 3), dtype=np.uint8))
    paths["other kind"] = write_archive(tmp_path / "other.npz", "reconstruction", {"depth": torch.ones(2)})
    np.savez(tmp_path / "foreign.npz", a=np.ones(3))
    paths["foreign"] = tmp_path / "foreign.npz"
    paths["incomplete"] = write_archive(tmp_path / "incomplete.npz", "clip", {"fps": 12.0})
    return paths


@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "empty folder",
        "text",
        "text archive",
        "empty file",
        "corrupt image",
        "sizes",
        "other kind",
        "foreign",
        "incomplete",
    ],
)
def test_bad_path(bad_inputs, name):
    with pytest.raises(InputError, match=r"^path: "):
        load_clip(bad_inputs[name])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_archive(full_clip, tmp_path, share):
    whole = full_clip.save(tmp_path / "whole.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"^path: "):
        load_clip(cut)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("frames", lambda x: x.float(), r"frames is \(6, 20, 30, 3\) of torch.float32"),
        ("frames", lambda x: x[..., 0], r"frames is \(6, 20, 30\) of torch.uint8"),
        ("truth.depth", lambda x: x[:2], r"world_from_cam is \(6, 4, 4\) of torch.float32"),
        ("truth.tracks.visible", lambda x: x.T, "visible is"),
        ("truth.motion_mask", lambda x: "no", "motion_mask is 'no'"),
    ],
)
def test_archive_whose_entries_do_not_fit(full_clip, tmp_path, name, change, found):
    entries = clip_entries(full_clip)
    path = write_archive(tmp_path / "clip.npz", "clip", entries | {name: change(entries[name])})
    with pytest.raises(InputError, match=rf"^path: .*clip\.npz is not a complete clip archive \({found}"):
        load_clip(path)


@pytest.mark.parametrize("position", [0.2, 0.4, 0.6, 0.8])
def test_archive_with_flipped_bytes(full_clip, tmp_path, position):
    path = full_clip.save(tmp_path / "clip.npz")
    content = bytearray(path.read_bytes())
    start = int(position * len(content))
    content[start : start + 64] = bytes(255 - b for b in content[start : start + 64])
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^path: "):
        load_clip(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_video(video, tmp_path, share):
    """An mp4 holds its table of contents at the end: cut off, it cannot be read."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video[0].read_bytes()[: int(share * video[0].stat().st_size)])
    with pytest.raises(InputError, match=r"^path: "):
        load_clip(cut)


def test_video_without_a_frame(video, monkeypatch):
    """A decoder may open what is left of a file, and find nothing in it."""
    monkeypatch.setattr("c4d_nb.clip.read_frames", lambda path: (iter(()), 24.0))
    with pytest.raises(InputError, match=r"^path: expected frames"):
        load_clip(video[0])
    with pytest.raises(InputError, match=r"^start: expected"):
        load_clip(video[0], start=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("start", -1), ("stride", 0), ("stride", -2), ("max_frames", 0), ("long_side", 3), ("long_side", 0)],
)
def test_bad_selection_names_the_argument(folder, name, value):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        load_clip(folder, **{name: value})


@pytest.mark.parametrize("value", [0.0, -5.0, float("nan"), float("inf")])
@pytest.mark.parametrize("archived", [False, True])
def test_bad_frame_rate(folder, tmp_path, value, archived):
    path = load_clip(folder).save(tmp_path / "clip.npz") if archived else folder
    with pytest.raises(InputError, match=r"^fps: expected"):
        load_clip(path, fps=value)


@pytest.mark.parametrize("archived", [False, True])
def test_start_beyond_the_end(folder, tmp_path, archived):
    path = load_clip(folder).save(tmp_path / "clip.npz") if archived else folder
    with pytest.raises(InputError, match="start"):
        load_clip(path, start=12)


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [(0, 0, float("nan")), (0, 2, float("inf")), (0, 0, -50.0), (1, 1, 0.0), (2, 0, 1.0), (2, 2, 2.0)],
)
def test_bad_intrinsics(folder, row, column, value):
    K = pinhole(50.0, 25, 37)
    K[row, column] = value
    with pytest.raises(InputError, match=r"^intrinsics: expected"):
        load_clip(folder, intrinsics=K)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (9,)])
def test_intrinsics_of_wrong_shape(folder, shape):
    with pytest.raises(InputError, match=r"^intrinsics: expected"):
        load_clip(folder, intrinsics=torch.ones(shape))


def test_error_names_the_file(bad_inputs):
    with pytest.raises(InputError, match=r"frame_5\.png"):
        load_clip(bad_inputs["corrupt image"])


def write_half(path):
    with atomic_output(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError


def test_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "new.npz")
    assert not list(tmp_path.iterdir())


def test_what_is_still_being_written_is_in_no_list(tmp_path):
    for name in ("b.npz", "a.npz", "a.npy"):
        (tmp_path / name).touch()
    with atomic_output(tmp_path / "c.npz"):
        assert archives_in(tmp_path) == [tmp_path / "a.npz", tmp_path / "b.npz"]


def test_interrupted_write_keeps_what_was_there(full_clip, tmp_path, monkeypatch):
    path = full_clip.save(tmp_path / "clip.npz")
    before = path.read_bytes()

    def fill_the_disk(file, **arrays):
        file.write(b"PK half an archive")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        full_clip.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_into_a_missing_folder_makes_it(full_clip, tmp_path):
    assert full_clip.save(tmp_path / "a" / "b" / "clip.npz").exists()


def test_write_below_a_file_names_the_argument(full_clip, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^path: cannot write"):
        full_clip.save(tmp_path / "file" / "clip.npz")


def test_archive_is_readable_for_others(full_clip, tmp_path):
    """A temporary file's private mode does not stay."""
    (tmp_path / "plain").touch()
    assert full_clip.save(tmp_path / "clip.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_archive_keeps_text_and_numbers(tmp_path):
    path = write_archive(tmp_path / "a.npz", "thing", {"name": "x", "size": 3, "nothing": None})
    assert read_archive(path, "thing") == {"name": "x", "size": torch.tensor(3)}
