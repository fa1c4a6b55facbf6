"""Scores against truth (METHOD: pose, video depth, motion segmentation, mobility, point tracks)."""

from typing import Literal, get_args

import roma
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.alignment.objectives import frame_points
from c4d_nb.camera import fit_similarity, invert, pixel_grid, pose, rotation_angle_deg
from c4d_nb.clip import Truth
from c4d_nb.correspondence.flow import forward_backward_consistent, sample_map
from c4d_nb.depth_alignment import align_depth
from c4d_nb.errors import InputError
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.smoothing import lift_tracks

TAP_VID_SIDE_PX = 256
TAP_VID_THRESHOLDS_PX = (1, 2, 4, 8, 16)


def score_table(result: Reconstruction, truth: Truth) -> dict[str, float]:
    """Every score that the truth allows, by name with its unit."""
    scores: dict[str, float] = {}
    if truth.world_from_cam is not None:
        path = trajectory_errors(result.world_from_cam, truth.world_from_cam)
        scores |= {
            "ATE (scene units)": path["ate"],
            "ATE (% of path)": path["ate_percent"],
            "RPE translation (scene units)": path["rpe_t"],
            "RPE rotation (deg)": path["rpe_r_deg"],
        }
    if truth.intrinsics is not None:
        ratio = result.intrinsics[:, 0, 0] / truth.intrinsics[:, 0, 0].to(result.intrinsics)
        scores["focal error (%)"] = (100 * (ratio - 1).abs().mean()).item()
    if truth.depth is not None:
        depth = video_depth(result.depth, truth.depth)
        scores |= {"depth AbsRel": depth["abs_rel"], "depth delta < 1.25": depth["delta_1"]}
    if truth.depth is not None and truth.motion_mask is not None:
        scores["depth AbsRel, static pixels"] = video_depth(result.depth, truth.depth, ~truth.motion_mask)["abs_rel"]
    if truth.motion_mask is not None:
        scores["motion mask IoU"] = motion_iou(result.motion_mask, truth.motion_mask)
        queried = dynamic_queries(result, truth.motion_mask)
        scores |= {"mobility D-ACC": queried["d_acc"], "mobility balanced accuracy": queried["balanced"]}
        scores["mobility D-ACC, always static"] = queried["always_static"]
    return scores


def dynamic_queries(result: Reconstruction, motion_mask: Bool[Tensor, "t h w"]) -> dict[str, float]:
    """D-ACC of the tracks' mobility; a track's true label is the true mask at its query."""
    tracks = result.tracks
    index = torch.arange(len(tracks.query_frame))
    column, row = tracks.uv[tracks.query_frame, index].round().long().unbind(-1)
    return dynamic_accuracy(
        tracks.mobility[tracks.query_frame, index] >= 0.5, motion_mask[tracks.query_frame, row, column]
    )


PathAlignment = Literal["sim3", "se3", "scale", "origin", "none"]


def trajectory_errors(
    predicted: Float[Tensor, "t 4 4"],
    target: Float[Tensor, "t 4 4"],
    *,
    alignment: PathAlignment = "sim3",
    pairs: Int[Tensor, "p 2"] | None = None,
) -> dict[str, float]:
    """Camera path (world_from_cam) against the true one, after ``align_path``.

    ``ate``: RMSE of the positions, in the truth's units; ``ate_percent`` of the true path's length; ``rpe_t`` and
    ``rpe_r_deg``: RMSE of the relative motion from the first to the second frame of the ``pairs`` (each frame and the
    next, if none are given), translation in the truth's units and rotation in degrees. Where the true camera stands
    still, a share of its path is NaN or infinite.
    """
    aligned, target = align_path(predicted, target, alignment=alignment), target.double()
    if pairs is None:
        first = torch.arange(len(target) - 1, device=target.device)
        pairs = torch.stack([first, first + 1], dim=-1)
    if not (len(pairs) and int(pairs.min()) >= 0 and int(pairs.max()) < len(target)):
        raise InputError(f"pairs: expected some, of frames 0 to {len(target) - 1}, but they are {pairs.tolist()[:5]}")
    n, m = pairs.unbind(-1)
    ate = (aligned[:, :3, 3] - target[:, :3, 3]).square().sum(-1).mean().sqrt()
    length = target[:, :3, 3].diff(dim=0).norm(dim=-1).sum()
    error = invert(invert(target[n]) @ target[m]) @ (invert(aligned[n]) @ aligned[m])
    return {
        "ate": ate.item(),
        "ate_percent": (100 * ate / length).item(),
        "rpe_t": error[:, :3, 3].square().sum(-1).mean().sqrt().item(),
        "rpe_r_deg": rotation_angle_deg(error[:, :3, :3]).square().mean().sqrt().item(),
    }


