# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/c4d-nb/c4d_nb/blob/main/notebooks/03_grid_query_sampling.ipynb)
#
# # Grid query sampling: which points to track
#
# A tracker follows the points it is asked for. Ask for too few, or for the wrong ones, and nothing behind it can make up for
# that: the motion mask needs static points all over the image, and the last stage moves the whole depth map by what its tracks
# say. So *where* to ask is a part of the method (C4D, supplement).

# %% tags=["nbval-skip"]
import os

if "COLAB_NOTEBOOK_ID" in os.environ:  # on Colab only: fetch the package and its data
    # !git clone --quiet --depth 1 https://github.com/c4d-nb/c4d_nb /content/c4d_nb
    # !pip install --quiet -e /content/c4d_nb
    # %cd /content/c4d_nb/notebooks
    pass

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "jpeg"
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "pil_kwargs": {"quality": 70}}
import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch

from c4d_nb import Tracks, load_clip
from c4d_nb.correspondence.dynpt import DynPT
from c4d_nb.correspondence.queries import Queries, sample_grid_queries, uniform_queries
from c4d_nb.correspondence.tracking import track, track_by_flow
from c4d_nb.kubric.tracks import point_tracks
from c4d_nb.metrics import tap_vid
from c4d_nb.show import queries as show
from c4d_nb.show.cells import source, table
from c4d_nb.show.widgets import query_explorer

plt.rcParams["figure.dpi"] = 80

# %% tags=["parameters"]
weights = "dynpt"
videos = ["../data/movi_e.npz", "../data/panning_movi_e.npz", "../data/movi_f.npz"]
cell = 20

# %% [markdown]
# ## 1. Two points a cell
#
# The image is cut into cells of 20 by 20 px. Each gives **two** queries: the pixel where the image gradient $\lVert \nabla I \rVert$ is largest,
# and one pixel at random. Cells that the right or the lower border cuts off count, too.

# %%
source(sample_grid_queries)

# %%
clips = [load_clip(video) for video in videos]
frame = clips[0].frames[0]
queries = sample_grid_queries(frame, cell=cell, generator=torch.Generator().manual_seed(0))
show.query_figure(frame, queries, cell)

# %% [markdown]
# Orange points sit on corners and outlines, where a patch looks like no other nearby. Blue points are wherever chance put them, on plain surfaces as well.
# The last picture asks the question the other way round: how far is each pixel from the nearest query?
#
# *Check.* A gradient point is the strongest of its cell, by an independent computation: blur nothing, differentiate, take the largest.

# %%
gray = cv2.cvtColor(frame.numpy(), cv2.COLOR_RGB2GRAY)
du, dv = (cv2.Sobel(gray, cv2.CV_32F, x, y, borderType=cv2.BORDER_REPLICATE) for x, y in ((1, 0), (0, 1)))
magnitude = torch.from_numpy(cv2.magnitude(du, dv))
for u, v in queries.uv[queries.is_gradient].long().tolist():
    top, left = v - v % cell, u - u % cell
    assert magnitude[v, u] == magnitude[top : top + cell, left : left + cell].max()

# %% [markdown]
# ## 2. How large should a cell be?
#
# Try it. Small cells leave no hole, and cost a track for every point in every window. Note what the seed changes, and what it does not.

# %%
query_explorer(clips[0], cell=cell)

# %% [markdown]
# The same in numbers, for the first frame of the first clip:

# %%
rows = []
for size in (8, 12, 20, 32, 48):
    drawn = sample_grid_queries(frame, cell=size, generator=torch.Generator().manual_seed(0))
    far = show.distance_to_query(clips[0].size, drawn.uv)
    rows.append([size, len(drawn.uv), round(float(far.mean()), 1), round(float(far.quantile(0.95)), 1)])
table(["cell (px)", "queries", "mean distance (px)", "95 % within (px)"], rows)

# %% [markdown]
# ## 3. What does each kind buy?
#
# Let us measure it. In the first frame of three clips we ask for four sets of points: the gradient points, the random points, both, and a regular lattice
# with as many points as both. `point_tracks` says where each point **truly** goes, whatever was asked for, because it knows the bodies.


# %%
def draw_queries(clip) -> tuple[Queries, dict[str, torch.Tensor]]:
    """All points of the first frame together, and which are of which set."""
    grid = sample_grid_queries(clip.frames[0], cell=cell, generator=torch.Generator().manual_seed(0))
    lattice = uniform_queries(clip.size, count=len(grid.uv))
    uv = torch.cat([grid.uv, lattice])
    is_grid = torch.arange(len(uv)) < len(grid.uv)
    is_gradient = torch.cat([grid.is_gradient, torch.zeros(len(lattice), dtype=torch.bool)])
    sets = {"gradient": is_gradient, "random": is_grid & ~is_gradient, "both": is_grid, "lattice": ~is_grid}
    return Queries(uv, torch.zeros(len(uv), dtype=torch.long)), sets


# %% [markdown]
# Two trackers follow them: flow, chained from frame to frame, which has learned nothing, and our small DynPT ([chapter 2](02_dynpt_training.ipynb)).

# %%
model = DynPT.from_checkpoint(weights)
asked = [draw_queries(clip) for clip in clips]
true = [point_tracks(clip.truth, points) for clip, (points, _) in zip(clips, asked, strict=True)]
found = {
    "flow": [track_by_flow(clip.frames, points) for clip, (points, _) in zip(clips, asked, strict=True)],
    "DynPT": [track(clip, points, model=model) for clip, (points, _) in zip(clips, asked, strict=True)],
}

