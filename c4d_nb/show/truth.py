"""Truth as if it were a result, so that what draws results draws truth; tracks in space, and what hides them."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import roma
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from c4d_nb.camera import invert, pinhole, project, rays, transform, unproject
from c4d_nb.clip import Clip, Tracks, Truth
from c4d_nb.errors import InputError
from c4d_nb.kubric.scene import look_at
from c4d_nb.kubric.truth import object_poses, sample_positions
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.figures import DYNAMIC_COLOR, STATIC_COLOR, TRUTH_COLOR, even_frames
from c4d_nb.show.scene import scene_figure

CERTAIN = 100.0
"""Confidence of every true depth."""
WRONG_COLOR = "#d900d9"
DISTINCT_PX = 8
"""World points that are drawn beneath tracks are so far apart in the image."""


def truth_as_result(clip: Clip, tracks: Tracks) -> Reconstruction:
    """What a reconstruction without any error would be: depth, cameras and masks of the clip's truth, true tracks."""
    truth = clip.truth
    xyz = torch.where(tracks.visible[..., None], track_paths(truth, tracks), torch.nan)
    return Reconstruction(
        depth=truth.depth,
        confidence=torch.full_like(truth.depth, CERTAIN),
        intrinsics=truth.intrinsics,
        world_from_cam=truth.world_from_cam,
        motion_mask=truth.motion_mask,
        tracks=tracks,
        tracks_xyz=xyz.to(truth.depth),
        losses={},
        clip=clip,
    )


def track_paths(truth: Truth, tracks: Tracks) -> Float[Tensor, "t n 3"]:
    """Where the points of true tracks are in the world, in every frame, seen or not; in float64.

    A point keeps its place X_obj in the axes of its object, and those of the background are the world's: what the maps
    show at the query gives X_obj, and ``X(t) = world_from_obj(t) X_obj``.
    """
    frame, number = tracks.query_frame, torch.arange(len(tracks.query_frame))
    uv = tracks.uv[frame, number].double()
    height, width = truth.depth.shape[1:]
    column, row = (uv - sample_positions(truth)[0, 0]).round().long().unbind(-1)
    at = frame, row.clamp(0, height - 1), column.clamp(0, width - 1)
    xyz_cam = truth.depth[at].double()[:, None] * rays(truth.intrinsics[frame].double(), uv)
    world_from_obj = object_poses(truth)[truth.segmentation[at].long()].transpose(0, 1)
    obj_from_cam = invert(world_from_obj[frame, number]) @ truth.world_from_cam[frame].double()
    return transform(world_from_obj, transform(obj_from_cam, xyz_cam[:, None]))[..., 0, :]


def tracks_in_space(result: Reconstruction, *, max_points: int = 2_500, max_tracks: int = 120) -> go.Figure:
    """The scene to turn, with its tracks in space, by mobility: a static one is a dot, a dynamic one a line. Movers are
    shown in the first, the middle and the last frame at once."""
    figure = scene_figure(result, dynamic_frames=3, max_points=max_points, tail=0)
    figure.update_traces(line_color="black", selector={"name": "camera path"}).update_traces(showlegend=False)
    x, y, z = _static_places(result, max_tracks // 2).T.numpy()
    dots = {"mode": "markers", "marker": {"color": STATIC_COLOR, "size": 5, "line": {"color": "white", "width": 1}}}
    figure.add_scatter3d(x=x, y=y, z=z, name="static tracks", hoverinfo="name", **dots)
    x, y, z = _dynamic_paths(result, max_tracks // 2).T.numpy()
    lines = {"mode": "lines", "line": {"color": DYNAMIC_COLOR, "width": 3}}
    figure.add_scatter3d(x=x, y=y, z=z, name="dynamic tracks", hoverinfo="name", **lines)
    figure.layout.sliders = ()
    figure.update_layout(showlegend=True, legend={"x": 0, "y": 1}, template="none")
    eye = dict(zip("xyz", (-0.8 * _camera_aside(result)[:3, 2]).tolist(), strict=True))
    view = {"eye": eye, "up": {"x": 0, "y": 0, "z": 1}, "center": {"x": 0, "y": 0, "z": 0}}
    return figure.update_layout(scene_camera=view)


def tracks_still(result: Reconstruction) -> Figure:
    """The same without turning: what a camera aside sees of the world, static points of the first frame and the movers
    of three."""
    aside = _camera_aside(result)
    intrinsics = pinhole(1.0, 1, 1).to(aside)  # in widths of the picture

    def seen(xyz: Tensor) -> np.ndarray:
        uv, depth = project(transform(invert(aside), xyz.to(aside)), intrinsics)
        return torch.where(depth[:, None] > 0, uv, torch.nan).numpy().T

    cloud, colors = _cloud(result, even_frames(len(result.depth), 3))
    far_first = transform(invert(aside), cloud.to(aside))[:, 2].argsort(descending=True)
    dots, path, frustum = seen(cloud[far_first]), seen(result.world_from_cam[:, :3, 3]), seen(_frustum(result))
    limit = result.tracks.uv.shape[1]
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    ax.scatter(*dots, c=colors[far_first].numpy() / 255, s=3, linewidths=0)
    ax.plot(*seen(_static_places(result, limit)), "o", color=STATIC_COLOR, markersize=4, mec="white", mew=0.5)
    ax.plot(*seen(_dynamic_paths(result, limit)), "-", color=DYNAMIC_COLOR, linewidth=1)
    ax.plot(*path, color="black", linewidth=3)
    ax.plot(*frustum, color=TRUTH_COLOR, linewidth=1)
    camera = np.concatenate([path, frustum], axis=1)
    low, high = np.nanquantile(dots, (0.02, 0.98), axis=1)
    low, high = np.fmin(low, np.nanmin(camera, axis=1) - 0.03), np.fmax(high, np.nanmax(camera, axis=1) + 0.03)
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", xticks=[], yticks=[])
    return figure


def visibility_figure(clip: Clip, exact: Tracks, rule: Tracks, frame: int) -> Figure:
    """Which of a frame's points are visible, and where the rule says otherwise."""
    if exact.uv.shape != rule.uv.shape:
        raise InputError(f"rule: expected {exact.uv.shape[1]} tracks, as of exact, but it has {rule.uv.shape[1]}")
    figure = Figure(figsize=(4.8, 4.4), layout="constrained")
    ax = figure.subplots()
    ax.imshow(clip.frames[frame].numpy())
    seen, said = exact.visible[frame], rule.visible[frame]
    for chosen, marker, color, name in (
        (seen & said, ".", "white", "visible"),
        (~seen & ~said, ".", "black", "hidden"),
        (seen != said, "X", WRONG_COLOR, "the rule is wrong"),
    ):
        ax.plot(*exact.uv[frame, chosen].T, marker, color=color, label=f"{name}: {int(chosen.sum())}", linestyle="")
    height, width = clip.size
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[], title=f"frame {frame}")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), facecolor="0.7")
    return figure


