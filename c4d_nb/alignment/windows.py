"""Stage 1 for long videos: windows with overlap, each aligned for itself, joined by similarities.

Time grows with the number of frames and no faster, and beside the inputs only one window is in memory. What is solved
can be kept in a folder, and an interrupted run goes on from there.
"""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from c4d_nb.alignment.fast import FastConfig, alternate
from c4d_nb.alignment.initialise import frame_confidence, robust_similarity, thin
from c4d_nb.alignment.inputs import Problem, check_problem
from c4d_nb.alignment.objectives import frame_points
from c4d_nb.alignment.solve import AlignConfig, begin, descend
from c4d_nb.alignment.state import Alignment
from c4d_nb.archive import conforming, read_archive, readable, write_archive
from c4d_nb.camera import pose, transform
from c4d_nb.clip import PairPointmaps
from c4d_nb.errors import InputError

KIND = "alignment window"
CLOSED_FORMS = FastConfig()


def align_windows(
    pairs: PairPointmaps,
    *,
    flows: Float[Tensor, "e h w 2"] | None = None,
    motion_masks: Bool[Tensor, "t h w"] | None = None,
    flow_valid: Bool[Tensor, "e h w"] | None = None,
    intrinsics: Float[Tensor, "t 3 3"] | None = None,
    focal_px: float | None = None,
    world_from_cam: Float[Tensor, "t 4 4"] | None = None,
    length: int = 48,
    overlap: int = 16,
    config: FastConfig | AlignConfig = CLOSED_FORMS,
    folder: str | Path | None = None,
) -> Alignment:
    """Stage 1 in windows of ``length`` frames that share ``overlap`` with the next. Inputs and errors as of ``align``.

    A window joins the ones before by the similarity between both clouds of the frames they share, in which depth and
    poses then go from one to the other. One focal length for all, where it is to be shared and unknown, is the median
    of what some windows find. ``losses`` has each window's last value. With ``folder``, windows are kept there and
    found again when nothing that they depend on has changed. Each edge must lie within a window: ``overlap`` is at
    least the longest distance of two frames of a pair.
    """
    problem = check_problem(pairs, flows, motion_masks, flow_valid, intrinsics, focal_px, world_from_cam)
    spans = window_spans(len(problem), length, overlap)
    reach = int((pairs.edges[:, 0] - pairs.edges[:, 1]).abs().max())
    if len(spans) > 1 and reach > overlap:
        raise InputError(f"overlap: expected at least {reach}, the longest distance within a pair, but it is {overlap}")
    if config.shared_focal and not problem.known_intrinsics:
        problem = _with_common_focal(problem, spans, config)
    whole, losses = None, []
    for span in tqdm(spans, "windows", leave=False):
        edges, window = _window(problem, span)
        found = _solved(window, config, None if folder is None else Path(folder) / f"window_{span[0]:06d}.npz")
        losses.append({name: float(values[-1]) for name, values in found.losses.items()})
        whole = _join(whole, found, span[0], edges, problem)
    confidence = frame_confidence(pairs, len(problem))
    names = {name for values in losses for name in values}
    series = {name: torch.tensor([values.get(name, float("nan")) for values in losses]) for name in sorted(names)}
    return replace(whole, confidence=confidence, losses=series)


