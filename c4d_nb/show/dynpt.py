"""Pictures of DynPT: what its encoders see, what a query is compared with, what each pass changes, what comes out."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from c4d_nb.clip import Clip, Tracks
from c4d_nb.correspondence.dynpt import TrackState
from c4d_nb.correspondence.encoders import STRIDE
from c4d_nb.correspondence.local_correlation import FeaturePyramid, cells_from_uv
from c4d_nb.correspondence.losses import NEAR_PX, TrackTruth
from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR, even_frames, show_tracks

HIDDEN_COLOR = "#7a7a7a"


def feature_figure(frame: UInt8[Tensor, "h w 3"], features: Mapping[str, Float[Tensor, "c _ _"]]) -> Figure:
    """A frame and maps of features, whose three main components (PCA) are red, green and blue."""
    figure = Figure(figsize=(3.4 * (1 + len(features)), 3.5), layout="constrained")
    first, *axes = figure.subplots(1, 1 + len(features))
    first.imshow(frame.numpy())
    first.set_title(f"frame, {frame.shape[1]}x{frame.shape[0]} px")
    for ax, (name, values) in zip(axes, features.items(), strict=True):
        ax.imshow(_main_components(values).numpy())
        ax.set_title(f"{name}: {tuple(values.shape)}")
    _bare(figure)
    return figure


def correlation_figure(
    frames: UInt8[Tensor, "t h w 3"],
    pyramid: FeaturePyramid,
    query: tuple[int, float, float],
    estimate: tuple[int, float, float],
    *,
    truth: tuple[float, float],
    radius: int,
) -> Figure:
    """A query (frame, x, y), and how like its feature those of the estimate's frame are, on every level. The square
    around the estimate (dot) is what the network sees of them; the cross is the truth."""
    frame, *at = query
    there, *estimated = estimate
    uv, guess, true = (torch.tensor(place) for place in (at, estimated, truth))
    figure = Figure(figsize=(2.5 * (2 + len(pyramid.levels)), 2.9), layout="constrained")
    left, right, *axes = figure.subplots(1, 2 + len(pyramid.levels))
    for ax, number, name in ((left, frame, "query, frame"), (right, there, "frame")):
        ax.imshow(frames[number].numpy())
        ax.set_title(f"{name} {number}", fontsize=10)
    left.plot(*at, "o", color=DYNAMIC_COLOR, markeredgecolor="white")
    right.plot(*estimated, "o", color=DYNAMIC_COLOR, markeredgecolor="white")
    right.plot(*truth, "x", color="white", markersize=7, markeredgewidth=2)
    for number, (ax, level) in enumerate(zip(axes, pyramid.levels, strict=True)):
        stride = STRIDE * 2**number
        column, row = cells_from_uv(uv, level=number).tolist()
        feature = _at(level[0, frame], column, row)
        ax.imshow((level[0, there] @ feature).numpy(), cmap="viridis", vmin=-1, vmax=1)
        side = 2 * radius + 1
        cell, target = (cells_from_uv(place, level=number).tolist() for place in (guess, true))
        corner = (cell[0] - side / 2, cell[1] - side / 2)
        ax.plot(*cell, "o", color=DYNAMIC_COLOR, markersize=4)
        ax.plot(*target, "x", color="white", markersize=6, markeredgewidth=2)
        ax.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=1.5))
        ax.set(xlim=(-0.5, level.shape[3] - 0.5), ylim=(level.shape[2] - 0.5, -0.5))
        ax.set_title(f"level {number}: stride {stride} px", fontsize=10)
    _bare(figure)
    return figure


def passes_figure(
    frame: UInt8[Tensor, "h w 3"], states: Sequence[TrackState], truth: TrackTruth, index: int, *, limit: int = 24
) -> Figure:
    """How the estimates in frame ``index`` walk from where they begin (truth: crosses), and the error by pass."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    left.imshow(frame.numpy(), alpha=0.6)
    seen = (truth.visible & truth.valid)[0, index].nonzero()[:, 0]
    path = torch.stack([state.uv[0, index] for state in states])
    shown = seen[:: max(1, len(seen) // limit)]
    for point in shown.tolist():
        color = DYNAMIC_COLOR if truth.mobile[0, index, point] else STATIC_COLOR
        left.plot(*path[:, point].T.numpy(), "-", color=color, linewidth=1)
        left.plot(*path[-1, point].numpy(), "o", color=color, markersize=4)
    left.plot(*truth.uv[0, index, shown].T.numpy(), "x", color="black", markersize=4)
    left.set_title(f"frame {index}: from the start to the estimate; truth is a cross", fontsize=10)
    left.set(xticks=[], yticks=[], xlim=(-0.5, frame.shape[1] - 0.5), ylim=(frame.shape[0] - 0.5, -0.5))
    errors = torch.stack([(state.uv - truth.uv).norm(dim=-1)[truth.visible & truth.valid] for state in states])
    for name, share in (("half of the points", 0.5), ("three quarters", 0.75), ("nine tenths", 0.9)):
        right.plot(range(len(states)), errors.quantile(share, dim=1).numpy(), "o-", label=name)
    right.axhline(NEAR_PX, color=HIDDEN_COLOR, linewidth=1, linestyle="--")
    right.set(xlabel="pass", ylabel="error of visible points, below (px)", xticks=range(len(states)), yscale="log")
    right.legend(fontsize=8)
    return figure


def tracks_figure(clip: Clip, tracks: Tracks, *, count: int = 4) -> Figure:
    """Tracks over frames of the clip, with tails: orange is called dynamic. Below, how sure the network is of each."""
    chosen = even_frames(len(clip), count)
    figure = Figure(figsize=(3.1 * count, 6.2), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    for column, index in enumerate(chosen):
        show_tracks(axes[0, column], clip.frames[index], tracks, index)
        axes[0, column].set_title(f"frame {index}", fontsize=10)
        image = _draw_confidence(axes[1, column], clip.frames[index], tracks, index)
    axes[0, 0].set_ylabel("mobility")
    axes[1, 0].set_ylabel("confidence")
    figure.colorbar(image, ax=axes[1].tolist(), shrink=0.8, pad=0.01, label="confidence (grey: called hidden)")
    _bare(figure)
    return figure


def error_figure(clip: Clip, found: Tracks, true: Tracks, *, worst: int = 40) -> Figure:
    """The ``worst`` visible positions of a clip, each drawn in its frame's place: from the truth to the estimate."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    error = (found.uv - true.uv).norm(dim=-1).where(true.visible, torch.nan)
    wrong = ((found.mobility > 0.5) != (true.mobility > 0.5)) & true.visible
    middle = len(clip) // 2
    left.imshow(clip.frames[middle].numpy(), alpha=0.5)
    far = error[middle].nan_to_num(-1).argsort(descending=True)[:worst]
    for point in far.tolist():
        ends = torch.stack([true.uv[middle, point], found.uv[middle, point]])
        left.plot(*ends.T.numpy(), "-", color="black", linewidth=0.8)
    left.scatter(*true.uv[middle, far].T.numpy(), s=14, color=STATIC_COLOR, label="truth")
    left.scatter(*found.uv[middle, far].T.numpy(), s=14, color=DYNAMIC_COLOR, label="estimate")
    left.scatter(*true.uv[middle, wrong[middle]].T.numpy(), s=60, facecolors="none", edgecolors="black")
    left.legend(fontsize=8)
    left.set_title(f"frame {middle}: worst positions; circled: wrong mobility", fontsize=10)
    left.set(xticks=[], yticks=[], xlim=(-0.5, clip.size[1] - 0.5), ylim=(clip.size[0] - 0.5, -0.5))
    age = (torch.arange(len(clip))[:, None] - true.query_frame).abs()
    moves = true.mobility > 0.5
    for name, kind, color in (("static", ~moves, STATIC_COLOR), ("dynamic", moves, DYNAMIC_COLOR)):
        curve = [error[(age == a) & kind].nanmedian() for a in range(1, len(clip))]
        right.plot(range(1, len(clip)), torch.stack(curve).numpy(), color=color, label=name)
    right.set(xlabel="frames from the query", ylabel="median error (px)")
    right.legend(fontsize=8)
    return figure


def _main_components(values: Float[Tensor, "c h w"]) -> Float[Tensor, "h w 3"]:
    flat = values.flatten(1).T.float()
    flat = flat - flat.mean(dim=0)
    axes = torch.linalg.svd(flat, full_matrices=False).Vh[:3]
    axes = axes * axes.sum(dim=1, keepdim=True).sign()  # or the colours would be a matter of chance
    main = flat @ axes.T
    low, high = main.quantile(0.02, dim=0), main.quantile(0.98, dim=0)
    return ((main - low) / (high - low)).clamp(0, 1).reshape(*values.shape[1:], 3)


def _at(level: Float[Tensor, "h w c"], column: float, row: float) -> Float[Tensor, "c"]:
    """Bilinear."""
    height, width = level.shape[:2]
    place = level.new_tensor([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1])
    return F.grid_sample(
        level.permute(2, 0, 1)[None], place[None, None, None], align_corners=False, padding_mode="border"
    )[0, :, 0, 0]


def _draw_confidence(ax: Axes, frame: UInt8[Tensor, "h w 3"], tracks: Tracks, index: int) -> PathCollection:
    ax.imshow(frame.numpy(), alpha=0.4)
    seen = tracks.visible[index]
    ax.scatter(*tracks.uv[index, ~seen].T.numpy(), s=5, color=HIDDEN_COLOR)
    at, sure = tracks.uv[index, seen].T.numpy(), tracks.confidence[index, seen].numpy()
    image = ax.scatter(*at, c=sure, s=7, cmap="RdYlGn", vmin=0, vmax=1)
    ax.set(xlim=(-0.5, frame.shape[1] - 0.5), ylim=(frame.shape[0] - 0.5, -0.5))
    return image


def _bare(figure: Figure) -> None:
    for ax in figure.axes:
        if ax.get_label() != "<colorbar>":
            ax.set(xticks=[], yticks=[])
