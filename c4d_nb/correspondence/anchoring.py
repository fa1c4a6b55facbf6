"""Tracks held to what their queries show.

Chained flow drifts, and a network that looks at small frames knows a place to a pixel of theirs. Both are put right
where the patch around a track's query is found again, by Lucas and Kanade's search (1981) in the full frames: the
"drift correction" of Matthews, Ishikawa and Baker (The Template Update Problem, PAMI 2004).
"""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from c4d_nb.correspondence.queries import Queries

PATCH_PX = 7
"""Side of the patch: small, as what a point is part of turns and comes closer in time."""
REACH_PX = 8.0
"""The farthest from where the search begins."""
RETURN_PX = 1.0
"""Within which the search back, from the place that was found, ends at the query."""
DIFFERENCE = 20.0
"""Of two patches that show the same, grey levels of 255, in the mean over their pixels."""


def anchor(
    frames: UInt8[Tensor, "t h w 3"], queries: Queries, uv: Float[Tensor, "t n 2"]
) -> tuple[Float[Tensor, "t n 2"], Bool[Tensor, "t n"]]:
    """(uv, found): each position where its query's patch is found near by, and as it was where it is not.

    Found is what OpenCV's search reaches from ``uv`` within ``REACH_PX``, what looks alike and what leads back to the
    query. Patches without texture, or that the frame's border cuts, are never found. In its query's frame a point is
    where it was asked for.
    """
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames.cpu().numpy()]
    asked, places = queries.uv.float().cpu().numpy(), uv.float().cpu().numpy()
    anchored, found = places.copy(), np.zeros(places.shape[:2], dtype=bool)
    for source in queries.frame.unique().tolist():
        points = (queries.frame == source).nonzero()[:, 0].numpy()
        for target in range(len(gray)):
            begin = places[target, points]
            there, alike = _search(gray[source], gray[target], asked[points], begin)
            back, _ = _search(gray[target], gray[source], there, asked[points])
            returns = np.linalg.norm(back - asked[points], axis=-1) < RETURN_PX
            near = np.linalg.norm(there - begin, axis=-1) < REACH_PX
            whole = _patch_inside(asked[points], gray[source]) & _patch_inside(there, gray[target])
            found[target, points] = alike & returns & near & whole
            anchored[target, points] = np.where(found[target, points, None], there, begin)
    index = torch.arange(len(asked))
    result, known = torch.from_numpy(anchored).to(uv), torch.from_numpy(found).to(uv.device)
    result[queries.frame, index], known[queries.frame, index] = queries.uv.to(uv), True
    return result, known


def _search(source: np.ndarray, target: np.ndarray, uv: np.ndarray, begin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where the patches around uv are in the target, which look alike there)"""
    there, status, difference = cv2.calcOpticalFlowPyrLK(
        source,
        target,
        uv[:, None],
        begin[:, None].copy(),
        winSize=(PATCH_PX, PATCH_PX),
        maxLevel=0,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.01),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return there[:, 0], status[:, 0].astype(bool) & (difference[:, 0] < DIFFERENCE)


def _patch_inside(uv: np.ndarray, frame: np.ndarray) -> np.ndarray:
    rest = PATCH_PX // 2
    return ((uv >= rest) & (uv <= np.array(frame.shape[::-1]) - 1 - rest)).all(axis=-1)
