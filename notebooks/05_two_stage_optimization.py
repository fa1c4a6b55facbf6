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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/c4d-nb/c4d_nb/blob/main/notebooks/05_two_stage_optimization.ipynb)
#
# # Two-stage optimisation: one scene from many pairs
#
# We have pairs of pointmaps, and they do not fit to each other: each has a scale of its own, and each errs in its own way. What we want is **one** scene: a depth map and a camera for every frame, one focal length. C4D finds
# it by optimisation, in two stages. The first moves everything until the pairs agree (GA), until the camera's motion explains the flow of what rests (CMA), and until the path is calm (CTS). The second moves depth alone (PTS).
#
# What does each objective do? When does the loss lie? Both questions can be answered here, because we have the truth beside us. Formulas and numbers are those of C4D and its supplement.

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
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "pil_kwargs": {"quality": 60}}
from dataclasses import replace
from time import perf_counter

import matplotlib.pyplot as plt
import plotly.io as pio
import torch

from c4d_nb import PairPointmaps, load_clip
from c4d_nb.alignment import (
    AlignConfig,
    Alignment,
    FastConfig,
    align,
    align_fast,
    nearest_depth,
    refine_depth,
    view_gap,
)
from c4d_nb.alignment.initialise import estimate_focal
from c4d_nb.alignment.objectives import (
    camera_motion_alignment,
    camera_trajectory_smoothness,
    frame_points,
    global_alignment,
    observations,
)
from c4d_nb.alignment.solve import weighted_terms
from c4d_nb.alignment.state import Scene
from c4d_nb.alignment_evaluation import GA_ONLY, inputs_of, scores_of
from c4d_nb.camera import invert, pinhole, pose, transform
from c4d_nb.correspondence.flow import FLOW_NOISE_PX
from c4d_nb.kubric.truth import complete_truth
from c4d_nb.mask_evaluation import correspondences, robust
from c4d_nb.metrics import align_path, at_scale_of_depth, path_share, trajectory_errors, video_depth
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.evaluation import true_pointmaps
from c4d_nb.pointmaps.fusion import fused_with_network
from c4d_nb.pointmaps.losses import relative_point_error
from c4d_nb.pointmaps.two_view import TwoViewConfig, two_view_pointmaps
from c4d_nb.show import alignment as show
from c4d_nb.show import pair_clouds
from c4d_nb.show.cells import source, table
from c4d_nb.show.figures import score_text
from c4d_nb.show.smoothing import frames_figure
from c4d_nb.show.widgets import alignment_monitor
from c4d_nb.smoothing import smooth_pointmaps

plt.rcParams["figure.dpi"] = 80
pio.renderers.default = "plotly_mimetype+notebook_connected"

# %% tags=["parameters"]
video = "../data/movi_e.npz"
weights = "small"  # or a name or path of published weights: the docstring of c4d_nb.checkpoints tells how
seed = 0

# %% [markdown]
# ## 1. Pairs that do not fit
#
# [Chapter 4](04_motion_masks.ipynb) made flow, tracks and motion masks; [chapter 5a](05a_pointmaps.ipynb) made pointmaps. Here are both for one clip, for the 190 pairs of its scene graph, on every fifth pixel:

# %%
source(inputs_of)

# %%
clip = load_clip(video)
given = inputs_of(correspondences(clip, seed=seed), DUSt3R.from_checkpoint(weights), long_side=64)
grid, edges, learned = given.grid, given.pairs.edges, given.pairs
masks = grid.sample(robust(given.found))
flow = {"flows": given.flows, "flow_valid": given.valid, "motion_masks": masks}

# %% [markdown]
# Our small network has learned the room, but hardly how the camera moved (chapter 5a). Flow knows the camera's motion well, and the depth of what has parallax. So the pipeline takes relative poses from flow, and depth from both, as two measurements of one thing, each by how good it is:
# *triangulation* by its parallax, the network by what it has shown itself worth where triangulation can tell. Before that its depth is bent by one curve for the whole clip, for it errs alike in all frames.
# We keep both, the network's pairs as they are and the fused ones, and will see what difference that makes.

# %%
source(fused_with_network)

