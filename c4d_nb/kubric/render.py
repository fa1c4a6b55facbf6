"""A ray caster for scenes of analytic bodies in a room, and the exact truth that comes with them.

Colour is supersampled; depth, segmentation, tracks and visibility come from one exact ray each, in float64; flow comes
from poses and depth, never from rendered images. World axes are right-handed with z up, lengths are in metres.

Frames are rendered by a pool of threads over compiled code that holds no lock, which unlike numba's own parallel loops
is safe beside forked workers.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numba import njit
from torch import Tensor
from tqdm.auto import tqdm

from c4d_nb.camera import invert, pixel_grid, pose, project, rays, transform, unproject
from c4d_nb.clip import Clip, Tracks, Truth, check_intrinsics
from c4d_nb.errors import InputError

Color = tuple[float, float, float]
SHAPES = {"sphere": 0, "ellipsoid": 0, "box": 1}
PATTERNS = {"marble": 0, "checks": 1, "stripes": 2, "tiles": 3, "bricks": 4}
VISIBLE_TOLERANCE = 1e-4
"""Share of its depth by which a point may lie behind the first hit of its ray and still count as visible."""


@dataclass(frozen=True)
class Texture:
    """A procedural solid texture: a pattern of two colours, flecked with the third, under noise of many octaves."""

    pattern: str
    colors: tuple[Color, Color, Color]
    """sRGB in [0, 1]."""
    scale_m: float
    """Size of a check, a tile or the coarsest noise; stripes are half as wide."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise InputError(f"pattern: expected one of {', '.join(PATTERNS)}, but it is {self.pattern!r}")
        if not self.scale_m > 0:
            raise InputError(f"scale_m: expected a positive length, but it is {self.scale_m}")


@dataclass(frozen=True, eq=False)
class Body:
    """A rigid solid; ``positions`` of its centre in the world, ``quaternions`` (xyzw) of world_from_obj."""

    shape: str
    half_size_m: tuple[float, float, float]
    """Half the extent along the body's own axes: the semi-axes of an ellipsoid, three times the radius of a sphere."""
    positions: Float[Tensor, "t 3"]
    quaternions: Float[Tensor, "t 4"]
    texture: Texture

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"shape: expected one of {', '.join(SHAPES)}, but it is {self.shape!r}")
        if min(self.half_size_m) <= 0 or (self.shape == "sphere" and len(set(self.half_size_m)) != 1):
            raise InputError(
                f"half_size_m: expected positive lengths, equal for a sphere, but it is {self.half_size_m}"
            )
        if self.positions.shape != (len(self.quaternions), 3) or self.quaternions.shape[1:] != (4,):
            raise InputError(
                f"quaternions: expected (t, 4) beside positions (t, 3), but they are {tuple(self.quaternions.shape)} "
                f"and {tuple(self.positions.shape)}"
            )
        if not torch.isfinite(self.positions).all() or ((self.quaternions.norm(dim=-1) - 1).abs() > 1e-4).any():
            raise InputError("quaternions: expected unit norm, and finite positions")


@dataclass(frozen=True, eq=False)
class Scene:
    """Bodies in a closed room, so that every pixel has a depth; a camera path; a sun that shines through walls."""

    bodies: tuple[Body, ...]
    room: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Lowest and highest corner; the floor is the lowest face."""
    floor: Texture
    walls: Texture
    world_from_cam: Float[Tensor, "t 4 4"]
    intrinsics: Float[Tensor, "3 3"]
    height: int
    width: int
    sun: tuple[float, float, float] = (-0.5, -0.6, 0.9)
    """Direction **towards** the sun, of any length."""

    def __post_init__(self) -> None:
        check_intrinsics(self.intrinsics)
        for number, body in enumerate(self.bodies):
            if len(body.positions) != len(self):
                raise InputError(
                    f"bodies: expected {len(self)} poses, as of the camera, but body {number} has {len(body.positions)}"
                )
        centers, (low, high) = self.world_from_cam[:, :3, 3], self.world_from_cam.new_tensor(self.room)
        if not ((centers > low) & (centers < high)).all():
            raise InputError("world_from_cam: expected every camera inside the room")

    def __len__(self) -> int:
        return len(self.world_from_cam)

    @property
    def positions(self) -> Float[Tensor, "o t 3"]:
        return torch.stack([b.positions for b in self.bodies]) if self.bodies else torch.zeros(0, len(self), 3)

    @property
    def quaternions(self) -> Float[Tensor, "o t 4"]:
        return torch.stack([b.quaternions for b in self.bodies]) if self.bodies else torch.zeros(0, len(self), 4)


def look_at(eye: Float[Tensor, "*b 3"], target: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """world_from_cam of upright cameras at ``eye`` that look at ``target`` (world z is up)."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = forward.new_tensor([0, 0, 1]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    return pose(torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1), eye)


