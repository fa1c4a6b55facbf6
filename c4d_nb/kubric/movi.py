"""Clips of Kubric's MOVi data sets, with all their truth, from the released TFRecord shards; no TensorFlow needed.

    clips = MoviShards("movi_e/", split="validation")  # or one shard, or a list of them
    len(clips), clips[3]                               # any clip by its number, without loading a shard
    for clip in clips: ...                             # one record in memory at a time

What a record holds, and what becomes of it (``c4d_nb`` tells our conventions):

=====================================  ===================================  ==========================================
field of the record                    as stored                            in the clip
=====================================  ===================================  ==========================================
video                                  PNG a frame, sRGB                    frames
segmentations                          PNG: 0, or number of instance + 1    truth.segmentation, the same
depth                                  PNG: **distance** to the camera's    truth.depth, z
                                       centre, in its range
forward_flow                           (row, column), in its range          truth.flow, (x, y); the last frame's leads
                                                                            out of the clip and is dropped
backward_flow                          the same, and at frame t it is       truth.backward_flow[t - 1], **negated**: the
                                       **position(t) - position(t - 1)**    usual target minus source; frame 0 dropped
object_coordinates (optional)          PNG, 0 to 65535 across the box       truth.object_coordinates; background 0
camera/positions, camera/quaternions   camera to world, **wxyz**; x right,  truth.world_from_cam, OpenCV's axes
                                       y up, looking along **-z**
camera/focal_length, .../sensor_width  mm                                   truth.intrinsics, px
camera/field_of_view                   radians (documented as degrees)      must agree with the two above
instances/positions, .../quaternions   world, metres, z up; **wxyz**        truth.positions, truth.quaternions (xyzw)
instances/bboxes_3d                    8 world corners a frame              truth.boxes, in the object's own axes
instances/is_dynamic (optional)        tossed at the start                  truth.is_dynamic, the same
metadata/motion_blur (MOVi-F only)     its strength, 0 to 2                 says that it is MOVi-F
=====================================  ===================================  ==========================================

A stored v of a range means ``low + v / 65535 (high - low)``. Kubric's raster has pixel centres at i + 0.5.
``truth.mobility`` follows from the positions and ``truth.motion_mask`` from mobility; tracks are made on request
(``c4d_nb.kubric.tracks``). What was rendered larger was reduced by averaging colour but **keeping one pixel** of truth:
in MOVi-F at 256x256 truth is sampled 0.25 px up and left of the pixel centre, and ``truth.sample_offset_px`` says so.
Sources: Kubric's ``challenges/movi`` (README.md, movi_f.py) and ``challenges/point_tracking/dataset.py``.

The data is public: ``gs://kubric-public/tfds/NAME/SIZE/1.0.0/``, for movi_d, movi_e or movi_f and 256x256. A few
shards are enough to begin with. See what there is, and how large, then copy::

    gsutil ls -lh gs://kubric-public/tfds/movi_e/256x256/1.0.0/
    gsutil -m cp "gs://kubric-public/tfds/movi_e/256x256/1.0.0/movi_e-validation.tfrecord-00000-of-*" movi_e/

Over HTTPS the same file is ``https://storage.googleapis.com/kubric-public/tfds/movi_e/256x256/1.0.0/FILE``. MOVi-E has
9,749 clips for training and 250 for validation. Panning MOVi-E (Kubric's panning_movi_e.py) has the same layout;
whether the bucket holds it, ``gsutil ls gs://kubric-public/tfds/`` tells.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float, UInt8, UInt16
from torch import Tensor

from c4d_nb.camera import pinhole, pixel_grid, pose, rays
from c4d_nb.clip import Clip, Truth
from c4d_nb.kubric.mobility import mobility_labels, with_background
from c4d_nb.kubric.tfrecord import Record, ShardPath, Shards

FPS = 12.0
REDUCTION = {("movi_f", 512): 1, ("movi_f", 256): 2, ("movi_f", 128): 4, ("movi", 256): 1, ("movi", 128): 2}
"""Rendered pixels a pixel, along a side, by kind and width of a release."""


@dataclass(frozen=True, eq=False)
class MoviRecord:
    """The fields of a record that a clip needs, as stored: integers unscaled, Kubric's own conventions."""

    video: UInt8[np.ndarray, "t h w 3"]
    segmentations: UInt8[np.ndarray, "t h w 1"]
    depth: UInt16[np.ndarray, "t h w 1"]
    depth_range: Float[np.ndarray, "2"]
    forward_flow: UInt16[np.ndarray, "t h w 2"]
    forward_flow_range: Float[np.ndarray, "2"]
    backward_flow: UInt16[np.ndarray, "t h w 2"]
    backward_flow_range: Float[np.ndarray, "2"]
    object_coordinates: UInt16[np.ndarray, "t h w 3"] | None
    camera_positions: Float[np.ndarray, "t 3"]
    camera_quaternions: Float[np.ndarray, "t 4"]
    focal_length: float
    sensor_width: float
    positions: Float[np.ndarray, "o t 3"]
    quaternions: Float[np.ndarray, "o t 4"]
    bboxes_3d: Float[np.ndarray, "o t 8 3"]
    is_dynamic: Bool[np.ndarray, "o"] | None
    motion_blur: float | None


