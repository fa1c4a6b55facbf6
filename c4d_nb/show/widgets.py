"""What needs a kernel: controls that draw anew. Core ipywidgets only, so that they work on Colab as they are."""

from collections.abc import Callable, Mapping
from io import BytesIO
from time import perf_counter
from typing import get_args

import cv2
import ipywidgets
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.alignment import AlignConfig, Snapshot
from c4d_nb.clip import Clip, Tracks
from c4d_nb.errors import InputError
from c4d_nb.kubric.mobility import MobilityMode
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.alignment import history_figure
from c4d_nb.show.kubric import MobilityRule, label_figure
from c4d_nb.show.masks import epipolar_figure, pair_geometry, threshold_figure
from c4d_nb.show.queries import explorer_figure
from c4d_nb.show.slices import depth_image, slice_image
from c4d_nb.show.smoothing import SmoothingOptions, options_figure
from c4d_nb.show.threshold import check_evidence, overlay_at, threshold_text

DRAWINGS_APART = 4
"""A view of something that runs is drawn anew after so many times as long as drawing takes, so as not to delay it."""


def mobility_explorer(clip: Clip) -> ipywidgets.VBox:
    """Threshold, mode and spin of the mobility rule by hand: the labels they give in a frame, and why."""
    whole = {"description_width": "initial"}  # else a long name is cut off
    threshold = ipywidgets.FloatLogSlider(
        value=0.01, min=-4, max=0, step=0.05, readout_format=".2g", description="threshold (m)", style=whole
    )
    mode = ipywidgets.Dropdown(options=get_args(MobilityMode), description="mode")
    spin = ipywidgets.Checkbox(description="count a spin", indent=False)
    frame = ipywidgets.IntSlider(max=len(clip) - 1, description="frame")
    picture = ipywidgets.Image(format="png")

    def draw(_: object = None) -> None:
        rule = MobilityRule(threshold.value, mode.value, spin.value)
        picture.value = _png(label_figure(clip, frame.value, rule))

    threshold.continuous_update = frame.continuous_update = False  # a picture takes longer than a slider's step
    for control in (threshold, mode, spin, frame):
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([threshold, mode]), ipywidgets.HBox([frame, spin]), picture])


def query_explorer(clip: Clip, *, cell: int = 20) -> ipywidgets.VBox:
    """Cell size, seed and frame by hand: where the queries lie, and what is far from one."""
    size = ipywidgets.IntSlider(value=cell, min=6, max=64, description="cell (px)")
    seed = ipywidgets.IntSlider(max=9, description="seed")
    frame = ipywidgets.IntSlider(max=len(clip) - 1, description="frame")
    picture = ipywidgets.Image(format="png")

    def draw(_: object = None) -> None:
        picture.value = _png(explorer_figure(clip.frames[frame.value], size.value, seed.value))

    for control in (size, seed, frame):
        control.continuous_update = False
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([size, seed, frame]), picture])


def slice_explorer(result: Reconstruction) -> ipywidgets.VBox:
    """Drag a column through the image: its colours and its depth over time. ``figures.time_slice`` is the still
    picture."""
    column = ipywidgets.IntSlider(
        value=result.depth.shape[2] // 2, max=result.depth.shape[2] - 1, description="column", layout={"width": "420px"}
    )
    picture = ipywidgets.Image(format="png")
    depth = depth_image(result)

    def draw(_: object = None) -> None:
        picture.value = _encoded(slice_image(result, depth, column.value))

    column.observe(draw, names="value")  # while it is dragged: a slice is drawn faster than a hand moves
    draw()
    head = ipywidgets.HTML("the column in the middle frame, then its colours and its depth from first to last frame")
    return ipywidgets.VBox([column, picture, head])


def mask_explorer(clip: Clip, evidence: Float[Tensor, "t h w"], *, threshold: float = 0.3) -> ipywidgets.VBox:
    """A threshold on the evidence of motion by hand, frame by frame: what is above it over the image, and how well it
    fits the truth, if there is any beside the clip. ``threshold.threshold_figure`` is the still picture."""
    check_evidence(clip, evidence)
    low, high = float(evidence.min()), float(evidence.max())
    level = ipywidgets.FloatSlider(
        value=threshold, min=low, max=high, step=(high - low) / 100 or 0.01, readout_format=".2f", description="above"
    )
    frame = ipywidgets.IntSlider(value=len(clip) // 2, max=len(clip) - 1, description="frame")
    picture, text = ipywidgets.Image(format="png", width=420), ipywidgets.Label()

    def draw(_: object = None) -> None:
        picture.value = _encoded(overlay_at(clip, evidence, frame.value, level.value))
        text.value = threshold_text(clip, evidence, frame.value, level.value)

    for control in (level, frame):
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([level, frame]), picture, text])


def _encoded(image: UInt8[Tensor, "v u 3"]) -> bytes:
    return cv2.imencode(".png", image.numpy()[..., ::-1])[1].tobytes()


