"""A second solver of stage 1, by closed forms: what Adam reaches in hundreds of small steps, in a dozen large ones.

Each round treats the distances of GA, the errors of CMA and the steps of CTS as squares of their present weight
(iteratively reweighted least squares) and solves in turn

1. the cameras and the focal length, while each pixel's depth answers any motion along its ray;
2. depth, pixel by pixel: the point of the ray that is nearest to all that is said of it;
3. the pairs' similarities and, with them, one similarity a frame: what bends or stretches the whole video, which
   nothing that moves frames or pairs alone would straighten soon;
4. depth again.

Depth has to answer each of the two moves before the other one looks: pairs that follow points which a camera has left
behind make each round undo a little more than the last did, and where inputs are exact nothing else stops that. A round
that raises the objectives' sum is not kept.

A dozen rounds look at every s-th pixel only; a few at all of them. Scale is pinned as in ``align``: at the optimum
every pair's wish to shrink is the same, ``sigma dGA/dsigma = GA / e``, and that enters step 3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from c4d_nb.alignment import closed_forms, kernels
from c4d_nb.alignment.fused import PackedFlows, PackedPairs, image_maps, pack_flows, pack_pairs, stored_bits
from c4d_nb.alignment.initialise import Guess, frame_confidence
from c4d_nb.alignment.inputs import Problem, check_problem
from c4d_nb.alignment.normal import (
    FOCAL,
    SCALE,
    NormalEquations,
    between_frames,
    columns,
    similarity_quadratics,
    smoothness_gram,
    unit_column,
    zoom_column,
)
from c4d_nb.alignment.objectives import camera_trajectory_smoothness
from c4d_nb.alignment.solve import Stage1Config, begin, in_units_of, snapshot, weighted_terms
from c4d_nb.alignment.state import Alignment, Scene, Snapshot, view_gap
from c4d_nb.camera import pose
from c4d_nb.clip import PairPointmaps
from c4d_nb.errors import InputError

POSE = [0, 1, 2, 3, 4, 5]
SOFTENING = 1e-3
"""Distances below this share of the median depth count as that long when they are weighed."""
MAX_ERROR_PX = np.float32(50)
BEYOND = 1.4
"""Step over the one that is solved for: reweighted steps fall short."""
SHORTEST = BEYOND / 8
"""A round that raises the sum is tried anew with steps half as long, down to this; then the rounds end."""


@dataclass(frozen=True)
class FastConfig(Stage1Config):
    """The supplement's weights; the rest is ours."""

    pixels: int = 1024
    """Of each frame, at most, that the first rounds look at."""
    rounds: int = 30
    """At most; fewer where the objectives' sum falls by less than ``tolerance`` of it."""
    tolerance: float = 5e-5
    full_rounds: int = 2
    """Rounds with every pixel."""


@dataclass(frozen=True, eq=False)
class _Level:
    """The pixels that are looked at."""

    pairs: PackedPairs
    flows: PackedFlows | None
    thinned: Int[Tensor, "q"]
    """Those among them that tell how CMA moves the cameras."""
    thin_flows: PackedFlows | None


@dataclass(eq=False)
class _State:
    """The scene while it is solved; in double precision but for depth."""

    depth: Float[Tensor, "t p"]
    world_from_cam: Float[Tensor, "t 4 4"]
    world_from_pair: Float[Tensor, "e 4 4"]
    intrinsics: Float[Tensor, "t 3 3"]


@dataclass(frozen=True, eq=False)
class _Settled:
    """What depth leaves: the objectives (GA after it, CMA before), and how GA pulls each camera."""

    losses: dict[str, float]
    rays: Float[Tensor, "t 8 8"]
    motion_scale: float
    """Of CMA's sum beside GA's."""

    @property
    def sum(self) -> float:
        return sum(self.losses.values())


