"""Tracks held to what their queries show.

Chained flow drifts, and a network that looks at small frames knows a place to a pixel of theirs. Both are put right
where the patch around a track's query is found again, by Lucas and Kanade's search (1981) in the full frames: the
"drift correction" of Matthews, Ishikawa and Baker (The Template Update Problem, PAMI 2004).
"""

import math

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from c4d_nb.correspondence.queries import Queries, check_queries

PATCH_PX = 7
"""Side of the patch: small, as what a point is part of turns and comes closer in time."""
REACH_PX = 8.0
"""The farthest from where the search begins."""
RETURN_PX = 1.0
"""Within which the search back, from the place that was found, ends at the query."""
DIFFERENCE = 20.0
"""Of two patches that show the same, grey levels of 255, in the mean over their pixels."""
TILE_PX = 32
"""Side of what is cut out around a point: it holds every patch within reach of its middle."""


def anchor(
    frames: UInt8[Tensor, "t h w 3"], queries: Queries, uv: Float[Tensor, "t n 2"]
) -> tuple[Float[Tensor, "t n 2"], Bool[Tensor, "t n"]]:
    """(uv, found): each position where its query's patch is found near by, and as it was where it is not.

    Found is what OpenCV's search reaches from ``uv`` within ``REACH_PX``, what looks alike and what leads back to the
    query. Patches without texture, or that the frame's border cuts, are never found. In its query's frame a point is
    where it was asked for. All points of a frame are searched for at once, each in a tile of its own: the work is that
    of points x frames. Raises ``InputError`` for no queries, and for queries outside the frames.
    """
    check_queries(queries, len(frames), tuple(frames.shape[1:3]))
    gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames.cpu().numpy()])
    asked, places = queries.uv.cpu().numpy().astype(np.float32), uv.cpu().numpy().astype(np.float32)
    source, asked_there = _atlas(gray, queries.frame.cpu().numpy(), asked)
    anchored, found = np.empty_like(places), np.empty(places.shape[:2], dtype=bool)
    for t, begin in enumerate(places):
        target, begin_there = _atlas(gray, np.full(len(begin), t), begin)
        there, alike = _search(source, target, asked_there, begin_there)
        back, _ = _search(target, source, there, asked_there)
        anchored[t] = begin + (there - begin_there)
        returns = np.linalg.norm(back - asked_there, axis=-1) < RETURN_PX
        near = np.linalg.norm(there - begin_there, axis=-1) < REACH_PX
        found[t] = alike & returns & near & _patch_inside(asked, gray[t]) & _patch_inside(anchored[t], gray[t])
    found = torch.from_numpy(found).to(uv.device)
    result = torch.where(found[..., None], torch.from_numpy(anchored).to(uv), uv)
    index = torch.arange(len(asked))
    result[queries.frame, index], found[queries.frame, index] = queries.uv.to(uv), True
    return result, found


def _atlas(
    gray: UInt8[np.ndarray, "t h w"], frame: Int[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"]
) -> tuple[UInt8[np.ndarray, "H W"], Float[np.ndarray, "n 2"]]:
    """(one picture of a tile around every point, where in it the points are); frames go on beyond their borders."""
    middle = np.rint(uv).astype(int)
    offset = np.arange(TILE_PX) - TILE_PX // 2
    column, row = ((middle[:, axis, None] + offset).clip(0, gray.shape[2 - axis] - 1) for axis in (0, 1))
    tiles = gray[frame[:, None, None], row[:, :, None], column[:, None, :]]
    across = math.ceil(math.sqrt(len(uv)))
    down = math.ceil(len(uv) / across)
    atlas = np.zeros((down * across, TILE_PX, TILE_PX), dtype=np.uint8)
    atlas[: len(uv)] = tiles
    atlas = atlas.reshape(down, across, TILE_PX, TILE_PX).swapaxes(1, 2).reshape(down * TILE_PX, across * TILE_PX)
    place = np.arange(len(uv))
    corner = TILE_PX * np.stack([place % across, place // across], axis=-1) + TILE_PX // 2
    return atlas, (uv - middle + corner).astype(np.float32)


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