# %%
focal = float(estimate_focal(learned.xyz_1, learned.conf_1).median())
static = given.valid & ~masks[edges[:, 0]]
noise = TwoViewConfig(noise_px=FLOW_NOISE_PX / grid.stride)  # 0.3 px of the video
measured = two_view_pointmaps(given.flows, static, edges, pinhole(focal, *static.shape[1:]), noise)
pairs = fused_with_network(measured, learned)
table(["field", "shape"], [[f"`{name}`", tuple(getattr(pairs, name).shape)] for name in ("edges", "xyz_1", "conf_1")])

# %% [markdown]
# And the truth, on the same pixels:

# %%
truth = complete_truth(clip.truth)
true_path, true_depth = truth.world_from_cam, grid.sample(truth.depth)
true_K, true_mask = grid.intrinsics(truth.intrinsics), grid.sample(truth.motion_mask)
true_points = frame_points(true_depth, true_K, true_path)  # (t, 3, pixels)
true_maps = true_points.mT.reshape(*true_depth.shape, 3)

# %% [markdown]
# What is either worth, and what both? The error of resting points, in % of their distance and after the pair's best scale; the median over pairs, by how many frames lie between their members:

# %%
apart_by = (edges[:, 0] - edges[:, 1]).abs()
resting = ~true_mask[edges.T]
point_error = {
    name: 100 * relative_point_error(of.xyz_1, of.xyz_2, *true_pointmaps(clip, edges, grid), *resting)
    for name, of in {"triangulated from flow": measured, "network": learned, "fused": pairs}.items()
}
offsets = apart_by.unique().tolist()
table(
    ["error (%), frames apart:", *offsets],
    [[name, *(round(float(of[apart_by == n].median()), 1) for n in offsets)] for name, of in point_error.items()],
)

# %% [markdown]
# The network's error grows with the distance, for it hardly knows how the camera moved. Flow's is largest where the camera hardly did. On this clip flow is the better by far, and fused they err as little as it, nearly: a network gets as much say as it has shown itself worth. Where parallax is small it is worth more: over all
# pairs of 36 held-out clips the two fused err a quarter less than flow alone, and in the worst tenth of the pairs a thirteenth of it (the table is in the [README](../README.md)).

# %%
medians = {name: float(of.median()) for name, of in point_error.items()}
assert medians["fused"] < 0.2 * medians["network"]
assert medians["fused"] < 1.5 * medians["triangulated from flow"]

# %% [markdown]
# Take one frame. Twenty pairs have it as a member, so twenty pairs say where its points are. On the left they are as they come: each in the frame of its own first camera, as if that were the camera of frame 12. On the right every pair stands at its **true** first camera,
# and all have one unit of length; nobody could place them better without asking how they fit. From the side, true points in black, pairs of near frames dark and of far ones bright:

# %%
frame = 12
true_cam, surface, up = true_path[frame], true_maps[frame].reshape(-1, 3), torch.tensor([0.0, 0, 1])
standing = true_cam.expand(len(clip), 4, 4)
clouds = {
    name: pair_clouds.frame_clouds(pairs, pair_clouds.placed_pairs(pairs, path, true_depth), frame)
    for name, path in {"as they come": standing, "at their true cameras": true_path}.items()
}
pair_clouds.clouds_from_side(clouds, surface, true_cam, up)

# %% [markdown]
# How far is what one pair says of a pixel from what all say in the mean? The median, in % of the distance:

# %%
apart = {name: pair_clouds.disagreement(of, true_cam[:3, 3]) for name, of in clouds.items()}
print(score_text({name: 100 * value for name, value in apart.items()}))

# %% [markdown]
# With true cameras each pixel's points lie on one ray, or nearly. But along the ray they lie metres apart: a scale for each pair is missing. And nobody knows the cameras.
#
# ## 2. Watch it run
#
# Free are the depth of each pixel, a pose for each frame, one focal length; and for each pair a pose and a scale. Adam moves all of them, down the sum of three objectives:
#
# | | stage 1 | stage 2 |
# |:--|:--|:--|
# | objectives and weights | GA 1, CMA 0.01, CTS 0.01 | PTS 1 |
# | free | depth, poses, focal length | depth |
# | solver | Adam, rate 0.01, 300 iterations | Adam, rate 0.01, 300 iterations |
#
# The sum, in code:

# %%
source(weighted_terms)

# %% [markdown]
# (`fused_...` are the functions of the next sections, value and gradient in one compiled pass.) It begins where a spanning tree of the best pairs puts it. `record_every` takes a snapshot every so many iterations, `on_step` hands it to whoever wants to look: here to a view that is drawn anew while the cell after it runs.

