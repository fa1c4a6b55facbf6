"""What a pointmap network is trained with, and what it is judged by.

Equations: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, section 3.2. A pair's two pointmaps lie in
the first camera's frame; pixels without truth count nowhere.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ALPHA = 0.2
"""The weight of equation 4's reward for confidence."""
_SMALLEST = 1e-8


def mean_distance(
    xyz_1: Float[Tensor, "b h w 3"],
    xyz_2: Float[Tensor, "b h w 3"],
    valid_1: Bool[Tensor, "b h w"],
    valid_2: Bool[Tensor, "b h w"],
) -> Float[Tensor, "b"]:
    """The mean distance to the origin over all valid pixels of both views, equation 3: the unit of a pair's points."""
    distance, valid = _both(_norm(xyz_1), _norm(xyz_2)), _both(valid_1, valid_2)
    return _mean(distance, valid).clamp(min=_SMALLEST)


def regression_error(
    predicted_1: Float[Tensor, "b h w 3"],
    predicted_2: Float[Tensor, "b h w 3"],
    xyz_1: Float[Tensor, "b h w 3"],
    xyz_2: Float[Tensor, "b h w 3"],
    valid_1: Bool[Tensor, "b h w"],
    valid_2: Bool[Tensor, "b h w"],
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Euclidean distance of prediction and truth, each in its own unit of length, equation 2; 0 where invalid."""
    predicted_1 = torch.where(valid_1[..., None], predicted_1, 0.0)  # or a NaN there would be in all gradients
    predicted_2 = torch.where(valid_2[..., None], predicted_2, 0.0)
    predicted_unit = mean_distance(predicted_1, predicted_2, valid_1, valid_2)[:, None, None, None]
    unit = mean_distance(xyz_1, xyz_2, valid_1, valid_2)[:, None, None, None]
    return (
        _norm(torch.where(valid_1[..., None], predicted_1 / predicted_unit - xyz_1 / unit, 0.0)),
        _norm(torch.where(valid_2[..., None], predicted_2 / predicted_unit - xyz_2 / unit, 0.0)),
    )


def confidence_loss(
    error_1: Float[Tensor, "b h w"],
    error_2: Float[Tensor, "b h w"],
    conf_1: Float[Tensor, "b h w"],
    conf_2: Float[Tensor, "b h w"],
    valid_1: Bool[Tensor, "b h w"],
    valid_2: Bool[Tensor, "b h w"],
    *,
    alpha: float = ALPHA,
) -> Float[Tensor, ""]:
    """Equation 4: confidence x error - alpha log confidence, the mean over the valid pixels of both views, then over
    the pairs that have any. It is least at confidence = alpha / error, where that is above 1."""
    valid = _both(valid_1, valid_2)
    error, confidence = _both(error_1, error_2), torch.where(valid, _both(conf_1, conf_2), 1.0)
    return _mean_of_pairs(_mean(confidence * error - alpha * confidence.log(), valid), valid)


def mean_error(
    error_1: Float[Tensor, "b h w"],
    error_2: Float[Tensor, "b h w"],
    valid_1: Bool[Tensor, "b h w"],
    valid_2: Bool[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """Errors averaged as ``confidence_loss`` averages them."""
    valid = _both(valid_1, valid_2)
    return _mean_of_pairs(_mean(_both(error_1, error_2), valid), valid)


def relative_point_error(
    predicted_1: Float[Tensor, "b h w 3"],
    predicted_2: Float[Tensor, "b h w 3"],
    xyz_1: Float[Tensor, "b h w 3"],
    xyz_2: Float[Tensor, "b h w 3"],
    valid_1: Bool[Tensor, "b h w"],
    valid_2: Bool[Tensor, "b h w"],
) -> Float[Tensor, "b"]:
    """|s predicted - xyz| / |xyz|, the median over a pair's valid pixels of both views; s is the median of
    |xyz| / |predicted|. NaN for a pair without valid pixels."""
    predicted = torch.cat([predicted_1.flatten(1, 2), predicted_2.flatten(1, 2)], dim=1)
    xyz = torch.cat([xyz_1.flatten(1, 2), xyz_2.flatten(1, 2)], dim=1)
    distance = xyz.norm(dim=-1).clamp(min=_SMALLEST)
    invalid = ~_both(valid_1, valid_2)
    ratio = distance / predicted.norm(dim=-1).clamp(min=_SMALLEST)
    scale = ratio.masked_fill(invalid, torch.nan).nanmedian(dim=1, keepdim=True).values
    error = (scale[..., None] * predicted - xyz).norm(dim=-1) / distance
    return error.masked_fill(invalid, torch.nan).nanmedian(dim=1).values


def _norm(xyz: Tensor) -> Tensor:
    """Euclidean, with a gradient that stays finite at 0."""
    return (xyz.square().sum(dim=-1) + _SMALLEST**2).sqrt() - _SMALLEST


def _both(map_1: Tensor, map_2: Tensor) -> Tensor:
    """The pixels of both views in one row: (b, 2 h w)."""
    return torch.cat([map_1.flatten(1), map_2.flatten(1)], dim=1)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Over the valid ones of each row; 0 where there are none."""
    return torch.where(valid, values, 0.0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def _mean_of_pairs(values: Tensor, valid: Tensor) -> Tensor:
    """Over the pairs with a valid pixel."""
    usable = valid.any(dim=1)
    return torch.where(usable, values, 0.0).sum() / usable.sum().clamp(min=1)
