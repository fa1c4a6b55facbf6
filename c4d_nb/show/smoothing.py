"""Pictures of smoothing: one track over time, its weights, what options do, displacements spread over a frame, y-t
slices."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR, TRUTH_COLOR
from c4d_nb.smoothing import median_step, sample_weights, smooth_trajectories

LINE_COLORS = (DYNAMIC_COLOR, STATIC_COLOR, "#2a9d5c", "#8e5bb5", "#c79a1e")
SPIKE_M = 0.6
"""How far the explorer's outlier lies off."""


class SmoothingOptions(NamedTuple):
    """What the explorer's controls set; all but ``spike`` are options of ``smooth_trajectories``."""

    kernel_size: int = 5
    decay: float = 1.0
    per_median_step: bool = False
    both_steps: bool = False
    shrink_at_ends: bool = False
    spike: bool = False


def track_figure(
    true: Float[Tensor, "t 3"],
    noisy: Float[Tensor, "t 3"],
    smoothed: Mapping[str, Float[Tensor, "t 3"]],
    weights: Mapping[str, Float[Tensor, "t"]] | None = None,
) -> Figure:
    """One point over time: its height (z), of truth, samples and smoothed; below, the distance from truth, cut off
    above what is smoothed; and the weights, if given under the same names."""
    rows = 2 if weights is None else 3
    figure = Figure(figsize=(9, 1.5 + 1.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, height_ratios=(2, *[1] * (rows - 1)))
    axes[0].plot(true[:, 2].numpy(), color=TRUTH_COLOR, linewidth=6, alpha=0.4, label="truth")
    axes[0].plot(noisy[:, 2].numpy(), "o", color="black", markersize=4, label="samples")
    axes[1].plot((noisy - true).norm(dim=1).numpy(), "o", color="black", markersize=4)
    for color, (name, path) in zip(LINE_COLORS, smoothed.items(), strict=False):
        axes[0].plot(path[:, 2].numpy(), color=color, label=name)
        axes[1].plot((path - true).norm(dim=1).numpy(), color=color)
    if weights is not None:
        _draw_weights(axes[2], weights)
    axes[0].set_ylabel("height (m)")
    highest = max(float((path - true).norm(dim=1).max()) for path in smoothed.values())
    axes[1].set(ylabel="off by (m)", ylim=(0, 1.1 * max(highest, float((noisy - true).norm(dim=1).quantile(0.9)))))
    axes[-1].set_xlabel("frame")
    axes[0].legend(fontsize=8, ncols=2)
    return figure


def options_figure(true: Float[Tensor, "t 3"], noisy: Float[Tensor, "t 3"], options: SmoothingOptions) -> Figure:
    """``track_figure`` of these options, with its mean error in the title."""
    samples = noisy.clone()
    if options.spike:
        samples[len(samples) // 2, 2] += SPIKE_M
    choice = options._asdict()
    choice.pop("spike")
    smoothed = smooth_trajectories(samples[:, None], **choice)[:, 0]
    decay = options.decay / (median_step(samples[:, None]) if options.per_median_step else 1)
    seen = torch.ones(len(samples), 1, dtype=torch.bool)
    weights = sample_weights(samples[:, None], seen, decay=decay, both_steps=options.both_steps)[:, 0]
    figure = track_figure(true, samples, {"smoothed": smoothed}, {"smoothed": weights})
    before, after = ((path - true).norm(dim=1).mean().item() for path in (samples, smoothed))
    figure.axes[0].set_title(f"off by {100 * before:.1f} cm before, {100 * after:.1f} cm after", fontsize=10)
    return figure


def decay_figure(
    decays: Float[Tensor, "d"], errors: Mapping[str, Mapping[int, Float[Tensor, "d"]]], before: Mapping[str, float]
) -> Figure:
    """One panel a kind of track: mean error (cm) by decay, one line a kernel size; dashed is the error before."""
    figure = Figure(figsize=(4.6 * len(errors), 3.2), layout="constrained")
    axes = figure.subplots(1, len(errors), squeeze=False)[0]
    for ax, (kind, lines) in zip(axes, errors.items(), strict=True):
        for color, (size, values) in zip(LINE_COLORS, lines.items(), strict=False):
            ax.plot(decays.numpy(), 100 * values.numpy(), color=color, label=f"k = {size}")
        ax.axhline(100 * before[kind], color=TRUTH_COLOR, linestyle="--", label="before")
        ax.set(title=kind, xscale="log", xlabel=r"decay $\lambda$ (1/m)", ylim=(0, None))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("off by (cm)")
    axes[0].legend(fontsize=8)
    return figure


def frames_figure(curves: Mapping[str, Float[Tensor, "t"]], ylabel: str, *, seams: tuple[int, ...] = ()) -> Figure:
    """Lines over frames; ``seams`` are first frames of windows."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    ax = figure.subplots()
    for seam in seams:
        ax.axvline(seam - 0.5, color=TRUTH_COLOR, linestyle=":", linewidth=1)
    for color, (name, values) in zip(LINE_COLORS, curves.items(), strict=False):
        ax.plot(values.numpy(), "o-", color=color, markersize=3, label=name)
    ax.set(xlabel="frame", ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def blend_figure(
    frame: UInt8[Tensor, "h w 3"],
    uv: Float[Tensor, "q 2"],
    at_controls: Float[Tensor, "q"],
    dense: Mapping[str, Float[Tensor, "h w"]],
    label: str,
    mask: Bool[Tensor, "h w"] | None = None,
) -> Figure:
    """How far each control moves over the frame; the same of every pixel, one map a way to spread it. What is in
    ``mask`` has an outline; ``label`` is the colours' meaning and unit."""
    figure = Figure(figsize=(2.9 * (len(dense) + 1), 3.1), layout="constrained")
    axes = figure.subplots(1, len(dense) + 1)
    moved = at_controls[at_controls != 0].abs()
    limit = float(moved.quantile(0.95)) if len(moved) else 1.0
    scale = {"cmap": "RdBu", "vmin": -limit, "vmax": limit}
    axes[0].imshow(frame.float().mean(-1).numpy(), cmap="gray", alpha=0.5)
    image = axes[0].scatter(*uv.T.numpy(), c=at_controls.numpy(), s=14, edgecolors="black", linewidths=0.3, **scale)
    axes[0].set_title(f"{len(uv)} controls", fontsize=10)
    for ax, (name, values) in zip(axes[1:], dense.items(), strict=True):
        ax.imshow(values.numpy(), **scale)
        ax.set_title(name, fontsize=10)
        if mask is not None:
            ax.contour(mask.numpy(), levels=[0.5], colors="black", linewidths=0.6)
    for ax in axes:
        ax.set(xticks=[], yticks=[], xlim=(-0.5, frame.shape[1] - 0.5), ylim=(frame.shape[0] - 0.5, -0.5))
    figure.colorbar(image, ax=axes.tolist(), shrink=0.8, label=label)
    return figure


def slices_figure(
    frame: UInt8[Tensor, "h w 3"], maps: Mapping[str, Float[Tensor, "t h w"]], true: Float[Tensor, "t h w"], column: int
) -> Figure:
    """y-t slices of one image column: depth, its relative error after one scale for the whole video, and by how much
    that changes at a pixel from a frame to the next. Flicker shows as vertical stripes."""
    figure = Figure(figsize=(3.2 * (len(maps) + 1), 6.6), layout="constrained")
    axes = figure.subplots(3, len(maps) + 1)
    axes[0, 0].imshow(frame.numpy())
    axes[0, 0].axvline(column, color=DYNAMIC_COLOR)
    axes[0, 0].set_title(f"column {column}", fontsize=10)
    t, height, _ = true.shape
    extent, slices = (-0.5, t - 0.5, height - 0.5, -0.5), true[:, :, column].T
    near, far = (float(slices.quantile(q)) for q in (0.02, 0.98))
    depths = {"cmap": "turbo_r", "vmin": near, "vmax": far, "aspect": "auto", "extent": extent}
    scaled = {name: depth * true.median() / depth.median() for name, depth in maps.items()}
    errors = {name: 100 * (depth[:, :, column].T / slices - 1) for name, depth in scaled.items()}
    changes = {name: error.diff(dim=1) for name, error in errors.items()}
    axes[1, 0].imshow(slices.numpy(), **depths)
    axes[1, 0].set_title("truth", fontsize=10)
    axes[2, 0].set_visible(False)
    for column_axes, (name, depth) in zip(axes.T[1:], scaled.items(), strict=True):
        image = column_axes[0].imshow(depth[:, :, column].T.numpy(), **depths)
        column_axes[0].set_title(name, fontsize=10)
    figure.colorbar(image, ax=axes[0].tolist(), label="depth (m)")
    for row, values, label in ((axes[1], errors, "error (%)"), (axes[2], changes, "change of error (%)")):
        limit = max(float(part.abs().quantile(0.95)) for part in values.values())
        for ax, part in zip(row[1:], values.values(), strict=True):
            off = ax.imshow(part.numpy(), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", extent=extent)
        figure.colorbar(off, ax=row.tolist(), label=label)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax in axes[2]:
        ax.set_xlabel("frame")
    return figure


def _draw_weights(ax: Axes, weights: Mapping[str, Float[Tensor, "t"]]) -> None:
    """Bars side by side, in the colours of the lines."""
    width = 0.8 / len(weights)
    for number, (color, values) in enumerate(zip(LINE_COLORS, weights.values(), strict=False)):
        at = torch.arange(len(values)) + (number + 0.5) * width - 0.4
        ax.bar(at.numpy(), values.numpy(), width=width, color=color)
    ax.set(ylabel="weight", ylim=(0, 1))
