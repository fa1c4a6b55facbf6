"""What geometry measures and what a network sees, as one depth: each pixel's two measurements, by how good each is.

Triangulation is exact where parallax is large and says nothing where there is none. A network says something
everywhere, as good at one frame's distance as at nine, but bends what it does not know: far walls too far, in every
frame. So what it sees is first bent back, by what was triangulated, and then weighs what it has shown itself worth.
"""

import numpy as np
import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from c4d_nb.camera import pose, transform
from c4d_nb.clip import PairPointmaps
from c4d_nb.correspondence.flow import reverse_edges
from c4d_nb.pointmaps.losses import ALPHA
from c4d_nb.pointmaps.two_view import FLAT_CONFIDENCE, MAX_DEPTH
from c4d_nb.statistics import weighted_median

CURVE_POINTS = 16
"""Of the curve that bends a network's depth, at most: each stands for as many triangulated pixels."""
SHARE_PER_POINT = 0.01
"""Of all pixels, at least. What is triangulated in a clip without parallax is not much, and mostly what moves."""
FEWEST_POINTS = 4
CURVE_PASSES = 3
BEST_DEVIATION = 0.01
"""Relative. No network's depth is believed to be better."""
KNOWS_NOTHING = 0.8
"""Difference to triangulated depth, over that of constant depth, above which a network is not asked at all: ours has
0.05 to 0.45 in rooms like those it learned from, 0.5 to 0.7 in a few real videos; one that was not trained has 1."""


def fused_with_network(pairs: PairPointmaps, learned: PairPointmaps) -> PairPointmaps:
    """Two-view ``pairs`` whose depth is the most likely one, given what was triangulated and what a network sees.

    Both measure the logarithm of depth. The deviation of triangulation is one over its parallax in noises, which is its
    confidence beyond 1; that of the network, as the clip itself shows (``_information``). The network's depth of a
    frame is the mean of what it says in all the frame's pairs, on the scale of each pair and bent by one curve for the
    whole clip (``_on_triangulated``). The confidence that results is 1 and the root of both informations' sum.

    Rays and relative poses stay those of ``pairs``. A pair in which nothing was triangulated knows its frame's depth,
    but not where the other camera stands: its second member has the confidence of a guess. Both must have the same
    edges, both directions of every pair.

    What comes back is ``pairs`` itself where enough is triangulated to judge a network, and it knows nothing.
    """
    back = reverse_edges(pairs.edges)
    depth = pairs.xyz_1[..., 2]
    parallax = torch.where(pairs.conf_1 > FLAT_CONFIDENCE, pairs.conf_1 - 1, 0.0)
    seen = _on_triangulated(_frame_means(_over_median(learned.xyz_1[..., 2]), pairs.edges), depth, parallax)
    if _curve_points(parallax) and _unexplained(seen, depth, parallax) > KNOWS_NOTHING:
        return pairs
    seen = seen.clamp(1 / MAX_DEPTH, MAX_DEPTH)
    information = _information(seen, _frame_means(learned.conf_1, pairs.edges), depth, parallax, pairs.edges)
    total = (parallax.square() + information).clamp(min=(FLAT_CONFIDENCE - 1) ** 2)
    factor = ((seen / depth).log() * information / total).exp()

    xyz = pairs.xyz_1 * factor[..., None]
    rotation, translation = roma.rigid_points_registration(pairs.xyz_1[back].flatten(1, 2), pairs.xyz_2.flatten(1, 2))
    xyz_2 = transform(pose(rotation, translation), xyz[back].flatten(1, 2)).reshape(xyz.shape)
    confidence = 1 + total.sqrt()
    placed = (parallax > 0).flatten(1).any(dim=1)[:, None, None]
    return PairPointmaps(pairs.edges, xyz, xyz_2, confidence, torch.where(placed, confidence[back], FLAT_CONFIDENCE))


def _on_triangulated(
    seen: Float[Tensor, "e h w"], depth: Float[Tensor, "e h w"], parallax: Float[Tensor, "e h w"]
) -> Float[Tensor, "e h w"]:
    """What a network has ``seen``, brought onto triangulated ``depth`` by a scale for each pair and one curve for all.

    The curve leads from the logarithm of depth over its frame's median to what is missing from it; its points are
    medians, by parallax, of as many pixels each. Pairs in which nothing was triangulated keep their scale.
    """
    measured = parallax > 0
    checked, weight = measured.flatten(1).any(dim=1), parallax.flatten(1)
    position = _over_median(seen).log()
    points = _curve_points(parallax)
    if points:
        ranked, order = position[measured].sort()
        kept = len(order) // points * points  # all but at most 15
        nodes, in_bins = (x[:kept].reshape(points, -1) for x in (ranked, order))
        nodes, weight_in_bins = nodes.median(dim=1).values, parallax[measured][in_bins]
    for _ in range(CURVE_PASSES):
        missing = (depth / seen).log()
        scale = torch.where(checked, weighted_median(missing.flatten(1), weight), 0.0)[:, None, None]
        curve = 0.0
        if points:
            values = weighted_median((missing - scale)[measured][in_bins], weight_in_bins)
            curve = _curve(nodes.numpy(), values.numpy(), position)
        seen = seen * (scale + curve).exp()
    return seen


