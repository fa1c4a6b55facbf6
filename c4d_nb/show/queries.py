"""Pictures of query points: where they lie, how far everything else is from one, how long they are followed."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial import cKDTree
from torch import Tensor

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Tracks
from c4d_nb.correspondence.queries import GridQueries, gradient_magnitude, sample_grid_queries
from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR

GRADIENT_COLOR, RANDOM_COLOR = DYNAMIC_COLOR, STATIC_COLOR
FAR_PX = 16.0
"""End of the scale of distances."""


def query_figure(frame: UInt8[Tensor, "h w 3"], queries: GridQueries, cell: int) -> Figure:
    """The frame with its cells and both kinds of points; image gradients; how far each pixel is from a point."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.imshow(frame.numpy())
    _draw_cells(left, frame.shape[:2], cell)
    _scatter(left, queries)
    left.legend(loc="upper right", fontsize=8, framealpha=0.9)
    left.set_title(f"{len(queries.uv)} queries in cells of {cell} px")
    middle.imshow(gradient_magnitude(frame).sqrt().numpy(), cmap="gray")
    middle.scatter(*queries.uv[queries.is_gradient].T.numpy(), s=9, color=GRADIENT_COLOR)
    middle.set_title("image gradient (root)")
    image = right.imshow(
        distance_to_query(frame.shape[:2], queries.uv).numpy(), cmap="magma_r", vmin=0, vmax=max(FAR_PX, cell)
    )
    figure.colorbar(image, ax=right, shrink=0.8, label="px to the nearest query")
    right.set_title("what is far from a query")
    for ax in (left, middle, right):
        ax.set(xticks=[], yticks=[], xlim=(-0.5, frame.shape[1] - 0.5), ylim=(frame.shape[0] - 0.5, -0.5))
    return figure


def explorer_figure(frame: UInt8[Tensor, "h w 3"], cell: int, seed: int) -> Figure:
    """``query_figure`` of a draw with this cell and seed."""
    return query_figure(
        frame, sample_grid_queries(frame, cell=cell, generator=torch.Generator().manual_seed(seed)), cell
    )


def distance_to_query(size: tuple[int, int], uv: Float[Tensor, "n 2"]) -> Float[Tensor, "h w"]:
    """px from every pixel to its nearest point."""
    distance, _ = cKDTree(uv.numpy()).query(pixel_grid(*size).reshape(-1, 2).numpy())
    return torch.from_numpy(distance).reshape(size).float()


def survival_curves(
    found: Tracks, true: Tracks, kinds: Mapping[str, Bool[Tensor, "n"]], *, within_px: float = 4.0
) -> dict[str, Float[Tensor, "t"]]:
    """By kind: of the points that are truly visible so many frames after their query, the share that the tracker has
    within ``within_px``, and calls visible."""
    good = found.visible & ((found.uv - true.uv).norm(dim=-1) < within_px)
    age = torch.arange(len(good))[:, None] - true.query_frame
    curves = {}
    for name, chosen in kinds.items():
        seen = true.visible & chosen
        ages = range(len(good))
        curves[name] = torch.stack([(good & seen)[age == a].sum() / seen[age == a].sum() for a in ages])
    return curves


def survival_figure(curves: Mapping[str, Mapping[str, Float[Tensor, "t"]]]) -> Figure:
    """One panel a tracker, one line a kind."""
    figure = Figure(figsize=(4.2 * len(curves), 3), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for ax, (tracker, kinds) in zip(axes, curves.items(), strict=True):
        for name, share in kinds.items():
            ax.plot(100 * share.numpy(), label=name)
        ax.set(title=tracker, xlabel="frames since the query", ylim=(0, 103))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("followed (% of the visible)")
    axes[0].legend(fontsize=8)
    return figure


def track_errors_figure(frame: UInt8[Tensor, "h w 3"], found: Tracks, true: Tracks, index: int) -> Figure:
    """Queries of frame 0, coloured by how far off their tracks are in frame ``index``; hidden ones are left out."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    ax = figure.subplots()
    ax.imshow(frame.numpy(), alpha=0.55)
    error = (found.uv - true.uv).norm(dim=-1)[index]
    seen = true.visible[index] & (true.query_frame == 0)
    at = true.uv[0, seen].T.numpy()
    image = ax.scatter(*at, c=error[seen].clamp(max=FAR_PX).numpy(), s=12, cmap="inferno_r", vmin=0, vmax=FAR_PX)
    figure.colorbar(image, ax=ax, shrink=0.8, label=f"error in frame {index} (px)")
    ax.set(xticks=[], yticks=[])
    return figure


def _draw_cells(ax: Axes, size: tuple[int, int], cell: int) -> None:
    for line in range(cell, size[1], cell):
        ax.axvline(line - 0.5, color="white", linewidth=0.4, alpha=0.6)
    for line in range(cell, size[0], cell):
        ax.axhline(line - 0.5, color="white", linewidth=0.4, alpha=0.6)


def _scatter(ax: Axes, queries: GridQueries) -> None:
    kinds = (
        ("strongest gradient", queries.is_gradient, GRADIENT_COLOR),
        ("random", ~queries.is_gradient, RANDOM_COLOR),
    )
    for name, chosen, color in kinds:
        ax.scatter(*queries.uv[chosen].T.numpy(), s=12, color=color, edgecolors="white", linewidths=0.4, label=name)
