"""Pictures of pairs of pointmaps, true and predicted: their maps, both clouds in space, what confidence is worth.

Lengths are those of the truth, metres in mini-Kubric's scenes; a prediction is brought to them by one factor a pair.
All points lie in the first camera's frame: x to the right, y down, z ahead.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.camera import invert, pixel_grid
from c4d_nb.pointmaps.dust3r import Pointmaps
from c4d_nb.pointmaps.pairs import Pairs
from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR, TRUTH_COLOR
from c4d_nb.show.scene import MAX_PLOTLY_POINTS

COLOR_1, COLOR_2 = STATIC_COLOR, "#f0a030"
"""Of the points of image 1 and of image 2, where both are in one picture."""
Masks = tuple[Bool[Tensor, "h w"], Bool[Tensor, "h w"]]
"""Pixels of image 1 and of image 2."""


def scale_to_truth(found: Pointmaps, pair: Pairs, keep: Masks | None = None) -> Float[Tensor, ""]:
    """The factor that brings a prediction of one pair to its truth's unit of length: the median of |xyz| / |predicted|
    over the valid pixels of both views, or over those of them to ``keep``."""
    keep = (pair.valid_1, pair.valid_2) if keep is None else (pair.valid_1 & keep[0], pair.valid_2 & keep[1])
    predicted = torch.cat([found.xyz_1[0][keep[0]], found.xyz_2[0][keep[1]]])
    xyz = torch.cat([pair.xyz_1[keep[0]], pair.xyz_2[keep[1]]])
    return (xyz.norm(dim=-1) / predicted.norm(dim=-1)).median()


def relative_errors(
    found: Pointmaps, pair: Pairs, keep: Masks | None = None
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """|s predicted - xyz| / |xyz| of every pixel of both views; s is ``scale_to_truth``. NaN where there is no truth.

    ``relative_point_error`` is the median of these.
    """
    scale = scale_to_truth(found, pair, keep)
    errors = []
    for predicted, xyz, valid in (
        (found.xyz_1[0], pair.xyz_1, pair.valid_1),
        (found.xyz_2[0], pair.xyz_2, pair.valid_2),
    ):
        error = (scale * predicted - xyz).norm(dim=-1) / xyz.norm(dim=-1)
        errors.append(torch.where(valid, error, torch.nan))
    return errors[0], errors[1]


def pair_figure(pair: Pairs) -> Figure:
    """A true pair, an image a row: RGB, its own depth, its depth seen from camera 1, and all three coordinates."""
    own_depth = (pair.xyz_1[..., 2], pair.reversed().xyz_1[..., 2])
    depth_in_1 = (pair.xyz_1[..., 2], pair.xyz_2[..., 2])
    low, high = _box(pair)
    figure, axes = _panels(2, 4)
    near, far = _depth_limits(pair)
    for row, (image, xyz) in enumerate(((pair.images_1, pair.xyz_1), (pair.images_2, pair.xyz_2))):
        axes[row, 0].imshow(_rgb(image))
        for ax, depth in ((axes[row, 1], own_depth[row]), (axes[row, 2], depth_in_1[row])):
            shown = ax.imshow(depth.numpy(), cmap="turbo_r", vmin=near, vmax=far)
        axes[row, 3].imshow(((xyz - low) / (high - low)).clamp(0, 1).numpy())
        axes[row, 0].set_ylabel(f"image {row + 1}")
    titles = ("RGB", "z in its own camera", "z in camera 1", "x, y, z in camera 1\nas red, green, blue")
    _set_titles(axes, titles)
    figure.colorbar(shown, ax=axes[:, 1:3].ravel().tolist(), shrink=0.9, label="z (m)")
    return figure


def pair_in_space(pair: Pairs, *, max_points: int = 24_000) -> go.Figure:
    """Both images' points in camera 1's frame, to turn: image 1's blue, image 2's orange, by their brightness."""
    limit = min(max_points, MAX_PLOTLY_POINTS) // 2
    traces = []
    for number, (image, xyz, valid, color) in enumerate(_views(pair), start=1):
        index = _spread(valid & _inside(xyz, pair), limit)
        x, y, z = xyz.reshape(-1, 3)[index].T.numpy()
        level = ((image.mean(dim=0).flatten()[index] + 1) * 127.5).round().to(torch.uint8)
        marker = {"size": 2, "color": level.numpy(), "colorscale": _shades(color), "cmin": 0, "cmax": 255}
        name = f"image {number}"
        traces.append(go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=name, hoverinfo="skip"))
    for number, (centre, color) in enumerate(zip(_centres(pair), (COLOR_1, COLOR_2), strict=True), start=1):
        x, y, z = centre.numpy()[:, None]
        marker = {"size": 7, "color": color, "symbol": "diamond"}
        name = f"camera {number}"
        traces.append(go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=name, hoverinfo="skip"))
    figure = go.Figure(traces)
    figure.update_layout(
        scene={
            "aspectmode": "data",
            "camera": {"up": {"x": 0, "y": -1, "z": 0}, "eye": {"x": 0.5, "y": -0.9, "z": -1.3}},
            "xaxis": {"title": {"text": "x (m)"}},
            "yaxis": {"title": {"text": "y (m)"}},
            "zaxis": {"title": {"text": "z (m)"}},
        },
        legend={"itemsizing": "constant"},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=480,
    )
    return figure


def pair_from_above(pair: Pairs, up: Float[Tensor, "3"]) -> Figure:
    """Both clouds of ``pair_in_space`` from above, side by side and together, and the two cameras; ``up`` is in camera
    1's frame."""
    up = torch.nn.functional.normalize(up, dim=0)
    ahead = torch.tensor([0.0, 0.0, 1.0])
    ahead = torch.nn.functional.normalize(ahead - (ahead @ up) * up, dim=0)
    right = torch.linalg.cross(ahead, up)
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for number, (image, xyz, valid, color) in enumerate(_views(pair)):
        points = xyz[valid & _inside(xyz, pair)]
        order = (points @ up).argsort()
        x, y = (points[order] @ right).numpy(), (points[order] @ ahead).numpy()
        colors = _rgb(image)[(valid & _inside(xyz, pair)).numpy()][order.numpy()]
        axes[number].scatter(x, y, c=colors, s=2, linewidths=0)
        axes[number].set_title(f"points of image {number + 1}")
        axes[2].scatter(x[number::3], y[number::3], color=color, s=2, linewidths=0)
    for ax in axes:
        for number, (centre, color) in enumerate(zip(_centres(pair), (COLOR_1, COLOR_2), strict=True), start=1):
            x, y = float(centre @ right), float(centre @ ahead)
            ax.plot(x, y, "^", color=color, markeredgecolor="black", markersize=8)
            side = (-8, "right") if number == 1 else (8, "left")
            ax.annotate(
                str(number),
                (x, y),
                xytext=(side[0], 0),
                textcoords="offset points",
                ha=side[1],
                va="center",
                fontsize=9,
            )
        ax.set(aspect="equal", xlabel="right of camera 1 (m)")
    axes[0].set_ylabel("ahead of camera 1 (m)")
    axes[2].set_title("both")
    return figure


