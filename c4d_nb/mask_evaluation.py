"""How good motion masks are: intersection over union with true ones, sequence by sequence.

``python -m c4d_nb.mask_evaluation FOLDER ...`` prints a table of the methods and of simple baselines on folders of
DAVIS' layout (``JPEGImages`` and ``Annotations``, with or without ``480p``; https://davischallenge.org) or of clip
archives, with the mean of each folder.
``--ablation`` switches off the parts of ``robust``, one at a time.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm import tqdm

from c4d_nb.archive import archives_in
from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Clip, Tracks, load_clip, resize_clip, select_frames
from c4d_nb.commands import run_command
from c4d_nb.correspondence.dynpt import DynPT
from c4d_nb.correspondence.flow import estimate_flows
from c4d_nb.correspondence.queries import clip_queries
from c4d_nb.correspondence.tracking import Tracker, dynpt_tracker, track_by_flow
from c4d_nb.datasets import read_davis
from c4d_nb.ego_flow import ego_flow_masks, pair_ego_flows
from c4d_nb.errors import InputError
from c4d_nb.metrics import motion_iou
from c4d_nb.mobility import judged_by_masks, mask_at
from c4d_nb.motion_mask import RobustConfig, epipolar_motion_masks
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.inference import pointmaps_on_grid
from c4d_nb.pointmaps.scene_graph import sliding_window_graph

QUERY_EVERY = 4
GRID_PX = 8
"""Of the pixels that stand for all of a frame."""
ROBUST = RobustConfig()
POINTMAPS_LONG_SIDE = 96
"""Ego-flow is that of so many pixels and bilinear between them."""


@dataclass(frozen=True, eq=False)
class Correspondences:
    """All that motion masks are made of."""

    clip: Clip
    flows: Float[Tensor, "e h w 2"]
    valid: Bool[Tensor, "e h w"]
    edges: Int[Tensor, "e 2"]
    tracks: Tracks

    @cached_property
    def ego_flows(self) -> Float[Tensor, "e h w 2"]:
        """Of the small network's pointmaps."""
        grid = PixelGrid.within(self.clip.size, POINTMAPS_LONG_SIDE)
        pairs = pointmaps_on_grid(DUSt3R.from_checkpoint("small"), self.clip.frames, self.edges, grid)
        u, v = grid.stride * pair_ego_flows(pairs).movedim(-1, 0)
        return torch.stack([grid.upsample(u), grid.upsample(v)], dim=-1)


Method = Callable[[Correspondences], Bool[Tensor, "t h w"]]


def correspondences(clip: Clip, *, tracker: Tracker = track_by_flow, seed: int = 0) -> Correspondences:
    """Flow over the scene graph and tracks of grid queries, by default by chained flow.

    ``seed`` is of the random half of the queries.
    """
    edges = sliding_window_graph(len(clip))
    flows, valid = estimate_flows(clip.frames, edges)
    queries = clip_queries(clip.frames, every=QUERY_EVERY, generator=torch.Generator().manual_seed(seed))
    tracks = tracker(clip.frames, queries)
    return Correspondences(clip, flows, valid, edges, tracks)


def paper(found: Correspondences) -> Bool[Tensor, "t h w"]:
    return epipolar_motion_masks(found.flows, found.tracks, found.edges)


def paper_with_two_votes(found: Correspondences) -> Bool[Tensor, "t h w"]:
    return epipolar_motion_masks(found.flows, found.tracks, found.edges, votes=2)


def robust(
    found: Correspondences, *, config: RobustConfig = ROBUST, ego_flows: Float[Tensor, "e h w 2"] | None = None
) -> Bool[Tensor, "t h w"]:
    return epipolar_motion_masks(
        found.flows,
        found.tracks,
        found.edges,
        method="robust",
        frames=found.clip.frames,
        valid=found.valid,
        robust=config,
        ego_flows=ego_flows,
    )


def from_all_pixels(found: Correspondences) -> Bool[Tensor, "t h w"]:
    """The paper's masks with F from pixels all over the frame, movers among them."""
    return epipolar_motion_masks(found.flows, all_static(len(found.clip), *found.clip.size), found.edges)


def nothing_moves(found: Correspondences) -> Bool[Tensor, "t h w"]:
    return torch.zeros(found.clip.frames.shape[:3], dtype=torch.bool)


def mobility_alone(found: Correspondences) -> Bool[Tensor, "t h w"]:
    """Each pixel is what the nearest visible track is; no flow, no geometry but the tracker's own."""
    masks = nothing_moves(found)
    pixels = pixel_grid(*found.clip.size).reshape(-1, 2)
    for mask, uv, visible, mobility in zip(
        masks, found.tracks.uv, found.tracks.visible, found.tracks.mobility, strict=True
    ):
        if visible.any():
            _, nearest = cKDTree(uv[visible].numpy()).query(pixels.numpy())
            mask[:] = (mobility[visible][torch.from_numpy(nearest)] > 0.5).reshape(mask.shape)
    return masks


def monst3r(found: Correspondences) -> Bool[Tensor, "t h w"]:
    """MonST3R's rule, with the pointmaps of our small network."""
    return ego_flow_masks(found.flows, found.ego_flows, found.edges, frames=len(found.clip))


