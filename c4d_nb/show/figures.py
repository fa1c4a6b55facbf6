"""Pictures of clips and results: matplotlib for the page, plotly for the 3D scene."""

from collections.abc import Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.camera import fit_similarity, rays, transform, unproject
from c4d_nb.clip import Tracks
from c4d_nb.errors import InputError
from c4d_nb.reconstruct import Reconstruction
from c4d_nb.show.viewer import flying_pixels, world_up

STATIC_COLOR, DYNAMIC_COLOR, TRUTH_COLOR = "#3b82c4", "#e4572e", "#7a7a7a"
MAX_PLOTLY_POINTS = 30_000


def overview(result: Reconstruction, *, frames: int = 5) -> Figure:
    """Frames of the video in columns: the tracks over them, the motion mask, the depth."""
    chosen = even_frames(len(result.depth), frames)
    _, height, width = result.depth.shape
    size = 2.6
    figure, axes = plt.subplots(
        3,
        len(chosen),
        figsize=(size * len(chosen), 3 * size * height / width + 0.5),
        layout="constrained",
        squeeze=False,
    )
    near, far = _depth_range(result.depth)
    for column, frame in enumerate(chosen):
        show_tracks(axes[0, column], result.clip.frames[frame], result.tracks, frame)
        axes[1, column].imshow(mask_overlay(result.clip.frames[frame], result.motion_mask[frame]))
        depth = axes[2, column].imshow(result.depth[frame], cmap="turbo_r", vmin=near, vmax=far)
        axes[0, column].set_title(f"frame {frame}", fontsize=10)
    for row, name in enumerate(("tracks", "motion mask", "depth")):
        axes[row, 0].set_ylabel(name, fontsize=10)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    figure.colorbar(depth, ax=axes[2].tolist(), shrink=0.9, label="depth (scene units)", pad=0.01)
    return figure


