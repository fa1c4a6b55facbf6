"""Two views of what rests: the fundamental matrix or homography that its matches obey, for many pairs at once.

Matches come in arrays of n a pair, with a ``weight``: 0 where a pair has fewer. Linear solutions are in float64,
everything else in the dtype of the matches, and all of it on their device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

SUBSETS = 512
"""Random minimal ones: with 40 % outliers all are contaminated in one of 5,600 pairs."""
JUDGES, FINALISTS = 64, 16
"""All subsets' matrices are judged by the median over so many matches at most; the best of these by all matches."""
INLIER_SIGMAS = 2.5
REWEIGHTINGS = 5
LEAST_NOISE_PX = 0.2
"""Of matches: where they fit better than that, weights do not sharpen further."""


def sampson_error(
    F: Float[Tensor, "*#b 3 3"], uv_1: Float[Tensor, "*#b n 2"], uv_2: Float[Tensor, "*#b n 2"]
) -> Float[Tensor, "*#b n"]:
    """First-order squared distance of a match to the epipolar constraint, in px^2 (Hartley and Zisserman, 11.4.3)."""
    x_1, x_2 = _homogeneous(uv_1), _homogeneous(uv_2)
    line_2, line_1 = x_1 @ F.mT, x_2 @ F
    algebraic = (x_2 * line_2).sum(-1)
    gradient = line_2[..., :2].square().sum(-1) + line_1[..., :2].square().sum(-1)
    return algebraic.square() / gradient.clamp(min=1e-12)


def homography_error(
    H: Float[Tensor, "*#b 3 3"], uv_1: Float[Tensor, "*#b n 2"], uv_2: Float[Tensor, "*#b n 2"]
) -> Float[Tensor, "*#b n"]:
    """Squared transfer distance |x_2 - H x_1|^2, in px^2; infinite where H takes a point to infinity."""
    mapped = _homogeneous(uv_1) @ H.mT
    return (uv_2 - mapped[..., :2] / mapped[..., 2:]).square().sum(-1).nan_to_num(nan=torch.inf)


@dataclass(frozen=True)
class TwoViewModel:
    """A 3x3 matrix that matches determine linearly."""

    matches: int
    """As many as determine it."""
    rows: Callable[[Tensor, Tensor], Tensor]
    """Equations (..., n, r, 9) in the matrix' values, from homogeneous points."""
    denormalise: Callable[[Tensor, Tensor, Tensor], Tensor]
    """The matrix in px, from that of points which the two transforms have normalised."""
    error: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Squared, px^2."""


def _fundamental_rows(x_1: Float[Tensor, "*b n 3"], x_2: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 1 9"]:
    """x_2^T F x_1 = 0"""
    return (x_2[..., :, None] * x_1[..., None, :]).flatten(-2)[..., None, :]


def _homography_rows(x_1: Float[Tensor, "*b n 3"], x_2: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 2 9"]:
    """Two of the three rows of x_2 x (H x_1) = 0"""
    none = torch.zeros_like(x_1)
    u, v, w = x_2[..., None].unbind(-2)
    first = torch.cat([none, -w * x_1, v * x_1], dim=-1)
    return torch.stack([first, torch.cat([w * x_1, none, -u * x_1], dim=-1)], dim=-2)


def _rank_2(
    F: Float[Tensor, "*b 3 3"], T_1: Float[Tensor, "*#b 3 3"], T_2: Float[Tensor, "*#b 3 3"]
) -> Float[Tensor, "*b 3 3"]:
    U, S, Vh = torch.linalg.svd(F)
    return T_2.mT @ (U[..., :2] * S[..., None, :2]) @ Vh[..., :2, :] @ T_1


FUNDAMENTAL = TwoViewModel(8, _fundamental_rows, _rank_2, sampson_error)
HOMOGRAPHY = TwoViewModel(4, _homography_rows, lambda H, T_1, T_2: torch.linalg.inv(T_2) @ H @ T_1, homography_error)


def least_squares(
    model: TwoViewModel, uv_1: Float[Tensor, "*b n 2"], uv_2: Float[Tensor, "*b n 2"], weight: Float[Tensor, "*b n"]
) -> Float[Tensor, "*b 3 3"]:
    """The matrix of unit Frobenius norm by weighted linear least squares (for F, the 8-point algorithm).

    Coordinates are normalised isotropically by the weighted matches (Hartley, 1997). Where the matches do not
    determine the matrix it is one of those that they allow.
    """
    weight = weight.double()
    (x_1, T_1), (x_2, T_2) = (_normalised(uv.double(), weight) for uv in (uv_1, uv_2))
    rows = (model.rows(x_1, x_2) * weight[..., None, None]).flatten(-3, -2)
    _, vectors = torch.linalg.eigh(rows.mT @ rows)
    return _in_px(model, vectors[..., 0], T_1, T_2)


def least_median(
    model: TwoViewModel,
    uv_1: Float[Tensor, "b n 2"],
    uv_2: Float[Tensor, "b n 2"],
    count: Int[Tensor, "b"],
    *,
    subsets: int = SUBSETS,
) -> Float[Tensor, "b 3 3"]:
    """Least Median of Squares (Rousseeuw, 1984): of the matrices of random minimal subsets, the one with the least
    median error; then one least-squares fit to its own inliers, those within 2.5 robust standard deviations.

    The first ``count`` matches of each pair are its own, at least ``model.matches``; the others are not looked at.
    Subsets come from a generator of their own: the same matches give the same matrix, whatever else is in the batch.
    """
    n, device = uv_1.shape[1], uv_1.device
    own = torch.arange(n, device=device) < count[:, None]
    drawn = torch.rand(subsets, model.matches, generator=torch.Generator().manual_seed(0)).to(device)
    subset = (drawn * count[:, None, None]).long()
    (x_1, T_1), (x_2, T_2) = (_normalised(uv.double(), own.double()) for uv in (uv_1, uv_2))
    rows = model.rows(*(_at(x, subset) for x in (x_1, x_2))).flatten(-3, -2)
    null = torch.linalg.qr(rows.mT, mode="complete").Q[..., -1]
    candidates = _in_px(model, null, T_1[:, None], T_2[:, None]).to(uv_1.dtype)
    judges = min(n, JUDGES)  # evenly spread among the pair's own
    judge = ((torch.arange(judges, device=device) + 0.5) / judges * count[:, None]).long()
    errors = model.error(candidates, *(_at(uv, judge)[:, None] for uv in (uv_1, uv_2)))
    ranked = errors.median(dim=-1).values.topk(min(subsets, FINALISTS), largest=False).indices
    finalists = _at(candidates.flatten(-2), ranked).unflatten(-1, (3, 3))
    errors = model.error(finalists, uv_1[:, None], uv_2[:, None]).masked_fill(~own[:, None], torch.nan)
    median, best = errors.nanmedian(dim=-1).values.min(dim=-1)
    error = errors[torch.arange(len(best), device=device), best]
    sigma = 1.4826 * (1 + 5 / (count - model.matches).clamp(min=1)) * median.sqrt()
    inlier = own & (error <= ((INLIER_SIGMAS * sigma).square() + 1e-12)[:, None])
    return least_squares(model, uv_1, uv_2, inlier.to(uv_1.dtype)).to(uv_1.dtype)


def reweighted_fundamental(
    uv_1: Float[Tensor, "*b n 2"],
    uv_2: Float[Tensor, "*b n 2"],
    weight: Float[Tensor, "*b n"],
    *,
    rest: Float[Tensor, "*b n"],
) -> Float[Tensor, "*b 3 3"]:
    """F by iterated reweighting (Geman-McClure), from what is known: ``weight``, how much a match is trusted to be
    static, and ``rest``, px, a first guess of what each has beyond the camera's motion. The scale of the weights is
    the weighted median error, at least ``LEAST_NOISE_PX``. In float64."""
    for _ in range(REWEIGHTINGS):
        spread = 1.4826 * _weighted_median(rest, weight).clamp(min=LEAST_NOISE_PX)
        F = least_squares(FUNDAMENTAL, uv_1, uv_2, weight / (1 + (rest / spread[..., None]).square()).square())
        rest = sampson_error(F, uv_1.double(), uv_2.double()).sqrt().to(rest.dtype)
    return F


def spread(uv: Float[Tensor, "b n 2"], count: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Mean distance of each pair's own points from their middle, px: near 0 they determine nothing."""
    own = (torch.arange(uv.shape[1], device=uv.device) < count[:, None]).to(uv.dtype)[..., None]
    middle = (own * uv).sum(dim=1, keepdim=True) / count[:, None, None].clamp(min=1)
    return (own * (uv - middle)).norm(dim=-1).sum(dim=1) / count.clamp(min=1)


