"""Full-resolution depth from a coarse alignment: each pixel triangulated in all partner frames at once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from c4d_nb.camera import invert, pixel_grid, rays
from c4d_nb.correspondence.flow import FLOW_NOISE_PX


def densify_depth(
    prior: Float[Tensor, "t h w"],
    flows: Float[Tensor, "e h w 2"],
    usable: Bool[Tensor, "e h w"],
    edges: Int[Tensor, "e 2"],
    intrinsics: Float[Tensor, "t 3 3"],
    world_from_cam: Float[Tensor, "t 4 4"],
    *,
    noise_px: float = FLOW_NOISE_PX,
    prior_std: float = 0.1,
    passes: int = 2,
) -> tuple[Float[Tensor, "t h w"], Float[Tensor, "t h w"]]:
    """The most likely depth of each pixel, and how many standard deviations it is known to (depth / its deviation).

    Every usable match of a pixel in a partner frame is a linear equation in its depth d: ``q x (d R r + T) = 0`` for
    the ray r of the pixel and q of its match. They are solved together with a ``prior`` depth of relative deviation
    ``prior_std``, each weighted by its deviation of ``noise_px`` in the image and, robustly, by ``exp(-(e / 3)^2 / 2)``
    of its reprojection error e, in such deviations, at the depth of the pass before. Where nothing is usable, as on
    movers, the prior stays and the certainty is 0.
    """
    depth, certainty = prior.clone(), torch.zeros_like(prior)
    grid = pixel_grid(*prior.shape[1:], like=prior)
    m_from_n = invert(world_from_cam[edges[:, 1]]) @ world_from_cam[edges[:, 0]]
    ray = rays(intrinsics, grid)
    for _ in range(passes):
        information = torch.zeros_like(prior)
        evidence = torch.zeros_like(prior)
        for i, (n, m) in enumerate(tqdm(edges.tolist(), desc="dense depth", unit="pair", leave=False)):
            turned = ray[n] @ m_from_n[i, :3, :3].T
            shift = m_from_n[i, :3, 3]
            seen = rays(intrinsics[m], grid + flows[i])
            moved = depth[n, ..., None] * turned + shift
            z = moved[..., 2].clamp(min=1e-6)
            a = turned[..., :2] - seen[..., :2] * turned[..., 2:]
            b = shift[:2] - seen[..., :2] * shift[2]
            scale = intrinsics[m, 0, 0] / (noise_px * z)
            error = (depth[n, ..., None] * a + b).norm(dim=-1) * scale
            weight = usable[i] * (moved[..., 2] > 1e-6) * scale.square() * torch.exp(-error.square() / 18)
            information[n] += weight * a.square().sum(-1)
            evidence[n] -= weight * (a * b).sum(-1)
        prior_information = 1 / (prior_std * prior).square()
        depth = (evidence + prior_information * prior) / (information + prior_information)
        depth = torch.where(depth > 0.05 * prior, depth, prior)
        certainty = depth * information.sqrt()
    return depth, certainty
