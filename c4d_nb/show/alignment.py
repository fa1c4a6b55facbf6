"""Pictures of the two-stage optimisation: how it runs, camera paths, what a number does.

Paths of an estimate are shown in the world of the truth beside it.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.alignment import Snapshot
from c4d_nb.camera import rotation_angle_deg
from c4d_nb.errors import InputError
from c4d_nb.metrics import align_path, trajectory_errors
from c4d_nb.show.figures import TRUTH_COLOR, ground_axes
from c4d_nb.show.smoothing import LINE_COLORS
from c4d_nb.show.viewer import world_up

OBJECTIVE_COLORS = dict(zip(("ga", "cma", "cts"), LINE_COLORS, strict=False))
PATHS_SHOWN = 8
"""Of the camera's paths on the way, at most."""


def history_figure(
    history: Sequence[Snapshot],
    *,
    true_path: Float[Tensor, "t 4 4"] | None = None,
    true_focal_px: float | None = None,
) -> Figure:
    """Stage 1 up to the last snapshot: value and gradient norm of each objective, the gap between the views' clouds;
    the focal length, the camera's path and how it turned, from pale to strong as the iterations go by. Objectives that
    are switched off are left out.

    Paths are laid on the true one, if it is given, else on the last one, by the best Sim(3).
    """
    if not history:
        raise InputError("history: expected at least one snapshot, but there is none: AlignConfig.record_every is 0")
    figure = Figure(figsize=(11, 5.6))
    axes = figure.subplots(2, 3)
    figure.subplots_adjust(
        left=0.06, right=0.99, top=0.95, bottom=0.09, wspace=0.3, hspace=0.42
    )  # faster than a layout
    for ax, name in ((axes[0, 0], "value"), (axes[0, 1], "gradient_norm")):
        _draw_objectives(ax, history, name)
        ax.set(yscale="log", title={"value": "weighted value", "gradient_norm": "norm of the gradient"}[name])
    axes[0, 0].legend(fontsize=8)
    at = [step.iteration for step in history]
    axes[0, 2].plot(at, [100 * step.gap for step in history], ".-", color=LINE_COLORS[3])
    axes[0, 2].set_title("gap between the views' clouds (%)")
    axes[1, 0].plot(at, [float(step.focal_px.mean()) for step in history], ".-", color=LINE_COLORS[3])
    if true_focal_px is not None:
        axes[1, 0].axhline(true_focal_px, color=TRUTH_COLOR, linewidth=5, alpha=0.4)
    axes[1, 0].set_title("focal length (px)")
    for ax in (*axes[0], axes[1, 0]):
        ax.set_xlabel("iteration")
        ax.grid(alpha=0.3)
    _draw_path_history(axes[1, 1], axes[1, 2], history, true_path)
    return figure


