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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/c4d-nb/c4d_nb/blob/main/notebooks/01_kubric_mobility.ipynb)
#
# # What moves? Labels from Kubric
#
# C4D's point tracker says of every point whether it is **dynamic**: whether it moves in the world, or only seems to because the
# camera does. To learn that, it needs videos in which somebody knows. Nobody can label a million points by hand, and nobody
# has to: in a simulation the place of every object is known in every frame.
#
# This chapter looks at such videos and all that is known about them, derives the mobility label from positions, finds
# the object that the data set's own flag gets wrong, and follows exact point tracks. Everything here is truth; nothing is
# estimated.

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
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "pil_kwargs": {"quality": 65}}
import math
import tempfile
from dataclasses import fields, replace

import matplotlib.pyplot as plt
import plotly.io as pio
import roma
import torch

from c4d_nb import load_clip
from c4d_nb.camera import invert, pinhole, pixel_grid, project, transform
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.mobility import compare_with_is_dynamic, mobility_labels, position_steps, with_background
from c4d_nb.kubric.movi import decode_movi, read_movi
from c4d_nb.kubric.movi_writer import instance_order, write_movi
from c4d_nb.kubric.ranges import SPLITS, MoviRanges
from c4d_nb.kubric.render import render_clip, render_frame
from c4d_nb.kubric.sampling import sample_scene
from c4d_nb.kubric.scene import Body, Part, Scene, Texture, look_at
from c4d_nb.kubric.store import load_scene
from c4d_nb.kubric.tfrecord import Shards
from c4d_nb.kubric.tracks import point_tracks, sample_tapvid_queries
from c4d_nb.kubric.truth import complete_truth
from c4d_nb.show import figures
from c4d_nb.show import kubric as show
from c4d_nb.show.cells import source, table
from c4d_nb.show.colors import flow_image, outline_image
from c4d_nb.show.truth import track_paths, tracks_in_space, tracks_still, truth_as_result, visibility_figure
from c4d_nb.show.widgets import mobility_explorer

plt.rcParams["figure.dpi"] = 80
pio.renderers.default = "plotly_mimetype+notebook_connected"

# %% tags=["parameters"]
video = "../data/movi_e.npz"
movi_path = None  # a TFRecord shard of MOVi, or a folder of them: section 8 reads its first clip
threshold = 0.01

# %% [markdown]
# ## 1. What is MOVi, and what do we have of it?
#
# [Kubric](https://github.com/google-research/kubric) simulates and renders scenes; **MOVi** is its family of video data sets.
# A clip has 24 frames at 12 frames a second. Ten to twenty objects lie at rest on the floor, and one to three more are **tossed** among them.
# Three of its splits matter to C4D:
#
# - **panning MOVi-E**: the camera moves on a straight line, and so does the point that it looks at. C4D trains on it.
# - **MOVi-F**: the camera looks at the middle of the scene, and there is motion blur. C4D trains on it, too.
# - **MOVi-E**: as MOVi-F, without blur. C4D never trains on it, so its score there tells how well it generalises.
#
# The real records are many gigabytes, and this package reads them (section 8). What ships with it comes from **mini-Kubric**, a
# generator of our own that draws scenes from the same published numbers. Here they are; pairs are ranges, lengths are in metres, and the
# splits differ in three lines: how far the camera goes, between which radii its look-at point wanders, and for how many frames the shutter is open.

# %%
ranges = {field.name: [getattr(split, field.name) for split in SPLITS.values()] for field in fields(MoviRanges)}
table(["", *SPLITS], [[f"`{name}`", *values] for name, values in ranges.items()])

# %% [markdown]
# The objects are ours too: compounds of simple solids in procedural paint, where Kubric has scanned things from a shop.

# %%
clips = {name: load_clip(f"../data/{name}.npz") for name in SPLITS}
shown = [0, 12, 23]
show.image_grid({name: c.frames[shown] for name, c in clips.items()}, [f"frame {f}" for f in shown])

