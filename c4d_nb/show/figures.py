"""Pictures of clips and results, by matplotlib: the static twin of every interactive view.

Figures are made without pyplot: a notebook shows one as the value of its cell, and none stays behind in memory.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from c4d_nb.camera import fit_similarity
from c4d_nb.clip import Tracks
from c4d_nb.errors import InputError
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.viewer import world_up

STATIC_COLOR, DYNAMIC_COLOR, TRUTH_COLOR = "#3b82c4", "#e4572e", "#7a7a7a"
PANEL_INCHES = 2.6


def overview(result: Reconstruction, *, frames: int = 5) -> Figure:
    """Frames of the video in columns: the tracks over them, the motion mask, the depth."""
    chosen = even_frames(len(result.depth), frames)
    figure, axes = _panels(3, len(chosen), *result.clip.size)
    depth = _draw_rows(axes, [_tracks_of(result), _mask_of(result), _depth_of(result)], chosen)
    for row, name in enumerate(("tracks", "motion mask", "depth")):
        axes[row, 0].set_ylabel(name, fontsize=10)
    figure.colorbar(depth, ax=axes[2].tolist(), shrink=0.9, label="depth (scene units)", pad=0.01)
    return figure


def filmstrip(frames: UInt8[Tensor, "t h w 3"], *, count: int = 5) -> Figure:
    """Some frames, evenly spread."""
    return _strip(
        lambda ax, frame: ax.imshow(frames[frame].numpy()), even_frames(len(frames), count), *frames.shape[1:3]
    )


def track_strip(result: Reconstruction, *, count: int = 3) -> Figure:
    """Tracks with their tails over some frames; orange is dynamic."""
    return _strip(_tracks_of(result), even_frames(len(result.depth), count), *result.clip.size)


def mask_strip(result: Reconstruction, *, count: int = 5) -> Figure:
    """The motion mask over some frames; with truth beside the clip, its outline."""
    return _strip(_mask_of(result), even_frames(len(result.depth), count), *result.clip.size)


def depth_strip(result: Reconstruction, *, count: int = 5) -> Figure:
    """Depth of some frames on one colour scale, near is red; with truth beside the clip, the true depth below."""
    chosen = even_frames(len(result.depth), count)
    truth = None if result.clip.truth is None else result.clip.truth.depth
    figure, axes = _panels(1 if truth is None else 2, len(chosen), *result.clip.size)
    rows = [_depth_of(result)]
    if truth is not None:
        scale = result.depth.median() / truth.median()
        near, far = depth_range(result.depth)
        rows.append(lambda ax, frame: ax.imshow((scale * truth[frame]).numpy(), cmap="turbo_r", vmin=near, vmax=far))
        axes[1, 0].set_ylabel("truth")
    axes[0, 0].set_ylabel("estimate")
    image = _draw_rows(axes, rows, chosen)
    figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.9, label="depth (scene units)", pad=0.01)
    return figure


def show_tracks(
    ax: Axes, frame: UInt8[Tensor, "h w 3"], tracks: Tracks, index: int, *, tail: int = 8, limit: int = 400
) -> AxesImage:
    """Tracks visible in frame ``index`` with their tails of the last frames; orange ones are dynamic."""
    height, width = frame.shape[:2]
    image = ax.imshow(frame.numpy())
    seen = torch.nonzero(tracks.visible[index])[:, 0]
    seen = seen[:: max(1, len(seen) // limit)]
    for dynamic, color in ((False, STATIC_COLOR), (True, DYNAMIC_COLOR)):
        group = seen[(tracks.mobility[index, seen] >= 0.5) == dynamic]
        past = slice(max(0, index - tail), index + 1)
        uv = torch.where(tracks.visible[past][:, group, None], tracks.uv[past][:, group], torch.nan)
        ax.plot(*uv.permute(2, 0, 1).numpy(), color=color, linewidth=0.8, alpha=0.8)
        ax.scatter(*tracks.uv[index, group].T.numpy(), s=5, color=color, edgecolors="white", linewidths=0.3, zorder=3)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return image


def mask_overlay(frame: UInt8[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]) -> UInt8[Tensor, "h w 3"]:
    """The frame, greyed, with its dynamic pixels tinted."""
    grey = frame.float().mean(-1, keepdim=True).expand(-1, -1, 3) * 0.6 + 80
    tint = torch.tensor([228.0, 87.0, 46.0])
    return torch.where(mask[..., None], 0.45 * frame.float() + 0.55 * tint, grey).clamp(0, 255).to(torch.uint8)


def time_slice(result: Reconstruction, *, column: int | None = None) -> Figure:
    """y-t slices: one image column through all frames, of colour and of depth. Flicker shows as vertical stripes."""
    t, height, width = result.depth.shape
    column = width // 2 if column is None else column
    if not 0 <= column < width:
        raise InputError(f"column: expected 0 to {width - 1}, but it is {column}")
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    axes[0].imshow(result.clip.frames[t // 2].numpy())
    axes[0].axvline(column, color=DYNAMIC_COLOR)
    axes[0].set(title=f"column {column} in frame {t // 2}", xticks=[], yticks=[])
    near, far = depth_range(result.depth)
    extent = (-0.5, t - 0.5, height - 0.5, -0.5)
    axes[1].imshow(result.clip.frames[:, :, column].transpose(0, 1).numpy(), aspect="auto", extent=extent)
    image = axes[2].imshow(
        result.depth[:, :, column].T.numpy(), aspect="auto", cmap="turbo_r", vmin=near, vmax=far, extent=extent
    )
    axes[1].set(title="colour over time", xlabel="frame", ylabel="v (px)")
    axes[2].set(title="depth over time", xlabel="frame")
    figure.colorbar(image, ax=axes[2], label="depth (scene units)")
    return figure


def camera_path(result: Reconstruction) -> Figure:
    """The camera's path from above and from the side; with truth beside the clip, the true path after the best
    Sim(3)."""
    centre = result.world_from_cam[:, :3, 3]
    truth = None if result.clip.truth is None else result.clip.truth.world_from_cam
    up = world_up(result.world_from_cam)
    if truth is not None:
        scale, rotation, translation = fit_similarity(centre, truth[:, :3, 3].to(centre))
        centre = scale * centre @ rotation.T + translation
        up = rotation.double() @ up
    along, across = ground_axes(centre, up.to(centre))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    unit = "scene units" if truth is None else "units of the truth"
    for ax, vertical, name in ((axes[0], across, "from above"), (axes[1], up.to(centre), "from the side")):
        if truth is not None:
            points = truth[:, :3, 3].to(centre)
            ax.plot(
                (points @ along).numpy(),
                (points @ vertical).numpy(),
                color=TRUTH_COLOR,
                linewidth=5,
                alpha=0.4,
                label="truth",
            )
        ax.plot(
            (centre @ along).numpy(),
            (centre @ vertical).numpy(),
            "o-",
            color=DYNAMIC_COLOR,
            markersize=3,
            label="estimate",
        )
        ax.set(title=f"camera path {name}", xlabel=f"along ({unit})", aspect="equal", adjustable="datalim")
    axes[0].legend()
    return figure


def loss_curves(losses: dict[str, Float[Tensor, "i"]]) -> Figure:
    """Each objective over the iterations, weighted as optimised."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    ax = figure.subplots()
    for name, values in losses.items():
        ax.plot(values.numpy(), label=name.upper())
    ax.set(yscale="log", xlabel="iteration", ylabel="weighted value")
    ax.legend()
    return figure