def render_clip(scene: Scene, *, fps: float, samples: int = 4, n_tracks: int = 256, seed: int = 0) -> Clip:
    """Render a scene with its whole truth. ``samples`` x ``samples`` rays colour a pixel; ``seed`` chooses the tracks.

    K is in ``clip.truth`` only: a pipeline that is given the clip has to find it. ``is_dynamic`` stays None, since
    nothing is tossed here.
    """
    _check_samples(samples)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        frames = pool.map(partial(render_frame, scene, samples=samples), range(len(scene)))
        rgb, depth, segmentation = zip(*tqdm(frames, "rendering", len(scene), leave=False), strict=True)
    segmentation = torch.stack(segmentation)
    mobility = _moves(scene.positions)
    truth = Truth(
        depth=torch.stack(depth),
        world_from_cam=scene.world_from_cam.float(),
        intrinsics=scene.intrinsics.float().expand(len(scene), 3, 3).clone(),
        segmentation=segmentation,
        positions=scene.positions.float(),
        quaternions=scene.quaternions.float(),
        mobility=mobility,
        motion_mask=_with_background(mobility)[segmentation],
    )
    tracks = point_tracks(scene, truth, n_tracks=n_tracks, seed=seed)
    return Clip(torch.stack(rgb), fps, truth=replace(truth, flow=truth_flow(truth), tracks=tracks))


def render_frame(
    scene: Scene, frame: int, *, samples: int = 4
) -> tuple[UInt8[Tensor, "h w 3"], Float[Tensor, "h w"], Int[Tensor, "h w"]]:
    """(sRGB colour, z-depth, segmentation) of one frame. The last two do not depend on ``samples``."""
    _check_samples(samples)
    grid = pixel_grid(scene.height, scene.width).double()
    depth, segmentation = cast(scene, frame, grid.reshape(-1, 2))
    rgb = np.empty((scene.height, scene.width, 3), dtype=np.uint8)
    _render(*_camera(scene, frame), _geometry(scene, frame), _paint(scene), _lights(scene, samples), samples, rgb)
    return torch.from_numpy(rgb), depth.float().reshape(grid.shape[:2]), segmentation.reshape(grid.shape[:2])


