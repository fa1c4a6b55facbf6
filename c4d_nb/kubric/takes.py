"""Static scenes by the thousand: bodies that fell once, seen in several takes, each painted, lit and filmed anew.

``python -m c4d_nb.kubric.takes --seeds 0:600 --out DIR`` makes the clips a pointmap network is trained on. They show
MOVi's bodies and camera paths and nothing that moves. A scene's physics costs as much as a take, and all its takes
share it. Run again, the command makes what is missing.
"""

import argparse
import logging
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from joblib import Parallel, delayed
from torch import Tensor
from tqdm import tqdm

from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip, Truth
from c4d_nb.commands import run_command
from c4d_nb.errors import InputError
from c4d_nb.kubric.camera_paths import sample_camera
from c4d_nb.kubric.generate import parse_seeds
from c4d_nb.kubric.physics import SETTLING, SETTLING_FPS, centered, place, simulate
from c4d_nb.kubric.ranges import SPLITS, SUBSETS, MoviRanges
from c4d_nb.kubric.render import render_frame
from c4d_nb.kubric.sampling import camera_is_clear
from c4d_nb.kubric.scene import Body, Part, Scene
from c4d_nb.kubric.shapes import (
    BODY_PATTERNS,
    FLOOR_PATTERNS,
    WALL_PATTERNS,
    sample_light,
    sample_parts,
    sample_texture,
)

_STREAM = 0x7A4E5
FALL_S = 4.0
"""Long enough to land. What still rolls then is frozen as it is."""
PATH_FRAMES, WINDOW = 24, 12
"""A take's frames are some of a camera path of MOVi's length, at most so many apart, as the pairs of a graph are."""
KEPT = (0.4, 1.0)
"""The share of the bodies that a take shows."""
LOW_M = 3.0
"""A low take's camera begins below. Near and far are then in one picture, which is what a network finds hardest."""
ATTEMPTS = 1000

_log = logging.getLogger(__name__)


def static_takes(
    seed: int,
    *,
    subset: str = "train",
    takes: int = 6,
    frames: int = 4,
    size: int = 256,
    samples: int = 2,
    low: float = 0.0,
) -> list[Clip]:
    """Clips of one static scene with depth, poses and K as truth. The same arguments give the same clips.

    Every take draws paint, light, room, which bodies are shown and the camera's path (half of them of
    MOVi-E, half of panning MOVi-E) anew, and has ``frames`` frames of ``size`` x ``size`` px. ``low`` is the share of
    takes that are panning MOVi-E's from near the floor (``LOW_M``); MOVi's own cameras are seldom there.
    """
    if subset not in SUBSETS:
        raise InputError(f"subset: expected one of {', '.join(SUBSETS)}, but it is {subset!r}")
    for name, value, least, most in (("takes", takes, 1, None), ("frames", frames, 1, WINDOW), ("seed", seed, 0, None)):
        if value < least or (most is not None and value > most):
            raise InputError(f"{name}: expected {least} or more{f' up to {most}' if most else ''}, but it is {value}")
    if not 0 <= low <= 1:
        raise InputError(f"low: expected a share between 0 and 1, but it is {low}")
    rng = np.random.default_rng([_STREAM, SUBSETS.index(subset), seed])
    bodies = _fallen_bodies(rng)
    is_low = [i < round(low * takes) for i in range(takes)]
    return [_filmed(_take(rng, bodies, frames, size, is_low[i]), samples) for i in range(takes)]


def _fallen_bodies(rng: np.random.Generator) -> list[Body]:
    """Drawn again where MuJoCo fails: about one heap in a thousand has more contacts than its memory holds."""
    while True:
        try:
            return _drop(rng)
        except RuntimeError as error:
            _log.debug("drawn again: %s", error)


def _drop(rng: np.random.Generator) -> list[Body]:
    ranges = SPLITS["movi_e"]
    count = rng.integers(ranges.resting[0], ranges.resting[1] + 1)
    solids = [centered(sample_parts(rng, float(rng.uniform(*ranges.size_m)))) for _ in range(count)]
    room = ((-14.0, -14.0, 0.0), (14.0, 14.0, 13.0))
    start = place(solids, ranges.resting_region, rng=rng, room=room)
    fall = simulate(solids, start, frames=int(FALL_S * SETTLING_FPS), fps=SETTLING_FPS, room=room, objects=SETTLING)
    return [
        Body(parts, fall.positions[i, -1:], fall.quaternions[i, -1:], is_dynamic=False)
        for i, parts in enumerate(solids)
    ]