def _chosen(result: Reconstruction, dynamic: bool, limit: int) -> Float[Tensor, "chosen t 3"]:
    """The paths of at most ``limit`` of the tracks of one mobility, evenly spread."""
    tracks = result.tracks
    at_query = tracks.mobility[tracks.query_frame, torch.arange(len(tracks.query_frame))]
    index = ((at_query >= 0.5) == dynamic).nonzero()[:, 0]
    index = index[torch.linspace(0, len(index) - 1, min(limit, len(index))).long()]
    return result.tracks_xyz[:, index].float().transpose(0, 1)


def _static_places(result: Reconstruction, limit: int) -> Float[Tensor, "chosen 3"]:
    """A static track is in one place, wherever it is seen."""
    return _chosen(result, False, limit).nanmedian(dim=1).values


def _dynamic_paths(result: Reconstruction, limit: int) -> Float[Tensor, "points 3"]:
    """Paths one after the other with gaps between them."""
    paths = _chosen(result, True, limit)
    gaps = torch.full_like(paths[:, :1], torch.nan)
    return torch.cat([paths, gaps], dim=1).flatten(0, 1)


def _cloud(
    result: Reconstruction, chosen: Sequence[int]
) -> tuple[Float[Tensor, "points 3"], UInt8[Tensor, "points 3"]]:
    """(world points, colours) of the first chosen frame, and of the movers in the others."""
    xyz = transform(
        result.world_from_cam[chosen], unproject(result.depth[chosen], result.intrinsics[chosen]).flatten(1, 2)
    )
    shown = result.motion_mask[chosen]
    shown[0] = True
    return xyz[shown.flatten(1)], result.clip.frames[chosen][shown]


def _camera_aside(result: Reconstruction) -> Float[Tensor, "4 4"]:
    """A camera that looks where the first one looks, from an eighth of a turn aside, farther away and higher up."""
    eye = result.world_from_cam[0, :3, 3].double()
    distance = result.depth[0].double().median()
    target = eye + distance * result.world_from_cam[0, :3, 2].double()
    turn = roma.rotvec_to_rotmat(eye.new_tensor([0, 0, -math.pi / 4]))
    up = eye.new_tensor([0, 0, 0.4 * distance])
    return look_at(target + 1.4 * turn @ (eye - target) + up, target)


def _frustum(result: Reconstruction, *, share: float = 0.2) -> Float[Tensor, "points 3"]:
    """One line along the edges of what the first camera sees, out to a share of its median depth."""
    height, width = result.depth.shape[1:]
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]).to(result.depth)
    reached = share * result.depth[0].median() * rays(result.intrinsics[0], corners)
    eye = torch.zeros_like(reached[:1])
    line = torch.cat([reached, reached[:1], eye, reached[1:3], eye, reached[3:]])
    return transform(result.world_from_cam[0], line)
