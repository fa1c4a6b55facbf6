"""What each objective buys: the same pairs of pointmaps, aligned under four sets of objectives, scored against truth.

``python -m c4d_nb.alignment_evaluation FOLDER`` prints pose, depth and flicker, the mean over the folder's clip
archives and over seeds (of the tracker's queries, from which masks and smoothing come), each with two spreads.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from c4d_nb.alignment import AlignConfig, Alignment, align, refine_depth
from c4d_nb.archive import archives_in
from c4d_nb.clip import Clip, PairPointmaps, Truth, load_clip
from c4d_nb.commands import run_command
from c4d_nb.ego_flow import ego_flow_masks, pair_ego_flows
from c4d_nb.errors import InputError
from c4d_nb.kubric.truth import complete_truth
from c4d_nb.mask_evaluation import Correspondences, correspondences, robust
from c4d_nb.metrics import path_share, temporal_smoothness, trajectory_errors, video_depth
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.inference import pointmaps_on_grid
from c4d_nb.smoothing import smooth_pointmaps

GA_ONLY = AlignConfig(weight_cma=0.0, weight_cts=0.0)
"""DUSt3R's formulation."""
SCORES = {
    "ATE (% of path)": "ate_percent",
    "path (share of true)": "path_share",
    "RPE transl. (m)": "rpe_t",
    "RPE rot. (deg)": "rpe_r_deg",
    "AbsRel": "abs_rel",
    "delta < 1.25": "delta_1",
    "track flicker (m)": "trajectory",
    "depth flicker": "depth",
}


@dataclass(frozen=True, eq=False)
class Inputs:
    """What all four are given, on the pixels of ``grid``."""

    found: Correspondences
    grid: PixelGrid
    pairs: PairPointmaps
    flows: Float[Tensor, "e gh gw 2"]
    valid: Bool[Tensor, "e gh gw"]


def inputs_of(found: Correspondences, network: DUSt3R, *, long_side: int) -> Inputs:
    """The network's own pointmaps, as in the paper: nothing is triangulated."""
    grid = PixelGrid.within(found.clip.size, long_side)
    pairs = pointmaps_on_grid(network, found.clip.frames, found.edges, grid)
    return Inputs(found, grid, pairs, grid.sample(found.flows) / grid.stride, grid.sample(found.valid))


def alignments(given: Inputs) -> Iterator[tuple[str, Alignment]]:
    """Each formulation's name and result."""
    edges, frames = given.pairs.edges, len(given.found.clip)
    yield "GA only", align(given.pairs, config=GA_ONLY)
    flow = {"flows": given.flows, "flow_valid": given.valid}
    masks = ego_flow_masks(given.flows, pair_ego_flows(given.pairs), edges, frames=frames)
    yield "MonST3R's objective", align(given.pairs, motion_masks=masks, **flow)
    stage_1 = align(given.pairs, motion_masks=given.grid.sample(robust(given.found)), **flow)
    yield "C4D, stage 1", stage_1
    tracks = replace(given.found.tracks, uv=given.grid.to_grid(given.found.tracks.uv))
    yield "C4D, both stages", refine_depth(stage_1, smooth_pointmaps(stage_1.xyz_world(), tracks))


def scores_of(aligned: Alignment, grid: PixelGrid, truth: Truth) -> dict[str, float]:
    """By the names of ``SCORES``' keys in ``metrics``; depth is brought to the truth's size bilinearly.

    ATE fits the scale of the path and so does not see a path that has shrunk; ``path_share`` does.
    """
    depth, intrinsics = grid.upsample(aligned.depth), grid.intrinsics_to_full(aligned.intrinsics)
    return (
        trajectory_errors(aligned.world_from_cam, truth.world_from_cam)
        | {"path_share": path_share(aligned.world_from_cam, depth, truth)}
        | video_depth(depth, truth.depth)
        | temporal_smoothness(depth, intrinsics, aligned.world_from_cam, truth)
    )


def evaluate(clip: Clip, network: DUSt3R, *, seed: int, long_side: int) -> dict[str, list[float]]:
    """Each formulation's scores, in the order of ``SCORES``."""
    given = inputs_of(correspondences(clip, seed=seed), network, long_side=long_side)
    truth = complete_truth(clip.truth)
    table = {}
    for name, aligned in alignments(given):
        scores = scores_of(aligned, given.grid, truth)
        table[name] = [scores[key] for key in SCORES.values()]
    return table


def summary(rows: Float[Tensor, "clips seeds scores"]) -> tuple[list[float], list[float], list[float]]:
    """(mean, standard deviation over seeds of the mean over clips, standard error of the mean over clips)."""
    by_seed, by_clip = rows.mean(dim=0), rows.mean(dim=1)
    over_seeds = by_seed.std(dim=0, correction=0)
    over_clips = by_clip.std(dim=0, correction=0) / len(by_clip) ** 0.5
    return rows.mean(dim=(0, 1)).tolist(), over_seeds.tolist(), over_clips.tolist()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.alignment_evaluation", description="Pose, depth and flicker by objectives."
    )
    parser.add_argument("folder", type=Path, help="of clip archives with truth")
    parser.add_argument("--pointmaps", default="small", metavar="NAME", help="weights of the network (default: small)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="so many draws of queries (default 3)")
    parser.add_argument("--long-side", type=int, default=64, metavar="PX", help="of what is aligned (default 64)")
    return run_command(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    paths = archives_in(options.folder)
    if not paths:
        raise InputError(f"folder: expected clip archives (.npz), but {options.folder} has none")
    network = DUSt3R.from_checkpoint(options.pointmaps)
    rows: dict[str, list[list[list[float]]]] = {}
    for path in tqdm(paths, desc="clips", unit="clip"):
        clip = load_clip(path)
        if clip.truth is None:
            raise InputError(f"folder: expected clips with truth, but {path} has none")
        seeds = [evaluate(clip, network, seed=seed, long_side=options.long_side) for seed in range(options.seeds)]
        for name in seeds[0]:
            rows.setdefault(name, []).append([scores[name] for scores in seeds])
    tables = {name: torch.tensor(values) for name, values in rows.items()}
    print(f"mean of {len(paths)} clips and {options.seeds} seeds (+- over seeds; standard error over clips)")
    print(f"{'':22}" + "".join(f"{name:>28}" for name in SCORES))
    for name, values in tables.items():
        cells = zip(*summary(values), strict=True)
        print(f"{name:22}" + "".join(f"{f'{mean:.4g} (+-{seed:.1g}; {clip:.1g})':>28}" for mean, seed, clip in cells))
    better = (tables["C4D, stage 1"] < tables["GA only"])[..., 0].float().mean()
    print(f"C4D's ATE is below that of GA only in {100 * better:.0f} % of the runs")


if __name__ == "__main__":
    sys.exit(main())
