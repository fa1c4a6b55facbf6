"""A first guess for the alignment, along the most confident spanning tree of the scene graph (as DUSt3R begins)."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

from c4d_nb.camera import fit_similarity, invert, pixel_grid, pose, transform
from c4d_nb.clip import PairPointmaps
from c4d_nb.errors import InputError
from c4d_nb.statistics import weighted_median

EDGES_AT_ONCE = 64
"""Pairs that are fitted side by side, for the sake of memory."""


@dataclass(frozen=True, eq=False)
class Guess:
    """Where stage 1 begins. ``world_from_pair`` has the pair's scale multiplied into its upper three rows."""

    depth: Float[Tensor, "t h w"]
    intrinsics: Float[Tensor, "t 3 3"]
    world_from_cam: Float[Tensor, "t 4 4"]
    world_from_pair: Float[Tensor, "e 4 4"]


def initialise(pairs: PairPointmaps, intrinsics: Float[Tensor, "t 3 3"]) -> Guess:
    """Chain the pointmaps along the tree, then one camera a frame by PnP and one similarity a pair by Procrustes.

    The world is the camera of the tree's root; its scale makes the geometric mean of the pairs' scales one half, as
    stage 1 pins it.
    """
    xyz_world = _chain_pointmaps(pairs, len(intrinsics))
    world_from_pair = _fit_pairs(pairs, xyz_world)
    scale = 0.5 / world_from_pair[:, :3, :3].det().abs().pow(1 / 3).log().mean().exp()
    xyz_world = xyz_world * scale
    world_from_pair[:, :3] *= scale
    confidence = frame_confidence(pairs, len(intrinsics))
    world_from_cam = torch.stack([camera_pose(*frame) for frame in zip(xyz_world, confidence, intrinsics, strict=True)])
    depth = transform(invert(world_from_cam), xyz_world.flatten(1, 2))[..., 2].reshape(confidence.shape)
    floor = 0.01 * depth.flatten(1).median(dim=1).values.clamp(min=1e-3)
    return Guess(depth.clamp(min=floor[:, None, None]), intrinsics, world_from_cam, world_from_pair)


def estimate_focal(
    xyz: Float[Tensor, "e h w 3"], confidence: Float[Tensor, "e h w"], *, iterations: int = 10
) -> Float[Tensor, "e"]:
    """Focal length in px of each pointmap in its own camera frame, principal point in the middle (Weiszfeld).

    Minimises ``sum of C |uv - f xy / z|``, each step a least-squares fit weighted by the inverse residual.
    """
    h, w = xyz.shape[1:3]
    uv = pixel_grid(h, w, like=xyz) - xyz.new_tensor([(w - 1) / 2, (h - 1) / 2])
    slope = xyz[..., :2] / xyz[..., 2:].clamp(min=1e-6)
    weight = confidence
    for _ in range(iterations):
        focal = (weight * (uv * slope).sum(-1)).sum((1, 2)) / (weight * slope.square().sum(-1)).sum((1, 2))
        weight = confidence / (uv - focal[:, None, None, None] * slope).norm(dim=-1).clamp(min=1e-3)
    return focal


def spanning_tree(edges: Int[Tensor, "e 2"], score: Float[Tensor, "e"], t: int) -> Iterator[tuple[int, int, int]]:
    """(edge, parent frame, child frame) of the tree of largest scores, from the best edge outwards.

    Raises ``InputError`` where the graph does not join all frames.
    """
    n, m = edges.numpy().T
    cost = (score.max() - score + 1).double().numpy()
    best: dict[tuple[int, int], int] = {}
    for i in np.argsort(-cost, kind="stable").tolist():  # of the two directions the cheaper one comes last and stays
        best[min(n[i], m[i]), max(n[i], m[i])] = i
    index = np.array(list(best.values()))
    tree = minimum_spanning_tree(coo_array((cost[index], (n[index], m[index])), shape=(t, t)))
    root = int(n[cost.argmin()])
    order, parents = breadth_first_order(tree, root, directed=False)
    if len(order) < t:
        raise InputError(f"edges: expected a graph that joins all {t} frames, but only {len(order)} are reached")
    for child in order[1:].tolist():
        parent = int(parents[child])
        yield best[min(parent, child), max(parent, child)], parent, child


