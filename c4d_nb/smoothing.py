"""Smoothing of 3D point trajectories, spread to every pixel by linear blend displacement (supplement of C4D).

The defaults are the supplement's formulas; every option beside them repairs one thing that they get wrong.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from c4d_nb.clip import Tracks
from c4d_nb.correspondence.flow import sample_map
from c4d_nb.errors import InputError
from c4d_nb.linear_blend import linear_blend_displacement

NO_WEIGHT = 1e-12
"""A window whose mean weight is not above it says nothing: its point stays."""
TRACKS_AT_ONCE = 1024
"""So that what is computed on the way stays in the cache."""


def smooth_trajectories(
    xyz: Float[Tensor, "t n c"],
    *,
    kernel_size: int = 5,
    decay: float = 1.0,
    visible: Bool[Tensor, "t n"] | None = None,
    per_median_step: bool = False,
    both_steps: bool = False,
    shrink_at_ends: bool = False,
) -> Float[Tensor, "t n c"]:
    """Moving average of each track in which a sample counts the less, the longer the step that led to it.

    ``w[t] = exp(-decay ||x[t] - x[t-1]||)``, with the first step's weight for t = 0, and ``conv(x w, 1/k) / conv(w,
    1/k)`` with zero padding in both. An invisible or non-finite sample has weight 0, the first one after a gap weight
    1; an unseen sample stays, and so does one whose window has no weight.

    ``per_median_step``: ``decay``, whose unit is 1 / length, is divided by the median step, so that the scale of the
    scene does not matter. ``both_steps``: the weight is the geometric mean of those of the step to the sample and of
    the step away from it; a spike then no longer counts against the good sample after it alone. ``shrink_at_ends``:
    near the first and the last frame the window shrinks on both sides alike, so that uniform motion is not bent there.
    """
    _check_smoothing(kernel_size, decay)
    t = len(xyz)
    if t < 2:
        return xyz.clone()
    seen = torch.isfinite(xyz).all(-1)
    if visible is not None:
        seen = seen & visible
    if per_median_step:
        decay = decay / median_step(torch.where(seen[..., None], xyz, torch.nan))
    reach = kernel_size // 2
    parts = zip(xyz.split(TRACKS_AT_ONCE, dim=1), seen.split(TRACKS_AT_ONCE, dim=1), strict=True)
    return torch.cat([_smooth(part, known, reach, decay, both_steps, shrink_at_ends) for part, known in parts], dim=1)


def sample_weights(
    xyz: Float[Tensor, "t n c"], seen: Bool[Tensor, "t n"], *, decay: float = 1.0, both_steps: bool = False
) -> Float[Tensor, "t n"]:
    """The weight W[t] of each sample in ``smooth_trajectories``: 0 where it is not ``seen``."""
    if len(xyz) < 2:
        return seen.to(xyz)
    joined = seen[1:] & seen[:-1]  # after a gap there is no step to judge a sample by
    cost = torch.where(joined, decay * (xyz[1:] - xyz[:-1]).square().sum(-1).sqrt(), 0.0)
    if both_steps:
        steps = torch.zeros_like(seen, dtype=xyz.dtype)
        steps[1:] += joined
        steps[:-1] += joined
        cost = (torch.cat([cost, 0 * cost[:1]]) + torch.cat([0 * cost[:1], cost])) / steps.clamp(min=1)
    else:
        cost = torch.cat([cost[:1], cost])
    return torch.exp(-cost) * seen


def median_step(xyz: Float[Tensor, "t n c"]) -> float:
    """Median distance from a sample to the next, over all tracks; 1 where no two samples in a row are finite."""
    steps = (xyz[1:] - xyz[:-1]).norm(dim=-1)
    steps = steps[torch.isfinite(steps)]
    if len(steps) == 0:
        return 1.0
    # numpy's, since torch's is the lower one of two; never 0, or a track at rest would have a weight of 0/0
    return max(float(np.median(steps.cpu().numpy())), 1e-30)


def smooth_pointmaps(
    xyz_world: Float[Tensor, "t h w 3"],
    tracks: Tracks,
    *,
    window: int = 20,
    overlap: int = 5,
    kernel_size: int = 5,
    decay: float = 1.0,
    per_median_step: bool = False,
    both_steps: bool = False,
    shrink_at_ends: bool = False,
    k: int = 4,
    power: int = 1,
    radius: float | None = None,
    motion_masks: Bool[Tensor, "t h w"] | None = None,
) -> Float[Tensor, "t h w 3"]:
    """The smoothed pointmaps that PTS aims at: tracks lifted to 3D, smoothed, and spread over each frame by LBD.

    ``tracks.uv`` are pixels of the pointmaps. Non-overlapping windows of ``window`` frames, each extended by
    ``overlap`` frames at both ends, of which only the inner ones are kept; the controls of a frame are its visible
    tracks. With ``motion_masks`` dynamic pixels follow tracks of mobility 0.5 and more, all others the rest. The other
    options are those of ``smooth_trajectories`` (the median step is that of the whole video) and of
    ``linear_blend_displacement``.
    """
    _check_windows(xyz_world, tracks, motion_masks, window, overlap)
    _check_smoothing(kernel_size, decay)
    lifted = lift_tracks(xyz_world, tracks)
    dynamic = tracks.mobility.to(lifted) >= 0.5
    if per_median_step:
        decay = decay / median_step(lifted)
    smoothed = torch.empty_like(xyz_world)
    for kept, extended in tqdm(_windows(len(lifted), window, overlap), desc="smoothing", unit="window", leave=False):
        part = smooth_trajectories(
            lifted[extended],
            kernel_size=kernel_size,
            decay=decay,
            both_steps=both_steps,
            shrink_at_ends=shrink_at_ends,
        )
        for frame in kept:
            smoothed[frame] = linear_blend_displacement(
                xyz_world[frame].flatten(0, 1),
                lifted[frame],
                part[frame - extended.start] - lifted[frame],
                k=k,
                power=power,
                radius=radius,
                point_class=None if motion_masks is None else motion_masks[frame].flatten(),
                control_class=None if motion_masks is None else dynamic[frame],
            ).reshape(xyz_world.shape[1:])
    return smoothed


def lift_tracks(xyz_world: Float[Tensor, "t h w 3"], tracks: Tracks) -> Float[Tensor, "t n 3"]:
    """World positions of 2D tracks, read from the pointmaps (bilinear); NaN where a track is not visible."""
    lifted = torch.stack([sample_map(frame, uv) for frame, uv in zip(xyz_world, tracks.uv.to(xyz_world), strict=True)])
    return torch.where(tracks.visible.to(lifted.device)[..., None], lifted, torch.nan)


def _smooth(
    xyz: Float[Tensor, "t n c"],
    seen: Bool[Tensor, "t n"],
    reach: int,
    decay: float,
    both_steps: bool,
    shrink_at_ends: bool,
) -> Float[Tensor, "t n c"]:
    """Every seen sample moved by the weighted mean of what lies around it, relative to it."""
    clean = torch.where(seen, xyz.movedim(-1, 0), 0.0).contiguous()  # coordinates first: several times faster
    weight = sample_weights(clean.movedim(0, -1), seen, decay=decay, both_steps=both_steps)
    total, moved = weight.clone(), torch.zeros_like(clean)
    for here, there in _neighbours(len(xyz), reach, shrink_at_ends):
        total[here] += weight[there]
        moved[:, here].addcmul_(weight[there], clean[:, there] - clean[:, here])
    moves = seen & (total > NO_WEIGHT * (2 * reach + 1))
    moved /= total.clamp(min=NO_WEIGHT)
    return torch.where(moves[..., None], xyz + moved.movedim(0, -1), xyz)


def _neighbours(t: int, reach: int, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    """The frames that have a neighbour so far later, and earlier, and those neighbours; symmetric: that have both."""
    for offset in range(1, min(reach, t - 1) + 1):
        margin = offset if symmetric else 0
        if offset + margin < t:
            yield slice(margin, t - offset), slice(margin + offset, t)
            yield slice(offset, t - margin), slice(0, t - margin - offset)


def _windows(t: int, window: int, overlap: int) -> list[tuple[range, slice]]:
    """The frames that each window keeps, and those that it looks at."""
    kept = [range(start, min(start + window, t)) for start in range(0, t, window)]
    return [(inner, slice(max(0, inner.start - overlap), min(t, inner.stop + overlap))) for inner in kept]


def _check_smoothing(kernel_size: int, decay: float) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"kernel_size: expected an odd number of at least 1, but it is {kernel_size}")
    if not 0 <= decay < math.inf:
        raise InputError(f"decay: expected a finite number of at least 0, but it is {decay}")


def _check_windows(xyz_world: Tensor, tracks: Tracks, motion_masks: Tensor | None, window: int, overlap: int) -> None:
    if window < 1:
        raise InputError(f"window: expected at least 1 frame, but it is {window}")
    if overlap < 0:
        raise InputError(f"overlap: expected at least 0 frames, but it is {overlap}")
    if len(tracks.uv) != len(xyz_world):
        raise InputError(f"tracks: expected {len(xyz_world)} frames like the pointmaps, but there are {len(tracks.uv)}")
    if motion_masks is not None and motion_masks.shape != xyz_world.shape[:3]:
        raise InputError(
            f"motion_masks: expected a shape of {tuple(xyz_world.shape[:3])}, but it is {tuple(motion_masks.shape)}"
        )