# %%
config = AlignConfig(record_every=10)
true_focal = float(true_K[0, 0, 0])
monitor, on_step = alignment_monitor(config, true_path=true_path, true_focal_px=true_focal)
monitor

# %%
stage_1 = align(pairs, **flow, config=config, on_step=on_step)
len(stage_1.history)

# %% [markdown]
# The same, after the fact:

# %%
show.history_figure(stage_1.history, true_path=true_path, true_focal_px=true_focal)

# %% [markdown]
# How to read it:
#
# - **Value.** Adam's first steps are too long, and all gets worse before it gets better. CMA comes in after a tenth of the iterations, as in MonST3R.
# - **Gradient.** A value says what an objective costs, its gradient how hard it pulls. At the optimum the *sum* of the gradients is zero; what is left of each one is a pull against the others.
# - **Gap.** The distance between what one frame's depth says of a point and what another's does, in % of depth. *No objective looks at it.* Section 7 is about that.
# - **Below**: one focal length for all; the path from above, pale at first and strong at the end, over the truth in grey, by the best Sim(3); and how far the camera has turned since its first frame.
#
# Now the twenty pairs once more, each moved by the similarity that was found for it. Turn it, and press *before* and *after*:

# %%
to_truth = pair_clouds.similarity_to_truth(stage_1, true_maps)
clouds["after stage 1"] = pair_clouds.frame_clouds(pairs, to_truth @ stage_1.world_from_pair, frame)
pair_clouds.clouds_in_space(clouds["as they come"], clouds["after stage 1"], surface, true_cam)

# %%
pair_clouds.clouds_from_side(clouds, surface, true_cam, up)

# %%
apart["after stage 1"] = pair_clouds.disagreement(clouds["after stage 1"], true_cam[:3, 3])
print(score_text({name: 100 * value for name, value in apart.items()}))
assert apart["after stage 1"] < 0.9 * apart["at their true cameras"] < apart["as they come"]

# %% [markdown]
# ## 3. Global alignment
#
# Every pair $e = (n, m)$ holds the points of two frames, up to a similarity: a pose $P_e$ and a scale $\sigma_e$. GA asks for similarities that bring them onto the points $\chi$ of the frames, which depth, pose and focal length make:
#
# $$ \mathcal L_\text{GA} = \sum_{e} \sum_{v \in e} \sum_{i} \log C_i^{v;e}\, \big\lVert \chi_i^v - \sigma_e P_e X_i^{v;e} \big\rVert_2 $$
#
# The norm is not squared: many pairs that agree outvote one that is far off. $\log C$ is 0 where the network's confidence is 1; such a pixel has no say. Each half is divided by its number of pixels.

# %%
source(global_alignment)

# %% [markdown]
# *Check.* Exact pairs, made from the truth, each at a random scale. With true cameras and true depth GA must be zero:

# %%
random = torch.Generator().manual_seed(seed)
n, m = edges.T
scale = 0.3 + 2 * torch.rand(len(edges), 1, 1, generator=random)
cam_from_world = invert(true_path)[n]
members = [(scale * transform(cam_from_world, true_points[v].mT)).reshape(learned.xyz_1.shape) for v in (n, m)]
exact = PairPointmaps(edges, *members, *[torch.full_like(learned.conf_1, 3.0)] * 2)
world_from_exact = pose(true_path[n, :3, :3] / scale, true_path[n, :3, 3])

# %%
ga = float(global_alignment(observations(exact), true_points, world_from_exact))
assert ga < 1e-4
print(score_text({"GA of our pairs, when solved": float(stage_1.losses["ga"][-1])}))

# %% [markdown]
# There are movers in this clip, and GA is zero all the same: each frame's points are those of its own time. GA has no mask, and needs none for *perfect* pairs. It is the network's mistakes about movers that it has to outvote.
#
# ### A scene has no place, and no size
#
# Move the whole scene: depth, cameras and pairs together. What does GA say?

# %%
observed = observations(pairs)
points, sims = stage_1.xyz_world().flatten(1, 2).mT, stage_1.world_from_pair
turn = pose(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), torch.tensor([3.0, -2, 5]))


def ga_of_scene(scene_from_scene: torch.Tensor) -> float:
    moved = scene_from_scene[:3, :3] @ points + scene_from_scene[:3, 3:]
    return float(global_alignment(observed, moved, scene_from_scene @ sims))


