"""Two-stage optimisation (supplement of C4D): depth, poses and intrinsics by GA + CMA + CTS, then depth by PTS."""

from dataclasses import dataclass, field, replace

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import trange

from c4d_nb.alignment.initialise import Guess, estimate_focal, frame_confidence, initialise
from c4d_nb.alignment.objectives import (
    camera_motion_alignment,
    camera_trajectory_smoothness,
    frame_points,
    global_alignment,
    observations,
    point_trajectory_smoothness,
)
from c4d_nb.camera import invert, pinhole, pixel_grid, pose, rays, transform
from c4d_nb.clip import PairPointmaps, check_intrinsics
from c4d_nb.errors import InputError


@dataclass(frozen=True)
class AlignConfig:
    """The supplement's numbers; what it does not say follows the published predecessors."""

    weight_ga: float = 1.0
    weight_cma: float = 0.01
    weight_cts: float = 0.01
    iterations: int = 300
    learning_rate: float = 0.01
    final_learning_rate: float = 0.001
    """Reached linearly (MonST3R)."""
    betas: tuple[float, float] = (0.9, 0.9)
    """Of Adam (MonST3R)."""
    cma_start: float = 0.1
    """The share of the iterations before CMA begins (MonST3R)."""
    shared_focal: bool = True
    """One focal length for the whole video."""


@dataclass(frozen=True)
class RefineConfig:
    """Stage 2: the supplement's numbers; that the rate decays is ours."""

    iterations: int = 300
    learning_rate: float = 0.01
    final_learning_rate: float = 0.0001
    """Reached linearly: at a constant rate Adam keeps circling the kink of the norm, 0.3 % off."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A consistent scene at the resolution of the pointmaps."""

    depth: Float[Tensor, "t h w"]
    confidence: Float[Tensor, "t h w"]
    intrinsics: Float[Tensor, "t 3 3"]
    world_from_cam: Float[Tensor, "t 4 4"]
    world_from_pair: Float[Tensor, "e 4 4"]
    """Each pair's similarity, scale multiplied in."""
    losses: dict[str, Float[Tensor, "i"]] = field(default_factory=dict)

    def xyz_world(self) -> Float[Tensor, "t h w 3"]:
        return frame_points(self.depth, self.intrinsics, self.world_from_cam).mT.reshape(*self.depth.shape, 3)


def align(
    pairs: PairPointmaps,
    *,
    flows: Float[Tensor, "e h w 2"] | None = None,
    motion_masks: Bool[Tensor, "t h w"] | None = None,
    flow_valid: Bool[Tensor, "e h w"] | None = None,
    intrinsics: Float[Tensor, "t 3 3"] | None = None,
    config: AlignConfig = AlignConfig(),
) -> Alignment:
    """Stage 1: bring all pairs into one world. Free are depth, poses and focal; the principal point stays.

    ``flows`` (px of the pointmaps' pixels) drive CMA at pixels that are not in ``motion_masks`` and are
    ``flow_valid``; without flows there is no CMA. Known ``intrinsics`` are kept as they are.
    """
    t = int(pairs.edges.max()) + 1
    h, w = pairs.conf_1.shape[1:]
    _check_shapes(pairs, t, flows, motion_masks, flow_valid, intrinsics)
    known = intrinsics is not None
    if not known:
        focal = estimate_focal(pairs.xyz_1, pairs.conf_1.log()).median()
        intrinsics = pinhole(focal, h, w).expand(t, 3, 3)
    scene = _Scene(initialise(pairs, check_intrinsics(intrinsics)), config.shared_focal, known)
    observed = observations(pairs)
    static = torch.ones(pairs.conf_1.shape, dtype=torch.bool) if flow_valid is None else flow_valid
    if motion_masks is not None:
        static = static & ~motion_masks[pairs.edges[:, 0]]

    def objective(progress: float) -> dict[str, Tensor]:
        world_from_cam, K = scene.world_from_cam(), scene.intrinsics()
        xyz_world = frame_points(scene.depth(), K, world_from_cam)
        terms = {"ga": config.weight_ga * global_alignment(observed, xyz_world, scene.world_from_pair())}
        if flows is not None and progress >= config.cma_start:
            cma = camera_motion_alignment(flows, static, pairs.edges, xyz_world, invert(world_from_cam), K)
            terms["cma"] = config.weight_cma * cma
        terms["cts"] = config.weight_cts * camera_trajectory_smoothness(world_from_cam)
        return terms

    losses = _minimise(
        objective, scene.parameters(), config.iterations, config.learning_rate, config.final_learning_rate, config.betas
    )
    with torch.no_grad():
        return Alignment(
            depth=scene.depth(),
            confidence=frame_confidence(pairs, t),
            intrinsics=scene.intrinsics(),
            world_from_cam=scene.world_from_cam(),
            world_from_pair=scene.world_from_pair(),
            losses=losses,
        )


