"""Pictures of motion masks: a pair's epipolar geometry, thresholds, unions, the robust steps, and where it fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Clip, Tracks
from c4d_nb.epipolar import sampson_error
from c4d_nb.failure_zoo import Specimen
from c4d_nb.metrics import motion_iou
from c4d_nb.motion_mask import fundamental_matrix, static_matches
from c4d_nb.show.colors import flow_image
from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR, mask_overlay, show_tracks

HIT, FALSE_ALARM, MISSED = DYNAMIC_COLOR, "#2563eb", "#facc15"
"""Dynamic in truth and in the mask, in the mask only, in truth only."""
VOTER_SIGMAS = 2.5
ERROR_RANGE_PX = 0.05, 50.0
OUTVOTED_COLOR = "#d946ef"
SCORE_COLORS = {"IoU": "black", "precision": FALSE_ALARM, "recall": DYNAMIC_COLOR}


@dataclass(frozen=True, eq=False)
class PairGeometry:
    """What the static points of frame n say of the pair (n, m), and every pixel's error."""

    n: int
    m: int
    flow: Float[Tensor, "h w 2"]
    static_uv: Float[Tensor, "s 2"]
    """Where the static points are in n."""
    voted: Bool[Tensor, "s"]
    """Those that F explains: within 2.5 robust standard deviations."""
    F: Float[Tensor, "3 3"]
    error_px: Float[Tensor, "h w"]
    """Root Sampson error of each pixel's flow match."""


def pair_geometry(flow: Float[Tensor, "h w 2"], tracks: Tracks, n: int, m: int) -> PairGeometry:
    """The fundamental matrix of one pair as ``epipolar_motion_masks`` finds it."""
    believed = torch.isfinite(flow).all(dim=-1)[None]
    static = static_matches(flow[None], tracks, torch.tensor([[n, m]]), believed=believed)
    uv_1, uv_2 = static.uv_1[0], static.uv_2[0]
    F = fundamental_matrix(uv_1, uv_2)
    own = sampson_error(F, uv_1, uv_2).sqrt()
    voted = own <= VOTER_SIGMAS * 1.4826 * own.median()
    pixels = pixel_grid(*flow.shape[:2], like=flow).reshape(-1, 2)
    error = sampson_error(F, pixels, pixels + flow.reshape(-1, 2)).sqrt()
    return PairGeometry(n, m, flow, uv_1, voted, F, error.reshape(flow.shape[:2]))


def frame_errors(
    flows: Float[Tensor, "e h w 2"], tracks: Tracks, edges: Int[Tensor, "e 2"], n: int
) -> Float[Tensor, "k h w"]:
    """Every pixel's error in each pair that begins with frame n, nearest partners first."""
    pairs = (edges[:, 0] == n).nonzero()[:, 0].tolist()
    pairs.sort(key=lambda pair: abs(int(edges[pair, 1]) - n))
    return torch.stack([pair_geometry(flows[pair], tracks, *edges[pair].tolist()).error_px for pair in pairs])


