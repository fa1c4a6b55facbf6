"""GA and CMA with their gradients in one pass: the values of ``objectives``, in a fraction of the time and memory.

The residual of a pixel needs its point, and the gradient needs the residual, so both are made together and nothing is
kept in between. With A = R K^-1 the point of pixel u is ``X = T + d A u``; for GA, ``r = sigma P x - X`` and ``g = w r
/ |r|``, so that ``dGA/dX = -g``, ``dGA/d(sigma P) = g (x, 1)^T``, ``dGA/dA = -d g u^T``, ``dGA/dd = -g . A u``. On the
CPU the pass is compiled (``kernels``); elsewhere the same sums are taken by torch, some edges at a time.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c4d_nb.alignment import kernels
from c4d_nb.camera import invert, pixel_grid
from c4d_nb.clip import PairPointmaps


@dataclass(frozen=True, eq=False)
class PackedPairs:
    """Pair pointmaps as the passes read them: in place, or in half precision divided by a unit a pair."""

    edges: Int[Tensor, "e 2"]
    pixels: Float[Tensor, "2 p"]
    xyz: tuple[Float[Tensor, "e p 3"], Float[Tensor, "e p 3"]]
    weight: tuple[Float[Tensor, "e p"], Float[Tensor, "e p"]]
    """log confidence."""
    unit: Float[Tensor, "e"]
    """Length that the points are measured in."""
    by_frame: tuple[np.ndarray, np.ndarray, np.ndarray]
    """For each frame the first of its observations, and each observation's edge and member."""


@dataclass(frozen=True, eq=False)
class PackedFlows:
    """Flow of all edges and the pixels where it is that of static points."""

    edges: Int[Tensor, "e 2"]
    pixels: Float[Tensor, "2 p"]
    flow: Float[Tensor, "e p 2"]
    static: Bool[Tensor, "e p"]
    by_frame: tuple[np.ndarray, np.ndarray]
    """For each frame the first of the edges that leave it, and these edges."""


def pack_pairs(pairs: PairPointmaps, t: int, *, half: bool = False) -> PackedPairs:
    """Ready for ``fused_global_alignment``. Points stay where they are, or are copied to ``half`` precision (3 digits:
    a pair's points are rounded by at most 0.05 %)."""
    h, w = pairs.conf_1.shape[1:]
    members = pairs.xyz_1, pairs.xyz_2
    precision = torch.float64 if pairs.xyz_1.dtype == torch.float64 else torch.float32
    unit = torch.ones(len(pairs.edges), dtype=precision, device=pairs.xyz_1.device)
    if half and pairs.xyz_1.dtype != torch.float16:
        unit = torch.stack([xyz.abs().mean() for xyz in pairs.xyz_1]).to(torch.float32).clamp(min=1e-30)
        members = tuple(_in_half(xyz, unit) for xyz in members)
    stored = torch.float16 if half or pairs.conf_1.dtype == torch.float16 else precision
    observed = pairs.edges.T.reshape(-1)
    order, first = _group(observed, t)
    return PackedPairs(
        edges=pairs.edges,
        pixels=pixel_grid(h, w, like=unit).reshape(-1, 2).T.contiguous(),
        xyz=tuple(xyz.flatten(1, 2).contiguous() for xyz in members),
        weight=tuple(_information(conf, stored) for conf in (pairs.conf_1, pairs.conf_2)),
        unit=unit,
        by_frame=(first, order % len(pairs.edges), order >= len(pairs.edges)),
    )