def cast(scene: Scene, frame: int, uv: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Exact (z-depth, segmentation) of what the rays through any ``uv`` hit first, in float64."""
    depth, segmentation = np.empty(len(uv)), np.empty(len(uv), dtype=np.int64)
    _cast(*_camera(scene, frame), _geometry(scene, frame), uv.double().numpy(), depth, segmentation)
    return torch.from_numpy(depth), torch.from_numpy(segmentation)


def truth_flow(truth: Truth) -> Float[Tensor, "s h w 2"]:
    """Exact forward flow of the surface that each pixel sees, occluded in the next frame or not.

    It follows from depth, segmentation and poses, so that an archive need not hold it. NaN where the surface point
    passes behind the next camera.
    """
    world_from_cam, intrinsics = truth.world_from_cam.double(), truth.intrinsics.double()
    world_from_obj = _object_poses(truth)
    grid = pixel_grid(*truth.depth.shape[1:]).double()
    flow = []
    for t in range(len(truth.depth) - 1):
        next_from_now = world_from_obj[:, t + 1] @ invert(world_from_obj[:, t])
        camera_step = (invert(world_from_cam[t + 1]) @ next_from_now @ world_from_cam[t])[truth.segmentation[t].long()]
        xyz_cam = unproject(truth.depth[t].double(), intrinsics[t])
        uv, depth = project(transform(camera_step, xyz_cam[..., None, :]), intrinsics[t + 1])
        flow.append(torch.where(depth > 0, uv[..., 0, :] - grid, torch.nan))
    return torch.stack(flow).to(truth.depth) if flow else truth.depth.new_zeros(0, *grid.shape)


def point_tracks(scene: Scene, truth: Truth, *, n_tracks: int = 256, seed: int = 0) -> Tracks:
    """Exact tracks of random pixels of all frames: each rides on the body, or the background, that it shows.

    A pixel's chance falls with the square root of its segment's area, so that small bodies get their share.
    """
    shape, segments = truth.depth.shape, truth.segmentation.flatten()
    if not 0 < n_tracks <= len(segments):
        raise InputError(f"n_tracks: expected 1 to {len(segments)}, the number of pixels, but it is {n_tracks}")
    share = segments.bincount().clamp(min=1).double().rsqrt().numpy()[segments.numpy()]
    # The n smallest exponential waiting times: a weighted draw without replacement.
    waiting = np.random.default_rng(seed).exponential(size=len(segments)) / share
    chosen = np.sort(np.argpartition(waiting, n_tracks - 1)[:n_tracks])
    query_frame, v, u = (torch.from_numpy(index) for index in np.unravel_index(chosen, shape))
    segment = segments[torch.from_numpy(chosen)]

    world_from_cam, intrinsics = scene.world_from_cam.double(), scene.intrinsics.double()
    depth = truth.depth[query_frame, v, u].double()
    xyz_cam = depth[:, None] * rays(intrinsics, torch.stack([u, v], dim=-1).double())
    world_from_obj = _object_poses(scene)[segment]
    obj_from_cam = invert(world_from_obj[torch.arange(n_tracks), query_frame]) @ world_from_cam[query_frame]
    xyz_obj = transform(obj_from_cam, xyz_cam[:, None])
    uv, visible = [], []
    for t in range(len(scene)):
        position, depth = project(
            transform(invert(world_from_cam[t]) @ world_from_obj[:, t], xyz_obj)[:, 0], intrinsics
        )
        uv.append(position)
        visible.append(_is_visible(scene, t, position, depth))
    mobility = _with_background(_moves(scene.positions))[segment].float().expand(len(scene), n_tracks).clone()
    visible = torch.stack(visible)
    return Tracks(torch.stack(uv).float(), visible, torch.ones_like(mobility), mobility, query_frame)


def _is_visible(scene: Scene, frame: int, uv: Tensor, depth: Tensor) -> Bool[Tensor, "n"]:
    low, high = uv.new_tensor([-0.5, -0.5]), uv.new_tensor([scene.width - 0.5, scene.height - 0.5])
    first = cast(scene, frame, uv)[0]
    return (depth > 0) & ((uv >= low) & (uv <= high)).all(-1) & ((first - depth).abs() <= VISIBLE_TOLERANCE * depth)


def _object_poses(source: Scene | Truth) -> Float[Tensor, "bodies t 4 4"]:
    """world_from_obj of every value of a segmentation; that of the background is the identity."""
    bodies = pose(roma.unitquat_to_rotmat(source.quaternions.double()), source.positions.double())
    return torch.cat([torch.eye(4).to(bodies).expand(1, bodies.shape[1], 4, 4), bodies])


def _moves(positions: Float[Tensor, "o t 3"], threshold_m: float = 0.01) -> Bool[Tensor, "o"]:
    return (positions.diff(dim=1).norm(dim=-1) > threshold_m).any(dim=-1)


def _with_background(mobility: Bool[Tensor, "o"]) -> Bool[Tensor, "bodies"]:
    return torch.cat([mobility.new_zeros(1), mobility])


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise InputError(f"samples: expected 1 or more, but it is {samples}")


# What the compiled code is given. Points and directions there are tuples of three floats, which stay in registers.
class _Geometry(NamedTuple):
    shape: np.ndarray  # (o,) a value of SHAPES
    half: np.ndarray  # (o, 3)
    center: np.ndarray  # (o, 3)
    rotation: np.ndarray  # (o, 3, 3), world from object
    room: np.ndarray  # (2, 3), lowest and highest corner


class _Paint(NamedTuple):  # of the floor, the walls and each body
    pattern: np.ndarray  # (o + 2,)
    colors: np.ndarray  # (o + 2, 3, 3), linear
    scale: np.ndarray  # (o + 2,)
    seed: np.ndarray  # (o + 2,)


class _Lights(NamedTuple):
    sun: np.ndarray  # (samples ** 2, 3), unit directions towards a disc: each ray of a pixel looks at one spot of it
    sky: np.ndarray  # (samples ** 2, 3), points on the unit sphere


def _camera(scene: Scene, frame: int) -> tuple[np.ndarray, np.ndarray]:
    return scene.world_from_cam[frame].double().numpy(), scene.intrinsics.double().numpy()


def _geometry(scene: Scene, frame: int) -> _Geometry:
    return _Geometry(
        shape=np.array([SHAPES[b.shape] for b in scene.bodies], dtype=np.int64),
        half=np.array([b.half_size_m for b in scene.bodies], dtype=np.float64).reshape(-1, 3),
        center=scene.positions[:, frame].double().numpy().copy(),
        rotation=roma.unitquat_to_rotmat(scene.quaternions[:, frame].double()).contiguous().numpy(),
        room=np.array(scene.room, dtype=np.float64),
    )


def _paint(scene: Scene) -> _Paint:
    textures = [scene.floor, scene.walls, *(b.texture for b in scene.bodies)]
    srgb = np.array([t.colors for t in textures], dtype=np.float64)
    return _Paint(
        pattern=np.array([PATTERNS[t.pattern] for t in textures], dtype=np.int64),
        colors=np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4),
        scale=np.array([t.scale_m for t in textures], dtype=np.float64),
        seed=np.array([t.seed for t in textures], dtype=np.int64),
    )


def _lights(scene: Scene, samples: int, disc_radius: float = 0.07) -> _Lights:
    """Fibonacci spirals on the sun's disc and on the sphere."""
    n = samples**2
    rank, angle = (np.arange(n) + 0.5) / n, np.arange(n) * np.pi * (3 - np.sqrt(5))
    sun = np.array(scene.sun, dtype=np.float64) / np.linalg.norm(scene.sun)
    side = np.linalg.svd(sun[None])[2][1:]
    disc = disc_radius * np.sqrt(rank)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    spots = sun + (disc @ side) * (n > 1)
    ring, height = np.sqrt(1 - (1 - 2 * rank) ** 2), 1 - 2 * rank
    sky = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=-1)
    return _Lights(spots / np.linalg.norm(spots, axis=1, keepdims=True), sky)


