"""How long the stages of making a clip take, and how fast rays are cast, beside MuJoCo's ``mj_multiRay``.

``python tests/benchmarks/bench_render.py --seeds 4 --samples 3 4``. Seconds on the clock depend on what else the
machine does; seconds of processor time, which count all threads, less so.
"""

import argparse
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # before anything imports tqdm

import mujoco
import numpy as np
import torch

sys.path.append(str(Path(__file__).parent.parent))

from mujoco_oracle import NO_NORMAL, oracle_model

from c4d_nb.camera import pixel_grid, rays
from c4d_nb.clip import Clip
from c4d_nb.errors import InputError
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.farm import generate_clips, make_clip
from c4d_nb.kubric.ranges import SPLITS
from c4d_nb.kubric.render import render_frame
from c4d_nb.kubric.sampling import sample_scene
from c4d_nb.kubric.scene import Scene
from c4d_nb.kubric.store import COMPUTED, Recipe
from c4d_nb.kubric.tracks import point_tracks, sample_tapvid_queries
from c4d_nb.kubric.truth import complete_truth

_log = logging.getLogger("bench_render")


class Stages:
    """Seconds of each stage, (on the clock, of processors), one pair a clip."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {}

    def time(self, stage: str, call: Callable[[], object]) -> object:
        clock, processors = time.perf_counter(), time.process_time()
        result = call()
        pair = time.perf_counter() - clock, time.process_time() - processors
        self.seconds.setdefault(stage, []).append(pair)
        return result

    def log(self) -> None:
        _log.info("%-28s %10s %14s", "seconds a clip, mean", "clock", "all processors")
        for stage, pairs in self.seconds.items():
            _log.info("%-28s %10.2f %14.2f", stage, *np.mean(pairs, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the stages of making clips of 24 x 256 x 256, and rays.")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="clips to time (default 4)")
    parser.add_argument("--samples", type=int, nargs="+", default=[3, 4], metavar="N", help="default 3 4")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    _log.info("%s, %d cores, load %.1f", platform.machine(), os.cpu_count(), os.getloadavg()[0])
    make_clip(Recipe(0, size=32, frames=4, samples=1))  # compiles, or reads the cache
    recipes = [
        Recipe(seed, list(SPLITS)[seed % len(SPLITS)], samples=max(options.samples)) for seed in range(options.seeds)
    ]
    stages = Stages()
    scenes = [time_stages(stages, recipe, options.samples) for recipe in recipes]
    time_gpu(stages, scenes, options.samples)
    stages.log()
    time_generation(recipes)
    compare_rays(scenes)


def time_stages(stages: Stages, recipe: Recipe, all_samples: list[int]) -> Scene:
    sample = partial(sample_scene, recipe.seed, split=recipe.split)
    scene = stages.time("scene", sample)
    for samples in all_samples:
        stages.time(f"frames, {samples} x {samples}", partial(cpu_frames, scene, samples))
    _, clip = stages.time("whole clip", partial(make_clip, recipe))
    maps = replace(clip.truth, **dict.fromkeys(COMPUTED))
    stages.time("of that, truth", partial(complete_truth, maps))
    stages.time("of that, tracks", partial(tracks, clip, scene))
    return scene


def cpu_frames(scene: Scene, samples: int) -> list:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(partial(render_frame, scene, samples=samples), range(len(scene))))


def tracks(clip: Clip, scene: Scene) -> object:
    queries = sample_tapvid_queries(clip.truth, generator=torch.Generator().manual_seed(0))
    return point_tracks(clip.truth, queries, scene=scene)


def time_gpu(stages: Stages, scenes: list[Scene], all_samples: list[int]) -> None:
    try:
        from c4d_nb.kubric.render_cuda import render_frames

        render_frames(scenes[0], samples=1)
    except InputError as error:
        _log.info("no GPU: %s", error)
        return
    for scene in scenes:
        for samples in all_samples:
            stages.time(f"frames, {samples} x {samples}, GPU", partial(render_frames, scene, samples=samples))


def time_generation(recipes: list[Recipe]) -> None:
    """After a small clip for each process: to start them takes seconds."""
    cores = os.cpu_count()
    plan = [replace(recipe, seed=recipe.seed + len(recipes) * i) for recipe in recipes for i in range(cores)]
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        generate_clips([Recipe(seed, size=32, frames=4, samples=1) for seed in range(cores)], first)
        start = time.perf_counter()
        generate_clips(plan, second)
        elapsed = time.perf_counter() - start
    rate = 3600 * len(plan) / elapsed
    _log.info("%d clips, written too, by %d processes in %.1f s: %.0f an hour", len(plan), cores, elapsed, rate)


def compare_rays(scenes: list[Scene]) -> None:
    """Depth and segmentation of all frames by one thread: ``cast``, and MuJoCo."""
    torch.set_num_threads(1)
    seconds, agree, count = np.zeros(2), np.zeros(2), 0
    for scene in scenes:
        uv = pixel_grid(scene.height, scene.width).double().reshape(-1, 2)
        for frame in range(len(scene)):
            start = time.process_time()
            depth, segmentation = cast(scene, frame, uv)
            seconds[0] += time.process_time() - start
            elapsed, depth_there, segmentation_there = mujoco_rays(scene, frame, uv)
            seconds[1] += elapsed
            agree[0] += (segmentation == segmentation_there).sum().item()
            agree[1] += torch.isclose(depth, depth_there, rtol=1e-6, atol=0).sum().item()
            count += len(uv)
    ours, theirs = count / seconds / 1e6
    _log.info("million rays a second, one thread: cast %.2f, mj_multiRay %.2f, ratio %.2f", ours, theirs, ours / theirs)
    _log.info("of %d rays %.4f %% hit the same body, %.4f %% as far away", count, *(100 * agree / count))


def mujoco_rays(scene: Scene, frame: int, uv: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """(seconds, z-depth, segmentation) of one call of ``mj_multiRay``; the model is built before."""
    model = oracle_model(scene, frame)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    world_from_cam = scene.world_from_cam[frame].double()
    directions = rays(scene.intrinsics.double(), uv) @ world_from_cam[:3, :3].T
    length = directions.norm(dim=1)
    eye, vectors = world_from_cam[:3, 3].numpy(), (directions / length[:, None]).numpy().reshape(-1)
    geom, distance = np.empty(len(uv), dtype=np.int32), np.empty(len(uv))
    start = time.process_time()
    mujoco.mj_multiRay(model, data, eye, vectors, None, True, -1, geom, distance, *NO_NORMAL, len(uv), np.inf)
    elapsed = time.process_time() - start
    return elapsed, torch.from_numpy(distance) / length, torch.from_numpy(model.geom_bodyid[geom]).long()


if __name__ == "__main__":
    main()