def prediction_figure(found: Pointmaps, pair: Pairs, keep: Masks | None = None) -> Figure:
    """A prediction beside its truth, an image a row: RGB, both z in camera 1, relative error, confidence.

    The scale is taken over the pixels to ``keep``; if given, the others are outlined in every picture.
    """
    scale, errors = scale_to_truth(found, pair, keep), relative_errors(found, pair, keep)
    near, far = _depth_limits(pair)
    highest = float(torch.cat([found.conf_1, found.conf_2]).quantile(0.98))
    figure, axes = _panels(2, 5)
    rows = (
        (pair.images_1, pair.xyz_1, found.xyz_1[0], found.conf_1[0]),
        (pair.images_2, pair.xyz_2, found.xyz_2[0], found.conf_2[0]),
    )
    for row, (image, xyz, predicted, confidence) in enumerate(rows):
        axes[row, 0].imshow(_rgb(image))
        for ax, depth in ((axes[row, 1], xyz[..., 2]), (axes[row, 2], scale * predicted[..., 2])):
            depth_shown = ax.imshow(depth.numpy(), cmap="turbo_r", vmin=near, vmax=far)
        error_shown = axes[row, 3].imshow(errors[row].numpy(), cmap="magma", vmin=0, vmax=0.5)
        confidence_shown = axes[row, 4].imshow(confidence.numpy(), cmap="viridis", vmin=1, vmax=highest)
        axes[row, 0].set_ylabel(f"image {row + 1}")
        if keep is not None:
            for ax in axes[row]:
                ax.contour((~keep[row]).numpy(), levels=[0.5], colors="white", linewidths=1)
    _set_titles(axes, ("RGB", "z in camera 1, true", "z in camera 1, network", "relative error", "confidence"))
    figure.colorbar(depth_shown, ax=axes[:, 1:3].ravel().tolist(), shrink=0.9, label="z (m)")
    figure.colorbar(error_shown, ax=axes[:, 3].tolist(), shrink=0.9)
    figure.colorbar(confidence_shown, ax=axes[:, 4].tolist(), shrink=0.9)
    return figure


