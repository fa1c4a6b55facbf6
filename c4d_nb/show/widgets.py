"""What needs a kernel: controls that draw anew. Core ipywidgets only, so that they work on Colab as they are."""

from io import BytesIO
from typing import get_args

import ipywidgets
from matplotlib.figure import Figure

from c4d_nb.clip import Clip
from c4d_nb.kubric.mobility import MobilityMode
from c4d_nb.show.kubric import MobilityRule, label_figure
from c4d_nb.show.queries import explorer_figure


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


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()