def refine_depth(
    alignment: Alignment,
    smoothed: Float[Tensor, "t h w 3"],
    config: RefineConfig = RefineConfig(),
) -> Alignment:
    """Stage 2 (PTS): move depth, and only depth, until the pointmaps meet their ``smoothed`` version in the world."""
    log_depth = alignment.depth.log().requires_grad_()
    target = smoothed.flatten(1, 2).mT

    def objective(progress: float) -> dict[str, Tensor]:
        xyz_world = frame_points(log_depth.exp(), alignment.intrinsics, alignment.world_from_cam)
        return {"pts": point_trajectory_smoothness(xyz_world, target)}

    rates = config.learning_rate, config.final_learning_rate
    losses = _minimise(objective, [log_depth], config.iterations, *rates, betas=(0.9, 0.999))
    return replace(alignment, depth=log_depth.detach().exp(), losses=alignment.losses | losses)


def nearest_depth(
    smoothed: Float[Tensor, "t h w 3"], intrinsics: Float[Tensor, "t 3 3"], world_from_cam: Float[Tensor, "t 4 4"]
) -> Float[Tensor, "t h w"]:
    """What ``refine_depth`` converges to, in closed form: the foot of the perpendicular from the target on the
    pixel's ray."""
    t, h, w = smoothed.shape[:3]
    xyz_cam = transform(invert(world_from_cam), smoothed.flatten(1, 2))
    ray = rays(intrinsics, pixel_grid(h, w, like=smoothed).reshape(-1, 2))
    depth = (xyz_cam * ray).sum(-1) / ray.square().sum(-1)
    return depth.clamp(min=1e-6).reshape(t, h, w)


class _Scene:
    """The free parameters of stage 1 in DUSt3R's encoding, and the values they stand for.

    Log-depth; quaternions normalised on use; translations as ``sign(x) log(1 + |x|)``; focal as 20 log f; a log-scale
    a pair whose mean is pinned (geometric mean one half), or everything would shrink to a point.
    """

    def __init__(self, guess: Guess, shared_focal: bool, known_intrinsics: bool):
        self.log_depth = guess.depth.log()
        self.cameras = _encode_pose(guess.world_from_cam)
        scale = guess.world_from_pair[:, :3, :3].det().pow(1 / 3)
        rigid = pose(guess.world_from_pair[:, :3, :3] / scale[:, None, None], guess.world_from_pair[:, :3, 3])
        self.pairs, self.log_scale = _encode_pose(rigid), scale.log()
        self.start = guess.intrinsics
        self.focal_code = torch.zeros(1 if shared_focal else len(guess.depth)).to(guess.depth)
        free = [self.log_depth, *self.cameras, *self.pairs, self.log_scale]
        self._free = free if known_intrinsics else [*free, self.focal_code]

    def parameters(self) -> list[Tensor]:
        return [parameter.requires_grad_() for parameter in self._free]

    def depth(self) -> Float[Tensor, "t h w"]:
        return self.log_depth.exp()

    def intrinsics(self) -> Float[Tensor, "t 3 3"]:
        factor = (self.focal_code / 20).exp().expand(len(self.start))
        ones = torch.ones_like(factor)
        rows = torch.stack([torch.stack([factor, factor, ones], -1)] * 2 + [torch.stack([ones] * 3, -1)], -2)
        return self.start * rows

    def world_from_cam(self) -> Float[Tensor, "t 4 4"]:
        return _decode_pose(*self.cameras)

    def world_from_pair(self) -> Float[Tensor, "e 4 4"]:
        scale = 0.5 * (self.log_scale - self.log_scale.mean()).exp()
        rigid = _decode_pose(*self.pairs)
        return pose(scale[:, None, None] * rigid[:, :3, :3], rigid[:, :3, 3])


def _encode_pose(b_from_a: Tensor) -> tuple[Tensor, Tensor]:
    translation = b_from_a[:, :3, 3]
    return roma.rotmat_to_unitquat(b_from_a[:, :3, :3]), translation.sign() * translation.abs().log1p()


def _decode_pose(quaternion: Tensor, code: Tensor) -> Tensor:
    rotation = roma.unitquat_to_rotmat(quaternion / quaternion.norm(dim=-1, keepdim=True))
    return pose(rotation, code.sign() * code.abs().expm1())


def _minimise(objective, parameters, iterations, learning_rate, final_learning_rate, betas) -> dict[str, Tensor]:
    """Adam on the sum of the objective's terms; returns each term's value (unweighted by time) at every iteration."""
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, betas=betas)
    history: dict[str, list[float]] = {}
    progress = trange(iterations, desc="optimisation", leave=False)
    for step in progress:
        share = step / max(1, iterations - 1)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate + share * (final_learning_rate - learning_rate)
        terms = objective(step / iterations)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        for name, value in terms.items():
            history.setdefault(name, [float("nan")] * step).append(value.item())
        if step % 10 == 0:
            progress.set_postfix({name: f"{values[-1]:.4g}" for name, values in history.items()})
    return {name: torch.tensor(values) for name, values in history.items()}


def _check_shapes(
    pairs: PairPointmaps,
    t: int,
    flows: Tensor | None,
    motion_masks: Tensor | None,
    flow_valid: Tensor | None,
    intrinsics: Tensor | None,
) -> None:
    e, h, w = pairs.conf_1.shape
    expected = {
        "flows": (flows, (e, h, w, 2)),
        "motion_masks": (motion_masks, (t, h, w)),
        "flow_valid": (flow_valid, (e, h, w)),
        "intrinsics": (intrinsics, (t, 3, 3)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise InputError(f"{name}: expected shape {shape} to go with the pairs, but it is {tuple(value.shape)}")
