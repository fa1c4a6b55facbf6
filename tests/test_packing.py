"""Compact archives: colours and labels come back exactly, depth within the error that is stated."""

import zlib
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from c4d_nb import load_clip
from c4d_nb.archive import read_archive, write_archive
from c4d_nb.clip import Clip, Truth, clip_entries, save_compact, select_frames
from c4d_nb.errors import InputError
from c4d_nb.kubric.truth import truth_flow
from c4d_nb.packing import (
    STEPS,
    depth_error,
    pack_depth,
    pack_entries,
    pack_images,
    pack_segmentation,
    unpack_depth,
    unpack_images,
    unpack_segmentation,
)

NAN, INF = float("nan"), float("inf")
SIDES = st.integers(1, 9)


def noise(*shape, seed=0, high=256):
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def depth_of(values):
    return torch.tensor(values).reshape(1, 1, -1)


def small_clip(t=3, size=(7, 5)):
    depth = 1 + noise(t, *size).float()
    depth[0, 0, :4] = depth.new_tensor([0, NAN, INF, 1])
    truth = Truth(depth=depth, segmentation=noise(t, *size, high=4).long(), mobility=torch.tensor([True, False, True]))
    return Clip(noise(t, *size, 3, seed=1), 12.0, truth=truth)


@settings(deadline=None)  # the first WebP takes longer
@given(st.integers(1, 4), SIDES, SIDES, st.integers(0, 2**32), st.sampled_from([1, 2, 256]))
def test_images_survive_exactly(t, height, width, seed, high):
    frames = noise(t, height, width, 3, seed=seed, high=high)
    assert torch.equal(unpack_images(**pack_images(frames)), frames)


def test_real_frames_shrink_to_three_fifths_of_deflate(yard):
    packed = pack_images(yard.frames)
    assert torch.equal(unpack_images(**packed), yard.frames)
    assert len(packed["webp"]) < 0.6 * len(zlib.compress(yard.frames.numpy().tobytes()))


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (1, 1, 16384, 3)])
def test_images_that_webp_cannot_hold(shape):
    with pytest.raises(InputError, match=r"^frames: expected 1 to 16383 px a side"):
        pack_images(torch.zeros(shape, dtype=torch.uint8))


@given(st.lists(st.floats(2.0**-10, 2.0**17, width=32), min_size=1, max_size=40))
def test_depth_stays_within_the_stated_error(values):
    depth = depth_of(values)
    packed = pack_depth(depth)
    unpacked = unpack_depth(**packed)
    assert ((unpacked.double() - depth.double()).abs() <= depth_error(depth, packed["near_far"])).all()
    assert (unpacked.min(), unpacked.max()) == (depth.min(), depth.max())


def test_stated_error_is_reached():
    """Among many depths some lie between two steps: the statement is not merely safe."""
    depth = torch.linspace(1, 20, 50_000).reshape(1, 100, 500)
    packed = pack_depth(depth)
    share = (unpack_depth(**packed) - depth).abs() / depth_error(depth, packed["near_far"])
    assert 0.98 < share.max() <= 1


def test_error_of_the_farthest_depth():
    near_far = torch.tensor([2.0, 40.0], dtype=torch.float64)
    assert depth_error(near_far, near_far)[1] == pytest.approx(40 * (40 / 2 - 1) / (2 * STEPS), rel=1e-3)


def test_flow_from_unpacked_depth_is_the_same_to_a_thousandth_of_a_pixel(yard):
    truth = yard.truth
    unpacked = replace(truth, depth=unpack_depth(**pack_depth(truth.depth)))
    assert (truth_flow(unpacked) - truth_flow(truth)).abs().max() < 1e-3


def test_depth_is_rounded_only_once(yard):
    once = pack_depth(yard.truth.depth)
    twice = pack_depth(unpack_depth(**once))
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize(
    "values",
    [[0.0, NAN, INF], [NAN], [INF, 3.5, 0.0], [3.5], [3.5, 3.5], [1e-30, NAN, 1e30]],
)
def test_unknown_and_extreme_depths_survive(values):
    depth = depth_of(values)
    assert torch.equal(unpack_depth(**pack_depth(depth)).nan_to_num(-1), depth.nan_to_num(-1))


