"""Robust statistics that torch lacks."""

from jaxtyping import Float
from torch import Tensor


def weighted_median(values: Float[Tensor, "*b k"], weight: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """The value at which half of the weight is reached, along the last axis; the smallest where all weights are 0."""
    ranked, order = values.sort(dim=-1)
    total = weight.gather(-1, order).cumsum(dim=-1)
    middle = (total < total[..., -1:] / 2).sum(dim=-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    return ranked.gather(-1, middle)[..., 0]