def show_tracks(
    ax: Axes, frame: UInt8[Tensor, "h w 3"], tracks: Tracks, index: int, *, tail: int = 8, limit: int = 400
) -> None:
    """Tracks visible in frame ``index`` with their tails of the last frames; orange ones are dynamic."""
    height, width = frame.shape[:2]
    ax.imshow(frame)
    seen = torch.nonzero(tracks.visible[index])[:, 0]
    seen = seen[:: max(1, len(seen) // limit)]
    for dynamic, color in ((False, STATIC_COLOR), (True, DYNAMIC_COLOR)):
        group = seen[(tracks.mobility[index, seen] >= 0.5) == dynamic]
        past = slice(max(0, index - tail), index + 1)
        uv = torch.where(tracks.visible[past][:, group, None], tracks.uv[past][:, group], torch.nan)
        ax.plot(*uv.unbind(-1), color=color, linewidth=0.8, alpha=0.8)
        ax.scatter(*tracks.uv[index, group].T, s=5, color=color, edgecolors="white", linewidths=0.3, zorder=3)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


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
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", width_ratios=(1.2, 1, 1))
    axes[0].imshow(result.clip.frames[t // 2])
    axes[0].axvline(column, color=DYNAMIC_COLOR)
    axes[0].set(title=f"column {column} in frame {t // 2}", xticks=[], yticks=[])
    near, far = _depth_range(result.depth)
    extent = (-0.5, t - 0.5, height - 0.5, -0.5)
    axes[1].imshow(result.clip.frames[:, :, column].transpose(0, 1), aspect="auto", extent=extent)
    image = axes[2].imshow(
        result.depth[:, :, column].T, aspect="auto", cmap="turbo_r", vmin=near, vmax=far, extent=extent
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
    along, across = _ground_axes(centre, up.to(centre))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for ax, vertical, name in ((axes[0], across, "from above"), (axes[1], up.to(centre), "from the side")):
        if truth is not None:
            points = truth[:, :3, 3].to(centre)
            ax.plot(points @ along, points @ vertical, color=TRUTH_COLOR, linewidth=5, alpha=0.4, label="truth")
        ax.plot(centre @ along, centre @ vertical, "o-", color=DYNAMIC_COLOR, markersize=3, label="estimate")
        ax.set(title=f"camera path {name}", aspect="equal", adjustable="datalim")
    axes[0].legend()
    return figure


def loss_curves(losses: dict[str, Float[Tensor, "i"]]) -> Figure:
    """Each objective over the iterations, weighted as optimised."""
    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    for name, values in losses.items():
        ax.plot(values, label=name.upper())
    ax.set(yscale="log", xlabel="iteration", ylabel="weighted value")
    ax.legend()
    return figure


def scene_figure(
    result: Reconstruction, *, dynamic_frames: int = 6, max_points: int = MAX_PLOTLY_POINTS, min_confidence: float = 4.0
) -> go.Figure:
    """The 4D scene: static regions of all frames, dynamic regions of sampled frames (a slider), camera path and
    frusta."""
    if not 1 <= max_points <= MAX_PLOTLY_POINTS:
        raise InputError(f"max_points: expected 1 to {MAX_PLOTLY_POINTS}, but it is {max_points}")
    chosen = even_frames(len(result.depth), dynamic_frames)
    solid = torch.isfinite(result.depth) & ~flying_pixels(result.depth)
    static = solid & ~result.motion_mask & (result.confidence > min_confidence)
    xyz_world = transform(result.world_from_cam, unproject(result.depth, result.intrinsics).flatten(1, 2))
    xyz_world = xyz_world.reshape(*result.depth.shape, 3)
    low, high = _middle_box(xyz_world[static] if static.any() else xyz_world[solid])
    solid &= ((xyz_world > low) & (xyz_world < high)).all(-1)
    colors = result.clip.frames
    traces = [_point_trace(xyz_world, colors, static & solid, max_points * 2 // 3, "static, all frames")]
    traces += _camera_traces(result, chosen, 0.06 * float((high - low).norm()))
    fixed = len(traces)
    for frame in chosen:
        moving = torch.zeros_like(static)
        moving[frame] = (solid & result.motion_mask)[frame]
        traces.append(
            _point_trace(xyz_world, colors, moving, max_points // 3 // len(chosen), f"dynamic, frame {frame}")
        )
    steps = [_slider_step("all", [True] * len(traces))]
    steps += [_slider_step(str(f), [True] * fixed + [f == other for other in chosen]) for f in chosen]
    figure = go.Figure(traces)
    figure.update_layout(
        sliders=[{"steps": steps, "currentvalue": {"prefix": "dynamic regions of frame: "}, "pad": {"t": 10}}],
        scene={
            "aspectmode": "data",
            "camera": _view_from_camera(result, low, high),
            **{f"{axis}axis": {"visible": False} for axis in "xyz"},
        },
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=540,
        legend={"itemsizing": "constant", "x": 0, "y": 1},
    )
    return figure


def even_frames(t: int, count: int) -> list[int]:
    """``count`` frames spread over the clip, first and last among them."""
    return sorted(set(torch.linspace(0, t - 1, min(count, t)).round().long().tolist()))


def _depth_range(depth: Float[Tensor, "t h w"]) -> tuple[float, float]:
    """2nd and 98th percentile, from at most a million pixels."""
    finite = depth[torch.isfinite(depth)]
    sample = finite[:: max(1, len(finite) // 1_000_000)]
    return float(sample.quantile(0.02)), float(sample.quantile(0.98))


def _ground_axes(centre: Float[Tensor, "t 3"], up: Float[Tensor, "3"]) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Two horizontal axes: the one along which the path is longest, and the one across it."""
    flat = centre - centre.mean(0)
    flat = flat - (flat @ up)[:, None] * up
    along = torch.linalg.svd(flat, full_matrices=False).Vh[0]
    return along, torch.linalg.cross(up, along)


def _middle_box(xyz: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """A box around the middle 96 % of the points along each axis, a quarter wider."""
    sample = xyz[:: max(1, len(xyz) // 100_000)]
    low, high = sample.quantile(torch.tensor([0.02, 0.98]).to(sample), dim=0)
    return low - (high - low) / 4, high + (high - low) / 4


def _point_trace(
    xyz: Float[Tensor, "t h w 3"], frames: UInt8[Tensor, "t h w 3"], keep: Bool[Tensor, "t h w"], limit: int, name: str
) -> go.Scatter3d:
    """A cloud, its colours as indices into a palette: plotly is slow and large with one colour string a point."""
    index = keep.flatten().nonzero()[:, 0]
    index = index[torch.linspace(0, len(index) - 1, min(limit, len(index))).long()] if len(index) else index
    x, y, z = np.round(xyz.reshape(-1, 3)[index].T.numpy(), 4)
    levels = (frames.reshape(-1, 3)[index].long() * 7 + 127) // 255
    code = levels @ torch.tensor([64, 8, 1])
    marker = {"size": 2, "color": code.numpy(), "cmin": 0, "cmax": 511, "colorscale": _palette()}
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=name, hoverinfo="skip")


def _palette() -> list[tuple[float, str]]:
    """512 colours, eight levels a channel, as a colour scale."""
    level = np.arange(512)
    red, green, blue = (np.round(((level >> shift) & 7) * 255 / 7).astype(int) for shift in (6, 3, 0))
    return [(i / 511, f"rgb({r},{g},{b})") for i, (r, g, b) in enumerate(zip(red, green, blue, strict=True))]


def _camera_traces(result: Reconstruction, chosen: Sequence[int], size: float) -> list[go.Scatter3d]:
    path = result.world_from_cam[:, :3, 3]
    _, height, width = result.depth.shape
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]).to(path)
    lines = []
    for frame in chosen:
        outline = size * rays(result.intrinsics[frame], corners)
        apex = torch.zeros_like(outline[:1])
        order = torch.cat([apex, outline[:2], apex, outline[1:3], apex, outline[2:], apex, outline[[3, 0]], apex])
        lines += [transform(result.world_from_cam[frame], order), torch.full((1, 3), torch.nan)]
    trace = partial(go.Scatter3d, mode="lines", hoverinfo="skip")
    x, y, z = torch.cat(lines).T.numpy()
    frusta = trace(x=x, y=y, z=z, line={"color": TRUTH_COLOR, "width": 2}, name="cameras")
    x, y, z = path.T.numpy()
    return [trace(x=x, y=y, z=z, line={"color": DYNAMIC_COLOR, "width": 5}, name="camera path"), frusta]


def _slider_step(label: str, visible: list[bool]) -> dict[str, object]:
    return {"label": label, "method": "restyle", "args": [{"visible": visible}]}


def _view_from_camera(result: Reconstruction, low: Float[Tensor, "3"], high: Float[Tensor, "3"]) -> dict[str, object]:
    """plotly's camera, in units of the box: behind and above the first camera."""
    extent = high - low
    up = world_up(result.world_from_cam).to(low)
    forward = result.world_from_cam[0, :3, 2]
    eye = 1.1 * (0.45 * up - forward) * extent.norm() / extent.max() / 1.7
    return {
        "eye": dict(zip("xyz", eye.tolist(), strict=True)),
        "up": dict(zip("xyz", up.tolist(), strict=True)),
    }