def _take(rng: np.random.Generator, bodies: list[Body], frames: int, size: int, is_low: bool) -> Scene:
    ranges = SPLITS["panning_movi_e" if is_low else ("movi_e", "panning_movi_e")[rng.integers(2)]]
    shown = rng.permutation(len(bodies))[: int(np.ceil(rng.uniform(*KEPT) * len(bodies)))]
    painted = [_painted(rng, bodies[i], frames) for i in shown]
    half, height = float(rng.uniform(14, 26)), float(rng.uniform(13, 20))
    first = rng.integers(PATH_FRAMES - WINDOW + 1)
    chosen = torch.from_numpy(first + np.sort(rng.permutation(WINDOW)[:frames]))
    paint = {
        "floor": sample_texture(rng, 4.0, FLOOR_PATTERNS, saturation=0.5),
        "walls": sample_texture(rng, 6.0, WALL_PATTERNS, saturation=0.5),
        "light": sample_light(rng),
    }
    for _ in range(ATTEMPTS):
        scene = Scene(
            bodies=tuple(painted),
            room=((-half, -half, 0.0), (half, half, height)),
            world_from_cam=_camera(rng, ranges, is_low)[chosen],
            intrinsics=pinhole(ranges.focal * size, size, size).double(),
            height=size,
            width=size,
            **paint,
        )
        if camera_is_clear(scene):
            return scene
    raise RuntimeError(f"no camera path stays clear of the bodies after {ATTEMPTS} attempts")


def _camera(rng: np.random.Generator, ranges: MoviRanges, is_low: bool) -> Float[Tensor, "t 4 4"]:
    while True:
        path = sample_camera(rng, ranges, PATH_FRAMES)
        if not is_low or path[0, 2, 3] < LOW_M:
            return path


def _painted(rng: np.random.Generator, body: Body, frames: int) -> Body:
    """The same body in new paint, standing still."""
    size_m = float((body.box_m[1] - body.box_m[0]).max())
    paints = [sample_texture(rng, size_m, BODY_PATTERNS) for _ in range(2)]
    parts: tuple[Part, ...] = tuple(replace(part, texture=paints[i % 2]) for i, part in enumerate(body.parts))
    return Body(parts, body.positions.repeat(frames, 1), body.quaternions.repeat(frames, 1), is_dynamic=False)


def _filmed(scene: Scene, samples: int) -> Clip:
    rgb, depth, _ = (
        torch.stack(layer)
        for layer in zip(*(render_frame(scene, t, samples=samples) for t in range(len(scene))), strict=True)
    )
    intrinsics = scene.intrinsics.float().expand(len(scene), 3, 3).clone()
    return Clip(rgb, SETTLING_FPS, truth=Truth(depth, scene.world_from_cam.float(), intrinsics))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.kubric.takes",
        description="Static scenes in several takes, one clip a file. A second run makes what is missing.",
    )
    parser.add_argument("--seeds", required=True, metavar="A:B", help="a range without its end, or one seed")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the clips")
    parser.add_argument("--subset", default="train", choices=SUBSETS, help="default train")
    parser.add_argument("--takes", type=int, default=6, metavar="N", help="clips of a scene (default 6)")
    parser.add_argument("--frames", type=int, default=4, metavar="N", help="of a clip (default 4)")
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="height and width (default 256)")
    parser.add_argument("--samples", type=int, default=2, metavar="N", help="N x N rays colour a pixel (default 2)")
    parser.add_argument(
        "--low", type=float, default=0.0, metavar="SHARE", help="of takes from near the floor (default 0)"
    )
    parser.add_argument("--jobs", type=int, default=-1, metavar="N", help="processes (default -1: one a core)")
    return run_command(
        _run, parser.parse_args(arguments), after_interruption="the same command makes the clips that are missing"
    )


def _run(options: argparse.Namespace) -> None:
    seeds = parse_seeds(options.seeds)
    drawn = {name: getattr(options, name) for name in ("subset", "takes", "frames", "size", "samples", "low")}
    todo = [seed for seed in seeds if not all(map(zipfile.is_zipfile, _paths(options.out, seed, drawn)))]
    bar = {"desc": "static scenes", "unit": "scene", "total": len(seeds), "initial": len(seeds) - len(todo)}
    tasks = (delayed(_make)(options.out, seed, drawn) for seed in todo)
    for _ in tqdm(Parallel(options.jobs, return_as="generator_unordered")(tasks), **bar):
        pass
    _log.info("%d clips of %d scenes in %s", len(seeds) * options.takes, len(seeds), options.out)


def _paths(out: Path, seed: int, drawn: dict[str, int | float | str]) -> list[Path]:
    return [out / f"static-{drawn['subset']}-{seed:06d}-{take}.npz" for take in range(int(drawn["takes"]))]


def _make(out: Path, seed: int, drawn: dict[str, int | float | str]) -> None:
    """What a worker does: it saves all takes of a scene, by one thread."""
    torch.set_num_threads(1)
    for path, clip in zip(_paths(out, seed, drawn), static_takes(seed, **drawn), strict=True):
        clip.save(path)


if __name__ == "__main__":
    sys.exit(main())
