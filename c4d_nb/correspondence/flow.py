"""Short-term correspondence: dense optical flow between pairs of frames, and whether to believe it."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from c4d_nb.camera import pixel_grid
from c4d_nb.errors import InputError

FLOW_NOISE_PX = 0.3
"""Standard deviation that geometry takes believed flow to have, in u and in v. In the static parts of the shipped clips
it is 0.2, with errors beyond 3 px cut to that, and two thirds of the errors are within 0.1."""
_BATCH = 8
"""Pairs that are handed to a method at once."""
_DIS_PATCH_PX, _DIS_FINEST_SCALE = 5, 0
"""The preset has patches of 8 px and stops at half resolution: four times as fast, with 1.4 to 2.2 times the error (the
first pair of MPI-Sintel's alley_1, Middlebury's RubberWhale)."""
_LEAST_DIS_PX = 32
"""Of each side: OpenCV's DIS refuses some smaller images and reads beyond others."""


def estimate_flow(
    frame_1: UInt8[Tensor, "h w 3"], frame_2: UInt8[Tensor, "h w 3"], *, method: str = "dis"
) -> Float[Tensor, "h w 2"]:
    """Where each pixel of frame 1 went in frame 2: target uv minus source uv, in px.

    ``dis`` is Dense Inverse Search (Kroeger et al., ECCV 2016) by OpenCV: no weights, about 30 ms at 384x216.
    ``raft`` is the published network of ``c4d_nb.correspondence.raft``, which tells of its download and its terms: a
    GPU's work, one CPU core takes 4 s at that size.
    """
    return _estimator(method)(frame_1[None], frame_2[None])[0]


def estimate_flows(
    frames: UInt8[Tensor, "t h w 3"], edges: Int[Tensor, "e 2"], *, method: str = "dis", progress: bool = True
) -> tuple[Float[Tensor, "e h w 2"], Bool[Tensor, "e h w"]]:
    """Flow n -> m of every edge (n, m), and where it survives the forward-backward check.

    Every edge needs its reverse among the edges (a symmetric scene graph). DIS searches from coarse to fine, and small
    things that move far are lost on the way; so between far frames it also tries where flow from frame to frame leads.
    """
    flows = torch.empty(len(edges), *frames.shape[1:3], 2)
    fill = _fill_by_dis(flows, frames, edges) if method == "dis" else _fill(flows, frames, edges, _estimator(method))
    bar = {} if progress else {"disable": True}
    for _ in tqdm(fill, total=len(edges), desc="optical flow", unit="pair", leave=False, **bar):
        pass
    valid = torch.empty(flows.shape[:3], dtype=torch.bool)
    for i, back in enumerate(reverse_edges(edges)):
        valid[i] = forward_backward_consistent(flows[i], flows[back])
    return flows, valid


def reverse_edges(edges: Int[Tensor, "e 2"]) -> Int[Tensor, "e"]:
    """The index of (m, n) for every edge (n, m)."""
    position = {(n, m): i for i, (n, m) in enumerate(edges.tolist())}
    missing = [edge for edge in position if edge[::-1] not in position]
    if missing:
        raise InputError(f"edges: expected both directions of every pair, but the reverse of {missing[0]} is missing")
    return torch.tensor([position[m, n] for n, m in edges.tolist()])


def forward_backward_consistent(
    forward: Float[Tensor, "h w 2"], backward: Float[Tensor, "h w 2"], *, relative: float = 0.01, absolute: float = 0.5
) -> Bool[Tensor, "h w"]:
    """Does the match return to where it began, and does it lie inside the image?

    Sundaram et al. (ECCV 2010): |f + b(x + f)|^2 < relative (|f|^2 + |b|^2) + absolute, in px^2. A pixel that is
    occluded in the other frame, or whose flow is wrong, fails.
    """
    target = pixel_grid(*forward.shape[:2], like=forward) + forward
    returned = sample_map(backward, target)
    height, width = forward.shape[:2]
    inside = (target >= -0.5).all(-1) & (target[..., 0] <= width - 0.5) & (target[..., 1] <= height - 0.5)
    gap = (forward + returned).square().sum(-1)
    return inside & (gap < relative * (forward.square().sum(-1) + returned.square().sum(-1)) + absolute)


