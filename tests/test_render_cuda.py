"""The GPU's frames are the CPU's. Where there is no GPU, a simulator runs the same kernels as plain Python.

The tests run this file as a program: what numba shall compile for a GPU must not be wrapped by checks of annotations.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from PIL import Image

from c4d_nb.camera import pinhole, pixel_grid
from c4d_nb.kubric.appearance import light_arrays, paint_arrays
from c4d_nb.kubric.cast import cast, instants
from c4d_nb.kubric.render import render_frame
from c4d_nb.kubric.scene import PATTERNS, Body, Part, Scene, Texture, look_at

SIMULATED = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
FRAMES = 2
NO_COMPILER = 77


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def film(folder: Path, height: int, width: int) -> Scene:
    """Every shape and every pattern, in motion before a moving camera, with motion blur."""
    rows, columns = np.mgrid[:24, :32]
    picture = np.stack([8 * columns, 10 * rows, 128 + 0 * rows], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(folder / "picture.png")
    colors = ((0.9, 0.9, 0.8), (0.2, 0.3, 0.4), (0.7, 0.2, 0.1))
    images = {"image": str(folder / "picture.png")}
    paints = [Texture(p, colors, 0.4, seed=i, gloss=i % 2 / 3, image=images.get(p)) for i, p in enumerate(PATTERNS)]
    a = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    halves = {"ellipsoid": (0.7, 0.5, 0.6), "box": (0.6, 0.5, 0.4), "cylinder": (0.5,) * 3, "capsule": (0.4, 0.4, 0.8)}
    bodies = []
    for i, (shape, half) in enumerate(halves.items()):
        parts = Part(shape, half, paints[i]), Part("box", (0.2,) * 3, paints[i + 4], (0.0, -0.5, 0.6))
        path = torch.stack([-2.1 + 1.4 * i + 0.3 * a, 0.4 * (i % 2) + 0.2 * a, 1 + 0.5 * (i % 2) + 0 * a], dim=-1)
        angle = 0.2 * i + 0.3 * a
        turn = torch.stack([0.6 * angle.sin(), 0 * a, 0.8 * angle.sin(), angle.cos()], dim=-1)
        bodies.append(Body(parts, path, turn))
    eyes, targets = torch.stack([0.4 * a, a - 5, a + 2], dim=-1), torch.stack([0 * a, 0 * a, 1 + 0 * a], dim=-1)
    return Scene(
        bodies=tuple(bodies),
        room=((-6.0, -7.0, 0.0), (6.0, 5.0, 6.0)),
        floor=paints[6],
        walls=paints[4],
        world_from_cam=look_at(eyes, targets),
        intrinsics=pinhole(float(width), height, width).double(),
        height=height,
        width=width,
        motion_blur=0.5,
    )


def gpu_frames(folder: Path, *size_and_samples: int, **environment: str) -> dict[str, torch.Tensor]:
    done = run("render", folder, *size_and_samples, **environment)
    assert done.returncode == 0, done.stderr
    return {name: torch.from_numpy(array) for name, array in np.load(folder / "frames.npz").items()}


def cpu_frames(folder: Path, height: int, width: int, samples: int) -> dict[str, torch.Tensor]:
    scene, grid = film(folder, height, width), pixel_grid(height, width).double()
    hits = [cast(scene, t, grid.reshape(-1, 2)) for t in range(FRAMES)]
    rgb, depth, segmentation = zip(*(render_frame(scene, t, samples=samples) for t in range(FRAMES)), strict=True)
    return {
        "exact_depth": torch.stack([depth.reshape(height, width) for depth, _ in hits]),
        "rgb": torch.stack(rgb),
        "depth": torch.stack(depth),
        "segmentation": torch.stack(segmentation),
    }


def test_simulated_gpu_agrees_bit_for_bit(tmp_path):
    gpu, cpu = gpu_frames(tmp_path, 10, 13, 2, **SIMULATED), cpu_frames(tmp_path, 10, 13, 2)
    assert cpu["segmentation"].unique().tolist() == [0, 1, 2, 3, 4]
    assert gpu.keys() == cpu.keys()
    for name in cpu:
        assert torch.equal(gpu[name], cpu[name]), name


def test_gpu_agrees(tmp_path):
    """Not bit for bit: it fuses multiplications with additions."""
    pytest.importorskip("numba_cuda", reason="no numba-cuda, which compiles for GPUs")
    from numba import cuda

    if not cuda.is_available():
        pytest.skip("no CUDA GPU")
    gpu, cpu = gpu_frames(tmp_path, 96, 128, 3), cpu_frames(tmp_path, 96, 128, 3)
    torch.testing.assert_close(gpu["exact_depth"], cpu["exact_depth"], rtol=1e-9, atol=0)
    assert torch.equal(gpu["segmentation"], cpu["segmentation"])
    off = (gpu["rgb"].int() - cpu["rgb"].int()).abs().amax(dim=-1)
    assert (off <= 1).float().mean() >= 0.999


def test_kernels_compile_without_a_gpu(tmp_path):
    pytest.importorskip("numba_cuda", reason="no numba-cuda, which compiles for GPUs")
    done = run("compile", tmp_path)
    if done.returncode == NO_COMPILER:
        pytest.skip("no NVVM, by which numba-cuda compiles")
    assert done.returncode == 0, done.stderr


def test_error_without_a_gpu_says_what_to_install(tmp_path):
    error = run("render", tmp_path, 8, 8, 1, NUMBA_DISABLE_CUDA="1").stderr.splitlines()[-1]
    assert "InputError: device: expected a CUDA GPU" in error
    assert "pip install" in error


def render(folder: str, *size_and_samples: str) -> None:
    from c4d_nb.kubric.render_cuda import cast_frames, render_frames

    height, width, samples = map(int, size_and_samples)
    scene = film(Path(folder), height, width)
    rgb, depth, segmentation = render_frames(scene, samples=samples)
    frames = {"exact_depth": cast_frames(scene)[0], "rgb": rgb, "depth": depth, "segmentation": segmentation}
    np.savez(Path(folder) / "frames.npz", **frames)


def compile_kernels(folder: str) -> None:
    """For an H100, to the code that its driver assembles."""
    from numba import cuda
    from numba.cuda.cudadrv import nvvm

    from c4d_nb.kubric.render_cuda import cast_pixels, render_pixels

    if not nvvm.is_available():
        sys.exit(NO_COMPILER)
    cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(9, 0))
    scene = film(Path(folder), 8, 8)
    k, (camera, bodies) = scene.intrinsics.numpy(), instants(scene, torch.zeros(1).double())
    paint, lights, rgb = paint_arrays(scene), light_arrays(scene.light, 2), np.zeros((8, 8, 3), np.uint8)
    depth, segmentation = np.zeros((1, 8, 8)), np.zeros((1, 8, 8), np.int64)
    for kernel, arguments in (
        (render_pixels, (camera, k, bodies, paint, lights, 2, rgb)),
        (cast_pixels, (camera, k, bodies, depth, segmentation)),
    ):
        code, _ = cuda.compile_ptx(kernel.py_func, tuple(map(numba.typeof, arguments)), cc=(9, 0))
        assert ".target sm_90" in code
        assert ".extern" not in code, "the kernel calls what is not on a GPU"


if __name__ == "__main__":
    {"render": render, "compile": compile_kernels}[sys.argv[1]](*sys.argv[2:])
