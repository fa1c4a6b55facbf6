"""Trackers on real video: BADJA's hand-annotated joints of animals, and whether what moves is inside DAVIS' masks.

``python -m c4d_nb.correspondence.badja camel dog --davis DAVIS --annotations BADJA/joint_annotations``. DAVIS 2016
is at https://davischallenge.org, BADJA (Biggs et al., ACCV 2018) at https://github.com/benjiebob/BADJA. The second look
at mobility is with the pipeline's motion masks, made of flow and the flow-chained grid queries (``mobility``).
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.clip import Clip, Tracks
from c4d_nb.commands import run_command
from c4d_nb.correspondence.dynpt import DynPT
from c4d_nb.correspondence.queries import Queries, clip_queries
from c4d_nb.correspondence.tracking import Tracker, dynpt_tracker, track_by_flow
from c4d_nb.datasets.davis import read_davis
from c4d_nb.errors import InputError
from c4d_nb.mask_evaluation import correspondences, robust
from c4d_nb.mobility import judged_by_masks

ANNOTATED = (1080, 1920)
"""Height and width of the frames that BADJA's joints were marked in."""
NEAR = 0.2
"""A joint is found within this part of the square root of the animal's area."""
QUERY_EVERY, QUERY_CELL = 30, 40


@dataclass(frozen=True, eq=False)
class Joints:
    """Hand-annotated points of an animal in some frames of a clip."""

    frame: Int[Tensor, "a"]
    uv: Float[Tensor, "a n 2"]
    visible: Bool[Tensor, "a n"]


def read_joints(path: str | Path, size: tuple[int, int]) -> Joints:
    """BADJA's annotation of a sequence, for frames of ``size`` (height, width), without joints that are never seen.

    Raises ``InputError`` for a file that is none.
    """
    try:
        rows = json.loads(Path(path).read_text())
        frame = torch.tensor([int(Path(row["image_path"]).stem) for row in rows])
        row_column = torch.tensor([row["joints"] for row in rows], dtype=torch.float64)
        visible = torch.tensor([row["visibility"] for row in rows], dtype=torch.bool)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"annotations: expected joints of BADJA, but {path} has none ({error})") from error
    scale = torch.tensor(size, dtype=torch.float64) / torch.tensor(ANNOTATED)
    uv = ((row_column + 0.5) * scale - 0.5).flip(-1).float()
    ever = visible.any(dim=0)
    return Joints(frame, uv[:, ever], visible[:, ever])


def joint_queries(joints: Joints) -> Queries:
    """Each joint where it is first seen."""
    first = joints.visible.float().argmax(dim=0)
    return Queries(joints.uv[first, torch.arange(len(first))], joints.frame[first])


def share_found(tracks: Tracks, joints: Joints, masks: Bool[Tensor, "t h w"]) -> float:
    """Of the visible joints in annotated frames but the queries' own, those within ``NEAR`` sqrt(area of the mask)."""
    reach = NEAR * masks[joints.frame].flatten(1).sum(dim=1).sqrt()
    error = (tracks.uv[joints.frame] - joints.uv).norm(dim=-1)
    counted = joints.visible & (joints.frame[:, None] != tracks.query_frame)
    return ((error < reach[:, None]) & counted).sum().item() / counted.sum().item()


def shares_by_mask(tracks: Tracks, masks: Bool[Tensor, "t h w"]) -> dict[str, float]:
    """Of all visible positions within the frames: how many of those called dynamic lie inside the mask, how many of
    those called static outside, and how many of those inside are called dynamic."""
    t, height, width = masks.shape
    column, row = tracks.uv.round().long().unbind(-1)
    within = (column >= 0) & (row >= 0) & (column < width) & (row < height) & tracks.visible
    frame = torch.arange(t)[:, None].expand_as(row)
    inside = masks[frame[within], row[within], column[within]]
    dynamic = tracks.mobility[within] > 0.5
    return {
        "dynamic inside": _share(inside[dynamic]),
        "static outside": _share(~inside[~dynamic]),
        "inside dynamic": _share(dynamic[inside]),
    }


def animal_scores(
    clip: Clip,
    masks: Bool[Tensor, "t h w"],
    joints: Joints,
    tracker: Tracker,
    *,
    motion_mask: Bool[Tensor, "t h w"],
) -> dict[str, dict[str, float]]:
    """All scores of one sequence, in %, against the true ``masks``: of the tracker alone, and after a second look with
    a ``motion_mask`` made of the video. Mobility is that of grid queries in every thirtieth frame."""
    found = share_found(tracker(clip.frames, joint_queries(joints)), joints, masks)
    grid = clip_queries(clip.frames, every=QUERY_EVERY, cell=QUERY_CELL, generator=torch.Generator().manual_seed(0))
    alone = tracker(clip.frames, grid)
    scores = {}
    for judge, tracks in {"alone": alone, "masks too": judged_by_masks(alone, motion_mask)}.items():
        shares = {"joints found": found} | shares_by_mask(tracks, masks)
        scores[judge] = {name: 100 * value for name, value in shares.items()}
    return scores


def _share(of: Bool[Tensor, "n"]) -> float:
    return of.float().mean().item()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.correspondence.badja",
        description="Joints of animals found, and mobility against DAVIS' masks, for DynPT and chained flow.",
    )
    parser.add_argument("sequences", nargs="+", metavar="NAME", help="camel, dog, ...")
    parser.add_argument("--davis", type=Path, required=True, metavar="DIR", help="has JPEGImages and Annotations")
    parser.add_argument("--annotations", type=Path, required=True, metavar="DIR", help="BADJA's joint_annotations")
    parser.add_argument("--long-side", type=int, default=432, metavar="PX", help="of the frames (default 432)")
    parser.add_argument("--weights", nargs="*", default=["dynpt"], metavar="NAME", help="names or paths")
    return run_command(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    trackers = {name: dynpt_tracker(DynPT.from_checkpoint(name)) for name in options.weights}
    for name in options.sequences:
        clip = read_davis(options.davis, name, long_side=options.long_side)
        joints = read_joints(options.annotations / f"{name}.json", clip.size)
        motion_mask = robust(correspondences(clip))
        for tracker, run in (trackers | {"flow-chained": track_by_flow}).items():
            judged = animal_scores(clip, clip.truth.motion_mask, joints, run, motion_mask=motion_mask)
            for judge, scores in judged.items():
                row = "".join(f"{key:>18}{value:6.1f}" for key, value in scores.items())
                print(f"{name:12} {tracker:16} {judge:10}{row}")


if __name__ == "__main__":
    sys.exit(main())