def pack_flows(
    flows: Float[Tensor, "e h w 2"], static: Bool[Tensor, "e h w"], edges: Int[Tensor, "e 2"], t: int
) -> PackedFlows:
    """Ready for ``fused_camera_motion``. Flow that is not finite counts as not static."""
    finite = torch.ones_like(static) if flows.sum().isfinite() else flows.isfinite().all(-1)
    h, w = static.shape[1:]
    order, first = _group(edges[:, 0], t)
    return PackedFlows(
        edges=edges,
        pixels=pixel_grid(h, w, like=flows).reshape(-1, 2).T.contiguous(),
        flow=(flows if finite.all() else flows.nan_to_num(0.0, 0.0, 0.0)).flatten(1, 2).contiguous(),
        static=(static & finite).flatten(1).contiguous(),
        by_frame=(first, order),
    )


def fused_global_alignment(
    pairs: PackedPairs,
    depth: Float[Tensor, "t p"],
    world_from_image: Float[Tensor, "t 3 4"],
    world_from_pair: Float[Tensor, "e 4 4"],
    *,
    chunk_mib: int = 256,
) -> Float[Tensor, ""]:
    """``objectives.global_alignment`` of the points ``T + depth A (u, v, 1)``, where ``world_from_image`` is (A | T).

    ``chunk_mib`` bounds the memory of what is made in between where that is done by torch.
    """
    return _GlobalAlignment.apply(depth, world_from_image, world_from_pair, pairs, chunk_mib)


def fused_camera_motion(
    flows: PackedFlows,
    depth: Float[Tensor, "t p"],
    world_from_image: Float[Tensor, "t 3 4"],
    image_from_world: Float[Tensor, "t 3 4"],
    *,
    max_error_px: float = 50.0,
    chunk_mib: int = 256,
) -> Float[Tensor, ""]:
    """``objectives.camera_motion_alignment`` of the same points."""
    return _CameraMotion.apply(depth, world_from_image, image_from_world, flows, max_error_px, chunk_mib)


def image_maps(
    world_from_cam: Float[Tensor, "t 4 4"], intrinsics: Float[Tensor, "t 3 3"]
) -> tuple[Float[Tensor, "t 3 4"], Float[Tensor, "t 3 4"]]:
    """``world_from_image``, from ``depth (u, v, 1)`` and 1 to the world, and its inverse ``image_from_world``."""
    focal = intrinsics[:, (0, 1), (0, 1)]
    slope = torch.cat([1 / focal, torch.ones_like(focal[:, :1])], -1).diag_embed()
    shift = torch.cat([-intrinsics[:, :2, 2] / focal, torch.ones_like(focal[:, :1])], -1)
    cam_from_image = torch.cat([slope[:, :, :2], shift[..., None]], -1)
    rotated = world_from_cam[:, :3, :3] @ cam_from_image
    return torch.cat([rotated, world_from_cam[:, :3, 3:]], -1), intrinsics @ invert(world_from_cam)[:, :3]


class _GlobalAlignment(torch.autograd.Function):
    @staticmethod
    def forward(ctx, depth, world_from_image, world_from_pair, pairs, chunk_mib):
        run = _align_compiled if depth.device.type == "cpu" else _align_by_chunks
        value, *gradients = run(pairs, depth.detach(), world_from_image.detach(), world_from_pair.detach(), chunk_mib)
        scale = 1 / pairs.weight[0].numel()
        ctx.save_for_backward(*(scale * gradient for gradient in gradients))
        return scale * value

    @staticmethod
    def backward(ctx, slope):
        depth, world_from_image, similarity = (slope * gradient for gradient in ctx.saved_tensors)
        return depth, world_from_image, torch.nn.functional.pad(similarity, (0, 0, 0, 1)), None, None


class _CameraMotion(torch.autograd.Function):
    @staticmethod
    def forward(ctx, depth, world_from_image, image_from_world, flows, limit, chunk_mib):
        run = _move_compiled if depth.device.type == "cpu" else _move_by_chunks
        inputs = depth.detach(), world_from_image.detach(), image_from_world.detach()
        value, count, *gradients = run(flows, *inputs, limit, chunk_mib)
        scale = 1 / count.clamp(min=1)
        ctx.save_for_backward(*(scale * gradient for gradient in gradients))
        return scale * value

    @staticmethod
    def backward(ctx, slope):
        return *(slope * gradient for gradient in ctx.saved_tensors), None, None, None


