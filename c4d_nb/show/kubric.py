"""Pictures of Kubric's truth, by matplotlib: its layers, and which objects the mobility rule calls dynamic.

Warm colours are dynamic, blue is static, as everywhere in the package. Objects are numbered from 0, as the rows of
``truth.positions``; in a segmentation, object i is i + 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from c4d_nb.clip import Clip, Truth
from c4d_nb.errors import InputError
from c4d_nb.kubric.mobility import (
    MobilityMode,
    first_frame_distances,
    mobility_labels,
    position_steps,
    with_background,
)
from c4d_nb.show.colors import flow_image, flow_wheel, segment_image
from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR, TRUTH_COLOR, even_frames, mask_overlay

WARM_COLORS = (DYNAMIC_COLOR, "#f0a030", "#a4243b", "#e88aa0", "#7a4a1e")
"""Of the dynamic objects of a clip, in their order."""
LEAST_M = 1e-5
"""What is drawn lowest on a logarithmic axis: nothing, or less than this."""
LABELLED_PX = 80
"""An object that shows fewer pixels gets no number."""
LEAST_WINDOW_PX = 24
LAYERS = ("depth", "segmentation", "flow", "backward_flow", "object_coordinates", "motion_mask")
OUTLINE = [withStroke(linewidth=2, foreground="white")]


@dataclass(frozen=True)
class MobilityRule:
    """One reading of C4D's rule; the default is the package's. See ``c4d_nb.kubric.mobility``."""

    threshold: float = 0.01
    mode: MobilityMode = "clip"
    spin: bool = False
    """Count a spin in place, by the arc at half the diagonal of an object's box."""

    def labels(self, truth: Truth) -> Bool[Tensor, "o t"]:
        """Dynamic or not, in every frame."""
        options = self._turning(truth)
        labels = mobility_labels(truth.positions, threshold=self.threshold, mode=self.mode, **options)
        return labels if self.mode == "frame" else labels[:, None].expand(truth.positions.shape[:2])

    def distances(self, truth: Truth) -> Float[Tensor, "o s"]:
        """What the rule compares with its threshold, in metres: a value a step, or a frame."""
        measure = first_frame_distances if self.mode == "first" else position_steps
        return measure(truth.positions, **self._turning(truth))

    def _turning(self, truth: Truth) -> dict[str, Tensor]:
        if not self.spin:
            return {}
        return {"quaternions": truth.quaternions, "radii": (truth.boxes[:, 1] - truth.boxes[:, 0]).norm(dim=-1) / 2}


def truth_layers(clip: Clip, *, count: int = 4) -> Figure:
    """Frames of a clip in columns and all layers of its truth in rows; flow needs a frame before and one after."""
    truth, chosen = clip.truth, [1 + f for f in even_frames(max(len(clip) - 2, 0), count)]
    if not chosen or truth is None or any(getattr(truth, name) is None for name in LAYERS):
        raise InputError(f"clip: expected 3 frames or more with {', '.join(LAYERS)}, but something is missing")
    flows = torch.stack([truth.flow[chosen], truth.backward_flow[[f - 1 for f in chosen]]])
    longest = float(flows.norm(dim=-1).nan_to_num().flatten().kthvalue(int(0.98 * flows[..., 0].numel())).values)
    near, far = np.quantile(truth.depth[chosen], (0.02, 0.98))
    scaled = ((truth.depth[chosen] - near) / (far - near)).clamp(0, 1)
    layers = {
        "RGB": clip.frames[chosen],
        f"depth\nred {near:.1f} m, blue {far:.1f} m": matplotlib.colormaps["turbo_r"](scaled.numpy())[..., :3],
        "segmentation": segment_image(truth.segmentation[chosen]),
        "flow to the next frame": flow_image(flows[0], longest),
        "flow to the frame before": flow_image(flows[1], longest),
        "object coordinates": truth.object_coordinates[chosen].clamp(0, 1),
        "motion mask": torch.stack([mask_overlay(clip.frames[f], truth.motion_mask[f]) for f in chosen]),
    }
    figure = image_grid(layers, [f"frame {f}" for f in chosen], panel_inches=1.6)
    axes = np.reshape(figure.axes, (len(layers), len(chosen)))
    for column, frame in enumerate(chosen):
        _number_objects(axes[2, column], truth.segmentation[frame])
    for row in (3, 4):
        _draw_wheel(axes[row, 0], longest)
    return figure