# %%
half = torch.diag(torch.tensor([0.5, 0.5, 0.5, 1]))
values = {"as it is": ga_of_scene(torch.eye(4)), "turned, shifted": ga_of_scene(turn), "half": ga_of_scene(half)}
print(score_text(values))

# %% [markdown]
# Nothing for turning and shifting, as it should be: no video can tell where the world's origin is. It cannot tell size either; these seven numbers are the **gauge**. But half the size costs half the loss. GA, CMA and CTS of our scene, over its size:

# %%
sizes = torch.linspace(0.05, 1, 9)
shrunk = {"GA": [], "CMA": [], "CTS": []}
for size in sizes:
    path = pose(stage_1.world_from_cam[:, :3, :3], size * stage_1.world_from_cam[:, :3, 3])
    small = pose(size * sims[:, :3, :3], size * sims[:, :3, 3])
    shrunk["GA"].append(float(global_alignment(observed, size * points, small)))
    moved = camera_motion_alignment(given.flows, static, edges, size * points, invert(path), stage_1.intrinsics)
    shrunk["CMA"].append(float(moved))
    shrunk["CTS"].append(float(camera_trajectory_smoothness(path)))

# %%
show.sweep_figure(sizes.tolist(), {name: {name: line} for name, line in shrunk.items()}, "size of the scene")

# %% [markdown]
# **Collapse.** GA is proportional to size, so it always pulls the scene together, and at size zero all pairs agree: about nothing. CMA cannot see size at all. CTS pulls the same way as GA, down to its part by turning. Nobody holds against it.
#
# So the scales are **pinned**: they are free among each other, but their geometric mean is one half, always. In code it is the subtraction of a mean:

# %%
source(Scene.world_from_pair)

# %%
scales = sims[:, :3, :3].det().pow(1 / 3)
assert abs(values["turned, shifted"] / values["as it is"] - 1) < 1e-3
assert abs(values["half"] / values["as it is"] - 0.5) < 1e-3
assert abs(float(scales.log().mean().exp()) - 0.5) < 1e-3
assert abs(shrunk["CMA"][0] / shrunk["CMA"][-1] - 1) < 1e-3
print(score_text({"smallest scale": float(scales.min()), "largest scale": float(scales.max())}))

# %% [markdown]
# ## 4. Camera motion alignment
#
# Flow measures the image far more exactly than the network measures space. If only the camera moved, every pixel's flow follows from depth and cameras: the **ego-flow**. On what rests it must be the flow that was seen:
#
# $$ \mathcal L_\text{CMA} = \operatorname{mean}\; \rho\big(F^\text{ego}_{n \to m} - F_{n \to m}\big), \qquad F^\text{ego}_{n \to m}(x) = \pi\big(K_m P_m^{-1} P_n\, z\, K_n^{-1} x\big) - x $$
#
# with the mean over static pixels, $\rho$ smooth-L1 (square below one pixel), and $P$ mapping a camera to the world. Which pixels rest, the motion mask says.

# %%
source(camera_motion_alignment)

# %% [markdown]
# *Check.* True flow from each frame to the next, true depth, true cameras. Zero on what rests; and if nothing is masked, the movers speak up:

# %%
true_flow = grid.sample(truth.flow) / grid.stride
steps = torch.stack([torch.arange(len(clip) - 1), torch.arange(1, len(clip))], dim=-1)
rests = ~true_mask[:-1]
costs = {
    name: float(camera_motion_alignment(true_flow, where, steps, true_points, invert(true_path), true_K))
    for name, where in {"static pixels": rests, "all pixels": torch.ones_like(rests)}.items()
}

# %%
print(score_text({"CMA, all pixels": costs["all pixels"]}))
assert costs["static pixels"] < 1e-4
assert costs["all pixels"] > 100 * costs["static pixels"]

# %% [markdown]
# CMA knows the *directions* in which cameras stand, and depth only as far as there is parallax. GA knows shape and nothing exact. Together they are what each is not.
#
# ## 5. Camera trajectory smoothness
#
# Real cameras do not jump:
#
# $$ \mathcal L_\text{CTS} = \sum_t \big\lVert R_t^\top R_{t+1} - I \big\rVert_F + \big\lVert R_t^\top (T_{t+1} - T_t) \big\rVert_2 $$

# %%
source(camera_trajectory_smoothness)