_compiled = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_compiled
def _along(a, s, d):
    return a[0] + s * d[0], a[1] + s * d[1], a[2] + s * d[2]


@_compiled
def _unit(a):
    n = 1 / np.sqrt(_dot(a, a))
    return a[0] * n, a[1] * n, a[2] * n


@_compiled
def _rotate(m, a):
    return _dot(m[0], a), _dot(m[1], a), _dot(m[2], a)


@_compiled
def _to_body(g, i, a, is_point):
    """A world point or direction in the axes of body i."""
    if is_point:
        a = (a[0] - g.center[i, 0], a[1] - g.center[i, 1], a[2] - g.center[i, 2])
    return _rotate(g.rotation[i].T, a)


@_compiled
def _ray(world_from_cam, k, u, v):
    """World direction of a pixel's ray, scaled so that lengths along it are z-depths."""
    return _rotate(
        world_from_cam, ((u - k[0, 2] - k[0, 1] * (v - k[1, 2]) / k[1, 1]) / k[0, 0], (v - k[1, 2]) / k[1, 1], 1.0)
    )


@_compiled
def _hit_ellipsoid(o, d, half):
    """Length to the first hit in front of the origin; infinity for none. In space scaled to the unit sphere."""
    o = (o[0] / half[0], o[1] / half[1], o[2] / half[2])
    d = (d[0] / half[0], d[1] / half[1], d[2] / half[2])
    a, b = _dot(d, d), _dot(o, d)
    nearest = _along(o, -b / a, d)  # without the cancellation of b^2 - a c
    room = 1 - _dot(nearest, nearest)
    if room < 0:
        return np.inf
    root = np.sqrt(room / a)
    if -b / a - root > 0:
        return -b / a - root
    return -b / a + root if -b / a + root > 0 else np.inf


@_compiled
def _hit_box(o, d, half):
    enter, leave = -np.inf, np.inf
    for axis in range(3):
        if d[axis] == 0:
            if abs(o[axis]) > half[axis]:
                return np.inf
            continue
        middle, reach = -o[axis] / d[axis], half[axis] / abs(d[axis])
        enter, leave = max(enter, middle - reach), min(leave, middle + reach)
    if enter > leave or leave <= 0:
        return np.inf
    return enter if enter > 0 else leave


