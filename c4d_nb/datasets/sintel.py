"""MPI-Sintel (Butler et al., ECCV 2012): rendered film with exact flow, depth and cameras.

The layout into which its archives unpack (images, extras with flow, the depth package with depth and cameras)::

    training/final/NAME/frame_0001.png          frames; also training/clean, test/final, test/clean
    training/flow/NAME/frame_0001.flo           from this frame to the next
    training/depth/NAME/frame_0001.dpt          z
    training/camdata_left/NAME/frame_0001.cam   K (3x3) and cam_from_world (3x4), in pixels whose centres are integers
    training/rigidity/NAME/frame_0001.png       (made by users) how static a pixel is: white static, black moving

All binary files are little-endian and begin with the float 202021.25. Licence: CC BY 3.0 (Blender Foundation).
Page: http://sintel.is.tue.mpg.de/downloads
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from c4d_nb.camera import invert, pixel_grid, project, transform, unproject
from c4d_nb.clip import Clip, Truth, check_selection, resize_clip
from c4d_nb.datasets.layout import chosen, numbered, readable_file, required, stacked
from c4d_nb.video import read_image

PAGE = "http://sintel.is.tue.mpg.de/downloads"
FPS = 24.0
SUFFIXES = {"depth": ".dpt", "camdata_left": ".cam", "flow": ".flo", "rigidity": ".png"}
TAG = 202021.25
UNKNOWN_FLOW = 1e9
"""Middlebury's mark in .flo files: what is larger is unknown."""
DYNAMIC_PX = 0.1
"""Flow that differs by more from what the camera's motion makes of the true depth is an object's own (MonST3R)."""


def read_sintel(
    root: str | Path,
    name: str,
    *,
    render: Literal["final", "clean"] = "final",
    split: Literal["training", "test"] = "training",
    start: int = 0,
    stride: int = 1,
    max_frames: int | None = None,
    long_side: int | None = None,
) -> Clip:
    """A sequence with whatever of flow, depth and cameras lies beside its frames. ``root`` has ``training``.

    ``truth.motion_mask`` is that of ``training/rigidity`` where there is one; else, from flow, depth and cameras, what
    moves by more than ``DYNAMIC_PX`` beyond the camera's motion. A sequence's last frame has no flow: the mask before
    it is carried there. Flow is kept with ``stride`` 1 only. Units of depth and cameras are the film's own.
    """
    check_selection(start, stride, max_frames, long_side)
    images = required(Path(root) / split / render / name, f"frames of MPI-Sintel's sequence {name}", PAGE)
    files = numbered(images, (".png",), "frames of MPI-Sintel")
    names = chosen(list(files), images, start, stride, max_frames)
    frames = stacked([files[stem] for stem in names], read_image)
    sequence = _Sequence(Path(root) / split, name, list(files), tuple(frames.shape[1:3]))
    truth = sequence.truth(names, with_flow=stride == 1)
    return resize_clip(Clip(frames, FPS / stride, truth=truth), long_side)


def read_flo(file: str | Path) -> Float[np.ndarray, "h w 2"]:
    """Optical flow in px (x, y); NaN where the file calls it unknown."""
    flow = _read_maps(Path(file), 2, "optical flow (.flo)")
    return np.where(np.abs(flow).max(axis=-1, keepdims=True) > UNKNOWN_FLOW, np.float32(np.nan), flow)


def read_dpt(file: str | Path) -> Float[np.ndarray, "h w"]:
    """Depth z."""
    return _read_maps(Path(file), 1, "a depth map (.dpt)")[..., 0]


def read_cam(file: str | Path) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "4 4"]]:
    """(K, cam_from_world)"""
    file, what = Path(file), "a camera (.cam)"
    with readable_file(file, what):
        values = np.frombuffer(_after_tag(file), "<f8")
        if values.size != 21 or not np.isfinite(values).all():
            raise ValueError(f"expected 21 finite numbers, but there are {values.size}")
    return values[:9].reshape(3, 3).copy(), np.vstack([values[9:].reshape(3, 4), [0, 0, 0, 1]])


def moving(
    flow: Float[Tensor, "h w 2"],
    depth: Float[Tensor, "h w"],
    intrinsics: Float[Tensor, "2 3 3"],
    cam_from_world: Float[Tensor, "2 4 4"],
) -> Bool[Tensor, "h w"]:
    """Where flow from the first to the second of two cameras is not that of a static scene of this depth."""
    xyz_cam = unproject(depth.double(), intrinsics[0]).reshape(-1, 3)
    uv, _ = project(transform(cam_from_world[1] @ invert(cam_from_world[0]), xyz_cam), intrinsics[1])
    ego_flow = uv.reshape(flow.shape) - pixel_grid(*depth.shape).double()
    return (flow - ego_flow).norm(dim=-1) > DYNAMIC_PX


