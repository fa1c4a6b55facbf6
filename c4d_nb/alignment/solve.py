"""Two-stage optimisation (supplement of C4D): depth, poses and intrinsics by GA + CMA + CTS, then depth by PTS."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import trange

from c4d_nb.alignment.fused import (
    PackedFlows,
    PackedPairs,
    fused_camera_motion,
    fused_global_alignment,
    image_maps,
    pack_flows,
    pack_pairs,
)
from c4d_nb.alignment.initialise import Guess, frame_confidence, initialise, place_at
from c4d_nb.alignment.inputs import Problem, check_problem
from c4d_nb.alignment.objectives import camera_trajectory_smoothness, frame_points, point_trajectory_smoothness
from c4d_nb.alignment.state import Alignment, Scene, Snapshot, view_gap
from c4d_nb.camera import invert, pixel_grid, pose, rays, transform
from c4d_nb.clip import PairPointmaps

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Stage1Config:
    """What every solver of stage 1 is told; the weights are the supplement's."""

    weight_ga: float = 1.0
    weight_cma: float = 0.01
    weight_cts: float = 0.01
    shared_focal: bool = True
    """One focal length for the whole video."""
    half_precision: bool = False
    """Whether a copy of the pointmaps in half precision is worked on (a third faster)."""
    chunk_mib: int = 256
    """Bound on the memory of what torch makes in between on a GPU; the compiled passes of the CPU keep nothing."""
    record_every: int = 0
    """Every so many iterations a ``Snapshot`` is taken; 0: never."""


@dataclass(frozen=True)
class AlignConfig(Stage1Config):
    """The supplement's numbers; what it does not say follows the published predecessors."""

    iterations: int = 300
    learning_rate: float = 0.01
    final_learning_rate: float = 0.001
    """Reached linearly (MonST3R)."""
    betas: tuple[float, float] = (0.9, 0.9)
    """Of Adam (MonST3R)."""
    cma_start: float = 0.1
    """The share of the iterations before CMA begins (MonST3R)."""


@dataclass(frozen=True)
class RefineConfig:
    """Stage 2: the supplement's numbers; that the rate decays is ours."""

    iterations: int = 300
    learning_rate: float = 0.01
    final_learning_rate: float = 0.0001
    """Reached linearly: at a constant rate Adam keeps circling the kink of the norm, 0.3 % off."""


def align(
    pairs: PairPointmaps,
    *,
    flows: Float[Tensor, "e h w 2"] | None = None,
    motion_masks: Bool[Tensor, "t h w"] | None = None,
    flow_valid: Bool[Tensor, "e h w"] | None = None,
    intrinsics: Float[Tensor, "t 3 3"] | None = None,
    focal_px: float | None = None,
    world_from_cam: Float[Tensor, "t 4 4"] | None = None,
    config: AlignConfig = AlignConfig(),
    on_step: Callable[[Snapshot], None] | None = None,
) -> Alignment:
    """Stage 1 as the paper solves it: bring all pairs into one world. Free are depth, poses and focal; the principal
    point stays.

    ``flows`` (px of the pointmaps' pixels) drive CMA at pixels that are not in ``motion_masks`` and are
    ``flow_valid``; without flows there is no CMA, and neither is there where every pixel is masked. Known
    ``intrinsics``, a known focal length (principal point in the middle) and known poses are kept as they are; with
    poses, the result has their scale. ``on_step`` is called with each snapshot (``config.record_every``).

    Raises ``InputError`` for wrong shapes, pointmaps that are not finite, a graph that does not join all frames, and
    where no pair has any confidence.
    """
    problem = check_problem(pairs, flows, motion_masks, flow_valid, intrinsics, focal_px, world_from_cam)
    return descend(problem, begin(problem), config, on_step)


def begin(problem: Problem) -> Guess:
    """The first guess of every solver, at the known poses where there are any."""
    guess = initialise(problem.pairs, problem.intrinsics)
    return guess if problem.world_from_cam is None else place_at(guess, problem.world_from_cam, problem.pairs.edges)


def descend(
    problem: Problem, guess: Guess, config: AlignConfig, on_step: Callable[[Snapshot], None] | None = None
) -> Alignment:
    """Adam on the weighted sum of GA, CMA and CTS, from ``guess``."""
    known_poses = problem.world_from_cam is not None
    scene = Scene(
        guess,
        shared_focal=config.shared_focal,
        known_intrinsics=problem.known_intrinsics,
        known_poses=known_poses,
    )
    packed = pack_pairs(problem.pairs, len(problem), half=config.half_precision)
    moved = None if problem.flows is None else pack_flows(problem.flows, problem.static, packed.edges, len(problem))

    def objective(progress: float) -> Terms:
        return weighted_terms(scene, packed, moved if progress >= config.cma_start else None, config)

    parameters, history = scene.parameters(), []
    rates = config.learning_rate, config.final_learning_rate
    losses: dict[str, list[float]] = {}
    for step, terms in _adam(objective, parameters, config.iterations, *rates, config.betas):
        _log(losses, step, terms)
        if config.record_every and step % config.record_every == 0:
            history.append(snapshot(step, terms, scene, packed.edges))
            if on_step is not None:
                on_step(history[-1])
    with torch.no_grad():
        found = Alignment(
            depth=scene.depth(),
            confidence=frame_confidence(problem.pairs, len(problem)),
            intrinsics=scene.intrinsics(),
            world_from_cam=scene.world_from_cam(),
            world_from_pair=scene.world_from_pair(),
            losses={name: torch.tensor(values) for name, values in losses.items()},
            history=tuple(history),
        )
    return in_units_of(problem.world_from_cam, found) if known_poses else found


