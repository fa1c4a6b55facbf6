# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/c4d-nb/c4d_nb/blob/main/notebooks/00_quickstart.ipynb)
#
# # First light: a video in, 4D out
#
# A video shows a world that moves, through a camera that moves. **4D reconstruction** takes the two apart again. For every
# frame it finds where the camera stood, how far away each pixel is, which pixels move by themselves, and where points of
# the scene travel in space.
#
# C4D does it with *dual correspondences*: optical flow between pairs of frames (short-term, every pixel) and point
# tracks through the whole video (long-term, few points). This chapter runs the whole pipeline once, on a CPU and without any
# learned weights, and looks at each thing it makes. The chapters after it open one box each.

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
import matplotlib.pyplot as plt
import plotly.io as pio

from c4d_nb import load_clip
from c4d_nb.metrics import score_table
from c4d_nb.reconstruct import reconstruct
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show import figures, scene
from c4d_nb.show.viewer import write_viewer

plt.rcParams["figure.dpi"] = 80
pio.renderers.default = "plotly_mimetype+notebook_connected"

# %% [markdown]
# ## 1. The video
#
# Change `video` to the path of your own: a video file or a folder of images. The shipped clip was rendered by this
# package (the next chapter shows how: a box falls on a capsule, which pushes a table), so we know the truth about it, and can check every claim below. The reconstruction is never shown that truth.

# %% tags=["parameters"]
video = "../data/movi_e.npz"
long_side = 384
stride = 1
max_frames = None
out = "../out/quickstart"

# %%
clip = load_clip(video, long_side=long_side, stride=stride, max_frames=max_frames)
f"{len(clip)} frames of {clip.size[1]}x{clip.size[0]} px at {clip.fps:g} frames a second"

# %%
figures.filmstrip(clip.frames)

# %% [markdown]
# ## 2. Everything at once
#
# One call runs the pipeline; with progress bars it takes about a minute here. Its page,
# [`c4d_nb/reconstruct.py`](../c4d_nb/reconstruct.py), reads from top to bottom as the table of contents of this book.

# %%
result = reconstruct(clip)
print(*result.__dataclass_fields__)

# %% [markdown]
# ## 3. Tracks: where points go
#
# Query points are sampled on a grid, two to a cell of 20x20 px: the pixel of the largest image gradient, which is easy
# to follow, and one at random, so that smooth surfaces get points too. Here a chain of flow steps follows them; the chapter on DynPT
# puts a network in its place.
#
# A track also says whether its point is **dynamic** (orange). Nobody told it: a static point must keep to the epipolar
# lines that the camera's motion draws, and these tracks do not.

# %%
figures.track_strip(result)

# %% [markdown]
# ## 4. Motion masks: what the camera cannot explain
#
# Between two frames, all *static* points obey one fundamental matrix $F$. So take the points that the tracker calls
# static, estimate $F$ from their flow, and ask every pixel $x$ with its match $x' = x + \mathrm{flow}(x)$ how far it is from obeying, in px:
#
# $$ r(x)^2 = \frac{(x'^\top F x)^2}{(Fx)_1^2 + (Fx)_2^2 + (F^\top x')_1^2 + (F^\top x')_2^2} \qquad\text{(Sampson error)} $$
#
# Every pair of a frame says something about each of its pixels. That is added up as evidence, and pixels that lie together and look alike
# agree on one answer.

# %%
figures.mask_strip(result)

# %% [markdown]
# Ragged borders are where flow is worst: at occlusions. The chapter on motion masks measures what each remedy brings.
#
# ## 5. Depth and cameras: two-stage optimisation
#
# Each pair of frames gives two small 3D maps of its own, at its own scale. **Stage 1** moves all of them into one
# world, with three objectives that are minimised together by Adam:
#
# - **GA**, global alignment: each pair's points, moved by one similarity, meet the frame's points;
# - **CMA**, camera motion alignment: the flow that camera motion alone would cause meets the measured flow, on static pixels;
# - **CTS**, camera trajectory smoothness: neighbouring cameras stay close.
#
# **Stage 2** then moves depth alone, so that points travel smoothly (**PTS**).

# %%
figures.loss_curves(result.losses)

# %% [markdown]
# Near is red, far is blue. On what moves there is no parallax to measure: one camera cannot tell a small near
# mover from a large far one. Here a mover is set upright on the ground below it, a guess, and `result.confidence` says so. A learned
# pointmap model knows better; that is the chapter on pointmaps.

# %%
figures.depth_strip(result)

# %% [markdown]
# A **y-t slice** shows what single frames hide: it follows one image column through time. Flicker would show as vertical
# stripes.

# %%
figures.time_slice(result)

# %% [markdown]
# ## 6. The 4D scene
#
# Static regions of all frames are put together; of the dynamic ones, the slider chooses the frame. Drag to turn.

# %%
scene.scene_figure(result, max_points=9_000)

# %% [markdown]
# The same seen from above, for readers of the printed page: cameras, and the scene's points by height.

# %%
scene.scene_from_above(result)

# %% [markdown]
# ## 7. Is it right?
#
# A monocular video has no unit: the whole scene may be twice as large and twice as far. So the estimated path is moved onto the
# true one by the best similarity, and depth is scaled by one factor, before they are compared.

# %%
figures.camera_path(result)

# %%
if clip.truth is not None:
    print(figures.score_text(score_table(result, clip.truth)))

# %% [markdown]
# - **ATE** is how far the cameras are from where they should be; **RPE** looks at the step from each frame to the next.
# - **AbsRel** is the mean relative depth error: 0.05 means 5 % off.
# - **D-ACC** is the share of query points whose mobility is right. Beside it stands what "everything is static" would score: without that
#   number, 97 % says nothing.
#
# ## 8. Keep it, look at it
#
# One file holds everything. The viewer is one HTML file with a time slider that needs neither a kernel nor a network.

# %%
path = result.save(f"{out}/reconstruction.npz")
page = write_viewer(result, f"{out}/viewer.html")
Reconstruction.load(path).depth.shape == result.depth.shape, page.name

# %% [markdown]
# Next: [how such clips are made](01_kubric_mobility.ipynb), with their truth. To run this one on your own video without opening it:
# `papermill notebooks/00_quickstart.ipynb out.ipynb -p video PATH`, run in `notebooks/`.
