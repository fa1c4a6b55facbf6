"""The error atlas: where depth, poses, masks and tracks are wrong, against exact truth; and what noise does to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.camera import fit_similarity, invert, pose
from c4d_nb.clip import Tracks, Truth
from c4d_nb.depth_alignment import align_depth
from c4d_nb.errors import InputError
from c4d_nb.kubric.mobility import position_steps
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR, TRUTH_COLOR
from c4d_nb.show.masks import FALSE_ALARM, HIT, MISSED
from c4d_nb.show.smoothing import LINE_COLORS
from c4d_nb.show.truth import track_paths

OUTLINE_PX = 3
"""Pixels so near to another depth are an outline."""
DEPTH_JUMP = 0.1
"""What a step of depth from a pixel to the next must be, as a share, to be an outline."""
ERROR_LIMIT = 0.25
"""At which the colours of depth errors end."""


@dataclass(frozen=True, eq=False)
class TrackErrors:
    """Each visible point's distance from where it truly is, in metres; NaN where it is not seen or not known."""

    total: Float[Tensor, "t n"]
    along: Float[Tensor, "t n"]
    """The part on the ray from the true camera: depth."""
    across: Float[Tensor, "t n"]
    dynamic: Bool[Tensor, "n"]


def relative_depth_errors(predicted: Float[Tensor, "t h w"], target: Float[Tensor, "t h w"]) -> Float[Tensor, "t h w"]:
    """d / d* - 1 after one scale for the whole video, the ratio of the medians; NaN where the truth has no depth."""
    known = torch.isfinite(target) & (target > 0)
    aligned = align_depth(predicted, target, known, alignment="median")
    return torch.where(known, aligned / target - 1, torch.nan)


def depth_error_figure(result: Reconstruction, truth: Truth, frames: Sequence[int]) -> Figure:
    """The video, the signed relative error of its depth (blue: too far, red: too near), and where that depth was
    measured. Movers have an outline."""
    errors = relative_depth_errors(result.depth, truth.depth)
    height, width = truth.depth.shape[1:]
    figure = Figure(figsize=(2.7 * len(frames) + 1, 8.1 * height / width), layout="constrained")
    axes = figure.subplots(3, len(frames), squeeze=False)
    for (video, error, known), frame in zip(axes.T, frames, strict=True):
        video.imshow(result.clip.frames[frame].numpy())
        video.set_title(f"frame {frame}", fontsize=10)
        off = error.imshow(100 * errors[frame].numpy(), cmap="RdBu", vmin=-100 * ERROR_LIMIT, vmax=100 * ERROR_LIMIT)
        sure = known.imshow(result.confidence[frame].numpy(), norm=LogNorm(1, 30), cmap="viridis")
        for ax in (video, error, known):
            ax.set(xticks=[], yticks=[])
            if truth.motion_mask is not None and truth.motion_mask[frame].any():
                ax.contour(truth.motion_mask[frame].numpy(), levels=[0.5], colors="black", linewidths=0.8)
    for ax, name in zip(axes[:, 0], ("video", "error of depth", "how sure"), strict=True):
        ax.set_ylabel(name, fontsize=10)
    figure.colorbar(off, ax=axes[1].tolist(), label="error (%)", extend="both")
    figure.colorbar(sure, ax=axes[2].tolist(), label="confidence", extend="max")
    return figure


def depth_error_rows(result: Reconstruction, truth: Truth, *, measured: float = 2.0) -> list[list[object]]:
    """(kind of pixel, its share of all pixels, its mean relative error, its share of the whole error), in %.

    Movers; of the rest, the surroundings of outlines; of the rest, what has at least ``measured`` confidence, and what
    has not. Every pixel is of one kind.
    """
    errors = relative_depth_errors(result.depth, truth.depth).abs()
    known, moving, edge = torch.isfinite(errors), truth.motion_mask, depth_outlines(truth.depth)
    sure = result.confidence >= measured
    kinds = {
        "movers": moving,
        "outlines": ~moving & edge,
        "measured": ~moving & ~edge & sure,
        "guessed": ~moving & ~edge & ~sure,
    }
    total, count = errors[known].sum(), known.sum()
    rows = []
    for name, pixels in kinds.items():
        own = errors[pixels & known]
        shares = (len(own) / count, own.mean() if len(own) else torch.nan, own.sum() / total)
        rows.append([name, *(round(100 * float(share), 1) for share in shares)])
    return rows


