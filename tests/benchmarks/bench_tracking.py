"""Seconds and peak memory of DynPT's tracking, against the number of points and against the length of the video.

``python tests/benchmarks/bench_tracking.py``. Each case runs in a process of its own, for its peak memory; the result
itself (17 bytes a point and frame) is part of it. The flow-chained tracker beside it is the weight-free alternative.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import sys
import time

os.environ["TQDM_DISABLE"] = "1"  # before anything imports tqdm

import torch

from c4d_nb.clip import Clip, load_clip
from c4d_nb.correspondence.dynpt import DynPT
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.tracking import track, track_by_flow

_log = logging.getLogger("bench_tracking")


def there_and_back(clip: Clip, frames: int) -> Clip:
    """A longer video: the clip forward, backward, forward, ..."""
    once = list(range(len(clip))) + list(range(len(clip) - 2, 0, -1))
    return Clip(clip.frames[[once[i % len(once)] for i in range(frames)]], clip.fps)


def measure(way: str, path: str, weights: str, points: int, frames: int, results: multiprocessing.Queue) -> None:
    clip = there_and_back(load_clip(path), frames)
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(points, 2, generator=generator) * torch.tensor([clip.size[1] - 1.0, clip.size[0] - 1.0])
    queries = Queries(uv, torch.randint(frames, (points,), generator=generator))
    model = DynPT.from_checkpoint(weights)
    track(Clip(clip.frames[:4], clip.fps), Queries(uv[:4], torch.zeros(4, dtype=torch.long)), model=model)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    track(clip, queries, model=model) if way == "DynPT" else track_by_flow(clip.frames, queries)
    seconds = time.perf_counter() - start
    results.put((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds and peak memory of tracking on the CPU.")
    parser.add_argument("--clip", default="data/movi_e.npz", metavar="FILE")
    parser.add_argument("--weights", default="dynpt", metavar="NAME")
    parser.add_argument("--points", type=int, nargs="*", default=(100, 400, 1000, 2000), metavar="N")
    parser.add_argument("--frames", type=int, nargs="*", default=(24, 50, 100, 200), metavar="N")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    context = multiprocessing.get_context("spawn")
    _log.info("%d cores, load %.1f", os.cpu_count(), os.getloadavg()[0])
    _log.info("%-14s %8s %8s %10s %18s", "", "points", "frames", "seconds", "peak memory, MiB")
    cases = [("DynPT", n, options.frames[0]) for n in options.points]
    cases += [("DynPT", 400, t) for t in options.frames[1:]] + [("flow-chained", 400, options.frames[0])]
    for way, points, frames in cases:
        results = context.Queue()
        process = context.Process(target=measure, args=(way, options.clip, options.weights, points, frames, results))
        process.start()
        seconds, peak_mib = results.get()
        process.join()
        _log.info("%-14s %8d %8d %10.2f %18.0f", way, points, frames, seconds, peak_mib)


if __name__ == "__main__":
    main()