@_compiled
def _first_hit(o, d, g):
    """(length, segment) over all bodies and the room."""
    best, segment = np.inf, 0
    for axis in range(3):
        if d[axis] != 0:
            best = min(best, (g.room[1 if d[axis] > 0 else 0, axis] - o[axis]) / d[axis])
    for i in range(len(g.shape)):
        o_body, d_body = _to_body(g, i, o, True), _to_body(g, i, d, False)
        hit = _hit_ellipsoid(o_body, d_body, g.half[i]) if g.shape[i] == 0 else _hit_box(o_body, d_body, g.half[i])
        if hit < best:
            best, segment = hit, i + 1
    return best, segment


@_compiled
def _blocked(o, d, g, reach):
    """Whether a body, walls not counted, lies on a ray within ``reach``."""
    for i in range(len(g.shape)):
        o_body, d_body = _to_body(g, i, o, True), _to_body(g, i, d, False)
        hit = _hit_ellipsoid(o_body, d_body, g.half[i]) if g.shape[i] == 0 else _hit_box(o_body, d_body, g.half[i])
        if hit < reach:
            return True
    return False


@_compiled
def _surface(p, segment, g):
    """(world normal, point in texture coordinates, number of the paint) at a hit."""
    if segment == 0:
        axis, side, gap = 0, 0, np.inf
        for a in range(3):
            for s in range(2):
                if abs(p[a] - g.room[s, a]) < gap:
                    axis, side, gap = a, s, abs(p[a] - g.room[s, a])
        n = 1.0 if side == 0 else -1.0
        normal = (n if axis == 0 else 0.0, n if axis == 1 else 0.0, n if axis == 2 else 0.0)
        return normal, _along(p, -1e-4, normal), 0 if axis == 2 and side == 0 else 1
    i = segment - 1
    q, half = _to_body(g, i, p, True), g.half[i]
    if g.shape[i] == 0:
        normal = _unit((q[0] / half[0] ** 2, q[1] / half[1] ** 2, q[2] / half[2] ** 2))
    else:
        x, y, z = abs(q[0]) / half[0], abs(q[1]) / half[1], abs(q[2]) / half[2]
        normal = (
            np.sign(q[0]) if x >= y and x >= z else 0.0,
            np.sign(q[1]) if y > x and y >= z else 0.0,
            np.sign(q[2]) if z > x and z > y else 0.0,
        )
    # A hair below the surface: a flat face may lie just where two cells of a pattern meet.
    return _rotate(g.rotation[i], normal), _along(q, -1e-4, normal), i + 2


@_compiled
def _hash(x, y, z, seed):
    """Uniform in [0, 1) on the integer lattice."""
    h = (x * 374761393 + y * 668265263 + z * 1440670441 + seed * 974634777) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return (h ^ (h >> 16)) / 4294967296.0


@_compiled
def _noise(p, seed):
    """Value noise in [0, 1): smooth between random values on the integer lattice."""
    x, y, z = int(np.floor(p[0])), int(np.floor(p[1])), int(np.floor(p[2]))
    a, b, c = p[0] - x, p[1] - y, p[2] - z
    a, b, c = a * a * (3 - 2 * a), b * b * (3 - 2 * b), c * c * (3 - 2 * c)
    total = 0.0
    for i in range(2):
        for j in range(2):
            for k in range(2):
                weight = (a if i else 1 - a) * (b if j else 1 - b) * (c if k else 1 - c)
                total += weight * _hash(x + i, y + j, z + k, seed)
    return total


@_compiled
def _octaves(p, seed, pixel):
    """Noise of many scales about 0; octaves fade out before a period shrinks to two pixels of size ``pixel``."""
    total, weight, frequency = 0.0, 1.0, 1.0
    for octave in range(8):
        fade = min(1.0, 1 / (frequency * pixel) - 2)
        if fade <= 0:
            break
        total += fade * weight * (_noise((p[0] * frequency, p[1] * frequency, p[2] * frequency), seed + octave) - 0.5)
        weight, frequency = weight * 0.85, frequency * 2.03
    return total


@_compiled
def _joint(x, width):
    """1 within ``width`` of an integer."""
    return 1.0 if abs(x - np.round(x)) < width else 0.0


