"""How good trackers are on clips with true tracks: mobility (D-ACC) and TAP-Vid's scores, split by split.

``python -m c4d_nb.correspondence.evaluation CLIPS --weights dynpt dynpt_cnn`` prints the table of the paper's
ablation on these clips, with the flow-chained tracker below. Queries are the clips' own,
tracked both ways in time. ``d_acc+masks`` is D-ACC after a second look, with the pipeline's motion masks at hand
(``mobility.judged_by_masks``); these are the same for all trackers, made of flow and the flow-chained grid queries.
"""

import argparse
import sys
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm import tqdm

from c4d_nb.clip import Clip
from c4d_nb.commands import run_command
from c4d_nb.correspondence.dynpt import DynPT
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.tracking import Tracker, dynpt_tracker, track_by_flow
from c4d_nb.correspondence.weights import SHIPPED
from c4d_nb.correspondence.windows import clip_sources
from c4d_nb.errors import InputError
from c4d_nb.mask_evaluation import correspondences, robust
from c4d_nb.metrics import dynamic_accuracy, tap_vid
from c4d_nb.mobility import judged_by_masks

SCORES = ("d_acc", "d_acc+masks", "balanced", "f1", "always_static", "aj", "delta_avg", "oa")


def clip_scores(clip: Clip, tracker: Tracker, motion_mask: Bool[Tensor, "t h w"]) -> dict[str, float]:
    """``SCORES`` of one clip, in %. Mobility counts from the frame of each query on, the rest in all frames but
    that one, both ways in time. ``motion_mask`` is for the second look."""
    true = clip.truth.tracks
    index = torch.arange(len(true.query_frame))
    found = tracker(clip.frames, Queries(true.uv[true.query_frame, index], true.query_frame))
    points = {"uv_true": true.uv, "visible_true": true.visible, "query_frame": true.query_frame}
    scores = tap_vid(found.uv, found.visible, **points, mode="strided", size=clip.size)
    since = torch.arange(len(clip))[:, None] >= true.query_frame
    moves = true.mobility[since] > 0.5
    scores |= dynamic_accuracy(found.mobility[since] > 0.5, moves)
    looked_again = judged_by_masks(found, motion_mask).mobility[since] > 0.5
    scores["d_acc+masks"] = dynamic_accuracy(looked_again, moves)["d_acc"]
    return {name: 100 * scores[name] for name in SCORES}


def score_table(folder: str | Path, trackers: dict[str, Tracker]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores over a folder's clips, by split (a file's name up to its first ``-``), then by tracker."""
    rows: dict[str, dict[str, list[list[float]]]] = {}
    for source in tqdm(clip_sources(folder), desc="clips", unit="clip"):
        clip = source.load()
        split = rows.setdefault(source.path.name.split("-")[0], {name: [] for name in trackers})
        motion_mask = robust(correspondences(clip))
        for name, tracker in trackers.items():
            split[name].append(list(clip_scores(clip, tracker, motion_mask).values()))
    return {
        split: {
            name: dict(zip(SCORES, torch.tensor(values, dtype=torch.float64).nanmean(dim=0).tolist(), strict=True))
            for name, values in found.items()
        }
        for split, found in rows.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.correspondence.evaluation",
        description="Mobility and track scores of DynPT and of the flow-chained tracker, split by split.",
    )
    parser.add_argument("clips", type=Path, help="folder of clips with true tracks")
    parser.add_argument("--weights", nargs="*", default=list(SHIPPED), metavar="NAME", help="names or paths")
    return run_command(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    try:
        trackers = {name: dynpt_tracker(DynPT.from_checkpoint(name)) for name in options.weights}
    except InputError as error:
        raise InputError(f"weights: {error}") from error
    trackers |= {"flow-chained": track_by_flow}
    table = score_table(options.clips, trackers)
    width = max(len(name) for rows in table.values() for name in ("panning_movi_e", *rows)) + 2
    for split, rows in table.items():
        print(f"{split:{width}}" + "".join(f"{name:>15}" for name in SCORES))
        for name, scores in rows.items():
            print(f"  {name:{width - 2}}" + "".join(f"{scores[column]:15.1f}" for column in SCORES))


if __name__ == "__main__":
    sys.exit(main())
