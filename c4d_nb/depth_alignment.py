"""The alignments under which published depth figures are made, by name (METHOD: video depth).

Depth from a video has no unit, so it is moved onto the truth before it is compared. How it may move decides the figure:
one scale for a video is the least that a monocular method needs; a shift as well, or fresh numbers for every frame,
forgive errors that a user would see.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.errors import InputError

Line = tuple[Tensor, Tensor]
"""(scale, shift) of aligned = scale * value + shift."""


def align_depth(
    predicted: Float[Tensor, "t h w"], target: Float[Tensor, "t h w"], valid: Bool[Tensor, "t h w"], *, alignment: str
) -> Float[Tensor, "t h w"]:
    """Predicted depth in the truth's units, in float64; fitted to the ``valid`` pixels, applied to all.

    ``metric``: as it is. ``median``: times the ratio of the medians. ``scale``: times the factor of least squares, and
    ``scale_l1`` that of least absolute deviations. ``scale_and_shift`` and ``scale_and_shift_l1``: a line in depth.
    ``disparity``: a line in 1 / depth by least squares, as for networks that predict inverse depth; what it moves
    beyond the farthest truth is set there. Each fits the whole video at once, and with ``_per_frame`` behind the name
    (but for ``metric``) every frame by itself: see ``DEPTH_ALIGNMENTS``.

    Raises ``InputError`` for another name, and for depth that is not finite at a valid pixel, or not positive where a
    ratio or an inverse is taken of it.
    """
    if alignment not in DEPTH_ALIGNMENTS:
        raise InputError(f"alignment: expected one of {', '.join(DEPTH_ALIGNMENTS)}, but it is {alignment!r}")
    rule = alignment.removesuffix("_per_frame")
    _check(predicted[valid], needs_positive=rule == "disparity")
    predicted, target = predicted.double(), target.double()
    if rule == "disparity":
        farthest = target[valid].max() if valid.any() else 1.0
        line = align_depth(1 / predicted, 1 / target, valid, alignment=alignment.replace(rule, "scale_and_shift"))
        return 1 / line.clamp(min=1 / farthest)
    groups = [slice(i, i + 1) for i in range(len(predicted))] if rule != alignment else [slice(None)]
    aligned = predicted.clone()
    for frames in groups:
        if (chosen := valid[frames]).any():
            scale, shift = _FITS[rule](predicted[frames][chosen], target[frames][chosen])
            aligned[frames] = scale * predicted[frames] + shift
    return aligned


def _metric(depth: Tensor, true: Tensor) -> Line:
    return depth.new_ones(()), depth.new_zeros(())


def _median(depth: Tensor, true: Tensor) -> Line:
    if (middle := depth.median()) <= 0:
        raise InputError(f"predicted: expected a positive median depth, but it is {middle.item():g}")
    return true.median() / middle, depth.new_zeros(())


def _scale(depth: Tensor, true: Tensor, weight: Tensor | float = 1.0) -> Line:
    squares = (weight * depth * depth).sum()
    if squares == 0:
        raise InputError("predicted: expected depth that a scale can change, but it is zero at every valid pixel")
    return (weight * depth * true).sum() / squares, depth.new_zeros(())


def _scale_l1(depth: Tensor, true: Tensor) -> Line:
    """Exactly: the median of true / depth, each weighing as much as its depth."""
    depth, true = depth[depth > 0], true[depth > 0]
    if not len(depth):
        raise InputError("predicted: expected some positive depth at the valid pixels, but there is none")
    ratio, order = (true / depth).sort()
    weight = depth[order].cumsum(0)
    return ratio[torch.searchsorted(weight, weight[-1] / 2)], depth.new_zeros(())


def _scale_and_shift(depth: Tensor, true: Tensor, weight: Tensor | float = 1.0) -> Line:
    """A constant depth takes the mean of the truth: no line fits it better than any other."""
    weight = weight * torch.ones_like(depth)
    total = weight.sum()
    mean, true_mean = (weight * depth).sum() / total, (weight * true).sum() / total
    variance = (weight * (depth - mean).square()).sum()
    # Rounding leaves a constant depth a variance of its own.
    flat = variance <= 1e-12 * (weight * depth.square()).sum()
    scale = torch.where(flat, 0.0, (weight * (depth - mean) * (true - true_mean)).sum() / variance.clamp(min=1e-300))
    return scale, true_mean - scale * mean


def _scale_and_shift_l1(depth: Tensor, true: Tensor, *, iterations: int = 100, limit: int = 100_000) -> Line:
    """Least absolute deviations by reweighted least squares, to a ten-thousandth of the median true depth; from at most
    ``limit`` of the pixels, evenly spread."""
    step = -(-len(depth) // limit)
    depth, true = depth[::step], true[::step]
    least = 1e-4 * true.median()
    scale, shift = _scale_and_shift(depth, true)
    for _ in range(iterations):
        before = scale * depth.mean() + shift, scale
        weight = 1 / (scale * depth + shift - true).abs().clamp(min=least)
        scale, shift = _scale_and_shift(depth, true, weight)
        if (scale * depth.mean() + shift - before[0]).abs() < 1e-2 * least and (scale - before[1]).abs() < 1e-6:
            break
    return scale, shift


_FITS: dict[str, Callable[[Tensor, Tensor], Line]] = {
    "metric": _metric,
    "median": _median,
    "scale": _scale,
    "scale_l1": _scale_l1,
    "scale_and_shift": _scale_and_shift,
    "scale_and_shift_l1": _scale_and_shift_l1,
}
DEPTH_ALIGNMENTS = (*_FITS, "disparity", *(f"{name}_per_frame" for name in (*list(_FITS)[1:], "disparity")))


def _check(depth: Float[Tensor, "n"], *, needs_positive: bool) -> None:
    """Depth at the valid pixels."""
    if wrong := int((~torch.isfinite(depth)).sum()):
        raise InputError(
            f"predicted: expected finite depth at every valid pixel, but {wrong} of {len(depth)} are not: "
            "a score without them is another protocol, which ``valid`` can say"
        )
    if needs_positive and len(depth) and depth.min() <= 0:
        raise InputError(f"predicted: expected positive depth to invert, but the least is {depth.min().item():g}")
