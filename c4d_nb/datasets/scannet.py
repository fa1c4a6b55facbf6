"""ScanNet (Dai et al., CVPR 2017): rooms from a tablet with a depth sensor, with the poses of BundleFusion.

The layout into which ScanNet's ``SensReader`` exports a scan (``--export_color_images --export_depth_images
--export_poses --export_intrinsics``)::

    scene0707_00/color/0.jpg                     1296x968
                 depth/0.png                     640x480, 16 bits, 1000 are a metre, 0 is unknown
                 pose/0.txt                      world from camera, 4x4; -inf where tracking was lost
                 intrinsic/intrinsic_color.txt   4x4, and intrinsic_depth.txt

Depth and colour share one viewpoint (the exported extrinsics are identities) but not their pixels: depth is looked up
for each pixel of the frames, through both intrinsics. Terms of use, on request: http://www.scan-net.org
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb.camera import pixel_grid, project, rays
from c4d_nb.clip import Clip, Truth, check_intrinsics, check_selection, resize_clip
from c4d_nb.datasets.layout import (
    PROTOCOL_FRAMES,
    PROTOCOL_STRIDE,
    chosen,
    matching,
    numbered,
    read_depth_png,
    read_matrix,
    required,
    stacked,
)
from c4d_nb.video import read_image

PAGE = "http://www.scan-net.org (terms of use), exported by SensReader"
FPS = 30.0
DEPTH_STEPS_PER_M = 1000


def read_scannet(
    path: str | Path,
    *,
    start: int = 0,
    stride: int = PROTOCOL_STRIDE,
    max_frames: int | None = PROTOCOL_FRAMES,
    long_side: int | None = None,
) -> Clip:
    """A scan with metric depth (0 is unknown) and poses (NaN where tracking was lost); the protocol's frames by
    default, all with ``stride=1, max_frames=None``."""
    check_selection(start, stride, max_frames, long_side)
    path = Path(path)
    folders = {part: required(path / part, "an exported scan of ScanNet", PAGE) for part in ("color", "depth", "pose")}
    colors = numbered(folders["color"], (".jpg", ".png"), "frames of ScanNet")
    names = chosen(list(colors), path, start, stride, max_frames)
    frames = stacked([colors[stem] for stem in names], read_image)
    depths = matching(numbered(folders["depth"], (".png",), "depth of ScanNet"), names, folders["depth"], "depth")
    poses = matching(numbered(folders["pose"], (".txt",), "poses of ScanNet"), names, folders["pose"], "a pose")
    color_K, depth_K = (_intrinsics(path, camera) for camera in ("color", "depth"))
    depth = stacked(depths, read_depth_png)
    world_from_cam = torch.from_numpy(np.stack([read_matrix(file, (4, 4)) for file in poses])).float()
    lost = ~world_from_cam.isfinite().all(dim=(1, 2))
    world_from_cam[lost] = torch.nan
    truth = Truth(
        depth=_seen_by(color_K, tuple(frames.shape[1:3]), depth_K, depth),
        world_from_cam=world_from_cam,
        intrinsics=color_K.float().expand(len(names), 3, 3).clone(),
    )
    return resize_clip(Clip(frames, FPS / stride, truth=truth), long_side)


def _intrinsics(path: Path, camera: str) -> Float[Tensor, "3 3"]:
    file = required(path / "intrinsic" / f"intrinsic_{camera}.txt", "an exported scan of ScanNet", PAGE)
    return check_intrinsics(torch.from_numpy(read_matrix(file, (4, 4))[:3, :3].copy()))


def _seen_by(
    color_K: Float[Tensor, "3 3"], size: tuple[int, int], depth_K: Float[Tensor, "3 3"], depth: Tensor
) -> Float[Tensor, "t h w"]:
    """Depth in m at each pixel of the colour camera, from the nearest pixel of the depth camera; 0 outside it."""
    height, width = depth.shape[1:]
    uv, _ = project(rays(color_K, pixel_grid(*size).double()).reshape(-1, 3), depth_K)
    column, row = uv.round().long().unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    nearest = row[inside] * width + column[inside]
    found = torch.zeros(len(depth), len(inside))
    for seen, stored in zip(found, depth.flatten(1), strict=True):  # one at a time: colour is far larger than depth
        seen[inside] = stored.float()[nearest] / DEPTH_STEPS_PER_M
    return found.reshape(-1, *size)