# %% [markdown]
# ## 2. What does a clip know about itself?
#
# An archive holds colours, depth, segmentation and the poses of the camera and of all objects. Objects are **rigid**, so the rest follows
# without rendering: where a pixel's point was on its object, where that object is in the next frame, and where the camera
# sees it there. For a pixel $x$ of frame $t$ with depth $z$, on an object with pose $P^{\mathrm{obj}}_t$, and a camera with pose $P_t$:
#
# $$ \mathrm{flow}_t(x) = \pi\big(P_{t+1}^{-1}\, P^{\mathrm{obj}}_{t+1} (P^{\mathrm{obj}}_t)^{-1} P_t\; z K^{-1} x\big) - x $$
#
# `complete_truth` computes these layers:

# %%
clip = load_clip(video)
clip = replace(clip, truth=complete_truth(clip.truth))
truth = clip.truth
layers = {name: tuple(value.shape) for name, value in vars(truth).items() if torch.is_tensor(value)}
table(["layer", "shape"], [[f"`{name}`", shape] for name, shape in layers.items()])

# %%
show.truth_layers(clip)

# %% [markdown]
# From top to bottom:
#
# - **RGB**, what a pipeline is given; all else is hidden from it.
# - **Depth** is $z$, along the camera's axis, in metres. (Kubric stores the distance to the camera's centre instead; the reader converts.)
# - **Segmentation**: one number an object, here as in the rows of `truth.positions`, from 0. In the map itself object $i$ is $i+1$, and the background 0.
# - **Flow** leads from a pixel to where its surface point is in the next frame; direction is hue, length is saturation, as in the wheel. It
#   is exact even where that point is hidden. The camera moves as well, so everything has flow, not only what is dynamic.
# - **Backward flow** leads to the frame before. It is not the negative of the forward flow: it belongs to other pixels.
# - **Object coordinates**: where a point lies in its object's box, as red, green and blue from 0 to 1. They move *with* the object, so that one and the
#   same point has the same colour in all frames. That is what exact tracks are made of.
# - **Motion mask**: the pixels of dynamic objects, the subject of this chapter.
#
# *Check.* The archive rounds depth to 16 bits. The scene that was rendered is in it too, so we can cast the rays of a frame anew, in
# float64, and see what the rounding did:

# %%
scene = load_scene(video)
depth, segmentation = cast(scene, 12, pixel_grid(*clip.size).double().reshape(-1, 2))
print(figures.score_text({"largest error of depth (m)": float((depth - truth.depth[12].flatten()).abs().max())}))
torch.equal(segmentation, truth.segmentation[12].flatten())

# %% [markdown]
# ## 3. Which objects move?
#
# The supplement of C4D: a Kubric object is dynamic when the temporal difference of its world **positions** exceeds a threshold, 0.01 by
# default, and then every point track on it is. With $x_i(t)$ for the place of object $i$, in metres:
#
# $$ \mathrm{mobility}_i = 1 \iff \max_t\, \lVert x_i(t+1) - x_i(t) \rVert > 0.01 $$
#
# The paper does not say which difference it takes, nor for how long the label holds. So the library's function has that as a parameter
# (section 5):

# %%
source(mobility_labels)

# %%
mobility = mobility_labels(truth.positions, threshold=threshold)
f"{int(mobility.sum())} of {len(mobility)} objects are dynamic"

# %% [markdown]
# The axis is logarithmic, because the steps span orders of magnitude: a tossed object makes decimetres a frame, while what the simulator leaves in a resting one
# is a few hundredths of a millimetre (less than 0.01 mm, zero included, is drawn on the lowest line). A mover's steps do fall below the threshold where it
# comes to rest; but its *largest* step is far above, and that decides the label.

# %%
show.motion_figure(truth, threshold=threshold)

# %% [markdown]
# *Check.* The archive has labels, made when the clip was rendered. They are these, and the motion mask is nothing but a look-up of them
# in the segmentation, with the background, which is static, as number 0:

# %%
torch.equal(mobility, truth.mobility), torch.equal(with_background(mobility)[truth.segmentation], truth.motion_mask)

# %% [markdown]
# ## 4. Which object does `is_dynamic` get wrong?
#
# Kubric has a flag of its own for each object, and its name invites trouble: `is_dynamic`. But it says how an object *began*, tossed
# (True) or at rest (False), and is never touched again. An object that lies there and is then **hit** keeps False while it rolls away.

# %%
difference = compare_with_is_dynamic(mobility, truth.is_dynamic)
{name: objects.tolist() for name, objects in vars(difference).items()}

