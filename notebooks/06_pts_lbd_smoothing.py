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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/c4d-nb/c4d_nb/blob/main/notebooks/06_pts_lbd_smoothing.ipynb)
#
# # Smoothing: depth that does not flicker
#
# After stage 1 the cameras are good. But each frame's depth came from other pairs than its neighbour's, and errs in its own way: a wall that stands still jumps to and fro.
# Stage 2 ends that. It follows points through the video, smooths their paths in space, and asks every pixel to go along: **point trajectory smoothness**, PTS.
#
# This chapter takes it apart: one path by hand, what each number does, from a few paths to every pixel, and what is gained, in numbers. The paper has none for flicker; here are two.
# It also says what smoothing cannot do. Formulas are those of C4D's supplement.

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
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from c4d_nb import load_clip
from c4d_nb.alignment import align, nearest_depth, refine_depth
from c4d_nb.alignment.objectives import frame_points
from c4d_nb.correspondence.queries import clip_queries
from c4d_nb.kubric.tracks import point_tracks
from c4d_nb.kubric.truth import complete_truth
from c4d_nb.metrics import depth_flicker, temporal_smoothness, trajectory_flicker, video_depth
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.inference import pointmaps_on_grid
from c4d_nb.pointmaps.scene_graph import sliding_window_graph
from c4d_nb.show import smoothing as show
from c4d_nb.show.cells import source, table
from c4d_nb.show.figures import score_text
from c4d_nb.show.truth import track_paths
from c4d_nb.show.widgets import smoothing_explorer
from c4d_nb.smoothing import (
    lift_tracks,
    linear_blend_displacement,
    sample_weights,
    smooth_pointmaps,
    smooth_trajectories,
)

plt.rcParams["figure.dpi"] = 80

# %% tags=["parameters"]
video = "../data/movi_e.npz"
weights = "small"  # or a name or path of published weights: the docstring of c4d_nb.checkpoints tells how
seed = 0

# %% [markdown]
# ## 1. One path by hand
#
# A track is a row of points $x_t$ in space. Its smoothed version is a moving average over $k$ frames, in which a sample counts the less, the longer the step that led to it:
#
# $$ w_t = e^{-\lambda \lVert x_t - x_{t-1} \rVert}, \qquad \tilde x_t = \frac{\sum_{|s - t| \le k/2} w_s\, x_s}{\sum_{|s - t| \le k/2} w_s} $$
#
# The first frame has no step before it and takes the weight of the second. Beyond the ends of the video there is nothing: zeros, above and below the bar.

# %%
source(sample_weights)

# %% [markdown]
# By hand, with $k = 3$ and $\lambda = 1$: a point at 0, 1, 1. Its steps are 1 and 0, so its weights are $e^{-1}, e^{-1}, 1$.
#
# *Check.* The middle one must become $(e^{-1} \cdot 0 + e^{-1} \cdot 1 + 1 \cdot 1) / (e^{-1} + e^{-1} + 1)$:

# %%
path = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0]])[:, None]
w = torch.tensor(-1.0).exp()
smoothed = smooth_trajectories(path, kernel_size=3)[:, 0, 0]
assert torch.allclose(smoothed, torch.stack([w / (2 * w), (w + 1) / (2 * w + 1), (w + 1) / (w + 1)]))
[round(x, 3) for x in smoothed.tolist()]

# %% [markdown]
# Now a real one. In the shipped clip a box falls; truth knows the path of every point on it, in metres. We add noise of 5 cm in each coordinate, from a seed, and smooth.

# %%
clip = load_clip(video)
truth = complete_truth(clip.truth)
paths = track_paths(truth, truth.tracks).float()
noisy = paths + 0.05 * torch.randn(paths.shape, generator=torch.Generator().manual_seed(seed))
travelled = (paths[1:] - paths[:-1]).norm(dim=-1).sum(0)
chosen = int(travelled.argmax())
f"point {chosen} travels {travelled[chosen]:.1f} m"

