"""Pair inference with each frame encoded once, beside encoding both frames of every pair as the published code does.

``python tests/benchmarks/bench_pointmaps.py --encoder 192 6 6 --decoder 192 4 6``. Each way runs in a process of its
own, for its peak memory. Weights are random: time does not depend on them.
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
from torch import Tensor

from c4d_nb.clip import PairPointmaps
from c4d_nb.pointmaps.dust3r import DUSt3R, DUSt3RConfig
from c4d_nb.pointmaps.inference import network_images, predict_pointmaps
from c4d_nb.pointmaps.scene_graph import sliding_window_graph

_log = logging.getLogger("bench_pointmaps")


def encode_every_time(model: DUSt3R, frames: Tensor, edges: Tensor, *, batch_size: int) -> PairPointmaps:
    images = network_images(frames)
    with torch.inference_mode():
        batches = [model(*images[edges[i]].unbind(1)) for i in torch.arange(len(edges)).split(batch_size)]
    xyz_1, conf_1, xyz_2, conf_2 = (torch.cat(parts).half() for parts in zip(*batches, strict=True))
    return PairPointmaps(edges, xyz_1, xyz_2, conf_1, conf_2)


WAYS = {"each frame encoded once": predict_pointmaps, "both frames of every pair": encode_every_time}


def measure(way: str, config: DUSt3RConfig, size: int, t: int, batch_size: int, results: multiprocessing.Queue) -> None:
    model = DUSt3R(config).eval()
    frames = torch.randint(0, 256, (t, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    edges = sliding_window_graph(t)
    WAYS[way](model, frames[:2], edges[:1] * 0 + torch.tensor([0, 1]), batch_size=1)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    WAYS[way](model, frames, edges, batch_size=batch_size)
    seconds = time.perf_counter() - start
    results.put((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, len(edges)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds and peak memory of pair inference on the CPU.")
    parser.add_argument("--encoder", type=int, nargs=3, default=(192, 6, 6), metavar="N", help="width depth heads")
    parser.add_argument("--decoder", type=int, nargs=3, default=(192, 4, 6), metavar="N", help="width depth heads")
    parser.add_argument("--head", choices=("linear", "dpt"), default="linear")
    parser.add_argument("--size", type=int, default=256, metavar="PX")
    parser.add_argument("--frames", type=int, default=24, metavar="N")
    parser.add_argument("--batch", type=int, default=8, metavar="N")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    config = DUSt3RConfig(options.head, tuple(options.encoder), tuple(options.decoder))
    context = multiprocessing.get_context("spawn")
    _log.info("%d cores, load %.1f; %s", os.cpu_count(), os.getloadavg()[0], config)
    _log.info("%-28s %8s %16s", "", "seconds", "peak memory, MiB")
    for way in WAYS:
        results = context.Queue()
        process = context.Process(
            target=measure, args=(way, config, options.size, options.frames, options.batch, results)
        )
        process.start()
        seconds, peak_mib, pairs = results.get()
        process.join()
        _log.info("%-28s %8.2f %16.0f   (%d pairs)", way, seconds, peak_mib, pairs)


if __name__ == "__main__":
    main()
