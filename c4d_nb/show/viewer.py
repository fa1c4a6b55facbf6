"""A 4D reconstruction as one self-contained HTML file: points, cameras and tracks with a time slider.

The page (``viewer.html``, plain WebGL2) holds its data as JSON with deflated, base64-coded arrays; it needs no network,
no server and no kernel. All is in world coordinates and OpenCV axes, as in the docstring of ``c4d_nb``. The true scene
of the quickstart's clip takes 6.4 bytes a point: 3.0 MB for 400,000 and 6.4 MB for a million, which unpack in 0.1 s and
open in half a second. Where the browser draws without a GPU, a frame of a million takes seconds: while things move, the
page draws every 16th point there, in a fifth of the time (``python tests/benchmarks/bench_viewer.py``).
"""

import base64
import json
import zlib
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from c4d_nb.archive import atomic_output
from c4d_nb.camera import rays, transform
from c4d_nb.errors import InputError
from c4d_nb.reconstruction import Reconstruction

_STEPS = 65535
_MAX_TRACKS = 300
_THUMBNAIL_PX = 160


def write_viewer(
    result: Reconstruction,
    path: str | Path,
    *,
    max_points: int = 400_000,
    min_confidence: float | None = None,
    title: str = "4D reconstruction",
) -> Path:
    """Write the reconstruction as one HTML page, atomically; the same input gives the same bytes.

    Static pixels of all frames become one cloud, if their confidence is above ``min_confidence`` (1 is a guess;
    ``shown_confidence`` by default).
    Dynamic pixels become one cloud a frame, whatever their confidence; together they get up to a third of
    ``max_points``, or what the static ones leave. Pixels without finite positive depth and pixels at depth edges are
    left out, and so are points far outside the scene.

    Raises ``InputError`` for a budget below 1 or a result without a point to show.
    """
    path = Path(path)
    min_confidence = shown_confidence(result) if min_confidence is None else min_confidence
    payload = viewer_payload(result, max_points=max_points, min_confidence=min_confidence, title=title)
    # "<" occurs in JSON only inside strings: escaped, no title can close the script element.
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    template = files("c4d_nb.show").joinpath("viewer.html").read_text(encoding="utf-8")
    with atomic_output(path) as partial:
        partial.write_text(template.replace("__PAYLOAD__", text), encoding="utf-8")
    return path


def viewer_payload(result: Reconstruction, *, max_points: int, min_confidence: float, title: str) -> dict[str, object]:
    """What the page is told, ready for JSON."""
    _check(result, max_points)
    static, dynamic = _choose_pixels(result, max_points, min_confidence)
    cloud, scene_point = _pack_points(result, static, dynamic)
    t, height, width = result.depth.shape
    up = world_up(result.world_from_cam)
    return {
        "title": title,
        "fps": float(result.clip.fps) or 24.0,
        "frames": t,
        "size": [height, width],
        "cloud": cloud,
        "world_from_cam": rearrange(result.world_from_cam, "t i j -> t (i j)").double().tolist(),
        "intrinsics": rearrange(result.intrinsics, "t i j -> t (i j)").double().tolist(),
        "up": up.tolist(),
        "view": _initial_view(result.world_from_cam[0].double().cpu(), scene_point, up),
        "tracks": _pack_tracks(result),
        "thumbnails": [_jpeg(frame) for frame in result.clip.frames.cpu().numpy()],
    }


def shown_confidence(result: Reconstruction, *, measured: float = 4.0) -> float:
    """``measured``, a depth known to three standard deviations, if a tenth of the pixels reach it; else 0: show
    guesses."""
    return measured if (result.confidence > measured).float().mean() > 0.1 else 0.0


def flying_pixels(depth: Float[Tensor, "t h w"], *, jump: float = 0.12) -> Bool[Tensor, "t h w"]:
    """Pixels whose depth differs from a direct neighbour's by more than ``jump`` of the nearer one.

    Estimated depth is a blend of both surfaces there, so these points would hang in the air between them.
    """
    flying = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (1, 2):
        near, far = depth.narrow(axis, 0, depth.shape[axis] - 1), depth.narrow(axis, 1, depth.shape[axis] - 1)
        edge = (near - far).abs() > jump * torch.minimum(near, far)
        flying.narrow(axis, 0, depth.shape[axis] - 1).logical_or_(edge)
        flying.narrow(axis, 1, depth.shape[axis] - 1).logical_or_(edge)
    return flying


def _check(result: Reconstruction, max_points: int) -> None:
    if max_points < 1:
        raise InputError(f"max_points: expected 1 or more, but it is {max_points}")
    if tuple(result.clip.frames.shape[:3]) != tuple(result.depth.shape):
        raise InputError(
            f"result: expected depth for every frame and pixel of the clip, {tuple(result.clip.frames.shape[:3])}, "
            f"but depth is {tuple(result.depth.shape)}"
        )
    if not (torch.isfinite(result.world_from_cam).all() and torch.isfinite(result.intrinsics).all()):
        raise InputError("result: expected finite cameras, but world_from_cam or intrinsics has NaN or infinity")


