"""The solvers of stage 1: time and memory of an iteration beside autograd's, and what each solver reaches when.

``python tests/benchmarks/bench_alignment.py`` prints all; ``iterations``, ``solvers``, ``seeds`` or ``long`` one part.
The yardstick is the same Adam on the plain objectives, with gradients by autograd, in the same run with the same number
of threads (torch's; ``OMP_NUM_THREADS`` sets it). Times are the processor's, over all threads, which what else the
machine does hardly touches; each is the best of several repeats. Memory is the peak of the resident set above that
before there were any pairs, in a process of its own, pairs and flows included.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import roma
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from scenes import Room, room

from c4d_nb.alignment import AlignConfig, Alignment, FastConfig, align_windows
from c4d_nb.alignment.fast import alternate
from c4d_nb.alignment.initialise import Guess
from c4d_nb.alignment.inputs import Problem, check_problem
from c4d_nb.alignment.objectives import (
    camera_motion_alignment,
    camera_trajectory_smoothness,
    frame_points,
    global_alignment,
    observations,
)
from c4d_nb.alignment.solve import begin, descend
from c4d_nb.alignment.state import Scene
from c4d_nb.camera import invert, pinhole, pose, transform
from c4d_nb.clip import PairPointmaps
from c4d_nb.metrics import trajectory_errors, video_depth
from c4d_nb.pointmaps.scene_graph import sliding_window_graph

SIZES = (16, 64), (32, 64), (32, 128)
YARDSTICK, FUSED, HALF = "autograd", "fused", "fused, half precision"


def noisy_pairs(scene: Room, edges: Tensor, seed: int) -> PairPointmaps:
    """Pointmaps off by smooth waves of 5 % of the depth and 1 % of noise a pixel, 3 % of the pixels anywhere within
    half to twice their depth; confidence tells the half of it."""
    generator = torch.Generator().manual_seed(seed)
    pairs = scene.pairs(edges, generator)
    members = []
    for xyz in (pairs.xyz_1, pairs.xyz_2):
        size = xyz.shape[1:3]
        error = torch.empty(xyz.shape[:3])
        for i in range(len(edges)):  # one at a time, for the sake of the memory that is measured
            wave = torch.randn(1, 1, 4, 4, generator=generator)
            wave = 0.05 * F.interpolate(wave, size, mode="bicubic", align_corners=True)[0, 0]
            error[i] = wave + 0.01 * torch.randn(size, generator=generator)
            wild = torch.rand(size, generator=generator) < 0.03
            error[i][wild] = 1.4 * torch.rand(int(wild.sum()), generator=generator) - 0.7
            xyz[i] *= error[i].exp()[..., None]
        doubt = error.abs_() * torch.rand(1, generator=generator).mul(0.2).add(0.9)
        members.append(doubt.div_(0.05).neg_().exp_().mul_(4).add_(1.2))
    return replace(pairs, conf_1=members[0], conf_2=members[1])


def benchmark_scene(t: int, side: int) -> Room:
    return room(t=t, size=(side, side), focal_px=0.9 * side, stride_m=3.0 / t)


def benchmark_problem(t: int, side: int, seed: int = 0, *, flows: bool = True) -> tuple[Room, Problem]:
    scene, edges = benchmark_scene(t, side), sliding_window_graph(t)
    pairs = noisy_pairs(scene, edges, seed)
    flow = None
    if flows:
        generator = torch.Generator().manual_seed(seed)
        flow = torch.empty(len(edges), side, side, 2)
        for i, (n, m) in enumerate(edges.tolist()):
            flow[i] = scene.flow(n, m) + 0.3 * torch.randn(side, side, 2, generator=generator)
    return scene, check_problem(pairs, flow, None, None, None, None, None)


def by_autograd(problem: Problem, guess: Guess, config: AlignConfig) -> Iterator[float]:
    """The yardstick: yields the loss before each of its iterations."""
    scene = Scene(guess, shared_focal=config.shared_focal, known_intrinsics=False, known_poses=False)
    observed, edges = observations(problem.pairs), problem.pairs.edges
    parameters = scene.parameters()
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate, betas=config.betas)
    for step in range(config.iterations):
        share = step / max(1, config.iterations - 1)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate + share * (config.final_learning_rate - config.learning_rate)
        world_from_cam, K = scene.world_from_cam(), scene.intrinsics()
        xyz_world = frame_points(scene.depth(), K, world_from_cam)
        loss = config.weight_ga * global_alignment(observed, xyz_world, scene.world_from_pair())
        if problem.flows is not None and step / config.iterations >= config.cma_start:
            cam_from_world = invert(world_from_cam)
            loss = loss + config.weight_cma * camera_motion_alignment(
                problem.flows, problem.static, edges, xyz_world, cam_from_world, K
            )
        loss = loss + config.weight_cts * camera_trajectory_smoothness(world_from_cam)
        yield loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def run_iterations(solver: str, problem: Problem, guess: Guess, iterations: int = 4) -> tuple[float, float]:
    """Best seconds of an iteration, and the loss at the guess. From the first iteration on with CMA."""
    config = AlignConfig(iterations=iterations, cma_start=0.0, half_precision=solver == HALF)
    if solver == YARDSTICK:
        steps = [(time.process_time(), loss) for loss in by_autograd(problem, guess, config)]
        return min(b[0] - a[0] for a, b in pairwise(steps)), steps[0][1]
    short = min(_seconds(lambda: descend(problem, guess, config)) for _ in range(3))
    longer = replace(config, iterations=3 * iterations)
    long = min(_seconds(lambda: descend(problem, guess, longer)) for _ in range(3))
    losses = descend(problem, guess, replace(config, iterations=1)).losses
    return (long - short) / (2 * iterations), sum(float(values[0]) for values in losses.values())


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def memory_of(solver: str, t: int, side: int, *, flows: bool) -> float:
    """Peak MiB, measured in a process of its own."""
    command = [sys.executable, __file__, "memory", "--solver", solver, "--size", str(t), str(side)]
    output = subprocess.run(command + ["--no-flows"] * (not flows), capture_output=True, text=True, check=True)
    return float(output.stdout)


def measure_memory(solver: str, t: int, side: int, *, flows: bool) -> float:
    _, small = benchmark_problem(10, 16)
    run_iterations(solver, small, begin(small))  # what is imported and compiled on the way
    before = _status_mib("VmRSS")
    _, problem = benchmark_problem(t, side, flows=flows)
    if solver == HALF:  # the pairs come in half precision already, as a network gives them
        values = (getattr(problem.pairs, name) for name in ("xyz_1", "xyz_2", "conf_1", "conf_2"))
        problem = replace(problem, pairs=PairPointmaps(problem.pairs.edges, *(value.half() for value in values)))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far: what the scene's making took is not ours
    run_iterations(solver, problem, begin(problem))
    return _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def iterations() -> None:
    print(f"{torch.get_num_threads()} threads")
    for t, side in SIZES:
        for flows in (True, False):
            _, problem = benchmark_problem(t, side, flows=flows)
            objectives = "GA, CMA, CTS" if flows else "GA, CTS"
            print(f"{t} frames of {side}x{side}, {len(problem.pairs.edges)} edges, {objectives}")
            guess, yard = begin(problem), None
            for solver in (YARDSTICK, FUSED, HALF):
                seconds, loss = run_iterations(solver, problem, guess)
                mib = memory_of(solver, t, side, flows=flows)
                yard = yard or (seconds, mib, loss)
                print(
                    f"  {solver:24}{1e3 * seconds:8.1f} ms ({yard[0] / seconds:5.1f} times faster)"
                    f"{mib:8.0f} MiB ({mib / yard[1]:.2f} of the memory)   loss off by {abs(loss / yard[2] - 1):.0e}",
                    flush=True,
                )


def solvers() -> None:
    """Both solvers from the pairs on, checks and first guess included."""
    for t, side in SIZES:
        scene, problem = benchmark_problem(t, side)
        start, guess = time.process_time(), begin(problem)
        begun, slow = time.process_time() - start, None
        print(f"{t} frames of {side}x{side}; first guess {begun:.2f} s, in both")
        for name, run in (("paper", descend), ("fast", alternate)):
            config = {"paper": AlignConfig(), "fast": FastConfig()}[name]
            start = time.process_time()
            found = run(problem, guess, config)
            seconds = time.process_time() - start
            slow = slow or seconds
            with_guess = (slow + begun) / (seconds + begun)
            print(
                f"  {name:8}{seconds:7.2f} s ({slow / seconds:5.1f} times faster, with the guess {with_guess:4.1f})   "
                f"{scores(scene, found)}",
                flush=True,
            )


def seeds(number: int) -> None:
    """GA and scores of both solvers: from the first guess, and from one that is shaken."""
    for shake in (0.0, 1.0):
        worse = []
        for seed in range(number):
            scene, problem = benchmark_problem(16, 48, seed)
            guess = begin(problem)
            if shake:
                guess = shaken(guess, torch.Generator().manual_seed(seed))
            slow, fast = descend(problem, guess, AlignConfig()), alternate(problem, guess, FastConfig())
            worse += [seed] if fast.losses["ga"][-1] > slow.losses["ga"][-1] else []
            print(f"{seed:3} paper {scores(scene, slow)}   fast {scores(scene, fast)}", flush=True)
        print(
            f"start {'shaken' if shake else 'as guessed'}: GA of fast above that of paper in {len(worse)} of {number}"
        )


def shaken(guess: Guess, generator: torch.Generator) -> Guess:
    """Poses turned by 10 degrees, moved by a third of the path's spread, depths off by half, focal by a fifth."""
    centres = guess.world_from_cam[:, :3, 3]
    spread = (centres - centres.mean(0)).norm(dim=-1).median()

    def moved(poses: Tensor) -> Tensor:
        turn = roma.rotvec_to_rotmat(0.1 * torch.randn(len(poses), 3, generator=generator))
        shift = 0.3 * spread * torch.randn(len(poses), 3, generator=generator)
        return pose(turn @ poses[:, :3, :3], poses[:, :3, 3] + shift)

    depth = guess.depth * (0.4 * torch.randn(len(guess.depth), 1, 1, generator=generator)).exp()
    K = guess.intrinsics * torch.tensor([[1.2, 1, 1], [1, 1.2, 1], [1, 1, 1]])
    return Guess(depth, K, moved(guess.world_from_cam), moved(guess.world_from_pair))


