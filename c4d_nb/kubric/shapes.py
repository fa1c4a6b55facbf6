"""What bodies look like: convex solids and non-convex compounds of them, in varied paint."""

import colorsys
from collections.abc import Sequence

import numpy as np
import roma
import torch

from c4d_nb.kubric.scene import Light, Part, Texture, Vector, parts_box

Solid = tuple[str, Vector, Vector, Vector]
"""(shape, half size, centre, rotation vector), in units that ``scaled`` fixes."""
SIMPLE = ("sphere", "ellipsoid", "box", "cylinder", "capsule")
BODY_PATTERNS = ("marble", "checks", "stripes", "tiles", "dots", "cells")
FLOOR_PATTERNS = ("marble", "checks", "tiles", "dots", "cells")
WALL_PATTERNS = ("marble", "checks", "stripes", "tiles", "bricks", "cells")


def sample_parts(rng: np.random.Generator, size_m: float, images: Sequence[str] = ()) -> tuple[Part, ...]:
    """A random body whose largest side is ``size_m``: a simple solid or, in four of ten, a compound."""
    if rng.random() < 0.4:
        solids = COMPOUNDS[rng.integers(len(COMPOUNDS))](rng)
    else:
        solids = [_simple(rng, SIMPLE[rng.integers(len(SIMPLE))])]
    paints = [sample_texture(rng, size_m, BODY_PATTERNS, images) for _ in range(2)]
    return scaled([Part(*_placed(solid, paints[number % 2])) for number, solid in enumerate(solids)], size_m)


def scaled(parts: Sequence[Part], size_m: float) -> tuple[Part, ...]:
    """The same compound with a largest side of ``size_m``."""
    low, high = parts_box(tuple(parts))
    factor = size_m / float((high - low).max())
    return tuple(
        Part(
            p.shape,
            tuple(factor * x for x in p.half_size_m),
            p.texture,
            tuple(factor * x for x in p.center_m),
            p.quaternion,
        )
        for p in parts
    )


def sample_texture(
    rng: np.random.Generator,
    size_m: float,
    patterns: Sequence[str],
    images: Sequence[str] = (),
    saturation: float = 1.0,
) -> Texture:
    """Paint for something of a size: half of it with a picture, where there are ``images``."""
    common = {"seed": int(rng.integers(1 << 20)), "gloss": float(rng.choice([0.0, 0.0, 0.15, 0.4]))}
    if images and rng.random() < 0.5:
        tint = tuple(1 - 0.3 * rng.random(3))
        scale = float(size_m * rng.uniform(0.7, 1.5))
        return Texture("image", (tint,) * 3, scale, grain=0.1, image=images[rng.integers(len(images))], **common)
    light, dark = rng.uniform(0.6, 1.0), rng.uniform(0.25, 0.6)
    first, second = _color(rng, light, saturation), _color(rng, dark, saturation)
    flecks = first if rng.random() < 0.5 else _color(rng, rng.uniform(0.1, 1.0), saturation)
    pattern = patterns[rng.integers(len(patterns))]
    scale = float(size_m * np.exp(rng.uniform(np.log(0.12), np.log(0.6))))
    colors = (first, second, flecks) if rng.random() < 0.5 else (second, first, flecks)
    return Texture(pattern, colors, scale, grain=float(rng.uniform(0.3, 1.0)), **common)


def sample_light(rng: np.random.Generator) -> Light:
    """A sun from low to high, warm when low, from hard to soft; the weaker it is, the brighter the sky."""
    height, azimuth = rng.uniform(0.5, 1.3), rng.uniform(0, 2 * np.pi)
    strength, warmth, cool = rng.uniform(0.55, 1.1), 0.3 * (1.3 - height), rng.uniform(0.0, 0.2)
    sky = 0.9 - 0.55 * strength
    east, north = np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height)
    return Light(
        sun=(float(east), float(north), float(np.sin(height))),
        sun_color=(float(strength), float(strength * (1 - warmth / 2)), float(strength * (1 - warmth))),
        sky_color=(float(sky * (1 - cool)), float(sky * (1 - cool / 2)), float(sky)),
        sun_radius=float(rng.uniform(0.01, 0.12)),
    )


