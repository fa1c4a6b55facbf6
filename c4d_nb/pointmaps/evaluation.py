"""How right the pointmaps of held-out static pairs are: a network's, two-view geometry's, both fused, constant depth.

``python -m c4d_nb.pointmaps.evaluation CLIPS --weights small`` prints the table. Two-view geometry is told the true K;
the network is not.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from c4d_nb.camera import invert, pixel_grid, rays, transform, unproject
from c4d_nb.clip import Clip, PairPointmaps, load_clip
from c4d_nb.commands import run_command
from c4d_nb.correspondence.flow import FLOW_NOISE_PX, estimate_flows
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.fusion import fused_with_network
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.inference import pointmaps_on_grid
from c4d_nb.pointmaps.losses import relative_point_error
from c4d_nb.pointmaps.pairs import clip_paths
from c4d_nb.pointmaps.scene_graph import sliding_window_graph
from c4d_nb.pointmaps.two_view import TwoViewConfig, two_view_pointmaps

GRID_LONG_SIDE = 96
"""Errors are taken at every s-th pixel, as the alignment takes its points."""

Method = Callable[[Clip, Int[Tensor, "e 2"], PixelGrid], PairPointmaps]


def point_errors(clip: Clip, methods: dict[str, Method]) -> tuple[Int[Tensor, "e 2"], dict[str, Float[Tensor, "e"]]]:
    """The edges of a static clip's graph, and each method's relative point error of each of them."""
    edges = sliding_window_graph(len(clip))
    grid = PixelGrid.within(clip.size, GRID_LONG_SIDE)
    xyz_1, xyz_2 = true_pointmaps(clip, edges, grid)
    depth = grid.sample(clip.truth.depth)
    valid_1, valid_2 = (torch.isfinite(depth) & (depth > 0))[edges.T]
    errors = {}
    for name, method in methods.items():
        found = method(clip, edges, grid)
        errors[name] = relative_point_error(found.xyz_1.float(), found.xyz_2.float(), xyz_1, xyz_2, valid_1, valid_2)
    return edges, errors


def true_pointmaps(
    clip: Clip, edges: Int[Tensor, "e 2"], grid: PixelGrid
) -> tuple[Float[Tensor, "e gh gw 3"], Float[Tensor, "e gh gw 3"]]:
    """Of both frames of every edge, in the first one's camera frame, at the grid's pixels."""
    truth = clip.truth
    xyz = grid.sample(unproject(truth.depth, truth.intrinsics))
    n, m = edges.unbind(-1)
    n_from_m = invert(truth.world_from_cam[n]) @ truth.world_from_cam[m]
    return xyz[n], transform(n_from_m, xyz[m].flatten(1, 2)).reshape(xyz[m].shape)


def network_method(network: DUSt3R) -> Method:
    def predict(clip: Clip, edges: Int[Tensor, "e 2"], grid: PixelGrid) -> PairPointmaps:
        return pointmaps_on_grid(network, clip.frames, edges, grid)

    return predict


def two_view_method(clip: Clip, edges: Int[Tensor, "e 2"], grid: PixelGrid) -> PairPointmaps:
    flows, valid = estimate_flows(clip.frames, edges)
    config = TwoViewConfig(noise_px=FLOW_NOISE_PX / grid.stride)
    intrinsics = grid.intrinsics(clip.truth.intrinsics[0])
    return two_view_pointmaps(grid.sample(flows) / grid.stride, grid.sample(valid), edges, intrinsics, config)


def fused_method(network: DUSt3R) -> Method:
    predict = network_method(network)

    def fuse(clip: Clip, edges: Int[Tensor, "e 2"], grid: PixelGrid) -> PairPointmaps:
        return fused_with_network(two_view_method(clip, edges, grid), predict(clip, edges, grid))

    return fuse


def constant_depth_method(clip: Clip, edges: Int[Tensor, "e 2"], grid: PixelGrid) -> PairPointmaps:
    """Depth 1 at every pixel, and a camera that stands still."""
    intrinsics = grid.intrinsics(clip.truth.intrinsics[0])
    size = grid.sample(clip.truth.depth).shape[1:]
    xyz = rays(intrinsics, pixel_grid(*size)).expand(len(edges), *size, 3)
    ones = torch.ones(xyz.shape[:-1])
    return PairPointmaps(edges, xyz, xyz, ones, ones)


def error_table(clips: list[Path], network: DUSt3R) -> dict[str, dict[str, float]]:
    """Median relative point error over all pairs, and over those one and nine frames apart, by method."""
    methods = {
        "network": network_method(network),
        "two-view geometry": two_view_method,
        "fused": fused_method(network),
        "constant depth": constant_depth_method,
    }
    apart, errors = [], {name: [] for name in methods}
    for path in tqdm(clips, desc="clips", unit="clip"):
        clip = load_clip(path)
        if clip.truth is None or any(
            x is None for x in (clip.truth.depth, clip.truth.world_from_cam, clip.truth.intrinsics)
        ):
            raise InputError(f"clips: expected clips with depth, poses and intrinsics, but {path} lacks some")
        edges, found = point_errors(clip, methods)
        apart.append((edges[:, 0] - edges[:, 1]).abs())
        for name, values in found.items():
            errors[name].append(values)
    offset = torch.cat(apart)
    table = {}
    for name, parts in errors.items():
        values = torch.cat(parts)
        table[name] = {
            "all pairs": values.nanmedian().item(),
            "1 frame apart": values[offset == 1].nanmedian().item(),
            "9 frames apart": values[offset == 9].nanmedian().item(),
            "worst tenth": values.nanquantile(0.9).item(),
        }
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m c4d_nb.pointmaps.evaluation",
        description="Median relative point error of held-out static pairs, for a network, baselines, and both fused.",
    )
    parser.add_argument("clips", type=Path, help="folder of static clips with depth, poses and K")
    parser.add_argument("--weights", default="small", metavar="NAME", help="name or path (default small, as shipped)")
    return run_command(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    table = error_table(clip_paths(options.clips), DUSt3R.from_checkpoint(options.weights))
    columns = list(next(iter(table.values())))
    print(f"{'relative point error':22}" + "".join(f"{name:>16}" for name in columns))
    for name, row in table.items():
        print(f"{name:22}" + "".join(f"{row[column]:16.4f}" for column in columns))


if __name__ == "__main__":
    sys.exit(main())
