"""What stage 1 is given, checked once for every solver."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from c4d_nb.alignment.initialise import estimate_focal, thin
from c4d_nb.camera import pinhole
from c4d_nb.clip import PairPointmaps, check_intrinsics
from c4d_nb.errors import InputError


@dataclass(frozen=True, eq=False)
class Problem:
    """Pairs of ``t`` frames, and what is known beside them."""

    pairs: PairPointmaps
    intrinsics: Float[Tensor, "t 3 3"]
    """Known, or where the search for the focal length begins."""
    known_intrinsics: bool
    world_from_cam: Float[Tensor, "t 4 4"] | None
    """Known poses."""
    flows: Float[Tensor, "e h w 2"] | None
    static: Bool[Tensor, "e h w"]
    """Where flow is that of static points."""

    def __len__(self) -> int:
        return len(self.intrinsics)

    def on_cpu(self) -> "Problem":
        """In single precision; pointmaps in half precision stay."""

        def moved(values: Tensor | None) -> Tensor | None:
            double = values is not None and values.dtype == torch.float64
            return None if values is None else values.to("cpu", torch.float32 if double else values.dtype)

        pairs = PairPointmaps(*(moved(getattr(self.pairs, field.name)) for field in fields(PairPointmaps)))
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: moved(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, pairs=pairs, **tensors)


def check_problem(
    pairs: PairPointmaps,
    flows: Float[Tensor, "e h w 2"] | None,
    motion_masks: Bool[Tensor, "t h w"] | None,
    flow_valid: Bool[Tensor, "e h w"] | None,
    intrinsics: Float[Tensor, "t 3 3"] | None,
    focal_px: float | None,
    world_from_cam: Float[Tensor, "t 4 4"] | None,
) -> Problem:
    """Raises ``InputError`` for what cannot be aligned: wrong shapes, pointmaps that are not finite, frames without an
    edge, no confidence anywhere. That the graph is connected shows when its spanning tree is made."""
    t = _check_pairs(pairs)
    _check_shapes(pairs, t, flows, motion_masks, flow_valid, intrinsics, world_from_cam)
    if intrinsics is not None and focal_px is not None:
        raise InputError("focal_px: expected none beside intrinsics, but both are given")
    if world_from_cam is not None:
        _check_poses(world_from_cam)
    known = intrinsics is not None or focal_px is not None
    if intrinsics is None:
        h, w = pairs.conf_1.shape[1:]
        focal = _guess_focal(pairs) if focal_px is None else torch.tensor(focal_px)
        intrinsics = pinhole(focal, h, w).expand(t, 3, 3)
    static = torch.ones_like(pairs.conf_1, dtype=torch.bool) if flow_valid is None else flow_valid
    if motion_masks is not None:
        static = static & ~motion_masks[pairs.edges[:, 0]]
    precision = torch.float64 if pairs.xyz_1.dtype == torch.float64 else torch.float32
    K = check_intrinsics(intrinsics).to(pairs.xyz_1.device, precision)
    return Problem(pairs, K, known, world_from_cam, flows, static)


def _guess_focal(pairs: PairPointmaps, limit: int = 32) -> Float[Tensor, ""]:
    """The median of the focal lengths of ``limit`` pairs; the image's longer side where none has one."""
    chosen = thin(len(pairs.edges), limit)
    xyz, confidence = pairs.xyz_1[chosen].float(), pairs.conf_1[chosen].float().clamp(min=1).log()
    focal = estimate_focal(xyz, confidence)
    sound = focal[focal.isfinite() & (focal > 0)]
    return sound.median() if len(sound) else focal.new_tensor(float(max(pairs.conf_1.shape[1:])))


def _check_pairs(pairs: PairPointmaps) -> int:
    """The number of frames."""
    if len(pairs.edges) == 0:
        raise InputError("edges: expected at least one pair of frames, but there is none")
    if pairs.edges.min() < 0:
        raise InputError(f"edges: expected frame numbers from 0, but one is {int(pairs.edges.min())}")
    for name in ("xyz_1", "xyz_2", "conf_1", "conf_2"):
        for edge, values in zip(pairs.edges.tolist(), getattr(pairs, name), strict=True):
            if not values.sum().isfinite() and not values.isfinite().all():
                raise InputError(f"{name}: expected finite numbers, but there is NaN or infinity in the pair {edge}")
    if not pairs.xyz_1.any() and not pairs.xyz_2.any():
        raise InputError("xyz_1, xyz_2: expected points at some distance, but all are in their camera's centre")
    if max(float(pairs.conf_1.max()), float(pairs.conf_2.max())) <= 1:
        raise InputError("conf_1, conf_2: expected some confidence above 1, but no pair knows anything")
    t = int(pairs.edges.max()) + 1
    missing = sorted(set(range(t)) - set(pairs.edges.flatten().tolist()))
    if missing:
        raise InputError(f"edges: expected at least one edge at each of {t} frames, but there is none at {missing}")
    return t


def _check_poses(world_from_cam: Float[Tensor, "t 4 4"]) -> None:
    rotation = world_from_cam[:, :3, :3].double()
    eye = torch.eye(3, dtype=torch.float64, device=rotation.device)
    if not world_from_cam.isfinite().all():
        raise InputError("world_from_cam: expected finite numbers, but there is NaN or infinity among them")
    if (rotation @ rotation.mT - eye).abs().max() > 1e-3 or (rotation.det() < 0).any():
        raise InputError("world_from_cam: expected rotations in the upper left 3x3, but one is not orthonormal")


def _check_shapes(
    pairs: PairPointmaps,
    t: int,
    flows: Tensor | None,
    motion_masks: Tensor | None,
    flow_valid: Tensor | None,
    intrinsics: Tensor | None,
    world_from_cam: Tensor | None,
) -> None:
    e, h, w = pairs.conf_1.shape
    expected = {
        "flows": (flows, (e, h, w, 2)),
        "motion_masks": (motion_masks, (t, h, w)),
        "flow_valid": (flow_valid, (e, h, w)),
        "intrinsics": (intrinsics, (t, 3, 3)),
        "world_from_cam": (world_from_cam, (t, 4, 4)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise InputError(f"{name}: expected shape {shape} to go with the pairs, but it is {tuple(value.shape)}")
