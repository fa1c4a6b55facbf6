"""What belongs together moves together: evidence of motion, carried between the parts of a clip that look alike.

Evidence by flow is blind where a surface has no texture, where it moves along its epipolar line, and while it rests
for a moment. Superpixels of the whole clip vote: each hears its neighbours in the image and the superpixels of any
frame that resemble it most, as in non-local consensus voting (Faktor and Irani, BMVC 2014).
"""

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import sparse
from scipy.spatial import cKDTree
from torch import Tensor

SUPERPIXEL_PX = 12
"""Side of one that is square."""
LIKE_COUNT = 10
"""Superpixels that one hears for looking like it, besides those that hear it."""
LAB_UNIT, PLACE_UNIT, TIME_UNIT = 20.0, 0.4, 1.0
"""Differences of one unit in the space where likeness is measured: CIELAB (0 to 255 a channel), place as a share of
the longer side, time as a share of the clip."""
LIKENESS = 0.5
"""Standard deviation of the weight of resemblance, in those units."""
EDGE_LAB = 8.0
"""The weight of neighbours falls by 1/e with so much difference of colour."""
HEARS_LIKE = 0.8
"""The share of resemblance in what a superpixel hears; the rest is its neighbours'."""
LISTENS = 0.85
"""How much a superpixel whose every pixel has evidence goes by others."""
ROUNDS = 30
SMOOTHNESS, SMOOTH_COLOR = 50.0, 6.0
"""Of the fast global smoother: lambda, and the colour difference (0 to 255) that stops it."""


def agree(
    frames: UInt8[Tensor, "t h w 3"], evidence: Float[Tensor, "t h w"], weight: Float[Tensor, "t h w"]
) -> Float[Tensor, "t h w"]:
    """Evidence after superpixels have heard each other: each keeps its own as far as its pixels' ``weight`` (0 to 1,
    how much is known of them) goes, and takes the weighted mean of the others' for the rest."""
    lab = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2LAB) for frame in frames.cpu().numpy()])
    labels = superpixels(lab)
    count = int(labels.max()) + 1
    area = np.bincount(labels.ravel(), minlength=count)
    known = np.bincount(labels.ravel(), weight.cpu().numpy().ravel(), count)
    told = np.bincount(labels.ravel(), (evidence * weight).cpu().numpy().ravel(), count)
    own = told / np.maximum(known, 1e-9)
    t, height, width = labels.shape
    places = np.meshgrid(np.arange(t), np.arange(height), np.arange(width), indexing="ij", sparse=True)
    means = [_mean(values, labels, area) for values in (*np.moveaxis(lab, -1, 0), *places)]
    color, (frame, row, column) = np.stack(means[:3], axis=1), means[3:]
    place = np.stack([row, column], axis=1) / (PLACE_UNIT * max(height, width))
    alike = _alike(np.column_stack([color / LAB_UNIT, place, frame / (TIME_UNIT * t)]))
    heard = HEARS_LIKE * _by_row(alike) + (1 - HEARS_LIKE) * _by_row(_neighbors(labels, color))
    keeps = (1 - LISTENS) * known / area
    keeps /= keeps + LISTENS
    value = own
    for _ in range(ROUNDS):
        value = keeps * own + (1 - keeps) * (heard @ value)
    return torch.from_numpy(value[labels]).to(evidence)


def superpixels(lab: UInt8[np.ndarray, "t h w 3"]) -> np.ndarray:
    """The number of each pixel's superpixel (SLIC, Achanta et al., 2012, by OpenCV), counted through the clip.

    A side shorter than one of them has squares instead: SLIC reads beyond such images.
    """
    if min(lab.shape[1:3]) < SUPERPIXEL_PX:
        return _squares(*lab.shape[:3])
    labels = np.empty(lab.shape[:3], dtype=np.int32)
    count = 0
    for frame, numbers in zip(lab, labels, strict=True):
        image = cv2.GaussianBlur(frame, (3, 3), 0)
        slic = cv2.ximgproc.createSuperpixelSLIC(image, cv2.ximgproc.SLIC, SUPERPIXEL_PX, 15.0)
        slic.iterate(5)
        slic.enforceLabelConnectivity(25)
        numbers[:] = slic.getLabels() + count
        count += slic.getNumberOfSuperpixels()
    return labels