def frame_confidence(pairs: PairPointmaps, t: int) -> Float[Tensor, "t h w"]:
    """The best confidence that any pair has in each pixel of each frame."""
    best = pairs.conf_1.new_ones(t, *pairs.conf_1.shape[1:])
    for member, conf in enumerate((pairs.conf_1, pairs.conf_2)):
        for frame, own in zip(pairs.edges[:, member].tolist(), conf, strict=True):
            best[frame] = torch.maximum(best[frame], own)
    return best


def place_at(guess: Guess, world_from_cam: Float[Tensor, "t 4 4"], edges: Int[Tensor, "e 2"]) -> Guess:
    """The guess with known poses, their translations scaled to the guess: each pair lies at its first camera."""
    world_from_cam = world_from_cam.to(guess.depth)
    known, guessed = (_spread(path[:, :3, 3]) for path in (world_from_cam, guess.world_from_cam))
    unit = guessed / known if known > 1e-9 and guessed > 1e-9 else 1.0
    scaled = pose(world_from_cam[:, :3, :3], unit * world_from_cam[:, :3, 3])
    scale = guess.world_from_pair[:, :3, :3].det().pow(1 / 3)[:, None, None]
    at = scaled[edges[:, 0]]
    pairs = pose(scale * at[:, :3, :3], at[:, :3, 3])
    return Guess(guess.depth, guess.intrinsics, scaled, pairs)


def _spread(centres: Float[Tensor, "t 3"]) -> float:
    return float((centres - centres.mean(0)).norm(dim=-1).median())


def _chain_pointmaps(pairs: PairPointmaps, t: int) -> Float[Tensor, "t h w 3"]:
    score = torch.stack([_mean_information(pairs.conf_1), _mean_information(pairs.conf_2)]).prod(0).cpu()
    members = {0: (pairs.xyz_1, pairs.conf_1), 1: (pairs.xyz_2, pairs.conf_2)}
    precision = torch.promote_types(pairs.xyz_1.dtype, torch.float32)
    like = {"dtype": precision, "device": pairs.xyz_1.device}
    xyz_world, confidence = (
        torch.empty(t, *pairs.xyz_1.shape[1:], **like),
        torch.ones(t, *pairs.conf_1.shape[1:], **like),
    )
    for step, (edge, parent, child) in enumerate(spanning_tree(pairs.edges.cpu(), score, t)):
        own = int(pairs.edges[edge, 1] == parent)
        (xyz_parent, conf_parent), (xyz_child, conf_child) = (
            (x[edge].to(precision), c[edge].to(precision)) for x, c in (members[own], members[1 - own])
        )
        if step == 0:
            xyz_world[parent], confidence[parent] = xyz_parent, conf_parent
        weight = (_information(conf_parent) * _information(confidence[parent])).sqrt().reshape(-1)
        chosen = thin(len(weight))
        world_from_pair = robust_similarity(
            xyz_parent.reshape(-1, 3)[chosen], xyz_world[parent].reshape(-1, 3)[chosen], weight[chosen]
        )
        xyz_world[child] = transform(world_from_pair, xyz_child.reshape(-1, 3)).reshape(xyz_child.shape)
        confidence[child] = conf_child
    return xyz_world


def _fit_pairs(pairs: PairPointmaps, xyz_world: Tensor) -> Float[Tensor, "e 4 4"]:
    """One similarity an edge from both members' points to the world's."""
    chosen = thin(xyz_world[0, ..., 0].numel(), limit=256)

    def at(values: Tensor, edges: Tensor) -> Tensor:
        return values[edges].flatten(1, 2)[:, chosen].to(xyz_world.dtype)

    fitted = []
    for edges in torch.arange(len(pairs.edges), device=pairs.edges.device).split(EDGES_AT_ONCE):
        n, m = pairs.edges[edges].unbind(-1)
        source = torch.cat([at(pairs.xyz_1, edges), at(pairs.xyz_2, edges)], dim=1)
        target = torch.cat([at(xyz_world, n), at(xyz_world, m)], dim=1)
        weight = torch.cat([at(pairs.conf_1, edges), at(pairs.conf_2, edges)], dim=1)
        fitted.append(robust_similarity(source, target, _information(weight)))
    return torch.cat(fitted)


