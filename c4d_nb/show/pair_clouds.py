"""What pairs of pointmaps say of one frame, as clouds that should be one: before the alignment and after it."""

from collections.abc import Mapping

import matplotlib
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.alignment import Alignment
from c4d_nb.camera import fit_similarity, pose, transform
from c4d_nb.clip import PairPointmaps
from c4d_nb.errors import InputError
from c4d_nb.show.figures import TRUTH_COLOR
from c4d_nb.show.scene import MAX_PLOTLY_POINTS

Clouds = Mapping[tuple[int, int], Float[Tensor, "p 3"]]
"""Of one frame's pixels, by pair."""


def frame_clouds(pairs: PairPointmaps, world_from_pair: Float[Tensor, "e 4 4"], frame: int) -> Clouds:
    """What each pair says of the points of one frame, in the world: clouds that should be one."""
    clouds = {}
    for edge, (n, m) in enumerate(pairs.edges.tolist()):
        if frame in (n, m):
            own = pairs.xyz_1[edge] if frame == n else pairs.xyz_2[edge]
            clouds[n, m] = transform(world_from_pair[edge], own.reshape(-1, 3).to(world_from_pair))
    return clouds


def disagreement(clouds: Clouds, centre: Float[Tensor, "3"]) -> float:
    """The median distance between what a pair says of a pixel and what all say of it in the mean, as a share of the
    distance from the camera's ``centre``."""
    stacked = torch.stack([*clouds.values()])
    mean = stacked.mean(dim=0)
    return float(((stacked - mean).norm(dim=-1) / (mean - centre).norm(dim=-1)).median())


def placed_pairs(
    pairs: PairPointmaps, world_from_cam: Float[Tensor, "t 4 4"], depth: Float[Tensor, "n h w"]
) -> Float[Tensor, "e 4 4"]:
    """``world_from_pair`` of pairs that nobody has made to fit: each with its first camera at that frame's pose, and
    all in one unit, the one that brings their median depth to that of ``depth``."""
    unit = depth.median() / pairs.xyz_1[..., 2].median()
    at = world_from_cam[pairs.edges[:, 0]].to(pairs.xyz_1)
    return pose(unit * at[:, :3, :3], at[:, :3, 3])


def similarity_to_truth(aligned: Alignment, xyz_world: Float[Tensor, "t h w 3"]) -> Float[Tensor, "4 4"]:
    """The best Sim(3), scale multiplied in, from the scene to the true points of its pixels."""
    scale, rotation, translation = fit_similarity(aligned.xyz_world().reshape(-1, 3), xyz_world.reshape(-1, 3))
    return pose(scale * rotation, translation)


