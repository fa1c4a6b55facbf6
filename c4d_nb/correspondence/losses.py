"""What DynPT is trained with. Every loss is a mean over the valid points and frames, 0 where there are none.

The confidence rule is from C4D's supplement; the Huber loss and the weights of the passes follow CoTracker3 (Karaev et
al., 2024); the weights of the four losses and the balance of mobility's classes are our own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.correspondence.dynpt import TrackState

HUBER_PX = 6.0
NEAR_PX = 12.0
INVISIBLE_WEIGHT = 0.2
GAMMA = 0.8


class TrackTruth(NamedTuple):
    """What is true of n points in the t frames of a window."""

    uv: Float[Tensor, "b t n 2"]
    visible: Bool[Tensor, "b t n"]
    mobile: Bool[Tensor, "b t n"]
    valid: Bool[Tensor, "b t n"]
    """Where the truth is known."""
    query_frame: Int[Tensor, "b n"]
    """Counted from the window's first frame; may lie outside it."""


class TrackLosses(NamedTuple):
    """Each summed over the passes, the last counting most."""

    position: Float[Tensor, ""]
    """px"""
    visibility: Float[Tensor, ""]
    confidence: Float[Tensor, ""]
    mobility: Float[Tensor, ""]

    def total(
        self, *, position: float = 0.05, visibility: float = 1.0, confidence: float = 1.0, mobility: float = 1.0
    ) -> Float[Tensor, ""]:
        """The weighted sum; by default positions in px count a twentieth of the others."""
        parts = zip(self, (position, visibility, confidence, mobility), strict=True)
        return sum(weight * part for part, weight in parts)


def track_losses(states: Sequence[TrackState], truth: TrackTruth, *, gamma: float = GAMMA) -> TrackLosses:
    """All four of every pass. ``states`` are those that ``DynPT.refine`` returns."""
    since = truth.valid & since_query(truth.query_frame, frames=truth.uv.shape[1])
    rows = [
        (
            position_loss(state.uv, truth.uv, visible=truth.visible, valid=truth.valid),
            visibility_loss(state.visibility, truth.visible, valid=truth.valid),
            confidence_loss(state.confidence, state.uv, uv_true=truth.uv, valid=truth.valid),
            mobility_loss(state.mobility, truth.mobile, valid=since),
        )
        for state in states
    ]
    return TrackLosses(*(over_passes(torch.stack(column), gamma=gamma) for column in zip(*rows, strict=True)))


def over_passes(losses: Float[Tensor, "m"], *, gamma: float = GAMMA) -> Float[Tensor, ""]:
    """The sum of gamma^(M - m) times the loss after pass m, of M."""
    count = len(losses)
    weights = gamma ** torch.arange(count - 1, -1, -1, dtype=losses.dtype, device=losses.device)
    return (weights * losses).sum()


def since_query(query_frame: Int[Tensor, "b n"], *, frames: int) -> Bool[Tensor, "b t n"]:
    """Frames from the one on in which each point was asked for."""
    return torch.arange(frames, device=query_frame.device)[:, None] >= query_frame[:, None]


def position_loss(
    uv: Float[Tensor, "b t n 2"],
    uv_true: Float[Tensor, "b t n 2"],
    *,
    visible: Bool[Tensor, "b t n"],
    valid: Bool[Tensor, "b t n"],
    huber_px: float = HUBER_PX,
    invisible_weight: float = INVISIBLE_WEIGHT,
) -> Float[Tensor, ""]:
    """Huber loss of visible points plus L1 of invisible ones times their weight, either a mean over its points; px.

    Both per coordinate, averaged over the two. Huber: d^2 / 2 below ``huber_px``, a line of that slope above.
    """
    error = (uv - uv_true.nan_to_num()).masked_fill(~valid[..., None], 0.0)  # truth may be NaN where it is not valid
    near = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=huber_px).mean(dim=-1)
    far = error.abs().mean(dim=-1)
    return masked_mean(near, valid & visible) + invisible_weight * masked_mean(far, valid & ~visible)


def confidence_loss(
    logits: Float[Tensor, "b t n"],
    uv: Float[Tensor, "b t n 2"],
    *,
    uv_true: Float[Tensor, "b t n 2"],
    valid: Bool[Tensor, "b t n"],
    near_px: float = NEAR_PX,
) -> Float[Tensor, ""]:
    """Binary cross-entropy against "the position lies within ``near_px`` of the truth"; no gradient to the position."""
    near = (uv.detach() - uv_true).square().sum(dim=-1) <= near_px**2
    return masked_mean(_cross_entropy(logits, near), valid)


def visibility_loss(
    logits: Float[Tensor, "b t n"], visible: Bool[Tensor, "b t n"], *, valid: Bool[Tensor, "b t n"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy."""
    return masked_mean(_cross_entropy(logits, visible), valid)


def mobility_loss(
    logits: Float[Tensor, "b t n"], mobile: Bool[Tensor, "b t n"], *, valid: Bool[Tensor, "b t n"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy, the mean of the dynamic points' mean and the static ones'; of one class if it is alone.

    ``valid``: METHOD section 2 counts frames from the query on (``since_query``).
    """
    entropy = _cross_entropy(logits, mobile)
    classes = [valid & mobile, valid & ~mobile]
    present = torch.stack([kind.any() for kind in classes]).sum().clamp(min=1)
    return sum(masked_mean(entropy, kind) for kind in classes) / present


def masked_mean(values: Float[Tensor, "*b"], mask: Bool[Tensor, "*b"]) -> Float[Tensor, ""]:
    """Over where the mask is set; 0 where it never is."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