def align_path(
    predicted: Float[Tensor, "t 4 4"], target: Float[Tensor, "t 4 4"], *, alignment: PathAlignment = "sim3"
) -> Float[Tensor, "t 4 4"]:
    """The predicted path (world_from_cam) in the truth's world, in float64.

    ``sim3``: by the similarity that fits the camera centres best (Umeyama), ``se3``: by the rigid motion that does.
    ``origin``: the first pose is laid on the true first pose; ``scale``: so, after Umeyama's scale; ``none``: as it is.
    A prediction that stands still keeps its scale: none fits better than another.
    """
    if len(predicted) < 3 or predicted.shape != target.shape:
        raise InputError(
            f"predicted: expected {tuple(target.shape)}, at least 3 poses, but it is {tuple(predicted.shape)}"
        )
    if not (torch.isfinite(predicted).all() and torch.isfinite(target).all()):
        raise InputError("predicted: expected finite poses in both paths, but there is NaN or infinity among them")
    if alignment not in get_args(PathAlignment):
        raise InputError(f"alignment: expected one of {', '.join(get_args(PathAlignment))}, but it is {alignment!r}")
    aligned, target = predicted.double().clone(), target.double()
    centre, true_centre = aligned[:, :3, 3], target[:, :3, 3]
    if alignment in ("sim3", "scale") and (centre != centre[0]).any():
        aligned[:, :3, 3] = fit_similarity(centre, true_centre)[0] * centre
    if alignment in ("sim3", "se3"):
        return pose(*roma.rigid_points_registration(aligned[:, :3, 3], true_centre)) @ aligned
    return aligned if alignment == "none" else target[0] @ invert(aligned[0]) @ aligned


def at_scale_of_depth(
    world_from_cam: Float[Tensor, "t 4 4"], depth: Float[Tensor, "t h w"], truth: Truth
) -> Float[Tensor, "t 4 4"]:
    """The camera path in the truth's world **without** a scale of its own: in the unit in which the median depth is
    right, by the best rigid motion. A Sim(3) would hide that a path is too short."""
    unit = truth.depth.median() / depth.median()
    scaled = pose(world_from_cam[:, :3, :3], unit * world_from_cam[:, :3, 3])
    return align_path(scaled, truth.world_from_cam, alignment="se3")


def path_share(world_from_cam: Float[Tensor, "t 4 4"], depth: Float[Tensor, "t h w"], truth: Truth) -> float:
    """The length of the camera's path over that of the true one, in the unit in which the median depth is right."""
    placed = at_scale_of_depth(world_from_cam, depth, truth)
    found, true = (path[:, :3, 3].diff(dim=0).norm(dim=-1).sum() for path in (placed, truth.world_from_cam))
    return float(found / true)


def associate_timestamps(
    first_s: Float[Tensor, "n"], second_s: Float[Tensor, "m"], *, max_difference_s: float = 0.02
) -> Int[Tensor, "p 2"]:
    """Pairs of indices into two lists of times, in seconds: the nearest two first, then the nearest two of the rest.

    No entry is in two pairs, and none is paired over more than ``max_difference_s``; in order of the first list. This
    is what TUM's benchmark does. Seconds since 1970 need float64: float32 is exact to two minutes there.
    """
    left, right = (torch.arange(len(times), device=first_s.device) for times in (first_s, second_s))
    found = [torch.zeros(0, 2, dtype=torch.long, device=first_s.device)]
    while len(left) and len(right):
        nearest, back = _nearest(first_s[left], second_s[right]), _nearest(second_s[right], first_s[left])
        mutual = back[nearest] == torch.arange(len(left), device=first_s.device)
        mutual &= (second_s[right[nearest]] - first_s[left]).abs() <= max_difference_s
        if not mutual.any():
            break
        found.append(torch.stack([left[mutual], right[nearest[mutual]]], dim=-1))
        taken = torch.zeros_like(right, dtype=torch.bool).index_fill(0, nearest[mutual], True)
        left, right = left[~mutual], right[~taken]
    pairs = torch.cat(found)
    return pairs[pairs[:, 0].argsort()]


def _nearest(of: Float[Tensor, "n"], among: Float[Tensor, "m"]) -> Int[Tensor, "n"]:
    ordered, order = among.sort(stable=True)
    above = torch.searchsorted(ordered, of).clamp(max=len(among) - 1)
    below = (above - 1).clamp(min=0)
    return order[torch.where(of - ordered[below] <= ordered[above] - of, below, above)]


