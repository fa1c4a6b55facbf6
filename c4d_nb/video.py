"""Frames in and out: video files (PyAV) and folders of images, one frame at a time."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from c4d_nb.errors import InputError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
FOLDER_FPS = 24.0


def read_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    """The frames of a video file or an image folder, RGB, as they come, and the frame rate.

    Raises ``InputError`` at once for something that is neither, and at the frame for one that cannot be decoded.
    """
    frames, fps = _read_folder(path) if path.is_dir() else _read_video(path)
    return _readable(frames, path), fps


def write_video(path: str | Path, frames: UInt8[Tensor, "t h w 3"], *, fps: float) -> Path:
    """Write an H.264 video; odd sizes lose their last row or column, as the codec's chroma needs even ones."""
    height, width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2
    iio.imwrite(path, frames[:, :height, :width].numpy(), plugin="pyav", codec="libx264", fps=round(fps))
    return Path(path)


def _read_folder(path: Path) -> tuple[Iterator[np.ndarray], float]:
    files = sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural_order)
    if not files:
        raise InputError(f"path: expected images in the folder, but {path} holds none")
    return (read_image(file) for file in files), FOLDER_FPS


def read_image(file: Path) -> np.ndarray:
    try:
        return iio.imread(file, plugin="pillow", mode="RGB", rotate=True)
    except Exception as error:
        raise InputError(f"path: {file} is not a readable image ({error})") from error


def _natural_order(file: Path) -> list[int | str]:
    """frame_2 before frame_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _read_video(path: Path) -> tuple[Iterator[np.ndarray], float]:
    try:
        metadata = iio.immeta(path, plugin="pyav")
    except Exception as error:
        raise InputError(f"path: {path} is not a readable video ({error})") from error
    turns = round(metadata.get("rotation", 0) / 90) % 4
    frames = (np.rot90(frame, turns) for frame in iio.imiter(path, plugin="pyav", format="rgb24"))
    return frames, float(metadata.get("fps", 0)) or 24.0


def _readable(frames: Iterable[np.ndarray], path: Path) -> Iterator[np.ndarray]:
    """The same frames; a decoder's error becomes an ``InputError``."""
    try:
        yield from frames
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"path: {path} could not be decoded to its end ({error})") from error