def depth_outlines(depth: Float[Tensor, "t h w"]) -> Bool[Tensor, "t h w"]:
    """Pixels within ``OUTLINE_PX`` of a step in depth to a neighbour of more than ``DEPTH_JUMP``."""
    log = depth.log()
    step = torch.zeros_like(depth, dtype=torch.bool)
    step[:, :, 1:] |= log.diff(dim=2).abs() > DEPTH_JUMP
    step[:, 1:] |= log.diff(dim=1).abs() > DEPTH_JUMP
    kernel = np.ones((2 * OUTLINE_PX + 1, 2 * OUTLINE_PX + 1), np.uint8)
    return torch.stack([torch.from_numpy(cv2.dilate(frame.numpy().astype(np.uint8), kernel) > 0) for frame in step])


def pose_error_figure(predicted: Float[Tensor, "t 4 4"], target: Float[Tensor, "t 4 4"]) -> Figure:
    """After ``align_by_orientations``: the error of the position, in the axes of the true camera; of the rotation,
    about them; and that of each step to the next frame (what RPE averages), as a share of the mean true step."""
    aligned, true = align_by_orientations(predicted, target), target.double()
    error = invert(true) @ aligned
    turn_deg = torch.rad2deg(roma.rotmat_to_rotvec(error[:, :3, :3]))
    steps = invert(invert(true[:-1]) @ true[1:]) @ (invert(aligned[:-1]) @ aligned[1:])
    mean_step = true[:, :3, 3].diff(dim=0).norm(dim=-1).mean()
    figure = Figure(figsize=(12, 3.3), layout="constrained")
    place, rotation, step = figure.subplots(1, 3)
    for values, ax, names in (
        (100 * error[:, :3, 3], place, ("right", "down", "forward")),
        (turn_deg, rotation, ("about right: tilt", "about down: pan", "about forward: roll")),
    ):
        for color, axis, name in zip(LINE_COLORS, values.T, names, strict=False):
            ax.plot(axis.numpy(), ".-", color=color, label=name)
        ax.axhline(0, color=TRUTH_COLOR, linewidth=0.8)
        ax.legend(fontsize=8)
    step.bar(np.arange(1, len(true)), (100 * steps[:, :3, 3].norm(dim=-1) / mean_step).numpy(), color=STATIC_COLOR)
    place.set(title="position", ylabel="off by (cm)", xlabel="frame")
    rotation.set(title="rotation", ylabel="off by (deg)", xlabel="frame")
    step.set(title="step from the frame before", ylabel="off by (% of the mean step)", xlabel="frame")
    return figure


def common_turn(predicted: Float[Tensor, "t 4 4"], target: Float[Tensor, "t 4 4"]) -> Float[Tensor, "3 3"]:
    """The rotation of the world, target from predicted, that the orientations of all cameras ask for in the mean."""
    return roma.special_procrustes((target[:, :3, :3].double() @ predicted[:, :3, :3].double().mT).mean(dim=0))


def align_by_orientations(predicted: Float[Tensor, "t 4 4"], target: Float[Tensor, "t 4 4"]) -> Float[Tensor, "t 4 4"]:
    """The predicted path in the truth's world, in float64, by the ``common_turn``, then one scale and shift by least
    squares. A fit of the camera centres alone is free to turn a straight path about itself; this one is not."""
    turn, true = common_turn(predicted, target), target[:, :3, 3].double()
    centre = predicted[:, :3, 3].double() @ turn.mT
    from_mean, true_from_mean = centre - centre.mean(dim=0), true - true.mean(dim=0)
    scale = (from_mean * true_from_mean).sum() / from_mean.square().sum()
    return pose(turn @ predicted[:, :3, :3].double(), scale * from_mean + true.mean(dim=0))


