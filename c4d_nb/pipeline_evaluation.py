"""How good whole reconstructions are: pose, depth, masks and flicker, clip by clip, with a network and without.

``python -m c4d_nb.pipeline_evaluation FOLDER ...`` reconstructs the clip archives of every folder and prints the scores
of each with the folder's mean, its standard error, and the median.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from c4d_nb.clip import Clip, load_clip
from c4d_nb.command_line import FLOW, TWO_VIEW, load_network, load_tracker
from c4d_nb.commands import run_command
from c4d_nb.correspondence.tracking import Tracker, track_by_flow
from c4d_nb.errors import InputError
from c4d_nb.kubric.truth import complete_truth
from c4d_nb.metrics import path_share, score_table, temporal_smoothness
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.pairs import clip_paths
from c4d_nb.reconstruct import reconstruct

SCORES = {
    "ATE (% of path)": "ATE (% of path)",
    "path (share of true)": "path_share",
    "RPE transl. (m)": "RPE translation (scene units)",
    "RPE rot. (deg)": "RPE rotation (deg)",
    "focal error (%)": "focal error (%)",
    "AbsRel": "depth AbsRel",
    "delta < 1.25": "depth delta < 1.25",
    "mask IoU": "motion mask IoU",
    "track flicker (m)": "trajectory",
    "depth flicker": "depth",
}
"""Columns of the table, and what ``metrics`` calls them."""
NEEDED = (
    *("world_from_cam", "intrinsics", "depth", "tracks"),
    *("segmentation", "mobility", "positions", "quaternions", "boxes"),  # of which flow and masks are made
)
"""Of the truth."""


def evaluate(clip: Clip, network: DUSt3R | None, *, tracker: Tracker = track_by_flow) -> list[float]:
    """The scores of a clip's reconstruction, in the order of ``SCORES``.

    A share of the path is NaN or infinite where the true camera stands still. Raises ``InputError`` for a clip without
    the truth of mini-Kubric.
    """
    missing = NEEDED if clip.truth is None else [name for name in NEEDED if getattr(clip.truth, name) is None]
    if missing:
        raise InputError(f"clip: expected one with the truth of mini-Kubric, but it has no {missing[0]}")
    result, truth = reconstruct(clip, network=network, tracker=tracker), complete_truth(clip.truth)
    found = (
        score_table(result, truth)
        | {"path_share": path_share(result.world_from_cam, result.depth, truth)}
        | temporal_smoothness(result.depth, result.intrinsics, result.world_from_cam, truth)
    )
    return [found[name] for name in SCORES.values()]


def summary(rows: Float[Tensor, "clips scores"]) -> tuple[list[float], list[float], list[float]]:
    """Of each score, over the clips that have it: mean, its standard error, median."""
    columns = [column[column.isfinite()] for column in rows.T]
    errors = [column.std().item() / math.sqrt(len(column)) if len(column) > 1 else math.nan for column in columns]
    return [column.mean().item() for column in columns], errors, [column.median().item() for column in columns]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.pipeline_evaluation", description="Pose, depth, masks and flicker of whole pipelines."
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of clip archives of mini-Kubric")
    parser.add_argument(
        "--pointmaps",
        nargs="+",
        default=[TWO_VIEW, "small"],
        metavar="NAME",
        help=f"networks, {TWO_VIEW} for none (default: {TWO_VIEW} small)",
    )
    parser.add_argument("--tracker", default=FLOW, metavar="NAME", help="flow (chained, default), or DynPT's weights")
    return run_command(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    tracker = load_tracker(options.tracker)
    networks = {name: load_network(name) for name in options.pointmaps}
    paths = {folder: clip_paths(folder) for folder in options.folders}
    for folder, archives in paths.items():
        print(f"{folder.name:40}{'':12}" + "".join(f"{name:>22}" for name in SCORES))
        rows: dict[str, list[list[float]]] = {name: [] for name in networks}
        for path in tqdm(archives, desc=folder.name, unit="clip"):
            clip = load_clip(path)
            for name, network in networks.items():
                rows[name].append(evaluate(clip, network, tracker=tracker))
                print(f"{path.stem:40}{name:12}" + "".join(f"{score:22.4g}" for score in rows[name][-1]), flush=True)
        for name, found in rows.items():
            means, errors, medians = summary(torch.tensor(found))
            cells = zip(means, errors, strict=True)
            print(f"{'mean':40}{name:12}" + "".join(f"{f'{mean:.4g} +- {error:.1g}':>22}" for mean, error in cells))
            print(f"{'median':40}{name:12}" + "".join(f"{median:22.4g}" for median in medians))


if __name__ == "__main__":
    sys.exit(main())