# %% [markdown]
# *Check*, by hand. A camera at rest costs nothing. One that turns by 90° and steps by half a metre costs $2\sqrt 2 \sin 45° + 0.5 = 2.5$:

# %%
quarter = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
two_cameras = torch.stack([torch.eye(4), pose(quarter, torch.tensor([0.5, 0, 0]))])
assert camera_trajectory_smoothness(torch.eye(4).expand(2, 4, 4)) == 0
assert abs(float(camera_trajectory_smoothness(two_cameras)) - 2.5) < 1e-6
print(score_text({"CTS of the true path (m)": float(camera_trajectory_smoothness(true_path))}))

# %% [markdown]
# Mind the last number. GA and CMA are zero at the truth. **CTS is not**, unless the camera stands still. It does not measure anything; it is a wish, and it is granted at the truth's cost. Section 6 says how high that is.
#
# ## 6. Switch them on, one by one
#
# The same pairs, the same start, and only the weights differ. First the pairs as flow alone makes them, for it takes mistakes to see what mends them:


# %%
def solve(pairs: PairPointmaps, *, focal_px: float | None = None, **options) -> Alignment:
    config = AlignConfig(record_every=10, **options)
    given_flow = flow if config.weight_cma else {}
    return align(pairs, **given_flow, focal_px=focal_px, config=config)


# %%
runs = {
    "GA": solve(measured, weight_cma=0, weight_cts=0),
    "GA + CMA": solve(measured, weight_cts=0),
    "GA + CTS": solve(measured, weight_cma=0),
    "GA + CMA + CTS": solve(measured),
}

# %% [markdown]
# The board. ATE and RPE are errors of the path after the best Sim(3), ATE in % of its length. *Path* is the length of the path in % of the true one, in the unit in which the **median depth** is right. AbsRel and $\delta$ are depth. Flicker is how much true resting
# points shake in space (median second difference), and by how much the error of depth changes from a frame to the next.

# %%
columns = {"ATE (%)": "ate_percent", "RPE (m)": "rpe_t", "RPE (deg)": "rpe_r_deg", "path (%)": "path"}
columns |= {"AbsRel": "abs_rel", "δ < 1.25": "delta_1", "flicker (m)": "trajectory", "of depth": "depth"}


def scores(aligned: Alignment) -> dict[str, float]:
    share = path_share(aligned.world_from_cam, aligned.depth, truth)
    return scores_of(aligned, grid, truth) | {"path": 100 * share}


def board(scored: dict[str, dict[str, float]]):
    rows = [[name, *(float(f"{of[key]:.3g}") for key in columns.values())] for name, of in scored.items()]
    return table(["", *columns], rows)


# %% tags=["nbval-ignore-output"]
scored = {name: scores(aligned) for name, aligned in runs.items()}
board(scored)

# %%
paths = {name: align_path(runs[name].world_from_cam, true_path) for name in ("GA", "GA + CMA", "GA + CMA + CTS")}
show.paths_figure(paths, true_path)

# %%
off_cm = {name: 100 * (path - true_path)[:, :3, 3].norm(dim=-1) for name, path in paths.items()}
frames_figure(off_cm, "camera off by (cm)")

# %% [markdown]
# - **GA** alone has the shape of the path, but each camera sits some centimetres off, wherever the pairs' mistakes happen to balance. The zigzag makes the path too long.
# - **CMA** brings cameras to where flow says they are: place and turning are the better for it.
# - **CTS** takes the rest of the zigzag away: from one frame to the next, the steps (RPE) are the best. But it shortens the path, and the camera's turning with it; RPE in degrees is worse for that.
#
# *Check*, loosely, so that it holds on any machine:

# %%
ga, all_three = scored["GA"], scored["GA + CMA + CTS"]
assert scored["GA + CMA"]["ate_percent"] < ga["ate_percent"]
assert all_three["ate_percent"] < ga["ate_percent"]
assert all_three["rpe_t"] < 0.7 * ga["rpe_t"]
assert scored["GA + CMA"]["path"] > all_three["path"]

# %% [markdown]
# ### The same with fused pairs
#
# Stage 2 comes on top: it smooths the tracks' paths in space and moves depth after them. [Chapter 6](06_pts_lbd_smoothing.ipynb) takes it apart.