def _align_compiled(pairs, depth, world_from_image, world_from_pair, _):
    first, edge, second = pairs.by_frame
    value = np.zeros(len(edge))
    grad_depth, grad_image = torch.empty_like(depth), torch.zeros_like(world_from_image, dtype=torch.float64)
    grad_pair = np.zeros((len(edge), 3, 4))
    kernels.over_frames(
        kernels.global_alignment_pass, len(depth), first, edge, second,
        *(stored_bits(xyz.flatten(1)) for xyz in pairs.xyz), *(stored_bits(weight) for weight in pairs.weight),
        pairs.unit.numpy(), world_from_pair[:, :3].contiguous().numpy(), pairs.pixels.numpy(),
        depth.contiguous().numpy(), world_from_image.contiguous().numpy(), value, grad_depth.numpy(),
        grad_image.numpy(), grad_pair,
    )  # fmt: skip
    similarity = torch.zeros(len(pairs.edges), 3, 4, dtype=torch.float64)
    similarity.index_add_(0, torch.from_numpy(edge), torch.from_numpy(grad_pair))
    return depth.new_tensor(value.sum()), grad_depth, grad_image.to(depth), similarity.to(depth)


def _move_compiled(flows, depth, world_from_image, image_from_world, limit, _):
    first, leaving = flows.by_frame
    target = flows.edges[:, 1]
    value, count = np.zeros(len(leaving)), np.zeros(len(leaving))
    grad_depth, grad_image = torch.empty_like(depth), torch.zeros_like(world_from_image, dtype=torch.float64)
    grad_edge = torch.zeros(len(leaving), 3, 4, dtype=torch.float64)
    kernels.over_frames(
        kernels.camera_motion_pass, len(depth), first, leaving, flows.flow.flatten(1).numpy(), flows.static.numpy(),
        image_from_world[target].numpy(), flows.pixels.numpy(), depth.contiguous().numpy(),
        world_from_image.contiguous().numpy(), depth.new_tensor(limit).numpy()[()], value, count, grad_depth.numpy(),
        grad_image.numpy(), grad_edge.numpy(),
    )  # fmt: skip
    grad_target = torch.zeros_like(grad_image).index_add_(0, target, grad_edge)
    sums = depth.new_tensor(value.sum()), depth.new_tensor(count.sum())
    return *sums, grad_depth, grad_image.to(depth), grad_target.to(depth)


def _align_by_chunks(pairs, depth, world_from_image, world_from_pair, chunk_mib):
    points = _place(pairs.pixels, depth, world_from_image)
    value, slope = depth.new_zeros(()), torch.zeros_like(points)
    grad_pair = torch.zeros_like(world_from_pair[:, :3])
    for chunk in _chunks(pairs.edges, depth, chunk_mib):
        for member in (0, 1):
            frame = pairs.edges[chunk, member]
            xyz = pairs.xyz[member][chunk].to(depth) * pairs.unit[chunk, None, None]
            away = torch.baddbmm(world_from_pair[chunk, None, :3, 3], xyz, world_from_pair[chunk, :3, :3].mT)
            away -= points[frame]
            length = away.norm(dim=-1)
            weight = pairs.weight[member][chunk].to(depth)
            value += (weight * length).sum()
            away *= (weight / length.clamp(min=1e-15))[..., None]
            slope.index_add_(0, frame, away, alpha=-1)
            grad_pair[chunk, :, :3] += away.mT @ xyz
            grad_pair[chunk, :, 3] += away.sum(1)
    return value, *_place_backward(pairs.pixels, depth, world_from_image, slope), grad_pair


