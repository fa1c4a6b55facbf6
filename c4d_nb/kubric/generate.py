"""Synthetic clips with their whole truth, after Kubric's MOVi datasets.

``python -m c4d_nb.kubric.generate --split movi_f --seeds 0:500 --out DIR`` makes 500 of them, one file each. Run again,
it makes those that are missing.
"""

import argparse
import logging
import re
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path

import c4d_nb
from c4d_nb.errors import InputError

EXIT_FAILURES, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

_log = logging.getLogger(__name__)

_EPILOG = """\
Beyond one machine:
  a job array      --seeds $((SLURM_ARRAY_TASK_ID * 100)):$((SLURM_ARRAY_TASK_ID * 100 + 100))
                   in every job, all with the same --out
  a Dask cluster   --backend dask --scheduler tcp://HOST:8786
  a Ray cluster    in Python: ray.util.joblib.register_ray(), then
                   c4d_nb.kubric.farm.generate_clips(recipes, out, backend="ray")
"""


def generate_clip(
    seed: int,
    *,
    split: str = "movi_e",
    subset: str = "train",
    case: str | None = None,
    size: int = 256,
    frames: int = 24,
    samples: int = 4,
    n_tracks: int = 256,
    images: str | Path | None = None,
) -> "c4d_nb.Clip":
    """A random clip of ``frames`` frames of ``size`` x ``size`` px, the same for the same arguments.

    ``split`` is one of "movi_e", "panning_movi_e", "movi_f"; training and validation never share a scene; ``case``
    forces what the scene shows (``c4d_nb.kubric.ranges.CASES``); ``samples`` x ``samples`` rays colour a pixel;
    ``images`` is a folder of pictures for textures. All cores work on it.
    """
    from c4d_nb.kubric.farm import make_clip
    from c4d_nb.kubric.store import Recipe

    folder = None if images is None else str(images)
    return make_clip(Recipe(seed, split, subset, case, size, frames, samples, n_tracks, folder))[1]


def parse_seeds(text: str) -> range:
    """``7``, ``0:500`` (without 500) or ``0:500:5``."""
    match = re.fullmatch(r"(\d+)(?::(\d+)(?::(\d+))?)?", text, re.ASCII)
    if match is None or int(match[3] or 1) == 0:
        raise InputError(f"seeds: expected a seed, START:STOP or START:STOP:STEP, but it is {text!r}")
    start = int(match[1])
    seeds = range(start, start + 1 if match[2] is None else int(match[2]), int(match[3] or 1))
    if not seeds:
        raise InputError(f"seeds: expected a range that holds a seed, but {text!r} holds none")
    return seeds


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return _run(options)
    except InputError as error:
        _log.error("error: %s", error)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        _log.error("interrupted: the same command makes the clips that are missing")
        return EXIT_INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    from c4d_nb.kubric.farm import GenerationError, generate_clips  # takes seconds, and Ctrl-C may come within them
    from c4d_nb.kubric.store import Recipe

    names = {f.name for f in fields(Recipe)} & vars(options).keys()
    recipes = [Recipe(seed, **{n: getattr(options, n) for n in names}) for seed in parse_seeds(options.seeds)]
    try:
        with _cluster(options.backend, options.scheduler):
            paths = generate_clips(
                recipes, options.out, jobs=options.jobs, backend=options.backend, device=options.device
            )
    except GenerationError as error:
        _log.error("%s", error)
        return EXIT_FAILURES
    except TimeoutError as error:
        raise InputError(f"scheduler: expected a cluster with workers, but {options.scheduler} has none") from error
    except BrokenProcessPool:
        _log.error("error: a worker was killed (out of memory?): the same command makes the clips that are missing")
        return EXIT_FAILURES
    _log.info("%d clips in %s, %.1f MB", len(paths), options.out, sum(p.stat().st_size for p in paths) / 1e6)
    return 0


def _cluster(backend: str, scheduler: str | None) -> AbstractContextManager:
    """A connection to the Dask cluster, if there is one; joblib finds it by itself."""
    if (backend == "dask") != (scheduler is not None):
        raise InputError('scheduler: expected an address with the backend "dask", and none with any other')
    if scheduler is None:
        return nullcontext()
    try:
        from distributed import Client

        return Client(scheduler)
    except ImportError as error:
        raise InputError("backend: expected the package distributed for dask, but it is not installed") from error
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler: {scheduler} does not answer ({error})") from error


def _absolute(path: str) -> str:
    """Workers may run in another folder."""
    return str(Path(path).resolve())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.kubric.generate",
        description="Synthetic clips with their whole truth, one file each. A second run makes what is missing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", required=True, metavar="A:B", help="a range without its end, or one seed")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the clips")
    parser.add_argument("--split", default="movi_e", metavar="NAME", help="movi_e (default), panning_movi_e or movi_f")
    parser.add_argument("--subset", default="train", metavar="NAME", help="train (default) or validation")
    parser.add_argument(
        "--case",
        metavar="NAME",
        help="force what the scenes show: static, hit, epipolar, large_mover, pure_rotation or still_camera",
    )
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="height and width (default 256)")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="default 24")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="N x N rays colour a pixel (default 4)")
    parser.add_argument("--images", type=_absolute, metavar="FOLDER", help="pictures for textures")
    parser.add_argument("--jobs", type=int, default=-1, metavar="N", help="processes (default -1: one a core)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="that renders (default cpu)")
    parser.add_argument("--backend", choices=("loky", "dask"), default="loky", help="of joblib (default loky)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of the Dask cluster, with --backend dask")
    return parser


if __name__ == "__main__":
    sys.exit(main())