def epipolar_figure(clip: Clip, pair: PairGeometry, uv: tuple[int, int], threshold_px: float) -> Figure:
    """Who voted, a pixel in n; its epipolar line and its flow match in m; every pixel's error."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = first, second, errors = figure.subplots(1, 3)
    first.imshow(clip.frames[pair.n].numpy())
    for chosen, color, marker, name in (
        (pair.voted, STATIC_COLOR, "o", "voted for F"),
        (~pair.voted, OUTVOTED_COLOR, "x", "outvoted"),
    ):
        first.scatter(*pair.static_uv[chosen].T.numpy(), s=9, color=color, marker=marker, linewidths=0.8, label=name)
    _mark(first, uv)
    first.legend(loc="lower right", fontsize=8)
    first.set_title(f"frame {pair.n}: {len(pair.voted)} static points\nthe star: pixel ({uv[0]}, {uv[1]})", fontsize=10)
    second.imshow(clip.frames[pair.m].numpy())
    _draw_line(second, pair.F @ torch.tensor([*uv, 1.0], dtype=pair.F.dtype), clip.size)
    match = torch.tensor(uv) + pair.flow[uv[1], uv[0]]
    _mark(second, match.tolist())
    error = float(pair.error_px[uv[1], uv[0]])
    side = "moves by itself" if error > threshold_px else "as the camera moves"
    second.set_title(f"frame {pair.m}: its epipolar line, its match\n{error:.2f} px: {side}", fontsize=10)
    image = errors.imshow(pair.error_px.numpy(), norm=LogNorm(*ERROR_RANGE_PX), cmap="magma")
    errors.contour(pair.error_px.numpy(), levels=[threshold_px], colors="white", linewidths=0.7)
    _mark(errors, uv)
    figure.colorbar(image, ax=axes, shrink=0.8, label="root Sampson error (px)")
    errors.set_title(f"error of every pixel\nthe line is {threshold_px:.2g} px", fontsize=10)
    for ax in axes:
        ax.set(xticks=[], yticks=[], xlim=(-0.5, clip.size[1] - 0.5), ylim=(clip.size[0] - 0.5, -0.5))
    return figure


def mask_scores(found: Bool[Tensor, "h w"], true: Bool[Tensor, "h w"]) -> dict[str, float]:
    """IoU, precision and recall of one frame, 0 to 1; 1 where there is nothing to be wrong about."""
    both, either = int((found & true).sum()), int((found | true).sum())
    named, moving = int(found.sum()), int(true.sum())
    return {
        "IoU": both / either if either else 1.0,
        "precision": both / named if named else 1.0,
        "recall": both / moving if moving else 1.0,
    }


def threshold_figure(
    frame: UInt8[Tensor, "h w 3"],
    errors_px: Float[Tensor, "k h w"],
    true: Bool[Tensor, "h w"],
    threshold_px: float,
    *,
    votes: int = 1,
) -> Figure:
    """The mask of a frame's pairs at a threshold, against truth; the scores at every threshold."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    found = (errors_px > threshold_px).sum(dim=0) >= votes
    scores = mask_scores(found, true)
    _confusion(left, frame, found, true)
    left.set_title(f"above {threshold_px:.2g} px in {votes} of {len(errors_px)}", fontsize=10)
    _legend(left)
    thresholds = np.geomspace(*ERROR_RANGE_PX, 60)
    rows = [mask_scores((errors_px > t).sum(dim=0) >= votes, true) for t in thresholds]
    for name, color in SCORE_COLORS.items():
        right.plot(thresholds, [100 * row[name] for row in rows], color=color, label=f"{name} {100 * scores[name]:.0f}")
    right.axvline(threshold_px, color="gray", linewidth=0.8)
    right.set(xscale="log", xlabel="threshold (px)", ylabel="%", ylim=(0, 103))
    right.grid(alpha=0.3)
    right.legend(title="here, %", fontsize=9, loc="center right")
    return figure


def union_figure(
    frame: UInt8[Tensor, "h w 3"], errors_px: Float[Tensor, "k h w"], true: Bool[Tensor, "h w"], threshold_px: float
) -> Figure:
    """The union after one pair, two, four and all; the scores pair by pair, of the union and with two votes."""
    shown = sorted({1, 2, 4, len(errors_px)} & set(range(1, len(errors_px) + 1)))
    figure = Figure(figsize=(3 * len(shown) + 4, 3.2), layout="constrained")
    *panels, curves = figure.subplots(1, len(shown) + 1, width_ratios=[1] * len(shown) + [1.5])
    dynamic = (errors_px > threshold_px).long().cumsum(dim=0)
    for ax, count in zip(panels, shown, strict=True):
        _confusion(ax, frame, dynamic[count - 1] >= 1, true)
        ax.set_title("1 pair" if count == 1 else f"{count} pairs", fontsize=10)
    _legend(panels[0])
    count = range(1, len(errors_px) + 1)
    for votes, style in ((1, "-"), (2, "--")):
        rows = [mask_scores(hits >= votes, true) for hits in dynamic]
        for name, color in SCORE_COLORS.items():
            label = name if votes == 1 else (f"{name}, 2 votes" if name == "IoU" else None)
            curves.plot(count, [100 * row[name] for row in rows], style, color=color, label=label)
    curves.set(xlabel="pairs", ylabel="%", ylim=(0, 103))
    curves.grid(alpha=0.3)
    curves.legend(fontsize=8)
    return figure


def evidence_figure(
    frame: UInt8[Tensor, "h w 3"],
    steps: Mapping[str, Float[Tensor, "h w"]],
    threshold: float,
    true: Bool[Tensor, "h w"],
) -> Figure:
    """Evidence from 0 to 1 after each step, then what is above the ``threshold``, against truth."""
    figure = Figure(figsize=(3.1 * (len(steps) + 1), 3), layout="constrained")
    *panels, last = figure.subplots(1, len(steps) + 1)
    for ax, (name, values) in zip(panels, steps.items(), strict=True):
        image = ax.imshow(values.numpy(), vmin=0, vmax=1, cmap="magma")
        ax.set_title(name, fontsize=10)
        ax.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=panels, shrink=0.8, label="evidence of motion", location="left")
    found = list(steps.values())[-1] > threshold
    _confusion(last, frame, found, true)
    last.set_title(f"above {threshold:.2f}: IoU {100 * mask_scores(found, true)['IoU']:.0f} %", fontsize=10)
    _legend(last)
    return figure


