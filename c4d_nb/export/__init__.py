"""A reconstruction in the formats of other tools, each read back before it counts as written.

===================================  ===================================================================================
function                             what appears at ``path``
===================================  ===================================================================================
``to_colmap(result, path)``          folder: ``images/``, ``sparse/0/*.bin`` (a model with PINHOLE cameras)
``to_nerfstudio(result, path)``      folder: ``transforms.json``, ``images/``, ``masks/``, ``points.ply``
``to_ply(result, path, frame=)``     point cloud of the static scene, or of all that one frame shows
``to_ply_sequence(result, path)``    folder: ``frame_00000.ply``, ..., all that each frame shows
``to_glb(result, path, frame=)``     the same clouds with the cameras, for viewers of glTF
``to_tum(result, path)``             the camera's path, a line a frame
``to_npz(result, path)``             plain arrays for ``numpy.load``; ``Reconstruction.save`` keeps all
===================================  ===================================================================================

Cameras are those of the **original** pixels of the video, whatever the clip was shrunk to. Points are pixels of depth;
``min_confidence`` exports only those that are more certain (1 is a guess); without it, as in the viewer, static points
known to three standard deviations, if a tenth are, and all dynamic ones. Pixels at depth edges are left out.

What was written is read back, in COLMAP's case by pycolmap, and its points are projected by its cameras: all must lie
within ``TOLERANCE_PX`` of the pixels that they came from, or nothing is left at ``path`` and ``InputError`` says so.

=============  =============================================  ==========================================================
format         axes of a camera                               pixels
=============  =============================================  ==========================================================
COLMAP         x right, y down, z forward; cam_from_world,    centre of the top-left one (0.5, 0.5)
               quaternion wxyz
nerfstudio     x right, y up, z backward; world_from_cam      centre of the top-left one (0.5, 0.5)
GLB            the world turned: the mean camera has y up     -
TUM, NPZ, PLY  those of ``c4d_nb``                            those of ``c4d_nb``
=============  =============================================  ==========================================================
"""

from c4d_nb.export.check import TOLERANCE_PX
from c4d_nb.export.colmap import to_colmap
from c4d_nb.export.formats import FORMATS, check_formats, export
from c4d_nb.export.glb import to_glb
from c4d_nb.export.nerfstudio import to_nerfstudio
from c4d_nb.export.npz import to_npz
from c4d_nb.export.ply import to_ply, to_ply_sequence
from c4d_nb.export.tum import to_tum

__all__ = [
    "FORMATS",
    "TOLERANCE_PX",
    "check_formats",
    "export",
    "to_colmap",
    "to_glb",
    "to_nerfstudio",
    "to_npz",
    "to_ply",
    "to_ply_sequence",
    "to_tum",
]