def _at(values: Float[Tensor, "b n c"], index: Int[Tensor, "b *s"]) -> Float[Tensor, "b *s c"]:
    return values[torch.arange(len(values), device=values.device).view(-1, *[1] * (index.ndim - 1)), index]


def _in_px(model: TwoViewModel, values: Float[Tensor, "*b 9"], T_1: Tensor, T_2: Tensor) -> Float[Tensor, "*b 3 3"]:
    matrix = model.denormalise(values.unflatten(-1, (3, 3)), T_1, T_2)
    return matrix / torch.linalg.matrix_norm(matrix)[..., None, None].clamp(min=1e-300)


def _homogeneous(uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 3"]:
    return torch.cat([uv, torch.ones_like(uv[..., :1])], dim=-1)


def _normalised(
    uv: Float[Tensor, "*b n 2"], weight: Float[Tensor, "*b n"]
) -> tuple[Float[Tensor, "*b n 3"], Float[Tensor, "*b 3 3"]]:
    """(homogeneous points around 0 at a mean distance of sqrt 2, the transform that makes them so), by weight."""
    share = (weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-12))[..., None]
    middle = (share * uv).sum(dim=-2, keepdim=True)
    distance = (share * (uv - middle).norm(dim=-1, keepdim=True)).sum(dim=-2, keepdim=True)
    scale = 2**0.5 / distance.clamp(min=1e-6)
    T = torch.zeros(*uv.shape[:-2], 3, 3, dtype=uv.dtype, device=uv.device)
    T[..., 0, 0] = T[..., 1, 1] = scale[..., 0, 0]
    T[..., :2, 2] = (-scale * middle)[..., 0, :]
    T[..., 2, 2] = 1.0
    return _homogeneous((uv - middle) * scale), T


def _weighted_median(values: Float[Tensor, "*b n"], weight: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    ordered, index = values.sort(dim=-1)
    mass = weight.gather(-1, index).cumsum(dim=-1)
    half = torch.searchsorted(mass, mass[..., -1:] / 2).clamp(max=values.shape[-1] - 1)
    return ordered.gather(-1, half)[..., 0]
