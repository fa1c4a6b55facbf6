"""Seconds of the parts of motion masks: flow, tracks, F and residuals of every pair, evidence, consensus, smoothing.

``python tests/benchmarks/bench_masks.py [CLIP]``; by default the clip of the quickstart, 24 frames of 256x256 px, 190
directed pairs. Flow is measured against OpenCV's preset of DIS, every pair from scratch, and F's part against OpenCV's
LMedS on the same matches, in the same run.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch

from c4d_nb import load_clip
from c4d_nb.camera import pixel_grid
from c4d_nb.consensus import agree, smooth_within_edges
from c4d_nb.correspondence.flow import estimate_flows
from c4d_nb.correspondence.queries import clip_queries
from c4d_nb.correspondence.tracking import track_by_flow
from c4d_nb.epipolar import FUNDAMENTAL, HOMOGRAPHY, least_median, sampson_error
from c4d_nb.motion_mask import PAIRS_AT_ONCE, epipolar_motion_masks, motion_evidence, static_matches
from c4d_nb.pointmaps.scene_graph import sliding_window_graph


def timed(name: str, run: Callable[[], object]) -> object:
    start = time.perf_counter()
    found = run()
    print(f"{name:40}{time.perf_counter() - start:8.2f} s", flush=True)
    return found


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "data" / "movi_e.npz"
    clip = load_clip(path)
    edges = sliding_window_graph(len(clip))
    print(f"{len(clip)} frames of {clip.size[1]}x{clip.size[0]} px, {len(edges)} directed pairs")
    flows, valid = timed("flow (DIS)", lambda: estimate_flows(clip.frames, edges, progress=False))
    timed("the same by OpenCV's preset", lambda: preset(clip.frames, edges))
    queries = clip_queries(clip.frames, every=4, generator=torch.Generator().manual_seed(0))
    tracks = timed("tracks by chained flow, mobility", lambda: track_by_flow(clip.frames, queries))
    static = timed("static matches", lambda: static_matches(flows, tracks, edges, believed=valid))
    pairs = list(torch.arange(len(edges)).split(PAIRS_AT_ONCE))

    def models(model) -> torch.Tensor:
        return torch.cat([least_median(model, static.uv_1[i], static.uv_2[i], static.count[i]) for i in pairs])

    F = timed("F by least median of squares", lambda: models(FUNDAMENTAL))
    timed("the same by OpenCV, without refit", lambda: opencv(static))
    timed("homography by least median of squares", lambda: models(HOMOGRAPHY))
    grid = pixel_grid(*clip.size).reshape(-1, 2)
    timed(
        "Sampson error of every pixel",
        lambda: [sampson_error(F[i], grid, grid + flows[i].flatten(1, 2)) for i in pairs],
    )
    options = {"believed": valid}
    evidence, weight = timed("all evidence", lambda: motion_evidence(flows, tracks, edges, **options))
    agreed = timed("consensus of superpixels", lambda: agree(clip.frames, evidence, weight))
    timed("smoothing within edges", lambda: smooth_within_edges(clip.frames, agreed))
    timed("paper, whole", lambda: epipolar_motion_masks(flows, tracks, edges))
    robust = {"method": "robust", "frames": clip.frames, "valid": valid}
    timed("robust, whole", lambda: epipolar_motion_masks(flows, tracks, edges, **robust))


def preset(frames: torch.Tensor, edges: torch.Tensor) -> None:
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame.numpy(), cv2.COLOR_RGB2GRAY) for frame in frames]
    for n, m in edges.tolist():
        search.calc(gray[n], gray[m], None)


def opencv(static) -> None:
    for uv_1, uv_2, count in zip(static.uv_1, static.uv_2, static.count.tolist(), strict=True):
        cv2.findFundamentalMat(uv_1[:count].numpy(), uv_2[:count].numpy(), cv2.FM_LMEDS, 1.0, 0.99, 1000)


if __name__ == "__main__":
    main()