class MoviShards:
    """The clips of a MOVi data set, in the order of its shards; ``path`` and ``split`` as in ``tfrecord.Shards``.

    Raises ``InputError`` with one sentence for what cannot be read, naming file, record and field.
    """

    def __init__(self, path: ShardPath, *, split: str | None = None) -> None:
        self.records = Shards(path, split=split)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Clip:
        return clip_from_movi(decode_movi(self.records[index]))

    def __iter__(self) -> Iterator[Clip]:
        # map, unlike a loop, lets go of a record before it takes the next.
        return map(lambda record: clip_from_movi(decode_movi(record)), self.records)


def read_movi(path: ShardPath, *, index: int, split: str | None = None) -> Clip:
    """One clip of a MOVi data set, counted from 0 across its shards."""
    return MoviShards(path, split=split)[index]


def decode_movi(record: Record) -> MoviRecord:
    """All fields as arrays, checked against each other: frames, image size, number of objects, field of view."""
    video = _images(record, "video", np.uint8, 3)
    t, h, w = video.shape[:3]
    segmentations = _images(record, "segmentations", np.uint8, 1, like=video)
    positions = _numbers(record, "instances/positions", (-1, t, 3), frames=t)
    o, shown = len(positions), segmentations.max()
    if shown > o:
        raise record.fault(f"expected {shown} objects, as in segmentations, but instances/positions has {o}")
    has_coordinates, has_flag = ("object_coordinates" in record), ("instances/is_dynamic" in record)
    focal_length, sensor_width = _lens(record)
    return MoviRecord(
        video=video,
        segmentations=segmentations,
        depth=_images(record, "depth", np.uint16, 1, like=video),
        depth_range=_range(record, "depth"),
        forward_flow=_numbers(record, "forward_flow", (t, h, w, 2), frames=t).astype(np.uint16),
        forward_flow_range=_range(record, "forward_flow"),
        backward_flow=_numbers(record, "backward_flow", (t, h, w, 2), frames=t).astype(np.uint16),
        backward_flow_range=_range(record, "backward_flow"),
        object_coordinates=_images(record, "object_coordinates", np.uint16, 3, like=video) if has_coordinates else None,
        camera_positions=_numbers(record, "camera/positions", (t, 3), frames=t),
        camera_quaternions=_numbers(record, "camera/quaternions", (t, 4), frames=t),
        focal_length=focal_length,
        sensor_width=sensor_width,
        positions=positions,
        quaternions=_numbers(record, "instances/quaternions", (o, t, 4), frames=t),
        bboxes_3d=_numbers(record, "instances/bboxes_3d", (o, t, 8, 3), frames=t),
        is_dynamic=_numbers(record, "instances/is_dynamic", (o,)).astype(bool) if has_flag else None,
        motion_blur=float(_numbers(record, "metadata/motion_blur", ())) if "metadata/motion_blur" in record else None,
    )


def clip_from_movi(record: MoviRecord) -> Clip:
    """The record in this package's conventions. The clip's own intrinsics stay unknown; its truth has them."""
    t, h, w = record.video.shape[:3]
    intrinsics = pinhole(torch.tensor(record.focal_length / record.sensor_width * w, dtype=torch.float64), h, w)
    offset = _sample_offset(record)
    distance = torch.from_numpy(_scaled(record.depth[..., 0], record.depth_range))
    grid = pixel_grid(h, w).double()
    ray_length = rays(intrinsics, grid if offset is None else grid + offset).norm(dim=-1)
    segmentation = torch.from_numpy(record.segmentations[..., 0].astype(np.int64))
    positions = torch.from_numpy(record.positions)
    quaternions = _xyzw(record.quaternions)
    mobility = mobility_labels(positions)
    truth = Truth(
        depth=(distance / ray_length).float(),
        world_from_cam=_world_from_cam(record).float(),
        intrinsics=intrinsics.float().expand(t, 3, 3).clone(),
        segmentation=segmentation,
        positions=positions,
        quaternions=quaternions.float(),
        is_dynamic=None if record.is_dynamic is None else torch.from_numpy(record.is_dynamic),
        mobility=mobility,
        flow=_flow(record.forward_flow[:-1], record.forward_flow_range),
        motion_mask=with_background(mobility)[segmentation],
        backward_flow=-_flow(record.backward_flow[1:], record.backward_flow_range),
        boxes=_boxes(record, quaternions).float(),
        object_coordinates=_object_coordinates(record),
        sample_offset_px=offset,
    )
    return Clip(frames=torch.from_numpy(record.video), fps=FPS, truth=truth)