def align_fast(
    pairs: PairPointmaps,
    *,
    flows: Float[Tensor, "e h w 2"] | None = None,
    motion_masks: Bool[Tensor, "t h w"] | None = None,
    flow_valid: Bool[Tensor, "e h w"] | None = None,
    intrinsics: Float[Tensor, "t 3 3"] | None = None,
    focal_px: float | None = None,
    world_from_cam: Float[Tensor, "t 4 4"] | None = None,
    config: FastConfig = FastConfig(),
    on_step: Callable[[Snapshot], None] | None = None,
) -> Alignment:
    """Stage 1 solved by closed forms. Inputs, objectives, result and errors are those of ``align``; ``losses`` has a
    value a round, of the best scene up to then, and snapshots are of the pixels that the round looks at. It works on
    the CPU in single precision, wherever its inputs are. Raises ``InputError``, too, where nearly no pixel has
    confidence and flow alone cannot hold the depth."""
    problem = check_problem(pairs, flows, motion_masks, flow_valid, intrinsics, focal_px, world_from_cam).on_cpu()
    return alternate(problem, begin(problem), config, on_step).to(pairs.xyz_1.device)


def alternate(
    problem: Problem, guess: Guess, config: FastConfig, on_step: Callable[[Snapshot], None] | None = None
) -> Alignment:
    """Rounds of closed forms, from ``guess``; the first ones with every s-th pixel."""
    t, h, w = guess.depth.shape
    stride = max(1, math.ceil((h * w / config.pixels) ** 0.5))
    grid = torch.arange(h * w).reshape(h, w)[stride // 2 :: stride, stride // 2 :: stride].reshape(-1)
    with_flows = problem.flows is not None and config.weight_cma > 0
    whole, level = _levels(problem, grid, half=config.half_precision, with_flows=with_flows)
    start = guess.depth.flatten(1).float()
    state = _State(
        start[:, grid], guess.world_from_cam.double(), guess.world_from_pair.double(), guess.intrinsics.double()
    )
    _pin_scale(state)
    losses, history = [], []
    progress = tqdm(total=config.rounds + config.full_rounds, desc="closed forms", leave=False)

    def go(level: _Level, state: _State, rounds: int, first_repeats: int) -> _State:
        settled, beyond = _settle(level, state, config, first_repeats), BEYOND
        for step in range(rounds):
            if config.record_every and len(losses) % config.record_every == 0:
                history.append(_snapshot(len(losses), level, state, problem, config))
                if on_step is not None:
                    on_step(history[-1])
            moved = replace(state)
            found = _round(level, moved, settled, beyond, problem, config)
            before, gain = settled.sum, settled.sum - found.sum
            if gain >= 0:
                state, settled = moved, found
            beyond = min(BEYOND, 2 * beyond) if gain >= 0 else beyond / 2
            losses.append(settled.losses)
            progress.update()
            progress.set_postfix({name: f"{value:.4g}" for name, value in settled.losses.items()})
            if beyond < SHORTEST or (step > 2 and 0 <= gain < config.tolerance * before):
                break
        return state

    state = go(level, state, config.rounds, first_repeats=8)
    ratio = (state.depth / start[:, grid]).median(dim=1, keepdim=True).values
    state.depth = start * ratio
    state = go(whole, state, config.full_rounds, first_repeats=20)
    progress.close()
    if losses and not math.isfinite(sum(losses[-1].values())):
        raise InputError(
            "pairs: expected confidence above 1 in most pixels, but they leave depth undetermined here; align may do"
        )
    return replace(_result(problem, state, losses, (t, h, w)), history=tuple(history))


def _round(
    level: _Level, state: _State, settled: _Settled, beyond: float, problem: Problem, config: FastConfig
) -> _Settled:
    """The four steps. Changes ``state``, but none of its tensors."""
    smoothness = 0.0 if problem.world_from_cam is not None else config.weight_cts / config.weight_ga * _count(level)
    motion = NormalEquations(len(problem))
    if level.flows is not None:
        motion.add_edges(problem.pairs.edges, settled.motion_scale * _camera_motion(level, state))
    step = _move_cameras(state, settled, motion, smoothness, beyond, problem, config)
    _settle(level, state, config, repeats=2)
    _move_pairs_and_frames(level, state, motion.after(step), smoothness, beyond, problem)
    _pin_scale(state)
    return _settle(level, state, config, repeats=3)


def _move_cameras(
    state: _State,
    settled: _Settled,
    motion: NormalEquations,
    smoothness: float,
    beyond: float,
    problem: Problem,
    config: FastConfig,
) -> Float[Tensor, "t 8"]:
    """Step 1; returns what was done."""
    t, known_poses = len(problem), problem.world_from_cam is not None
    nothing = columns(t, [])
    focal = nothing if problem.known_intrinsics else columns(t, [FOCAL])
    own = [nothing if known_poses else columns(t, POSE), nothing if config.shared_focal else focal]
    unit = unit_column(state.world_from_cam[:, :3, 3]) if known_poses else nothing
    common = [unit, focal if config.shared_focal else nothing]
    equations = motion.copy()
    equations.add_edges(_path(t), smoothness * smoothness_gram(state.world_from_cam))
    equations.add_frames(settled.rays, [*POSE, FOCAL])
    step = beyond * equations.solve(torch.cat(own, -1), torch.cat(common, -1))
    _move_frames(state, step, problem)
    return step


def _settle(level: _Level, state: _State, config: FastConfig, repeats: int) -> _Settled:
    """Steps 2 and 4. Changes ``state``."""
    state.depth = state.depth.clone()
    from_image, to_image = image_maps(state.world_from_cam, state.intrinsics)
    t, axes, image = len(state.depth), _numbers(state.world_from_cam[:, :3, :3]), _numbers(from_image)
    pull, stiffness = torch.zeros_like(state.depth), torch.zeros_like(state.depth)
    losses, motion_scale = {"ga": 0.0}, 0.0
    if level.flows is not None:
        (first, leaving), target = level.flows.by_frame, level.flows.edges[:, 1]
        kept, value = np.zeros(len(leaving)), np.zeros(len(leaving))
        kernels.over_frames(
            closed_forms.camera_motion_depth_pass, t, first, leaving, level.flows.flow.flatten(1).numpy(),
            level.flows.static.numpy(), _numbers(to_image[target]), level.flows.pixels.numpy(), image,
            state.depth.numpy(), MAX_ERROR_PX, kept, value, pull.numpy(), stiffness.numpy(),
        )  # fmt: skip
        share = config.weight_cma / max(1.0, kept.sum())
        losses["cma"] = share * value.sum()
        motion_scale = share / config.weight_ga * _count(level)
    rays, value = np.zeros((t, 8, 8)), np.zeros(t)
    kernels.over_frames(
        closed_forms.settle_depth_pass, t, *_stored(level.pairs), _numbers(state.world_from_pair[:, :3]),
        level.pairs.pixels.numpy(), image, (motion_scale * pull).numpy(), (motion_scale * stiffness).numpy(),
        _softening(state), axes, repeats, state.depth.numpy(), rays, value,
    )  # fmt: skip
    losses["ga"] = config.weight_ga * value.sum() / _count(level)
    losses["cts"] = config.weight_cts * float(camera_trajectory_smoothness(state.world_from_cam))
    return _Settled(losses, torch.from_numpy(rays), motion_scale)


def _camera_motion(level: _Level, state: _State) -> Float[Tensor, "e 17 17"]:
    """How CMA pulls each edge: as the thinned pixels say, as if every other were like its neighbour there."""
    from_image, to_image = image_maps(state.world_from_cam, state.intrinsics)
    (first, leaving), target = level.flows.by_frame, level.flows.edges[:, 1]
    thin, gram = level.thin_flows, np.zeros((len(leaving), 10, 10))
    kernels.over_frames(
        closed_forms.camera_motion_rows_pass, len(state.depth), first, leaving, thin.flow.flatten(1).numpy(),
        thin.static.numpy(), _numbers(to_image[target]), _numbers(state.intrinsics[target, :2, 2]),
        thin.pixels.numpy(), _numbers(from_image), _numbers(state.world_from_cam[:, :3, :3]),
        state.depth[:, level.thinned].numpy(), MAX_ERROR_PX, gram,
    )  # fmt: skip
    return state.depth.shape[1] / len(level.thinned) * between_frames(torch.from_numpy(gram))


def _move_pairs_and_frames(
    level: _Level, state: _State, motion: NormalEquations, smoothness: float, beyond: float, problem: Problem
) -> None:
    """Step 3: the pairs' steps are eliminated, then follow from the frames'."""
    centres = state.world_from_cam[:, :3, 3]
    free = columns(len(problem), [*POSE, SCALE]) if problem.world_from_cam is None else zoom_column(centres)
    length = smoothness * float(centres.diff(dim=0).norm(dim=-1).sum())  # what else grows with scale
    edges, moments = problem.pairs.edges, _moments(level, state)
    square, pull = similarity_quadratics(moments, state.world_from_pair[:, None])
    value = moments[..., 17].sum(1)
    weight = square[:, :, 0, 0].sum(1)
    informed = weight > 1e-3 * weight.median()
    own = pull.sum(1)
    own[:, SCALE] += torch.where(informed, (value[informed].sum() + length) / informed.sum() - value, 0.0)
    block = square.sum(1)
    size = block.diagonal(dim1=1, dim2=2)
    inverse = torch.linalg.inv(block + torch.diag_embed(1e-7 * size + 1e-12 * size.max().clamp(min=1e-30)))
    reduced = torch.zeros(len(edges), 17, 17, dtype=torch.float64)
    for i, rows in enumerate((slice(0, 7), slice(8, 15))):
        reduced[:, rows, -1] = (square[:, i] @ (inverse @ own[..., None]))[..., 0] - pull[:, i]
        reduced[:, rows, rows] = square[:, i]
        for j, across in enumerate((slice(0, 7), slice(8, 15))):
            reduced[:, rows, across] -= square[:, i] @ inverse @ square[:, j]
    equations = motion.copy()
    equations.add_edges(_path(len(problem)), smoothness * smoothness_gram(state.world_from_cam))
    equations.add_edges(edges, reduced)
    step = equations.solve(free, columns(len(problem), []))
    of_frames = step[edges][..., :7]
    own = (inverse @ (own + (square @ of_frames[..., None])[..., 0].sum(1))[..., None])[..., 0]
    own = torch.where(informed[:, None], own, of_frames.mean(1))
    _move_frames(state, beyond * step, problem)
    state.world_from_pair = _similarity(beyond * own) @ state.world_from_pair


def _move_frames(state: _State, step: Float[Tensor, "t 8"], problem: Problem) -> None:
    """Similarities of the frames in the world, and their focal lengths. Known poses stay, up to their unit."""
    by = _similarity(step[:, :7])
    scale = by[:, :3, :3].det().pow(1 / 3)
    moved = by @ state.world_from_cam
    if problem.world_from_cam is None:
        rotation = roma.special_procrustes(moved[:, :3, :3])
        state.world_from_cam = pose(rotation, moved[:, :3, 3])
    else:
        known = problem.world_from_cam.double()
        unit = (moved[:, :3, 3] * known[:, :3, 3]).sum() / known[:, :3, 3].square().sum().clamp(min=1e-30)
        state.world_from_cam = pose(known[:, :3, :3], unit.clamp(min=1e-12) * known[:, :3, 3])
    state.depth = state.depth * scale.float()[:, None]
    state.intrinsics = state.intrinsics.clone()
    state.intrinsics[:, (0, 1), (0, 1)] *= step[:, FOCAL, None].clamp(-0.2, 0.2).exp()


def _similarity(step: Float[Tensor, "n 7"]) -> Float[Tensor, "n 4 4"]:
    """Translation, rotation vector and log scale as a matrix; never more than half a radian and half an e-fold."""
    longest = torch.maximum(step[:, 3:6].norm(dim=-1), step[:, SCALE].abs())
    step = step * (0.5 / longest.clamp(min=0.5))[:, None]
    return pose(step[:, SCALE, None, None].exp() * roma.rotvec_to_rotmat(step[:, 3:6]), step[:, :3])


def _pin_scale(state: _State) -> None:
    """The pairs' scales have a geometric mean of one half; everything goes with them."""
    factor = 0.5 / state.world_from_pair[:, :3, :3].det().pow(1 / 3).log().mean().exp()
    state.world_from_pair = torch.cat([factor * state.world_from_pair[:, :3], state.world_from_pair[:, 3:]], 1)
    state.world_from_cam = pose(state.world_from_cam[:, :3, :3], factor * state.world_from_cam[:, :3, 3])
    state.depth = state.depth * factor.float()


def _moments(level: _Level, state: _State) -> Float[Tensor, "e 2 24"]:
    """Weighted sums for each edge's two members."""
    image = _numbers(image_maps(state.world_from_cam, state.intrinsics)[0])
    sums = np.zeros((len(level.pairs.by_frame[1]), 24))
    kernels.over_frames(
        closed_forms.similarity_moments_pass, len(state.depth), *_stored(level.pairs),
        _numbers(state.world_from_pair[:, :3]), level.pairs.pixels.numpy(), image, state.depth.numpy(),
        _softening(state), sums,
    )  # fmt: skip
    _, edge, second = level.pairs.by_frame
    ordered = np.empty((len(level.pairs.edges), 2, 24))
    ordered[edge, second.astype(np.intp)] = sums
    return torch.from_numpy(ordered)


def _result(problem: Problem, state: _State, losses: list[dict[str, float]], size: tuple[int, int, int]) -> Alignment:
    precision = problem.intrinsics.dtype
    names = [name for name in losses[0] if name != "cts" or problem.world_from_cam is None]
    found = Alignment(
        depth=state.depth.reshape(size).to(precision),
        confidence=frame_confidence(problem.pairs, len(problem)),
        intrinsics=problem.intrinsics if problem.known_intrinsics else state.intrinsics.to(precision),
        world_from_cam=state.world_from_cam.to(precision),
        world_from_pair=state.world_from_pair.to(precision),
        losses={name: torch.tensor([values[name] for values in losses]) for name in names},
    )
    return found if problem.world_from_cam is None else in_units_of(problem.world_from_cam, found)


def _snapshot(step: int, level: _Level, state: _State, problem: Problem, config: FastConfig) -> Snapshot:
    """As ``align`` would see the scene, with the level's pixels as an image of their own."""
    columns, rows = (len(axis.unique()) for axis in level.pairs.pixels)
    stride = float(level.pairs.pixels[0, 1] - level.pairs.pixels[0, 0]) if columns > 1 else 1.0
    image = torch.diag(torch.tensor([1 / stride, 1 / stride, 1.0]))
    image[:2, 2] = -level.pairs.pixels[:, 0] / stride
    guess = Guess(
        state.depth.reshape(-1, rows, columns),
        state.intrinsics.float(),
        state.world_from_cam.float(),
        state.world_from_pair.float(),
    )
    scene = Scene(
        guess,
        shared_focal=config.shared_focal,
        known_intrinsics=problem.known_intrinsics,
        known_poses=problem.world_from_cam is not None,
    )
    scene.parameters()
    found = snapshot(step, weighted_terms(scene, level.pairs, level.flows, config), scene, problem.pairs.edges)
    gap = view_gap(guess.depth, image @ guess.intrinsics, guess.world_from_cam, problem.pairs.edges)
    return replace(found, gap=gap)


def _levels(problem: Problem, grid: Int[Tensor, "q"], *, half: bool, with_flows: bool) -> tuple[_Level, _Level]:
    """Every pixel, and those of ``grid``."""
    pairs, flows, thin_flows = pack_pairs(problem.pairs, len(problem), half=half), None, None
    thin_pairs = replace(
        pairs,
        pixels=pairs.pixels[:, grid],
        xyz=tuple(xyz[:, grid] for xyz in pairs.xyz),
        weight=tuple(weight[:, grid] for weight in pairs.weight),
    )
    if with_flows:
        flows = pack_flows(problem.flows, problem.static, problem.pairs.edges, len(problem))
        thin_flows = replace(flows, pixels=thin_pairs.pixels, flow=flows.flow[:, grid], static=flows.static[:, grid])
    whole = _Level(pairs, flows, grid, thin_flows)
    return whole, _Level(thin_pairs, thin_flows, torch.arange(len(grid)), thin_flows)


def _stored(pairs: PackedPairs) -> tuple[np.ndarray, ...]:
    return (
        *pairs.by_frame,
        *(stored_bits(xyz.flatten(1)) for xyz in pairs.xyz),
        *(stored_bits(weight) for weight in pairs.weight),
        pairs.unit.numpy(),
    )


def _path(t: int) -> Int[Tensor, "t_minus_1 2"]:
    return torch.stack([torch.arange(t - 1), torch.arange(1, t)], -1)


def _count(level: _Level) -> int:
    """What GA's sum is divided by: the pixels of one member of all edges."""
    return level.pairs.weight[0].numel()


def _softening(state: _State) -> np.ndarray:
    return np.full(len(state.depth), SOFTENING * float(state.depth.median()), dtype=np.float32)


def _numbers(values: Tensor) -> np.ndarray:
    return values.float().contiguous().numpy()