def image_grid(
    rows: Mapping[str, UInt8[Tensor, "n h w 3"] | Float[Tensor, "n h w 3"] | Float[np.ndarray, "n h w 3"]],
    columns: Sequence[str],
    *,
    panel_inches: float = 2.0,
) -> Figure:
    """Named rows of images, as many as there are names of columns."""
    figure = Figure(figsize=(panel_inches * len(columns) + 0.4, panel_inches * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=9)
        for ax, image in zip(line, images, strict=True):
            ax.imshow(np.asarray(image))
            ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name, fontsize=10)
    return figure


def motion_figure(truth: Truth, *, threshold: float = 0.01) -> Figure:
    """Where the objects are, from above, and how far each moves from frame to frame against the threshold."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    above, steps = figure.subplots(1, 2, width_ratios=(1, 1.5))
    _draw_from_above(above, truth, threshold)
    draw_distances(steps, truth, MobilityRule(threshold))
    return figure


def draw_distances(ax: Axes, truth: Truth, rule: MobilityRule) -> None:
    """What the rule compares with its threshold, a line an object, on a logarithmic axis."""
    distances = rule.distances(truth)
    dynamic = rule.labels(truth).any(dim=1)
    at = torch.arange(distances.shape[1]) + (0.0 if rule.mode == "first" else 0.5)
    for number, color in object_colors(dynamic).items():
        name = f"object {number}{_how_it_began(truth, number)}" if dynamic[number] else None
        shown = distances[number].clamp(min=LEAST_M)
        ax.plot(at, shown, ".-", color=color, linewidth=1.5 if name else 0.8, label=name, zorder=3 if name else 2)
    ax.axhline(rule.threshold, color="black", linestyle="--", linewidth=1, label=f"threshold, {rule.threshold:.3g} m")
    ax.plot([], [], ".-", color=STATIC_COLOR, label=f"static: {int((~dynamic).sum())} objects")
    what = "|x(t) - x(0)|" if rule.mode == "first" else "|x(t+1) - x(t)|"
    ax.set(yscale="log", ylim=(LEAST_M / 1.6, 2 * max(float(distances.max()), 10 * rule.threshold)), xlabel="frame")
    ax.set_ylabel(f"{what} (m)")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def hit_figure(clip: Clip, number: int, *, threshold: float = 0.01, around: Sequence[int] = (-2, 0, 2, 6)) -> Figure:
    """An object before, at and after its first step above the threshold, outlined in the colour of its label in that
    frame; and all its steps."""
    truth, rule = clip.truth, MobilityRule(threshold, "frame")
    moves = rule.labels(truth)[number]
    if not moves.any():
        raise InputError(f"number: expected an object that moves, but {number} does not")
    first = int(moves.nonzero()[0])
    chosen = sorted({min(max(first + 1 + step, 0), len(clip) - 1) for step in around})
    top, bottom, left, right = _window(truth.segmentation[chosen] == number + 1)
    figure = Figure(figsize=(2.2 * len(chosen) + 4.2, 2.6), layout="constrained")
    axes = figure.subplots(1, len(chosen) + 1, width_ratios=(*[1] * len(chosen), 1.6))
    for ax, frame in zip(axes, chosen, strict=False):
        ax.imshow(clip.frames[frame].numpy())
        color = DYNAMIC_COLOR if moves[frame] else STATIC_COLOR
        ax.contour((truth.segmentation[frame] == number + 1).numpy(), levels=[0.5], colors=[color], linewidths=2)
        ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        ax.set_title(f"frame {frame}: {'moves' if moves[frame] else 'rests'}", fontsize=10)
    steps = 1000 * rule.distances(truth)[number]
    axes[-1].stairs(steps, range(len(clip)), color=DYNAMIC_COLOR, fill=True)
    axes[-1].axhline(1000 * threshold, color="black", linestyle="--", linewidth=1)
    axes[-1].set(title=f"steps of object {number}", xlabel="frame", ylabel="mm a frame", xlim=(0, len(clip) - 1))
    return figure


def label_figure(clip: Clip, frame: int, rule: MobilityRule) -> Figure:
    """A frame with its dynamic pixels tinted, and what the rule compares with its threshold."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    picture, curves = figure.subplots(1, 2, width_ratios=(1, 1.4))
    _draw_labels(picture, clip, frame, rule)
    draw_distances(curves, clip.truth, rule)
    curves.axvline(frame, color=TRUTH_COLOR, linewidth=0.8)
    return figure


