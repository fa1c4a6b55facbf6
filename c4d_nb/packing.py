"""Compact forms of a clip's large arrays, for archives: the colours exact, depth to a stated error.

The clip that ships with the package, 24 frames of 256x192 (one core):

| array | plain, deflated | here | time to write, read |
|---|---|---|---|
| frames | 2.70 MB | 1.49 MB: lossless WebP (PNG 1.94, WebP's fastest setting 1.70) | 1.1 s, 0.03 s |
| depth | 1.90 MB | 0.27 MB: differences of 16-bit inverse depth (PNG 0.41; of depth itself 0.34) | 0.05 s, 0.02 s |
| segmentation | 0.06 MB | 0.03 MB: bytes | 0.01 s |

Inverse depth, since over a plane it is linear in the pixel, so that differences nearly vanish, and since an error of it
moves a reprojected point alike near and far.
"""

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int16, Int64, UInt8
from torch import Tensor

from c4d_nb.archive import group
from c4d_nb.errors import InputError

INVALID_DEPTHS = (0.0, float("nan"), float("inf"))
"""Kept as they are, by the codes 0, 1 and 2."""
STEPS = 2**16 - 1 - len(INVALID_DEPTHS)
WEBP_MAX_PX = 16383


def pack_images(frames: UInt8[Tensor, "t h w 3"]) -> dict[str, Tensor]:
    """Each frame as lossless WebP: all bytes one after the other, and how many are each frame's."""
    if not frames.numel() or max(frames.shape[1:3]) > WEBP_MAX_PX:
        raise InputError(f"frames: expected 1 to {WEBP_MAX_PX} px a side, but their shape is {tuple(frames.shape)}")
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100, says OpenCV
    coded = [torch.from_numpy(cv2.imencode(".webp", frame[..., ::-1], lossless)[1]) for frame in frames.cpu().numpy()]
    return {"webp": torch.cat(coded), "sizes": torch.tensor([len(code) for code in coded])}


def unpack_images(webp: UInt8[Tensor, "bytes"], sizes: Int64[Tensor, "t"]) -> UInt8[Tensor, "t h w 3"]:
    """The inverse of ``pack_images``; ``ValueError`` if the bytes are no such images."""
    if not len(sizes) or sizes.min() < 1 or sizes.sum() != len(webp):
        raise ValueError(f"frames.sizes does not add up to the {len(webp)} bytes of frames.webp")
    frames = [cv2.imdecode(code.numpy(), cv2.IMREAD_COLOR) for code in webp.split(sizes.tolist())]
    if any(frame is None or frame.shape != frames[0].shape for frame in frames):
        raise ValueError("frames.webp does not hold images of one size")
    return torch.from_numpy(np.stack(frames)[..., ::-1].copy())


def pack_depth(depth: Float[Tensor, "t h w"]) -> dict[str, Tensor]:
    """Inverse depth in ``STEPS`` equal steps between the nearest and the farthest, rounded.

    1 / depth is off by at most half a step, apart from float32's rounding; ``depth_error`` says what depth is off by.
    0, NaN and infinity are kept.
    """
    z = depth.cpu().numpy().astype(np.float64)
    valid = np.isfinite(z) & (z != 0)
    if (z < 0).any():
        raise InputError("depth: expected positive numbers (0, NaN and infinity are unknown), but some are negative")
    near, far = (z[valid].min(), z[valid].max()) if valid.any() else (1.0, 1.0)
    codes = np.zeros(z.shape, dtype=np.uint16)
    codes[np.isnan(z)], codes[np.isinf(z)] = 1, 2
    span = 1 / near - 1 / far
    codes[valid] = len(INVALID_DEPTHS) + np.rint((1 / z[valid] - 1 / far) * (STEPS / span if span else 0.0))
    return {
        "differences": torch.from_numpy(_second_differences(codes).view(np.int16)),
        "near_far": torch.tensor([near, far], dtype=torch.float64),
    }


def unpack_depth(differences: Int16[Tensor, "t h w"], near_far: Float64[Tensor, "2"]) -> Float[Tensor, "t h w"]:
    """The inverse of ``pack_depth``, up to its rounding, as float32."""
    codes = differences.numpy().view(np.uint16)
    codes = codes.cumsum(axis=1, dtype=np.uint16).cumsum(axis=2, dtype=np.uint16)
    near, far = near_far.tolist()
    inverse = np.linspace(1 / far, 1 / near, STEPS + 1)
    depth_of_code = np.concatenate([INVALID_DEPTHS, 1 / inverse]).astype(np.float32)
    return torch.from_numpy(depth_of_code[codes])


def depth_error(depth: Float[Tensor, "*b"], near_far: Float64[Tensor, "2"]) -> Float64[Tensor, "*b"]:
    """The largest error that packing leaves in these depths, in their unit, given the ``near_far`` stored beside them.

    It grows with the depth's square: far depths are off by at most far (far / near - 1) / (2 ``STEPS``).
    """
    near, far = near_far
    half_step = (1 / near - 1 / far) / STEPS / 2
    z = depth.double()
    rounded = z**2 * half_step / (1 - z * half_step).clamp(min=1e-9)
    return rounded.clamp(max=far - near) + z * torch.finfo(torch.float32).eps


def pack_segmentation(segmentation: Int[Tensor, "t h w"]) -> dict[str, Tensor]:
    """As bytes, if all labels are below 256."""
    narrow = segmentation.to(torch.uint8)
    return {"labels": narrow if torch.equal(narrow.to(segmentation), segmentation) else segmentation}


def unpack_segmentation(labels: Int[Tensor, "t h w"] | UInt8[Tensor, "t h w"]) -> Int64[Tensor, "t h w"]:
    return labels.long()


CODECS = {
    "frames": (pack_images, unpack_images),
    "truth.depth": (pack_depth, unpack_depth),
    "truth.segmentation": (pack_segmentation, unpack_segmentation),
}


def pack_entries(entries: Mapping[str, Tensor | float | int]) -> dict[str, Tensor | float | int]:
    """A clip's entries with the large ones replaced by their compact forms: ``frames`` by ``frames.webp``, ..."""
    packed = dict(entries)
    for name, (pack, _) in CODECS.items():
        if name in packed:
            packed |= {f"{name}.{part}": value for part, value in pack(packed.pop(name)).items()}
    return packed


def unpack_entries(entries: Mapping[str, Tensor | str]) -> dict[str, Tensor | str]:
    """The inverse of ``pack_entries``; entries that were never packed stay as they are."""
    plain = dict(entries)
    for name, (_, unpack) in CODECS.items():
        if parts := group(entries, name):
            plain[name] = unpack(**parts)
    return plain


def _second_differences(codes: np.ndarray) -> np.ndarray:
    """Modulo 2^16: of each code, what its left, upper and upper left neighbours' plane does not foresee."""
    rows = np.diff(codes, axis=2, prepend=np.uint16(0))
    return np.diff(rows, axis=1, prepend=np.uint16(0))
