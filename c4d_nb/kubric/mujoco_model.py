"""A room and rigid bodies as a MuJoCo model: shapes, friction and rebounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import mujoco
import numpy as np
from scipy.optimize import brentq

from c4d_nb.errors import InputError
from c4d_nb.kubric.ranges import Region
from c4d_nb.kubric.scene import Part

Solid = tuple[Part, ...]

GRAVITY_M_S2 = 10.0
SUBSTEPS_HZ = 960.0
CONTACT_S = 0.005
"""Inverse angular frequency of the spring between bodies that touch: a hard rebound takes pi times as long."""
SPIN_M, ROLL_M = 0.02, 0.03
"""Torque of torsional and of rolling friction over the normal force. The latter stops balls, and rocking ellipsoids."""


@dataclass(frozen=True)
class Surface:
    """Coulomb's friction, and rebound over impact speed. Those of the two surfaces of a contact are multiplied."""

    friction: float
    restitution: float

    def __post_init__(self) -> None:
        if not 0 <= self.friction < math.inf:
            raise InputError(f"friction: expected a finite number of at least 0, but it is {self.friction}")
        if not 0 <= self.restitution < 1:
            raise InputError(f"restitution: expected a number in [0, 1), but it is {self.restitution}")


def room_model(solids: Sequence[Solid], room: Region, objects: Surface, floor: Surface) -> mujoco.MjModel:
    """Free bodies, of which MuJoCo's number i + 1 is solid i, and the floor and four walls of its body 0."""
    if not all(low < high for low, high in zip(*room, strict=True)):
        raise InputError(f"room: expected lowest and highest corner, but it is {room}")
    root = ElementTree.Element("mujoco")
    # Elliptic cones: with pyramids friction depends on the direction.
    option = ElementTree.SubElement(root, "option", gravity=_text(0, 0, -GRAVITY_M_S2), cone="elliptic")
    # On by default in 4.0, where it can give a box and a cylinder a wrong normal that drives them into each other.
    ElementTree.SubElement(option, "flag", multiccd="disable")
    ElementTree.SubElement(root, "size", memory="64M")
    ElementTree.SubElement(ElementTree.SubElement(root, "default"), "geom", condim="6", **_contact(objects, objects))
    world = ElementTree.SubElement(root, "worldbody")
    for axis, side in ((2, 0), (0, 0), (0, 1), (1, 0), (1, 1)):
        inwards = [0.0, 0.0, 0.0]
        inwards[axis] = 1.0 - 2.0 * side
        # Priority, or MuJoCo would take the larger friction of the two.
        plane = {"type": "plane", "size": "0 0 1", "priority": "1", **_contact(objects, floor)}
        ElementTree.SubElement(world, "geom", pos=_text(*room[side]), zaxis=_text(*inwards), **plane)
    for solid in solids:
        body = ElementTree.SubElement(world, "body")
        ElementTree.SubElement(body, "freejoint")
        for part in solid:
            ElementTree.SubElement(body, "geom", _geom(part))
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    if (off := np.abs(model.body_ipos[1:]).max(initial=0.0)) > 1e-6:
        raise InputError(f"solids: expected the centre of mass of each at its origin, but one is {off:.3g} m away")
    return model


def _geom(part: Part) -> dict[str, str]:
    x, y, z = part.half_size_m
    sizes = {"ellipsoid": (x, y, z), "box": (x, y, z), "cylinder": (x, z), "capsule": (x, z - x)}[part.shape]
    kind, sizes = ("sphere", (x,)) if part.shape in ("ellipsoid", "capsule") and x == y == z else (part.shape, sizes)
    i, j, k, real = part.quaternion
    return {"type": kind, "size": _text(*sizes), "pos": _text(*part.center_m), "quat": _text(real, i, j, k)}


def _contact(a: Surface, b: Surface) -> dict[str, str]:
    """A spring and a damper; negative numbers are MuJoCo's sign for stiffness and damping themselves.

    The other form, of time constant and damping ratio, rebounds wrongly.
    """
    damping = 2 * _damping_ratio(a.restitution * b.restitution) / CONTACT_S
    return {
        "friction": _text(a.friction * b.friction, SPIN_M, ROLL_M),
        "solref": _text(-1 / CONTACT_S**2, -damping),
        "solimp": "0.99 0.99 0.001",
    }


def _damping_ratio(restitution: float) -> float:
    """Of a damped spring that pushes but never pulls (Schwager and Pöschel, Granular Matter 9, 2007).

    Bounded, so that a substep does not turn an impact around: for no restitution at all the rebound is up to 0.05.
    """

    def excess(z: float) -> float:
        root = math.sqrt(abs(1 - z * z))
        angle = math.acos(z) if z < 1 else math.acosh(z)
        return math.exp(-2 * z * (angle / root if root else 1.0)) - restitution

    most = 0.45 * CONTACT_S * SUBSTEPS_HZ
    return most if excess(most) >= 0 else float(brentq(excess, 0.0, most))


def _text(*numbers: float) -> str:
    return " ".join(repr(float(number)) for number in numbers)
