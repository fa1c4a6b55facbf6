"""Everything as plain arrays for ``numpy.load``, usable without this package; see ``to_npz`` for their names."""

from pathlib import Path

import numpy as np
import torch

from c4d_nb.archive import atomic_output, write_archive
from c4d_nb.errors import InputError
from c4d_nb.export.check import camera_probes, check_reprojection
from c4d_nb.export.scene import Cameras, check_maps, original_cameras
from c4d_nb.reconstruction import Reconstruction


def to_npz(result: Reconstruction, path: str | Path) -> Path:
    """One compressed archive. t frames of h x w pixels, n tracks; conventions are those of ``c4d_nb``:

    frames (t,h,w,3) uint8 sRGB, fps · depth, confidence (t,h,w) · intrinsics (t,3,3) of these frames ·
    intrinsics_original (t,3,3) and original_size (height, width) of the video's own pixels · world_from_cam (t,4,4) ·
    motion_mask (t,h,w) bool, True moves · track_uv (t,n,2), track_visible (t,n) bool, track_confidence,
    track_mobility (t,n), track_query_frame (n,), track_xyz_world (t,n,3), NaN where not visible.
    """
    path = Path(path)
    check_maps(result)
    cameras = original_cameras(result)
    tracks = result.tracks
    arrays = {
        "frames": result.clip.frames,
        "fps": result.clip.fps,
        "depth": result.depth,
        "confidence": result.confidence,
        "intrinsics": result.intrinsics,
        "intrinsics_original": cameras.intrinsics,
        "original_size": torch.tensor([cameras.height, cameras.width]),
        "world_from_cam": cameras.world_from_cam,
        "motion_mask": result.motion_mask,
        "track_uv": tracks.uv,
        "track_visible": tracks.visible,
        "track_confidence": tracks.confidence,
        "track_mobility": tracks.mobility,
        "track_query_frame": tracks.query_frame,
        "track_xyz_world": result.tracks_xyz,
    }
    with atomic_output(path) as partial:
        write_archive(partial, "plain arrays of a reconstruction", arrays)
        _check(arrays, cameras, partial, path)
    return path


def _check(arrays: dict[str, torch.Tensor | float], cameras: Cameras, written: Path, path: Path) -> None:
    with np.load(written, allow_pickle=False) as file:
        read = {name: torch.from_numpy(file[name]) for name in arrays}
    for name, array in arrays.items():
        if not np.array_equal(read[name], torch.as_tensor(array).detach().cpu(), equal_nan=True):
            raise InputError(
                f"result: expected its {name} in {path.name}, but read back it is another; nothing was written"
            )
    height, width = read["original_size"].tolist()
    again = Cameras(read["intrinsics_original"], read["world_from_cam"], height, width)
    probes = camera_probes(cameras)
    check_reprojection(path, again.project(probes.frame, probes.xyz_world), probes.uv)
