"""How a training went."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


def loss_figure(history: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """One panel a value, against the step; ``history`` has (step, value) by name."""
    figure = Figure(figsize=(4.2 * max(1, len(history)), 3), layout="constrained")
    axes = figure.subplots(1, max(1, len(history)), squeeze=False)[0]
    for ax, (name, points) in zip(axes, history.items(), strict=False):
        steps, values = zip(*points, strict=True)
        ax.plot(steps, values, linewidth=1.2)
        ax.set_xlabel("step")
        ax.set_title(f"{name}: {values[-1]:.3f}", fontsize=10)
        ax.grid(alpha=0.3)
    return figure