def _curve_points(parallax: Float[Tensor, "e h w"]) -> int:
    """How many points a curve may have: 0 where too little is triangulated for one."""
    points = min(CURVE_POINTS, int((parallax > 0).sum() / (SHARE_PER_POINT * parallax.numel())))
    return points if points >= FEWEST_POINTS else 0


def _unexplained(
    seen: Float[Tensor, "e h w"], depth: Float[Tensor, "e h w"], parallax: Float[Tensor, "e h w"]
) -> float:
    """The median difference of what is ``seen`` to triangulated ``depth``, over that of one depth for each pair."""
    measured = parallax > 0
    typical = weighted_median(depth.flatten(1), parallax.flatten(1))[:, None, None]
    seen_by_both = (
        weighted_median((depth / guess).log().abs()[measured], parallax[measured])
        for guess in (seen, typical.expand_as(depth))
    )
    network, constant = (float(difference) for difference in seen_by_both)
    return network / max(constant, BEST_DEVIATION)


def _curve(nodes: np.ndarray, values: np.ndarray, position: Float[Tensor, "e h w"]) -> Float[Tensor, "e h w"]:
    """Straight from node to node, and beyond the outermost parallel to the line that fits all nodes best; none, 0
    everywhere, where all nodes are one."""
    if nodes[0] == nodes[-1]:
        return torch.zeros_like(position)
    line = np.polynomial.Polynomial.fit(nodes, values, 1)
    there = position.numpy()
    return torch.from_numpy(line(there) + np.interp(there, nodes, values - line(nodes))).to(position)


def _information(
    seen: Float[Tensor, "e h w"],
    confidence: Float[Tensor, "e h w"],
    depth: Float[Tensor, "e h w"],
    parallax: Float[Tensor, "e h w"],
    edges: Int[Tensor, "e 2"],
) -> Float[Tensor, "e h w"]:
    """1 / deviation^2 of the logarithm of the depth that a network has ``seen``.

    The relative deviation is ``s / (C z)``: its confidence C is inverse to the distance from the truth that it expects
    (``confidence_loss``), z is depth over the frame's median, and s is such that half of all differences to what was
    triangulated are larger. So a network to which a video is foreign has little say, and one that knows it much. Where
    all of a frame's pairs together contradict it, by x deviations, its information is ``exp(-(x / 2)^2 / 2)`` of that:
    a network blurs outlines, and takes what stands before a wall for the wall.
    """
    measured, geometry = parallax > 0, parallax.square()
    difference = (seen / depth).log()
    expected, scale = 1 / (confidence * _over_median(seen)), ALPHA
    if measured.any():
        scale = weighted_median((difference.abs() / expected)[measured], parallax[measured])
    information = (scale * expected).clamp(min=BEST_DEVIATION) ** -2
    of_frame = _frame_sums(geometry, edges).clamp(min=1e-6)
    mean_difference = _frame_sums(geometry * difference, edges) / of_frame
    contradiction = mean_difference.square() / (1 / of_frame + 1 / information)
    return information * torch.exp(-contradiction / 8)


def _frame_means(values: Float[Tensor, "e h w"], edges: Int[Tensor, "e 2"]) -> Float[Tensor, "e h w"]:
    """Of each edge's first frame: the geometric mean over all edges that begin there."""
    return (_frame_sums(values.log(), edges) / _frame_sums(torch.ones_like(values), edges)).exp()


def _frame_sums(values: Float[Tensor, "e h w"], edges: Int[Tensor, "e 2"]) -> Float[Tensor, "e h w"]:
    """Of each edge's first frame: the sum over all edges that begin there."""
    n = edges[:, 0]
    return values.new_zeros(int(n.max()) + 1, *values.shape[1:]).index_add(0, n, values)[n]


def _over_median(depth: Float[Tensor, "e h w"]) -> Float[Tensor, "e h w"]:
    depth = depth.clamp(min=1e-3)
    return depth / depth.flatten(1).median(dim=1).values[:, None, None]
