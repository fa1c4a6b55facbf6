"""The protocol switchboard: one prediction, scored under every protocol in common use.

Published figures differ by method **and** by protocol: how depth is aligned and which pixels count, over which steps a
relative pose is taken, whether masks are averaged by frame or pooled, in which pixels tracks are measured. Here nothing
changes but the protocol, so the whole spread is the protocol's. ``OURS`` is what ``c4d_nb.metrics`` does by default
(METHOD: metrics).

``python -m c4d_nb.protocols RESULT`` prints the spread of a saved reconstruction whose clip has truth.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from c4d_nb.clip import Tracks, Truth
from c4d_nb.commands import run_command
from c4d_nb.correspondence.queries import Queries
from c4d_nb.depth_alignment import DEPTH_ALIGNMENTS
from c4d_nb.errors import InputError
from c4d_nb.kubric.tracks import point_tracks
from c4d_nb.metrics import PathAlignment, tap_vid, trajectory_errors, video_depth
from c4d_nb.reconstruction import Reconstruction

ANY_DEPTH = "any depth"
_TRACK_NAMES = {"AJ": "aj", "delta_avg": "delta_avg"}
OURS = {
    "alignment": "median",
    "pixels": "all",
    "depth": ANY_DEPTH,
    "path alignment": "sim3",
    "steps": "next frame",
    "average": "by frame, empty counts 1",
    "ends": "counted",
    "matching": "none",
    "frames": "first",
    "pixel unit": "of 256x256",
}


@dataclass(frozen=True)
class ProtocolScore:
    """One measure of one prediction under one protocol: a value for each choice that the protocol makes."""

    measure: str
    choices: tuple[tuple[str, str], ...]
    value: float

    @property
    def protocol(self) -> str:
        return ", ".join(f"{name}: {value}" for name, value in self.choices)

    @property
    def is_ours(self) -> bool:
        return all(OURS[name] == value for name, value in self.choices)


def score_protocols(
    result: Reconstruction, truth: Truth, *, tracks: Tracks | None = None, metric: bool = False
) -> list[ProtocolScore]:
    """Everything that the truth allows, under every protocol. ``tracks`` are the true ones of the result's queries
    (``exact_tracks``). ``metric``: the result claims the truth's unit, and is scored without any
    scale as well."""
    scores: list[ProtocolScore] = []
    if truth.depth is not None:
        confident = result.confidence >= result.confidence.median()
        scores += depth_protocols(
            result.depth, truth.depth, motion_mask=truth.motion_mask, confident=confident, metric=metric
        )
    if truth.world_from_cam is not None:
        scores += pose_protocols(result.world_from_cam, truth.world_from_cam, fps=result.clip.fps, metric=metric)
    if truth.motion_mask is not None:
        scores += mask_protocols(result.motion_mask, truth.motion_mask)
    if tracks is not None:
        scores += track_protocols(result.tracks, tracks, size=result.clip.size)
    return scores


def exact_tracks(result: Reconstruction) -> Tracks:
    """Where the result's queries truly go: needs a clip whose truth has rigid objects, as Kubric's."""
    tracks = result.tracks
    uv = tracks.uv[tracks.query_frame, torch.arange(len(tracks.query_frame))]
    return point_tracks(result.clip.truth, Queries(uv, tracks.query_frame))


def depth_protocols(
    predicted: Float[Tensor, "t h w"],
    target: Float[Tensor, "t h w"],
    *,
    motion_mask: Bool[Tensor, "t h w"] | None = None,
    confident: Bool[Tensor, "t h w"] | None = None,
    max_depths: Sequence[float] = (80.0, 70.0, 10.0),
    max_pixels: int = 200_000,
    metric: bool = False,
) -> list[ProtocolScore]:
    """AbsRel and delta < 1.25 under each alignment, over all, static or ``confident`` pixels, with and without a limit
    to the true depth (in its units; 80 m is KITTI's, 70 m Sintel's, 10 m usual indoors). Depth that is ``metric`` is
    scored as it is, too.

    Limits that leave out nothing, or everything, are left away. Of large videos every s-th row and column is scored,
    so that at most ``max_pixels`` are.
    """
    step = 1
    while predicted[:, ::step, ::step].numel() > max_pixels:
        step += 1
    predicted, target = predicted[:, ::step, ::step], target[:, ::step, ::step]
    known = (target > 0) & torch.isfinite(target)
    pixels = {"all": known}
    if motion_mask is not None:
        pixels["static"] = known & ~motion_mask[:, ::step, ::step]
    if confident is not None:
        pixels["confident"] = known & confident[:, ::step, ::step]
    limits = {ANY_DEPTH: known} | {f"< {limit:g}": known & (target < limit) for limit in max_depths}
    limits = {name: near for name, near in limits.items() if name == ANY_DEPTH or 0 < near.sum() < known.sum()}
    scores = []
    alignments = [name for name in DEPTH_ALIGNMENTS if metric or name != "metric"]
    for alignment, (kind, chosen), (limit, near) in product(alignments, pixels.items(), limits.items()):
        if (chosen & near).any():
            values = video_depth(predicted, target, chosen & near, alignment=alignment)
            choices = (("alignment", alignment), ("pixels", kind), ("depth", limit))
            scores.append(ProtocolScore("depth AbsRel", choices, values["abs_rel"]))
            scores.append(ProtocolScore("depth delta < 1.25", choices, values["delta_1"]))
    return scores


def pose_protocols(
    predicted: Float[Tensor, "t 4 4"], target: Float[Tensor, "t 4 4"], *, fps: float, metric: bool = False
) -> list[ProtocolScore]:
    """ATE and RPE under each alignment of the path; RPE from each frame to the next, over one second, over all pairs.

    Only a path that is ``metric`` is scored under the alignments that leave its scale. An alignment turns a path as a
    whole, so the rotational RPE depends on the steps alone. A clip of one second or less has no pair a second apart.
    """
    scores = []
    for alignment in get_args(PathAlignment) if metric else ("sim3", "scale"):
        choices = (("path alignment", alignment),)
        for steps, pairs in _pose_pairs(len(target), fps).items():
            errors = trajectory_errors(predicted, target, alignment=alignment, pairs=pairs)
            scores.append(ProtocolScore("pose RPE translation", (*choices, ("steps", steps)), errors["rpe_t"]))
            if alignment == "sim3":
                scores.append(ProtocolScore("pose RPE rotation (deg)", (("steps", steps),), errors["rpe_r_deg"]))
        scores.append(ProtocolScore("pose ATE", choices, errors["ate"]))
    return scores


def mask_protocols(predicted: Bool[Tensor, "t h w"], target: Bool[Tensor, "t h w"]) -> list[ProtocolScore]:
    """IoU of what moves: averaged by frame or pooled over the pixels of all; an empty mask against an empty one counts
    1 or 0, or is left out; with the first and last frame or without (as DAVIS); as predicted, or Hungarian: in each
    frame the two labels are matched to truth so that both fit best, which forgives a mask that is inside out."""
    scores = []
    swapped = torch.stack([_is_inside_out(own, true) for own, true in zip(predicted, target, strict=True)])
    masks = {"none": predicted, "Hungarian": predicted ^ swapped[:, None, None]}
    ends = {"counted": slice(None)} | ({"left out": slice(1, -1)} if len(target) > 2 else {})
    for (matching, mask), (end, frames) in product(masks.items(), ends.items()):
        own, true = mask[frames], target[frames]
        intersection, union = (pixels.sum((1, 2)).double() for pixels in (own & true, own | true))
        each = intersection / union
        averages = {
            "by frame, empty counts 1": each.nan_to_num(nan=1.0).mean(),
            "by frame, empty counts 0": each.nan_to_num(nan=0.0).mean(),
            "by frame, empty left out": each.nanmean(),
            "pooled": intersection.sum() / union.sum(),
        }
        for average, value in averages.items():
            choices = (("average", average), ("ends", end), ("matching", matching))
            scores.append(ProtocolScore("mask IoU", choices, value.item()))
    return scores


def track_protocols(predicted: Tracks, exact: Tracks, *, size: tuple[int, int]) -> list[ProtocolScore]:
    """TAP-Vid's scores over the frames after each query (``first``) or before and after it (``strided``), in pixels of
    a frame of 256x256 or of the video's own ``size`` (height, width)."""
    units = {"of 256x256": size} | ({} if size == (256, 256) else {f"own, {size[1]}x{size[0]}": (256, 256)})
    truth = {"uv_true": exact.uv, "visible_true": exact.visible, "query_frame": predicted.query_frame}
    scores = []
    for mode, (unit, measured_as) in product(("first", "strided"), units.items()):
        values = tap_vid(predicted.uv, predicted.visible, **truth, mode=mode, size=measured_as)
        choices = (("frames", mode), ("pixel unit", unit))
        scores += [ProtocolScore(f"tracks {name}", choices, values[of]) for name, of in _TRACK_NAMES.items()]
        if measured_as == size:  # who is visible has no unit
            scores.append(ProtocolScore("tracks OA", choices[:1], values["oa"]))
    return scores


