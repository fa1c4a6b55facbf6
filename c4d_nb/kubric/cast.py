"""Exact rays into a scene: what the ray through any image position hits first."""

import numpy as np
import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from c4d_nb.kubric.kernels import Geometry, cast_rays
from c4d_nb.kubric.scene import SHAPES, Scene


def cast(scene: Scene, frame: int, uv: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Exact (z-depth, segmentation) of what the rays through any ``uv`` hit first, in float64."""
    depth, segmentation = np.empty(len(uv)), np.empty(len(uv), dtype=np.int64)
    cast_rays(*camera_arrays(scene, frame), geometry_arrays(scene, frame), uv.double().numpy(), depth, segmentation)
    return torch.from_numpy(depth), torch.from_numpy(segmentation)


def camera_arrays(scene: Scene, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """(world_from_cam, K) of a frame, as the compiled code takes them."""
    return scene.world_from_cam[frame].double().numpy(), scene.intrinsics.double().numpy()


def geometry_arrays(scene: Scene, frame: int) -> Geometry:
    """Bodies and room of a frame, as the compiled code takes them."""
    return Geometry(
        shape=np.array([SHAPES[b.shape] for b in scene.bodies], dtype=np.int64),
        half=np.array([b.half_size_m for b in scene.bodies], dtype=np.float64).reshape(-1, 3),
        center=scene.positions[:, frame].double().numpy().copy(),
        rotation=roma.unitquat_to_rotmat(scene.quaternions[:, frame].double()).contiguous().numpy(),
        room=np.array(scene.room, dtype=np.float64),
    )