def test_depth_without_pixels():
    assert unpack_depth(**pack_depth(torch.ones(0, 4, 5))).shape == (0, 4, 5)


@pytest.mark.parametrize("value", [-1.0, -INF])
def test_negative_depth_is_refused(value):
    with pytest.raises(InputError, match=r"^depth: expected positive"):
        pack_depth(depth_of([1.0, value]))


@pytest.mark.parametrize(("top", "dtype"), [(255, torch.uint8), (256, torch.int64), (-1, torch.int64)])
def test_labels_are_bytes_if_they_fit(top, dtype):
    labels = torch.tensor([[[0, 7, top]]])
    packed = pack_segmentation(labels)
    assert packed["labels"].dtype == dtype
    assert torch.equal(unpack_segmentation(**packed), labels)


@pytest.mark.parametrize(("t", "size"), [(3, (7, 5)), (1, (1, 5)), (2, (33, 17))])
def test_compact_archive_round_trip(tmp_path, t, size):
    clip = small_clip(t, size)
    loaded = load_clip(save_compact(clip, tmp_path / "clip.npz"))
    assert torch.equal(loaded.frames, clip.frames)
    assert (loaded.fps, loaded.intrinsics, loaded.resize) == (12.0, None, None)
    assert torch.equal(loaded.truth.segmentation, clip.truth.segmentation)
    assert torch.equal(loaded.truth.mobility, clip.truth.mobility)
    torch.testing.assert_close(loaded.truth.depth, clip.truth.depth, rtol=0, atol=0.51, equal_nan=True)
    unknown = {f.name for f in fields(Truth)} - {"depth", "segmentation", "mobility"}
    assert all(getattr(loaded.truth, name) is None for name in unknown)


def test_compact_archive_is_less_than_half(yard, tmp_path):
    compact, plain = save_compact(yard, tmp_path / "a.npz"), yard.save(tmp_path / "b.npz")
    assert compact.stat().st_size < 0.4 * plain.stat().st_size
    loaded = Clip.load(compact).truth
    assert torch.equal(loaded.segmentation, yard.truth.segmentation)
    assert torch.equal(loaded.tracks.uv, yard.truth.tracks.uv)
    assert (loaded.depth - yard.truth.depth).abs().max() < 2e-4


def test_plain_archive_stays_plain_and_exact(tmp_path):
    clip = small_clip()
    path = clip.save(tmp_path / "clip.npz")
    assert torch.equal(read_archive(path, "clip")["frames"], clip.frames)
    assert torch.equal(Clip.load(path).truth.depth.nan_to_num(-1), clip.truth.depth.nan_to_num(-1))


def test_further_entries_are_passed_over(tmp_path):
    extra = {"scene": "{}", "scene.positions": torch.ones(2, 3), "recipe": "anything"}
    path = save_compact(small_clip(), tmp_path / "clip.npz", extra)
    assert len(load_clip(path)) == 3
    assert read_archive(path, "clip", only=("recipe", "nothing")) == {"recipe": "anything"}


DAMAGE = {
    "frames.webp": [torch.zeros(40, dtype=torch.uint8), None],
    "frames.sizes": [torch.tensor([10, 10, 20]), torch.tensor([700, -1, -1]), torch.tensor([5]), None],
    "truth.depth.differences": [None],
    "truth.depth.near_far": [torch.ones(3), None],
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "value"), [(name, value) for name in DAMAGE for value in DAMAGE[name]])
def test_senseless_entries_are_one_sentence(tmp_path, name, value):
    entries = pack_entries(clip_entries(small_clip())) | {name: value}
    path = write_archive(tmp_path / "clip.npz", "clip", entries)
    with pytest.raises(InputError, match=r"^path: .* is not a complete clip archive \(.*\)$"):
        load_clip(path)


@pytest.mark.parametrize("position", [0.1, 0.3, 0.5, 0.7])
def test_flipped_bytes(yard, tmp_path, position):
    path = save_compact(select_frames(yard, max_frames=2), tmp_path / "clip.npz")
    content = bytearray(path.read_bytes())
    start = int(position * len(content))
    content[start : start + 64] = bytes(255 - b for b in content[start : start + 64])
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^path: .* is damaged"):
        load_clip(path)


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fill_the_disk(file, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save_compact(small_clip(), tmp_path / "clip.npz")
    assert not list(tmp_path.iterdir())
