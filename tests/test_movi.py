"""MOVi records: exact against the shared shard, and a scene in Kubric's conventions that reprojects in ours."""

import math
import weakref
from itertools import product

import cv2
import numpy as np
import pytest
import roma
import torch
from scipy.spatial.transform import Rotation
from test_tfrecord import example, write_shard

from c4d_nb.camera import invert, pixel_grid, pose, project, rays, transform
from c4d_nb.errors import InputError
from c4d_nb.kubric import movi
from c4d_nb.kubric.movi import MoviShards, decode_movi, read_movi
from c4d_nb.kubric.tfrecord import Shards

FOCAL_MM, SENSOR_MM = 35.0, 32.0
BALL_RADIUS = 0.7
BOXES = np.array([[[-0.6, -0.9, -0.4], [0.9, 0.5, 0.8]], [[-BALL_RADIUS] * 3, [BALL_RADIUS] * 3]])
"""Of the two bodies, in their own axes; the first is not centred on its origin."""


class KubricScene:
    """A floor, a box that slides and tumbles, and a ball at rest, in Kubric's conventions: distances, raster centres at
    i + 0.5, flow (row, column), wxyz, cameras that look along -z. ``offset`` moves the samples within their pixels.

    Poses run from frame -1 to t, for the first backward and the last forward flow lead out of the clip; index 1 is
    frame 0.
    """

    def __init__(self, *, t=4, h=32, w=40, offset=0.0):
        self.clip, self.h, self.w = list(range(1, t + 1)), h, w
        a = np.arange(-1, t + 1)[:, None] / t
        self.eye = [4.0, -5.0, 6.0] + a * [0.8, 0.5, -0.4]
        back = unit(self.eye - [0.0, 0.0, 0.4])
        right = unit(np.cross([0.0, 0.0, 1.0], back))
        self.camera = np.stack([right, np.cross(back, right), back], axis=-1)
        self.path = np.stack([[-0.8, 0.5, 1.2] + a * [1.5, -0.7, 0.3], [1.4, 1.0, BALL_RADIUS] + 0 * a])
        turns = (a * [0.6, 0.9, -0.4], [0.3, 0.2, 0.1] + 0 * a)
        self.turn = np.stack([Rotation.from_rotvec(turn).as_matrix() for turn in turns])
        self.raster = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1) + 0.5 + offset
        up_and_right = (self.raster - [h / 2, w / 2]) * [-1, 1] / self.focal_px
        self.ray = unit(np.stack([up_and_right[..., 1], up_and_right[..., 0], -np.ones((h, w))], axis=-1))
        seen = [self.see(i) for i in self.clip]
        self.distance, self.segmentation, self.world = (np.stack(maps) for maps in zip(*seen, strict=True))

    @property
    def focal_px(self):
        return FOCAL_MM / SENSOR_MM * self.w

    def see(self, i):
        ray = self.ray @ self.camera[i].T
        distances = [-self.eye[i, 2] / ray[..., 2]]
        for body, hit in enumerate((hit_box, hit_ball)):
            distances.append(hit(self.in_body(body, i, self.eye[i]), ray @ self.turn[body, i]))
        distance = np.min(distances, axis=0)
        return distance, np.argmin(distances, axis=0), self.eye[i] + distance[..., None] * ray

    def in_body(self, body, i, world):
        return (world - self.path[body, i]) @ self.turn[body, i]

    def flow(self, i, j):
        """Where what frame i shows is in frame j, less where it is in i: (row, column)."""
        moved, shown = self.world[i - 1], self.segmentation[i - 1][..., None]
        for body in range(2):
            there = self.in_body(body, i, self.world[i - 1]) @ self.turn[body, j].T + self.path[body, j]
            moved = np.where(shown == body + 1, there, moved)
        x, y, z = np.moveaxis((moved - self.eye[j]) @ self.camera[j], -1, 0)
        raster = np.stack([self.h / 2 + self.focal_px * y / z, self.w / 2 - self.focal_px * x / z], axis=-1)
        return raster - self.raster

    def object_coordinates(self):
        inside = np.full_like(self.world, 0.3)  # what a background has is not ours to trust
        for body, (low, high) in enumerate(BOXES):
            local = np.stack([self.in_body(body, i, self.world[i - 1]) for i in self.clip])
            inside = np.where(self.segmentation[..., None] == body + 1, (local - low) / (high - low), inside)
        return inside

    def fields(self):
        """A record of MOVi-E."""
        clip = self.clip
        corners = np.array([list(product(*box.T)) for box in BOXES])[:, None]
        corners = corners @ self.turn.swapaxes(-1, -2) + self.path[:, :, None]
        fields = {
            "video": [png(np.stack([40 + 60 * s, 200 - 50 * s, 0 * s], axis=-1), np.uint8) for s in self.segmentation],
            "segmentations": [png(s, np.uint8) for s in self.segmentation],
            "object_coordinates": [png(to_uint16(c, 0, 1), np.uint16) for c in self.object_coordinates()],
            "camera/focal_length": np.array([FOCAL_MM]),
            "camera/sensor_width": np.array([SENSOR_MM]),
            "camera/field_of_view": np.array([2 * math.atan2(SENSOR_MM, 2 * FOCAL_MM)]),
            "camera/positions": self.eye[clip],
            "camera/quaternions": wxyz(self.camera[clip]),
            "instances/positions": self.path[:, clip],
            "instances/quaternions": np.stack([wxyz(turn[clip]) for turn in self.turn]),
            "instances/bboxes_3d": corners[:, clip],
            "instances/is_dynamic": np.array([0, 1]),
        }
        ranged = {
            "depth": self.distance,
            "forward_flow": np.stack([self.flow(i, i + 1) for i in clip]),
            "backward_flow": -np.stack([self.flow(i, i - 1) for i in clip]),
        }
        for key, values in ranged.items():
            low, high = np.float32(values.min()).item(), np.float32(values.max()).item()
            stored = to_uint16(values, low, high)
            fields[key] = [png(v, np.uint16) for v in stored] if key == "depth" else stored.astype(int)
            fields[f"metadata/{key}_range"] = np.array([low, high])
        return fields


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def wxyz(rotations):
    return np.roll(Rotation.from_matrix(rotations).as_quat(), 1, axis=-1)


