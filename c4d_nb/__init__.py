"""C4D: 4D made from 3D through dual correspondences, as a library behind notebooks.

Conventions (the one page; ``tests/test_conventions.py`` checks every line of it)
-----------------------------------------------------------------------------
Axes         OpenCV: x right, y down, z forward, for every camera; the world is right-handed.
Pixels       ``uv = (column, row)``; integers are pixel **centres**: ``(0, 0)`` is the centre of the top-left pixel,
             the image spans ``[-0.5, w - 0.5] x [-0.5, h - 0.5]`` and its middle is ``((w - 1) / 2, (h - 1) / 2)``.
             ``array[t, v, u]`` is therefore the value at ``uv = (u, v)``.
Intrinsics   ``K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]`` in pixels of the image at hand; a resized clip carries a
             ``Resize`` record that maps K, pixels and masks to the original image and back.
Poses        ``b_from_a`` maps coordinates in a to those in b, as a 4x4 matrix: ``x_world = world_from_cam @ x_cam``.
             Inner names cancel: ``world_from_cam @ cam_from_obj = world_from_obj``.
Quaternions  xyzw, as in roma and scipy.
Depth        z in the camera's frame, not the distance to its centre.
Flow         ``flow[v, u] = target uv - source uv``, in pixels, stored (x, y).
Masks        True is dynamic.
Mobility     1 is dynamic, 0 is static.
Scale        A monocular reconstruction is known up to one scale; truth has its scene's units (metres for Kubric).
Tensors      torch; dtype and device follow the inputs. Axis letters: t frames, h height, w width, n points, e edges,
             k neighbours, c channels, o objects.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from c4d_nb.clip import Clip, PairPointmaps, Tracks, Truth, load_clip

# OpenMP threads that spin while they wait make everything several times slower on a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
__all__ = ["Clip", "PairPointmaps", "Tracks", "Truth", "load_clip"]


def __getattr__(name: str) -> object:
    """The names above, imported when they are first asked for: torch alone takes seconds."""
    if name in __all__:
        return getattr(import_module("c4d_nb.clip"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
