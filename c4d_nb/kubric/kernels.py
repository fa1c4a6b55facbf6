"""The compiled ray caster: what a ray hits first, how that surface is painted, how it is lit.

Points and directions are tuples of three floats, which stay in registers. No function holds Python's lock.

All compiled functions, and the types they are given, stay in this one file: numba's cache looks at the file of the
function it loads, so an edit in another file would go unnoticed.
"""

from typing import NamedTuple

import numpy as np
from numba import njit


class Geometry(NamedTuple):
    shape: np.ndarray  # (o,) a value of SHAPES
    half: np.ndarray  # (o, 3)
    center: np.ndarray  # (o, 3)
    rotation: np.ndarray  # (o, 3, 3), world from object
    room: np.ndarray  # (2, 3), lowest and highest corner


class Paint(NamedTuple):  # of the floor, the walls and each body
    pattern: np.ndarray  # (o + 2,)
    colors: np.ndarray  # (o + 2, 3, 3), linear
    scale: np.ndarray  # (o + 2,)
    seed: np.ndarray  # (o + 2,)


class Lights(NamedTuple):
    sun: np.ndarray  # (samples ** 2, 3), unit directions towards a disc: each ray of a pixel looks at one spot of it
    sky: np.ndarray  # (samples ** 2, 3), points on the unit sphere


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
def _to_body(g, i, p):
    """A world point in the axes of body i."""
    return _rotate(g.rotation[i].T, (p[0] - g.center[i, 0], p[1] - g.center[i, 1], p[2] - g.center[i, 2]))


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
        o_body, d_body = _to_body(g, i, o), _rotate(g.rotation[i].T, d)
        hit = _hit_ellipsoid(o_body, d_body, g.half[i]) if g.shape[i] == 0 else _hit_box(o_body, d_body, g.half[i])
        if hit < best:
            best, segment = hit, i + 1
    return best, segment


@_compiled
def _blocked(o, d, g, reach):
    """Whether a body, walls not counted, lies on a ray within ``reach``."""
    # The two lines of _first_hit again: as a function of its own they are not inlined, and all takes 1.6 times as long.
    for i in range(len(g.shape)):
        o_body, d_body = _to_body(g, i, o), _rotate(g.rotation[i].T, d)
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
    q, half = _to_body(g, i, p), g.half[i]
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
def render_pixels(world_from_cam, k, g, paint, lights, samples, rgb):
    """Fill ``rgb`` (h, w, 3) with sRGB colours, each the mean of ``samples`` x ``samples`` rays."""
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
def cast_rays(world_from_cam, k, g, uv, depth, segmentation):
    """Fill ``depth`` and ``segmentation`` (n) with what the rays through ``uv`` (n, 2) hit first."""
    o = (world_from_cam[0, 3], world_from_cam[1, 3], world_from_cam[2, 3])
    for n in range(len(uv)):
        depth[n], segmentation[n] = _first_hit(o, _ray(world_from_cam, k, uv[n, 0], uv[n, 1]), g)