def to_uint16(values, low, high):
    return np.round((values - low) / (high - low) * 65535).clip(0, 65535)


def png(image, dtype):
    image = image.astype(dtype)
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def hit_box(origin, ray):
    with np.errstate(divide="ignore"):
        ends = (BOXES[0][:, None, None] - origin) / ray
    enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def hit_ball(origin, ray):
    towards = -(ray @ origin)
    inside = towards**2 - origin @ origin + BALL_RADIUS**2
    return np.where(inside > 0, towards - np.sqrt(inside.clip(0)), np.inf)


@pytest.fixture(scope="module")
def kubric():
    return KubricScene()


@pytest.fixture(scope="module")
def clip(kubric, tmp_path_factory):
    return written(tmp_path_factory.mktemp("movi"), kubric.fields())


@pytest.fixture(scope="module")
def fields(kubric):
    """Do not change its values, replace them."""
    return kubric.fields()


def written(folder, *records, index=0):
    """A clip read from a shard of these records."""
    write_shard(folder / "movi_e-validation.tfrecord-00000-of-00001", [example(fields) for fields in records])
    return read_movi(folder, index=index)


# What the shared shard holds, which the dataset library's own serialiser wrote.


@pytest.mark.parametrize("index", [0, 1])
def test_shared_shard_as_stored(shared_vectors, index):
    record = vars(decode_movi(Shards(shared_vectors / "movi")[index]))
    expected = expected_fields(shared_vectors, index)
    scale = expected.pop("scale")
    assert scale.shape == (3,)
    for name, value in expected.items():
        stored = record[name.removesuffix("_raw")]
        assert stored.dtype == value.dtype, name
        np.testing.assert_array_equal(stored, value, err_msg=name)
    ranges = {"depth": (1.5, 23.25), "forward_flow": (-7.5, 9.25), "backward_flow": (-6.5, 8.0)}
    assert {name: tuple(record[f"{name}_range"]) for name in ranges} == ranges
    assert (record["focal_length"], record["sensor_width"]) == (35.0, 32.0)


