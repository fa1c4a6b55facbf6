"""The whole pipeline on one page: a clip in, 4D out."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.alignment import AlignConfig, Alignment, RefineConfig, align, refine_depth
from c4d_nb.archive import group, read_archive, readable, write_archive
from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip, Tracks, check_intrinsics, clip_entries, clip_from_entries, field_entries
from c4d_nb.correspondence.flow import estimate_flows
from c4d_nb.correspondence.queries import clip_queries
from c4d_nb.correspondence.tracking import track_by_flow
from c4d_nb.errors import InputError
from c4d_nb.motion_mask import epipolar_motion_masks
from c4d_nb.pointmaps.densify import densify_depth
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.relative_pose import estimate_focal_ratio, pair_matches
from c4d_nb.pointmaps.scene_graph import sliding_window_graph
from c4d_nb.pointmaps.two_view import TwoViewConfig, fill_holes, two_view_pointmaps
from c4d_nb.smoothing import lift_tracks, smooth_pointmaps

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
    mask_threshold: float = 0.002
    """Epipolar error above which a pixel is dynamic in a pair, as a share of the image diagonal."""
    mask_votes: float = 0.3
    """Share of a pixel's pairs that must call it dynamic. The paper's union is 0; over ten pairs it adds up false
    alarms."""
    flow_noise_px: float = 0.5
    assumed_focal: float = 1.2
    """Focal length over the longer image side, as far as the video itself does not tell; stage 1 refines it."""
    measured_confidence: float = 2.0
    """Below it a pixel's depth is a guess, as on movers, and is blended from its measured surroundings."""
    alignment_long_side: int = 96
    """Alignment works on every s-th pixel, s odd, so that the longer side has at most this many."""
    align: AlignConfig = field(default_factory=AlignConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    seed: int = 0
    """Of the random half of the queries."""


def reconstruct(clip: Clip, config: ReconstructConfig = ReconstructConfig()) -> "Reconstruction":
    """Camera, depth, motion masks and tracks of a clip, without any learned weights. Every step shows its progress.

    Raises ``InputError`` for a clip that cannot be reconstructed: fewer than 3 frames, no texture, nothing that
    moves. A camera that only turns, or stands still before a moving object, gives poses and masks, but its depth is a
    guess (confidence 1.02).
    """
    _check_clip(clip)
    if clip.intrinsics is not None:
        check_intrinsics(clip.intrinsics)

    _log.info("correspondences: flow between pairs of frames, tracks through all of them")
    edges = sliding_window_graph(len(clip), offsets=config.offsets)
    flows, valid = estimate_flows(clip.frames, edges)
    _check_motion(flows)
    generator = torch.Generator().manual_seed(config.seed)
    queries = clip_queries(clip.frames, every=config.query_every, cell=config.cell, generator=generator)
    tracks = track_by_flow(clip.frames, queries)

    _log.info("motion masks: what camera motion cannot explain")
    motion_mask = epipolar_motion_masks(
        flows,
        tracks,
        edges,
        valid=valid,
        threshold=config.mask_threshold,
        votes=config.mask_votes,
        max_age=config.query_every,
    )
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

    _log.info("stage 1: depth, poses and intrinsics by GA, CMA and CTS")
    known = None if clip.intrinsics is None else grid.intrinsics(clip.intrinsics)
    stage_1 = align(
        pairs,
        flows=grid_flows,
        motion_masks=grid_masks,
        flow_valid=grid.sample(valid),
        intrinsics=known,
        config=config.align,
    )
    scale = stage_1.depth.flatten(1).median(dim=1).values[:, None, None]
    measured = stage_1.confidence > config.measured_confidence
    stage_1 = replace(stage_1, depth=scale * fill_holes(stage_1.depth / scale, measured))

    _log.info("stage 2: depth by PTS")
    grid_tracks = replace(tracks, uv=grid.to_grid(tracks.uv))
    stage_2 = refine_depth(stage_1, smooth_pointmaps(stage_1.xyz_world(), grid_tracks), config.refine)

    _log.info("full resolution")
    return _at_full_resolution(clip, stage_1, stage_2, grid, flows, static, edges, motion_mask, tracks, config)


def _at_full_resolution(
    clip: Clip,
    stage_1: Alignment,
    stage_2: Alignment,
    grid: PixelGrid,
    flows: Float[Tensor, "e h w 2"],
    static: Bool[Tensor, "e h w"],
    edges: Int[Tensor, "e 2"],
    motion_mask: Bool[Tensor, "t h w"],
    tracks: Tracks,
    config: ReconstructConfig,
) -> "Reconstruction":
    """Every pixel triangulated with stage 1's cameras, then moved as stage 2 moved the grid's pixels."""
    intrinsics = grid.intrinsics_to_full(stage_1.intrinsics)
    depth, certainty = densify_depth(
        grid.upsample(stage_1.depth, clip.size),
        flows,
        static,
        edges,
        intrinsics,
        stage_1.world_from_cam,
        noise_px=config.flow_noise_px,
    )
    depth = depth * grid.upsample(stage_2.depth / stage_1.depth, clip.size)
    xyz_world = replace(stage_1, depth=depth, intrinsics=intrinsics).xyz_world()
    return Reconstruction(
        depth=depth,
        confidence=1 + certainty,
        intrinsics=intrinsics,
        world_from_cam=stage_1.world_from_cam,
        motion_mask=motion_mask,
        tracks=tracks,
        tracks_xyz=lift_tracks(xyz_world, tracks),
        losses=stage_2.losses,
        clip=clip,
    )


def _check_clip(clip: Clip) -> None:
    if len(clip) < 3:
        raise InputError(f"clip: expected at least 3 frames, but it has {len(clip)}")
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


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """4D from a video: everything is in one world frame, up to one scale."""

    depth: Float[Tensor, "t h w"]
    confidence: Float[Tensor, "t h w"]
    """At least 1; 1 is 'this depth is a guess'. Combine with a threshold to show or export only what was measured."""
    intrinsics: Float[Tensor, "t 3 3"]
    world_from_cam: Float[Tensor, "t 4 4"]
    motion_mask: Bool[Tensor, "t h w"]
    tracks: Tracks
    tracks_xyz: Float[Tensor, "t n 3"]
    """World positions of the tracks; NaN where a track is not visible."""
    losses: dict[str, Float[Tensor, "i"]]
    """Each objective's value by iteration: ga, cma, cts (stage 1), pts (stage 2)."""
    clip: Clip

    def save(self, path: str | Path) -> Path:
        """Write everything, clip included, to one archive, atomically."""
        maps = ("depth", "confidence", "intrinsics", "world_from_cam", "motion_mask", "tracks_xyz")
        entries = {name: getattr(self, name) for name in maps}
        entries |= field_entries("tracks", self.tracks)
        entries |= {f"losses.{name}": values for name, values in self.losses.items()}
        entries |= {f"clip.{name}": value for name, value in clip_entries(self.clip).items()}
        return write_archive(path, "reconstruction", entries)

    @staticmethod
    def load(path: str | Path) -> "Reconstruction":
        """Read a saved reconstruction; raises ``InputError`` for a damaged or foreign file."""
        with readable(path, "reconstruction"):
            entries = read_archive(path, "reconstruction")
            maps = {name: value for name, value in entries.items() if "." not in name}
            clip = {name.removeprefix("clip."): value for name, value in entries.items() if name.startswith("clip.")}
            tracks = Tracks(**group(entries, "tracks"))
            return Reconstruction(**maps, tracks=tracks, losses=group(entries, "losses"), clip=clip_from_entries(clip))
