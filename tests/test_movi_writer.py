"""MOVi records written: exactly what the reader expects, fields as the data set library has them, there and back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip
from c4d_nb.errors import InputError
from c4d_nb.kubric.movi import MoviShards, decode_movi, read_movi
from c4d_nb.kubric.movi_writer import NEEDED, instance_order, movi_fields, write_movi
from c4d_nb.kubric.render import render_clip
from c4d_nb.kubric.scene import Body, Part, Scene, Texture, look_at
from c4d_nb.kubric.tfrecord import Shards

FRAMES, HEIGHT, WIDTH = 5, 40, 48
ORDER = [3, 0, 2]
"""What is seen of the four bodies, the largest first; the second is behind the camera."""
SHARD = "mini-validation.tfrecord-00000-of-00001"


def body(half, start, step, spin, tossed):
    t = torch.arange(FRAMES, dtype=torch.float64)[:, None]
    turn = roma.rotvec_to_unitquat(t * torch.tensor(spin, dtype=torch.float64))
    path = torch.tensor(start, dtype=torch.float64) + t * torch.tensor(step, dtype=torch.float64)
    part = Part("box", half, Texture("checks"), center_m=(0.1, 0.0, -0.05))
    return Body((part,), path, turn, tossed)


@pytest.fixture(scope="module")
def clip():
    eye = torch.tensor([[0.2 * t, -6.0, 2.5 + 0.1 * t] for t in range(FRAMES)], dtype=torch.float64)
    scene = Scene(
        bodies=(
            body((0.5, 0.4, 0.3), (-1.5, 0.0, 1.0), (0.2, 0.1, 0.05), (0.1, 0.2, 0.3), True),
            body((0.5, 0.5, 0.5), (0.0, -9.0, 1.0), (0, 0, 0), (0, 0, 0), False),
            body((0.2, 0.3, 0.2), (1.5, 1.0, 0.3), (0, 0, 0), (0, 0, 0), False),
            body((0.9, 0.8, 0.7), (0.5, 1.0, 0.8), (0.0, 0.05, 0), (0, 0, 0.1), False),
        ),
        room=((-12.0, -12.0, 0.0), (12.0, 12.0, 9.0)),
        floor=Texture("checks"),
        walls=Texture("checks"),
        world_from_cam=look_at(eye, torch.tensor([0.0, 0.0, 0.8]).double().expand_as(eye)),
        intrinsics=pinhole(35 / 32 * WIDTH, HEIGHT, WIDTH).double(),
        height=HEIGHT,
        width=WIDTH,
    )
    return render_clip(scene, fps=12, samples=1, n_tracks=10)


@pytest.fixture(scope="module")
def shard(clip, tmp_path_factory):
    return write_movi(tmp_path_factory.mktemp("shards") / SHARD, [clip, replace(clip, frames=255 - clip.frames)])


def half_step(low_high):
    """Of 16 bits across a range, and the rounding of its ends to float32."""
    return (low_high[1] - low_high[0]) / 65535 / 2 + 1e-6 * np.abs(low_high).max()


def test_there_and_back(clip, shard):
    again, record, truth = read_movi(shard, index=0), decode_movi(Shards(shard)[0]), clip.truth
    assert torch.equal(again.frames, clip.frames)
    assert torch.equal(again.truth.motion_mask, truth.motion_mask)
    for name in ("positions", "is_dynamic", "mobility"):
        assert torch.equal(getattr(again.truth, name), getattr(truth, name)[ORDER]), name
    torch.testing.assert_close(again.truth.quaternions, truth.quaternions[ORDER], atol=2e-7, rtol=0)
    torch.testing.assert_close(again.truth.boxes, truth.boxes[ORDER], atol=2e-6, rtol=0)
    torch.testing.assert_close(again.truth.intrinsics, truth.intrinsics, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.truth.world_from_cam, truth.world_from_cam, atol=1e-6, rtol=0)
    for name, low_high in (
        ("depth", record.depth_range),
        ("flow", record.forward_flow_range),
        ("backward_flow", record.backward_flow_range),
        ("object_coordinates", np.array([0.0, 1.0])),
    ):
        error = (getattr(again.truth, name) - getattr(truth, name)).abs().max()
        assert error <= half_step(low_high), name
    assert again.truth.sample_offset_px is None
    assert again.fps == clip.fps


def test_segmentation_follows_the_order(clip, shard):
    segmentation, expected = clip.truth.segmentation, torch.zeros_like(clip.truth.segmentation)
    for rank, number in enumerate(ORDER):
        expected[segmentation == number + 1] = rank + 1
    assert torch.equal(read_movi(shard, index=0).truth.segmentation, expected)


def test_several_clips_in_a_shard(clip, shard):
    clips = MoviShards(shard)
    assert len(clips) == 2
    assert torch.equal(clips[1].frames, 255 - clip.frames)


def test_a_clip_that_was_read_is_written_as_it_was(shard, tmp_path):
    """Reading and writing a record again changes no label, and nothing by more than a step."""
    first = read_movi(shard, index=0)
    second = read_movi(write_movi(tmp_path / SHARD, [first]), index=0)
    assert torch.equal(second.truth.segmentation, first.truth.segmentation)
    assert (second.truth.depth - first.truth.depth).abs().max() < 2e-3
    assert (second.truth.flow - first.truth.flow).abs().max() < 2e-3


def test_fields_in_kubrics_conventions(clip):
    """What the reader turns round, as stored."""
    fields, truth = movi_fields(clip, name="7"), clip.truth
    low, high = fields["metadata/backward_flow_range"].astype(float)
    backward = low + fields["backward_flow"] / 65535 * (high - low)
    np.testing.assert_allclose(backward[0], 0, atol=1e-3)
    np.testing.assert_allclose(backward[1:, ..., ::-1], -truth.backward_flow, atol=1e-3)
    assert fields["metadata/depth_range"][1] > truth.depth.max()  # distances are longer than z
    x, y, z, w = truth.quaternions[ORDER[0], 2].tolist()
    np.testing.assert_allclose(fields["instances/quaternions"][0, 2], [w, x, y, z])
    w, x, y, z = fields["camera/quaternions"][1]
    back, ahead = roma.unitquat_to_rotmat(torch.tensor([x, y, z, w]))[:, 2], truth.world_from_cam[1, :3, 2]
    torch.testing.assert_close(back, -ahead, atol=1e-6, rtol=0)
    assert fields["camera/focal_length"][0] == pytest.approx(35)
    assert fields["camera/field_of_view"][0] == pytest.approx(0.857556)
    corners = fields["instances/bboxes_3d"][2, 0]
    low, high = [1.4, 0.7, 0.05], [1.8, 1.3, 0.45]  # neither moved nor turned: (0.2, 0.3, 0.2) about (1.6, 1, 0.25)
    expected = [low, [*low[:2], high[2]], [high[0], *low[1:]], high]
    np.testing.assert_allclose(corners[[0, 1, 4, 7]], expected, atol=1e-6)
    pixels = [[int((truth.segmentation[t] == i + 1).sum()) for t in range(FRAMES)] for i in ORDER]
    assert fields["instances/visibility"].tolist() == pixels
    assert fields["metadata/video_name"] == [b"7"]


def test_fields_are_named_and_shaped_as_released(clip, shared_vectors):
    released = flat(json.loads((shared_vectors / "movi" / "features.json").read_text()))
    sizes = {FRAMES: 6, HEIGHT: 16, WIDTH: 16}  # ours: theirs
    for key, values in movi_fields(clip, name="0").items():
        assert key in released, key
        if not isinstance(values, list):
            shape = values.shape[1:] if values.shape == (1,) else values.shape
            sized = [
                -1 if theirs == -1 else sizes.get(ours, ours) for ours, theirs in zip(shape, released[key], strict=True)
            ]
            assert sized == released[key], key


def flat(feature, key="", shape=()):
    """{field: shape} of a data set's features; -1 is any length."""
    if "featuresDict" in feature:
        items = feature["featuresDict"]["features"].items()
        return {k: v for name, inner in items for k, v in flat(inner, f"{key}/{name}".lstrip("/"), shape).items()}
    if "sequence" in feature:
        length = int(feature["sequence"]["length"])
        return flat(feature["sequence"]["feature"], key, (*shape, length))
    own = next((feature[k] for k in ("tensor", "image", "video") if k in feature), {}).get("shape", {})
    return {key: [*shape, *map(int, own.get("dimensions", []))]}