def methods_figure(
    frames: UInt8[Tensor, "t h w 3"],
    methods: Mapping[str, Bool[Tensor, "t h w"]],
    true: Bool[Tensor, "t h w"],
    chosen: Sequence[int],
) -> Figure:
    """A row a method with its IoU over all frames, a column a chosen frame."""
    height, width = frames.shape[1:3]
    figure = Figure(figsize=(2.7 * len(chosen), 2.7 * len(methods) * height / width), layout="constrained")
    axes = figure.subplots(len(methods), len(chosen), squeeze=False)
    for row, (name, masks) in zip(axes, methods.items(), strict=True):
        for ax, index in zip(row, chosen, strict=True):
            _confusion(ax, frames[index], masks[index], true[index])
        row[0].set_ylabel(f"{name}\nIoU {100 * motion_iou(masks, true):.0f} %", fontsize=10)
    for ax, index in zip(axes[0], chosen, strict=True):
        ax.set_title(f"frame {index}", fontsize=10)
    _legend(axes[0, 0])
    return figure


def second_look_figure(
    clip: Clip,
    judged: Mapping[str, Tracks],
    motion_mask: Bool[Tensor, "t h w"],
    dynamic: Bool[Tensor, "n"],
    chosen: Sequence[int],
) -> Figure:
    """The same tracks judged in several ways, a row each, in the chosen frames over the mask; circled are those that
    are not what they truly are (``dynamic`` or not)."""
    height, width = clip.size
    figure = Figure(figsize=(3.2 * len(chosen), 3.2 * len(judged) * height / width), layout="constrained")
    axes = figure.subplots(len(judged), len(chosen), squeeze=False)
    for row, (name, tracks) in zip(axes, judged.items(), strict=True):
        wrong = (tracks.mobility[0] >= 0.5) != dynamic
        for ax, index in zip(row, chosen, strict=True):
            show_tracks(ax, mask_overlay(clip.frames[index], motion_mask[index]), tracks, index, tail=0)
            at = tracks.uv[index, wrong & tracks.visible[index]]
            ax.scatter(*at.T.numpy(), s=30, facecolors="none", edgecolors="black", linewidths=0.8)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{name}\n{int(wrong.sum())} of {len(wrong)} wrong", fontsize=10)
    for ax, index in zip(axes[0], chosen, strict=True):
        ax.set_title(f"frame {index}", fontsize=10)
    return figure


def zoo_figure(specimen: Specimen, outcomes: Mapping[str, Bool[Tensor, "h w"]]) -> Figure:
    """Flow of a specimen's last pair, what truly moves, and what each method says, with the share of hits and false
    alarms."""
    figure = Figure(figsize=(2.4 * (2 + len(outcomes)), 2.3), layout="constrained")
    axes = figure.subplots(1, 2 + len(outcomes))
    flow = specimen.flows[-1]
    axes[0].imshow(flow_image(flow, float(flow.norm(dim=-1).max())).numpy())
    axes[0].set_title("flow", fontsize=9)
    axes[1].imshow(specimen.mask.numpy(), cmap="gray", vmin=0, vmax=1)
    axes[1].set_title("what moves", fontsize=9)
    for ax, (name, found) in zip(axes[2:], outcomes.items(), strict=True):
        _confusion(ax, specimen.frames[0], found, specimen.mask)
        ax.set_title(f"{name}\n{_shares(found, specimen.mask)}", fontsize=9)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    return figure


def _shares(found: Bool[Tensor, "h w"], true: Bool[Tensor, "h w"]) -> str:
    parts = [f"{100 * float(found[true].float().mean()):.0f} % of it"] if true.any() else []
    return ", ".join([*parts, f"{100 * float(found[~true].float().mean()):.0f} % of the rest"])


def _confusion(ax: Axes, frame: Tensor, found: Tensor, true: Tensor) -> None:
    """A grey frame, tinted where the mask is right about motion, where it is a false alarm, and where it misses."""
    gray = frame.float().mean(dim=-1, keepdim=True).expand(-1, -1, 3) / 255
    for where, color in ((found & true, HIT), (found & ~true, FALSE_ALARM), (~found & true, MISSED)):
        gray = torch.where(where[..., None], 0.35 * gray + 0.65 * gray.new_tensor(to_rgb(color)), gray)
    ax.imshow(gray.numpy())
    ax.set(xticks=[], yticks=[])


def _legend(ax: Axes) -> None:
    kinds = {"right": HIT, "false alarm": FALSE_ALARM, "missed": MISSED}
    patches = [matplotlib.patches.Patch(color=color, label=name) for name, color in kinds.items()]
    ax.legend(handles=patches, fontsize=7, loc="lower left", handlelength=1, framealpha=0.85)


def _mark(ax: Axes, uv: Sequence[float]) -> None:
    ax.plot(*uv, marker="*", markersize=13, color="white", markeredgecolor="black", linestyle="none")


def _draw_line(ax: Axes, line: Float[Tensor, "3"], size: tuple[int, int]) -> None:
    """``a u + b v + c = 0``, across the image."""
    a, b, c = line.tolist()
    point = (0.0, -c / b) if abs(b) > abs(a) else (-c / a, 0.0)
    ax.axline(point, (point[0] + b, point[1] - a), color="white", linewidth=1.4)
