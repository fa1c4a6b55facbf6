"""Linear blend displacement: every point follows the control points near it (supplement of C4D, in stage 2)."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from c4d_nb.errors import InputError

DISTANCES_AT_ONCE = 2**25
"""Of points to controls: 128 MiB in single precision."""


def linear_blend_displacement(
    points: Float[Tensor, "p 3"],
    controls: Float[Tensor, "q 3"],
    displacements: Float[Tensor, "q 3"],
    *,
    k: int = 4,
    power: int = 1,
    radius: float | None = None,
    point_class: Int[Tensor, "p"] | Bool[Tensor, "p"] | None = None,
    control_class: Int[Tensor, "q"] | Bool[Tensor, "q"] | None = None,
) -> Float[Tensor, "p 3"]:
    """Points moved by their ``k`` nearest controls' displacements, weighted by inverse Euclidean distance.

    ``controls`` are the **original** track points. A point on a control takes that control's displacement (the mean, if
    several lie there); without controls nothing moves; fewer than ``k`` controls are all used. Controls with a
    non-finite place or displacement are left out, and non-finite points stay.

    ``power`` 2 weighs by the inverse square, as the supplement's text has it. ``radius``: controls farther away do not
    count; a point without any nearer stays. Inverse distance itself has no reach limit, and bleeds across the outline
    of what moves: with ``point_class`` and ``control_class`` (static or dynamic, or the number of an object) a point
    follows controls of its own class only, and stays if there are none.
    """
    _check_blend(k, power, radius, point_class, control_class)
    shift = torch.zeros_like(points)
    usable = torch.isfinite(controls).all(-1) & torch.isfinite(displacements).all(-1)
    finite = torch.isfinite(points).all(-1)
    for own, theirs in _neighbour_sets(finite, usable, point_class, control_class):
        if own.any() and theirs.any():
            shift[own] = _blend(points[own], controls[theirs], displacements[theirs], k, power, radius)
    return points + shift


def nearest_by_tree(
    points: Float[Tensor, "p 3"], controls: Float[Tensor, "q 3"], k: int
) -> tuple[Float[Tensor, "p k"], Int[Tensor, "p k"]]:
    """Distances, nearest first, and indices of the ``k`` nearest controls, on the CPU (scipy)."""
    tree = cKDTree(controls.detach().cpu().numpy())
    distance, index = tree.query(points.detach().cpu().numpy(), k=np.arange(1, k + 1), workers=-1)
    return torch.from_numpy(distance).to(points.device), torch.from_numpy(index).to(points.device)


def nearest_by_distances(
    points: Float[Tensor, "p 3"], controls: Float[Tensor, "q 3"], k: int
) -> tuple[Float[Tensor, "p k"], Int[Tensor, "p k"]]:
    """The same from the distances to all controls, some points at once: what a GPU does well.

    Distances are not expanded into a matrix product, or 0 would not come out as 0.
    """
    found = []
    for part in points.split(max(1, DISTANCES_AT_ONCE // len(controls))):
        distance = torch.cdist(part, controls, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distance.topk(k, dim=1, largest=False))
    distance, index = zip(*found, strict=True)
    return torch.cat(distance), torch.cat(index)


def _neighbour_sets(
    finite: Tensor, usable: Tensor, point_class: Tensor | None, control_class: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Which points follow which controls."""
    if point_class is None or control_class is None:
        yield finite, usable
        return
    for label in point_class.unique():
        yield finite & (point_class == label), usable & (control_class == label)


def _blend(
    points: Float[Tensor, "p 3"],
    controls: Float[Tensor, "q 3"],
    displacements: Float[Tensor, "q 3"],
    k: int,
    power: int,
    radius: float | None,
) -> Float[Tensor, "p 3"]:
    """The displacement of every point. Weights are those of the nearest control's distance over each distance: at most
    1, whatever the scale of the scene."""
    nearest = nearest_by_distances if points.is_cuda else nearest_by_tree
    distance, index = nearest(points, controls, min(k, len(controls)))
    weight = (distance[:, :1] / distance) ** power
    if radius is not None:
        weight = weight * (distance <= radius)
    weight = (weight / weight.sum(1, keepdim=True).clamp(min=1)).to(points)
    shift = torch.einsum("pk,pkc->pc", weight, displacements[index])
    hit = distance[:, 0] == 0
    if hit.any():
        shift[hit] = _mean_of_equal(controls, displacements)[index[hit, 0]]
    return shift


def _mean_of_equal(controls: Float[Tensor, "q 3"], displacements: Float[Tensor, "q 3"]) -> Float[Tensor, "q 3"]:
    """For each control the mean displacement of all that lie at its place."""
    unique, owner, count = controls.unique(dim=0, return_inverse=True, return_counts=True)
    total = displacements.new_zeros(len(unique), 3).index_add_(0, owner, displacements)
    return (total / count[:, None])[owner]


def _check_blend(
    k: int, power: int, radius: float | None, point_class: Tensor | None, control_class: Tensor | None
) -> None:
    if k < 1:
        raise InputError(f"k: expected at least 1 neighbour, but it is {k}")
    if power not in (1, 2):
        raise InputError(f"power: expected 1 or 2, but it is {power}")
    if radius is not None and not radius > 0:
        raise InputError(f"radius: expected a positive distance, but it is {radius}")
    for name, one, other in (("point", point_class, control_class), ("control", control_class, point_class)):
        if one is None and other is not None:
            raise InputError(f"{name}_class: expected classes of points and of controls, but it is None")