# %% [markdown]
# Of those that were hit, here is the one that shows most, before, at and after the hit. The outline is blue while it rests and orange while it moves. (It comes to rest
# again, and is struck once more.)

# %%
most_seen = instance_order(truth.segmentation, len(mobility))
hit = next(i for i in most_seen.tolist() if i in difference.hit)
show.hit_figure(clip, hit, threshold=threshold)

# %% [markdown]
# That is why the rule is on positions. A tracker trained on the flag would be told that this object is part of the static world in
# which the camera is to be found; and the points that matter most to C4D are exactly those that *look* like background until they move.
#
# ## 5. What does the rule leave open?
#
# Three readings of "temporal difference", and what each is good for:
#
# | mode | dynamic is | label of |
# |:--|:--|:--|
# | `clip` | any step above the threshold | the whole clip; the default here, and what the supplement says of tracks |
# | `frame` | a step that begins or ends in that frame | each frame; what one would *see* |
# | `first` | ever farther than the threshold from its place in the first frame | the whole clip; sees slow drift, too |

# %%
rules = {mode: show.MobilityRule(threshold, mode) for mode in ("clip", "frame", "first")}
before = int(rules["frame"].labels(truth)[hit].nonzero()[0]) - 1
show.variants_figure(clip, rules, frames=[before, before + 2, before + 5])

# %% [markdown]
# In the upper row the hit has not come yet. `clip` calls its object dynamic already, in the knowledge of what follows; `frame` does not. In the lowest row it rests for a
# moment, which is of no account for a camera that looks for what it may trust in the *whole* clip.
#
# Does the threshold matter? How many objects are dynamic in a frame, on average, for thresholds from a millimetre to ten centimetres:

# %%
rows = []
for metres in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
    labels = [show.MobilityRule(metres, mode).labels(truth) for mode in rules]
    rows.append([f"{1000 * metres:g} mm", *(round(float(label.float().sum(dim=0).mean()), 1) for label in labels)])
table(["threshold", *rules], rows)

# %% [markdown]
# Any threshold up to 50 mm gives this clip the same labels. Try it. (The controls need a running kernel; the pictures above and the table are what they show.)

# %%
mobility_explorer(clip)

# %% [markdown]
# ### A spin in place
#
# Positions are of an object's centre. A ball that turns on the spot has a centre that rests, and the rule calls it static, though every point of its
# surface moves. Here is one of radius 1 m that turns by 10 degrees a frame:

# %%
turns = math.radians(10) * torch.arange(6.0)[:, None] * torch.tensor([0.0, 0.0, 1.0])
at_rest = torch.tensor([0.0, 0.0, 1.0]).repeat(6, 1)
paint = Texture("checks", ((0.9, 0.8, 0.2), (0.2, 0.3, 0.6), (1.0, 1.0, 1.0)), scale_m=0.5)
ball = Body((Part("ellipsoid", (1.0, 1.0, 1.0), paint),), at_rest, roma.rotvec_to_unitquat(turns))
plain = Texture("marble", ((0.7, 0.7, 0.7), (0.5, 0.5, 0.5), (0.6, 0.6, 0.6)), scale_m=3.0)
camera = look_at(torch.tensor([[0.0, -4.0, 1.0]] * 6), at_rest)
room = ((-9.0, -9.0, 0.0), (9.0, 9.0, 9.0))
scene_of_ball = Scene((ball,), room, plain, plain, camera, pinhole(140.0, 129, 129), 129, 129)
top = render_clip(scene_of_ball, fps=12, samples=3, threads=1)
rows = {"RGB": top.frames[:4], "flow": flow_image(top.truth.flow[:4], 12.0)}
show.image_grid(rows, [f"frame {f}" for f in range(4)], panel_inches=1.7)

# %% [markdown]
# With quaternions and radii beside the positions, a step is the larger of the shift and the arc that a point at the radius travels. (The clip's archive has boxes, not
# radii; `MobilityRule(spin=True)` takes half of the box's diagonal.)

