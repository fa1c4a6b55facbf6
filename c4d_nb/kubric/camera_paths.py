"""Kubric's camera paths: straight, at constant speed, looking at a point that stands or moves on a line."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.kubric.ranges import SPLITS, Interval, MoviRanges
from c4d_nb.kubric.scene import look_at

LOWEST_M = 0.1
"""Of the camera, above the floor."""


def sample_camera(
    rng: np.random.Generator, ranges: MoviRanges, frames: int, case: str | None = None
) -> Float[Tensor, "t 4 4"]:
    """world_from_cam of a random path: frames 1 to t of the t + 2 that Kubric simulates."""
    eye = _travel(rng, ranges, case)
    if case == "still_camera":
        target = np.zeros((2, 3))
    elif case == "pure_rotation" or ranges.look_at_radius_m:
        target = _pan(rng, ranges.look_at_radius_m or SPLITS["panning_movi_e"].look_at_radius_m)
    else:
        target = np.zeros((2, 3))
    share = torch.arange(1, frames + 1, dtype=torch.float64)[:, None] / (frames + 2)
    ends = torch.from_numpy(np.stack([eye, target]))
    path = torch.lerp(ends[:, None, 0], ends[:, None, 1], share)
    return look_at(path[0], path[1])


def _travel(rng: np.random.Generator, ranges: MoviRanges, case: str | None) -> np.ndarray:
    """(2, 3): where the camera starts and ends, both in the half shell."""
    inside = _in_half_shell(ranges.camera_radius_m)
    start = _draw(rng, ranges.camera_radius_m[1], inside)
    if case in ("pure_rotation", "still_camera"):
        return np.stack([start, start])
    low, high = ranges.camera_travel_m
    while True:
        step = rng.normal(size=3)
        if case == "epipolar":  # a body on the floor can go along
            step[2], low = 0.0, high / 2
        end = start + rng.uniform(low, high) * step / np.linalg.norm(step)
        if inside(end):
            return np.stack([start, end])


def _pan(rng: np.random.Generator, radius_m: Interval) -> np.ndarray:
    """(2, 3): the points looked at first and last."""
    inner, outer = radius_m
    far = _draw(rng, outer, lambda p: np.linalg.norm(p) < outer and 0 < p[2] < 1)
    near = _draw(rng, inner, lambda p: np.linalg.norm(p) < inner and p[2] > 0)
    ends = np.stack([far, near + rng.uniform(0, 0.5) * (near - far)])
    return ends[::-1].copy() if rng.random() < 0.5 else ends


def _in_half_shell(radius_m: Interval) -> Callable[[np.ndarray], bool]:
    return lambda p: bool(radius_m[0] <= np.linalg.norm(p) <= radius_m[1] and p[2] > LOWEST_M)


def _draw(rng: np.random.Generator, reach: float, accept: Callable[[np.ndarray], bool]) -> np.ndarray:
    while True:
        point = rng.uniform(-reach, reach, 3)
        if accept(point):
            return point
