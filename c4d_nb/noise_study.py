"""How stage 1 answers to wrong inputs: exact pointmaps, flow and masks of a clip with truth, spoiled by known amounts.

What a network or a flow estimator gets wrong comes all at once and in unknown amounts. Here one input is wrong at a
time, by as much as one says, from a seed; truth does the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.alignment import AlignConfig, align
from c4d_nb.camera import invert, pixel_grid, project, transform, unproject
from c4d_nb.clip import PairPointmaps, Truth
from c4d_nb.correspondence.flow import FLOW_NOISE_PX, sample_map
from c4d_nb.errors import InputError
from c4d_nb.kubric.truth import points_at_time
from c4d_nb.metrics import trajectory_errors, video_depth
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.scene_graph import sliding_window_graph
from c4d_nb.pointmaps.two_view import TwoViewConfig, two_view_pointmaps

PAPER = AlignConfig()
CONFIDENCE = 3.0
HIDDEN = 0.02
"""Share of its depth by which a point may lie behind what is seen at its place."""
CELLS = 4
"""Smooth errors have so many independent values a side."""
SCORES = ("ate_percent", "rpe_r_deg", "abs_rel")

Wrong = Literal["flow_px", "pointmaps", "missed", "false_alarms"]


@dataclass(frozen=True, eq=False)
class Stage1Inputs:
    """What stage 1 is given, on the pixels of ``grid``."""

    truth: Truth
    """Of the grid's pixels."""
    grid: PixelGrid
    pairs: PairPointmaps
    flows: Float[Tensor, "e h w 2"]
    """In pixels of the grid."""
    valid: Bool[Tensor, "e h w"]
    motion_masks: Bool[Tensor, "t h w"]


def exact_inputs(truth: Truth, *, long_side: int = 36, offsets: tuple[int, ...] = (1, 3, 5, 7, 9)) -> Stage1Inputs:
    """Without any error: pointmaps in which each frame is as it is at its own time (what MonST3R's network aims at),
    flow of every pair, valid where the point is seen in the other frame, and the true masks.

    The truth needs depth, segmentation, cameras and rigid objects, as Kubric's.
    """
    grid = PixelGrid.within(tuple(truth.depth.shape[1:]), long_side)
    offset = truth.sample_offset_px
    small = replace(
        truth,
        depth=grid.sample(truth.depth),
        segmentation=grid.sample(truth.segmentation),
        motion_mask=grid.sample(truth.motion_mask),
        intrinsics=grid.intrinsics(truth.intrinsics),
        sample_offset_px=None if offset is None else offset / grid.stride,
    )
    edges = sliding_window_graph(len(truth.depth), offsets=offsets)
    flows, valid = zip(*(_exact_flow(small, truth, grid, n, m) for n, m in edges.tolist()), strict=True)
    xyz_cam = unproject(small.depth, small.intrinsics)
    n, m = edges.T
    n_from_m = invert(truth.world_from_cam)[n] @ truth.world_from_cam[m]
    xyz_2 = transform(n_from_m, xyz_cam[m].flatten(1, 2)).reshape(xyz_cam[m].shape)
    confidence = torch.full(xyz_2.shape[:3], CONFIDENCE)
    pairs = PairPointmaps(edges, xyz_cam[n], xyz_2, confidence, confidence.clone())
    return Stage1Inputs(small, grid, pairs, torch.stack(flows), torch.stack(valid), small.motion_mask)


