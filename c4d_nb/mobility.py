"""Whether a track is dynamic, without a network: by its own epipolar residual, and by the motion masks it lies in.

The labels of ``kubric.mobility`` are the truth of it.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from c4d_nb.clip import Tracks
from c4d_nb.errors import InputError
from c4d_nb.motion_mask import StaticMatches, camera_residuals

DYNAMIC_SHARE = 1 / 3
"""Of the points of a clip: in mini-Kubric's training clips, of either split, it is 0.33 to 0.34."""
OUTSIDE, INSIDE = -0.8, 2.2
"""What masks add to the log odds of a track that lies outside of them in all frames that show it, and of one inside.
Fitted to DynPT's tracks and ``robust`` masks of 36 clips (``mobility_fit``; mini-Kubric, seeds 200 to 211 of each
split), with the network's weights of 6,000 windows and OpenCV's preset of flow. With those of 8,000 and the flow that
ships, 18 clips (seeds 200 to 205) say -0.5 and 1.8, and D-ACC by these is no better: 87.6 against 87.7 %."""
CERTAIN = 1e-4
"""From 0 or 1: mobility so near to them counts as no nearer."""
PAIRS_AT_ONCE = 32


def epipolar_mobility(
    uv: Float[Tensor, "t n 2"], visible: Bool[Tensor, "t n"], *, tolerance_px: float, horizons: tuple[int, ...]
) -> Float[Tensor, "t n"]:
    """1/2 where a track's motion is ``tolerance_px`` from what the camera allows.

    For each horizon and frame, F of all tracks seen in both frames by a robust estimator (the majority is taken to be
    static, which a learned tracker need not assume), and each track's residual r. The odds that a track is dynamic
    are the root of r / tolerance, r the upper quartile of its residuals: one number a track, as Kubric's label is, in
    all its frames. (Without the root they would be about right on mini-Kubric; but the masks, which judge next, come of
    the same flow and geometry, and a witness must not be heard twice.) Of a track that no pair of frames can judge
    nothing is known but ``DYNAMIC_SHARE``.
    """
    t, n = visible.shape
    pairs = [(i, i + horizon) for horizon in horizons for i in range(0, t - horizon, max(1, horizon // 2))]
    both = [visible[i] & visible[k] for i, k in pairs]
    residuals = [torch.full((n,), torch.nan)]
    for begin in tqdm(range(0, len(pairs), PAIRS_AT_ONCE), desc="mobility", leave=False):
        seen = both[begin : begin + PAIRS_AT_ONCE]
        ends = zip(*pairs[begin : begin + PAIRS_AT_ONCE], strict=True)
        uv_1, uv_2 = (pad_sequence([uv[i, own] for i, own in zip(end, seen, strict=True)], True) for end in ends)
        matches = StaticMatches(uv_1, uv_2, torch.stack([own.sum() for own in seen]))
        for own, errors in zip(seen, camera_residuals(matches, uv_1, uv_2, tolerance_px=tolerance_px), strict=True):
            row = torch.full((n,), torch.nan)
            row[own] = errors[: int(own.sum())]
            residuals.append(row)
    typical = torch.stack(residuals).nanquantile(0.75, dim=0)
    return (1 / (1 + (tolerance_px / typical).sqrt())).nan_to_num(DYNAMIC_SHARE).expand(t, n).clone()


def judged_by_masks(tracks: Tracks, motion_mask: Bool[Tensor, "t h w"]) -> Tracks:
    """The same tracks, their mobility judged once more, with motion masks at hand.

    A tracker sees a window of frames around one track; masks are made of the flow of all pixels between many pairs of
    frames, and what looks alike has agreed on them. The two are taken for independent witnesses, so log odds add:
    those of the tracker, and ``OUTSIDE`` to ``INSIDE`` by the share of the frames that show the point in which it lies
    in the mask. The label is one for all frames, and so is that share. What a tracker is certain of, masks do not turn
    round, and a track that no frame shows stays as it is. Raises ``InputError`` for masks of another number of frames.
    """
    evidence = OUTSIDE + (INSIDE - OUTSIDE) * share_inside(tracks, motion_mask)
    return replace(tracks, mobility=(tracks.mobility.logit(eps=CERTAIN) + evidence.nan_to_num(0.0)).sigmoid())


def share_inside(tracks: Tracks, motion_mask: Bool[Tensor, "t h w"]) -> Float[Tensor, "n"]:
    """Of the frames that show each point, the share in which it lies in the mask; NaN where none does."""
    if len(motion_mask) != len(tracks.uv):
        raise InputError(f"motion_mask: expected {len(tracks.uv)} frames, as the tracks, but it has {len(motion_mask)}")
    return (mask_at(motion_mask, tracks.uv) & tracks.visible).sum(dim=0) / tracks.visible.sum(dim=0)


def mask_at(mask: Bool[Tensor, "t h w"], uv: Float[Tensor, "t n 2"]) -> Bool[Tensor, "t n"]:
    """The mask at the pixel nearest to each point, in every frame; beyond the border the border's."""
    height, width = mask.shape[1:]
    column, row = uv.nan_to_num().round().long().unbind(-1)
    frame = torch.arange(len(mask), device=mask.device)[:, None]
    return mask[frame, row.clamp(0, height - 1), column.clamp(0, width - 1)]
