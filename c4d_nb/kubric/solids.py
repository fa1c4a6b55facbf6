"""Compiled rays into solids: what a ray hits first, and what blocks it.

Points and directions are tuples of three floats, which stay in registers. Functions are those of ``math``: CUDA knows
few of NumPy's.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

inlined = njit(nogil=True, error_model="numpy", forceinline=True)
"""For functions that only other compiled functions call."""


class Geometry(NamedTuple):
    """Bodies made of parts, at several instants s: the parts of body i are first[i] to first[i + 1]."""

    first: np.ndarray  # (o + 1,)
    ball: np.ndarray  # (s, o, 4), centre and squared radius of a sphere around the body
    shape: np.ndarray  # (p,) a value of SHAPES
    half: np.ndarray  # (p, 3)
    center: np.ndarray  # (s, p, 3)
    rotation: np.ndarray  # (s, p, 3, 3), world from part
    room: np.ndarray  # (2, 3), lowest and highest corner


@inlined
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def along(a, s, d):
    return a[0] + s * d[0], a[1] + s * d[1], a[2] + s * d[2]


@inlined
def unit(a):
    n = 1 / math.sqrt(dot(a, a))
    return a[0] * n, a[1] * n, a[2] * n


@inlined
def rotate(m, a):
    return (
        m[0, 0] * a[0] + m[0, 1] * a[1] + m[0, 2] * a[2],
        m[1, 0] * a[0] + m[1, 1] * a[1] + m[1, 2] * a[2],
        m[2, 0] * a[0] + m[2, 1] * a[1] + m[2, 2] * a[2],
    )


@inlined
def rotate_back(m, a):
    return (
        m[0, 0] * a[0] + m[1, 0] * a[1] + m[2, 0] * a[2],
        m[0, 1] * a[0] + m[1, 1] * a[1] + m[2, 1] * a[2],
        m[0, 2] * a[0] + m[1, 2] * a[1] + m[2, 2] * a[2],
    )


@inlined
def ray(world_from_cam, k, u, v):
    """World direction of a pixel's ray, scaled so that lengths along it are z-depths."""
    return rotate(
        world_from_cam, ((u - k[0, 2] - k[0, 1] * (v - k[1, 2]) / k[1, 1]) / k[0, 0], (v - k[1, 2]) / k[1, 1], 1.0)
    )


# A line o + x d is inside a convex solid for x between two lengths: ``_in_...`` return them, the first larger for none.


@inlined
def _in_ball(a, b, rest):
    """The solutions of a (s - b)^2 < rest."""
    if rest < 0:
        return np.inf, -np.inf
    root = math.sqrt(rest / a)
    return b - root, b + root


@inlined
def _in_ellipsoid(o, d, half):
    o = (o[0] / half[0], o[1] / half[1], o[2] / half[2])
    d = (d[0] / half[0], d[1] / half[1], d[2] / half[2])
    a = dot(d, d)
    b = -dot(o, d) / a
    nearest = along(o, b, d)  # without the cancellation of b^2 - a c
    return _in_ball(a, b, 1 - dot(nearest, nearest))


@inlined
def _in_slab(o, d, half):
    if d == 0:
        return (-np.inf, np.inf) if abs(o) <= half else (np.inf, -np.inf)
    middle, reach = -o / d, half / abs(d)
    return middle - reach, middle + reach


@inlined
def _in_box(o, d, half):
    x, y, z = _in_slab(o[0], d[0], half[0]), _in_slab(o[1], d[1], half[1]), _in_slab(o[2], d[2], half[2])
    return max(x[0], y[0], z[0]), min(x[1], y[1], z[1])


@inlined
def _in_cylinder(o, d, radius, half_height):
    a = d[0] * d[0] + d[1] * d[1]
    z = _in_slab(o[2], d[2], half_height)
    if a == 0:
        return z if o[0] * o[0] + o[1] * o[1] <= radius * radius else (np.inf, -np.inf)
    b = -(o[0] * d[0] + o[1] * d[1]) / a
    x, y = o[0] + b * d[0], o[1] + b * d[1]
    side = _in_ball(a, b, radius * radius - x * x - y * y)
    return max(side[0], z[0]), min(side[1], z[1])