def confusion_figure(predicted: Bool[Tensor, "t h w"], truth: Truth, *, threshold: float = 0.01) -> Figure:
    """Left: shares of each frame that are right, missed and false alarms, with the frame's IoU. Right: of every object
    that is dynamic or called so, the share of its pixels that is called dynamic, frame by frame; a dot where it moves
    by more than ``threshold`` (m) from the frame before or to the next."""
    true = truth.motion_mask
    shares = [(a & b).float().mean((1, 2)) for a, b in ((predicted, true), (~predicted, true), (predicted, ~true))]
    iou = shares[0] / sum(shares).clamp(min=1e-9)
    numbers, rows = _called_dynamic(predicted, truth)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors, names = (HIT, MISSED, FALSE_ALARM), ("right", "missed", "false alarm")
    left.stackplot(range(len(true)), *(100 * share for share in shares), colors=colors, labels=names, alpha=0.85)
    left.set(xlabel="frame", ylabel="% of the frame", xlim=(0, len(true) - 1))
    left.legend(fontsize=8, loc="upper left")
    score = left.twinx()
    score.plot((100 * iou).numpy(), color="black")
    score.set(ylabel="IoU (%), black", ylim=(0, 100))
    image = right.imshow(100 * rows.numpy(), aspect="auto", cmap="viridis", vmin=0, vmax=100, interpolation="none")
    moving = _moves(truth, threshold)[numbers]
    right.plot(*moving.nonzero().flip(-1).T.numpy(), "o", color="white", mec="black", markersize=5)
    dynamic = truth.mobility[numbers]
    labels = [f"{n}{', dynamic' if label else ''}" for n, label in zip(numbers.tolist(), dynamic, strict=True)]
    right.set(yticks=range(len(numbers)), yticklabels=labels, xlabel="frame", ylabel="object")
    figure.colorbar(image, ax=right, label="called dynamic (% of its pixels)")
    return figure


def track_errors(result: Reconstruction, exact: Tracks) -> TrackErrors:
    """The result's 3D tracks against the true paths of its queries (``protocols.exact_tracks``), after the similarity
    that fits the static points best: by least squares, then again without the worst half, for a point that is read
    beside an outline is metres off."""
    truth = result.clip.truth
    paths, found = track_paths(truth, exact), result.tracks_xyz.double()
    dynamic = exact.mobility[0] >= 0.5
    known = torch.isfinite(found).all(dim=-1) & exact.visible
    static = known & ~dynamic
    if int(static.sum()) < 8:
        raise InputError(f"exact: expected at least 8 static points that are seen, but there are {int(static.sum())}")
    placed = _placed(found, found[static], paths[static])
    near = static & ((placed - paths).norm(dim=-1) <= (placed - paths)[static].norm(dim=-1).median())
    placed = _placed(found, found[near], paths[near])
    error = torch.where(known[..., None], placed - paths, torch.nan)
    ray = paths - truth.world_from_cam[:, None, :3, 3].double()
    along = (error * ray / ray.norm(dim=-1, keepdim=True)).sum(dim=-1)
    total = error.norm(dim=-1)
    return TrackErrors(total, along.abs(), (total.square() - along.square()).clamp(min=0).sqrt(), dynamic)