def smooth_within_edges(frames: UInt8[Tensor, "t h w 3"], values: Float[Tensor, "t h w"]) -> Float[Tensor, "t h w"]:
    """Smoothed as far as edges of the image allow (Min et al., fast global smoother, TIP 2014, by OpenCV)."""
    smooth = [
        cv2.ximgproc.fastGlobalSmootherFilter(frame, value, SMOOTHNESS, SMOOTH_COLOR)
        for frame, value in zip(frames.cpu().numpy(), values.float().cpu().numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(smooth)).to(values)


def between_two_modes(values: Float[Tensor, "*b"], low: float, high: float) -> float:
    """The threshold that parts values of 0 to 1 into two groups of the least variance (Otsu, 1979), kept within
    ``low`` to ``high``: where next to nothing moves the two groups are noise."""
    counts = torch.histc(values.float(), bins=256, min=0.0, max=1.0).double().cpu()
    centers = (torch.arange(256) + 0.5) / 256
    share = counts.cumsum(0) / counts.sum()
    mean = (counts * centers).cumsum(0) / counts.sum()
    between = (mean[-1] * share - mean).square() / (share * (1 - share)).clamp(min=1e-12)
    return min(max((int(between.argmax()) + 1) / 256, low), high)


def _squares(t: int, height: int, width: int) -> np.ndarray:
    frame, row, column = np.indices((t, height, width), dtype=np.int32, sparse=True)
    rows, columns = -(-height // SUPERPIXEL_PX), -(-width // SUPERPIXEL_PX)
    return (frame * rows + row // SUPERPIXEL_PX) * columns + column // SUPERPIXEL_PX


def _mean(values: np.ndarray, labels: np.ndarray, area: np.ndarray) -> np.ndarray:
    return np.bincount(labels.ravel(), np.broadcast_to(values, labels.shape).ravel(), len(area)) / area


def _alike(features: Float[np.ndarray, "n d"]) -> sparse.csr_array:
    """Weights of resemblance between each superpixel and those it resembles most, either way; 1 with itself, so that
    what is like nothing else keeps to its own."""
    n = len(features)
    distance, index = cKDTree(features).query(features, k=np.arange(1, min(LIKE_COUNT + 1, n) + 1), workers=-1)
    distance, index = distance[:, 1:], index[:, 1:]
    weight = np.exp(-(distance**2) / (2 * LIKENESS**2))
    one_way = sparse.csr_array((weight.ravel(), (np.repeat(np.arange(n), index.shape[1]), index.ravel())), (n, n))
    return one_way.maximum(one_way.T) + sparse.eye_array(n)


def _neighbors(labels: np.ndarray, color: Float[np.ndarray, "n 3"]) -> sparse.csr_array:
    """Length of the common border of neighbours in a frame, less the more their colours differ."""
    pairs = [
        np.stack([first.ravel(), second.ravel()])
        for first, second in ((labels[:, :, :-1], labels[:, :, 1:]), (labels[:, :-1], labels[:, 1:]))
    ]
    first, second = np.concatenate(pairs, axis=1)
    apart = first != second
    first, second = first[apart], second[apart]
    weight = np.exp(-np.linalg.norm(color[first] - color[second], axis=1) / EDGE_LAB)
    one_way = sparse.csr_array((weight, (first, second)), (len(color), len(color)))
    return one_way + one_way.T


def _by_row(weights: sparse.csr_array) -> sparse.csr_array:
    """Rows sum to 1, or are empty."""
    total = weights.sum(axis=1)
    return sparse.diags_array(1 / np.maximum(total, 1e-12)) @ weights
