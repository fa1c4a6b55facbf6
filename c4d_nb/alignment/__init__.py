"""Two-stage optimisation: from pairs of pointmaps to one consistent scene."""

from c4d_nb.alignment.solve import AlignConfig, RefineConfig, align, nearest_depth, refine_depth
from c4d_nb.alignment.state import Alignment, Snapshot, view_gap

__all__ = ["AlignConfig", "Alignment", "RefineConfig", "Snapshot", "align", "nearest_depth", "refine_depth", "view_gap"]
