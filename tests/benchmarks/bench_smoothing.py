"""Seconds of trajectory smoothing and of linear blend displacement, against the formulas written out plainly.

``python tests/benchmarks/bench_smoothing.py``. Smoothing: 90 frames of 5,000 tracks, a fifth of the samples unseen,
against the same sum for each sample in numpy, of a part of the tracks (time grows with their number). Blending: a
million pixels of a depth map, 5,000 of them controls, four neighbours, against the distances to all controls. Each is
the least of several runs in this process; results are compared first.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from c4d_nb.camera import pinhole, unproject
from c4d_nb.smoothing import linear_blend_displacement, smooth_trajectories

FRAMES, TRACKS, SIDE_PX, CONTROLS, NEIGHBOURS = 90, 5_000, 1_000, 5_000, 4
PLAIN_TRACKS, PLAIN_PART = 50, 5_000
"""How many tracks the plain loop smooths, and how many points have all their distances at once."""


def plain_smoothing(xyz: np.ndarray, visible: np.ndarray, reach: int = 2) -> np.ndarray:
    smoothed = xyz.copy()
    frames, tracks, _ = xyz.shape
    weight = np.zeros((frames, tracks))
    for j in range(tracks):
        for t in range(frames):
            before, after = (t - 1, t) if t else (0, 1)
            joined = visible[before, j] and visible[after, j]
            step = np.linalg.norm(xyz[after, j] - xyz[before, j]) if joined else 0.0
            weight[t, j] = np.exp(-step) * visible[t, j]
        for t in range(frames):
            around = slice(max(0, t - reach), t + reach + 1)
            if visible[t, j] and weight[around, j].sum() > 1e-11:
                smoothed[t, j] = (weight[around, j, None] * xyz[around, j]).sum(0) / weight[around, j].sum()
    return smoothed


def dense_blend(points: torch.Tensor, controls: torch.Tensor, displacements: torch.Tensor) -> torch.Tensor:
    moved = []
    for part in points.split(PLAIN_PART):
        distance, index = torch.cdist(part, controls).topk(NEIGHBOURS, dim=1, largest=False)
        weight = 1 / distance.clamp(min=1e-9)
        moved.append(part + (weight[..., None] * displacements[index]).sum(1) / weight.sum(1, keepdim=True))
    return torch.cat(moved)


def least(run: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def report(name: str, seconds: float, plain: float) -> None:
    print(
        f"{name:44}{1000 * seconds:10.1f} ms, plain {1000 * plain:10.1f} ms, {plain / seconds:7.1f} times", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of smoothing and blending, against the plain formulas.")
    parser.add_argument("--repeats", type=int, default=10, help="of which the fastest counts (default: 10)")
    repeats = parser.parse_args().repeats
    generator = torch.Generator().manual_seed(0)
    print(f"{torch.get_num_threads()} threads, the least of {repeats} runs")

    xyz = torch.randn(FRAMES, TRACKS, 3, generator=generator).mul(0.02).cumsum(0)
    visible = torch.rand(FRAMES, TRACKS, generator=generator) > 0.2
    few = xyz[:, :PLAIN_TRACKS], visible[:, :PLAIN_TRACKS]
    plain_few = [x.numpy() for x in few]
    np.testing.assert_allclose(
        smooth_trajectories(few[0], visible=few[1]).numpy(), plain_smoothing(*plain_few), atol=1e-5
    )
    plain = least(lambda: plain_smoothing(*plain_few), 2) * TRACKS / PLAIN_TRACKS
    name = f"smoothing of {FRAMES} frames x {TRACKS:,} tracks"
    report(name, least(lambda: smooth_trajectories(xyz, visible=visible), repeats), plain)
    repaired = {"per_median_step": True, "both_steps": True, "shrink_at_ends": True}
    report("  with every repair", least(lambda: smooth_trajectories(xyz, visible=visible, **repaired), repeats), plain)

    depth = 4 + torch.rand(SIDE_PX // 20, SIDE_PX // 20, generator=generator)
    depth = torch.nn.functional.interpolate(depth[None, None], (SIDE_PX, SIDE_PX), mode="bicubic")[0, 0]
    points = unproject(depth, pinhole(1.1 * SIDE_PX, SIDE_PX, SIDE_PX)).reshape(-1, 3)
    controls = points[torch.randperm(len(points), generator=generator)[:CONTROLS]]
    controls = controls + 0.001 * torch.randn(CONTROLS, 3, generator=generator)  # a track seldom meets a pixel
    cloud = points, controls, 0.05 * torch.randn(CONTROLS, 3, generator=generator)
    moved = linear_blend_displacement(points[:PLAIN_PART], *cloud[1:])
    off = (moved - dense_blend(points[:PLAIN_PART], *cloud[1:])).norm(dim=1)
    assert off.quantile(0.99) < 1e-3  # the matrix product inside cdist loses digits of the smallest distances
    name = f"blend of {len(points):,} points, {CONTROLS:,} controls"
    report(name, least(lambda: linear_blend_displacement(*cloud), repeats), least(lambda: dense_blend(*cloud), 1))


if __name__ == "__main__":
    main()