def _choose_pixels(
    result: Reconstruction, max_points: int, min_confidence: float
) -> tuple[Int[Tensor, "s"], Int[Tensor, "d"]]:
    """Flat indices into (t, h, w) of the static and the dynamic pixels to show."""
    depth = result.depth
    solid = torch.isfinite(depth) & (depth > 0) & ~flying_pixels(depth)
    dynamic = (solid & result.motion_mask).flatten().nonzero()[:, 0]
    static = (solid & ~result.motion_mask & (result.confidence > min_confidence)).flatten().nonzero()[:, 0]
    if len(dynamic) + len(static) == 0:
        raise InputError(
            f"result: expected finite positive depth with a confidence above {min_confidence:g}, but no pixel has it"
        )
    keep_dynamic = min(len(dynamic), max(max_points // 3, max_points - len(static)))
    generator = torch.Generator().manual_seed(0)
    return (
        _thin(static, max_points - keep_dynamic, generator),
        _thin(dynamic, keep_dynamic, generator),
    )


def _thin(items: Int[Tensor, "n"], count: int, generator: torch.Generator) -> Int[Tensor, "m"]:
    """One random item of each of ``count`` equal stretches: even over frames and rows, and without repeats."""
    if len(items) <= count:
        return items
    edges = torch.arange(count + 1) * len(items) // max(count, 1)
    offset = torch.rand(count, generator=generator, dtype=torch.float64) * edges.diff()
    return items[(edges[:-1] + offset.long()).to(items.device)]


def _pack_points(
    result: Reconstruction, static: Int[Tensor, "s"], dynamic: Int[Tensor, "d"]
) -> tuple[dict[str, object], Float[Tensor, "3"]]:
    """The cloud for JSON, and the median point of the scene.

    ``starts[0:2]`` bounds the static points, ``starts[i + 1:i + 3]`` the dynamic ones of frame i. ``data`` is the
    result of ``_planes``; a position is ``low + step * integer`` and a point covers ``size_low * 2 ** (size_octaves *
    byte / 255)`` times ``spacing`` (static, dynamic), in world units.
    """
    t, height, width = result.depth.shape
    pixels = torch.cat([static, dynamic])
    frame = pixels // (height * width)
    xyz, size = _world_points(result, pixels)
    group = torch.where(torch.arange(len(pixels), device=pixels.device) < len(static), 0, frame + 1)
    low, high = _robust_box(xyz, len(static))
    inside = ((xyz >= low) & (xyz <= high)).all(dim=-1)
    step = (high - low) / _STEPS
    integers = ((xyz[inside] - low) / step).round().long().clamp(0, _STEPS)
    group, pixels, size = group[inside], pixels[inside], size[inside]
    order = torch.argsort(group * 2**48 + _morton(integers), stable=True)
    octave_low, octave_high = size.log2().aminmax()
    octaves = (octave_high - octave_low).clamp(min=1e-3)
    size_code = ((size.log2() - octave_low) / octaves * 255).round()
    colors = result.clip.frames.reshape(-1, 3)[pixels.to(result.clip.frames.device)].to(pixels.device)
    data = _planes(integers[order], torch.cat([colors, size_code[:, None].byte()], dim=-1)[order])
    starts = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(group.cpu(), minlength=t + 1).cumsum(0)])
    cloud = {"data": _deflate(data), "starts": starts.tolist(), "low": low.tolist(), "step": step.tolist()}
    cloud |= {"size_low": float(2**octave_low), "size_octaves": float(octaves)}
    cloud["spacing"] = _spacing(result.motion_mask, len(static), len(dynamic))
    return cloud, xyz[inside].median(dim=0).values.cpu()