def all_static(t: int, height: int, width: int) -> Tracks:
    """Every eighth pixel of every frame, asked for there, and called static."""
    uv = pixel_grid(height, width)[GRID_PX // 2 :: GRID_PX, GRID_PX // 2 :: GRID_PX].reshape(-1, 2)
    shape = t, t * len(uv)
    still = uv.repeat(t, 1).expand(*shape, 2)
    query_frame = torch.arange(t).repeat_interleave(len(uv))
    return Tracks(still, torch.ones(shape, dtype=torch.bool), torch.ones(shape), torch.zeros(shape), query_frame)


def with_true_mobility(tracks: Tracks, motion_mask: Bool[Tensor, "t h w"]) -> Tracks:
    """The same tracks, each dynamic in the frames in which it lies on what truly is."""
    return replace(tracks, mobility=mask_at(motion_mask, tracks.uv).float())


METHODS: dict[str, Method] = {
    "robust": robust,
    "paper": paper,
    "paper, 2 votes": paper_with_two_votes,
    "F of all pixels": from_all_pixels,
    "MonST3R's rule": monst3r,
    "mobility alone": mobility_alone,
    "nothing moves": nothing_moves,
}


def ablation() -> dict[str, Method]:
    """``robust``, it without each of its parts, and it with what is offered beside it: ego-flow, and other static
    points, those that its own masks judge static and those that truly are."""
    without = {
        "homography": RobustConfig(homography=False),
        "checked": RobustConfig(checked=False),
        "noise": RobustConfig(noise=0.0),
        "appearance": RobustConfig(appearance=False),
        "threshold_range": RobustConfig(threshold_range=(0.5, 0.5)),
        "edges": RobustConfig(edges=False),
    }
    return (
        {"robust": robust}
        | {f"without {name}": partial(robust, config=config) for name, config in without.items()}
        | {"with ego-flow": lambda found: robust(found, ego_flows=found.ego_flows)}
        | {"made once more": made_once_more, "with true static points": from_true_static_points}
    )


def made_once_more(found: Correspondences) -> Bool[Tensor, "t h w"]:
    return robust(replace(found, tracks=judged_by_masks(found.tracks, robust(found))))


def from_true_static_points(found: Correspondences) -> Bool[Tensor, "t h w"]:
    return robust(replace(found, tracks=with_true_mobility(found.tracks, found.clip.truth.motion_mask)))


def sequences(
    folder: str | Path, *, long_side: int | None, max_frames: int | None
) -> Iterator[tuple[str, Clip, Bool[Tensor, "t h w"]]]:
    """(name, clip, true masks) of every sequence. Raises ``InputError`` for a folder without any."""
    folder = Path(folder)
    resolution = "480p" if (folder / "JPEGImages" / "480p").is_dir() else ""
    images = folder / "JPEGImages" / resolution
    named = sorted(path.name for path in images.iterdir() if path.is_dir()) if images.is_dir() else []
    archives = archives_in(folder)
    if not named and not archives:
        raise InputError(f"folder: expected JPEGImages and Annotations, or clip archives (.npz), but {folder} has none")
    for name in named:
        clip = read_davis(folder, name, resolution=resolution, max_frames=max_frames, long_side=long_side)
        yield name, clip, clip.truth.motion_mask
    for path in archives:
        clip = resize_clip(select_frames(load_clip(path), max_frames=max_frames), long_side)
        if clip.truth is None or clip.truth.motion_mask is None:
            raise InputError(f"folder: expected clips with true masks, but {path} has none")
        yield path.stem, clip, clip.truth.motion_mask


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.mask_evaluation", description="Motion masks against true ones: IoU in %%."
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of DAVIS' layout or clip archives")
    parser.add_argument("--long-side", type=int, default=432, metavar="PX", help="of the frames (default 432)")
    parser.add_argument("--max-frames", type=int, default=50, metavar="N", help="of a sequence (default 50)")
    parser.add_argument("--tracker", metavar="NAME", help="weights of DynPT (default: chained flow)")
    parser.add_argument("--ablation", action="store_true", help="switch off the parts of robust, one at a time")
    return run_command(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    tracker = track_by_flow if options.tracker is None else dynpt_tracker(DynPT.from_checkpoint(options.tracker))
    methods = ablation() if options.ablation else METHODS
    print(f"{'IoU, %':32}" + "".join(f"{name:>24}" for name in methods))
    for folder in options.folders:
        rows = []
        found = sequences(folder, long_side=options.long_side, max_frames=options.max_frames)
        for name, clip, true in tqdm(found, desc=folder.name, unit="sequence"):
            known = correspondences(clip, tracker=tracker)
            rows.append([100 * motion_iou(method(known), true) for method in methods.values()])
            _print_row(name, rows[-1])
        _print_row(f"mean of {folder.name}", torch.tensor(rows).mean(dim=0).tolist())


def _print_row(name: str, scores: list[float]) -> None:
    print(f"{name:32}" + "".join(f"{score:24.1f}" for score in scores), flush=True)


if __name__ == "__main__":
    sys.exit(main())
