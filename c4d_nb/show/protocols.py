"""The spread that protocols alone make, as a picture."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from c4d_nb.protocols import ProtocolScore, by_measure, influence
from c4d_nb.show.figures import DYNAMIC_COLOR


def protocol_figure(scores: Sequence[ProtocolScore]) -> Figure:
    """A strip a measure: every protocol is a dot, coloured by the choice that moves the measure most; the ring is ours.

    All dots of a strip are of the same prediction.
    """
    groups = by_measure(score for score in scores if not math.isnan(score.value))
    figure = Figure(figsize=(10, 0.5 + 0.85 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for ax, (measure, group) in zip(axes, groups.items(), strict=True):
        effect = influence(group)
        strongest = max(effect, key=effect.get)
        kinds = list(dict.fromkeys(dict(score.choices).get(strongest) for score in group))
        colors = matplotlib.colormaps["tab20" if len(kinds) > 10 else "tab10"].colors
        for row, kind in enumerate(kinds):
            height = 1 - (row + 1) / (len(kinds) + 1)
            own = [score for score in group if dict(score.choices).get(strongest) == kind]
            dots = [score.value for score in own]
            ax.plot(dots, [height] * len(dots), "o", color=colors[row], markersize=5, alpha=0.75, label=kind)
            ours = [score.value for score in own if score.is_ours]
            ax.plot(ours, [height] * len(ours), "o", color="none", mec=DYNAMIC_COLOR, markersize=12, mew=2)
        ax.set(ylim=(0, 1), yticks=[])
        ax.set_ylabel(f"{measure}\n{len(group)} protocols", rotation=0, ha="right", va="center", fontsize=9)
        ax.margins(x=0.06)
        ax.locator_params(axis="x", nbins=6)
        ax.spines[["left", "right", "top"]].set_visible(False)
        ax.legend(
            title=strongest,
            title_fontsize=8,
            alignment="left",
            fontsize=7,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            ncols=1 + len(kinds) // 5,
            frameon=False,
            handletextpad=0.1,
            columnspacing=0.6,
        )
    return figure
