"""What the command does, apart from talking: see ``c4d_nb/__main__.py``."""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.alignment import AlignConfig, FastConfig
from c4d_nb.archive import atomic_folder
from c4d_nb.clip import Clip, kept_frames, load_clip, select_frames
from c4d_nb.correspondence.dynpt import DynPT
from c4d_nb.correspondence.tracking import Tracker, dynpt_tracker, track_by_flow
from c4d_nb.errors import InputError
from c4d_nb.export import check_formats, export
from c4d_nb.export.images import Frames
from c4d_nb.metrics import motion_iou, score_table
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.reconstruct import ReconstructConfig, reconstruct
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.resize import resize_nearest
from c4d_nb.show.figures import camera_path, overview, time_slice
from c4d_nb.show.viewer import write_viewer
from c4d_nb.video import read_frames

TWO_VIEW, FLOW = "two_view", "flow"
SOLVERS = {"paper": AlignConfig, "fast": FastConfig}


def run(options: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """Reconstruct, write everything into ``options.out`` or nothing, then each export or nothing of it. The scores that
    truth allows, and the names of what was written."""
    formats = [name.strip() for name in options.export.split(",") if name.strip()]
    check_formats(formats, options.out)
    with atomic_folder(options.out) as folder:
        clip = load_clip(
            options.video,
            start=options.start,
            stride=options.stride,
            max_frames=options.max_frames,
            long_side=options.long_side,
            intrinsics=None if options.intrinsics is None else parse_intrinsics(options.intrinsics),
        )
        true_masks, own_masks = (_load_masks(name, options, clip) for name in ("true_masks", "masks"))
        result = reconstruct(
            clip,
            ReconstructConfig(
                seed=options.seed,
                own_masks="combine" if options.combine_masks else "replace",
                align=SOLVERS[options.solver](),
            ),
            network=load_network(options.pointmaps),
            masks=None if own_masks is None else resize_nearest(own_masks, *clip.size),
            tracker=load_tracker(options.tracker),
        )
        written = write_outputs(result, folder)
    written += _export(result, formats, options)
    scores = {} if clip.truth is None else score_table(result, clip.truth)
    if true_masks is not None:
        masks = clip.original.mask_to_original(result.motion_mask)
        scores["motion mask IoU (original px)"] = motion_iou(masks, true_masks)
    return scores, written


def load_network(name: str) -> DUSt3R | None:
    """In half the precision on a GPU, where there is one."""
    if name == TWO_VIEW:
        return None
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    try:
        return DUSt3R.from_checkpoint(name, device=device, dtype=dtype)
    except InputError as error:
        raise InputError(f"pointmaps: {error}") from error


def load_tracker(name: str) -> Tracker:
    """On a GPU, where there is one."""
    if name == FLOW:
        return track_by_flow
    try:
        return dynpt_tracker(DynPT.from_checkpoint(name, device="cuda" if torch.cuda.is_available() else "cpu"))
    except InputError as error:
        raise InputError(f"tracker: {error}") from error


def write_outputs(result: Reconstruction, folder: Path) -> list[str]:
    """The result itself, the viewer, and three pictures; their names."""
    result.save(folder / "reconstruction.npz")
    write_viewer(result, folder / "viewer.html")
    for name, draw in (("overview", overview), ("time_slice", time_slice), ("camera_path", camera_path)):
        draw(result).savefig(folder / f"{name}.png", dpi=110)
    return ["reconstruction.npz", "viewer.html", "overview.png", "time_slice.png", "camera_path.png"]


def _export(result: Reconstruction, formats: list[str], options: argparse.Namespace) -> list[str]:
    """What was exported, by name."""
    try:
        paths = export(
            result,
            options.out,
            formats,
            originals=lambda: _original_frames(options, result.clip),
            min_confidence=options.min_confidence,
        )
    except (InputError, OSError) as error:
        raise InputError(f"export: {error}; the reconstruction itself is in {options.out}") from error
    except KeyboardInterrupt as error:
        raise InputError(f"export: interrupted; the reconstruction itself is in {options.out}") from error
    return [path.name for path in paths]


def _original_frames(options: argparse.Namespace, clip: Clip) -> Frames | None:
    """The clip's frames at the size that the video has, one at a time; None if the video is an archive of shrunk
    frames."""
    path, selection = Path(options.video), (options.start, options.stride, options.max_frames)
    if path.suffix != ".npz":
        return kept_frames(read_frames(path)[0], *selection)
    stored = select_frames(Clip.load(path), *selection)
    return None if stored.resize is not None else iter(stored.frames.numpy())


def parse_intrinsics(text: str) -> Float[Tensor, "3 3"]:
    """``fx,fy,cx,cy`` or a .json, .npy or .txt file with a 3x3 matrix, in pixels of the original video."""
    try:
        values = _read_matrix(Path(text)) if Path(text).suffix in {".json", ".npy", ".txt"} else _four_numbers(text)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"intrinsics: expected fx,fy,cx,cy or a 3x3 matrix in a file, but {text}: {error}") from error
    if values.shape != (3, 3):
        raise InputError(f"intrinsics: expected a 3x3 matrix, but {text} has shape {values.shape}")
    return torch.from_numpy(values).float()


def _four_numbers(text: str) -> np.ndarray:
    fx, fy, cx, cy = (float(part) for part in text.split(","))
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _read_matrix(path: Path) -> np.ndarray:
    """Whatever numbers the file holds, as float64; ``TypeError`` or ``ValueError`` for anything but real numbers."""
    if path.suffix == ".json":
        return np.array(json.loads(path.read_text()), dtype=np.float64)
    if path.suffix == ".npy":
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in "iuf":
            raise ValueError("it does not hold one array of real numbers")
        return loaded.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty file; its shape says enough
        return np.loadtxt(path)


def _load_masks(name: str, options: argparse.Namespace, clip: Clip) -> Bool[Tensor, "t H W"] | None:
    """Those of the option ``name``, of the same frames as the clip and in original pixels: dynamic is white."""
    path = getattr(options, name)
    if path is None:
        return None
    selection = {"start": options.start, "stride": options.stride, "max_frames": options.max_frames}
    try:
        masks = load_clip(path, **selection).frames.amax(dim=-1) > 127
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    expected = (len(clip), clip.original.original_height, clip.original.original_width)
    if tuple(masks.shape) != expected:
        raise InputError(f"{name}: expected masks of shape {expected}, but it is {tuple(masks.shape)}")
    return masks
