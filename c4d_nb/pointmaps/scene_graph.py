"""Which pairs of frames are compared."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from c4d_nb.errors import InputError


def sliding_window_graph(t: int, *, offsets: Sequence[int] = (1, 3, 5, 7, 9)) -> Int[Tensor, "e 2"]:
    """Directed pairs (n, m) of frames ``offset`` apart, both ways; MonST3R's ``swinstride-5`` by default.

    The first half runs forward in time, sorted; the second half is the first half reversed:
    ``edges[e // 2 + i] == edges[i].flip(0)``. 190 edges at 24 frames, 850 at 90.
    """
    if t < 2:
        raise InputError(f"t: expected at least 2 frames to pair, but it is {t}")
    if not offsets or min(offsets) < 1:
        raise InputError(f"offsets: expected whole numbers of at least 1, but they are {tuple(offsets)}")
    if min(offsets) >= t:
        raise InputError(f"offsets: expected one that joins two of {t} frames, but they are {tuple(offsets)}")
    forward = torch.tensor([(n, n + k) for n in range(t) for k in sorted(set(offsets)) if n + k < t])
    return torch.cat([forward, forward.flip(1)])