def score_text(scores: dict[str, float]) -> str:
    """A table of scores, two significant digits: as much as a rerun on another machine repeats."""
    return "\n".join(f"{name:32} {value:>8.2g}" for name, value in scores.items())


def even_frames(t: int, count: int) -> list[int]:
    """``count`` frames spread over the clip, first and last among them."""
    return sorted(set(torch.linspace(0, t - 1, min(count, t)).round().long().tolist()))


def _panels(rows: int, columns: int, height: int, width: int) -> tuple[Figure, np.ndarray]:
    size = (PANEL_INCHES * columns, rows * PANEL_INCHES * height / width + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return figure, axes


def _draw_rows(axes: np.ndarray, rows: Sequence[Callable[[Axes, int], AxesImage]], chosen: Sequence[int]) -> AxesImage:
    """Each row's drawing of each chosen frame; returns the last image, for a colour bar."""
    for row, draw in enumerate(rows):
        for column, frame in enumerate(chosen):
            image = draw(axes[row, column], frame)
            if row == 0:
                axes[row, column].set_title(f"frame {frame}", fontsize=10)
    return image


def _strip(draw: Callable[[Axes, int], AxesImage], chosen: Sequence[int], height: int, width: int) -> Figure:
    figure, axes = _panels(1, len(chosen), height, width)
    _draw_rows(axes, [draw], chosen)
    return figure


def _tracks_of(result: Reconstruction) -> Callable[[Axes, int], AxesImage]:
    return lambda ax, frame: show_tracks(ax, result.clip.frames[frame], result.tracks, frame)


def _mask_of(result: Reconstruction) -> Callable[[Axes, int], AxesImage]:
    truth = None if result.clip.truth is None else result.clip.truth.motion_mask

    def draw(ax: Axes, frame: int) -> AxesImage:
        if truth is not None:
            ax.contour(truth[frame].numpy(), levels=[0.5], colors="white", linewidths=0.8)
        return ax.imshow(mask_overlay(result.clip.frames[frame], result.motion_mask[frame]).numpy())

    return draw


def _depth_of(result: Reconstruction) -> Callable[[Axes, int], AxesImage]:
    near, far = depth_range(result.depth)
    return lambda ax, frame: ax.imshow(result.depth[frame].numpy(), cmap="turbo_r", vmin=near, vmax=far)


def depth_range(depth: Float[Tensor, "t h w"]) -> tuple[float, float]:
    """2nd and 98th percentile, from at most a million pixels, a quarter apart at least."""
    finite = depth[torch.isfinite(depth)]
    sample = finite[:: max(1, len(finite) // 1_000_000)]
    near, far = float(sample.quantile(0.02)), float(sample.quantile(0.98))
    return near, max(far, 1.25 * near)  # a flat scene looks flat


def ground_axes(centre: Float[Tensor, "t 3"], up: Float[Tensor, "3"]) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Two horizontal axes: the one along which the path is longest, and the one across it."""
    flat = centre - centre.mean(0)
    flat = flat - (flat @ up)[:, None] * up
    along = torch.linalg.svd(flat, full_matrices=False).Vh[0]
    return along, torch.linalg.cross(up, along)