# %%
tracks = replace(given.found.tracks, uv=grid.to_grid(given.found.tracks.uv))
target = smooth_pointmaps(stage_1.xyz_world(), tracks)
fused_runs = {
    "GA": solve(pairs, weight_cma=0, weight_cts=0),
    "GA + CMA + CTS": stage_1,
    "+ PTS": refine_depth(stage_1, target),
}

# %% tags=["nbval-ignore-output"]
scored_fused = {name: scores(aligned) for name, aligned in fused_runs.items()}
board(scored_fused)

# %% [markdown]
# With pairs that fit, **GA alone** finds the path five times better than all three objectives found it before: half a centimetre off from one frame to the next. CMA and CTS have nothing left to mend, and CTS still takes its price, a little of the path and of the camera's turning. No objective buys as much as better pairs do. That is why the pipeline
# takes its time over them, and why on clips where nothing else is known, as below, the objectives matter.
#
# - **PTS** cannot touch the path, for the cameras are fixed. Depth stays as good as it was, and flicker is nearly halved. It had grown: the network errs anew in every frame, so that resting points shake more than with flow alone.

# %%
both = scored_fused["+ PTS"]
assert scored_fused["GA"]["ate_percent"] < 0.3 * all_three["ate_percent"]
assert both["ate_percent"] == scored_fused["GA + CMA + CTS"]["ate_percent"]
assert both["trajectory"] < 0.7 * scored_fused["GA + CMA + CTS"]["trajectory"]
assert both["abs_rel"] < 1.1 * scored_fused["GA + CMA + CTS"]["abs_rel"]

# %% [markdown]
# One clip proves little. `python -m c4d_nb.alignment_evaluation FOLDER` makes such a board for a folder of clips, over seeds, with MonST3R's objective beside it.
#
# ### What a Sim(3) hides
#
# And now without flow's triangulation: the small network's pairs, as they are.

# %% tags=["nbval-ignore-output"]
untaught = {
    "GA": solve(learned, weight_cma=0, weight_cts=0),
    "GA + CMA": solve(learned, weight_cts=0),
    "GA + CMA + CTS": solve(learned),
}
scored_untaught = {name: scores(aligned) for name, aligned in untaught.items()}
board(scored_untaught)

# %% [markdown]
# By ATE every objective is a gain. Look at the column *path*: with all three the camera goes less than half of its true way. The Sim(3) before the score has blown that up. Orange is the path that the score sees; blue is the same one, in the unit in which depth is right:

# %%
ended = untaught["GA + CMA + CTS"]
show.paths_figure(
    {
        "after the best Sim(3)": align_path(ended.world_from_cam, true_path),
        "at the scale of depth": at_scale_of_depth(ended.world_from_cam, ended.depth, truth),
    },
    true_path,
)

# %%
assert scored_untaught["GA + CMA + CTS"]["path"] < 60
assert scored_untaught["GA"]["path"] > scored_untaught["GA + CMA + CTS"]["path"] + 20

# %% [markdown]
# GA alone finds nine tenths of the way. It was CTS that took half of that, at the paper's weight of 0.01. On the better pairs the same weight took only some per cent. How can that be?
#
# ### How heavy may CTS be?
#
# Three kinds of pairs: exact ones, the fused ones, and the network's alone. GA and CTS only, 150 iterations, at four weights:

# %%
cts_weights = (0.001, 0.01, 0.1, 1.0)
kinds = {"exact pairs": exact, "fused pairs": pairs, "network alone": learned}
swept = {
    name: [solve(of, weight_cma=0, weight_cts=weight, iterations=150) for weight in cts_weights]
    for name, of in kinds.items()
}

# %%
lengths = {
    name: [100 * path_share(of.world_from_cam, of.depth, truth) for of in aligned] for name, aligned in swept.items()
}
errors = {
    name: [trajectory_errors(of.world_from_cam, true_path)["ate_percent"] for of in aligned]
    for name, aligned in swept.items()
}
panels = {"length of the path (% of the true one)": lengths, "ATE (% of the path)": errors}
show.sweep_figure(cts_weights, panels, "weight of CTS", marked={"paper": 0.01}, log_scale=True)

# %% [markdown]
# Both objectives are *norms*, not squares: each pulls with a constant force, however small the error is. If all pairs agree, GA holds every camera in its place with nearly the full force of its pixels, and CTS, if it is weaker, moves it **not at all**: at 0.01, exact pairs keep their path. At 0.1 it is stronger, and a good third of
# the path is gone. Where pairs *disagree* about a camera, their forces cancel, and what remains to hold it is little. The network's pairs, whose opinions of the camera's motion are all over the place, hold it least.
#
# So 0.01 stands less than a factor of ten below the point where even perfect pairs give way, and above the point where weak ones do. ATE does not tell. Look at the length of the path.