@pytest.mark.parametrize("index", [0, 1])
def test_shared_shard_as_a_clip(shared_vectors, index):
    """Every value that needs no geometry is the stored one, scaled in float64."""
    clip, expected = read_movi(shared_vectors / "movi", index=index), expected_fields(shared_vectors, index)
    truth = clip.truth
    exact = {
        "positions": expected["positions"],
        "is_dynamic": expected["is_dynamic"],
        "segmentation": expected["segmentations"][..., 0],
        "flow": (-7.5 + expected["forward_flow_raw"] / 65535 * 16.75)[:-1, ..., ::-1].astype(np.float32),
        "backward_flow": -(-6.5 + expected["backward_flow_raw"] / 65535 * 14.5)[1:, ..., ::-1].astype(np.float32),
        "object_coordinates": np.where(
            expected["segmentations"] > 0, expected["object_coordinates_raw"] / 65535, 0
        ).astype(np.float32),
    }
    for name, value in exact.items():
        np.testing.assert_array_equal(getattr(truth, name).numpy(), value, err_msg=name)
    np.testing.assert_array_equal(clip.frames.numpy(), expected["video"])
    np.testing.assert_allclose(truth.quaternions.numpy()[..., [3, 0, 1, 2]], expected["quaternions"], atol=2e-7)
    np.testing.assert_array_equal(truth.world_from_cam[:, :3, 3].numpy(), expected["camera_positions"])
    ray_length = rays(truth.intrinsics.double(), pixel_grid(16, 16).double() - 0.25).norm(dim=-1)
    distance = 1.5 + expected["depth_raw"][..., 0] / 65535 * 21.75
    np.testing.assert_allclose((truth.depth * ray_length).numpy(), distance, rtol=2e-7)
    assert (clip.fps, clip.intrinsics, truth.tracks) == (12, None, None)


def test_shared_shard_one_after_the_other(shared_vectors):
    clips = MoviShards(shared_vectors / "movi")
    assert len(clips) == 2
    for index, clip in enumerate(clips):
        assert torch.equal(clip.frames, clips[index].frames)
    assert index == 1


def expected_fields(shared_vectors, index):
    with np.load(shared_vectors / "movi" / "expected.npz") as file:
        return {name.removeprefix(f"{index}_"): file[name] for name in file.files if name.startswith(f"{index}_")}


# The scene, read back in this package's conventions. A depth is stored to 0.1 mm here, a flow to 0.0003 px.


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(({}, {}, None), id="movi_e"),
        pytest.param(({"offset": -0.25}, {"metadata/motion_blur": np.array([0.7])}, -0.25), id="movi_f"),
        pytest.param(({"offset": -0.25, "w": 128, "h": 96, "t": 2}, {}, -0.25), id="movi_e at 128"),
        pytest.param(
            ({"offset": -0.125, "w": 128, "h": 96, "t": 2}, {"metadata/motion_blur": np.array([0.0])}, -0.125),
            id="movi_f at 128",
        ),
    ],
)
def reduced(request, tmp_path_factory):
    """(clip, the scene it shows, where in a pixel its truth was sampled)"""
    options, more, offset = request.param
    scene = KubricScene(**options)
    return written(tmp_path_factory.mktemp("movi"), scene.fields() | more), scene, offset


def seen_points(clip, frame, offset=0.0):
    """What the pixels of a frame show, in the world, and the uv where they show it."""
    truth = clip.truth
    uv = pixel_grid(*clip.size).double() + offset
    xyz_cam = truth.depth[frame, ..., None].double() * rays(truth.intrinsics[frame].double(), uv)
    return transform(truth.world_from_cam[frame].double(), xyz_cam), uv


def world_from_shown(truth, frame, shown):
    """Poses in a frame of what the pixels of frame ``shown`` show."""
    bodies = pose(roma.unitquat_to_rotmat(truth.quaternions[:, frame].double()), truth.positions[:, frame].double())
    return torch.cat([torch.eye(4).double()[None], bodies])[truth.segmentation[shown]]


def test_depth_is_z_where_it_was_sampled(reduced):
    clip, scene, offset = reduced
    sampled = None if offset is None else [offset] * 2
    assert (None if clip.truth.sample_offset_px is None else clip.truth.sample_offset_px.tolist()) == sampled
    for frame in range(len(clip)):
        xyz, _ = seen_points(clip, frame, offset or 0.0)
        np.testing.assert_allclose(xyz, scene.world[frame], atol=2e-4)
        floor = xyz[clip.truth.segmentation[frame] == 0]
        assert len(floor) > 500
        assert floor[:, 2].abs().max() < 2e-4
        if offset:
            assert seen_points(clip, frame)[0][clip.truth.segmentation[frame] == 0, 2].abs().max() > 2e-3


@pytest.mark.parametrize("step", [1, -1])
def test_flow_leads_to_the_same_point(reduced, step):
    clip, _, offset = reduced
    truth = clip.truth
    frames = range(len(clip) - 1) if step == 1 else range(1, len(clip))
    for frame in frames:
        xyz, uv = seen_points(clip, frame, offset or 0.0)
        moved = world_from_shown(truth, frame + step, frame) @ invert(world_from_shown(truth, frame, frame))
        xyz = transform(moved, xyz[..., None, :])[..., 0, :]
        xyz_cam = transform(invert(truth.world_from_cam[frame + step].double()), xyz)
        there, _ = project(xyz_cam, truth.intrinsics[frame + step].double())
        flow = truth.flow[frame] if step == 1 else truth.backward_flow[frame - 1]
        assert flow.abs().max() > 1
        np.testing.assert_allclose(flow, there - uv, atol=2e-3)


