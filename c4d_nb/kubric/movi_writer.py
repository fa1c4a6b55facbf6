"""Clips as records of a MOVi shard: the inverse of ``c4d_nb.kubric.movi``, whose page has the table of the fields.

Written are the fields that ``read_movi`` needs, and those that follow from them. A clip knows no normals, no physics
(mass, friction, velocities, collisions) and no assets, so these fields are missing: a loader has to name those that it
wants, as with ``tf.io.parse_single_example``. Flow that leads out of the clip, backward in the first frame and forward
in the last, is written as 0. There is no field for a frame rate (MOVi's is 12) or for tracks.
"""

from collections.abc import Sequence
from itertools import product
from math import atan2
from pathlib import Path

import cv2
import numpy as np
import roma
import torch
from jaxtyping import Float, Float32, Int, Int64, UInt16
from torch import Tensor

from c4d_nb.archive import atomic_output
from c4d_nb.camera import pinhole, rays, transform
from c4d_nb.clip import Clip, Truth
from c4d_nb.errors import InputError
from c4d_nb.kubric.movi import REDUCTION
from c4d_nb.kubric.tfrecord import FOOTER, Example, masked_crc
from c4d_nb.kubric.truth import object_poses, sample_positions

SENSOR_MM = 32.0
"""Width of Kubric's sensor."""
NEEDED = ("depth", "world_from_cam", "intrinsics", "segmentation", "positions", "quaternions", "flow", "backward_flow")
NEEDED += ("boxes", "object_coordinates", "is_dynamic")
Field = list[bytes] | np.ndarray


def write_movi(path: str | Path, clips: Sequence[Clip]) -> Path:
    """Write clips with complete truth (``c4d_nb.kubric.truth.complete_truth``) as one shard, atomically.

    Readers of shards expect names like ``mini-validation.tfrecord-00000-of-00001``. Raises ``InputError`` for a clip
    that a MOVi record cannot hold.
    """
    with atomic_output(Path(path)) as partial, open(partial, "wb") as file:
        for number, clip in enumerate(clips):
            payload = _example(movi_fields(clip, name=str(number))).SerializeToString()
            for part in (len(payload).to_bytes(8, "little"), payload):
                file.write(part + FOOTER.pack(masked_crc(part)))
    return Path(path)


def movi_fields(clip: Clip, *, name: str) -> dict[str, Field]:
    """The fields of a clip's record, in Kubric's conventions: lists of PNG images, integers and floats."""
    truth, (height, width) = clip.truth, clip.size
    _check(clip)
    order = instance_order(truth.segmentation, len(truth.positions))
    label = torch.zeros(len(truth.positions) + 1, dtype=torch.long)
    label[order + 1] = torch.arange(len(order)) + 1
    segmentation = label[truth.segmentation.long()]
    focal_mm = truth.intrinsics[0, 0, 0].item() / width * SENSOR_MM
    gl_axes = truth.world_from_cam.new_tensor([1, -1, -1])
    ray_length = rays(truth.intrinsics[0].double(), sample_positions(truth)).norm(dim=-1)
    unknown = torch.zeros(1, height, width, 2)
    depth, depth_range = _to_uint16(truth.depth * ray_length, "depth")
    forward, forward_range = _to_uint16(torch.cat([truth.flow, unknown]).flip(-1), "flow")
    backward, backward_range = _to_uint16(-torch.cat([unknown, truth.backward_flow]).flip(-1), "backward_flow")
    return {
        "video": _pngs(clip.frames.numpy()),
        "segmentations": _pngs(segmentation.numpy().astype(np.uint8)),
        "depth": _pngs(depth),
        "forward_flow": forward.astype(np.int64),
        "backward_flow": backward.astype(np.int64),
        "object_coordinates": _pngs((truth.object_coordinates * 65535).round().numpy().astype(np.uint16)),
        "camera/focal_length": np.array([focal_mm]),
        "camera/sensor_width": np.array([SENSOR_MM]),
        "camera/field_of_view": np.array([2 * atan2(SENSOR_MM, 2 * focal_mm)]),
        "camera/positions": truth.world_from_cam[:, :3, 3].numpy(),
        "camera/quaternions": _wxyz(roma.rotmat_to_unitquat(truth.world_from_cam[:, :3, :3] * gl_axes)),
        "instances/positions": truth.positions[order].numpy(),
        "instances/quaternions": _wxyz(truth.quaternions[order]),
        "instances/bboxes_3d": _corners(truth)[order].numpy(),
        "instances/is_dynamic": truth.is_dynamic[order].numpy().astype(np.int64),
        "instances/visibility": _visible_pixels(segmentation, len(order))[1:].numpy(),
        "metadata/video_name": [name.encode()],
        "metadata/height": np.array([height]),
        "metadata/width": np.array([width]),
        "metadata/num_frames": np.array([len(clip)]),
        "metadata/num_instances": np.array([len(order)]),
        "metadata/depth_range": depth_range,
        "metadata/forward_flow_range": forward_range,
        "metadata/backward_flow_range": backward_range,
    }