def video_depth(
    predicted: Float[Tensor, "t h w"],
    target: Float[Tensor, "t h w"],
    valid: Bool[Tensor, "t h w"] | None = None,
    *,
    alignment: str = "median",
) -> dict[str, float]:
    """Depth of a video where the truth has any and ``valid`` allows it, after ``align_depth``: by default after **one**
    scale, the ratio of the medians.

    ``abs_rel``: mean |d - d*| / d*; ``rmse`` in the truth's units; ``delta_1``: share of pixels with max(d/d*, d*/d)
    < 1.25, among which depth that a shift made negative is not. Figures under different alignments do not compare.
    """
    _check_same_shape(predicted, target)
    valid = (target > 0) & torch.isfinite(target) & (True if valid is None else valid)
    if not valid.any():
        raise InputError("target: expected some valid depth, but there is none")
    depth, true = align_depth(predicted, target, valid, alignment=alignment)[valid], target[valid].double()
    ratio = torch.where(depth > 0, torch.maximum(depth / true, true / depth), torch.inf)
    return {
        "abs_rel": ((depth - true).abs() / true).mean().item(),
        "rmse": (depth - true).square().mean().sqrt().item(),
        "delta_1": (ratio < 1.25).double().mean().item(),
    }


def temporal_smoothness(
    depth: Float[Tensor, "t h w"],
    intrinsics: Float[Tensor, "t 3 3"],
    world_from_cam: Float[Tensor, "t 4 4"],
    truth: Truth,
) -> dict[str, float]:
    """Flicker of a scene of the truth's resolution, of any scale: depth is brought to the truth's by the ratio of
    medians.

    ``trajectory``: of the true static tracks, lifted by this scene, in the truth's units; ``depth``: along the true
    flow, of static pixels and movers alike, as a share of the depth. Needs true depth, tracks and flow both ways
    (``c4d_nb.kubric.truth.complete_truth``).
    """
    missing = [name for name in ("depth", "tracks", "flow", "backward_flow") if getattr(truth, name) is None]
    if missing:
        raise InputError(f"truth: expected depth, tracks and flow both ways, but there is no {missing[0]}")
    xyz_world = frame_points(depth, intrinsics, world_from_cam).mT.reshape(*depth.shape, 3)
    lifted = lift_tracks(truth.depth.median() / depth.median() * xyz_world, truth.tracks)
    return {
        "trajectory": trajectory_flicker(lifted, truth.tracks.mobility < 0.5).item(),
        "depth": depth_flicker(depth, truth.depth, truth.flow, truth.backward_flow).item(),
    }


def trajectory_flicker(xyz_world: Float[Tensor, "t n 3"], seen: Bool[Tensor, "t n"] | None = None) -> Float[Tensor, ""]:
    """Median length of the second difference ``x[t+1] - 2 x[t] + x[t-1]`` of points in the world, in their unit.

    0 along a track at rest or in uniform motion, so on true static tracks what there is of it is flicker. The median,
    because depth that is read beside an outline jumps by metres, and few such tracks would rule a mean. Counts where
    all three positions are finite and ``seen``; NaN if that is nowhere.
    """
    bend = (xyz_world[2:] - 2 * xyz_world[1:-1] + xyz_world[:-2]).norm(dim=-1)
    counts = torch.isfinite(bend)
    if seen is not None:
        counts = counts & seen[2:] & seen[1:-1] & seen[:-2]
    return bend[counts].median() if counts.any() else bend.new_tensor(torch.nan)


def depth_flicker(
    predicted: Float[Tensor, "t h w"],
    target: Float[Tensor, "t h w"],
    flow: Float[Tensor, "s h w 2"],
    backward_flow: Float[Tensor, "s h w 2"],
    valid: Bool[Tensor, "t h w"] | None = None,
) -> Float[Tensor, ""]:
    """How much the error of depth changes from a frame to the next at the same surface point, along the true flow.

    Mean of ``|e[t+1](uv + flow) - e[t](uv)|`` with ``e = log(predicted / target)``: 0.01 is a change by 1 %. Blind to
    any one factor on the whole video's depth. Counts pixels whose surface is seen in both frames (``flow`` and
    ``backward_flow`` agree, Sundaram et al., ECCV 2010) and that are ``valid``; NaN if there are none.
    """
    t = len(predicted)
    if len(flow) != t - 1 or len(backward_flow) != t - 1:
        raise InputError(f"flow: expected {t - 1} steps both ways, but there are {len(flow)} and {len(backward_flow)}")
    error = torch.where((predicted > 0) & (target > 0), (predicted / target).log(), torch.nan)
    changes = []
    for now, (there, back) in enumerate(zip(flow, backward_flow, strict=True)):
        seen = forward_backward_consistent(there, back)
        if valid is not None:
            seen = seen & valid[now]
        later = sample_map(error[now + 1, ..., None], pixel_grid(*target.shape[1:], like=there) + there)[..., 0]
        change = (later - error[now]).abs()
        changes.append(change[seen & torch.isfinite(change)])
    return torch.cat(changes).mean()


