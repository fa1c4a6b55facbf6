"""The whole pipeline on one page: a clip in, 4D out."""

import logging
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.alignment import AlignConfig, FastConfig, RefineConfig, align, align_fast, refine_depth
from c4d_nb.camera import pinhole, pose, transform, unproject
from c4d_nb.clip import Clip, check_intrinsics
from c4d_nb.correspondence.flow import FLOW_NOISE_PX, estimate_flows
from c4d_nb.correspondence.queries import clip_queries
from c4d_nb.correspondence.tracking import Tracker, track_by_flow
from c4d_nb.errors import InputError
from c4d_nb.mobility import judged_by_masks
from c4d_nb.motion_mask import epipolar_motion_masks
from c4d_nb.pointmaps.densify import densify_depth
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.fill import fill_holes, stand_on_ground
from c4d_nb.pointmaps.fusion import fused_with_network
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.inference import pointmaps_on_grid
from c4d_nb.pointmaps.relative_pose import estimate_focal_ratio, pair_matches
from c4d_nb.pointmaps.scene_graph import sliding_window_graph
from c4d_nb.pointmaps.two_view import FLAT_CONFIDENCE, TwoViewConfig, two_view_pointmaps
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.smoothing import lift_tracks, smooth_pointmaps

MIN_SIDE_PX = 32
"""Dense Inverse Search needs as much for its coarsest level."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReconstructConfig:
    """Every choice of the pipeline. Sizes in pixels are those of the clip's frames."""

    offsets: tuple[int, ...] = (1, 3, 5, 7, 9)
    """Of the scene graph, in frames."""
    cell: int = 20
    """Of the query grid, in px."""
    query_every: int = 4
    """Frames from one tracker window to the next."""
    mask_method: Literal["paper", "robust"] = "robust"
    """How motion masks are made of correspondences (``motion_mask.epipolar_motion_masks``)."""
    mask_threshold: float = 0.002
    """Epipolar error above which a pixel is dynamic in a pair, as a share of the image diagonal."""
    own_masks: Literal["replace", "combine"] = "replace"
    """What becomes of masks that are given: they are used instead of those of the correspondences, or beside them."""
    flow_noise_px: float = FLOW_NOISE_PX
    assumed_focal: float = 1.2
    """Focal length over the longer image side, as far as the video itself does not tell; stage 1 refines it."""
    measured_confidence: float = 2.0
    """Below it depth is a guess: blended from measured surroundings, or a mover's from the ground it stands on."""
    triangulate: bool = True
    """Whether pixels with parallax take their triangulated place in the pairs; otherwise a network's pairs are aligned
    as they are, as in the paper."""
    alignment_long_side: int = 96
    """Alignment works on every s-th pixel, s odd, so that the longer side has at most this many."""
    align: AlignConfig | FastConfig = field(default_factory=AlignConfig)
    """Of stage 1, and by its kind the solver: the paper's, or closed forms."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    seed: int = 0
    """Of the random half of the queries."""


def reconstruct(
    clip: Clip,
    config: ReconstructConfig = ReconstructConfig(),
    *,
    network: DUSt3R | None = None,
    masks: Bool[Tensor, "t h w"] | None = None,
    tracker: Tracker = track_by_flow,
) -> Reconstruction:
    """Camera, depth, motion masks and tracks of a clip. Every step shows its progress.

    Without a ``network`` nothing is learned: depth comes from triangulation alone. What a pointmap network sees is a
    second measurement of it, and in a clip without parallax the only one; one that knows nothing of what is
    triangulated is left out. Movers are set on the ground below them, or with a network half way to there. ``masks`` of
    what moves, of any source, replace those that are made here, or are joined with them (``own_masks``). ``tracker``
    follows the queries: here a chain of flow; any function from frames and queries to tracks will do. Which tracks are
    dynamic is its word and the masks' (``mobility.judged_by_masks``).

    Raises ``InputError`` for a clip that cannot be reconstructed: fewer than 3 frames, no texture, nothing that
    moves. A camera that only turns, or stands still before a moving object, gives poses and masks, but its depth is a
    guess, the network's or flat (confidence 1).
    """
    _check_clip(clip)
    if masks is not None and masks.shape != clip.frames.shape[:3]:
        raise InputError(f"masks: expected a shape of {tuple(clip.frames.shape[:3])}, but it is {tuple(masks.shape)}")
    if config.own_masks not in ("replace", "combine"):
        raise InputError(f"own_masks: expected 'replace' or 'combine', but it is {config.own_masks!r}")
    if clip.intrinsics is not None:
        check_intrinsics(clip.intrinsics)

    _log.info("correspondences: flow between pairs of frames, tracks through all of them")
    edges = sliding_window_graph(len(clip), offsets=config.offsets)
    flows, valid = estimate_flows(clip.frames, edges)
    _check_motion(flows)
    generator = torch.Generator().manual_seed(config.seed)
    queries = clip_queries(clip.frames, every=config.query_every, cell=config.cell, generator=generator)
    tracks = tracker(clip.frames, queries)
    if tracks.visible.shape != (len(clip), len(queries.frame)):
        expected = f"{len(clip)} frames and {len(queries.frame)} points"
        raise InputError(f"tracker: expected tracks of {expected}, but they are {tuple(tracks.visible.shape)}")

    motion_mask = torch.zeros(clip.frames.shape[:3], dtype=torch.bool) if masks is None else masks
    if masks is None or config.own_masks == "combine":
        _log.info("motion masks: what camera motion cannot explain")
        motion_mask = motion_mask | epipolar_motion_masks(
            flows,
            tracks,
            edges,
            method=config.mask_method,
            frames=clip.frames,
            valid=valid,
            threshold=config.mask_threshold,
            max_age=config.query_every,
        )
    tracks = judged_by_masks(tracks, motion_mask)
    static = valid & ~motion_mask[edges[:, 0]]

    _log.info("pair pointmaps: relative pose and triangulation")
    grid = PixelGrid.within(clip.size, config.alignment_long_side)
    intrinsics = clip.intrinsics
    if intrinsics is None:
        matches = pair_matches(flows, static, edges, limit=250)
        ratio = estimate_focal_ratio(matches, clip.size, expected=config.assumed_focal, noise_px=config.flow_noise_px)
        intrinsics = pinhole(ratio * max(clip.size), *clip.size).expand(len(clip), 3, 3)
    noise_px = config.flow_noise_px / grid.stride
    grid_flows, grid_masks = grid.sample(flows) / grid.stride, grid.sample(motion_mask)
    pairs = two_view_pointmaps(
        grid_flows, grid.sample(static), edges, grid.intrinsics(intrinsics[0]), TwoViewConfig(noise_px=noise_px)
    )
    with_parallax = (pairs.conf_1 > FLAT_CONFIDENCE).flatten(1).any(dim=1)
    if network is not None:
        _log.info("network: what it sees of every pair")
        learned = pointmaps_on_grid(network, clip.frames, edges, grid)
    # Without any parallax, flat pairs give the cameras exactly; relief that is guessed would move them.
    flat = not with_parallax.any() and (network is None or config.triangulate)
    if network is not None and not flat:
        fused = fused_with_network(pairs, learned) if config.triangulate else learned
        if fused is pairs:
            _log.info("network: it knows nothing of what is triangulated, and is left out")
            network = None
        pairs = fused

    _log.info("stage 1: depth, poses and intrinsics by GA, CMA and CTS")
    weights = config.align
    if flat:  # GA weighs so little that CTS would straighten any path
        weights = replace(weights, weight_cma=0.0, weight_cts=0.0)
    known = None if clip.intrinsics is None else grid.intrinsics(clip.intrinsics)
    solve = align_fast if isinstance(weights, FastConfig) else align
    stage_1 = solve(
        pairs,
        flows=grid_flows,
        motion_masks=grid_masks,
        flow_valid=grid.sample(valid),
        intrinsics=known,
        config=weights,
    )
    if network is not None and flat:
        _log.info("network: depth before cameras that are known to have turned only")
        turned = pose(stage_1.world_from_cam[:, :3, :3], torch.zeros(len(clip), 3))
        relief = solve(learned, intrinsics=stage_1.intrinsics, world_from_cam=turned, config=weights).depth
        stage_1 = replace(stage_1, depth=relief * (stage_1.depth.median() / relief.median()))
    measured = stage_1.confidence > config.measured_confidence
    scale = stage_1.depth.flatten(1).median(dim=1).values[:, None, None]
    depth = stage_1.depth / scale
    if network is None:  # what no pair measured has wandered under Adam
        depth = fill_holes(depth, measured)
    standing = stand_on_ground(depth, grid_masks, measured)
    if network is not None:  # two guesses of where a mover is, and neither knows better
        standing = (standing * depth).sqrt()
    stage_1 = replace(stage_1, depth=scale * standing)

    _log.info("stage 2: depth by PTS")
    grid_tracks = replace(tracks, uv=grid.to_grid(tracks.uv))
    stage_2 = refine_depth(stage_1, smooth_pointmaps(stage_1.xyz_world(), grid_tracks), config.refine)

    _log.info("full resolution: every pixel triangulated with the cameras of stage 1, moved as stage 2 moved the grid")
    full_intrinsics = grid.intrinsics_to_full(stage_1.intrinsics)
    depth, certainty = densify_depth(
        grid.upsample(stage_1.depth),
        flows,
        static & with_parallax[:, None, None],
        edges,
        full_intrinsics,
        stage_1.world_from_cam,
        noise_px=config.flow_noise_px,
    )
    depth = depth * grid.upsample(stage_2.depth / stage_1.depth)
    xyz_world = transform(stage_1.world_from_cam, unproject(depth, full_intrinsics).flatten(1, 2))
    return Reconstruction(
        depth=depth,
        confidence=1 + certainty,
        intrinsics=full_intrinsics,
        world_from_cam=stage_1.world_from_cam,
        motion_mask=motion_mask,
        tracks=tracks,
        tracks_xyz=lift_tracks(xyz_world.reshape(*depth.shape, 3), tracks),
        losses=stage_2.losses,
        clip=clip,
    )


def _check_clip(clip: Clip) -> None:
    if len(clip) < 3:
        raise InputError(f"clip: expected at least 3 frames, but it has {len(clip)}")
    height, width = clip.size
    if min(height, width) < MIN_SIDE_PX:
        raise InputError(f"clip: expected frames of at least {MIN_SIDE_PX} px a side, but they are {width}x{height} px")
    contrast = clip.frames.float().std(dim=(1, 2)).max()
    if contrast < 2:
        raise InputError(
            f"clip: expected textured frames, but every one is of one colour (contrast {contrast:.1f} of 255)"
        )


def _check_motion(flows: Float[Tensor, "e h w 2"]) -> None:
    moved = torch.stack([flow.square().sum(-1).sqrt().quantile(0.99) for flow in flows]).max()
    if moved < 0.5:
        raise InputError(
            f"clip: expected a camera or a scene that moves, but no part of the image moves by more than {moved:.2f} px"
        )