def instance_order(segmentation: Int[Tensor, "t h w"], objects: int) -> Int64[Tensor, "instances"]:
    """The objects of a record, as Kubric lists them: those that are ever seen, the one of most pixels first."""
    pixels = _visible_pixels(segmentation, objects)[1:].sum(dim=1)
    return pixels.argsort(descending=True, stable=True)[: int((pixels > 0).sum())]


def _example(fields: dict[str, Field]) -> Example:
    example = Example()
    for key, values in fields.items():
        feature = example.features.feature[key]
        kind = "bytes" if isinstance(values, list) else {"f": "float", "i": "int64"}[values.dtype.kind]
        getattr(feature, f"{kind}_list").value.extend(values if kind == "bytes" else values.ravel().tolist())
    return example


def _to_uint16(values: Float[Tensor, "*b"], name: str) -> tuple[UInt16[np.ndarray, "*b"], Float32[np.ndarray, "2"]]:
    """(v, (low, high)) with ``values = low + v / 65535 (high - low)``, rounded."""
    if not values.isfinite().all():
        raise InputError(f"{name}: expected finite numbers, but there is NaN or infinity among them")
    span = torch.stack(values.aminmax()).float()
    low, high = span.double()
    share = (values.double() - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    return (share.clamp(0, 1) * 65535).round().numpy().astype(np.uint16), span.numpy()


def _pngs(images: np.ndarray) -> list[bytes]:
    """OpenCV takes three channels in the order blue, green, red."""
    return [cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes() for image in images]


def _wxyz(xyzw: Float[Tensor, "*b 4"]) -> Float[np.ndarray, "*b 4"]:
    return xyzw.roll(1, dims=-1).numpy()


def _corners(truth: Truth) -> Float[Tensor, "o t 8 3"]:
    """World corners of the boxes, in the order of product((low, high), repeat=3)."""
    upper = torch.tensor(list(product((False, True), repeat=3)))
    corners = torch.where(upper, truth.boxes[:, 1:], truth.boxes[:, :1]).double()
    return transform(object_poses(truth)[1:], corners[:, None]).float()


def _visible_pixels(segmentation: Int[Tensor, "t h w"], objects: int) -> Int64[Tensor, "segments t"]:
    return torch.stack([frame.flatten().bincount(minlength=objects + 1) for frame in segmentation.long()], dim=1)


def _check(clip: Clip) -> None:
    truth, (height, width) = clip.truth, clip.size
    if truth is None or (missing := [name for name in NEEDED if getattr(truth, name) is None]):
        raise InputError(f"clip: expected complete truth, but there is no {', no '.join(missing if truth else NEEDED)}")
    if not torch.allclose(truth.intrinsics, pinhole(truth.intrinsics[0, 0, 0], height, width)):
        raise InputError("clip: expected one focal length for both axes and all frames, and a centred principal point")
    if truth.sample_offset_px is not None or REDUCTION.get(("movi", width), 1) != 1:
        raise InputError("clip: expected truth sampled at pixel centres, and a width at which MOVi-E's is too")
    if truth.segmentation.max() > 255:
        raise InputError(f"segmentation: expected at most 255 objects, but there are {int(truth.segmentation.max())}")