def thin(p: int, limit: int = 512) -> Int[Tensor, "q"]:
    """At most ``limit`` of p pixels, evenly spread by steps that no image width divides."""
    return torch.arange(p) if p <= limit else (torch.arange(limit) + 0.5).mul(p / limit).long()


def _information(confidence: Tensor) -> Tensor:
    """log confidence; less than 1 counts as 1, no information."""
    return confidence.clamp(min=1).log()


def _mean_information(confidence: Float[Tensor, "e h w"]) -> Float[Tensor, "e"]:
    return torch.stack(
        [_information(conf.to(torch.promote_types(conf.dtype, torch.float32))).mean() for conf in confidence]
    )


def robust_similarity(
    source: Float[Tensor, "*b n 3"], target: Float[Tensor, "*b n 3"], weight: Float[Tensor, "*b n"], *, passes: int = 3
) -> Float[Tensor, "*b 4 4"]:
    """target_from_source with the scale multiplied in, for the sum of weighted distances as in GA.

    Procrustes, reweighted by the inverse distance: a few far points that are wrong must not decide. The scale is the
    weighted median ratio of distances to the centre. That of least squares shrinks with noise in the source, and a
    chain of such steps would shrink a long video to nothing.
    """
    # Where nothing is known every point counts alike: a guess, and no NaN.
    weight = torch.where(weight.sum(-1, keepdim=True) > 0, weight, 1.0)
    robust = weight
    for _ in range(passes):
        _, rotation, _ = fit_similarity(source, target, robust)
        share = (robust / robust.sum(-1, keepdim=True).clamp(min=1e-12))[..., None]
        centre, target_centre = (share * source).sum(-2), (share * target).sum(-2)
        ratio = (target - target_centre[..., None, :]).norm(dim=-1) / (source - centre[..., None, :]).norm(
            dim=-1
        ).clamp(min=1e-12)
        scale = weighted_median(ratio, robust)
        # Where most of what counts lies in one place nothing tells the scale: it is kept.
        scaled = torch.where(scale > 0, scale, 1.0)[..., None, None] * rotation
        target_from_source = pose(scaled, target_centre - (scaled @ centre[..., None])[..., 0])
        distance = (transform(target_from_source, source) - target).norm(dim=-1)
        robust = weight / distance.clamp(min=1e-3 * distance.mean(-1, keepdim=True) + 1e-9)
    return target_from_source


def camera_pose(xyz_world: Tensor, confidence: Tensor, intrinsics: Tensor) -> Float[Tensor, "4 4"]:
    """world_from_cam by PnP on the more confident half of the pixels."""
    h, w = confidence.shape
    chosen = (confidence >= confidence.median()).reshape(-1).nonzero()[:, 0]
    chosen = chosen[thin(len(chosen))]
    points = xyz_world.reshape(-1, 3)[chosen].double().cpu().numpy()
    uv = pixel_grid(h, w).reshape(-1, 2)[chosen.cpu()].double().numpy()
    cv2.setRNGSeed(0)
    found, rotvec, translation, _ = cv2.solvePnPRansac(
        points,
        uv,
        intrinsics.double().cpu().numpy(),
        None,
        iterationsCount=100,
        reprojectionError=max(h, w) / 100,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not found:
        return torch.eye(4).to(xyz_world)
    rotation = torch.from_numpy(cv2.Rodrigues(rotvec)[0]).to(xyz_world)
    return invert(pose(rotation, torch.from_numpy(translation[:, 0]).to(xyz_world)))
