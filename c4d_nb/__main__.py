"""``python -m c4d_nb VIDEO --out DIR``: a video in, 4D out."""

import argparse
import logging
import sys
from pathlib import Path

from c4d_nb.errors import InputError

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("imageio").setLevel(logging.WARNING)
    try:
        from c4d_nb.command_line import run  # takes seconds, and Ctrl-C may come within them

        scores, written = run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(f"error: out: could not write into {options.out} ({error.strerror or error})", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    for name, value in scores.items():
        print(f"{name:32} {value:10.4f}")
    print(f"written to {options.out}: {', '.join(written)}")
    return 0


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
    parser.add_argument(
        "--pointmaps",
        default="small",
        metavar="NAME",
        help="network: small (shipped, default), dust3r_512_dpt, monst3r_512_dpt, ..., a path, or two_view for none",
    )
    parser.add_argument(
        "--tracker",
        default="flow",
        metavar="NAME",
        help="flow (chained, default), or DynPT's weights: dynpt (shipped) or a path",
    )
    parser.add_argument("--masks", metavar="DIR", help="folder of masks of what moves, to use instead of our own")
    parser.add_argument("--combine-masks", action="store_true", help="use --masks beside our own, not instead of them")
    parser.add_argument("--true-masks", metavar="DIR", help="folder of true motion masks, to score against")
    parser.add_argument(
        "--export",
        default="",
        metavar="FORMATS",
        help="comma-separated: colmap, nerfstudio, ply, ply_sequence, glb, tum, npz; each is read back and checked",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="C",
        help="export only points more certain than this; 1 is a guess (default: as the viewer shows)",
    )
    parser.add_argument(
        "--solver",
        choices=["paper", "fast"],
        default="paper",
        help="of stage 1: the paper's 300 steps of Adam (default), or closed forms, a sixteenth of the time",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random query points (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
