"""A video of one's own in a notebook: how it comes in, what to look at before and after, what left it, and refusals."""

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from c4d_nb.clip import load_clip
from c4d_nb.datasets.tum import read_trajectory
from c4d_nb.errors import InputError
from c4d_nb.export import FORMATS
from c4d_nb.export.check import optional_package
from c4d_nb.export.ply import read_ply
from c4d_nb.inspection import BLURRED, CUT, VideoSigns, result_signs, video_signs
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.figures import DYNAMIC_COLOR, PANEL_INCHES, STATIC_COLOR, TRUTH_COLOR, even_frames
from c4d_nb.video import write_video

CONFIDENCE_RANGE = 1.0, 100.0


def choose_video(path: str, *, shipped: str | Path, folder: str | Path) -> Path:
    """``path``, if there is one. Else, on Colab, what is uploaded there: a video, or the images of one. Else, and if
    nothing is chosen, the ``shipped`` clip, written into ``folder`` as a video file."""
    if path:
        return Path(path)
    uploaded = _upload() if "COLAB_NOTEBOOK_ID" in os.environ else {}
    if not uploaded:
        clip = load_clip(shipped)
        return write_video(Path(folder) / f"{Path(shipped).stem}.mp4", clip.frames, fps=clip.fps)
    files = [Path(folder) / Path(name).name for name in uploaded]
    for file, content in zip(files, uploaded.values(), strict=True):
        file.write_bytes(content)
    return files[0] if len(files) == 1 else Path(folder)


def video_figure(signs: VideoSigns) -> Figure:
    """Step by step: how much finds its match in the next frame; frame by frame: how sharp. Cuts and blur are marked."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(len(signs.matched)) + 0.5
    left.plot(steps, 100 * signs.matched.numpy(), "o-", color=STATIC_COLOR, markersize=3)
    left.axhline(100 * CUT, color=TRUTH_COLOR, linestyle="--", linewidth=0.8)
    for frame in signs.cuts:
        left.axvline(frame - 0.5, color=DYNAMIC_COLOR, linewidth=4, alpha=0.4)
    left.set(title="pixels that find their match in the next frame", ylabel="%", xlabel="frame", ylim=(0, 103))
    right.plot(100 * signs.sharpness.numpy(), "o-", color=STATIC_COLOR, markersize=3)
    right.axhline(100 * BLURRED, color=TRUTH_COLOR, linestyle="--", linewidth=0.8)
    right.plot(signs.blurred, 100 * signs.sharpness[signs.blurred].numpy(), "o", color=DYNAMIC_COLOR)
    right.set(title="sharpness, of that of the frames around", ylabel="%", xlabel="frame", ylim=(0, None))
    return figure


def trust_figure(result: Reconstruction, *, count: int = 5) -> Figure:
    """Where depth was measured, in some frames; by frame, how much of it was, how much moves, and who holds the
    camera."""
    chosen, (height, width) = even_frames(len(result.depth), count), result.clip.size
    above = PANEL_INCHES * height / width + 0.3
    figure = Figure(figsize=(PANEL_INCHES * len(chosen), above + 2.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(above, 2.2))
    axes = top.subplots(1, len(chosen), squeeze=False)[0]
    for ax, frame in zip(axes, chosen, strict=True):
        image = ax.imshow(result.confidence[frame].numpy(), norm=LogNorm(*CONFIDENCE_RANGE), cmap="viridis")
        if result.motion_mask[frame].any():
            ax.contour(result.motion_mask[frame].numpy(), levels=[0.5], colors=DYNAMIC_COLOR, linewidths=1)
        ax.set(title=f"frame {frame}", xticks=[], yticks=[])
    top.colorbar(image, ax=axes, shrink=0.8, label="confidence", extend="max")
    signs, (left, right) = result_signs(result), bottom.subplots(1, 2)
    left.plot(100 * signs.measured.numpy(), "o-", color=STATIC_COLOR, markersize=3, label="measured")
    left.plot(100 * signs.dynamic.numpy(), "o-", color=DYNAMIC_COLOR, markersize=3, label="dynamic")
    left.set(xlabel="frame", ylabel="% of the pixels", ylim=(-3, 103))
    left.legend()
    right.plot(signs.static_tracks.numpy(), "o-", color=STATIC_COLOR, markersize=3)
    right.set(xlabel="frame", ylabel="static tracks", ylim=(0, 1.1 * float(signs.static_tracks.max()) + 1))
    return figure


def sign_rows(results: Mapping[str, Reconstruction]) -> list[list[object]]:
    """A row a reconstruction for ``cells.table`` (``SIGNS`` is the header): the worst of each sign, in %."""
    rows = []
    for name, result in results.items():
        before, after = video_signs(result.clip.frames), result_signs(result)
        worst = before.matched.min(), before.sharpness.min(), after.measured.min(), after.dynamic.max()
        rows.append([name, *(round(100 * float(value)) for value in worst)])
    return rows


SIGNS = ("video", "finds its match, least (%)", "sharpness, least (%)", "measured, least (%)", "dynamic, most (%)")


def refusal(attempt: Callable[[], object]) -> str:
    """The sentence with which an attempt is refused."""
    try:
        attempt()
    except InputError as error:
        return str(error)
    raise AssertionError("the attempt was expected to be refused, but it was not")


def available_formats() -> list[str]:
    """Those exports whose package is installed."""
    return [name for name, form in FORMATS.items() if form.package is None or importlib.util.find_spec(form.package)]


def export_rows(names: Sequence[str], paths: Sequence[Path]) -> list[list[object]]:
    """A row an export for ``cells.table`` (``EXPORTS`` is the header): its size, and what it holds, read anew."""
    return [
        [f"`{path.name}`", _kilobytes(path), _contents(name, path)] for name, path in zip(names, paths, strict=True)
    ]


EXPORTS = ("written", "kB", "read again")


def _kilobytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return round(sum(file.stat().st_size for file in files) / 1000)


def _contents(name: str, path: Path) -> str:
    if name == "colmap":
        model = optional_package("pycolmap", "COLMAP's model").Reconstruction(str(path / "sparse" / "0"))
        return f"{len(model.images)} images, {len(model.cameras)} cameras, {len(model.points3D)} points"
    if name == "nerfstudio":
        count = len(json.loads((path / "transforms.json").read_text())["frames"])
        return f"{count} frames with images and masks"
    if name == "ply":
        return f"{len(read_ply(path))} points"
    if name == "ply_sequence":
        counts = [len(read_ply(file)) for file in sorted(path.iterdir())]
        return f"{len(counts)} frames of {min(counts)} to {max(counts)} points"
    if name == "glb":
        trimesh = optional_package("trimesh", "GLB")
        return f"{len(trimesh.load(path, force='scene').geometry)} geometries"
    if name == "tum":
        return f"{len(read_trajectory(path).world_from_cam)} poses"
    with np.load(path, allow_pickle=False) as arrays:
        return f"{len(arrays.files)} arrays"


def _upload() -> dict[str, bytes]:
    from google.colab import files

    return files.upload()