# %%
spin = {"quaternions": top.truth.quaternions, "radii": torch.tensor([1.0])}
print(figures.score_text({"step of the centre (m)": float(position_steps(top.truth.positions).max())}))
print(figures.score_text({"step with the spin (m)": float(position_steps(top.truth.positions, **spin).max())}))
mobility_labels(top.truth.positions).tolist(), mobility_labels(top.truth.positions, **spin).tolist()

# %% [markdown]
# *Check.* The point in the middle of the picture is 3 m away. After a turn by $\alpha = 10^\circ$ it is at $(\sin\alpha, -\cos\alpha)$, and a
# focal length of 140 px shows it $140 \sin\alpha / (4 - \cos\alpha)$ px to the right:

# %%
expected = 140 * math.sin(math.radians(10)) / (4 - math.cos(math.radians(10)))
found = top.truth.flow[0, 64, 64]
f"expected ({expected:.3f}, 0.000) px, found ({found[0]:.3f}, {found[1].abs():.3f}) px"

# %% [markdown]
# So a spinning ball has real flow, violates the epipolar constraint and is called static. In MOVi this is rare, because
# what spins usually rolls. In your own videos, think of a fan.
#
# ## 6. Which points move?
#
# A tracker learns from point tracks. TAP-Vid's protocol for Kubric draws **queries** on a grid, 256 a clip, spread evenly over the objects, so
# that small ones get their share. `point_tracks` then lets each point ride on what its query shows, and labels it with its object's mobility.

# %%
queries = sample_tapvid_queries(truth, generator=torch.Generator().manual_seed(0))
exact = point_tracks(truth, queries, scene=scene)
result = truth_as_result(clip, exact)
f"{len(queries.frame)} tracks, {int(exact.mobility[0].sum())} of them dynamic"

# %% [markdown]
# Tails show the last eight frames; orange is dynamic, blue is static. Static points move as well, with the camera; what tells them apart is not how much they move in the image.

# %%
figures.track_strip(result)

# %% [markdown]
# Where are they in the world? A point keeps its place in its object's own axes:

# %%
source(track_paths)

# %% [markdown]
# In space the difference is plain: a static track is a dot, a dynamic one a line. Drag to turn. The movers' surfaces are shown in three frames at once.

# %%
tracks_in_space(result)

# %% [markdown]
# The same for the printed page, as a camera aside would see it; the black line is the path of the clip's own camera:

# %%
tracks_still(result)

# %% [markdown]
# *Check 1: reprojection.* Paths in space, seen by the true cameras, are the tracks. The paths come from rounded depth here and the tracks from exact
# rays, so they agree to a few thousandths of a pixel.

# %%
cam_from_world = invert(truth.world_from_cam.double())
uv, _ = project(transform(cam_from_world, track_paths(truth, exact)), truth.intrinsics.double())
print(figures.score_text({"largest error (px)": float((uv - exact.uv)[exact.visible].abs().max())}))

# %% [markdown]
# *Check 2: flow.* From its query to the next frame, a track goes where the flow of the query's pixel leads.

# %%
n = (queries.frame < len(clip) - 1).nonzero()[:, 0]
frame, (column, row) = queries.frame[n], queries.uv[n].long().T
step = exact.uv[frame + 1, n] - exact.uv[frame, n]
print(figures.score_text({"largest error (px)": float((step - truth.flow[frame, row, column]).abs().max())}))

# %% [markdown]
# *Check 3: visibility.* TAP-Vid has no rays to cast. It decides from the maps whether a point is hidden: something nearer at all four pixels around it, or other
# segments at all four. With the scene at hand, one ray to the point decides. How often is TAP-Vid's rule wrong?

# %%
by_rule = point_tracks(truth, queries)
wrong = exact.visible != by_rule.visible
print(figures.score_text({"share of positions that differ": float(wrong.float().mean())}))
print(figures.score_text({"of them hidden, called visible": float(by_rule.visible[wrong].float().mean())}))

# %% [markdown]
# It errs at outlines, and where a surface has just turned away: there the point's own object is in front of it, hardly nearer than it.

# %%
visibility_figure(clip, exact, by_rule, int(wrong.sum(dim=1).argmax()))

