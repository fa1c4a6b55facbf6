"""TAP-Vid DAVIS and Kinetics (Doersch et al., NeurIPS 2022): points followed by hand through real video.

TAP-Vid DAVIS is one pickle, a dictionary by name of video; Kinetics is made by the benchmark's ``generate_tapvid.py``
from the videos: ``0000_of_0010.pkl`` to ``0009_of_0010.pkl``, a list of videos each. A video is a dictionary:

    video     uint8 (t, h, w, 3), or t JPEG images
    points    (n, t, 2), x and y over width and height; in pixels, integers are centres (``generate_tapvid.py`` takes
              half a pixel off what was clicked)
    occluded  bool (n, t)

Pickles are read by ``c4d_nb.datasets.pickles``, which runs nothing of them. Annotations: CC BY 4.0; DAVIS' video has
DAVIS' licence, Kinetics' videos are their owners'. Page: https://github.com/google-deepmind/tapnet/tree/main/tapnet/tapvid
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from c4d_nb.clip import Clip, Tracks, Truth, check_selection, resize_clip
from c4d_nb.datasets.layout import readable_file, required
from c4d_nb.datasets.pickles import read_pickle
from c4d_nb.errors import InputError

PAGE = "https://github.com/google-deepmind/tapnet/tree/main/tapnet/tapvid"
DAVIS_FPS, KINETICS_FPS = 24.0, 25.0


def tap_vid_clips(path: str | Path, *, long_side: int | None = None) -> Iterator[tuple[str, Clip]]:
    """(name, clip) of every video of a pickle, or of all pickles of a folder, one pickle in memory at a time.

    A video of a list is named by its pickle and its place there: ``0000_of_0010/3``. ``truth.tracks`` has the points
    that are ever visible; its mobility is NaN, unknown, and its query is where a point is first visible (mode ``first``
    of ``metrics.tap_vid``). Frames keep the release's size; the metrics measure any as if it were 256x256.
    """
    check_selection(0, 1, None, long_side)
    for file in _pickles(Path(path)):
        for name, example in _examples(file).items():
            yield name, _clip(example, f"{file}, video {name}", long_side)


def read_tap_vid(path: str | Path, name: str, *, long_side: int | None = None) -> Clip:
    """One video by its name, as ``tap_vid_clips`` gives it."""
    check_selection(0, 1, None, long_side)
    files = _pickles(Path(path))
    shards = [file for file in files if name.startswith(f"{file.stem}/")]
    for file in shards or files:
        examples = _examples(file)
        if name in examples:
            return _clip(examples[name], f"{file}, video {name}", long_side)
    raise InputError(f"name: expected a video of {path}, but none is called {name!r}")


def _pickles(path: Path) -> list[Path]:
    if not required(path, "pickles of TAP-Vid", PAGE).is_dir():
        return [path]
    files = sorted(path.glob("*.pkl"))
    if not files:
        raise InputError(f"path: expected pickles of TAP-Vid, but {path} has none; the data is at {PAGE}")
    return files


def _examples(file: Path) -> dict[str, object]:
    content = read_pickle(file)
    if isinstance(content, dict):
        return {str(name): example for name, example in content.items()}
    if not isinstance(content, list):
        raise InputError(
            f"path: expected a dictionary or a list of videos, but {file} holds a {type(content).__name__}"
        )
    return {f"{file.stem}/{i}": example for i, example in enumerate(content)}


def _clip(example: object, where: str, long_side: int | None) -> Clip:
    if not isinstance(example, dict) or not {"video", "points", "occluded"} <= example.keys():
        raise InputError(f"path: expected video, points and occluded, but {where} lacks one of them")
    frames, fps = _frames(example["video"], where)
    points, occluded = (np.asarray(example[name]) for name in ("points", "occluded"))
    t, kinds = len(frames), points.dtype.kind + occluded.dtype.kind
    if kinds != "fb" or points.shape != (len(points), t, 2) or occluded.shape != (len(points), t):
        raise InputError(
            f"path: expected float points (n, {t}, 2) and bool occluded (n, {t}), as the video has frames, but in "
            f"{where} they are {points.dtype} {points.shape} and {occluded.dtype} {occluded.shape}"
        )
    visible = torch.from_numpy(~occluded).T
    uv = torch.from_numpy(points.astype(np.float32)).transpose(0, 1)
    if not uv[visible].isfinite().all():
        raise InputError(f"path: expected finite visible points, but {where} has NaN or infinity among them")
    height, width = frames.shape[1:3]
    tracks = _tracks(uv * uv.new_tensor([width, height]), visible)
    return resize_clip(Clip(frames, fps, truth=Truth(tracks=tracks)), long_side)


def _tracks(uv: Tensor, visible: Tensor) -> Tracks:
    ever = visible.any(dim=0)
    uv, visible = uv[:, ever].contiguous(), visible[:, ever].contiguous()
    ones = torch.ones(visible.shape)
    return Tracks(uv, visible, ones, torch.nan * ones, visible.float().argmax(dim=0))


def _frames(video: object, where: str) -> tuple[UInt8[Tensor, "t h w 3"], float]:
    """The frames, and the rate of the data set that stores them so."""
    if isinstance(video, np.ndarray) and video.dtype == np.uint8:
        frames, fps = np.array(video), DAVIS_FPS
    else:
        with readable_file(Path(where), "frames of one size, as an array or as JPEG images"):
            frames, fps = np.stack([_decoded(image) for image in video]), KINETICS_FPS
    if frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise InputError(f"path: expected frames (t, h, w, 3), but those of {where} are {frames.shape}")
    return torch.from_numpy(frames), fps


def _decoded(image: bytes) -> np.ndarray:
    if not isinstance(image, bytes):
        raise ValueError(f"there is a {type(image).__name__} among the images")
    with Image.open(BytesIO(image)) as opened:
        return np.array(opened.convert("RGB"))