# %%
assert lengths["exact pairs"][1] > 95
assert lengths["exact pairs"][2] < 90
assert lengths["exact pairs"][1] > lengths["fused pairs"][1] > lengths["network alone"][1]

# %% [markdown]
# ## 7. Why can the loss fall while the clouds drift apart?
#
# This is what users of global alignment are most puzzled by: a loss that goes down nicely, and a scene whose walls are double. The network's pairs again, GA only:

# %%
drifting = align(learned, config=replace(GA_ONLY, record_every=10))
show.history_figure(drifting.history, true_path=true_path, true_focal_px=true_focal)

# %% [markdown]
# GA falls from first to last, at the end by little. The gap between the clouds narrows for some sixty iterations, and then no more, while GA goes on falling. Clouds that are 1.7 % apart are all that these pairs can be satisfied with:

# %% tags=["nbval-ignore-output"]
gaps = torch.tensor([step.gap for step in drifting.history])
lowest = int(gaps.argmin())
losses = [step.value["ga"] for step in drifting.history]
table(
    ["iteration", "GA", "gap (%)"],
    [[10 * i, *(float(f"{x:.4g}") for x in (losses[i], 100 * gaps[i]))] for i in (0, lowest, len(gaps) - 1)],
)

# %%
assert losses[-1] < losses[lowest] < losses[0]
assert lowest < len(gaps) - 1
assert gaps[-1] > 2 * view_gap(true_depth, true_K, true_path, edges)

# %% [markdown]
# There is no contradiction. **GA never compares two clouds.** It compares each frame's cloud with what *pairs* say of it. If the pairs say that the clouds lie apart, then GA is satisfied when they do.
#
# The smallest case, by hand: two frames and one pair, exact, but for one thing: it says that all of image 2 is 10 % farther from its camera than it is. And so do we:

# %%
two = torch.tensor([[0, 1]])
pushed = true_depth[[0, 1]] * torch.tensor([1.0, 1.1])[:, None, None]
wrong_points = frame_points(pushed, true_K[:2], true_path[:2])
in_first = transform(invert(true_path[0]), wrong_points.mT).reshape(2, 1, *true_depth.shape[1:], 3)
liar = PairPointmaps(two, *in_first, *torch.full((2, 1, *true_depth.shape[1:]), 3.0))

# %%
loss = float(global_alignment(observations(liar), wrong_points, true_path[:1]))
gap = {
    name: view_gap(depth, true_K[:2], true_path[:2], two)
    for name, depth in (("true", true_depth[:2]), ("ours", pushed))
}
print(score_text({"gap of true depth (%)": 100 * gap["true"], "gap of ours (%)": 100 * gap["ours"]}))
assert loss < 1e-4
assert abs(gap["ours"] - 0.1) < 0.02

# %% [markdown]
# The loss is zero, and there are two walls. What to do about it:
#
# - **Do not judge by the loss.** Judge by what it does not see: the gap (`Snapshot.gap`), or the flow that depth and cameras predict. CMA puts the latter into the loss.
# - **Ask more pairs.** One pair that lies is believed; of twenty that err independently, the majority is not far off. But twenty that all err alike are no better than one: that is the small network's case.
# - **Turn confidence into silence.** A pixel with $C = 1$ does not count. A pair that is sure and wrong is the worst there is.
#
# ## 8. A wrong focal length
#
# What if the lens is not what one thinks? Flow's pairs again; fix the focal length at half, three quarters, the truth, half as much again and twice:

# %%
factors = (0.5, 0.75, 1.0, 1.5, 2.0)
fixed = [solve(measured, focal_px=factor * true_focal, iterations=150) for factor in factors]
panels = {
    "GA": {"GA": [float(of.losses["ga"][-1]) for of in fixed]},
    "ATE (% of the path)": {"ATE": [trajectory_errors(of.world_from_cam, true_path)["ate_percent"] for of in fixed]},
    "AbsRel of depth": {"AbsRel": [video_depth(of.depth, true_depth)["abs_rel"] for of in fixed]},
}
show.sweep_figure(
    [factor * true_focal for factor in factors], panels, "focal length (px)", marked={"truth": true_focal}
)

