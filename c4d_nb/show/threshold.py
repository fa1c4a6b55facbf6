"""What a threshold makes of the evidence of motion: the still pictures of ``widgets.mask_explorer``."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.clip import Clip
from c4d_nb.errors import InputError
from c4d_nb.metrics import motion_iou
from c4d_nb.show.figures import DYNAMIC_COLOR, PANEL_INCHES, even_frames, mask_overlay


def threshold_figure(
    clip: Clip, evidence: Float[Tensor, "t h w"], *, thresholds: Sequence[float], frames: int = 4
) -> Figure:
    """Some frames in columns, a threshold a row: what lies above it is tinted, and what truly moves is outlined. With
    truth beside the clip, a curve of IoU over the threshold below."""
    check_evidence(clip, evidence)
    chosen, truth = even_frames(len(clip), frames), _true_mask(clip)
    height = PANEL_INCHES * clip.size[0] / clip.size[1]
    figure = Figure(figsize=(PANEL_INCHES * len(chosen), height * len(thresholds) + 2.4), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=(height * len(thresholds), 2.4))
    axes = top.subplots(len(thresholds), len(chosen), squeeze=False)
    for row, threshold in zip(axes, thresholds, strict=True):
        row[0].set_ylabel(f"above {threshold:g}")
        for ax, frame in zip(row, chosen, strict=True):
            ax.imshow(overlay_at(clip, evidence, frame, threshold).numpy())
            ax.set(xticks=[], yticks=[])
            if truth is not None:
                ax.contour(truth[frame].numpy(), levels=[0.5], colors="white", linewidths=0.8)
            if row is axes[0]:
                ax.set_title(f"frame {frame}", fontsize=10)
    _draw_curve(below.subplots(), evidence, truth, thresholds)
    return figure


def overlay_at(clip: Clip, evidence: Float[Tensor, "t h w"], frame: int, threshold: float) -> UInt8[Tensor, "h w 3"]:
    """A frame with what is above the threshold tinted."""
    return mask_overlay(clip.frames[frame], evidence[frame] > threshold)


def threshold_text(clip: Clip, evidence: Float[Tensor, "t h w"], frame: int, threshold: float) -> str:
    """The share of the frame that is called dynamic and, with truth beside the clip, IoU of the frame and the clip."""
    mask, truth = evidence > threshold, _true_mask(clip)
    text = f"{100 * mask[frame].double().mean():.1f} % dynamic"
    if truth is None:
        return text
    here = motion_iou(mask[frame : frame + 1], truth[frame : frame + 1])
    return f"{text}; IoU {here:.2f} in this frame, {motion_iou(mask, truth):.2f} in the clip"


def check_evidence(clip: Clip, evidence: Float[Tensor, "t h w"]) -> None:
    """``InputError`` if the evidence is not of the clip's frames and pixels."""
    if evidence.shape != clip.frames.shape[:3]:
        raise InputError(f"evidence: expected {tuple(clip.frames.shape[:3])}, but it is {tuple(evidence.shape)}")


def _draw_curve(ax: Axes, evidence: Tensor, truth: Tensor | None, thresholds: Sequence[float]) -> None:
    low, high = float(evidence.min()), float(evidence.max())
    over = torch.linspace(low, high, 41).tolist()
    if truth is None:
        ax.plot(over, [100 * float((evidence > at).double().mean()) for at in over])
        ax.set_ylabel("dynamic (%)")
    else:
        ax.plot(over, [motion_iou(evidence > at, truth) for at in over])
        ax.set_ylabel("IoU")
    for threshold in thresholds:
        ax.axvline(threshold, color=DYNAMIC_COLOR, linewidth=1)
    ax.set(xlabel="threshold of the evidence", xlim=(low, max(high, low + 1e-6)))


def _true_mask(clip: Clip) -> Bool[Tensor, "t h w"] | None:
    return None if clip.truth is None else clip.truth.motion_mask
