"""Readers of the data sets of this field, each from the layout that its authors distribute, each to a ``Clip``.

=======================================  ==========================================================  ==============
reader                                   truth                                                       licence
=======================================  ==========================================================  ==============
``read_davis(root, name)``               segmentation, motion mask                                   2016: CC BY 4.0
``read_sintel(root, name)``              depth, camera, flow, motion mask                            CC BY 3.0
``read_tum(path)``                       depth (m), camera                                           CC BY 4.0
``read_scannet(path)``                   depth (m), camera                                           terms of use
``read_tap_vid(path, name)``             tracks                                                      CC BY 4.0
``read_movi(path, index=)``              all there is: also objects' poses, mobility, boxes          see the page
=======================================  ==========================================================  ==============

Nothing is downloaded: where data is absent, the error names its official page. What a release lacks is None in the
truth; what it promises and lacks is an ``InputError`` that names the file. ``start``, ``stride``, ``max_frames`` and
``long_side`` are those of ``load_clip``; a reader resamples its truth with the frames. The clip's own intrinsics stay
unknown, as a method would find them; the truth has them.

The protocol of C4D's supplement for TUM RGB-D and ScanNet, "first 90 frames at temporal stride 3", is the default of
their readers: every ``PROTOCOL_STRIDE``-th frame, ``PROTOCOL_FRAMES`` in all, as in MonST3R's preparation of the data.
"""

from c4d_nb.datasets.davis import davis_sequences, read_davis
from c4d_nb.datasets.layout import PROTOCOL_FRAMES, PROTOCOL_STRIDE
from c4d_nb.datasets.scannet import read_scannet
from c4d_nb.datasets.sintel import read_cam, read_dpt, read_flo, read_sintel
from c4d_nb.datasets.tap_vid import read_tap_vid, tap_vid_clips
from c4d_nb.datasets.tum import read_trajectory, read_tum
from c4d_nb.kubric.movi import read_movi

__all__ = [
    "PROTOCOL_FRAMES",
    "PROTOCOL_STRIDE",
    "davis_sequences",
    "read_cam",
    "read_davis",
    "read_dpt",
    "read_flo",
    "read_movi",
    "read_scannet",
    "read_sintel",
    "read_tap_vid",
    "read_trajectory",
    "read_tum",
    "tap_vid_clips",
]
