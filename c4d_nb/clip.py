"""A video clip and what may be known about it; selection, resizing and archives of clips."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from c4d_nb.archive import conforming, group, read_archive, readable, write_archive
from c4d_nb.errors import InputError
from c4d_nb.packing import pack_entries, unpack_entries
from c4d_nb.resize import Resize, resize_nearest, shrink, target_size
from c4d_nb.video import read_frames


@dataclass(frozen=True, eq=False)
class Tracks:
    """Points followed through a clip. ``visible`` is False where the position is a guess."""

    uv: Float[Tensor, "t n 2"]
    visible: Bool[Tensor, "t n"]
    confidence: Float[Tensor, "t n"]
    """In [0, 1]: how likely the position is right."""
    mobility: Float[Tensor, "t n"]
    """In [0, 1]: how likely the point is dynamic."""
    query_frame: Int[Tensor, "n"]
    """The frame in which the point was asked for."""


@dataclass(frozen=True, eq=False)
class PairPointmaps:
    """What a pairwise pointmap model says of each edge (n, m): both members' points in **n's** camera frame."""

    edges: Int[Tensor, "e 2"]
    xyz_1: Float[Tensor, "e h w 3"]
    xyz_2: Float[Tensor, "e h w 3"]
    conf_1: Float[Tensor, "e h w"]
    """At least 1, as DUSt3R's: the alignment weighs a point by the logarithm, so 1 is 'no information'."""
    conf_2: Float[Tensor, "e h w"]


@dataclass(frozen=True, eq=False)
class Truth:
    """Exact or annotated truth beside a clip; None is unknown. Units are those of the scene."""

    depth: Float[Tensor, "t h w"] | None = None
    world_from_cam: Float[Tensor, "t 4 4"] | None = None
    intrinsics: Float[Tensor, "t 3 3"] | None = None
    segmentation: Int[Tensor, "t h w"] | None = None
    """0 is background, i + 1 is object i."""
    positions: Float[Tensor, "o t 3"] | None = None
    quaternions: Float[Tensor, "o t 4"] | None = None
    is_dynamic: Bool[Tensor, "o"] | None = None
    """Kubric's flag: tossed at the start. Not the mobility label."""
    mobility: Bool[Tensor, "o"] | None = None
    flow: Float[Tensor, "t_minus_1 h w 2"] | None = None
    """flow[t] leads from the pixels of frame t to frame t + 1."""
    tracks: Tracks | None = None
    motion_mask: Bool[Tensor, "t h w"] | None = None
    backward_flow: Float[Tensor, "t_minus_1 h w 2"] | None = None
    """backward_flow[t] leads from the pixels of frame t + 1 back to frame t."""
    boxes: Float[Tensor, "o 2 3"] | None = None
    """Lowest and highest corner of each object, in its own axes."""
    object_coordinates: Float[Tensor, "t h w 3"] | None = None
    """What a pixel shows, in its object's box: 0 at the lowest corner, 1 at the highest; 0 for the background."""
    sample_offset_px: Float[Tensor, "2"] | None = None
    """Where in a pixel the maps above were sampled, from its centre (x, y); None is the centre itself."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a video, sRGB. ``intrinsics`` are known ones, in pixels of these frames; None if unknown."""

    frames: UInt8[Tensor, "t h w 3"]
    fps: float
    intrinsics: Float[Tensor, "t 3 3"] | None = None
    truth: Truth | None = None
    resize: Resize | None = None

    def __len__(self) -> int:
        return self.frames.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def original(self) -> Resize:
        """The resize record; the identity for frames that were never resized."""
        return self.resize or Resize(*self.size, *self.size)

    def save(self, path: str | Path) -> Path:
        """Write everything to one archive, atomically and exactly. ``save_compact`` takes two fifths of the space."""
        return write_archive(path, "clip", clip_entries(self))

    @staticmethod
    def load(path: str | Path) -> "Clip":
        with readable(path, "clip"):
            return conforming(clip_from_entries(read_archive(path, "clip")))


