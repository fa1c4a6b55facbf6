"""All frames of a scene on a CUDA GPU, by the functions that the CPU runs: numba-cuda compiles them once more.

One thread works on a pixel, in float64, at which only data-centre GPUs are fast. They fuse multiplications with
additions, so that depths may differ from the CPU's in their last digits, and a ray that grazes an edge may pass on its
other side.
"""

from collections.abc import Callable, Iterator

import numba
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from c4d_nb.clip import Clip
from c4d_nb.errors import InputError
from c4d_nb.kubric.appearance import light_arrays, paint_arrays, shutter
from c4d_nb.kubric.cast import instants
from c4d_nb.kubric.kernels import SOURCES, pixel_color, srgb
from c4d_nb.kubric.render import check_samples, with_truth
from c4d_nb.kubric.scene import Scene
from c4d_nb.kubric.solids import Geometry, first_hit, ray

_EXPECTED = 'device: expected a CUDA GPU and the package numba-cuda (pip install "numba-cuda[cu13]", or cu12), but '

try:
    from numba import cuda
except ImportError as error:
    raise InputError(f"{_EXPECTED}{error}") from error

BLOCK = 8
"""Pixels whose threads run in step lie side by side, in blocks of ``BLOCK`` x ``BLOCK``."""


def render_clip(scene: Scene, *, fps: float, samples: int = 4, n_tracks: int = 256, seed: int = 0) -> Clip:
    """``c4d_nb.kubric.render.render_clip``, with the frames rendered here."""
    return with_truth(scene, *render_frames(scene, samples=samples), fps=fps, n_tracks=n_tracks, seed=seed)


def render_frames(
    scene: Scene, *, samples: int = 4
) -> tuple[UInt8[Tensor, "t h w 3"], Float[Tensor, "t h w"], Int[Tensor, "t h w"]]:
    """(sRGB colour, z-depth, segmentation) of all frames, each as ``render_frame`` has it.

    Raises ``InputError`` without a GPU, or without the package that compiles for it.
    """
    check_samples(samples)
    depth, segmentation = cast_frames(scene)
    k = cuda.to_device(scene.intrinsics.double().numpy())
    paint, lights = _upload(paint_arrays(scene)), _upload(light_arrays(scene.light, samples))
    rgb = cuda.device_array((len(scene), scene.height, scene.width, 3), np.uint8)
    # A launch for each frame: where the GPU drives a display too, what runs for seconds is ended.
    for frame, (camera, geometry) in enumerate(_exposures(scene)):
        render_pixels[_blocks(scene), (BLOCK, BLOCK)](camera, k, geometry, paint, lights, samples, rgb[frame])
    return torch.from_numpy(rgb.copy_to_host()), depth.float(), segmentation


def cast_frames(scene: Scene) -> tuple[Float[Tensor, "t h w"], Int[Tensor, "t h w"]]:
    """(z-depth, segmentation) of all frames, in float64, as ``cast`` has them at the pixels' centres."""
    _check_gpu()
    camera, geometry = _instants(scene, torch.arange(len(scene), dtype=torch.float64))
    k = cuda.to_device(scene.intrinsics.double().numpy())
    size = len(scene), scene.height, scene.width
    depth, segmentation = cuda.device_array(size, np.float64), cuda.device_array(size, np.int64)
    cast_pixels[(*_blocks(scene), len(scene)), (BLOCK, BLOCK, 1)](camera, k, geometry, depth, segmentation)
    return torch.from_numpy(depth.copy_to_host()), torch.from_numpy(segmentation.copy_to_host())


def _check_gpu() -> None:
    # Numba's own support for CUDA, which the package replaces, fails on ``min`` and ``max``.
    if getattr(cuda, "implementation", "Built-in") == "Built-in" and not numba.config.ENABLE_CUDASIM:
        raise InputError(f"{_EXPECTED}numba-cuda is not installed")
    if not cuda.is_available():
        raise InputError(f"{_EXPECTED}there is no GPU that can be used")


def _blocks(scene: Scene) -> tuple[int, int]:
    return -(-scene.width // BLOCK), -(-scene.height // BLOCK)


def _upload(arrays: tuple) -> tuple:
    """The same named tuple, its arrays in the GPU's memory."""
    return type(arrays)(*map(cuda.to_device, arrays))


def _instants(scene: Scene, times: Float[Tensor, "s"]) -> tuple[object, Geometry]:
    camera, geometry = instants(scene, times)
    return cuda.to_device(camera), _upload(geometry)


def _exposures(scene: Scene) -> Iterator[tuple[object, Geometry]]:
    """(world_from_cam, bodies) while the shutter is open, for each frame; uploaded together."""
    shutters = torch.stack([shutter(frame, scene.motion_blur) for frame in range(len(scene))])
    camera, g = _instants(scene, shutters.flatten())
    for frame in range(len(scene)):
        own = slice(frame * shutters.shape[1], (frame + 1) * shutters.shape[1])
        yield camera[own], g._replace(ball=g.ball[own], center=g.center[own], rotation=g.rotation[own])


def _cached(sources: int) -> tuple[Callable, Callable]:
    """The two kernels. As on the CPU, that they enclose ``sources`` makes it part of the key of numba's cache."""

    @cuda.jit(cache=True)
    def render_pixels(world_from_cam, k, g, paint, lights, samples, rgb):
        """What ``kernels.render_pixels`` does in its loops."""
        u, v = cuda.grid(2)
        if v < rgb.shape[0] and u < rgb.shape[1] and sources >= 0:
            color = pixel_color(world_from_cam, k, g, paint, lights, samples, u, v)
            for channel in range(3):
                rgb[v, u, channel] = srgb(color[channel])

    @cuda.jit(cache=True)
    def cast_pixels(world_from_cam, k, g, depth, segmentation):
        """Fill ``depth`` and ``segmentation`` (t, h, w) with what the pixels' rays hit first at instant t."""
        u, v, t = cuda.grid(3)
        if v < depth.shape[1] and u < depth.shape[2] and sources >= 0:
            c = world_from_cam[t]
            o = (c[0, 3], c[1, 3], c[2, 3])
            depth[t, v, u], segmentation[t, v, u], _ = first_hit(o, ray(c, k, u, v), g, t)

    return render_pixels, cast_pixels


render_pixels, cast_pixels = _cached(SOURCES)