def long(frames: int, side: int) -> None:
    """Windows over a long video: seconds and memory, beside half of it."""
    before = _status_mib("VmRSS")
    for t in (frames // 2, frames):
        scene = long_walk(t, side)
        generator, edges = torch.Generator().manual_seed(0), sliding_window_graph(t)
        pairs = PairPointmaps(
            edges,
            *(torch.empty(len(edges), side, side, 3, dtype=torch.float16) for _ in range(2)),
            *(torch.full((len(edges), side, side), 3.0, dtype=torch.float16) for _ in range(2)),
        )
        cam_from_world, points = invert(scene.world_from_cam).float(), scene.xyz_world().float().flatten(1, 2)
        for i, (n, m) in enumerate(edges.tolist()):
            for xyz, frame in ((pairs.xyz_1, n), (pairs.xyz_2, m)):
                noise = (0.02 * torch.randn(side * side, 1, generator=generator)).exp()
                xyz[i] = (noise * transform(cam_from_world[n], points[frame])).reshape(side, side, 3)
        held = _status_mib("VmRSS") - before
        Path("/proc/self/clear_refs").write_text("5")
        start = time.process_time()
        found = align_windows(pairs, config=FastConfig(weight_cts=0.0))
        print(
            f"{t} frames of {side}x{side}, {len(edges)} edges: {time.process_time() - start:.1f} s, peak "
            f"{_status_mib('VmHWM') - before:.0f} MiB, of which pairs {held:.0f}; {scores(scene, found)}",
            flush=True,
        )


def long_walk(t: int, side: int) -> Room:
    """Along the wall at 2 cm a frame, looking about a little."""
    a = torch.arange(t).double()
    centre = torch.stack([0.02 * a - 1, 0.1 * torch.sin(0.13 * a), 0.3 * torch.sin(0.02 * a)], -1)
    turn = 0.15 * torch.stack([torch.sin(0.05 * a), torch.sin(0.031 * a), torch.sin(0.043 * a)], -1)
    K = pinhole(torch.full((t,), 0.9 * side, dtype=torch.float64), side, side)
    return Room(pose(roma.rotvec_to_rotmat(turn), centre), K, (side, side))


def scores(scene: Room, found: Alignment) -> str:
    path = trajectory_errors(found.world_from_cam.double(), scene.world_from_cam)
    depth = video_depth(found.depth, scene.depth.float())["abs_rel"]
    loss = {name: float(values[-1]) for name, values in found.losses.items()}
    return (
        f"GA {loss['ga']:.6f} sum {sum(loss.values()):.6f} ATE {path['ate_percent']:.3f} % "
        f"RPE {path['rpe_t']:.4f} {path['rpe_r_deg']:.3f} deg AbsRel {depth:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["iterations", "solvers", "seeds", "long", "memory"])
    parser.add_argument("--solver", default=FUSED)
    parser.add_argument("--size", type=int, nargs=2, default=(32, 128), metavar=("FRAMES", "SIDE"))
    parser.add_argument("--no-flows", action="store_true")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--long", type=int, nargs=2, default=(300, 128), metavar=("FRAMES", "SIDE"))
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    if options.part == "memory":
        print(measure_memory(options.solver, *options.size, flows=not options.no_flows))
    if options.part in (None, "iterations"):
        iterations()
    if options.part in (None, "solvers"):
        solvers()
    if options.part in (None, "seeds"):
        seeds(options.seeds)
    if options.part in (None, "long"):
        long(*options.long)


if __name__ == "__main__":
    main()
