"""Which objects of a Kubric clip are dynamic: the rule of C4D's supplement, on true world positions."""

from dataclasses import dataclass
from typing import Literal, get_args

import roma
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.errors import InputError

MobilityMode = Literal["clip", "frame", "first"]


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Objects, by index, whose mobility is not what Kubric's ``is_dynamic`` would make one expect."""

    hit: Int[Tensor, "hit"]
    """Rested on the floor in the first frame, and moved all the same: something struck them."""
    never_moved: Int[Tensor, "never_moved"]
    """Were tossed, and stay where they are as far as the clip shows."""


def mobility_labels(
    positions: Float[Tensor, "o t 3"],
    *,
    threshold: float = 0.01,
    mode: MobilityMode = "clip",
    quaternions: Float[Tensor, "o t 4"] | None = None,
    radii: Float[Tensor, "o"] | None = None,
) -> Bool[Tensor, "o"] | Bool[Tensor, "o t"]:
    """An object is dynamic when the temporal difference of its world position exceeds ``threshold`` metres (C4D,
    supplement). The paper does not say which difference, nor for how long the label holds; ``mode`` does:

    - "clip": any step from one frame to the next is longer; the label holds in the whole clip. The package's rule.
    - "frame": a label a frame: a step that ends or begins there is longer. So a moving interval includes the frame it
      starts from and the one it ends in, and a reversed clip has the reversed labels.
    - "first": the object is ever farther from its place in the first frame. Unlike "clip" it sees a slow drift.

    A spin in place is static by this rule. With ``quaternions`` (world_from_obj, xyzw, unit) and ``radii`` (m) a
    step is the larger of the shift and the rotation angle x radius. Nothing moves in a single frame.
    """
    if not 0 <= threshold < float("inf"):
        raise InputError(f"threshold: expected a length of 0 m or more, but it is {threshold}")
    if mode not in get_args(MobilityMode):
        raise InputError(f"mode: expected one of {', '.join(get_args(MobilityMode))}, but it is {mode!r}")
    if mode == "first":
        return (first_frame_distances(positions, quaternions=quaternions, radii=radii) > threshold).any(dim=1)
    moves = position_steps(positions, quaternions=quaternions, radii=radii) > threshold
    if mode == "clip":
        return moves.any(dim=1)
    still = moves.new_zeros(len(moves), 1)
    return torch.cat([still, moves], dim=1) | torch.cat([moves, still], dim=1)


def position_steps(
    positions: Float[Tensor, "o t 3"],
    *,
    quaternions: Float[Tensor, "o t 4"] | None = None,
    radii: Float[Tensor, "o"] | None = None,
) -> Float[Tensor, "o s"]:
    """How far each object moves from every frame to the next, in metres; with a spin as in ``mobility_labels``."""
    _check(positions, quaternions, radii)
    shift = positions.diff(dim=1).norm(dim=-1)
    return shift if radii is None else shift.maximum(_turn(quaternions[:, :-1], quaternions[:, 1:], radii))


def first_frame_distances(
    positions: Float[Tensor, "o t 3"],
    *,
    quaternions: Float[Tensor, "o t 4"] | None = None,
    radii: Float[Tensor, "o"] | None = None,
) -> Float[Tensor, "o t"]:
    """How far each object is from where it was in the first frame, in metres; with a spin as in ``mobility_labels``."""
    _check(positions, quaternions, radii)
    shift = (positions - positions[:, :1]).norm(dim=-1)
    return shift if radii is None else shift.maximum(_turn(quaternions[:, :1], quaternions, radii))


def with_background(labels: Bool[Tensor, "o *t"]) -> Bool[Tensor, "segments *t"]:
    """Labels by value of a segmentation: the background, which is static, in front.

    ``with_background(mobility)[segmentation]`` is the motion mask.
    """
    return torch.cat([labels.new_zeros(1, *labels.shape[1:]), labels])


def compare_with_is_dynamic(mobility: Bool[Tensor, "o"], is_dynamic: Bool[Tensor, "o"]) -> Disagreement:
    """Where mobility differs from Kubric's flag, which says only how an object began: tossed, or at rest."""
    if mobility.shape != is_dynamic.shape:
        raise InputError(f"is_dynamic: expected {len(mobility)} objects, as of mobility, but it has {len(is_dynamic)}")
    return Disagreement(
        hit=(mobility & ~is_dynamic).nonzero()[:, 0], never_moved=(~mobility & is_dynamic).nonzero()[:, 0]
    )


def _turn(before: Tensor, after: Tensor, radii: Tensor) -> Tensor:
    """Length of the arc that a point at the radius travels, at most half a turn."""
    return roma.unitquat_geodesic_distance(before, after) * radii[:, None]


def _check(positions: Tensor, quaternions: Tensor | None, radii: Tensor | None) -> None:
    if (quaternions is None) != (radii is None):
        given, missing = ("radii", "quaternions") if quaternions is None else ("quaternions", "radii")
        raise InputError(f"{missing}: expected beside {given}, for a spin needs both, but there is none")
    for name, value in (("positions", positions), ("quaternions", quaternions), ("radii", radii)):
        if value is not None and not (finite := torch.isfinite(value)).all():
            first = (~finite).nonzero()[0, 0].item()
            raise InputError(f"{name}: expected finite numbers, but object {first} has NaN or infinity among its own")
    if radii is not None and (radii < 0).any():
        raise InputError(f"radii: expected 0 m or more, but the least is {radii.min().item()}")
    if quaternions is not None and ((quaternions.norm(dim=-1) - 1).abs() > 1e-3).any():
        raise InputError("quaternions: expected unit norm, but there are others")