@inlined
def _in_capsule(o, d, radius, half_height):
    """A cylinder and two spheres: convex, so that their spans join to one."""
    a, core = dot(d, d), half_height - radius
    enter, leave = _in_cylinder(o, d, radius, core)
    if enter > leave:
        enter, leave = np.inf, -np.inf
    for side in (-1.0, 1.0):
        center = (o[0], o[1], o[2] - side * core)
        b = -dot(center, d) / a
        nearest = along(center, b, d)
        first, last = _in_ball(a, b, radius * radius - dot(nearest, nearest))
        enter, leave = min(enter, first), max(leave, last)
    return enter, leave


@inlined
def _hit_part(o, d, g, s, i):
    """Length to the first hit of part i in front of the origin; infinity for none."""
    c, half, shape = g.center[s, i], g.half[i], g.shape[i]
    o = rotate_back(g.rotation[s, i], (o[0] - c[0], o[1] - c[1], o[2] - c[2]))
    d = rotate_back(g.rotation[s, i], d)
    if shape == 0:
        enter, leave = _in_ellipsoid(o, d, half)
    elif shape == 1:
        enter, leave = _in_box(o, d, half)
    elif shape == 2:
        enter, leave = _in_cylinder(o, d, half[0], half[2])
    else:
        enter, leave = _in_capsule(o, d, half[0], half[2])
    if enter > leave or leave <= 0:
        return np.inf
    return enter if enter > 0 else leave


@inlined
def _near(o, d, dd, g, s, i, reach):
    """Whether a ray passes the sphere around body i before ``reach``; ``dd`` is d's squared length."""
    x, y, z = g.ball[s, i, 0] - o[0], g.ball[s, i, 1] - o[1], g.ball[s, i, 2] - o[2]
    along, away = x * d[0] + y * d[1] + z * d[2], x * x + y * y + z * z - g.ball[s, i, 3]
    if away <= 0:
        return True
    if along <= 0 or along * along < away * dd:
        return False
    return reach * dd >= along or away <= (2 * along - reach * dd) * reach


@inlined
def first_hit(o, d, g, s):
    """(length, segment, part) over all bodies and the room, whose part is -1."""
    best, segment, part, dd = np.inf, 0, -1, dot(d, d)
    for axis in range(3):
        if d[axis] != 0:
            best = min(best, (g.room[1 if d[axis] > 0 else 0, axis] - o[axis]) / d[axis])
    for body in range(len(g.first) - 1):
        if _near(o, d, dd, g, s, body, best):
            for i in range(g.first[body], g.first[body + 1]):
                hit = _hit_part(o, d, g, s, i)
                if hit < best * (1 - 1e-12):  # of surfaces that coincide the first is seen, whatever the rounding
                    best, segment, part = hit, body + 1, i
    return best, segment, part


@inlined
def blocked(o, d, g, s, reach):
    """Whether a body, walls not counted, lies on a ray within ``reach``."""
    dd = dot(d, d)
    for body in range(len(g.first) - 1):
        if _near(o, d, dd, g, s, body, reach):
            for i in range(g.first[body], g.first[body + 1]):
                if _hit_part(o, d, g, s, i) < reach:
                    return True
    return False


@inlined
def room_normal(p, g):
    axis, side, gap = 0, 0, np.inf
    for a in range(3):
        for s in range(2):
            if abs(p[a] - g.room[s, a]) < gap:
                axis, side, gap = a, s, abs(p[a] - g.room[s, a])
    n = 1.0 if side == 0 else -1.0
    return n if axis == 0 else 0.0, n if axis == 1 else 0.0, n if axis == 2 else 0.0


@inlined
def part_normal(q, shape, half):
    """Outward unit normal at a point of a part's surface, both in the part's axes."""
    if shape == 0:
        return unit((q[0] / half[0] ** 2, q[1] / half[1] ** 2, q[2] / half[2] ** 2))
    if shape == 1:
        x, y, z = abs(q[0]) / half[0], abs(q[1]) / half[1], abs(q[2]) / half[2]
        return (
            math.copysign(1.0, q[0]) if x >= y and x >= z else 0.0,
            math.copysign(1.0, q[1]) if y > x and y >= z else 0.0,
            math.copysign(1.0, q[2]) if z > x and z > y else 0.0,
        )
    if shape == 2 and abs(q[2]) / half[2] > math.sqrt(q[0] ** 2 + q[1] ** 2) / half[0]:
        return 0.0, 0.0, math.copysign(1.0, q[2])
    core = half[2] - half[0] if shape == 3 else half[2]
    return unit((q[0], q[1], q[2] - min(core, max(-core, q[2])) if shape == 3 else 0.0))