@_compiled
def _albedo(p, paint, k, pixel):
    seed = paint.seed[k]
    p, pixel = _along((0.0, 0.0, 0.0), 1 / paint.scale[k], p), pixel / paint.scale[k]
    grain = _octaves(p, seed, pixel)
    x, y, z = int(np.floor(p[0])), int(np.floor(p[1])), int(np.floor(p[2]))
    joint, pattern = 0.0, paint.pattern[k]
    if pattern == 0:
        mix = 0.5 + 0.5 * np.sin(6.3 * (p[0] + 0.6 * p[1] + 0.4 * p[2] + 1.2 * grain))
    elif pattern == 1:
        mix = float((x + y + z) & 1)
    elif pattern == 2:
        mix = float(int(np.floor(2 * p[2] + 0.25 * grain)) & 1)
    elif pattern == 3:
        mix = _hash(x, y, z, seed)
        joint = max(_joint(p[0], 0.025), _joint(p[1], 0.025), _joint(p[2], 0.025))
    else:  # bricks lie in rows along the walls, two wide to one high
        row = int(np.floor(2 * p[2]))
        along = p[0] + p[1] + 0.5 * (row & 1)
        mix = _hash(int(np.floor(along)), 0, row, seed)
        joint = max(_joint(along, 0.03), _joint(2 * p[2], 0.06))
    fleck = min(1.0, max(0.0, 5 * (_noise((4.3 * p[0], 4.3 * p[1], 4.3 * p[2]), seed + 50) - 0.66)))
    gain = max(0.15, 1 + 0.95 * grain) * (1 - 0.55 * joint)
    c = paint.colors[k]
    first, second = (1 - fleck) * (1 - mix) * gain, (1 - fleck) * mix * gain
    third = fleck * gain
    return (
        first * c[0, 0] + second * c[1, 0] + third * c[2, 0],
        first * c[0, 1] + second * c[1, 1] + third * c[2, 1],
        first * c[0, 2] + second * c[1, 2] + third * c[2, 2],
    )


@_compiled
def _shade(o, d, length, segment, g, paint, sun, sky, focal):
    """Linear colour of a hit: Lambert under a warm sun and a blue sky, both hidden by bodies."""
    p = _along(o, length, d)
    normal, q, k = _surface(p, segment, g)
    facing = max(0.1, -_dot(normal, _unit(d)))
    color = _albedo(q, paint, k, length / focal / np.sqrt(facing))
    start = _along(p, 1e-6, normal)
    direct, ambient = _dot(normal, sun), 1.0
    if direct <= 0 or _blocked(start, sun, g, np.inf):
        direct = 0.0
    if _blocked(start, _unit(_along(normal, 0.98, sky)), g, 3.0):
        ambient = 0.0
    ambient *= 0.8 + 0.2 * normal[2]
    return (
        color[0] * (0.04 + 0.78 * direct + 0.34 * ambient),
        color[1] * (0.04 + 0.73 * direct + 0.37 * ambient),
        color[2] * (0.05 + 0.64 * direct + 0.42 * ambient),
    )


@_compiled
def _render(world_from_cam, k, g, paint, lights, samples, rgb):
    o = (world_from_cam[0, 3], world_from_cam[1, 3], world_from_cam[2, 3])
    for v in range(rgb.shape[0]):
        for u in range(rgb.shape[1]):
            total = (0.0, 0.0, 0.0)
            for i in range(samples**2):
                du, dv = (i % samples + 0.5) / samples - 0.5, (i // samples + 0.5) / samples - 0.5
                d = _ray(world_from_cam, k, u + du, v + dv)
                length, segment = _first_hit(o, d, g)
                # Strides prime to the count: every spot once, in an order unlike that of the rays.
                sun, sky = lights.sun[(61 * i) % samples**2], lights.sky[(89 * i) % samples**2]
                color = _shade(o, d, length, segment, g, paint, (sun[0], sun[1], sun[2]), sky, k[0, 0])
                total = _along(total, 1.0, color)
            for channel in range(3):
                x = min(1.0, total[channel] / samples**2)
                x = 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055
                rgb[v, u, channel] = int(255 * x + 0.5)


@_compiled
def _cast(world_from_cam, k, g, uv, depth, segmentation):
    o = (world_from_cam[0, 3], world_from_cam[1, 3], world_from_cam[2, 3])
    for n in range(len(uv)):
        depth[n], segmentation[n] = _first_hit(o, _ray(world_from_cam, k, uv[n, 0], uv[n, 1]), g)