def track_error_figure(result: Reconstruction, errors: TrackErrors, frame: int) -> Figure:
    """Errors of 3D tracks over time (median, middle half), their parts along and across the ray, and where in a frame
    they are."""
    figure = Figure(figsize=(12.5, 3.7), layout="constrained")
    time, parts, picture = figure.subplots(1, 3, width_ratios=(1.25, 0.8, 1.15))
    for chosen, color, name in ((~errors.dynamic, STATIC_COLOR, "static"), (errors.dynamic, DYNAMIC_COLOR, "dynamic")):
        low, middle, high = (torch.nanquantile(errors.total[:, chosen], q, dim=1) for q in (0.25, 0.5, 0.75))
        time.fill_between(range(len(low)), low.numpy(), high.numpy(), color=color, alpha=0.2, linewidth=0)
        time.plot(middle.numpy(), color=color, label=f"{name}: {int(chosen.sum())} tracks")
        values = [float(part[:, chosen].nanmedian()) for part in (errors.along, errors.across)]
        at = np.arange(2) + (0.2 if name == "dynamic" else -0.2)
        parts.bar(at, values, width=0.38, color=color, label=name)
    time.set(xlabel="frame", ylabel="off by (m)", yscale="log", title="median, and the middle half")
    time.legend(fontsize=8)
    parts.set(xticks=[0, 1], xticklabels=["along the ray", "across it"], ylabel="median (m)", title="which way")
    picture.imshow(result.clip.frames[frame].float().mean(dim=-1).numpy(), cmap="gray", alpha=0.6)
    shown = torch.isfinite(errors.total[frame])
    dots = picture.scatter(
        *result.tracks.uv[frame, shown].T.numpy(),
        c=errors.total[frame, shown].numpy(),
        s=9,
        norm=LogNorm(0.02, 2),
        cmap="turbo",
        linewidths=0,
    )
    height, width = result.clip.size
    picture.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), title=f"frame {frame}")
    figure.colorbar(dots, ax=picture, label="off by (m)", extend="both")
    return figure


def noise_figure(panels: Mapping[str, tuple[Sequence[float], Mapping[str, Float[Tensor, "a c"]]]]) -> Figure:
    """What a wrong input does to poses and depth: a column an input, named with its unit, with its amounts and a line a
    case of (ATE in % of the path, RPE of rotation in deg, AbsRel) by amount. All columns share their scales."""
    figure = Figure(figsize=(3.9 * len(panels), 5.4), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, sharey="row")
    for (path, depth), (unit, (amounts, lines)) in zip(axes.T, panels.items(), strict=True):
        for color, (name, curve) in zip(LINE_COLORS, lines.items(), strict=False):
            path.plot(amounts, curve[:, 0].numpy(), "o-", color=color, markersize=4, label=name)
            depth.plot(amounts, 100 * curve[:, 2].numpy(), "o-", color=color, markersize=4)
        depth.set_xlabel(unit)
        path.legend(fontsize=8)
    axes[0, 0].set_ylabel("ATE (% of the path)")
    axes[1, 0].set_ylabel("AbsRel of static pixels (%)")
    for ax in axes.flat:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        ax.grid(alpha=0.3, which="both")
    return figure


def _called_dynamic(predicted: Bool[Tensor, "t h w"], truth: Truth) -> tuple[Tensor, Float[Tensor, "k t"]]:
    """(objects, share of each one's pixels by frame) of those that are dynamic or called so in 5 % of their pixels; NaN
    where an object is not seen."""
    objects = len(truth.mobility)
    segments = truth.segmentation.long()
    seen, called = torch.zeros(2, objects + 1, len(segments))
    for frame, (own, mask) in enumerate(zip(segments, predicted, strict=True)):
        seen[:, frame] = own.flatten().bincount(minlength=objects + 1)
        called[:, frame] = own[mask].bincount(minlength=objects + 1)
    share = called.sum(dim=1) / seen.sum(dim=1).clamp(min=1)
    numbers = (truth.mobility | (share[1:] > 0.05)).nonzero()[:, 0]
    return numbers, (called / seen)[numbers + 1]


def _moves(truth: Truth, threshold: float) -> Bool[Tensor, "o t"]:
    step = position_steps(truth.positions) > threshold
    moves = torch.zeros(len(step), step.shape[1] + 1, dtype=torch.bool)
    moves[:, 1:] |= step
    moves[:, :-1] |= step
    return moves


def _placed(
    points: Float[Tensor, "t n 3"], source: Float[Tensor, "s 3"], target: Float[Tensor, "s 3"]
) -> Float[Tensor, "t n 3"]:
    """The points moved as the best similarity moves the source onto the target."""
    scale, rotation, translation = fit_similarity(source, target)
    return scale * points @ rotation.T + translation