def _images(record: Record, key: str, dtype: type, channels: int, *, like: np.ndarray | None = None) -> np.ndarray:
    """The frames (t, h, w, channels) of a field; as many, and of the same size, as ``like``, which is video."""
    frames = record.images(key)
    if not frames:
        raise record.fault(f"expected frames in {key}, but there are none")
    if like is not None and len(frames) != len(like):
        raise record.fault(f"expected {len(like)} frames of {key}, as of video, but there are {len(frames)}")
    wanted = (*(frames if like is None else like)[0].shape[:2], channels)
    for i, image in enumerate(frames):
        if image.shape != wanted or image.dtype != dtype:
            raise record.fault(
                f"expected {_image_kind(wanted, dtype)} in frame {i} of {key}, as of video, "
                f"but it is {_image_kind(image.shape, image.dtype)}"
            )
    return np.stack(frames)


def _image_kind(shape: tuple[int, ...], dtype: type | np.dtype) -> str:
    return f"{shape[1]}x{shape[0]} px of {shape[2]} x {np.dtype(dtype).name}"


def _numbers(record: Record, key: str, shape: tuple[int, ...], *, frames: int | None = None) -> np.ndarray:
    """A field in this shape; -1 is as many objects as there are. ``frames`` tells the message what the shape is of."""
    values = record.numbers(key)
    try:
        return values.reshape(shape)
    except ValueError:
        wanted = "x".join("n" if size < 0 else str(size) for size in shape) or "1"
        what = key if frames is None else f"{frames} frames of {key}, as of video"
        raise record.fault(f"expected {wanted} numbers for {what}, but there are {values.size}") from None


def _range(record: Record, key: str) -> np.ndarray:
    low, high = _numbers(record, f"metadata/{key}_range", (2,)).astype(np.float64)
    if not -math.inf < low <= high < math.inf:
        raise record.fault(f"expected a finite range in metadata/{key}_range, but it is {low:g} to {high:g}")
    return np.array([low, high])


def _lens(record: Record) -> tuple[float, float]:
    """Focal length and sensor width in mm."""
    keys = ("camera/focal_length", "camera/sensor_width", "camera/field_of_view")
    focal, sensor, angle = (float(_numbers(record, key, ())) for key in keys)
    wanted = 2 * math.atan2(sensor, 2 * focal)
    if not (focal > 0 and sensor > 0 and math.isclose(angle, wanted, abs_tol=1e-4)):
        raise record.fault(
            f"expected camera/field_of_view to be {wanted:.6g} rad, as of a focal length of {focal:g} mm and a sensor "
            f"{sensor:g} mm wide, but it is {angle:.6g}"
        )
    return focal, sensor


def _sample_offset(record: MoviRecord) -> Float[Tensor, "2"] | None:
    """Of a block of r x r rendered pixels truth is the one at (r - 1) // 2 (``subsample_nearest_neighbor``)."""
    kind, usual = ("movi", 1) if record.motion_blur is None else ("movi_f", 2)
    reduction = REDUCTION.get((kind, record.video.shape[2]), usual)
    offset = ((reduction - 1) // 2 + 0.5) / reduction - 0.5
    return torch.tensor([offset, offset]) if offset else None


def _scaled(stored: np.ndarray, low_high: np.ndarray) -> np.ndarray:
    low, high = low_high
    return low + stored / 65535 * (high - low)


def _flow(stored: np.ndarray, low_high: np.ndarray) -> Float[Tensor, "s h w 2"]:
    return torch.from_numpy(_scaled(stored, low_high)[..., ::-1].astype(np.float32))


def _xyzw(wxyz: np.ndarray) -> Float[Tensor, "*b 4"]:
    return torch.nn.functional.normalize(torch.from_numpy(wxyz).double().roll(-1, dims=-1), dim=-1)


def _world_from_cam(record: MoviRecord) -> Float[Tensor, "t 4 4"]:
    world_from_gl = roma.unitquat_to_rotmat(_xyzw(record.camera_quaternions))
    cv_axes = world_from_gl.new_tensor([1, -1, -1])
    return pose(world_from_gl * cv_axes, torch.from_numpy(record.camera_positions).double())


def _boxes(record: MoviRecord, quaternions: Float[Tensor, "o t 4"]) -> Float[Tensor, "o 2 3"]:
    """Corners 0 and 7 of product((-0.5, 0.5), repeat=3); they are the same in every frame but for rounding."""
    corners = torch.from_numpy(record.bboxes_3d[:, :, [0, 7]]).double() - torch.from_numpy(record.positions)[:, :, None]
    return (corners @ roma.unitquat_to_rotmat(quaternions)).median(dim=1).values


def _object_coordinates(record: MoviRecord) -> Float[Tensor, "t h w 3"] | None:
    if record.object_coordinates is None:
        return None
    inside = np.where(record.segmentations > 0, record.object_coordinates / 65535, 0.0)
    return torch.from_numpy(inside.astype(np.float32))