def confidence_figure(
    confidence: Float[Tensor, "c"],
    losses: Mapping[float, Float[Tensor, "c"]],
    said: Float[Tensor, "n"],
    errors: Float[Tensor, "n"],
    *,
    alpha: float,
) -> Figure:
    """Left: the loss of a pixel over its ``confidence``, a curve an error, with the least loss marked. Right: what the
    network ``said`` of pixels against their ``errors`` in equation 2's unit: the mean and the middle half of each
    tenth of the pixels, and the mean error for which that confidence would be best."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    curves, calibration = figure.subplots(1, 2)
    shades = matplotlib.colormaps["Blues"](np.linspace(0.35, 0.85, len(losses)))
    for color, (error, loss) in zip(shades, losses.items(), strict=True):
        curves.plot(confidence.numpy(), loss.numpy(), color=color, label=f"error {error:g}")
        curves.plot(float(confidence[loss.argmin()]), float(loss.min()), "o", color=color)
    curves.set(xlabel="confidence C", ylabel="C error - α log C", title="loss of one pixel")
    curves.legend()
    for number, part in enumerate(said.argsort().chunk(10)):
        at, spread = float(said[part].median()), errors[part].quantile(torch.tensor([0.25, 0.75])).tolist()
        calibration.plot([at, at], spread, color=STATIC_COLOR, linewidth=1)
        label = "network, by tenths of its pixels" if number == 0 else None
        calibration.plot(at, float(errors[part].mean()), "o", color=STATIC_COLOR, label=label)
    best = np.linspace(1, at + 0.2, 100)
    calibration.plot(best, alpha / best, "--", color=TRUTH_COLOR, label="α / C")
    calibration.set(ylim=(0, None), xlabel="confidence C", ylabel="error: mean, middle half", title="what it is worth")
    calibration.legend()
    return figure


def focal_residuals(
    xyz: Float[Tensor, "h w 3"], confidence: Float[Tensor, "h w"], focals: Float[Tensor, "f"]
) -> Float[Tensor, "f"]:
    """What ``estimate_focal`` makes least, for each focal length (px): the mean distance, weighted by confidence, from
    a pixel to where its point would be seen (px)."""
    h, w = confidence.shape
    uv = pixel_grid(h, w, like=xyz) - xyz.new_tensor([(w - 1) / 2, (h - 1) / 2])
    distance = (uv - focals[:, None, None, None] * xyz[..., :2] / xyz[..., 2:].clamp(min=1e-6)).norm(dim=-1)
    return (confidence * distance).sum(dim=(1, 2)) / confidence.sum()


def focal_figure(
    focals: Float[Tensor, "f"],
    residuals: Mapping[str, Float[Tensor, "f"]],
    found: Mapping[str, float],
    true_px: Mapping[str, float],
) -> Figure:
    """The mean residual (px) of pointmaps over the focal length (px) that is tried, where Weiszfeld's steps end, and
    true focal lengths."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    ax = figure.subplots()
    colors = (TRUTH_COLOR, STATIC_COLOR, DYNAMIC_COLOR)
    for row, ((name, values), color) in enumerate(zip(residuals.items(), colors, strict=False)):
        ax.plot(focals.numpy(), values.numpy(), color=color, label=name, linewidth=4 - 1.5 * row)
        ax.plot(found[name], np.interp(found[name], focals.numpy(), values.numpy()), "o", color=color)
    for (name, value), style in zip(true_px.items(), ("--", ":"), strict=False):
        ax.axvline(value, color="black", linestyle=style, linewidth=1, label=name)
    ax.set(xlabel="focal length that is tried (px)", ylabel="mean residual (px)", ylim=(0, None))
    ax.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def error_bars(errors: Mapping[str, Float[Tensor, "n"]]) -> Figure:
    """Relative errors of groups of pixels: the median and the middle half of each."""
    figure = Figure(figsize=(7, 0.5 * len(errors) + 0.9), layout="constrained")
    ax = figure.subplots()
    for row, (name, values) in enumerate(errors.items()):
        low, middle, high = values[~values.isnan()].quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        color = DYNAMIC_COLOR if "mover" in name else STATIC_COLOR
        ax.barh(row, middle, color=color, height=0.6)
        ax.plot([low, high], [row, row], color="black", linewidth=1.5)
        ax.text(high + 0.01, row, name, va="center", fontsize=9)
    ax.set(yticks=[], xlabel="relative error: median, middle half")
    ax.invert_yaxis()
    ax.set_xlim(0, 1.35 * ax.get_xlim()[1])
    return figure


