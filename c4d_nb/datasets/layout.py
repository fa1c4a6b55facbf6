"""What the readers share: folders that must be there, files in order, images, and errors that name the file."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from c4d_nb.errors import InputError

PROTOCOL_STRIDE, PROTOCOL_FRAMES = 3, 90
T = TypeVar("T")


def required(path: Path, what: str, page: str) -> Path:
    """The same path, if it is there; else ``InputError`` with the page where the data is."""
    with readable_file(path, what):
        if not path.exists():
            raise InputError(f"path: expected {what}, but {path} does not exist; the data is at {page}")
    return path


@contextmanager
def readable_file(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong while a file is read becomes an ``InputError`` that names it."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"path: expected {what}, but {path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # decoders raise almost any
        raise InputError(f"path: expected {what}, but {path} is none ({error})") from error


def numbered(folder: Path, suffixes: Sequence[str], what: str) -> dict[str, Path]:
    """The files of a folder by stem, 2 before 10. Raises ``InputError`` for a folder without any."""
    with readable_file(folder, what):
        files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != "."]
    if not files:
        raise InputError(f"path: expected {what}, but {folder} has no {' or '.join(suffixes)}")
    order = sorted(files, key=lambda path: [int(part) for part in re.findall(r"\d+", path.stem)] or [0])
    return {path.stem: path for path in order}


def chosen(frames: Sequence[T], path: Path, start: int, stride: int, max_frames: int | None) -> list[T]:
    """Those frames of a sequence that are kept, as by ``load_clip``."""
    kept = list(frames)[start::stride][:max_frames]
    if not kept:
        raise InputError(f"start: expected less than the {len(frames)} frames of {path}, but it is {start}")
    return kept


def matching(files: dict[str, Path], names: Sequence[str], folder: Path, what: str) -> list[Path]:
    """The files of some frames. Raises ``InputError`` for a frame without one."""
    missing = [name for name in names if name not in files]
    if missing:
        raise InputError(f"path: expected {what} of every frame, but {folder} has none of {', '.join(missing[:3])}")
    return [files[name] for name in names]


def stacked(files: Sequence[Path], read: Callable[[Path], np.ndarray], size: tuple[int, ...] | None = None) -> Tensor:
    """One tensor of all files' arrays. Raises ``InputError`` where they are not all of one (height, width)."""
    arrays: list[np.ndarray] = []
    for file in files:
        arrays.append(read(file))
        size = size or arrays[0].shape[:2]
        if arrays[-1].shape[:2] != size:
            height, width = arrays[-1].shape[:2]
            raise InputError(f"path: expected {size[1]}x{size[0]} px, as of the frames, but {file} is {width}x{height}")
    return torch.from_numpy(np.stack(arrays))


def read_depth_png(file: Path) -> np.ndarray:
    """A 16-bit grey image, as stored."""
    with readable_file(file, "a 16-bit depth image"), Image.open(file) as image:
        if not image.mode.startswith("I"):
            raise InputError(f"path: expected a 16-bit depth image, but {file} has Pillow's mode {image.mode}")
        return np.array(image).astype(np.uint16)


def read_matrix(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """Numbers from a text file, infinite ones among them."""
    what = f"a {shape[0]}x{shape[1]} matrix of numbers"
    with readable_file(file, what):
        rows = [line.split() for line in file.read_text().splitlines() if line.strip()]
        values = np.array(rows, dtype=np.float64)
        if values.shape != shape:
            raise ValueError(f"its shape is {values.shape}")
    return values