def epipolar_explorer(
    clip: Clip, flows: Float[Tensor, "e h w 2"], edges: Int[Tensor, "e 2"], static: Mapping[str, Tracks]
) -> ipywidgets.VBox:
    """Pair, pixel, threshold and static set by hand: the pixel's epipolar line and match, who voted, every error."""
    height, width = clip.size
    names = [(f"{n} and {m}", index) for index, (n, m) in enumerate(edges.tolist())]
    pair = ipywidgets.SelectionSlider(options=names, value=len(names) // 2, description="frames")
    chosen = ipywidgets.Dropdown(options=list(static), description="static")
    u = ipywidgets.IntSlider(value=width // 2, max=width - 1, description="u (px)")
    v = ipywidgets.IntSlider(value=height // 2, max=height - 1, description="v (px)")
    threshold = ipywidgets.FloatLogSlider(value=0.7, min=-1, max=1.5, step=0.05, description="threshold")
    picture = ipywidgets.Image(format="png")

    def draw(_: object = None) -> None:
        geometry = pair_geometry(flows[pair.value], static[chosen.value], *edges[pair.value].tolist())
        picture.value = _png(epipolar_figure(clip, geometry, (u.value, v.value), threshold.value))

    for control in (pair, chosen, u, v, threshold):
        control.continuous_update = False
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox(
        [ipywidgets.HBox([pair, chosen]), ipywidgets.HBox([u, v]), ipywidgets.HBox([threshold]), picture]
    )


def threshold_explorer(
    frame: UInt8[Tensor, "h w 3"], errors: Mapping[str, Float[Tensor, "k h w"]], true: Bool[Tensor, "h w"]
) -> ipywidgets.VBox:
    """Threshold, number of pairs, votes and static set by hand: one frame's mask with its IoU, precision and recall."""
    most = min(map(len, errors.values()))
    threshold = ipywidgets.FloatLogSlider(value=0.7, min=-1, max=1.5, step=0.05, description="threshold")
    pairs = ipywidgets.IntSlider(value=most, min=1, max=most, description="pairs")
    votes = ipywidgets.IntSlider(value=1, min=1, max=most, description="votes")
    chosen = ipywidgets.Dropdown(options=list(errors), description="static")
    picture = ipywidgets.Image(format="png")

    def draw(_: object = None) -> None:
        of = errors[chosen.value][: pairs.value]
        picture.value = _png(threshold_figure(frame, of, true, threshold.value, votes=votes.value))

    for control in (threshold, pairs, votes, chosen):
        control.continuous_update = False
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([threshold, chosen]), ipywidgets.HBox([pairs, votes]), picture])


def smoothing_explorer(true: Float[Tensor, "t 3"], noisy: Float[Tensor, "t 3"]) -> ipywidgets.VBox:
    """Kernel size, decay and every repair by hand: one track smoothed, its weights, and its mean error."""
    size = ipywidgets.IntSlider(value=5, min=1, max=13, step=2, description="k (frames)")
    decay = ipywidgets.FloatLogSlider(value=1.0, min=-2, max=2, step=0.1, description="decay (1/m)")
    names = SmoothingOptions._fields[2:]
    boxes = {name: ipywidgets.Checkbox(description=name.replace("_", " "), indent=False) for name in names}
    picture = ipywidgets.Image(format="png")

    def draw(_: object = None) -> None:
        repairs = {name: box.value for name, box in boxes.items()}
        options = SmoothingOptions(size.value, decay.value, **repairs)
        picture.value = _png(options_figure(true, noisy, options))

    size.continuous_update = decay.continuous_update = False
    for control in (size, decay, *boxes.values()):
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([size, decay]), ipywidgets.HBox([*boxes.values()]), picture])


def alignment_monitor(
    config: AlignConfig, *, true_path: Float[Tensor, "t 4 4"] | None = None, true_focal_px: float | None = None
) -> tuple[ipywidgets.VBox, Callable[[Snapshot], None]]:
    """Stage 1 while it runs: the view, and the ``on_step`` to hand to ``align`` with the same ``config``. It shows
    ``alignment.history_figure`` of the snapshots so far: when there is time, and of the last one in any case.

    Raises ``InputError`` where ``config`` takes no snapshots.
    """
    if config.record_every < 1:
        raise InputError(f"config: expected record_every of at least 1, but it is {config.record_every}")
    progress = ipywidgets.IntProgress(max=config.iterations, description="iteration")
    text, picture = ipywidgets.Label(), ipywidgets.Image(format="png")
    history: list[Snapshot] = []
    due = 0.0

    def on_step(snapshot: Snapshot) -> None:
        nonlocal due
        if history and snapshot.iteration <= history[-1].iteration:
            history.clear()  # another run began
        history.append(snapshot)
        is_last = snapshot.iteration + config.record_every >= config.iterations
        progress.value = config.iterations if is_last else snapshot.iteration
        values = [f"{name.upper()} {value:.4g}" for name, value in snapshot.value.items()]
        text.value = ", ".join([f"{snapshot.iteration} of {config.iterations}", *values])
        start = perf_counter()
        if is_last or start >= due:
            picture.value = _png(history_figure(history, true_path=true_path, true_focal_px=true_focal_px))
            end = perf_counter()
            due = end + DRAWINGS_APART * (end - start)

    return ipywidgets.VBox([ipywidgets.HBox([progress, text]), picture]), on_step


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()