def two_times_figure(
    pair: Pairs,
    then_2: Float[Tensor, "h w 3"],
    moves_2: Bool[Tensor, "h w"],
    up: Float[Tensor, "3"],
    *,
    others: Sequence[tuple[str, Float[Tensor, "h w 3"]]] = (),
) -> Figure:
    """The scene from the side, in camera 1's frame: image 2's points at their own time and, of what ``moves_2``, where
    the same points were when image 1 was taken (``then_2``), joined by lines. ``others`` are guesses of image 2's
    points, drawn where they move."""
    up = torch.nn.functional.normalize(up, dim=0)
    ahead = torch.tensor([0.0, 0.0, 1.0])
    ahead = torch.nn.functional.normalize(ahead - (ahead @ up) * up, dim=0)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    ax = figure.subplots()

    def seen(xyz: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return (xyz @ ahead).numpy(), (xyz @ up).numpy()

    rest = pair.valid_2 & ~moves_2
    ax.scatter(*seen(pair.xyz_2[rest]), c=_rgb(pair.images_2)[rest.numpy()], s=2, linewidths=0)
    now, then = pair.xyz_2[moves_2], then_2[moves_2]
    few = torch.linspace(0, len(now) - 1, min(40, len(now))).long()
    for a, b in zip(then[few], now[few], strict=True):
        ax.plot(*seen(torch.stack([a, b])), color="black", linewidth=0.4, zorder=2)
    ax.scatter(*seen(then), color=COLOR_1, s=5, linewidths=0, label="movers, at image 1's time")
    ax.scatter(*seen(now), color=DYNAMIC_COLOR, s=5, linewidths=0, label="movers, at image 2's time")
    for (name, xyz), color in zip(others, ("#a4243b", "#7a4a1e"), strict=False):
        ax.scatter(*seen(xyz[moves_2]), color=color, s=5, marker="x", linewidths=0.6, label=name)
    ax.plot(0, 0, "^", color="black", markersize=8)
    ax.annotate("camera 1", (0, 0), xytext=(6, 6), textcoords="offset points", fontsize=9)
    ax.set(aspect="equal", xlabel="ahead of camera 1 (m)", ylabel="up (m)")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, markerscale=2)
    return figure


def _panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(2.1 * columns + 1.6, 2.05 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return figure, axes


def _set_titles(axes: np.ndarray, titles: Sequence[str]) -> None:
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10)


def _rgb(image: Float[Tensor, "3 h w"]) -> Float[np.ndarray, "h w 3"]:
    return ((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()


def _views(pair: Pairs) -> tuple[tuple[Tensor, Tensor, Tensor, str], tuple[Tensor, Tensor, Tensor, str]]:
    return (
        (pair.images_1, pair.xyz_1, pair.valid_1, COLOR_1),
        (pair.images_2, pair.xyz_2, pair.valid_2, COLOR_2),
    )


def _centres(pair: Pairs) -> Float[Tensor, "2 3"]:
    """Of both cameras, in camera 1's frame."""
    return torch.stack([torch.zeros(3), invert(pair.cam_2_from_cam_1)[:3, 3]])


def _depth_limits(pair: Pairs) -> tuple[float, float]:
    """2nd and 98th percentile of z in camera 1, of both images."""
    z = torch.cat([pair.xyz_1[pair.valid_1], pair.xyz_2[pair.valid_2]])[:, 2]
    near, far = z.quantile(torch.tensor([0.02, 0.98])).tolist()
    return near, max(far, 1.25 * near)


def _box(pair: Pairs) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Around the middle 98 % of both images' points along each axis."""
    xyz = torch.cat([pair.xyz_1[pair.valid_1], pair.xyz_2[pair.valid_2]])
    low, high = xyz.quantile(torch.tensor([0.01, 0.99]), dim=0)
    return low, high


def _inside(xyz: Float[Tensor, "h w 3"], pair: Pairs) -> Bool[Tensor, "h w"]:
    """Within that box, a quarter wider."""
    low, high = _box(pair)
    margin = (high - low) / 4
    return ((xyz > low - margin) & (xyz < high + margin)).all(dim=-1)


def _spread(keep: Bool[Tensor, "h w"], limit: int) -> Tensor:
    """Flat indices of at most ``limit`` of the kept pixels, evenly spread."""
    index = keep.flatten().nonzero()[:, 0]
    return index[torch.linspace(0, len(index) - 1, min(limit, len(index))).long()] if len(index) else index


def _shades(color: str) -> list[tuple[float, str]]:
    """A colour scale from dark over the colour to white."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    light = ",".join(str(255 - (255 - c) // 4) for c in (red, green, blue))
    return [(0.0, "rgb(20,20,20)"), (0.6, f"rgb({red},{green},{blue})"), (1.0, f"rgb({light})")]
