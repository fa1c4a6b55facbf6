"""The images beside a model of cameras, of the size that the cameras are of."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from c4d_nb.errors import InputError
from c4d_nb.reconstruction import Reconstruction

FRAME_FILES = "frame_[0-9][0-9][0-9][0-9][0-9]*.*"
"""A pattern of ``frame_name``."""
Frames = Iterable[UInt8[np.ndarray, "h w 3"]]


def frame_name(frame: int, suffix: str) -> str:
    return f"frame_{frame:05}{suffix}"


def write_frames(result: Reconstruction, folder: Path, originals: Frames | None) -> None:
    """JPEG images of the original size: ``originals``, the video's own frames, as many as the clip's; else the clip's,
    enlarged if they were shrunk."""
    folder.mkdir(parents=True)
    height, width = result.clip.original.original_height, result.clip.original.original_width
    count = 0
    for count, frame in enumerate(_enlarged(result, height, width) if originals is None else originals, start=1):
        if frame.shape[:2] != (height, width) or count > len(result.clip):
            raise InputError(
                f"originals: expected {len(result.clip)} frames of {width}x{height} px, but frame {count - 1} is "
                f"{frame.shape[1]}x{frame.shape[0]}"
            )
        write_image(folder / frame_name(count - 1, ".jpg"), frame[..., ::-1])
    if count != len(result.clip):
        raise InputError(f"originals: expected {len(result.clip)} frames, but there are {count}")


def write_image(file: Path, image: np.ndarray) -> None:
    """BGR or grey. OpenCV's quality of JPEG is 95."""
    _, data = cv2.imencode(file.suffix, np.ascontiguousarray(image))
    file.write_bytes(data.tobytes())


def _enlarged(result: Reconstruction, height: int, width: int) -> Frames:
    for frame in result.clip.frames.cpu().numpy():
        same = frame.shape[:2] == (height, width)
        yield frame if same else cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