def _move_by_chunks(flows, depth, world_from_image, image_from_world, limit, chunk_mib):
    points = _place(flows.pixels, depth, world_from_image)
    value, count, slope = depth.new_zeros(()), depth.new_zeros(()), torch.zeros_like(points)
    grad_image = torch.zeros_like(image_from_world)
    for chunk in _chunks(flows.edges, depth, chunk_mib):
        n, m = flows.edges[chunk].unbind(-1)
        xyz, image = points[n], image_from_world[m]
        projected = torch.baddbmm(image[:, None, :, 3], xyz, image[:, :, :3].mT)
        ahead = projected[..., 2] > 1e-3
        inverse = 1 / torch.where(ahead, projected[..., 2], 1.0)
        uv = projected[..., :2] * inverse[..., None]
        error = uv - flows.pixels.T - flows.flow[chunk].to(depth)
        size = error.abs()
        kept = ((size < limit) & (flows.static[chunk] & ahead)[..., None]).to(depth)
        capped = size.clamp(max=1)
        value += (kept * capped * (size - capped / 2)).sum()
        count += kept.sum()
        pull = kept * capped * error.sign() * inverse[..., None]
        pull = torch.cat([pull, -(pull * uv).sum(-1, keepdim=True)], -1)
        slope.index_add_(0, n, pull @ image[:, :, :3])
        grad_image.index_add_(0, m, torch.cat([pull.mT @ xyz, pull.sum(1)[..., None]], -1))
    return value, count, *_place_backward(flows.pixels, depth, world_from_image, slope), grad_image


def _place(pixels: Tensor, depth: Tensor, world_from_image: Tensor) -> Float[Tensor, "t p 3"]:
    ray = torch.cat([pixels, torch.ones_like(pixels[:1])]).T @ world_from_image[:, :, :3].mT
    return world_from_image[:, None, :, 3] + depth[..., None] * ray


def _place_backward(pixels: Tensor, depth: Tensor, world_from_image: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    uv1 = torch.cat([pixels, torch.ones_like(pixels[:1])]).T
    rotated = (depth[..., None] * slope).mT @ uv1
    return (slope * (uv1 @ world_from_image[:, :, :3].mT)).sum(-1), torch.cat([rotated, slope.sum(1)[..., None]], -1)


def _chunks(edges: Tensor, depth: Tensor, mib: int) -> tuple[Tensor, ...]:
    """Edges by as many as fit: about 16 numbers a pixel are alive at once."""
    at_once = max(1, mib * 2**20 // (16 * depth.shape[1] * depth.element_size()))
    return torch.arange(len(edges), device=edges.device).split(at_once)


def _group(frame: Int[Tensor, "m"], t: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ``frame`` sorted by their frame, and where each frame's begin and the last one's end."""
    order = frame.sort(stable=True).indices.cpu().numpy()
    counts = torch.bincount(frame.cpu(), minlength=t)
    return order, np.concatenate([[0], counts.cumsum(0).numpy()])


def _information(confidence: Float[Tensor, "e h w"], dtype: torch.dtype) -> Float[Tensor, "e p"]:
    """log confidence, edge by edge; less than 1 counts as 1, no information."""
    weight = torch.empty(confidence.shape, dtype=dtype, device=confidence.device)
    for i, conf in enumerate(confidence):
        weight[i] = conf.to(torch.promote_types(conf.dtype, torch.float32)).clamp(min=1).log()
    return weight.flatten(1)


def _in_half(xyz: Float[Tensor, "e h w 3"], unit: Float[Tensor, "e"]) -> Float[Tensor, "e h w 3"]:
    half = torch.empty(xyz.shape, dtype=torch.float16, device=xyz.device)
    for i in range(len(xyz)):
        half[i] = xyz[i] / unit[i]
    return half


def stored_bits(values: Tensor) -> np.ndarray:
    """As an array for the compiled passes, which know half precision by its bits."""
    array = values.numpy()
    return array.view(np.uint16) if array.dtype == np.float16 else array