def load_clip(
    path: str | Path,
    *,
    start: int = 0,
    stride: int = 1,
    max_frames: int | None = None,
    long_side: int | None = None,
    intrinsics: Float[Tensor, "3 3"] | None = None,
    fps: float | None = None,
) -> Clip:
    """Read a video file, a folder of images (natural order of names) or a clip archive (``.npz``).

    Frames ``start, start + stride, ...`` are kept, at most ``max_frames``; ``long_side`` shrinks (never enlarges) so
    that the longer side has that many pixels. ``intrinsics`` are of the **original** pixels and are mapped to the
    frames returned. Frames are resized as they are read: memory grows with the result, not with the source. A folder
    has no frame rate: ``fps`` says it (24 if not given).

    Raises ``InputError`` with one sentence for anything that cannot be read.
    """
    path = Path(path)
    check_selection(start, stride, max_frames, long_side)
    if fps is not None and not 0 < fps < float("inf"):
        raise InputError(f"fps: expected a positive frame rate, but it is {fps}")
    if not path.exists():
        raise InputError(f"path: expected a video, an image folder or a clip archive, but {path} does not exist")
    if path.suffix == ".npz":
        clip = resize_clip(select_frames(Clip.load(path), start, stride, max_frames), long_side)
    else:
        frames, source_fps = read_frames(path)
        clip = _collect(kept_frames(frames, start, stride, max_frames), source_fps / stride, long_side, path, start)
    if fps is not None:
        clip = replace(clip, fps=fps)
    if intrinsics is not None:
        known = clip.original.intrinsics_from_original(check_intrinsics(intrinsics))
        clip = replace(clip, intrinsics=known.expand(len(clip), 3, 3).clone())
    return clip


def kept_frames(
    frames: Iterable[np.ndarray], start: int = 0, stride: int = 1, max_frames: int | None = None
) -> Iterator[np.ndarray]:
    """Those of a video's frames that ``load_clip`` keeps, as they come."""
    return islice(frames, start, None if max_frames is None else start + stride * max_frames, stride)