def test_order_is_by_all_pixels_seen():
    segmentation = torch.tensor([[[0, 1, 1, 3]], [[2, 2, 3, 3]]])
    assert instance_order(segmentation, 4).tolist() == [2, 0, 1]
    assert instance_order(torch.zeros(1, 2, 2, dtype=torch.long), 2).tolist() == []


def test_a_clip_without_objects(clip, tmp_path):
    truth = replace(
        clip.truth,
        segmentation=torch.zeros_like(clip.truth.segmentation),
        **{
            name: getattr(clip.truth, name)[:0]
            for name in ("positions", "quaternions", "boxes", "is_dynamic", "mobility")
        },
    )
    again = read_movi(write_movi(tmp_path / SHARD, [replace(clip, truth=truth)]), index=0)
    assert again.truth.boxes.shape == (0, 2, 3)
    assert not again.truth.motion_mask.any()


@pytest.mark.parametrize("name", NEEDED)
def test_truth_must_be_complete(clip, tmp_path, name):
    bad = replace(clip, truth=replace(clip.truth, **{name: None}))
    with pytest.raises(InputError, match=rf"^clip: expected complete truth, but there is no {name}$"):
        write_movi(tmp_path / SHARD, [clip, bad])
    assert not list(tmp_path.iterdir())


def test_what_a_record_cannot_hold(clip, tmp_path):
    flow, label = clip.truth.flow.clone(), clip.truth.segmentation.clone()
    flow[0, 0, 0], label[0, 0, 0] = torch.nan, 300
    wide = clip.truth.intrinsics.clone()
    wide[1, 0, 0] *= 2
    for change, message in (
        ({"flow": flow}, r"^flow: expected finite numbers"),
        ({"intrinsics": wide}, r"^clip: expected one focal length"),
        ({"sample_offset_px": torch.tensor([-0.25, -0.25])}, r"^clip: expected truth sampled at pixel centres"),
        ({"segmentation": label}, r"^segmentation: expected at most 255 objects, but there are 300"),
    ):
        with pytest.raises(InputError, match=message):
            write_movi(tmp_path / SHARD, [replace(clip, truth=replace(clip.truth, **change))])
    with pytest.raises(InputError, match=r"^clip: expected complete truth, but there is no depth, no world_from_cam"):
        write_movi(tmp_path / SHARD, [Clip(clip.frames, 12.0)])


def test_a_width_at_which_readers_assume_reduced_maps(clip, tmp_path):
    wider = Clip(clip.frames.repeat(1, 1, 3, 1)[:, :, :128], 12.0, truth=clip.truth)
    truth = replace(clip.truth, intrinsics=pinhole(140.0, HEIGHT, 128).expand(FRAMES, 3, 3))
    with pytest.raises(InputError, match=r"^clip: expected truth sampled at pixel centres, and a width"):
        write_movi(tmp_path / SHARD, [replace(wider, truth=truth)])