def spoiled(given: Stage1Inputs, wrong: Wrong, amount: float, *, smooth: bool, seed: int) -> Stage1Inputs:
    """The same with one input wrong, by independent errors in every pixel or by fields that are ``smooth`` over a
    quarter of the frame; every pair, or every frame of masks, has its own.

    ``flow_px``: standard deviation of each coordinate of flow, in pixels of the full image. ``pointmaps``: that of the
    logarithm of the distance at which a pixel's point is put on its ray. ``missed``: share of the moving pixels that
    the masks lack; ``false_alarms``: share of the static ones that they have besides.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs, masks = given.pairs, given.motion_masks

    def noise(count: int) -> Float[Tensor, "count h w"]:
        return noise_field(count, tuple(masks.shape[1:]), smooth=smooth, generator=generator)

    if wrong == "flow_px":
        errors = torch.stack([noise(len(pairs.edges)), noise(len(pairs.edges))], dim=-1)
        return replace(given, flows=given.flows + amount / given.grid.stride * errors)
    if wrong == "pointmaps":
        xyz = [x * (amount * noise(len(x))).exp()[..., None] for x in (pairs.xyz_1, pairs.xyz_2)]
        return replace(given, pairs=replace(pairs, xyz_1=xyz[0], xyz_2=xyz[1]))
    if wrong not in ("missed", "false_alarms"):
        raise InputError(f"wrong: expected flow_px, pointmaps, missed or false_alarms, but it is {wrong!r}")
    if not 0 <= amount <= 1:
        raise InputError(f"amount: expected a share of pixels, 0 to 1, but it is {amount}")
    concerned = masks if wrong == "missed" else ~masks
    order = torch.where(concerned, noise(len(masks)), torch.inf).flatten().argsort()
    flipped = torch.zeros_like(masks).flatten()
    flipped[order[: round(amount * int(concerned.sum()))]] = True
    return replace(given, motion_masks=masks ^ flipped.reshape(masks.shape))


def noise_field(
    count: int, size: tuple[int, int], *, smooth: bool, generator: torch.Generator
) -> Float[Tensor, "count h w"]:
    """Normal values of variance 1: independent in every pixel, or smooth between ``CELLS`` x ``CELLS`` of them."""
    if not smooth:
        return torch.randn(count, *size, generator=generator)
    cells = torch.randn(count, 1, CELLS, CELLS, generator=generator)
    return F.interpolate(cells, size, mode="bicubic", align_corners=True)[:, 0]


def triangulated(given: Stage1Inputs) -> Stage1Inputs:
    """The same with the pointmaps that two-view geometry makes of its flow and masks, and the true K."""
    static = given.valid & ~given.motion_masks[given.pairs.edges[:, 0]]
    config = TwoViewConfig(noise_px=FLOW_NOISE_PX / given.grid.stride)
    pairs = two_view_pointmaps(given.flows, static, given.pairs.edges, given.truth.intrinsics[0], config)
    return replace(given, pairs=pairs)


def stage_1_scores(given: Stage1Inputs, *, config: AlignConfig = PAPER) -> dict[str, float]:
    """ATE (% of the path), RPE of rotation (deg) and AbsRel of the static pixels of what ``align`` makes of it; the
    focal length is known."""
    found = align(
        given.pairs,
        flows=given.flows,
        flow_valid=given.valid,
        motion_masks=given.motion_masks,
        intrinsics=given.truth.intrinsics,
        config=config,
    )
    truth = given.truth
    path = trajectory_errors(found.world_from_cam, truth.world_from_cam)
    scores = path | video_depth(found.depth, truth.depth, ~truth.motion_mask)
    return {name: scores[name] for name in SCORES}


def noise_curve(
    given: Stage1Inputs,
    wrong: Wrong,
    amounts: Sequence[float],
    *,
    smooth: bool = True,
    by_triangulation: bool = False,
    seeds: int = 1,
    config: AlignConfig = PAPER,
) -> Float[Tensor, "amounts scores"]:
    """``SCORES`` by amount, each the mean over so many seeds."""
    rows = []
    for amount in amounts:
        cases = [spoiled(given, wrong, amount, smooth=smooth, seed=seed) for seed in range(seeds if amount else 1)]
        cases = [triangulated(case) for case in cases] if by_triangulation else cases
        rows.append(torch.tensor([list(stage_1_scores(case, config=config).values()) for case in cases]).mean(dim=0))
    return torch.stack(rows)


def _exact_flow(
    small: Truth, truth: Truth, grid: PixelGrid, n: int, m: int
) -> tuple[Float[Tensor, "h w 2"], Bool[Tensor, "h w"]]:
    """Flow from n to m of the surface that each pixel of the grid sees, and where m sees it too."""
    xyz_world = points_at_time(small, n, m)
    h, w = xyz_world.shape[:2]
    moved = transform(invert(small.world_from_cam[m]), xyz_world.reshape(-1, 3))
    uv, depth = project(moved, small.intrinsics[m])
    uv, depth = uv.reshape(h, w, 2), depth.reshape(h, w)
    full = grid.stride * uv + uv.new_tensor(grid.offset)
    height, width = truth.depth.shape[1:]
    inside = ((full >= 0) & (full <= full.new_tensor([width - 1, height - 1]))).all(dim=-1) & (depth > 0)
    seen = sample_map(truth.depth[m][..., None], full)[..., 0]
    flow = torch.where((depth > 0)[..., None], uv - pixel_grid(h, w, like=uv), 0.0)
    return flow, inside & (depth < (1 + HIDDEN) * seen)
