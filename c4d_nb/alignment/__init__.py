"""Two-stage optimisation: from pairs of pointmaps to one consistent scene."""

from c4d_nb.alignment.solve import AlignConfig, Alignment, RefineConfig, align, nearest_depth, refine_depth

__all__ = ["AlignConfig", "Alignment", "RefineConfig", "align", "nearest_depth", "refine_depth"]
