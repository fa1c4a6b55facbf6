"""The 4D scene in a notebook: plotly to turn, matplotlib from above for the page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.camera import rays, transform, unproject
from c4d_nb.errors import InputError
from c4d_nb.metrics import align_path
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.figures import DYNAMIC_COLOR, TRUTH_COLOR, even_frames
from c4d_nb.show.viewer import flying_pixels, shown_confidence, world_up

MAX_PLOTLY_POINTS = 30_000


def scene_figure(
    result: Reconstruction, *, dynamic_frames: int = 6, max_points: int = MAX_PLOTLY_POINTS, tail: int = 8
) -> go.Figure:
    """The 4D scene: static regions of all frames, dynamic regions of sampled frames (a slider) with the last ``tail``
    steps of their tracks, camera path and frusta. ``scene_from_above`` is its still picture."""
    if not 1 <= max_points <= MAX_PLOTLY_POINTS:
        raise InputError(f"max_points: expected 1 to {MAX_PLOTLY_POINTS}, but it is {max_points}")
    chosen = even_frames(len(result.depth), dynamic_frames)
    scene = _scene_points(result)
    colors = result.clip.frames
    traces = [_point_trace(scene.xyz, colors, scene.static, max_points * 2 // 3, "static, all frames")]
    traces += _camera_traces(result, chosen, 0.06 * float((scene.high - scene.low).norm()))
    fixed = len(traces)
    for frame in chosen:
        moving = torch.zeros_like(scene.dynamic)
        moving[frame] = scene.dynamic[frame]
        limit = max_points // 3 // len(chosen)
        traces.append(_point_trace(scene.xyz, colors, moving, limit, f"dynamic, frame {frame}"))
        traces.append(_tail_trace(result, scene, frame, tail))
    steps = [_slider_step("all", [True] * len(traces))]
    steps += [_slider_step(str(f), [True] * fixed + [f == other for other in chosen for _ in "ab"]) for f in chosen]
    figure = go.Figure(traces)
    figure.update_layout(
        coloraxis={"colorscale": _palette(), "cmin": 0, "cmax": 511, "showscale": False},
        sliders=[{"steps": steps, "currentvalue": {"prefix": "dynamic regions of frame: "}, "pad": {"t": 0, "b": 30}}],
        scene=_framed(result, scene.low, scene.high, visible=False, distance=0.75),
        margin={"l": 10, "r": 10, "t": 0, "b": 10},
        height=560,
        showlegend=False,
    )
    return figure


def scene_from_above(result: Reconstruction, *, max_points: int = 20_000) -> Figure:
    """The scene seen from above in its own colours, dynamic regions by time with some of their tracks, and the camera's
    path."""
    scene = _scene_points(result)
    up = world_up(result.world_from_cam).to(scene.xyz)
    ahead = torch.nn.functional.normalize(
        result.world_from_cam[0, :3, 2] - (result.world_from_cam[0, :3, 2] @ up) * up, dim=0
    )
    right = torch.linalg.cross(ahead, up)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    ax = figure.subplots()
    index = _spread(scene.static, max_points)
    points = scene.xyz.reshape(-1, 3)[index]
    order = (points @ up).argsort()
    colors = result.clip.frames.reshape(-1, 3)[index][order].numpy() / 255
    ax.scatter((points[order] @ right).numpy(), (points[order] @ ahead).numpy(), c=colors, s=2, linewidths=0)
    index = _spread(scene.dynamic, max_points // 10)
    points, frame = scene.xyz.reshape(-1, 3)[index], index // scene.dynamic[0].numel()
    moving = ax.scatter(
        (points @ right).numpy(), (points @ ahead).numpy(), c=frame.numpy(), cmap="autumn", s=3, linewidths=0
    )
    last = _tail_trace(result, scene, len(scene.dynamic) - 1, len(scene.dynamic), limit=20)
    ways = torch.from_numpy(np.stack([last.x, last.y, last.z], axis=-1)).to(points)
    ax.plot((ways @ right).numpy(), (ways @ ahead).numpy(), color="black", linewidth=0.5, label="tracks")
    centre = result.world_from_cam[:, :3, 3]
    ax.plot((centre @ right).numpy(), (centre @ ahead).numpy(), color="black", linewidth=2, label="camera path")
    figure.colorbar(moving, ax=ax, label="frame of the dynamic points")
    ax.set(aspect="equal", title="scene from above", xlabel="right (scene units)", ylabel="ahead")
    ax.legend(loc="lower left")
    return figure


def path_figure(result: Reconstruction, *, frusta: int = 6) -> go.Figure:
    """The camera's path to turn, with some of its frusta; with truth beside the clip, the true path after the best
    Sim(3), and under the pointer how far the two are apart. ``figures.camera_path`` is its still picture."""
    truth = None if result.clip.truth is None else result.clip.truth.world_from_cam
    poses = result.world_from_cam if truth is None else align_path(result.world_from_cam, truth)
    placed = replace(result, world_from_cam=poses.to(result.world_from_cam))
    centre = placed.world_from_cam[:, :3, 3]
    reach = float((centre.amax(0) - centre.amin(0)).norm())
    path, outlines = _camera_traces(placed, even_frames(len(centre), frusta), 0.12 * reach)
    text = [f"frame {frame}" for frame in range(len(centre))]
    traces = [outlines, path.update(mode="lines+markers", marker={"size": 3}, name="estimate", hoverinfo="text")]
    if truth is not None:
        apart = (poses[:, :3, 3] - truth[:, :3, 3]).norm(dim=-1).tolist()
        text = [f"{name}: {distance:.3g} off" for name, distance in zip(text, apart, strict=True)]
        x, y, z = truth[:, :3, 3].T.numpy()
        line = {"color": TRUTH_COLOR, "width": 10}
        traces.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, opacity=0.5, name="truth", hoverinfo="skip"))
    path.text = text
    figure = go.Figure(traces)
    margin = 0.15 * reach
    framed = _framed(placed, centre.amin(0) - margin, centre.amax(0) + margin, visible=True, distance=1.05)
    figure.update_layout(scene=framed, margin={"l": 0, "r": 0, "t": 0, "b": 0}, height=460, legend={"x": 0})
    return figure


@dataclass(frozen=True, eq=False)
class _ScenePoints:
    """World points of every pixel, which of them to show, and the box around those."""

    xyz: Float[Tensor, "t h w 3"]
    static: Bool[Tensor, "t h w"]
    dynamic: Bool[Tensor, "t h w"]
    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]


def _scene_points(result: Reconstruction) -> _ScenePoints:
    xyz = transform(result.world_from_cam, unproject(result.depth, result.intrinsics).flatten(1, 2))
    xyz = xyz.reshape(*result.depth.shape, 3)
    solid = torch.isfinite(result.depth) & ~flying_pixels(result.depth)
    static = solid & ~result.motion_mask & (result.confidence > shown_confidence(result))
    low, high = _middle_box(xyz[static] if static.any() else xyz[solid])
    inside = ((xyz > low) & (xyz < high)).all(-1)
    return _ScenePoints(xyz, static & inside, solid & result.motion_mask & inside, low, high)


def _middle_box(xyz: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """A box around the middle 96 % of the points along each axis, a quarter wider."""
    sample = xyz[:: max(1, len(xyz) // 100_000)]
    low, high = sample.quantile(torch.tensor([0.02, 0.98]).to(sample), dim=0)
    return low - (high - low) / 4, high + (high - low) / 4


def _point_trace(
    xyz: Float[Tensor, "t h w 3"], frames: UInt8[Tensor, "t h w 3"], keep: Bool[Tensor, "t h w"], limit: int, name: str
) -> go.Scatter3d:
    """A cloud, its colours as indices into a palette: plotly is slow and large with one colour string a point."""
    index = _spread(keep, limit)
    x, y, z = xyz.reshape(-1, 3)[index].T.float().numpy()
    levels = (frames.reshape(-1, 3)[index].long() * 7 + 127) // 255
    code = levels @ torch.tensor([64, 8, 1])
    marker = {"size": 3, "color": code.short().numpy(), "coloraxis": "coloraxis"}
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=name, hoverinfo="skip")


def _tail_trace(result: Reconstruction, scene: _ScenePoints, frame: int, tail: int, *, limit: int = 60) -> go.Scatter3d:
    """The ways in space, up to ``frame``, of at most ``limit`` of the dynamic tracks that are seen there. A static
    track has no way."""
    inside = ((result.tracks_xyz > scene.low) & (result.tracks_xyz < scene.high)).all(-1)
    index = (inside[frame] & (result.tracks.mobility[frame] >= 0.5)).nonzero()[:, 0]
    index = index[torch.linspace(0, len(index) - 1, min(limit, len(index))).long()]
    past = slice(max(0, frame - tail), frame + 1)
    ways = torch.where(inside[past, index, None], result.tracks_xyz[past, index], torch.nan).transpose(0, 1)
    x, y, z = torch.cat([ways, torch.full_like(ways[:, :1], torch.nan)], dim=1).reshape(-1, 3).T.float().numpy()
    line = {"color": DYNAMIC_COLOR, "width": 3}
    return go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip", name=f"track tails, frame {frame}")


def _spread(keep: Bool[Tensor, "t h w"], limit: int) -> Tensor:
    """Flat indices of at most ``limit`` of the kept pixels, evenly spread."""
    index = keep.flatten().nonzero()[:, 0]
    return index[torch.linspace(0, len(index) - 1, min(limit, len(index))).long()] if len(index) else index


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


def _framed(
    result: Reconstruction, low: Float[Tensor, "3"], high: Float[Tensor, "3"], *, visible: bool, distance: float
) -> dict[str, object]:
    """plotly's scene around a box and the camera path, seen from above and behind the first camera, so many diagonals
    away."""
    path = result.world_from_cam[:, :3, 3]
    low, high = torch.minimum(low, path.amin(0)), torch.maximum(high, path.amax(0))
    extent = (high - low).clamp(min=1e-3 * float((high - low).max()))
    ratio = extent / extent.max()
    up = world_up(result.world_from_cam).to(ratio)
    away = torch.nn.functional.normalize(0.55 * up - result.world_from_cam[0, :3, 2], dim=0)
    eye = distance * ratio.norm() * away  # of a box with these ratios, whose middle is the origin
    spans = dict(zip("xyz", torch.stack([low, high], dim=-1).tolist(), strict=True))
    framed = {f"{axis}axis": {"visible": visible, "range": span} for axis, span in spans.items()}
    return framed | {
        "aspectmode": "manual",
        "aspectratio": _xyz(ratio),
        "camera": {"eye": _xyz(eye), "up": _xyz(up), "center": _xyz(-0.08 * up)},
    }


def _xyz(vector: Float[Tensor, "3"]) -> dict[str, float]:
    return dict(zip("xyz", vector.tolist(), strict=True))
