"""One picture of many clips: a frame of each, what moves outlined.

``python -m c4d_nb.show.sheet FOLDER --out sheet.png`` draws it for the clip archives of a folder.
"""

import argparse
import logging
import math
import sys
from pathlib import Path

import cv2
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from c4d_nb.archive import archives_in, atomic_output
from c4d_nb.clip import Clip, load_clip
from c4d_nb.errors import InputError
from c4d_nb.show.colors import outline_image

COLUMNS = 6

_log = logging.getLogger(__name__)


def contact_sheet(
    frames: list[UInt8[Tensor, "h w 3"]], masks: list[Bool[Tensor, "h w"]], *, columns: int = COLUMNS
) -> UInt8[Tensor, "H W 3"]:
    """Frames of one size in rows of ``columns``, masks outlined in orange; black fills the last row."""
    if not frames or len({frame.shape for frame in frames}) != 1:
        raise InputError(f"frames: expected one or more of one size, but there are {[tuple(f.shape) for f in frames]}")
    tiles = [outline_image(frame, mask) for frame, mask in zip(frames, masks, strict=True)]
    rows = math.ceil(len(tiles) / columns)
    tiles += [torch.zeros_like(tiles[0])] * (rows * columns - len(tiles))
    return torch.cat([torch.cat(tiles[r * columns : (r + 1) * columns], dim=1) for r in range(rows)])


def sheet_of(paths: list[Path], *, columns: int = COLUMNS) -> UInt8[Tensor, "H W 3"]:
    """The middle frame of each clip archive, in the order given."""
    clips = [load_clip(path) for path in paths]
    return contact_sheet(
        [c.frames[len(c) // 2] for c in clips], [_moving(c, len(c) // 2) for c in clips], columns=columns
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m c4d_nb.show.sheet", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of clip archives")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), metavar="FILE")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        paths = archives_in(options.folder)
        if not paths:
            raise InputError(f"folder: expected clip archives (.npz), but {options.folder} holds none")
        sheet = sheet_of(paths)
        with atomic_output(options.out) as partial:
            if not cv2.imwrite(str(partial), sheet.numpy()[..., ::-1]):
                raise InputError(f"out: cannot write {options.out}")
    except InputError as error:
        _log.error("error: %s", error)
        return 2
    _log.info("%s: %d clips", options.out, len(paths))
    return 0


def _moving(clip: Clip, frame: int) -> Bool[Tensor, "h w"]:
    """What moves in the clip, as a mask of one frame; nothing where that is not known."""
    truth = clip.truth
    if truth is None or truth.motion_mask is None:
        return torch.zeros(clip.size, dtype=torch.bool)
    return truth.motion_mask[frame]


if __name__ == "__main__":
    sys.exit(main())