# %%
seen = torch.ones(noisy.shape[:2], dtype=torch.bool)
smooth = smooth_trajectories(noisy)
show.track_figure(
    paths[:, chosen],
    noisy[:, chosen],
    {"smoothed": smooth[:, chosen]},
    {"smoothed": sample_weights(noisy, seen)[:, chosen]},
)

# %% [markdown]
# The smoothed path is calmer than the samples. But look at the middle row: in the first two frames it is *farther* from the truth than they were, by far, and once more where the box hits the floor. Both have a reason, and both come back
# below. At the bottom are the weights: in the first half, where the box is fast, they are smaller.
#
# ## 2. What do $k$ and $\lambda$ do?
#
# All 256 true tracks of the clip, with the same noise; the mean distance to the truth after smoothing. Static points on the left, those that travel more than 30 cm on the right.

# %%
decays = torch.logspace(-1, 2, 13)
kinds = {"static points": travelled < 0.01, "moving points": travelled > 0.3}


def error(path: torch.Tensor, kind: str) -> torch.Tensor:
    return (path - paths)[:, kinds[kind]].norm(dim=-1).mean()


def errors_by_decay(samples: torch.Tensor, kind: str, **options) -> dict[int, torch.Tensor]:
    return {
        k: torch.stack(
            [error(smooth_trajectories(samples, kernel_size=k, decay=float(d), **options), kind) for d in decays]
        )
        for k in (3, 5, 9)
    }


# %%
before = {kind: float(error(noisy, kind)) for kind in kinds}
show.decay_figure(decays, {kind: errors_by_decay(noisy, kind) for kind in kinds}, before)

# %% [markdown]
# - **Static points**: the longer the window, the better. An average of $k$ independent errors is $\sqrt k$ times smaller, and there is nothing to lose.
# - **Moving points**: with $k = 9$ they end *farther* from the truth than the noise had put them. The average cuts every corner of a real path.
# - **$\lambda$ does little until it does harm.** It cannot tell noise from motion: both make long steps. Turn it up, and the samples that moved most lose their weight to the slower ones around them. At $\lambda = 100$ hardly any weight is left, and less is smoothed at all.
#
# *Check.* The paper's $k = 5$, $\lambda = 1$ must help both kinds here, and $k = 9$ must hurt the moving one:

# %%
assert abs(float(error(smooth, "static points")) / before["static points"] - 5**-0.5) < 0.05
assert error(smooth, "moving points") < before["moving points"]
assert error(smooth_trajectories(noisy, kernel_size=9), "moving points") > before["moving points"]

# %% [markdown]
# ### What smoothing does to a path without any noise
#
# The same for the **true** paths. All that is left is harm: over-smoothing of real motion, in centimetres.