def window_spans(t: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """(start, stop) of windows of ``length`` frames; the last one ends at t and may share more than ``overlap``."""
    if not 0 < overlap < length:
        raise InputError(f"overlap: expected more than 0 and less than the length {length}, but it is {overlap}")
    if t <= length:
        return [(0, t)]
    starts = [*range(0, t - length, length - overlap), t - length]
    return [(start, start + length) for start in starts]


def _window(problem: Problem, span: tuple[int, int]) -> tuple[Tensor, Problem]:
    """The edges within some frames, and the problem that they are."""
    start, stop = span
    inside = ((problem.pairs.edges >= start) & (problem.pairs.edges < stop)).all(-1).nonzero()[:, 0]
    pairs = PairPointmaps(
        problem.pairs.edges[inside] - start,
        *(getattr(problem.pairs, name)[inside] for name in ("xyz_1", "xyz_2", "conf_1", "conf_2")),
    )
    known = problem.world_from_cam
    return inside, Problem(
        pairs=pairs,
        intrinsics=problem.intrinsics[start:stop],
        known_intrinsics=problem.known_intrinsics,
        world_from_cam=None if known is None else known[start:stop],
        flows=None if problem.flows is None else problem.flows[inside],
        static=problem.static[inside],
    )


def _solve(window: Problem, config: FastConfig | AlignConfig) -> Alignment:
    if isinstance(config, FastConfig):
        local = window.on_cpu()
        return alternate(local, begin(local), config).to(window.intrinsics.device)
    return descend(window, begin(window), config)


def _with_common_focal(problem: Problem, spans: list[tuple[int, int]], config: FastConfig | AlignConfig) -> Problem:
    """The median focal length of five windows, evenly spread, solved with few pixels."""
    weights = {name: getattr(config, name) for name in ("weight_ga", "weight_cma", "weight_cts")}
    coarse = FastConfig(**weights, pixels=400, full_rounds=0)
    focal = []
    for i in thin(len(spans), 5).tolist():
        local = _window(problem, spans[i])[1].on_cpu()
        focal.append(alternate(local, begin(local), coarse).intrinsics[0, 0, 0])
    K = problem.intrinsics.clone()
    K[:, (0, 1), (0, 1)] *= (torch.stack(focal).median().to(K) / K[:, 0, 0])[:, None]
    return replace(problem, intrinsics=K, known_intrinsics=True)


def _solved(window: Problem, config: FastConfig | AlignConfig, path: Path | None) -> Alignment:
    """From the archive at ``path`` if it is of this very window, else solved and kept there."""
    maps = ("depth", "confidence", "intrinsics", "world_from_cam", "world_from_pair")
    key = "" if path is None else _fingerprint(window, config)
    if path is not None and path.exists():
        entries = read_archive(path, KIND)
        with readable(path, KIND):
            if entries["key"] == key:
                losses = {n.removeprefix("losses."): v for n, v in entries.items() if n.startswith("losses.")}
                kept = {name: entries[name].to(window.intrinsics) for name in maps}
                return conforming(Alignment(**kept, losses=losses))
    found = _solve(window, config)
    if path is not None:
        losses = {f"losses.{name}": values for name, values in found.losses.items()}
        write_archive(path, KIND, {"key": key, **{name: getattr(found, name) for name in maps}, **losses})
    return found


def _fingerprint(window: Problem, config: FastConfig | AlignConfig) -> str:
    """Changes with anything that the result depends on."""
    pairs = (getattr(window.pairs, name) for name in ("edges", "xyz_1", "xyz_2", "conf_1", "conf_2"))
    crc = zlib.crc32(repr((config, window.known_intrinsics)).encode())
    for values in (*pairs, window.intrinsics, window.world_from_cam, window.flows, window.static):
        if values is not None:
            crc = zlib.crc32(np.ascontiguousarray(values.cpu().numpy()), crc)
    return f"{crc:08x}"


def _join(whole: Alignment | None, window: Alignment, start: int, edges: Tensor, problem: Problem) -> Alignment:
    """The scene so far with one more window; in the frames that both have, one goes over into the other."""
    if whole is None:
        everything = torch.zeros(len(problem.pairs.edges), 4, 4).to(window.world_from_pair)
        everything[edges] = window.world_from_pair
        return replace(window, world_from_pair=everything)
    shared = len(whole.depth) - start
    if problem.world_from_cam is None:
        window = _moved(window, _between(whole, window, shared))
    share = torch.linspace(0, 1, shared + 2)[1:-1].to(window.depth)
    old = slice(start, start + shared)
    blend = whole.depth[old].log().lerp(window.depth[:shared].log(), share[:, None, None]).exp()
    cameras = _blend_poses(whole.world_from_cam[old], window.world_from_cam[:shared], share)
    everything = whole.world_from_pair.clone()
    fresh = everything[edges, 3, 3] == 0
    everything[edges[fresh]] = window.world_from_pair[fresh]
    focal = whole.intrinsics[old].lerp(window.intrinsics[:shared], share[:, None, None])
    if problem.known_intrinsics:
        focal = problem.intrinsics[old]
    if problem.world_from_cam is not None:
        cameras = problem.world_from_cam[old].to(cameras)
    return replace(
        window,
        depth=torch.cat([whole.depth[:start], blend, window.depth[shared:]]),
        confidence=torch.cat([whole.confidence, window.confidence[shared:]]),
        intrinsics=torch.cat([whole.intrinsics[:start], focal, window.intrinsics[shared:]]),
        world_from_cam=torch.cat([whole.world_from_cam[:start], cameras, window.world_from_cam[shared:]]),
        world_from_pair=everything,
    )


def _between(whole: Alignment, window: Alignment, shared: int) -> Float[Tensor, "4 4"]:
    """The similarity from the window's world to the whole's: robust, between the pixels' points that both have."""
    chosen = thin(shared * window.depth[0].numel(), 20_000)
    target = _points(whole, slice(-shared, None)).reshape(-1, 3)[chosen]
    source = _points(window, slice(0, shared)).reshape(-1, 3)[chosen]
    weight = window.confidence[:shared].reshape(-1)[chosen].to(source).clamp(min=1).log()
    return robust_similarity(source, target, weight, passes=10)


def _points(scene: Alignment, frames: slice) -> Float[Tensor, "t p 3"]:
    return frame_points(scene.depth[frames], scene.intrinsics[frames], scene.world_from_cam[frames]).mT


def _moved(window: Alignment, by: Float[Tensor, "4 4"]) -> Alignment:
    scale = by[:3, :3].det().pow(1 / 3)
    rotation = by[:3, :3] / scale
    centres = transform(by, window.world_from_cam[:, :3, 3])
    return replace(
        window,
        depth=scale * window.depth,
        world_from_cam=pose(rotation @ window.world_from_cam[:, :3, :3], centres),
        world_from_pair=by @ window.world_from_pair,
    )


def _blend_poses(
    first: Float[Tensor, "t 4 4"], second: Float[Tensor, "t 4 4"], share: Float[Tensor, "t"]
) -> Float[Tensor, "t 4 4"]:
    turn = roma.rotmat_to_rotvec(second[:, :3, :3] @ first[:, :3, :3].mT)
    rotation = roma.rotvec_to_rotmat(share[:, None] * turn) @ first[:, :3, :3]
    return pose(rotation, first[:, :3, 3].lerp(second[:, :3, 3], share[:, None]))