def test_object_coordinates_are_the_points_in_their_boxes(reduced):
    clip, _, offset = reduced
    truth = clip.truth
    np.testing.assert_allclose(truth.boxes, BOXES, atol=2e-6)
    for frame in range(len(clip)):
        xyz, _ = seen_points(clip, frame, offset or 0.0)
        local = transform(invert(world_from_shown(truth, frame, frame)), xyz[..., None, :])[..., 0, :]
        for body, (low, high) in enumerate(truth.boxes.double()):
            shown = truth.segmentation[frame] == body + 1
            assert shown.sum() > 20
            inside = (local[shown] - low) / (high - low)
            np.testing.assert_allclose(truth.object_coordinates[frame][shown], inside, atol=3e-4)
        assert truth.object_coordinates[frame][truth.segmentation[frame] == 0].abs().max() == 0


def test_camera(clip, kubric):
    """x right, y down, z forward, at the place where Kubric's camera is; focal length in pixels of the width."""
    world_from_cam = clip.truth.world_from_cam
    eye, towards = torch.tensor(kubric.eye[kubric.clip]).float(), torch.tensor([0.0, 0.0, 0.4])
    np.testing.assert_allclose(world_from_cam[:, :3, 3], eye, atol=1e-6)
    forward = torch.nn.functional.normalize(towards - eye, dim=-1)
    np.testing.assert_allclose(world_from_cam[:, :3, 2], forward, atol=1e-6)
    assert (world_from_cam[:, 2, 1] < -0.5).all()  # y leads down
    np.testing.assert_allclose(torch.linalg.det(world_from_cam[:, :3, :3]), 1, atol=1e-6)
    focal = 35 / 32 * 40
    assert clip.truth.intrinsics[-1].tolist() == [[focal, 0, 19.5], [0, focal, 15.5], [0, 0, 1]]
    column = transform(invert(world_from_cam[0]), torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, 1.4]]))
    uv, _ = project(column, clip.truth.intrinsics[0])
    np.testing.assert_allclose(uv[0], [19.5, 15.5], atol=1e-4)
    assert uv[1, 1] < uv[0, 1] - 2  # what is higher in the world is higher in the image


def test_objects(clip, kubric):
    truth = clip.truth
    assert truth.mobility.tolist() == [True, False]
    assert truth.is_dynamic.tolist() == [False, True]
    assert torch.equal(truth.motion_mask, truth.segmentation == 1)
    np.testing.assert_array_equal(truth.segmentation, kubric.segmentation)
    rotations = roma.unitquat_to_rotmat(truth.quaternions)
    np.testing.assert_allclose(rotations, kubric.turn[:, kubric.clip], atol=1e-6)
    np.testing.assert_allclose(truth.quaternions.norm(dim=-1), 1, atol=1e-6)
    colors = torch.tensor([[40, 200, 0], [100, 150, 0], [160, 100, 0]], dtype=torch.uint8)
    assert torch.equal(clip.frames, colors[truth.segmentation])


def test_quaternions_of_any_length(fields, clip, tmp_path):
    again = written(tmp_path, fields | {"instances/quaternions": 3 * fields["instances/quaternions"]})
    np.testing.assert_allclose(again.truth.quaternions, clip.truth.quaternions, atol=1e-6)


def test_fields_that_some_releases_lack(fields, tmp_path):
    lacking = {k: v for k, v in fields.items() if k not in ("object_coordinates", "instances/is_dynamic")}
    clip = written(tmp_path, lacking)
    assert clip.truth.object_coordinates is None
    assert clip.truth.is_dynamic is None
    assert clip.truth.mobility.tolist() == [True, False]


def test_a_clip_without_objects(fields, tmp_path):
    nothing = {k: np.zeros(0) for k in fields if k.startswith("instances/")}
    blank = [png(np.zeros((32, 40)), np.uint8)] * 4
    clip = written(tmp_path, fields | nothing | {"segmentations": blank})
    assert clip.truth.boxes.shape == (0, 2, 3)
    assert not clip.truth.motion_mask.any()


def test_an_archive_keeps_it_all(clip, tmp_path):
    again = type(clip).load(clip.save(tmp_path / "clip.npz"))
    for name, value in vars(clip.truth).items():
        other = getattr(again.truth, name)
        assert other is None if value is None else torch.equal(other, value), name


