"""What rays into a scene hit, by MuJoCo: an independent oracle for the package's own ray caster."""

from xml.etree import ElementTree

import mujoco
import numpy as np
import torch
from torch import Tensor

from c4d_nb.kubric.scene import Part, Scene

# MuJoCo 4.0 asks for one more argument than 3.2.
NO_NORMAL = (None,) if "normal:" in mujoco.mj_ray.__doc__ else ()


def oracle_model(scene: Scene, frame: int) -> mujoco.MjModel:
    """Every part as a fixed geom at its pose of that frame; the room as six planes that are seen from inside.

    MuJoCo's body i + 1 is the scene's body i; the planes belong to body 0.
    """
    root = ElementTree.Element("mujoco")
    world = ElementTree.SubElement(root, "worldbody")
    for corner, side in zip(scene.room, (1, -1), strict=True):
        for inwards in np.eye(3) * side:
            ElementTree.SubElement(world, "geom", type="plane", size="0 0 1", pos=_text(corner), zaxis=_text(inwards))
    for body in scene.bodies:
        position, quaternion = body.positions[frame].tolist(), body.quaternions[frame].tolist()
        node = ElementTree.SubElement(world, "body", pos=_text(position), quat=_wxyz(quaternion))
        for part in body.parts:
            place = {"pos": _text(part.center_m), "quat": _wxyz(part.quaternion)}
            ElementTree.SubElement(node, "geom", {**_solid(part), **place})
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))


def cast_oracle(scene: Scene, frame: int, uv: Tensor) -> tuple[Tensor, Tensor]:
    """(z-depth, segmentation) of what the rays through any ``uv`` (n, 2) hit first, as ``c4d_nb.kubric.cast.cast``."""
    model = oracle_model(scene, frame)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    homogeneous = torch.cat([uv.double(), torch.ones(len(uv), 1).double()], dim=1)
    local = homogeneous @ scene.intrinsics.double().inverse().T  # z is 1
    length = local.norm(dim=1)
    world_from_cam = scene.world_from_cam[frame].double()
    eye, rays = world_from_cam[:3, 3].numpy(), (local @ world_from_cam[:3, :3].T / length[:, None]).numpy()
    geom, distance, segmentation = np.empty((1, 1), dtype=np.int32), length.clone(), []
    for i, ray in enumerate(rays):
        # Not mj_multiRay, whose culling misses bodies in MuJoCo 3.2.
        distance[i] = mujoco.mj_ray(model, data, eye, ray, None, 1, -1, geom, *NO_NORMAL)
        segmentation.append(model.geom_bodyid[geom.item()])
    return distance / length, torch.tensor(segmentation, dtype=torch.int64)


def _solid(part: Part) -> dict[str, str]:
    x, _, z = part.half_size_m
    if part.shape == "ellipsoid" and len(set(part.half_size_m)) == 1:
        return {"type": "sphere", "size": _text([x])}
    if part.shape == "cylinder":
        return {"type": "cylinder", "size": _text([x, z])}
    if part.shape == "capsule":  # MuJoCo's length is without the caps
        return {"type": "capsule", "size": _text([x, z - x])}
    return {"type": part.shape, "size": _text(part.half_size_m)}


def _wxyz(xyzw) -> str:
    return _text([xyzw[3], *xyzw[:3]])


def _text(numbers) -> str:
    return " ".join(repr(float(number)) for number in numbers)