def _color(rng: np.random.Generator, value: float, saturation: float) -> Vector:
    return colorsys.hsv_to_rgb(rng.random(), saturation * rng.beta(1.5, 1.8), value)


def _placed(solid: Solid, texture: Texture) -> tuple:
    shape, half, center, turn = solid
    quaternion = roma.rotvec_to_unitquat(torch.tensor(turn, dtype=torch.float64))
    return shape, tuple(map(float, half)), texture, tuple(map(float, center)), tuple(quaternion.tolist())


def _simple(rng: np.random.Generator, kind: str) -> Solid:
    a, b, c = rng.uniform(0.35, 1, 3)
    half = {
        "sphere": (1.0, 1.0, 1.0),
        "ellipsoid": (a, b, 1.0),
        "box": (a, b, c),
        "cylinder": (a, a, c),
        "capsule": (0.6 * a, 0.6 * a, 1.0),
    }[kind]
    return "ellipsoid" if kind == "sphere" else kind, half, (0, 0, 0), (0, 0, 0)


def _ring(rng: np.random.Generator) -> list[Solid]:
    """Capsules around a hole."""
    n, thick = int(rng.integers(6, 11)), rng.uniform(0.15, 0.35)
    angle = 2 * np.pi * np.arange(n) / n
    length = np.tan(np.pi / n) + thick
    return [
        ("capsule", (thick, thick, length), (np.cos(a), np.sin(a), 0), _turn((-np.sin(a), np.cos(a), 0))) for a in angle
    ]


def _dumbbell(rng: np.random.Generator) -> list[Solid]:
    bar, ends = rng.uniform(0.1, 0.25), rng.uniform(0.3, 0.55, 2)
    shape = ("ellipsoid", "box")[rng.integers(2)]
    weights = [(shape, (r, r, r), (0, 0, z), (0, 0, 0)) for r, z in zip(ends, (-1, 1), strict=True)]
    return [("cylinder", (bar, bar, 1), (0, 0, 0), (0, 0, 0)), *weights]


def _hammer(rng: np.random.Generator) -> list[Solid]:
    grip, head = rng.uniform(0.08, 0.16), rng.uniform(0.2, 0.35)
    shape = ("box", "cylinder")[rng.integers(2)]
    return [
        ("capsule", (grip, grip, 1), (0, 0, 0), (0, 0, 0)),
        (shape, (head, head, rng.uniform(0.4, 0.7)), (0, 0, 0.9), (0, np.pi / 2, 0)),
    ]


def _table(rng: np.random.Generator) -> list[Solid]:
    a, b, height, leg = rng.uniform(0.5, 1), rng.uniform(0.5, 1), rng.uniform(0.4, 0.9), rng.uniform(0.06, 0.14)
    corners = [(x * (a - leg), y * (b - leg)) for x in (-1, 1) for y in (-1, 1)]
    legs = [("cylinder", (leg, leg, height / 2), (x, y, -height / 2), (0, 0, 0)) for x, y in corners]
    return [("box", (a, b, 0.08), (0, 0, 0.06), (0, 0, 0)), *legs]


def _snowman(rng: np.random.Generator) -> list[Solid]:
    radii, z, solids = np.sort(rng.uniform(0.3, 0.8, 3))[::-1], 0.0, []
    for r in radii:
        solids.append(("ellipsoid", (r, r, r), (0, 0, z + 0.8 * r), (0, 0, 0)))
        z += 1.6 * r
    return solids


def _cross(rng: np.random.Generator) -> list[Solid]:
    width = rng.uniform(0.15, 0.35)
    lengths = (1.0, *rng.uniform(0.5, 1, 2))
    shape = ("box", "capsule")[rng.integers(2)]
    turns = ((0, 0, 0), (0, np.pi / 2, 0), (np.pi / 2, 0, 0))
    return [(shape, (width, width, length), (0, 0, 0), turn) for length, turn in zip(lengths, turns, strict=True)]


COMPOUNDS = (_ring, _dumbbell, _hammer, _table, _snowman, _cross)


def _turn(direction: Vector) -> Vector:
    """Rotation vector that takes z to a horizontal unit direction."""
    x, y, _ = direction
    return -y * np.pi / 2, x * np.pi / 2, 0.0