SPREAD_HEADER = ("measure", "protocols", "ours", "lowest", "highest", "lowest by", "highest by", "moved most by")


def spread_rows(scores: Sequence[ProtocolScore], *, digits: int = 3) -> list[list[object]]:
    """A row a measure, under ``SPREAD_HEADER``: how far protocols alone move it, and the choice that moves it most.
    Scores without any case (NaN) are left out."""
    rows = []
    for measure, group in by_measure(score for score in scores if not math.isnan(score.value)).items():
        low, high = (pick(group, key=lambda score: score.value) for pick in (min, max))
        ours = next((score.value for score in group if score.is_ours), math.nan)
        values = [float(f"{value:.{digits}g}") for value in (ours, low.value, high.value)]
        effect = influence(group)
        rows.append([measure, len(group), *values, low.protocol, high.protocol, max(effect, key=effect.get)])
    return rows


def spread_text(scores: Sequence[ProtocolScore]) -> str:
    """``spread_rows`` to print: a measure with its range, and the protocols at both ends of it below."""
    lines = [f"{'':26}{'ours':>9}{'lowest':>9}{'highest':>9}  protocols  moved most by"]
    for measure, count, ours, low, high, low_by, high_by, most in spread_rows(scores):
        lines.append(f"{measure:26}{ours:9.3g}{low:9.3g}{high:9.3g}{count:11d}  {most}")
        lines += [f"    lowest:  {low_by}", f"    highest: {high_by}"]
    return "\n".join(lines)