def check_intrinsics(intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The same K, if it is one; else ``InputError``."""
    if intrinsics.shape[-2:] != (3, 3):
        raise InputError(f"intrinsics: expected 3x3 matrices, but their shape is {tuple(intrinsics.shape)}")
    if not torch.isfinite(intrinsics).all():
        raise InputError("intrinsics: expected finite numbers, but there is NaN or infinity among them")
    if (intrinsics[..., 0, 0] <= 0).any() or (intrinsics[..., 1, 1] <= 0).any():
        raise InputError("intrinsics: expected positive focal lengths, but fx or fy is zero or negative")
    if (intrinsics[..., 2, :] != intrinsics.new_tensor([0, 0, 1])).any():
        raise InputError("intrinsics: expected a last row of (0, 0, 1)")
    return intrinsics


def select_frames(clip: Clip, start: int = 0, stride: int = 1, max_frames: int | None = None) -> Clip:
    """Some frames of a clip, truth included. Flow joins neighbours, so it is dropped when ``stride`` is not 1."""
    keep = torch.arange(len(clip))[start::stride][:max_frames]
    if len(keep) == 0:
        raise InputError(f"start: expected less than the clip's {len(clip)} frames, but it is {start}")
    return replace(
        clip,
        frames=clip.frames[keep],
        fps=clip.fps / stride,
        intrinsics=None if clip.intrinsics is None else clip.intrinsics[keep],
        truth=None if clip.truth is None else _select_truth(clip.truth, keep, stride),
    )


def resize_clip(clip: Clip, long_side: int | None) -> Clip:
    """Shrink a clip and all that is known of it; truth maps are sampled at the nearest pixel."""
    height, width = target_size(*clip.size, long_side)
    if (height, width) == clip.size:
        return clip
    step = Resize(*clip.size, height, width)
    frames = torch.stack([torch.from_numpy(shrink(f.numpy(), height, width)) for f in clip.frames])
    original = clip.original
    return Clip(
        frames=frames,
        fps=clip.fps,
        intrinsics=None if clip.intrinsics is None else step.intrinsics_from_original(clip.intrinsics),
        truth=None if clip.truth is None else _resize_truth(clip.truth, step),
        resize=Resize(original.original_height, original.original_width, height, width),
    )


def clip_entries(clip: Clip) -> dict[str, Tensor | float | int]:
    """Everything a clip holds, by dotted name, for an archive."""
    entries = {"frames": clip.frames, "fps": clip.fps}
    if clip.intrinsics is not None:
        entries["intrinsics"] = clip.intrinsics
    entries |= field_entries("resize", clip.resize) | field_entries("truth", clip.truth)
    if clip.truth is not None:
        entries |= field_entries("truth.tracks", clip.truth.tracks)
    return entries


def clip_from_entries(entries: dict[str, Tensor | str]) -> Clip:
    """The inverse of ``clip_entries``, packed or not; entries that are not a clip's are passed over."""
    entries = unpack_entries(entries)
    tracks = group(entries, "truth.tracks")
    truth = group(entries, "truth")
    resize = group(entries, "resize")
    has_truth = bool(truth or tracks)
    return Clip(
        frames=entries["frames"],
        fps=float(entries["fps"]),
        intrinsics=entries.get("intrinsics"),
        truth=Truth(**truth, tracks=Tracks(**tracks) if tracks else None) if has_truth else None,
        resize=Resize(**{name: int(value) for name, value in resize.items()}) if resize else None,
    )


def save_compact(clip: Clip, path: str | Path, extra: Mapping[str, Tensor | str] | None = None) -> Path:
    """``Clip.save`` in two fifths of the space: exact but for depth, which ``c4d_nb.packing`` rounds to 16 bits.

    ``extra`` are entries beside the clip's own, which reading a clip passes over.
    """
    return write_archive(path, "clip", pack_entries(clip_entries(clip)) | dict(extra or {}))


def field_entries(name: str, value: object | None) -> dict[str, Tensor | float | int]:
    if value is None:
        return {}
    flat = {f"{name}.{field.name}": getattr(value, field.name) for field in fields(value)}
    return {key: item for key, item in flat.items() if item is not None and not isinstance(item, Tracks)}


def check_selection(start: int, stride: int, max_frames: int | None, long_side: int | None) -> None:
    if start < 0:
        raise InputError(f"start: expected 0 or more, but it is {start}")
    for name, value in (("stride", stride), ("max_frames", max_frames)):
        if value is not None and value < 1:
            raise InputError(f"{name}: expected 1 or more, but it is {value}")
    if long_side is not None and long_side < 16:
        raise InputError(f"long_side: expected at least 16 px, but it is {long_side}")


def _collect(frames: Iterable[np.ndarray], fps: float, long_side: int | None, path: Path, start: int) -> Clip:
    kept: list[np.ndarray] = []
    original: tuple[int, int] | None = None
    for frame in frames:
        original = original or frame.shape[:2]
        if frame.shape[:2] != original:
            raise InputError(
                f"path: expected frames of one size, but in {path} frame {len(kept)} is "
                f"{frame.shape[1]}x{frame.shape[0]} after {original[1]}x{original[0]}"
            )
        kept.append(shrink(frame, *target_size(*original, long_side)))
    if original is None and start == 0:
        raise InputError(f"path: expected frames, but none of {path} can be decoded")
    if original is None:
        raise InputError(f"start: expected one of the frames of {path}, but it ends before frame {start}")
    stacked = torch.from_numpy(np.stack(kept))
    resize = Resize(*original, *stacked.shape[1:3])
    return Clip(frames=stacked, fps=fps, resize=None if stacked.shape[1:3] == original else resize)


def _select_truth(truth: Truth, keep: Tensor, stride: int) -> Truth:
    chosen = {f.name: getattr(truth, f.name) for f in fields(truth)}
    for name in ("depth", "world_from_cam", "intrinsics", "segmentation", "motion_mask", "object_coordinates"):
        chosen[name] = None if chosen[name] is None else chosen[name][keep]
    for name in ("positions", "quaternions"):
        chosen[name] = None if chosen[name] is None else chosen[name][:, keep]
    for name in ("flow", "backward_flow"):
        chosen[name] = chosen[name][keep[:-1]] if chosen[name] is not None and stride == 1 else None
    chosen["tracks"] = None if truth.tracks is None else _select_tracks(truth.tracks, keep)
    return Truth(**chosen)


def _select_tracks(tracks: Tracks, keep: Tensor) -> Tracks:
    """Only tracks that were asked for in a kept frame stay."""
    position = torch.full((len(tracks.uv),), -1)
    position[keep] = torch.arange(len(keep))
    query_frame = position[tracks.query_frame]
    stay = query_frame >= 0
    maps = (tracks.uv, tracks.visible, tracks.confidence, tracks.mobility)
    return Tracks(*(m[keep][:, stay] for m in maps), query_frame=query_frame[stay])


def _resize_truth(truth: Truth, step: Resize) -> Truth:
    size = step.height, step.width
    changed: dict[str, object] = {
        name: resize_nearest(getattr(truth, name), *size)
        for name in ("depth", "segmentation", "motion_mask", "object_coordinates")
        if getattr(truth, name) is not None
    }
    for name in ("flow", "backward_flow"):
        if (flow := getattr(truth, name)) is not None:
            changed[name] = resize_nearest(flow, *size) * step.scale.to(flow)
    if truth.sample_offset_px is not None:
        changed["sample_offset_px"] = truth.sample_offset_px * step.scale.to(truth.sample_offset_px)
    if truth.intrinsics is not None:
        changed["intrinsics"] = step.intrinsics_from_original(truth.intrinsics)
    if truth.tracks is not None:
        changed["tracks"] = replace(truth.tracks, uv=step.uv_from_original(truth.tracks.uv))
    return replace(truth, **changed)
