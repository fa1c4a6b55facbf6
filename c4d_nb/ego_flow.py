"""Flow that the camera's motion alone causes, from what a network sees of each pair, and MonST3R's masks made of it.

A pair of pointmaps holds its two cameras: the second's pose is where its own pixels see its points (PnP). With it the
first frame's points say where each static pixel goes. Unlike epipolar geometry this knows depth, so it also sees what
moves along its epipolar line; and it is as wrong as depth is.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.alignment.initialise import camera_pose, estimate_focal
from c4d_nb.camera import invert, pinhole, pixel_grid, project, transform
from c4d_nb.clip import PairPointmaps

MONST3R_SHARE = 0.35


def pair_ego_flows(pairs: PairPointmaps, intrinsics: Float[Tensor, "3 3"] | None = None) -> Float[Tensor, "e h w 2"]:
    """Ego-flow in px of the pointmaps' pixels, from the first frame of each pair to its second.

    NaN where a point is not in front of the second camera. Without ``intrinsics`` the focal length is the median of
    the pairs' own (Weiszfeld), the principal point in the middle.
    """
    h, w = pairs.conf_1.shape[1:]
    if intrinsics is None:
        intrinsics = pinhole(estimate_focal(pairs.xyz_1, pairs.conf_1.log()).median(), h, w)
    n_from_m = torch.stack(
        [camera_pose(xyz, conf, intrinsics) for xyz, conf in zip(pairs.xyz_2, pairs.conf_2, strict=True)]
    )
    uv, depth = project(transform(invert(n_from_m), pairs.xyz_1.flatten(1, 2)), intrinsics)
    ego = uv - pixel_grid(h, w, like=uv).reshape(-1, 2)
    return torch.where(depth[..., None] > 0, ego, torch.nan).unflatten(1, (h, w))


def ego_flow_masks(
    flows: Float[Tensor, "e h w 2"], ego_flows: Float[Tensor, "e h w 2"], edges: Int[Tensor, "e 2"], *, frames: int
) -> Bool[Tensor, "t h w"]:
    """MonST3R's rule: the distance of optical flow from the camera's, from 0 at its least to 1 at its most in each
    pair, a mean over the pairs of a frame, above 0.35. A pixel without ego-flow counts as 0."""
    distance = (flows - ego_flows).norm(dim=-1).nan_to_num()
    least, most = distance.flatten(1).amin(dim=1), distance.flatten(1).amax(dim=1)
    share = (distance - least[:, None, None]) / (most - least).clamp(min=1e-9)[:, None, None]
    total = torch.zeros(frames, *share.shape[1:]).index_add_(0, edges[:, 0], share)
    pairs = torch.bincount(edges[:, 0], minlength=frames).clamp(min=1)
    return total / pairs[:, None, None] > MONST3R_SHARE