def _world_points(result: Reconstruction, pixels: Int[Tensor, "n"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """World positions of pixels by flat index, and the width that one pixel covers there, both in world units."""
    _, height, width = result.depth.shape
    frame = pixels // (height * width)
    uv = torch.stack([pixels % width, pixels // width % height], dim=-1).double()
    depth = result.depth.flatten()[pixels].double()
    intrinsics = result.intrinsics.double()[frame]
    xyz_cam = depth[:, None] * rays(intrinsics, uv)
    xyz = transform(result.world_from_cam.double()[frame], xyz_cam[:, None])[:, 0]
    return xyz, depth / (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt()


def _spacing(motion_mask: Bool[Tensor, "t h w"], n_static: int, n_dynamic: int) -> list[float]:
    """About how many pixels lie between neighbouring points, (static, dynamic): it closes the gaps of thinning."""
    dynamic = int(motion_mask.sum())
    # The static surfaces are seen in many frames: four of them that overlap are a cautious guess.
    static = (motion_mask.numel() - dynamic) / min(len(motion_mask), 4)
    return [max(1.0, count / max(kept, 1)) ** 0.5 for count, kept in ((static, n_static), (dynamic, n_dynamic))]


def _robust_box(xyz: Float[Tensor, "n 3"], n_static: int) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """A box around 99 % of the static and of the dynamic points, a quarter wider: outliers must not cost resolution."""
    lows, highs = [], []
    for part in (xyz[:n_static], xyz[n_static:]):
        if len(part) > 0:
            ranked = part.sort(dim=0).values
            low, high = ranked[int(0.005 * (len(part) - 1))], ranked[-1 - int(0.005 * (len(part) - 1))]
            lows.append(low - (high - low) / 4)
            highs.append(high + (high - low) / 4)
    low, high = torch.stack(lows).amin(dim=0), torch.stack(highs).amax(dim=0)
    # A single point or a plane has no extent along an axis: the margin keeps the step above zero.
    margin = 1e-3 * (high - low).amax() + 1e-6 * (1 + low.abs())
    return low - margin, high + margin


def _morton(integers: Int[Tensor, "n 3"]) -> Int[Tensor, "n"]:
    """Interleaved bits of three 16-bit integers: neighbours in this order are neighbours in space and compress well."""
    spread = integers
    for shift, mask in ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F)):
        spread = (spread | spread << shift) & mask
    for shift, mask in ((4, 0x10C30C30C30C30C3), (2, 0x1249249249249249)):
        spread = (spread | spread << shift) & mask
    return spread[:, 0] | spread[:, 1] << 1 | spread[:, 2] << 2


def _planes(integers: Int[Tensor, "n 3"], colors_and_size: UInt8[Tensor, "n 4"]) -> np.ndarray:
    """Differences to the point before, one plane a byte: low and high of x, y, z, then red, green, blue, size."""
    positions = np.diff(integers.cpu().numpy().astype("<u2").T, axis=1, prepend=np.uint16(0))
    rest = np.diff(colors_and_size.cpu().numpy().T, axis=1, prepend=np.uint8(0))
    low, high = (positions & 255).astype(np.uint8), (positions >> 8).astype(np.uint8)
    return np.concatenate([np.stack([low, high], axis=1).reshape(6, -1), rest])


def _pack_tracks(result: Reconstruction) -> dict[str, object]:
    """At most 300 tracks seen in two frames or more, dynamic ones first: float32 (n, t, 3) and mobility in [0, 1]."""
    xyz = result.tracks_xyz.detach().float().cpu()
    seen = torch.isfinite(xyz).all(dim=-1)
    weight = seen.float()
    mobility = (result.tracks.mobility.cpu().float().nan_to_num() * weight).sum(0) / weight.sum(0).clamp(min=1)
    usable = seen.sum(dim=0) >= 2
    generator = torch.Generator().manual_seed(0)
    dynamic = (usable & (mobility > 0.5)).nonzero()[:, 0]
    static = (usable & (mobility <= 0.5)).nonzero()[:, 0]
    dynamic = _thin(dynamic, max(_MAX_TRACKS * 2 // 3, _MAX_TRACKS - len(static)), generator)
    chosen = torch.cat([dynamic, _thin(static, _MAX_TRACKS - len(dynamic), generator)])
    tracks = torch.where(seen[..., None], xyz, torch.nan)[:, chosen].transpose(0, 1).contiguous()
    return {"count": len(chosen), "mobility": mobility[chosen].tolist(), "xyz": _deflate(tracks.numpy().astype("<f4"))}


def world_up(world_from_cam: Float[Tensor, "t 4 4"]) -> Float[Tensor, "3"]:
    """The cameras' mean -y axis; the first camera's where they cancel."""
    axes = -world_from_cam[:, :3, 1].double().cpu()
    mean = axes.mean(dim=0)
    return torch.nn.functional.normalize(mean if mean.norm() > 1e-3 else axes[0], dim=0)


def _initial_view(
    world_from_cam: Float[Tensor, "4 4"], target: Float[Tensor, "3"], up: Float[Tensor, "3"]
) -> dict[str, list[float]]:
    """A view from slightly behind and above a camera towards the target; ``distance`` is from camera to target."""
    centre, forward = world_from_cam[:3, 3], world_from_cam[:3, 2]
    distance = (target - centre).norm().clamp(min=1e-6)
    eye = centre + distance * (0.3 * up - 0.45 * forward)
    return {"eye": eye.tolist(), "target": target.tolist(), "distance": float(distance)}


def _jpeg(frame: np.ndarray) -> str:
    """A small sRGB frame as base64 JPEG."""
    height, width = frame.shape[:2]
    scale = min(1.0, _THUMBNAIL_PX / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    return base64.b64encode(data.tobytes()).decode("ascii")


def _deflate(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 6)).decode("ascii")