def influence(scores: Sequence[ProtocolScore]) -> dict[str, float]:
    """Of one measure: the most that changing each choice alone changes the score."""
    effect: dict[str, float] = {}
    for name in dict.fromkeys(name for score in scores for name, _ in score.choices):
        alike: dict[tuple[tuple[str, str], ...], list[float]] = {}
        for score in scores:
            if name in dict(score.choices):
                rest = tuple(choice for choice in score.choices if choice[0] != name)
                alike.setdefault(rest, []).append(score.value)
        effect[name] = max(max(values) - min(values) for values in alike.values())
    return effect


def by_measure(scores: Iterable[ProtocolScore]) -> dict[str, list[ProtocolScore]]:
    groups: dict[str, list[ProtocolScore]] = {}
    for score in scores:
        groups.setdefault(score.measure, []).append(score)
    return groups


def _pose_pairs(t: int, fps: float) -> dict[str, Int[Tensor, "p 2"]]:
    second = max(1, round(fps))
    first = torch.arange(t)
    pairs = {"next frame": torch.stack([first[:-1], first[1:]], dim=-1)}
    if 1 < second < t:
        pairs["one second"] = torch.stack([first[:-second], first[second:]], dim=-1)
    return pairs | {"all pairs": torch.combinations(first)}


def _is_inside_out(predicted: Bool[Tensor, "h w"], target: Bool[Tensor, "h w"]) -> Bool[Tensor, ""]:
    """Whether dynamic and static, exchanged, fit better: the Hungarian assignment of two labels by IoU."""
    own, true = (torch.stack([mask, ~mask]).flatten(1).double() for mask in (predicted, target))
    intersection = own @ true.T
    union = own.sum(1)[:, None] + true.sum(1) - intersection
    _, label = linear_sum_assignment((intersection / union.clamp(min=1)).numpy(), maximize=True)
    return torch.tensor(bool(label[0] == 1))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.protocols",
        description="One reconstruction under every common protocol: how far the protocol alone moves each score.",
    )
    parser.add_argument("result", type=Path, help="reconstruction.npz of a clip with truth")
    parser.add_argument(
        "--metric", action="store_true", help="it claims the truth's unit: score it without a scale, too"
    )
    return run_command(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    result = Reconstruction.load(options.result)
    if (truth := result.clip.truth) is None:
        raise InputError(f"result: expected the reconstruction of a clip with truth, but {options.result} has none")
    tracks = None if truth.positions is None else exact_tracks(result)
    sys.stdout.write(spread_text(score_protocols(result, truth, tracks=tracks, metric=options.metric)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
