"""The compiled ray caster: how what a ray hits is lit, and the two loops that are called from Python.

No function holds Python's lock.
"""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from c4d_nb.kubric import patterns, solids
from c4d_nb.kubric.patterns import albedo, lattice_hash
from c4d_nb.kubric.solids import (
    along,
    blocked,
    dot,
    first_hit,
    inlined,
    part_normal,
    ray,
    room_normal,
    rotate,
    rotate_back,
    unit,
)

SOURCES = zlib.crc32(b"".join(Path(m).read_bytes() for m in (__file__, patterns.__file__, solids.__file__)))


class Lights(NamedTuple):
    sun: np.ndarray  # (samples ** 2, 3), unit directions towards a disc: each ray of a pixel looks at one spot of it
    sky: np.ndarray  # (samples ** 2, 3), points on the unit sphere
    color: np.ndarray  # (2, 3), linear, of the sun and the sky


@intrinsic
def _unowned(typing, arrays):
    """The same tuple of arrays, uncounted: threads that count references to one array wait for each other."""

    def generate(context, builder, signature, arguments):
        values = arguments[0]
        for i, kind in enumerate(signature.args[0]):
            array = make_array(kind)(context, builder, builder.extract_value(values, i))
            array.meminfo = array.meminfo.type(None)
            values = builder.insert_value(values, array._getvalue(), i)
        return values

    return arrays(arrays), generate


@inlined
def _surface(p, part, g, s):
    """(world normal, point in texture coordinates, axis the surface looks along, number of the paint) at a hit."""
    if part < 0:
        normal = q = own = room_normal(p, g)
        q, k = p, 0 if normal[2] > 0 else 1
    else:
        c = g.center[s, part]
        q = rotate_back(g.rotation[s, part], (p[0] - c[0], p[1] - c[1], p[2] - c[2]))
        own = part_normal(q, g.shape[part], g.half[part])
        normal, k = rotate(g.rotation[s, part], own), part + 2
    x, y, z = abs(own[0]), abs(own[1]), abs(own[2])
    # A hair below the surface: a flat face may lie just where two cells of a pattern meet.
    return normal, along(q, -1e-4, own), 0 if x >= y and x >= z else 1 if y >= z else 2, k


@inlined
def _shade(o, d, length, part, g, s, paint, sun, sky, color, focal):
    """Linear colour of a hit: Lambert and a reflection under the sun, and a sky, both hidden by bodies."""
    p, eye = along(o, length, d), unit((-d[0], -d[1], -d[2]))
    normal, q, axis, k = _surface(p, part, g, s)
    base = albedo(q, axis, paint, k, length / focal / math.sqrt(max(0.1, dot(normal, eye))))
    start = along(p, 1e-6, normal)
    direct, shine, ambient = dot(normal, sun), 0.0, 0.8 + 0.2 * normal[2]
    if direct <= 0 or blocked(start, sun, g, s, np.inf):
        direct = 0.0
    elif paint.gloss[k] > 0:
        shine = paint.gloss[k] * max(0.0, dot(normal, unit(along(sun, 1.0, eye)))) ** 40
    if blocked(start, unit(along(normal, 0.98, sky)), g, s, 3.0):
        ambient = 0.0
    return (
        color[0, 0] * (base[0] * direct + shine) + color[1, 0] * base[0] * (0.1 + 0.9 * ambient),
        color[0, 1] * (base[1] * direct + shine) + color[1, 1] * base[1] * (0.1 + 0.9 * ambient),
        color[0, 2] * (base[2] * direct + shine) + color[1, 2] * base[2] * (0.1 + 0.9 * ambient),
    )


@inlined
def pixel_color(world_from_cam, k, g, paint, lights, samples, u, v):
    """Linear colour of a pixel, the mean of ``samples`` x ``samples`` rays, each at an instant of its own."""
    n, instants, total = samples**2, len(world_from_cam), (0.0, 0.0, 0.0)
    shift = lattice_hash(u, v, 0, 0)
    for i in range(n):
        # Strides prime to the count: every spot and every instant once, in orders unlike that of the rays.
        s = int(((37 * i) % n + shift) * instants / n)
        sun, sky = lights.sun[(61 * i) % n], lights.sky[(89 * i) % n]
        c = world_from_cam[s]
        o = (c[0, 3], c[1, 3], c[2, 3])
        d = ray(c, k, u + (i % samples + 0.5) / samples - 0.5, v + (i // samples + 0.5) / samples - 0.5)
        length, _, part = first_hit(o, d, g, s)
        color = _shade(o, d, length, part, g, s, paint, (sun[0], sun[1], sun[2]), sky, lights.color, k[0, 0])
        total = along(total, 1.0 / n, color)
    return total


@inlined
def srgb(x):
    x = min(1.0, x)
    return int(255 * (12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055) + 0.5)


def _cached(sources: int) -> tuple[Callable, Callable]:
    """The two loops. Numba's cache looks at the file of a function only; that they enclose a number that stands for
    all sources makes it part of the cache's key."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def render_pixels(world_from_cam, k, g, paint, lights, samples, rgb):
        """Fill ``rgb`` (h, w, 3) with sRGB colours; ``world_from_cam`` (s, 4, 4) at the instants of ``g``."""
        assert sources >= 0
        world_from_cam, k = _unowned((world_from_cam, k))
        g, paint, lights = _unowned(g), _unowned(paint), _unowned(lights)
        for v in range(rgb.shape[0]):
            for u in range(rgb.shape[1]):
                color = pixel_color(world_from_cam, k, g, paint, lights, samples, u, v)
                for channel in range(3):
                    rgb[v, u, channel] = srgb(color[channel])

    @njit(cache=True, nogil=True, error_model="numpy")
    def cast_rays(world_from_cam, k, g, uv, depth, segmentation):
        """Fill ``depth`` and ``segmentation`` (n) with what the rays through ``uv`` (n, 2) hit first."""
        assert sources >= 0
        world_from_cam, k = _unowned((world_from_cam, k))
        g, c = _unowned(g), world_from_cam[0]
        o = (c[0, 3], c[1, 3], c[2, 3])
        for n in range(len(uv)):
            depth[n], segmentation[n], _ = first_hit(o, ray(c, k, uv[n, 0], uv[n, 1]), g, 0)

    return render_pixels, cast_rays


render_pixels, cast_rays = _cached(SOURCES)