# %%
rows = []
for k in (3, 5, 9):
    moved = (smooth_trajectories(paths, kernel_size=k) - paths).norm(dim=-1)[:, kinds["moving points"]]
    inner = moved[k // 2 : -(k // 2)]
    rows.append([k, *(round(100 * float(x), 1) for x in (inner.mean(), inner.amax(), moved[0].mean()))])
table(["k", "mean, whole windows (cm)", "largest (cm)", "mean, first frame (cm)"], rows)

# %% [markdown]
# A box that bounces within one frame is dragged by decimetres. PTS trades flicker of what stands for blur of what moves fast. For most of most videos that is a good trade; you should know that it is one.
#
# ## 3. An outlier
#
# What is $\lambda$ for, then? For a sample that is plainly wrong. We put one point that rests 2 m off, in one frame.

# %%
resting = int(kinds["static points"].nonzero()[0])
spiked = noisy[:, [resting]].clone()
spiked[12, 0, 2] += 2
results = {
    "no decay": smooth_trajectories(spiked, decay=0.0)[:, 0],
    "paper": smooth_trajectories(spiked)[:, 0],
    "both steps": smooth_trajectories(spiked, both_steps=True)[:, 0],
}

# %%
spike_weights = {
    "no decay": seen[:, 0].float(),
    "paper": sample_weights(spiked, seen[:, :1])[:, 0],
    "both steps": sample_weights(spiked, seen[:, :1], both_steps=True)[:, 0],
}
show.track_figure(paths[:, resting], spiked[:, 0], results, spike_weights)

# %% [markdown]
# Without decay the outlier spreads over five frames. With it, the outlier hardly counts. But see the weights of the paper's formula: it also silences the **good** sample after the outlier, for that one, too, came by a
# long step. The option `both_steps` takes the geometric mean of the step to a sample and the step away from it: the outlier has two long steps, each of its neighbours only one.
#
# *Check.* How far the outlier's four neighbours end from the truth:

# %%
others = [10, 11, 13, 14]
harm = {name: float((path - paths[:, resting])[others].norm(dim=-1).mean()) for name, path in results.items()}
print(score_text({f"{name} (cm)": 100 * value for name, value in harm.items()}))
assert harm["paper"] < 0.6 * harm["no decay"]
after = {name: float(spike_weights[name][13]) for name in ("paper", "both steps")}
assert after["both steps"] > 2 * after["paper"]

# %% [markdown]
# So decay does its work. Which weights it is done by matters little: `both_steps` shares the blame fairly, and the errors are about the same. Its use is that a path is smoothed alike forwards and backwards.
#
# ### The unit of $\lambda$
#
# $\lambda$ multiplies a length, so it has the unit 1 / length. A monocular reconstruction has no metres: the same scene at another scale is smoothed differently. `per_median_step` divides $\lambda$ by the median step.
#
# *Check.* The scene a hundred times as large, and back:


# %%
def at_scale(scale: float, **options) -> torch.Tensor:
    return smooth_trajectories(scale * spiked, **options) / scale


differs = {
    name: float((at_scale(100, **options) - at_scale(1, **options)).norm(dim=-1).max())
    for name, options in {"paper": {}, "per median step": {"per_median_step": True}}.items()
}
print(score_text({f"{name}: differs by (cm)": 100 * value for name, value in differs.items()}))
assert differs["paper"] > 0.01
assert differs["per median step"] < 1e-4

# %% [markdown]
# ## 4. The ends, and the seams
#
# In the first frame the window has no left half. The average of frames 0, 1 and 2 is where the point is in frame 1: uniform motion is **bent**, by 1 step at the very end and by half a step beside it. `shrink_at_ends` lets the window
# shrink on both sides alike.
#
# Long videos are smoothed in windows of 20 frames. Cut hard, each would have ends of its own, in the middle of the video. So each window is extended by 5 frames on both sides, and only its inner 20 are kept: more than half of $k$, so no seam can be seen.
#
# Here a plane moves by one step a frame, through 50 frames; what smoothing adds to it:

# %%
step = torch.tensor([0.1, 0, 0])
plane = torch.arange(50)[:, None, None, None] * step + torch.zeros(50, 4, 4, 3)
still = replace(
    point_tracks(truth, clip_queries(clip.frames[:1], generator=torch.Generator())),
    uv=torch.tensor([[1.0, 1], [2, 2]]).expand(50, 2, 2),
    visible=torch.ones(50, 2, dtype=torch.bool),
)
curves = {
    name: (smooth_pointmaps(plane, still, **options) - plane)[:, 1, 1, 0] / step[0]
    for name, options in {
        "20 frames": {"overlap": 0},
        "20 + 5 + 5": {},
        "and shrinking": {"shrink_at_ends": True},
    }.items()
}

# %%
show.frames_figure(curves, "bent by (steps)", seams=(20, 40))

# %% [markdown]
# *Check.* One step and half a step, and nothing at the seams, or nowhere:

# %%
ends = [0, 1, 19, 20, 48, 49]
assert torch.allclose(curves["20 frames"][ends], torch.tensor([1, 0.5, -1, 1, -0.5, -1]), atol=1e-3)
assert torch.allclose(curves["20 + 5 + 5"][ends], torch.tensor([1, 0.5, 0, 0, -0.5, -1]), atol=1e-3)
assert curves["and shrinking"].abs().max() < 1e-3

# %% [markdown]
# Try all of it on the box. What helps most here? What does the outlier's cure cost the rest?

# %%
smoothing_explorer(paths[:, chosen], noisy[:, chosen])

# %% [markdown]
# A still picture of one setting, for the printed page:

# %%
show.options_figure(
    paths[:, chosen], noisy[:, chosen], show.SmoothingOptions(kernel_size=3, shrink_at_ends=True, spike=True)
)

# %% [markdown]
# ## 5. From a few tracks to every pixel
#
# Tracks are some hundred points a frame; depth has 65,536. **Linear blend displacement** (LBD) moves each pixel's point $X_j$ as its $k = 4$ nearest tracks were moved, nearer ones more:
#
# $$ \tilde X_j = X_j + \sum_{i \in \mathcal N(j)} \frac{1 / d_{ji}}{\sum_{i'} 1 / d_{ji'}}\, (\tilde x_i - x_i), \qquad d_{ji} = \lVert X_j - x_i \rVert $$
#
# Distances are to the tracks' **original** places. On a track, $d = 0$ and the formula is $\infty / \infty$: the point then moves as the track does.

# %%
source(linear_blend_displacement)

# %% [markdown]
# *Check.* Controls at distances 1 and 3 weigh 3/4 and 1/4:

# %%
controls, moves = torch.tensor([[1.0, 0, 0], [-3, 0, 0]]), torch.tensor([[0.0, 4, 0], [0, 0, 8]])
moved = linear_blend_displacement(torch.zeros(1, 3), controls, moves)
assert torch.allclose(moved, torch.tensor([[0.0, 3, 2]]))
assert torch.allclose(linear_blend_displacement(controls, controls, moves), controls + moves)
moved.tolist()

# %% [markdown]
# For a picture we need depth that flickers. We take the **true** depth and multiply it, frame by frame, by a smooth random field (3 %) and a random factor (2 %), anew in every frame: an estimator that looks at each frame alone. Cameras and tracks are
# true, so that whatever we see is smoothing's own doing.


# %%
def random_field(cells: int, *, generator: torch.Generator) -> torch.Tensor:
    """Unit normal values on so many cells a side, smooth between them; independent in every frame."""
    values = torch.randn(len(clip), 1, cells, cells, generator=generator)
    return F.interpolate(values, clip.size, mode="bicubic", align_corners=True)[:, 0]


def to_world(depth: torch.Tensor) -> torch.Tensor:
    return frame_points(depth, truth.intrinsics, truth.world_from_cam).mT.reshape(*depth.shape, 3)


# %%
random = torch.Generator().manual_seed(seed)
tracks = point_tracks(truth, clip_queries(clip.frames, generator=random))
flicker = 0.03 * random_field(5, generator=random) + 0.02 * random_field(1, generator=random)
depth = truth.depth * flicker.exp()
points = to_world(depth)
f"{tracks.uv.shape[1]} tracks, {tracks.visible.float().mean() * tracks.uv.shape[1]:.0f} visible a frame"

# %% [markdown]
# In frame 12, how much smoothing moves tracks away from the camera (blue) or nearer (red), in % of their depth, and three ways to spread that. For the picture we take a sixth of the tracks, those that were asked for in this frame:

# %%
at = 12
forward = truth.world_from_cam[at, :3, 2]
lifted = lift_tracks(points, tracks)
moves = smooth_trajectories(lifted)[at] - lifted[at]
asked = tracks.query_frame == at


def spread(moves: torch.Tensor, **options) -> torch.Tensor:
    """How much farther from the camera the pixels of the frame get, in % of their depth."""
    start = points[at].reshape(-1, 3)
    moved = linear_blend_displacement(start, lifted[at, asked], moves[asked], **options) - start
    return 100 * (moved @ forward).reshape(clip.size) / depth[at]


def at_controls(moves: torch.Tensor) -> torch.Tensor:
    return 100 * (moves @ forward)[asked] / ((lifted[at] - truth.world_from_cam[at, :3, 3]) @ forward)[asked]


# %%
ways = {"k = 1": spread(moves, k=1), "k = 4": spread(moves), "k = 4, squared": spread(moves, power=2)}
show.blend_figure(clip.frames[at], tracks.uv[at, asked], at_controls(moves), ways, "moved away (%)")

# %% [markdown]
# With one neighbour every track rules a cell of its own. With four, the cells melt into each other. Squared distances, which the supplement's text speaks of, sharpen the borders between them a little. Note the strong colours along
# outlines: there a track's depth was read between near and far, and what it says is neither's.
#
# ### Across an outline
#
# Inverse distance has no end: a pixel follows its nearest tracks however far away they are, and whatever they belong to. Give each class, static and dynamic, its own neighbours, or let nothing beyond a radius count. Suppose only the movers' tracks
# were moved, by 50 cm:

# %%
mask, dynamic = truth.motion_mask[at], tracks.mobility[at] >= 0.5
moves = 0.5 * dynamic[:, None] * forward
classes = {"point_class": mask.flatten(), "control_class": dynamic[asked]}
ways = {"paper": spread(moves), "within 0.5 m": spread(moves, radius=0.5), "own class": spread(moves, **classes)}
show.blend_figure(clip.frames[at], tracks.uv[at, asked], at_controls(moves), ways, "moved away (%)", mask)

# %% [markdown]
# The outline is the movers' true mask. By the paper's formula a good piece of the floor goes along, and the table under the box, a mover itself, goes only half the way, for the floor's tracks hold it back. A radius leaves pixels without any neighbour where they are.
# Classes are exact here, because the mask is true; a wrong mask would now show in the depth.

# %%
bled = {name: float((moved[~mask].abs() > 0.5).float().mean()) for name, moved in ways.items()}
print(score_text({f"{name}: static dragged (%)": 100 * share for name, share in bled.items()}))
assert bled["own class"] == 0
assert bled["paper"] > bled["within 0.5 m"]

# %% [markdown]
# ## 6. Depth before and after
#
# Lift the tracks, smooth them, spread the displacement over each frame: the targets $\tilde X$ of stage 2. It moves **depth only**, by the distance $\sum_j \lVert X_j - \tilde X_j \rVert$, so a pixel stays on its ray $r$ from the camera's centre $o$.
# The depth that comes nearest is known in closed form,
#
# $$ d^* = \frac{\langle \tilde X - o,\; r \rangle}{\langle r, r \rangle} $$

# %%
source(smooth_pointmaps)

# %%
smoothed_depth = nearest_depth(smooth_pointmaps(points, tracks), truth.intrinsics, truth.world_from_cam)
show.slices_figure(clip.frames[at], {"before": depth, "after": smoothed_depth}, truth.depth, column=120)

# %% [markdown]
# A y-t slice is one image column through time. Flicker stands in it as vertical stripes. Below are the errors, and at the bottom how much they change from one frame to the next: that is the flicker itself, and most of it is gone. What stays of the error are slow waves.
#
# ### A number for it
#
# Two, in fact. **Tracks**: a true static point, lifted by the depth at hand, should rest; the second difference $\lVert x_{t+1} - 2 x_t + x_{t-1} \rVert$ says how much it does not (median).

# %%
source(trajectory_flicker)

# %% [markdown]
# **Depth**: follow each pixel by the true flow into the next frame. By how much did the *error* of its depth change? A constant error does not flicker; movers count, too.

# %%
source(depth_flicker)

# %% [markdown]
# Three kinds of wrong depth, before and after, and the true depth for comparison. AbsRel is the usual error of depth, after one scale for the whole video:
#
# - **shared**: the smooth field from above, new in every frame;
# - **each pixel alone**: 3 %, independent in every pixel and frame;
# - **constant**: one smooth field of 3 %, the same in every frame.

# %%
random = torch.Generator().manual_seed(seed + 1)
single = 0.03 * torch.randn(depth.shape, generator=random)
constant = 0.03 * random_field(5, generator=random)[:1]
cases = {"none": 0 * single, "shared": flicker, "each pixel alone": single, "constant": constant.expand_as(single)}


def scores(depth: torch.Tensor) -> dict[str, float]:
    smoothness = temporal_smoothness(depth, truth.intrinsics, truth.world_from_cam, truth)
    moving = video_depth(depth, truth.depth, truth.motion_mask)["abs_rel"]
    return smoothness | {"abs_rel": video_depth(depth, truth.depth)["abs_rel"], "movers": moving}


# %%
found = {}
for name, noise in cases.items():
    wrong = truth.depth * noise.exp()
    targets = smooth_pointmaps(to_world(wrong), tracks)
    found[name] = scores(wrong), scores(nearest_depth(targets, truth.intrinsics, truth.world_from_cam))


# %% tags=["nbval-ignore-output"]
def before_after(found: dict) -> object:
    columns = {
        "tracks (cm)": "trajectory",
        "depth (%)": "depth",
        "AbsRel (%)": "abs_rel",
        "AbsRel of movers (%)": "movers",
    }
    rows = [
        [name, *(f"{100 * old[key]:.2f} → {100 * new[key]:.2f}" for key in columns.values())]
        for name, (old, new) in found.items()
    ]
    return table(["error of depth", *columns], rows)


before_after(found)

# %% [markdown]
# Read it row by row.
#
# - **None**: smoothing is not free. Perfect depth gets worse, most of all that of movers. That is section 2's over-smoothing, and outlines, where a track's depth is read between near and far.
# - **Shared**: what PTS is made for. Flicker falls to a fraction, and the error halves: averages over time are better than any one frame.
# - **Each pixel alone**: next to nothing. Tracks are smoothed, but between them LBD moves neighbours *together*; what one pixel has to itself stays with it.
# - **Constant**: nothing is gained, and the harm of the first row is added. The numbers of flicker are small from the start, for such depth does not flicker. **Smoothing removes what changes, not what is wrong.** Depth that is wrong in the same way in every frame, a bias,
#   passes unharmed.

# %%
ratio = {name: {key: new[key] / old[key] for key in old} for name, (old, new) in found.items() if name != "none"}
assert ratio["shared"]["depth"] < 0.4
assert ratio["shared"]["trajectory"] < 0.3
assert ratio["shared"]["abs_rel"] < 0.7
assert ratio["each pixel alone"]["depth"] > 0.8
assert abs(ratio["constant"]["abs_rel"] - 1) < 0.1
assert found["none"][1]["movers"] > found["none"][0]["movers"]

# %% [markdown]
# Do the options help? The shared error again, with each:

# %% tags=["nbval-ignore-output"]
options = {
    "both steps": {"both_steps": True},
    "shrinking ends": {"shrink_at_ends": True},
    "per median step": {"per_median_step": True},
    "k = 9 frames": {"kernel_size": 9},
}
repaired = {"paper": found["shared"]}
for name, choice in options.items():
    targets = smooth_pointmaps(points, tracks, **choice)
    repaired[name] = found["shared"][0], scores(nearest_depth(targets, truth.intrinsics, truth.world_from_cam))
before_after(repaired)

# %% [markdown]
# Not much between most of them: with true tracks and noise of one kind there is little to repair. Longer windows win on all that rests. Shrinking ends average fewer samples there, and cost a little flicker. Per median step, $\lambda$ is larger here (the noise makes the median
# step 28 cm) and smooths less. The options are for what this noise lacks: outliers, other scales, fast movers.
#
# ## 7. A real reconstruction
#
# Noise that one has made oneself is noise that one knows how to remove. So: the small network's pointmaps of all pairs ([chapter 5a](05a_pointmaps.ipynb)), aligned by stage 1 on a coarse grid, and its depth smoothed along the same true tracks.

# %%
grid = PixelGrid.within(clip.size, 48)
edges = sliding_window_graph(len(clip))
pairs = pointmaps_on_grid(DUSt3R.from_checkpoint(weights), clip.frames, edges, grid)
intrinsics = grid.intrinsics(truth.intrinsics)
stage_1 = align(pairs, intrinsics=intrinsics)
grid_tracks = replace(tracks, uv=grid.to_grid(tracks.uv))

# %%
targets = smooth_pointmaps(stage_1.xyz_world(), grid_tracks)
closed = replace(stage_1, depth=nearest_depth(targets, intrinsics, stage_1.world_from_cam))
adam = refine_depth(stage_1, targets)
apart = (adam.depth / closed.depth - 1).abs()
print(score_text({"closed form and 300 steps differ by (%), 99 % of pixels": 100 * float(apart.quantile(0.99))}))
assert apart.quantile(0.99) < 1e-3


# %% [markdown]
# The paper runs Adam for 300 iterations on the mean distance to the targets (`objectives.point_trajectory_smoothness`); the closed form is there at once. They agree.


# %%
def at_full_size(result) -> torch.Tensor:
    return grid.upsample(result.depth)


def real_scores(result) -> dict[str, float]:
    full = at_full_size(result)
    smoothness = temporal_smoothness(full, truth.intrinsics, result.world_from_cam, truth)
    return scores(full) | smoothness  # points are placed by the cameras of stage 1


# %% tags=["nbval-ignore-output"]
real = {"stage 1, network": (real_scores(stage_1), real_scores(closed))}
before_after(real)

# %%
old, new = real["stage 1, network"]
assert new["depth"] < 0.85 * old["depth"]
assert new["trajectory"] < 0.7 * old["trajectory"]
assert abs(new["abs_rel"] / old["abs_rel"] - 1) < 0.05

# %%
show.slices_figure(
    clip.frames[at], {"stage 1": at_full_size(stage_1), "stage 2": at_full_size(closed)}, truth.depth, column=120
)

# %% [markdown]
# The change from frame to frame calms down, and both numbers say so: the tracks' flicker falls by two fifths, depth's by a quarter. And the **error is what it was**. This network's depth is off by 17 % nearly the same way in every frame: bodies come out coarse, and what is far too far. Stage 2 makes a video of it that is pleasant to look at, and as wrong as before.
# The paper's own ablation says the same: without PTS its pose scores are unchanged, as they must be, for stage 2 leaves the cameras alone.
#
# ## What to remember
#
# 1. PTS averages over time what neighbouring pixels err together. Of our made-up flicker it takes three quarters away, of a real reconstruction's a quarter to a half; a constant bias it cannot see.
# 2. It blurs fast motion: centimetres to decimetres on a body that bounces, none on what rests.
# 3. $\lambda$ is for outliers. It has a unit.
# 4. Ends bend; windows must overlap; at an outline the blend drags whatever is near.
# 5. A y-t slice shows flicker, two numbers measure it, and neither says that the depth is *right*: look at AbsRel beside them.
#
# ## Exercises
#
# 1. **Tracks that are wrong.** Replace the true tracks of section 6 by `track_by_flow(clip.frames, clip_queries(...))`. Which of the four columns suffers, and where in the picture?
# 2. **Fewer tracks.** `clip_queries` takes a `cell`: draw queries on cells of 60 px. When do shared errors survive?
# 3. **A second pass.** Feed the smoothed pointmaps to `smooth_pointmaps` again, and again. What do the two flickers say, and what does AbsRel of the movers? (This is why the target of stage 2 is computed once.)
#
# Next: [evaluation](07_evaluation.ipynb): the tables, and what they hide.