def clouds_in_space(
    before: Clouds,
    after: Clouds,
    true: Float[Tensor, "p 3"],
    world_from_cam: Float[Tensor, "4 4"],
    *,
    max_points: int = 6_000,
) -> go.Figure:
    """The clouds of ``frame_clouds`` to turn, a colour a pair, and the truth in grey, at first seen from behind and
    beside the frame's camera; buttons lead from before to after. ``clouds_from_side`` is its still picture."""
    if not 1 <= max_points <= MAX_PLOTLY_POINTS:
        raise InputError(f"max_points: expected 1 to {MAX_PLOTLY_POINTS}, but it is {max_points}")
    limit = max(1, max_points // (len(before) + len(after) + 1))
    keep = torch.linspace(0, len(true) - 1, min(limit, len(true))).long()
    traces = [_cloud_trace(true[keep], TRUTH_COLOR, "truth")]
    for clouds in (before, after):
        traces += [_cloud_trace(clouds[p][keep], color, f"pair {p}") for p, color in _pair_colors(clouds).items()]
    shown = {"before": (True, False), "after": (False, True)}
    buttons = [
        {
            "label": name,
            "method": "restyle",
            "args": [{"visible": [True, *[first] * len(before), *[last] * len(after)]}],
        }
        for name, (first, last) in shown.items()
    ]
    for trace in traces[len(before) + 1 :]:
        trace.visible = False
    low, high = _middle(true)
    axes = {
        f"{axis}axis": {"range": span, "title": {"text": f"{axis} (m)"}}
        for axis, span in zip("xyz", torch.stack([low, high], dim=-1).tolist(), strict=True)
    }
    behind = -1.5 * world_from_cam[:3, 2] - 1.2 * world_from_cam[:3, 0] - 0.7 * world_from_cam[:3, 1]  # y is down
    view = {"eye": dict(zip("xyz", behind.tolist(), strict=True)), "up": {"x": 0, "y": 0, "z": 1}}
    figure = go.Figure(traces)
    figure.update_layout(
        scene=axes | {"aspectmode": "data", "camera": view},
        updatemenus=[
            {"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.1}
        ],
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        height=480,
        showlegend=False,
    )
    return figure


def clouds_from_side(
    clouds: Mapping[str, Clouds],
    true: Float[Tensor, "p 3"],
    world_from_cam: Float[Tensor, "4 4"],
    up: Float[Tensor, "3"],
) -> Figure:
    """Clouds of one frame from the side, a panel a name, a colour a pair (near frames dark), the truth in
    black. The frame's camera (``world_from_cam``) looks to the right; ``up`` is the world's."""
    ahead = world_from_cam[:3, 2] - (world_from_cam[:3, 2] @ up) * up
    axes_xy = torch.stack([torch.nn.functional.normalize(ahead, dim=0), up], dim=-1).to(true)

    def seen(points: Float[Tensor, "p 3"]) -> Float[Tensor, "p 2"]:
        return (points - world_from_cam[:3, 3].to(points)) @ axes_xy

    figure = Figure(figsize=(1 + 3.7 * len(clouds), 3.4), layout="constrained")
    axes = figure.subplots(1, len(clouds), squeeze=False, sharex=True, sharey=True)[0]
    for ax, (name, of) in zip(axes, clouds.items(), strict=True):
        for pair, color in _pair_colors(of).items():
            ax.scatter(*seen(of[pair]).T.numpy(), color=color, s=1.5, linewidths=0)
        ax.scatter(*seen(true).T.numpy(), color="black", s=0.6, linewidths=0)
        ax.plot(0, 0, ">", color="black", markersize=8)
        ax.set(title=name, xlabel="ahead of the camera (m)")
    shown = torch.cat([seen(points) for of in clouds.values() for points in of.values()])
    low, high = (torch.stack(corners) for corners in zip(_middle(shown), _middle(seen(true)), strict=True))
    axes[0].set(
        xlim=(-1, float(high[:, 0].max())),
        ylim=(float(low[:, 1].min()), max(1.0, float(high[:, 1].max()))),
        ylabel="up (m)",
    )
    return figure


def _pair_colors(clouds: Clouds) -> dict[tuple[int, int], str]:
    """By the number of frames between the two members, near ones dark."""
    apart = {pair: abs(pair[0] - pair[1]) for pair in clouds}
    most = max(apart.values())
    shade = matplotlib.colormaps["plasma"]
    return {pair: to_hex(shade(0.85 * (gap - 1) / max(1, most - 1))) for pair, gap in apart.items()}


def _cloud_trace(points: Float[Tensor, "p 3"], color: str, name: str) -> go.Scatter3d:
    x, y, z = points.float().T.numpy()
    return go.Scatter3d(
        x=x, y=y, z=z, mode="markers", marker={"size": 2.5, "color": color}, name=name, hoverinfo="name"
    )


def _middle(points: Float[Tensor, "p c"]) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    """A box around the middle 98 % of the points along each axis, a quarter wider."""
    low, high = points.quantile(torch.tensor([0.01, 0.99]).to(points), dim=0)
    return low - (high - low) / 8, high + (high - low) / 8