def sample_map(values: Float[Tensor, "h w c"], uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b c"]:
    """Bilinear values of a map at pixels uv; beyond the border the nearest pixel's."""
    height, width = values.shape[:2]
    size = uv.new_tensor([width, height])
    grid = ((2 * uv + 1) / size - 1).reshape(1, 1, -1, 2)
    sampled = F.grid_sample(values.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)
    return sampled[0, :, 0].T.reshape(*uv.shape[:-1], values.shape[-1])


def _estimator(method: str) -> Callable[[Tensor, Tensor], Tensor]:
    """From frames (b, h, w, 3) and those that they are matched with to flow (b, h, w, 2)."""
    if method == "dis":
        return _dis_flow
    if method == "raft":
        from c4d_nb.correspondence.raft import raft_flow

        return raft_flow
    raise InputError(f"method: expected 'dis' or 'raft', but it is {method!r}")


def _fill(flows: Tensor, frames: Tensor, edges: Tensor, estimate: Callable[[Tensor, Tensor], Tensor]) -> Iterator[int]:
    """Write the flow of every edge; yields the edge when it is done."""
    for start in range(0, len(edges), _BATCH):
        n, m = edges[start : start + _BATCH].T
        flows[start : start + _BATCH] = estimate(frames[n], frames[m])
        yield from range(start, start + len(n))


def _fill_by_dis(flows: Tensor, frames: Tensor, edges: Tensor) -> Iterator[int]:
    """The same, near pairs first.

    A pair begins with the flow from the same frame to the farthest one that is nearer, carried on from frame to frame.
    """
    position: dict[tuple[int, int], int] = {}
    """Of the pairs that are done, their edge."""
    farthest: dict[tuple[int, bool], int] = {}
    """For a frame and a direction of time, the last pair's other frame."""
    steps: dict[tuple[int, int], Tensor] = {}
    """Flow between neighbours that are no edge."""
    grid = pixel_grid(*frames.shape[1:3])

    def flow_of(n: int, m: int) -> Tensor:
        if (n, m) in position:
            return flows[position[n, m]]
        if (n, m) not in steps:
            steps[n, m] = _dis(frames[n], frames[m])
        return steps[n, m]

    for edge in (edges[:, 1] - edges[:, 0]).abs().argsort(stable=True).tolist():
        n, m = edges[edge].tolist()
        forward = 1 if m > n else -1
        if abs(m - n) > 1:
            at = farthest.get((n, m > n), n + forward)
            start = flow_of(n, at)
            for k in range(at, m, forward):
                start = start + sample_map(flow_of(k, k + forward), grid + start)
            flows[edge] = _dis(frames[n], frames[m], start=start)
        else:
            flows[edge] = _dis(frames[n], frames[m])
        position[n, m], farthest[n, m > n] = edge, m
        yield edge


def _dis_flow(frames_1: Tensor, frames_2: Tensor) -> Tensor:
    return torch.stack([_dis(first, second) for first, second in zip(frames_1, frames_2, strict=True)])


def _dis(first: Tensor, second: Tensor, *, start: Tensor | None = None) -> Tensor:
    """Flow of one pair; where ``start`` leads is tried at every scale."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(_DIS_FINEST_SCALE)
    search.setPatchSize(_DIS_PATCH_PX)
    height, width = first.shape[:2]
    gray = _gray(first)
    if start is not None:
        below, right = gray.shape[0] - height, gray.shape[1] - width
        start = cv2.copyMakeBorder(start.numpy(), 0, below, 0, right, cv2.BORDER_REPLICATE)
    return torch.from_numpy(search.calc(gray, _gray(second), start))[:height, :width]


def _gray(frame: Tensor) -> np.ndarray:
    """A small image is continued to the right and below by its border."""
    gray = cv2.cvtColor(frame.cpu().numpy(), cv2.COLOR_RGB2GRAY)
    below, right = (max(0, _LEAST_DIS_PX - side) for side in gray.shape)
    return cv2.copyMakeBorder(gray, 0, below, 0, right, cv2.BORDER_REPLICATE)