def weighted_terms(scene: Scene, pairs: PackedPairs, flows: PackedFlows | None, config: Stage1Config) -> Terms:
    """GA, CMA where there are flows, and CTS where poses are free, each times its weight."""
    world_from_cam, K = scene.world_from_cam(), scene.intrinsics()
    depth, (from_image, to_image) = scene.depth().flatten(1), image_maps(world_from_cam, K)
    memory = {"chunk_mib": config.chunk_mib}
    terms = {"ga": fused_global_alignment(pairs, depth, from_image, scene.world_from_pair(), **memory)}
    if flows is not None:
        terms["cma"] = fused_camera_motion(flows, depth, from_image, to_image, **memory)
    if not scene.known_poses:
        terms["cts"] = camera_trajectory_smoothness(world_from_cam)
    weights = {"ga": config.weight_ga, "cma": config.weight_cma, "cts": config.weight_cts}
    return {name: weights[name] * value for name, value in terms.items()}


def snapshot(step: int, terms: Terms, scene: Scene, edges: Int[Tensor, "e 2"]) -> Snapshot:
    """What is recorded of a scene whose objectives are ``terms``."""

    def gradient_norm(term: Tensor) -> float:
        gradients = torch.autograd.grad(term, scene.parameters(), retain_graph=True, allow_unused=True)
        return sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5

    with torch.no_grad():
        K, world_from_cam = scene.intrinsics(), scene.world_from_cam()
        gap = view_gap(scene.depth(), K, world_from_cam, edges)
    return Snapshot(
        iteration=step,
        value={name: term.item() for name, term in terms.items()},
        gradient_norm={name: gradient_norm(term) for name, term in terms.items()},
        world_from_cam=world_from_cam,
        focal_px=K[:, 0, 0].clone(),
        gap=gap,
    )


def refine_depth(
    alignment: Alignment,
    smoothed: Float[Tensor, "t h w 3"],
    config: RefineConfig = RefineConfig(),
) -> Alignment:
    """Stage 2 (PTS): move depth, and only depth, until the pointmaps meet their ``smoothed`` version in the world."""
    log_depth = alignment.depth.log().requires_grad_()
    target = smoothed.flatten(1, 2).mT

    def objective(progress: float) -> Terms:
        xyz_world = frame_points(log_depth.exp(), alignment.intrinsics, alignment.world_from_cam)
        return {"pts": point_trajectory_smoothness(xyz_world, target)}

    rates = config.learning_rate, config.final_learning_rate
    losses: dict[str, list[float]] = {}
    for step, terms in _adam(objective, [log_depth], config.iterations, *rates, betas=(0.9, 0.999)):
        _log(losses, step, terms)
    found = {name: torch.tensor(values) for name, values in losses.items()}
    return replace(alignment, depth=log_depth.detach().exp(), losses=alignment.losses | found)


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


def _adam(
    objective: Callable[[float], Terms],
    parameters: list[Tensor],
    iterations: int,
    learning_rate: float,
    final_learning_rate: float,
    betas: tuple[float, float],
) -> Iterator[tuple[int, Terms]]:
    """Adam on the sum of the objective's terms, which are handed over before each step; the rate falls linearly."""
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, betas=betas, fused=True)
    progress = trange(iterations, desc="optimisation", leave=False)
    for step in progress:
        share = step / max(1, iterations - 1)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate + share * (final_learning_rate - learning_rate)
        terms = objective(step / iterations)
        yield step, terms
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        if step % 10 == 0:
            progress.set_postfix({name: f"{value.item():.4g}" for name, value in terms.items()})


def _log(losses: dict[str, list[float]], step: int, terms: Terms) -> None:
    """Each term's value at every iteration; NaN before the first."""
    for name, value in terms.items():
        losses.setdefault(name, [float("nan")] * step).append(value.item())


def in_units_of(known: Float[Tensor, "t 4 4"], found: Alignment) -> Alignment:
    """The scene at the scale of the ``known`` poses, which then are its poses. Where these lie in one point they have
    no scale, and the scene keeps its own."""
    there, here = known[:, :3, 3].double(), found.world_from_cam[:, :3, 3].double()
    unit = (here * there).sum() / there.square().sum()
    unit = unit.to(found.depth) if unit.isfinite() and unit > 0 else found.depth.new_ones(())
    pairs = pose(found.world_from_pair[:, :3, :3] / unit, found.world_from_pair[:, :3, 3] / unit)
    return replace(found, depth=found.depth / unit, world_from_cam=known, world_from_pair=pairs)