def motion_iou(predicted: Bool[Tensor, "t h w"], target: Bool[Tensor, "t h w"]) -> float:
    """Intersection over union of the dynamic pixels, averaged over frames; an empty mask against an empty one counts
    1."""
    _check_same_shape(predicted, target)
    intersection = (predicted & target).sum((1, 2)).double()
    union = (predicted | target).sum((1, 2)).double()
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0).mean().item()


def dynamic_accuracy(predicted: Bool[Tensor, "*n"], target: Bool[Tensor, "*n"]) -> dict[str, float]:
    """D-ACC = (TP + TN) / all, dynamic is positive (supplement of C4D), and what it hides.

    ``balanced``: mean of both classes' recall; ``f1`` of the dynamic class; ``base_rate``: share of dynamic;
    ``always_static``: D-ACC of calling everything static. A ratio without any case is NaN.
    """
    predicted, target = predicted.reshape(-1), target.reshape(-1)
    true_positive, true_negative = (predicted & target).sum().double(), (~predicted & ~target).sum().double()
    positive, count = target.sum().double(), target.numel()
    balanced = (true_positive / positive + true_negative / (count - positive)) / 2
    return {
        "d_acc": ((true_positive + true_negative) / count).item(),
        "balanced": balanced.item(),
        "f1": (2 * true_positive / (predicted.sum() + positive)).item(),
        "base_rate": (positive / count).item(),
        "always_static": (1 - positive / count).item(),
    }


def tap_vid(
    uv: Float[Tensor, "t n 2"],
    visible: Bool[Tensor, "t n"],
    *,
    uv_true: Float[Tensor, "t n 2"],
    visible_true: Bool[Tensor, "t n"],
    query_frame: Int[Tensor, "n"],
    mode: Literal["first", "strided"],
    size: tuple[int, int] = (TAP_VID_SIDE_PX, TAP_VID_SIDE_PX),
) -> dict[str, float]:
    """Point tracks (Doersch et al., TAP-Vid, NeurIPS 2022), all points of a clip together; frames of any ``size``
    (height, width) are measured as if they were 256x256.

    ``first``: the frames after each query count; ``strided``: all but the query's own. ``delta_1`` ... ``delta_16``:
    share of the truly visible points within so many px, ``delta_avg`` their mean; ``jaccard_1`` ...: true positives
    over truly visible ones and false positives, where a point that is called visible and lies too far off is a false
    positive, and missed besides; ``aj`` their mean; ``oa``: accuracy of visibility. A ratio without any case is NaN.
    """
    counts = _counted_frames(query_frame, len(uv), mode)
    height, width = size
    error = (uv - uv_true) * TAP_VID_SIDE_PX / uv.new_tensor([width, height])
    seen, called = visible_true & counts, visible & counts
    scores = {"oa": _share((visible == visible_true) & counts, counts.sum())}
    for px in TAP_VID_THRESHOLDS_PX:
        near = seen & (error.square().sum(-1) < px**2)
        hit = near & called
        scores[f"delta_{px}"] = _share(near, seen.sum())
        scores[f"jaccard_{px}"] = _share(hit, seen.sum() + (called & ~near).sum())
    for mean, each in (("aj", "jaccard"), ("delta_avg", "delta")):
        scores[mean] = sum(scores[f"{each}_{px}"] for px in TAP_VID_THRESHOLDS_PX) / len(TAP_VID_THRESHOLDS_PX)
    return scores


def _counted_frames(query_frame: Tensor, frames: int, mode: str) -> Tensor:
    if mode not in ("first", "strided"):
        raise InputError(f"mode: expected 'first' or 'strided', but it is {mode!r}")
    if len(query_frame) and not (int(query_frame.min()) >= 0 and int(query_frame.max()) < frames):
        raise InputError(f"query_frame: expected 0 to {frames - 1}, but it is {query_frame.tolist()[:5]} ...")
    frame = torch.arange(frames, device=query_frame.device)[:, None]
    return frame > query_frame if mode == "first" else frame != query_frame


def _share(cases: Bool[Tensor, "*n"], of: Int[Tensor, ""]) -> float:
    return (cases.sum().double() / of).item()


def _check_same_shape(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape:
        raise InputError(f"predicted: expected {tuple(target.shape)}, as of target, but it is {tuple(predicted.shape)}")
