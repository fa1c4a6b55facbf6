"""Two-stage optimisation: from pairs of pointmaps to one consistent scene."""

from c4d_nb.alignment.fast import FastConfig, align_fast
from c4d_nb.alignment.solve import AlignConfig, RefineConfig, Stage1Config, align, nearest_depth, refine_depth
from c4d_nb.alignment.state import Alignment, Snapshot, view_gap
from c4d_nb.alignment.windows import align_windows

__all__ = [
    "AlignConfig",
    "Alignment",
    "FastConfig",
    "RefineConfig",
    "Snapshot",
    "Stage1Config",
    "align",
    "align_fast",
    "align_windows",
    "nearest_depth",
    "refine_depth",
    "view_gap",
]