# %% [markdown]
# The pairs know the focal length, for a pointmap is a bundle of rays ([chapter 5a](05a_pointmaps.ipynb)), and GA is least where it is right. Forced to a wrong one, the scene gives way along the line of sight: through too short a lens the same pixels fan out, and depth must shrink to keep its widths. The score of the path notices less: it doubles at most, where the error of depth grows sevenfold. So do not fix what you do not know; do fix
# what you do (`focal_px` or `intrinsics`).

# %%
best = min(range(len(fixed)), key=lambda i: float(fixed[i].losses["ga"][-1]))
assert factors[best] == 1.0
assert min(panels["AbsRel of depth"]["AbsRel"]) == panels["AbsRel of depth"]["AbsRel"][2]

# %% [markdown]
# ## 9. Stage 2 in one step
#
# Stage 2 moves depth alone, towards the smoothed points $\tilde X$:
#
# $$ \mathcal L_\text{PTS} = \operatorname{mean}_i\, \lVert \chi_i - \tilde X_i \rVert_2 $$
#
# With cameras fixed, a pixel's point can only slide along its ray $r$ from the camera's centre $o$, and no pixel knows of another. So the answer is known in closed form, the foot of the perpendicular: $d^* = \langle \tilde X - o,\, r \rangle / \langle r, r \rangle$.

# %%
source(nearest_depth)

# %%
foot = nearest_depth(target, stage_1.intrinsics, stage_1.world_from_cam)
at_foot = replace(stage_1, depth=foot)
floor = float((at_foot.xyz_world() - target).norm(dim=-1).mean())
by_adam = fused_runs["+ PTS"].losses["pts"]
show.descent_figure(
    {"300 Adam iterations": (range(1, 301), by_adam.tolist())}, "iteration", "PTS", floors={"closed form": floor}
)

# %%
off = (fused_runs["+ PTS"].depth / foot - 1).abs()
print(score_text({"median difference of depth (%)": 100 * float(off.median())}))
assert off.median() < 1e-3
assert floor <= float(by_adam[-1]) < 1.01 * floor

# %% [markdown]
# ## 10. Stage 1 in a few large steps
#
# Could stage 1 be solved like that, too? Not at once. But if all else is fixed, each *part* has a closed form: depth along its rays, a pair's similarity, a camera. `align_fast` solves for one part after the other, and between the rounds it weighs each distance by its inverse, which turns squares into norms. Same
# objectives, same start, other steps; most of them look at some of the pixels only, the last ones at all. GA against seconds on this machine, with the snapshots' own time:


# %%
def timed(solver, config) -> tuple[Alignment, list[float]]:
    seconds, start = [], perf_counter()
    found = solver(pairs, config=config, on_step=lambda step: seconds.append(perf_counter() - start))
    return found, seconds


# %% tags=["nbval-ignore-output"]
off_but_ga = {"weight_cma": 0.0, "weight_cts": 0.0}
solvers = {
    "paper": timed(align, AlignConfig(record_every=20, **off_but_ga)),
    "fast": timed(align_fast, FastConfig(record_every=1, **off_but_ga)),
}
curves = {name: (seconds, [step.value["ga"] for step in of.history]) for name, (of, seconds) in solvers.items()}
show.descent_figure(curves, "seconds", "GA")

# %%
ends = {
    name: float(global_alignment(observed, of.xyz_world().flatten(1, 2).mT, of.world_from_pair))
    for name, (of, _) in solvers.items()
}
print(score_text(ends))
assert ends["fast"] < 1.05 * ends["paper"]

# %% [markdown]
# ## Exercises
#
# 1. **No mask.** Solve once with `motion_masks=None`, and once with the true mask (`true_mask`). What does CMA lose? Is our mask as good as the true one?
# 2. **The camera is known.** `align(pairs, world_from_cam=true_path)` fixes the poses. How much better does depth become? What is left of the error is the pairs' own.
# 3. **Fewer pairs.** Keep only edges between neighbours (`(edges[:, 0] - edges[:, 1]).abs() == 1`). What happens to the path of GA alone, and what does CMA save?
# 4. **A square instead of a norm.** Write CTS with squared norms. At which weight does it shorten the path of *exact* pairs, and is there still a weight that leaves it alone?
#
# Next: [smoothing](06_pts_lbd_smoothing.ipynb), which makes the targets of stage 2.