def paths_figure(paths: Mapping[str, Float[Tensor, "t 4 4"]], true: Float[Tensor, "t 4 4"]) -> Figure:
    """Camera paths, already in the truth's world, from above and from the side; the true one in grey."""
    up = world_up(true)
    along, across = ground_axes(true[:, :3, 3].double(), up)
    axes_xyz = torch.stack([along, across, up], dim=-1)
    placed = {name: path[:, :3, 3].double() @ axes_xyz for name, path in {"truth": true, **paths}.items()}
    extent = torch.cat([*placed.values()])
    wide, *high = (extent.amax(0) - extent.amin(0)).tolist()
    high = [max(span, 0.2 * wide) for span in high]
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, 1, height_ratios=high)
    for ax, vertical, name in ((axes[0], 1, "from above"), (axes[1], 2, "from the side")):
        for color, (label, points) in zip((TRUTH_COLOR, *LINE_COLORS), placed.items(), strict=False):
            style = {"linewidth": 6, "alpha": 0.4} if label == "truth" else {"linewidth": 1, "marker": "."}
            ax.plot(*points[:, [0, vertical]].T.numpy(), color=color, label=label, **style)
        ax.set(title=f"camera path {name} (m)", aspect="equal", adjustable="datalim")
    axes[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def sweep_figure(
    values: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    *,
    marked: Mapping[str, float] | None = None,
    log_scale: bool = False,
) -> Figure:
    """What a number does: a panel a score, a line a case, over its values; some of these ``marked`` by a dashed line
    and a name."""
    figure = Figure(figsize=(3.7 * len(panels), 3.1), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for color, (name, line) in zip(LINE_COLORS, lines.items(), strict=False):
            ax.plot(values, line, "o-", color=color, markersize=4, label=name)
        for name, value in (marked or {}).items():
            ax.axvline(value, color=TRUTH_COLOR, linestyle="--", linewidth=1)
            ax.annotate(name, (value, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                        textcoords="offset points", fontsize=8, color=TRUTH_COLOR)  # fmt: skip
        top = 1.1 * max(max(line) for line in lines.values())
        ax.set(title=title, xscale="log" if log_scale else "linear", xlabel=xlabel, ylim=(0, top))
        ax.grid(alpha=0.3)
    if len(panels[title]) > 1:
        axes[0].legend(fontsize=8)
    return figure


def descent_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    *,
    floors: Mapping[str, float] | None = None,
) -> Figure:
    """Losses over seconds or iterations (on a log scale), (x, y) by name; ``floors`` are dashed."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    ax = figure.subplots()
    colors = iter(LINE_COLORS)
    for name, (x, y) in curves.items():
        ax.plot(x, y, ".-", color=next(colors), markersize=4, label=name)
    for name, value in (floors or {}).items():
        ax.axhline(value, color=next(colors), linestyle="--", label=name)
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
    return figure


def _draw_objectives(ax: Axes, history: Sequence[Snapshot], field: str) -> None:
    for name, color in OBJECTIVE_COLORS.items():
        steps = [step for step in history if getattr(step, field).get(name, 0.0) > 0]
        if steps:
            values = [getattr(step, field)[name] for step in steps]
            ax.plot([step.iteration for step in steps], values, ".-", color=color, markersize=4, label=name.upper())


def _draw_path_history(
    centres: Axes, turns: Axes, history: Sequence[Snapshot], true_path: Float[Tensor, "t 4 4"] | None
) -> None:
    """The path from above, and each camera's turn since the first one; both from pale to strong."""
    reference = history[-1].world_from_cam if true_path is None else true_path
    up = world_up(reference)
    plane = torch.stack(ground_axes(reference[:, :3, 3].double(), up), dim=-1)
    title = "camera path from above"
    if true_path is not None:
        centres.plot(*(true_path[:, :3, 3].double() @ plane).T.numpy(), color=TRUTH_COLOR, linewidth=6, alpha=0.4)
        turns.plot(_turn_deg(true_path), color=TRUTH_COLOR, linewidth=6, alpha=0.4)
        if len(true_path) > 2:
            error = trajectory_errors(history[-1].world_from_cam, true_path)["ate_percent"]
            title += f", ATE {error:.1f} %"
    shown = [history[i] for i in sorted(set(np.linspace(0, len(history) - 1, PATHS_SHOWN).round().astype(int)))]
    shades = matplotlib.colormaps["YlOrRd"](np.linspace(0.25, 0.9, len(shown)))
    for color, step in zip(shades, shown, strict=True):
        placed = align_path(step.world_from_cam, reference) if len(reference) > 2 else step.world_from_cam.double()
        centres.plot(*(placed[:, :3, 3] @ plane).T.numpy(), color=color, linewidth=1.2)
        turns.plot(_turn_deg(step.world_from_cam), color=color, linewidth=1.2)
    centres.set(aspect="equal", adjustable="datalim")
    centres.set_title(title, fontsize=11)
    turns.set(title="turned since frame 0 (deg)", xlabel="frame")
    turns.grid(alpha=0.3)


def _turn_deg(world_from_cam: Float[Tensor, "t 4 4"]) -> np.ndarray:
    rotation = world_from_cam[:, :3, :3].double()
    return rotation_angle_deg(rotation[0].mT @ rotation).numpy()
