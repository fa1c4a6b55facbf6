"""Smoothing of 3D point trajectories, spread to every pixel by linear blend displacement (supplement of C4D)."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm import tqdm

from c4d_nb.clip import Tracks
from c4d_nb.correspondence.flow import sample_map
from c4d_nb.errors import InputError


def smooth_trajectories(
    xyz: Float[Tensor, "t n c"],
    *,
    kernel_size: int = 5,
    decay: float = 1.0,
    visible: Bool[Tensor, "t n"] | None = None,
) -> Float[Tensor, "t n c"]:
    """Moving average of each track in which a sample counts the less, the longer the step that led to it.

    ``w[t] = exp(-decay ||x[t] - x[t-1]||)``, with the first step's weight for t = 0, and ``conv(x w, 1/k) / conv(w,
    1/k)`` with zero padding in both. ``decay`` has the unit 1 / length. An invisible or non-finite sample has weight
    0, the first one after a gap weight 1; an unseen sample stays, and so does one whose window has no weight.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"kernel_size: expected an odd number of at least 1, but it is {kernel_size}")
    weight, seen = _step_weights(xyz, decay, visible)
    clean = torch.where(seen[..., None], xyz, 0.0)
    total = _box_filter(weight, kernel_size)
    smoothed = _box_filter(clean * weight[..., None], kernel_size) / total.clamp(min=1e-12)[..., None]
    return torch.where((seen & (total > 1e-12))[..., None], smoothed, xyz)


def linear_blend_displacement(
    points: Float[Tensor, "p 3"],
    controls: Float[Tensor, "q 3"],
    displacements: Float[Tensor, "q 3"],
    *,
    k: int = 4,
) -> Float[Tensor, "p 3"]:
    """Points moved by their ``k`` nearest controls' displacements, weighted by inverse Euclidean distance.

    ``controls`` are the **original** track points. A point on a control takes that control's displacement (the mean, if
    several lie there); without controls nothing moves; fewer than ``k`` controls are all used.
    """
    if len(controls) == 0:
        return points.clone()
    controls, displacements = _merge_equal(controls, displacements)
    k = min(k, len(controls))
    tree = cKDTree(controls.detach().cpu().numpy())
    distance, index = tree.query(points.detach().cpu().numpy(), k=np.arange(1, k + 1), workers=-1)
    distance = torch.from_numpy(distance).to(points)
    exact = distance <= 1e-12
    weight = torch.where(exact.any(1, keepdim=True), exact.to(points), 1 / distance.clamp(min=1e-12))
    weight = weight / weight.sum(1, keepdim=True)
    return points + torch.einsum("pk,pkc->pc", weight, displacements[torch.from_numpy(index).to(points.device)])


def smooth_pointmaps(
    xyz_world: Float[Tensor, "t h w 3"],
    tracks: Tracks,
    *,
    window: int = 20,
    overlap: int = 5,
    kernel_size: int = 5,
    decay: float = 1.0,
    k: int = 4,
) -> Float[Tensor, "t h w 3"]:
    """The smoothed pointmaps that PTS aims at: tracks lifted to 3D, smoothed, and spread over each frame by LBD.

    ``tracks.uv`` are pixels of the pointmaps. Non-overlapping windows of ``window`` frames, each extended by
    ``overlap`` frames at both ends, of which only the inner ones are kept; the controls of a frame are its visible
    tracks.
    """
    t = len(xyz_world)
    lifted = lift_tracks(xyz_world, tracks)
    smoothed = xyz_world.clone()
    for start in tqdm(range(0, t, window), desc="smoothing", unit="window", leave=False):
        stop = min(start + window, t)
        first, last = max(0, start - overlap), min(t, stop + overlap)
        part = smooth_trajectories(
            lifted[first:last], kernel_size=kernel_size, decay=decay, visible=tracks.visible[first:last]
        )
        for frame in range(start, stop):
            seen = torch.isfinite(lifted[frame]).all(-1)
            controls = lifted[frame, seen]
            moved = linear_blend_displacement(
                xyz_world[frame].reshape(-1, 3), controls, part[frame - first, seen] - controls, k=k
            )
            smoothed[frame] = moved.reshape(xyz_world.shape[1:])
    return smoothed


def lift_tracks(xyz_world: Float[Tensor, "t h w 3"], tracks: Tracks) -> Float[Tensor, "t n 3"]:
    """World positions of 2D tracks, read from the pointmaps (bilinear); NaN where a track is not visible."""
    lifted = torch.stack([sample_map(frame, uv) for frame, uv in zip(xyz_world, tracks.uv.to(xyz_world), strict=True)])
    return torch.where(tracks.visible[..., None], lifted, torch.nan)


def _merge_equal(
    controls: Float[Tensor, "q 3"], displacements: Float[Tensor, "q 3"]
) -> tuple[Float[Tensor, "u 3"], Float[Tensor, "u 3"]]:
    """Controls at one place become one, with their mean displacement."""
    unique, owner, count = controls.unique(dim=0, return_inverse=True, return_counts=True)
    total = torch.zeros_like(unique).index_add_(0, owner, displacements)
    return unique, total / count[:, None]


def _step_weights(xyz: Tensor, decay: float, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weight W[t] of each sample and whether it is seen at all."""
    seen = torch.isfinite(xyz).all(-1)
    if visible is not None:
        seen = seen & visible
    clean = torch.where(seen[..., None], xyz, 0.0)
    if len(xyz) == 1:
        return seen.to(xyz), seen
    step = torch.exp(-decay * (clean[1:] - clean[:-1]).norm(dim=-1))
    joined = seen[1:] & seen[:-1]
    step = torch.where(joined, step, 1.0)  # after a gap there is no step to judge a sample by
    return torch.cat([step[:1], step]) * seen, seen


def _box_filter(values: Tensor, kernel_size: int) -> Tensor:
    """Mean over a centred window along the first axis, zeros beyond its ends."""
    flat = values.flatten(1).T[:, None]
    kernel = values.new_full((1, 1, kernel_size), 1 / kernel_size)
    return F.conv1d(flat, kernel, padding=kernel_size // 2)[:, 0].T.reshape(values.shape)
