"""``python -m c4d_nb VIDEO --out DIR``: a video in, 4D out."""

import argparse
import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from c4d_nb.archive import atomic_folder
from c4d_nb.clip import Clip, load_clip
from c4d_nb.errors import InputError
from c4d_nb.metrics import motion_iou, score_table
from c4d_nb.reconstruct import ReconstructConfig, Reconstruction, reconstruct

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("imageio").setLevel(logging.WARNING)
    try:
        with atomic_folder(options.out) as folder:
            scores = run(options, folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    for name, value in scores.items():
        print(f"{name:32} {value:10.4f}")
    print(f"written to {options.out}: reconstruction.npz, viewer.html, overview.png, time_slice.png, camera_path.png")
    return 0


def run(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Reconstruct, write everything into ``folder``, and return the scores against whatever truth there is."""
    clip = load_clip(
        options.video,
        start=options.start,
        stride=options.stride,
        max_frames=options.max_frames,
        long_side=options.long_side,
        intrinsics=None if options.intrinsics is None else parse_intrinsics(options.intrinsics),
    )
    true_masks = None if options.true_masks is None else _load_masks(options, clip)
    result = reconstruct(clip, ReconstructConfig(seed=options.seed))
    write_outputs(result, folder)
    scores = {} if clip.truth is None else score_table(result, clip.truth)
    if true_masks is not None:
        scores["motion mask IoU (original px)"] = motion_iou(
            clip.original.mask_to_original(result.motion_mask), true_masks
        )
    return scores


def write_outputs(result: Reconstruction, folder: Path) -> None:
    """The result itself, the viewer, and three pictures."""
    from c4d_nb.show.figures import camera_path, overview, time_slice  # matplotlib and plotly load only here
    from c4d_nb.show.viewer import write_viewer

    result.save(folder / "reconstruction.npz")
    write_viewer(result, folder / "viewer.html")
    for name, draw in (("overview", overview), ("time_slice", time_slice), ("camera_path", camera_path)):
        draw(result).savefig(folder / f"{name}.png", dpi=110)


def parse_intrinsics(text: str) -> Tensor:
    """``fx,fy,cx,cy`` or a .json, .npy or .txt file with a 3x3 matrix, in pixels of the original video."""
    try:
        path = Path(text)
        if path.suffix == ".json":
            values = np.array(json.loads(path.read_text()), dtype=np.float64)
        elif path.suffix in {".npy", ".txt"}:
            values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path)
        else:
            fx, fy, cx, cy = (float(part) for part in text.split(","))
            values = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    except (OSError, ValueError) as error:
        raise InputError(
            f"intrinsics: expected fx,fy,cx,cy or a file with a 3x3 matrix, but {text}: {error}"
        ) from error
    if values.shape != (3, 3):
        raise InputError(f"intrinsics: expected a 3x3 matrix, but {text} has shape {values.shape}")
    return torch.from_numpy(values).float()


def _load_masks(options: argparse.Namespace, clip: Clip) -> Tensor:
    selection = {"start": options.start, "stride": options.stride, "max_frames": options.max_frames}
    masks = load_clip(options.true_masks, **selection).frames[..., 0] > 127
    expected = (len(clip), clip.original.original_height, clip.original.original_width)
    if tuple(masks.shape) != expected:
        raise InputError(f"true_masks: expected masks of shape {expected}, but it is {tuple(masks.shape)}")
    return masks


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m c4d_nb", description="4D reconstruction from a monocular video.")
    parser.add_argument("video", help="a video file, a folder of images, or a clip archive (.npz)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--long-side", type=int, default=384, metavar="PX", help="shrink frames to this (default 384)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (default 0)")
    parser.add_argument("--stride", type=int, default=1, metavar="N", help="keep every N-th frame (default 1)")
    parser.add_argument("--max-frames", type=int, metavar="N", help="keep at most N frames")
    parser.add_argument(
        "--intrinsics",
        metavar="K",
        help="known: fx,fy,cx,cy or a file with a 3x3 matrix, in original pixels",
    )
    parser.add_argument("--true-masks", metavar="DIR", help="folder of true motion masks, to score against")
    parser.add_argument("--seed", type=int, default=0, help="of the random query points (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