def test_a_stream_holds_one_record(fields, tmp_path, monkeypatch):
    written(tmp_path, *[fields] * 3)
    alive = []

    def watched(record):
        assert all(reference() is None for reference in alive)
        alive.append(weakref.ref(record))
        return decode_movi(record)

    monkeypatch.setattr(movi, "decode_movi", watched)
    assert sum(len(clip) for clip in MoviShards(tmp_path)) == 12
    assert len(alive) == 3


# Every fault is one sentence that names the record and the field.


NEEDED = [
    "video",
    "segmentations",
    "depth",
    "forward_flow",
    "backward_flow",
    "metadata/depth_range",
    "metadata/forward_flow_range",
    "metadata/backward_flow_range",
    "camera/positions",
    "camera/quaternions",
    "camera/focal_length",
    "camera/sensor_width",
    "camera/field_of_view",
    "instances/positions",
    "instances/quaternions",
    "instances/bboxes_3d",
]
FAULTS = [
    *((key, lambda _: None, f"expected the field {key}, but there is none") for key in NEEDED),
    ("video", lambda _: [], "expected frames in video, but there are none"),
    ("depth", lambda v: v[:3], "expected 4 frames of depth, as of video, but there are 3"),
    ("video", lambda v: v[:3], "expected 3 frames of segmentations, as of video, but there are 4"),
    (
        "backward_flow",
        lambda v: v[:3],
        "expected 4x32x40x2 numbers for 4 frames of backward_flow, as of video, but there are 7680",
    ),
    (
        "camera/positions",
        lambda v: v[:3],
        "expected 4x3 numbers for 4 frames of camera/positions, as of video, but there are 9",
    ),
    (
        "instances/positions",
        lambda v: v[:, :3],
        "expected nx4x3 numbers for 4 frames of instances/positions, as of video, but there are 18",
    ),
    (
        "instances/quaternions",
        lambda v: v[:, :3],
        "expected 2x4x4 numbers for 4 frames of instances/quaternions, as of video, but there are 24",
    ),
    (
        "depth",
        lambda v: [*v[:2], png(np.zeros((16, 40)), np.uint16), *v[3:]],
        "expected 40x32 px of 1 x uint16 in frame 2 of depth, as of video, but it is 40x16 px of 1 x uint16",
    ),
    (
        "depth",
        lambda v: [png(np.zeros((32, 40)), np.uint8), *v[1:]],
        "expected 40x32 px of 1 x uint16 in frame 0 of depth, as of video, but it is 40x32 px of 1 x uint8",
    ),
    (
        "video",
        lambda v: [*v[:3], png(np.zeros((32, 20, 3)), np.uint8)],
        "expected 40x32 px of 3 x uint8 in frame 3 of video, as of video, but it is 20x32 px of 3 x uint8",
    ),
    ("depth", lambda v: [*v[:3], b"png"], "expected a PNG image in frame 3 of depth, but it cannot be decoded"),
    ("instances/is_dynamic", lambda v: v[:1], "expected 2 numbers for instances/is_dynamic, but there are 1"),
    ("camera/focal_length", lambda v: np.repeat(v, 2), "expected 1 numbers for camera/focal_length, but there are 2"),
    (
        "segmentations",
        lambda v: [png(np.full((32, 40), 7), np.uint8), *v[1:]],
        "expected 7 objects, as in segmentations, but instances/positions has 2",
    ),
    (
        "camera/field_of_view",
        np.rad2deg,
        "expected camera/field_of_view to be 0.857556 rad, as of a focal length of 35 mm and a sensor 32 mm wide, "
        "but it is 49.1343",
    ),
    ("camera/focal_length", lambda v: 0 * v, "expected camera/field_of_view to be .*"),
    (
        "metadata/depth_range",
        lambda v: v[::-1],
        r"expected a finite range in metadata/depth_range, but it is \S+ to \S+",
    ),
    ("metadata/forward_flow_range", lambda v: v + np.inf, "expected a finite range in .*, but it is inf to inf"),
]


@pytest.mark.parametrize(("key", "change", "message"), FAULTS)
def test_faults(fields, tmp_path, key, change, message):
    changed = fields | {key: change(fields[key])}
    with pytest.raises(InputError, match=rf"^path: in record 1 of .*-00000-of-00001, {message}$"):
        written(tmp_path, fields, {k: v for k, v in changed.items() if v is not None}, index=1)


def test_index_out_of_range(fields, tmp_path):
    with pytest.raises(InputError, match=r"^index: .* less than 1, .* but it is 1$"):
        written(tmp_path, fields, index=1)