def variants_figure(clip: Clip, rules: Mapping[str, MobilityRule], frames: Sequence[int]) -> Figure:
    """The labels that rules give, in columns, in some frames, in rows."""
    figure = Figure(figsize=(2.1 * len(rules), 2.1 * len(frames) + 0.4), layout="constrained")
    axes = figure.subplots(len(frames), len(rules), squeeze=False)
    for line, frame in zip(axes, frames, strict=True):
        for ax, (name, rule) in zip(line, rules.items(), strict=True):
            _draw_labels(ax, clip, frame, rule)
            ax.set_title(f"{name}, frame {frame}", fontsize=10)
    return figure


def object_colors(dynamic: Bool[Tensor, "o"]) -> dict[int, str]:
    """A colour an object: warm ones, in turn, if it is dynamic."""
    rank = dynamic.long().cumsum(0) - 1
    return {
        number: WARM_COLORS[int(rank[number]) % len(WARM_COLORS)] if moves else STATIC_COLOR
        for number, moves in enumerate(dynamic.tolist())
    }


def _draw_labels(ax: Axes, clip: Clip, frame: int, rule: MobilityRule) -> None:
    dynamic, segmentation = rule.labels(clip.truth)[:, frame], clip.truth.segmentation[frame].long()
    ax.imshow(mask_overlay(clip.frames[frame], with_background(dynamic)[segmentation]).numpy())
    ax.set(xticks=[], yticks=[], title=f"frame {frame}, {int(dynamic.sum())} dynamic")
    _number_objects(ax, segmentation)


def _draw_from_above(ax: Axes, truth: Truth, threshold: float) -> None:
    dynamic = mobility_labels(truth.positions, threshold=threshold)
    for number, color in object_colors(dynamic).items():
        x, y, _ = truth.positions[number].T.numpy()
        ax.plot(x, y, "-", color=color, linewidth=2)
        ax.plot(x[-1], y[-1], "o", color=color, markersize=6 if dynamic[number] else 4)
        ax.annotate(str(number), (x[-1], y[-1]), xytext=(4, 3), textcoords="offset points", fontsize=8, color=color)
    x, y, _ = truth.world_from_cam[:, :3, 3].T.numpy()
    ax.plot(x, y, color="black", linewidth=2)
    ax.plot(x[-1], y[-1], "^", color="black", markersize=6)
    ax.annotate("camera", (x[-1], y[-1]), xytext=(6, -4), textcoords="offset points", fontsize=8)
    ax.margins(0.12)
    ax.set(title="from above", xlabel="x (m)", ylabel="y (m)", aspect="equal")


def _number_objects(ax: Axes, segmentation: Int[Tensor, "h w"]) -> None:
    for label in segmentation.unique().tolist():
        place = (segmentation == label).nonzero().float()
        if label and len(place) >= LABELLED_PX:
            margin = torch.tensor(segmentation.shape) * 0.04
            row, column = torch.minimum(torch.maximum(place.mean(dim=0), margin), 24 * margin).tolist()
            ax.text(column, row, str(label - 1), ha="center", va="center", fontsize=8, path_effects=OUTLINE)


def _draw_wheel(ax: Axes, longest: float) -> None:
    key = ax.inset_axes((0.02, 0.02, 0.24, 0.24))
    key.imshow(flow_wheel().numpy())
    key.axis("off")
    ax.text(0.28, 0.04, f"{longest:.0f} px", transform=ax.transAxes, fontsize=8, path_effects=OUTLINE)


def _how_it_began(truth: Truth, number: int) -> str:
    if truth.is_dynamic is None:
        return ""
    return ", tossed" if truth.is_dynamic[number] else ", hit"


def _window(shown: Bool[Tensor, "t h w"], *, margin: float = 0.2) -> tuple[float, float, float, float]:
    """(top, bottom, left, right) of a square around all pixels shown, wider by ``margin`` of its side each way."""
    _, rows, columns = shown.nonzero(as_tuple=True)
    if not len(rows):
        raise InputError("number: expected an object that is seen, but it is not in the picture")
    height, width = shown.shape[1:]
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    side = max(rows.max() - rows.min(), columns.max() - columns.min()).item()
    half = min(max((0.5 + margin) * side, LEAST_WINDOW_PX / 2), (min(height, width) - 1) / 2)
    row, column = (float(min(max(m, half), n - 1 - half)) for m, n in zip(middle, (height, width), strict=True))
    return row - half, row + half, column - half, column + half