# %% [markdown]
# ## 7. What will be hard?
#
# Each chapter that follows has a way to fail, and the generator can force a scene to show one:
#
# | case | why it is hard for C4D |
# |:--|:--|
# | `static` | Nothing moves. Whatever is called dynamic is a false alarm, and every pixel could be one. |
# | `hit` | A resting object is struck. Before the hit nothing in the image tells it from background. |
# | `epipolar` | A body glides along with the camera, on its own epipolar lines: no fundamental matrix can see that it moves. |
# | `large_mover` | One body fills over half of every frame. A robust fit without labels takes *it* for the static world. |
# | `pure_rotation` | The camera only turns. Without parallax there is no depth, and the fundamental matrix is undetermined. |
# | `still_camera` | The camera stands. Motion is easy to see, but depth is not to be had, and there is no epipolar geometry again. |
#
# What is dynamic is outlined:

# %%
seeds = {"static": 0, "hit": 0, "epipolar": 1, "large_mover": 1, "pure_rotation": 0, "still_camera": 1}
scenes = [sample_scene(seed, subset="validation", case=case, size=128) for case, seed in seeds.items()]


def still(scene: Scene, frame: int) -> torch.Tensor:
    rgb, _, segmentation = render_frame(scene, frame, samples=3)
    return outline_image(rgb, with_background(mobility_labels(scene.positions))[segmentation])


rows = {f"frame {frame}": torch.stack([still(scene, frame) for scene in scenes]) for frame in (0, 12, 23)}
show.image_grid(rows, list(seeds), panel_inches=1.5)

# %% [markdown]
# `python -m c4d_nb.kubric.generate --help` makes as many of any kind as you like.
#
# ## 8. The same from a MOVi record
#
# Real MOVi comes in TFRecord shards with conventions of their own: depth is a distance, flow is (row, column) and *backward flow has the opposite sign*,
# quaternions begin with w, cameras look along $-z$, numbers are rounded to 16 bits, and instances are sorted by how much they show. `read_movi` turns a
# record into a `Clip`, without TensorFlow. Set `movi_path` to your shard (its docstring says where to get one). Without one, we write this chapter's clip as a record and read that.

# %%
folder = tempfile.TemporaryDirectory()
shard = movi_path or write_movi(f"{folder.name}/mini-validation.tfrecord-00000-of-00001", [clip])
record = read_movi(shard, index=0)
f"{len(record)} frames of {record.size[1]}x{record.size[0]} px, {len(record.truth.mobility)} objects"

# %%
show.label_figure(record, len(record) // 2, show.MobilityRule(threshold))

# %% [markdown]
# *Check.* There and back, through both sets of conventions: pixels and labels must be the same, and positions too, object by object in the record's order.

# %%
if movi_path is None:
    back = record.truth
    print(torch.equal(record.frames, clip.frames), torch.equal(back.motion_mask, truth.motion_mask))
    print(torch.equal(back.mobility, mobility[most_seen]), torch.equal(back.positions, truth.positions[most_seen]))

# %% [markdown]
# Depth and flow may differ by the rounding to 16 bits, half a step of the ranges that the record holds:

# %%
if movi_path is None:
    stored = decode_movi(Shards(shard)[0])
    for name, (low, high) in {"depth": stored.depth_range, "flow": stored.forward_flow_range}.items():
        error, half_step = float((getattr(back, name) - getattr(truth, name)).abs().max()), (high - low) / 65535 / 2
        print(figures.score_text({f"{name}: largest error": error, f"{name}: half a step": half_step}))

# %% [markdown]
# ## Exercises
#
# 1. **How wrong is the flag?** `sample_scene(seed, subset="validation")` needs no rendering. Over twenty seeds, count the objects on which
#    `compare_with_is_dynamic` disagrees. What share of all dynamic objects would a tracker trained on `is_dynamic` be taught as static?
# 2. **From objects to points.** Write a rule that calls an object dynamic when any *corner of its box* moves by more than the threshold. It needs `truth.boxes` and
#    `c4d_nb.kubric.truth.object_poses`. Does it find the spinning ball? Where does it differ from `MobilityRule(spin=True)`?
# 3. **The label of a frame.** Make tracks whose mobility is that of mode `frame`. How many of the dynamic points in frame 0 are left, and what could a tracker that
#    sees only the first 16 frames know about the others?
#
# Next: [a tracker that knows what moves](02_dynpt_training.ipynb), trained on such clips.