def carried(mask: Bool[Tensor, "h w"], flow: Float[Tensor, "h w 2"]) -> Bool[Tensor, "h w"]:
    """A mask where its pixels have gone to; cracks of a pixel's width are closed."""
    height, width = mask.shape
    target = (pixel_grid(height, width) + flow)[mask & flow.isfinite().all(dim=-1)].round().long()
    column, row = target[((target >= 0) & (target < target.new_tensor([width, height]))).all(dim=-1)].unbind(-1)
    moved = np.zeros((height, width), dtype=np.uint8)
    moved[row, column] = 1
    return torch.from_numpy(cv2.morphologyEx(moved, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0)


@dataclass(frozen=True)
class _Sequence:
    folder: Path
    name: str
    frames: list[str]
    """All of the sequence, by stem."""
    size: tuple[int, int]

    def truth(self, names: list[str], *, with_flow: bool) -> Truth | None:
        """What there is for the frames ``names``; their flow only if they are neighbours."""
        has_depth, has_cameras, has_flow, has_rigidity = (self._has(part) for part in SUFFIXES)
        motion_mask = None
        if has_rigidity:
            motion_mask = torch.cat([self._maps("rigidity", stem, _read_moving) for stem in names])
        elif has_depth and has_cameras and has_flow and len(self.frames) > 1:
            motion_mask = torch.stack([self._motion_mask(stem) for stem in names])
        intrinsics, cam_from_world = self._cameras(names) if has_cameras else (None, None)
        known = Truth(
            depth=torch.cat([self._maps("depth", stem, read_dpt) for stem in names]) if has_depth else None,
            world_from_cam=None if cam_from_world is None else invert(cam_from_world).float(),
            intrinsics=None if intrinsics is None else intrinsics.float(),
            flow=self._flow(names) if has_flow and with_flow else None,
            motion_mask=motion_mask,
        )
        return known if has_depth or has_cameras or has_flow or has_rigidity else None

    def _flow(self, names: list[str]) -> Float[Tensor, "t h w 2"]:
        return torch.cat([torch.zeros(0, *self.size, 2), *(self._maps("flow", stem, read_flo) for stem in names[:-1])])

    def _motion_mask(self, stem: str) -> Bool[Tensor, "h w"]:
        first = min(self.frames.index(stem), len(self.frames) - 2)
        pair = self.frames[first : first + 2]
        flow, depth = self._maps("flow", pair[0], read_flo)[0], self._maps("depth", pair[0], read_dpt)[0]
        mask = moving(flow, depth, *self._cameras(pair))
        return mask if stem == pair[0] else carried(mask, flow)

    def _cameras(self, names: list[str]) -> tuple[Float[Tensor, "t 3 3"], Float[Tensor, "t 4 4"]]:
        cameras = [read_cam(self._file("camdata_left", stem)) for stem in names]
        return tuple(torch.from_numpy(np.stack(matrices)) for matrices in zip(*cameras, strict=True))

    def _maps(self, part: str, stem: str, read: Callable[[Path], np.ndarray]) -> Tensor:
        return stacked([self._file(part, stem)], read, self.size)

    def _has(self, part: str) -> bool:
        folder = self.folder / part / self.name
        with readable_file(folder, f"{part} of MPI-Sintel"):
            return folder.is_dir()

    def _file(self, part: str, stem: str) -> Path:
        return required(self.folder / part / self.name / (stem + SUFFIXES[part]), f"{part} of every frame", PAGE)


def _read_moving(file: Path) -> np.ndarray:
    with readable_file(file, "a rigidity map"), Image.open(file) as image:
        return np.array(image.convert("L")) < 128


def _read_maps(file: Path, channels: int, what: str) -> Float[np.ndarray, "h w c"]:
    with readable_file(file, what):
        data = _after_tag(file)
        if len(data) < 8:
            raise ValueError("it ends before its size")
        width, height = (int(value) for value in np.frombuffer(data[:8], "<i4"))
        if min(width, height) < 1 or len(data) - 8 != 4 * channels * width * height:
            raise ValueError(f"{len(data) - 8} bytes are not {width}x{height} px of {channels} floats")
        return np.frombuffer(data, "<f4", offset=8).reshape(height, width, channels).copy()


def _after_tag(file: Path) -> bytes:
    data = file.read_bytes()
    if data[:4] != np.float32(TAG).tobytes():
        raise ValueError(f"it does not begin with the float {TAG}")
    return data[4:]