# %% [markdown]
# How well is each set followed? The scores are TAP-Vid's, over the frames after the query; means of the three clips, in %.


# %%
def mean_scores(tracks: list[Tracks], kind: str) -> dict[str, float]:
    rows = []
    for ours, truth, (_, sets) in zip(tracks, true, asked, strict=True):
        of = sets[kind]
        points = {"uv_true": truth.uv[:, of], "visible_true": truth.visible[:, of]}
        rows.append(
            tap_vid(ours.uv[:, of], ours.visible[:, of], query_frame=truth.query_frame[of], mode="first", **points)
        )
    return {name: 100 * sum(row[name] for row in rows) / len(rows) for name in rows[0]}


# %% tags=["nbval-ignore-output"]
kinds = list(asked[0][1])
scores = {tracker: {kind: mean_scores(tracks, kind) for kind in kinds} for tracker, tracks in found.items()}
columns = {"AJ": "aj", "within 1 px": "delta_1", "within 4 px": "delta_4", "visibility right": "oa"}
table(
    ["tracker", "queries", *columns],
    [
        [tracker, kind, *(round(row[key]) for key in columns.values())]
        for tracker, of in scores.items()
        for kind, row in of.items()
    ],
)

# %% [markdown]
# And how long: of the points that are truly visible so many frames after the query, the share that the tracker still has, within 4 px. The first clip:

# %%
curves = {tracker: show.survival_curves(tracks[0], true[0], asked[0][1]) for tracker, tracks in found.items()}
show.survival_figure(curves)

# %% [markdown]
# That may surprise: the points of strongest gradient, the corners that trackers are said to like, are followed *less* well by flow. Where are the losses? Each dot is a
# query of the first frame; its colour is the error of its flow track in frame 12:

# %%
show.track_errors_figure(clips[0].frames[0], found["flow"][0], true[0], 12)

# %% [markdown]
# They sit on **outlines**. In a cell that an outline passes through, the strongest gradient *is* the outline, where two motions meet and flow is a mixture of them. Truth says which points these are: those
# with two segments within 2 px.


# %%
def on_outline(clip, uv: torch.Tensor) -> torch.Tensor:
    labels = clip.truth.segmentation[0].float().numpy()
    square = np.ones((5, 5), np.uint8)
    mixed = torch.from_numpy(cv2.dilate(labels, square) != cv2.erode(labels, square))
    column, row = uv.long().unbind(-1)
    return mixed[row, column]


# %%
rows = []
for kind in ("gradient", "random"):
    edge = [on_outline(clip, points.uv) & sets[kind] for clip, (points, sets) in zip(clips, asked, strict=True)]
    inside = [~on_outline(clip, points.uv) & sets[kind] for clip, (points, sets) in zip(clips, asked, strict=True)]
    row = [kind, round(100 * sum(int(e.sum()) for e in edge) / sum(int(s[kind].sum()) for _, s in asked))]
    for chosen in (edge, inside):
        good, seen = 0, 0
        for ours, truth, of in zip(found["flow"], true, chosen, strict=True):
            near = (ours.uv - truth.uv)[1:, of].norm(dim=-1) < 4
            good, seen = good + int((near & truth.visible[1:, of]).sum()), seen + int(truth.visible[1:, of].sum())
        row.append(round(100 * good / seen))
    rows.append(row)
table(["queries", "on an outline (%)", "outline: within 4 px (%)", "elsewhere: within 4 px (%)"], rows)

# %%
assert rows[0][1] > 1.5 * rows[1][1]  # more gradient points than random ones lie on outlines
assert all(row[2] < row[3] for row in rows)  # where they are followed less well

# %% [markdown]
# ## 4. What must be reached
#
# Precision is half of the story. A tracker that follows a hundred perfect points on one poster knows nothing about the ball beside it. What
# counts for masks and depth is that everything is *near* a point. How far is a pixel of a moving object from the nearest query, how many queries lie on movers, and how large
# is the largest hole?


# %%
def reach(kind: str) -> list[float]:
    distances, on_movers, holes = [], 0, []
    for clip, (points, sets) in zip(clips, asked, strict=True):
        uv, moves = points.uv[sets[kind]], clip.truth.motion_mask[0]
        far = show.distance_to_query(clip.size, uv)
        column, row = uv.long().unbind(-1)
        on_movers += int(moves[row, column].sum())
        distances.append(far[moves])
        holes.append(float(far.max()))
    return [on_movers, round(float(torch.cat(distances).mean()), 1), round(max(holes), 1)]


# %%
table(
    ["queries", "on movers", "mean px to them from a mover's pixel", "largest hole (px)"],
    [[kind, *reach(kind)] for kind in kinds],
)

# %% [markdown]
# So this is what each kind buys. **Gradient points** are precise where they lie inside a surface, and risky on outlines, which attract them. **Random points** reach plain surfaces, and lie on outlines half as often.
# Together they leave no cell empty, and whoever uses their tracks can weigh them: `GridQueries.is_gradient` says which is which. A **lattice** covers best, and is followed about as well; but a regular grid
# always misses the same things in every frame, and chance does not.
#
# ## Exercises
#
# 1. **A stronger corner.** Replace the gradient's magnitude by the smaller eigenvalue of the structure tensor (`cv2.cornerMinEigenVal`), which is small on straight edges. Are these points followed better?
# 2. **Away from outlines.** Leave out gradient points within 2 px of another *flow*. How much does AJ gain, and how many movers lose their last query?
# 3. **Smaller cells.** What does a cell of 10 px change in the last table, and what does it cost in seconds of tracking?
#
# Next: [motion masks](04_motion_masks.ipynb), which these tracks vote for.
