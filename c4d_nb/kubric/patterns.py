"""Compiled solid textures: the colour at a point, smoothed to the size of the pixel that sees it."""

import math
from typing import NamedTuple

import numpy as np

from c4d_nb.kubric.solids import along, inlined


class Paint(NamedTuple):  # of the floor, the walls and each part
    pattern: np.ndarray  # (p + 2,)
    colors: np.ndarray  # (p + 2, 3, 3), linear
    scale: np.ndarray  # (p + 2,)
    seed: np.ndarray  # (p + 2,)
    grain: np.ndarray  # (p + 2,)
    gloss: np.ndarray  # (p + 2,)
    image: np.ndarray  # (p + 2,) a row of ``levels``
    levels: np.ndarray  # (images, halvings, 3), each level's offset in ``pixels``, its height and its width
    pixels: np.ndarray  # (pixels of all levels of all images, 3), linear


@inlined
def lattice_hash(x, y, z, seed):
    """Uniform in [0, 1) on the integer lattice."""
    h = (x * 374761393 + y * 668265263 + z * 1440670441 + seed * 974634777) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return (h ^ (h >> 16)) / 4294967296.0


@inlined
def _floor(x):
    return int(math.floor(x))  # noqa: RUF046 (on CUDA it is a float)


@inlined
def _noise(p, seed):
    """Value noise in [0, 1): smooth between random values on the integer lattice."""
    x, y, z = _floor(p[0]), _floor(p[1]), _floor(p[2])
    a, b, c = p[0] - x, p[1] - y, p[2] - z
    a, b, c = a * a * (3 - 2 * a), b * b * (3 - 2 * b), c * c * (3 - 2 * c)
    total = 0.0
    for i in range(2):
        for j in range(2):
            for k in range(2):
                weight = (a if i else 1 - a) * (b if j else 1 - b) * (c if k else 1 - c)
                total += weight * lattice_hash(x + i, y + j, z + k, seed)
    return total


@inlined
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


@inlined
def _joint(x, width):
    """1 within ``width`` of an integer."""
    return 1.0 if abs(x - round(x)) < width else 0.0


@inlined
def _cells(p, seed):
    """(random value of the nearest of points strewn one to a cube, how far it is from being second)."""
    x, y, z = _floor(p[0]), _floor(p[1]), _floor(p[2])
    first, second, value = np.inf, np.inf, 0.0
    for i in range(x - 1, x + 2):
        for j in range(y - 1, y + 2):
            for k in range(z - 1, z + 2):
                a, b, c = lattice_hash(i, j, k, seed), lattice_hash(i, j, k, seed + 1), lattice_hash(i, j, k, seed + 2)
                away = (i + a - p[0]) ** 2 + (j + b - p[1]) ** 2 + (k + c - p[2]) ** 2
                if away < first:
                    first, second, value = away, first, lattice_hash(i, j, k, seed + 3)
                elif away < second:
                    second = away
    return value, math.sqrt(second) - math.sqrt(first)


@inlined
def _pattern(kind, p, seed, grain):
    """(mix of the first two colours, darkness of a joint) at a point in units of the pattern's scale."""
    x, y, z = _floor(p[0]), _floor(p[1]), _floor(p[2])
    if kind == 0:
        return 0.5 + 0.5 * math.sin(6.3 * (p[0] + 0.6 * p[1] + 0.4 * p[2] + 1.2 * grain)), 0.0
    if kind == 1:
        return float((x + y + z) & 1), 0.0
    if kind == 2:
        return float(_floor(2 * p[2] + 0.25 * grain) & 1), 0.0
    if kind == 3:
        return lattice_hash(x, y, z, seed), max(_joint(p[0], 0.025), _joint(p[1], 0.025), _joint(p[2], 0.025))
    if kind == 4:  # bricks lie in rows along the walls, two wide to one high
        row = _floor(2 * p[2])
        along = p[0] + p[1] + 0.5 * (row & 1)
        return lattice_hash(_floor(along), 0, row, seed), max(_joint(along, 0.03), _joint(2 * p[2], 0.06))
    if kind == 5:
        away = (p[0] - x - 0.5) ** 2 + (p[1] - y - 0.5) ** 2 + (p[2] - z - 0.5) ** 2
        return 1.0 if away < 0.04 + 0.3 * lattice_hash(x, y, z, seed) else 0.0, 0.0
    value, border = _cells(p, seed + 60)
    return value, 1.0 if border < 0.06 else 0.0


@inlined
def _mirrored(x, size):
    """A position in an image that repeats in mirror images: the pixel to the left, the one to the right, the share."""
    x -= 0.5
    i = _floor(x)
    a, b = i % (2 * size), (i + 1) % (2 * size)
    return min(a, 2 * size - 1 - a), min(b, 2 * size - 1 - b), x - i


@inlined
def _picture(a, b, paint, k, pixel):
    """Colour of an image at (a right, b up), in units of its width, on the level whose pixels are about as large."""
    levels = paint.levels[paint.image[k]]
    level = min(len(levels) - 1, max(0, round(math.log2(max(1e-9, pixel * levels[0, 2])))))
    start, height, width = levels[level]
    left, right, du = _mirrored(a * width, width)
    top, bottom, dv = _mirrored(-b * width, height)
    total = (0.0, 0.0, 0.0)
    for v, dy in ((top, 1 - dv), (bottom, dv)):
        for u, dx in ((left, 1 - du), (right, du)):
            total = along(total, dx * dy, paint.pixels[start + v * width + u])
    return total


@inlined
def albedo(p, axis, paint, k, pixel):
    """Linear colour at a point of paint k's own axes, whose surface looks mostly along ``axis``."""
    seed, c = paint.seed[k], paint.colors[k]
    p, pixel = along((0.0, 0.0, 0.0), 1 / paint.scale[k], p), pixel / paint.scale[k]
    grain = paint.grain[k] * _octaves(p, seed, pixel)
    if paint.pattern[k] == 7:
        color = _picture(p[1] if axis == 0 else p[0], p[1] if axis == 2 else p[2], paint, k, pixel)
        gain = max(0.15, 1 + grain)
        return gain * color[0] * c[0, 0], gain * color[1] * c[0, 1], gain * color[2] * c[0, 2]
    mix, joint = _pattern(paint.pattern[k], p, seed, grain)
    fleck = min(1.0, max(0.0, 5 * (_noise((4.3 * p[0], 4.3 * p[1], 4.3 * p[2]), seed + 50) - 0.66)))
    gain = max(0.15, 1 + grain) * (1 - 0.55 * joint)
    first, second = (1 - fleck) * (1 - mix) * gain, (1 - fleck) * mix * gain
    third = fleck * gain
    return (
        first * c[0, 0] + second * c[1, 0] + third * c[2, 0],
        first * c[0, 1] + second * c[1, 1] + third * c[2, 1],
        first * c[0, 2] + second * c[1, 2] + third * c[2, 2],
    )
