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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/c4d-nb/c4d_nb/blob/main/notebooks/02_dynpt_training.ipynb)
#
# # DynPT: a point tracker that knows what moves
#
# When a video's camera moves, every pixel moves. Which of them move **in the world**? C4D's learned contribution is a point tracker, DynPT, that answers along with
# the track. For every queried point and every frame it says four things:
#
# | | | |
# |---|---|---|
# | position | $(u, v)$ px | where the point is |
# | visibility | in $[0, 1]$ | whether it is seen, or hidden by something |
# | confidence | in $[0, 1]$ | whether the position is within 12 px of the truth |
# | **mobility** | in $[0, 1]$ | whether the point moves in the world |
#
# This chapter takes the network apart, trains a tiny one before your eyes, and then looks at what the shipped one can and cannot do. The labels come from
# [chapter 1](01_kubric_mobility.ipynb).

# %% tags=["nbval-skip"]
import os

if "COLAB_NOTEBOOK_ID" in os.environ:  # on Colab only: fetch the package and its data
    # !git clone --quiet --depth 1 https://github.com/c4d-nb/c4d_nb /content/c4d_nb
    # !pip install --quiet -e "/content/c4d_nb[weights]"
    # %cd /content/c4d_nb/notebooks
    pass

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "jpeg"
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "pil_kwargs": {"quality": 70}}
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from c4d_nb import load_clip
from c4d_nb.clip import resize_clip
from c4d_nb.correspondence.anchoring import anchor
from c4d_nb.correspondence.dynpt import DynPT, DynPTConfig, TrackState, first_logits
from c4d_nb.correspondence.evaluation import SCORES, clip_scores
from c4d_nb.correspondence.local_correlation import best_match, cells_from_uv, local_correlation
from c4d_nb.correspondence.losses import TrackTruth, confidence_loss, mobility_loss, position_loss
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.toy import sliding_clip
from c4d_nb.correspondence.tracking import chain_flow, dynpt_tracker, track, track_by_flow
from c4d_nb.correspondence.training import TrainConfig, train
from c4d_nb.correspondence.windows import TrackWindows, clip_sources
from c4d_nb.mask_evaluation import correspondences, robust
from c4d_nb.pointmaps.inference import network_images
from c4d_nb.show import dynpt as show
from c4d_nb.show.cells import source, table
from c4d_nb.show.figures import filmstrip
from c4d_nb.show.training import loss_figure

plt.rcParams["figure.dpi"] = 80

# %% tags=["parameters"]
weights = ["dynpt", "dynpt_cnn", "dynpt_3d"]
video = "../data/movi_e.npz"

# %% [markdown]
# ## 1. Two encoders
#
# A frame becomes a map of features, one every 4 px. Two networks make them, and a 1x1 convolution mixes what they say:
#
# - a **CNN**, trained here, that tells textures apart;
# - the encoder of the pointmap network ([chapter 5a](05a_pointmaps.ipynb)), **frozen**. It was trained to say where things are in space. In the paper this is DUSt3R's; here it is our small one.

# %%
model = DynPT.from_checkpoint(weights[0])
clip = load_clip(video)
small = resize_clip(clip, model.config.long_side)
frames = network_images(small.frames)[None, :16]
with torch.inference_mode():
    parts = {name: part(frames[0, :1])[0] for name, part in model.encoder.parts.items()}
    mixed = model.encoder(frames[0, :1])[0]
show.feature_figure(small.frames[0], {"CNN": parts["cnn"], "3D-aware": parts["3d"], "mixed": mixed})

# %% [markdown]
# Similar colours are similar features. The CNN's follow texture; the 3D-aware ones change slowly over the floor and from the floor to the wall: they know where in the room a patch is, but they are coarse
# (one token for 16 px).
#
# All features have length 1, so a product of two is a cosine. A pyramid of four levels holds them at strides of 4, 8, 16 and 32 px.

# %%
with torch.inference_mode():
    pyramid = model.encode(frames)
table(
    ["level", "shape (batch, frames, rows, columns, channels)"],
    [[i, tuple(level.shape)] for i, level in enumerate(pyramid.levels)],
)

# %% [markdown]
# ## 2. Where it begins, and what the correlation sees
#
# CoTracker begins with every point where it was queried, and learns the rest from millions of examples. Our small network has a head start: the *other* correspondences. Optical flow, chained from frame to frame,
# says where each point went, and when it was lost. Flow has no memory. It drifts, and what is hidden once is lost for good.

# %%
source(chain_flow)

# %%
true = small.truth.tracks
chosen = torch.nonzero(true.query_frame < 16)[:, 0]
frame = true.query_frame[chosen]
asked = Queries(true.uv[frame, chosen], frame)
flowed, followed = chain_flow(small.frames[:16], asked)
zeros = torch.zeros(1, *followed.shape)
begin = TrackState(flowed[None], first_logits(followed)[None], zeros, zeros)

# %% [markdown]
# The network's work is to compare. Take a query that flow has led astray: the orange dot is where flow believes it to be in frame 8, the white cross where it is. On every level, the feature at the query is
# compared with those around the estimate. Nothing is compared with the whole frame: that keeps memory in bounds.

# %%
off = (flowed - true.uv[:16, chosen]).norm(dim=-1)[8]
off = off.where(true.visible[8, chosen] & (off < 10), 0.0)  # of what is seen, and not altogether lost
point = int(off.argmax())
query = (int(frame[point]), *asked.uv[point].tolist())
estimate = (8, *flowed[8, point].tolist())
target = tuple(true.uv[8, chosen[point]].tolist())
show.correlation_figure(small.frames, pyramid, query, estimate, truth=target, radius=model.config.radius)

# %% [markdown]
# Bright means alike. Fine levels are sharp, but their square is small; coarse ones reach far, and blur.
#
# What enters the network is not these pictures but the products of *all* $5 \times 5$ features around the query with *all* $5 \times 5$ around the estimate:

# %%
source(local_correlation)

# %%
with torch.inference_mode():
    features = model.query_features(pyramid, torch.tensor([[query]]))
    at_query = cells_from_uv(asked.uv[point].expand(1, 1, 16, 2), level=0)
    products = local_correlation(pyramid.levels[0], features[0], at_query, radius=model.config.radius)
tuple(products.shape)

# %% [markdown]
# *Check.* In its own frame, at its own place, the query's feature meets itself. The product is its squared length: 1, but for the interpolation between cells, which shortens it.

# %%
middle = products.shape[-1] // 2
own = features[0].shape[2] // 2
assert torch.isclose(products[0, 0, query[0], middle], features[0][0, 0, own].square().sum(), atol=1e-4)
round(float(products[0, 0, query[0], middle]), 2)

# %% [markdown]
# A hand-made shortcut helps a short training along: the best match of the query's own feature on each level, by a soft argmax. The network decides how far the estimate moves there.

# %%
source(best_match)

# %% [markdown]
# ## 3. Refine, three times
#
# Each point and frame is a **token**: the correlations, the four current answers, the displacement to the neighbouring frames. A transformer lets tokens talk along each track (time) and among the tracks of a frame
# (space). Then it updates all four answers, and the loop begins anew with correlations around the better positions.

# %%
source(DynPT.refine)

# %%
queries = torch.cat([asked.frame[:, None].float(), asked.uv], dim=1)[None]
truth = TrackTruth(
    true.uv[None, :16, chosen],
    true.visible[None, :16, chosen],
    true.mobility[None, :16, chosen] > 0.5,
    torch.ones(1, 16, len(chosen), dtype=torch.bool),
    frame[None],
)
with torch.inference_mode():
    states = [begin, *model(frames, queries, begin)]
show.passes_figure(small.frames[8], states, truth, 8)

# %% [markdown]
# In numbers, pass 0 being the flow. Positions within 12 px are those to be confident of; visibility and mobility are about what is seen and what moves.

# %% tags=["nbval-ignore-output"]
seen, since = truth.visible, torch.arange(16)[:, None] >= frame
rows = []


def balanced(logits, target):
    """The share that is right, a mean over both classes."""
    right, target = ((logits > 0) == target)[0, since].float(), target[0, since]
    return (right[target].mean() + right[~target].mean()) / 2


for number, state in enumerate(states):
    error = (state.uv - truth.uv).norm(dim=-1)[seen]
    right = balanced(state.visibility, seen), balanced(state.mobility, truth.mobile)
    rows.append(
        [
            number,
            round(float(error.median()), 2),
            round(float(error.mean()), 1),
            *(round(100 * float(r)) for r in right),
        ]
    )
table(
    ["pass", "median error (px)", "mean error (px)", "visibility right (balanced, %)", "mobility right (balanced, %)"],
    rows,
)

# %% [markdown]
# Read the columns one by one. **Mobility** is what the network adds: flow knows nothing of it (pass 0 calls everything static), and a network's word is worth more. Both columns are means over the two classes, so that half
# is what a guess is worth: static and visible points are the many. **Positions** it does not improve: flow is
# exact to a quarter of a pixel here, and a network that looks at frames this small, after so few windows, cannot better that. A long training can, as CoTracker shows; until then `track` keeps flow's position
# wherever flow still follows the point and the network agrees, and asks a third witness (section 6).
#
# *Check.*

# %%
assert balanced(states[-1].mobility, truth.mobile) > balanced(states[0].mobility, truth.mobile) + 0.1

# %% [markdown]
# ## 4. What is it trained with?
#
# Four losses, each a mean over points and frames, after every pass; later passes count more.
#
# **Position**: Huber's loss with $\delta = 6$ px for visible points, a weak pull for hidden ones. **Visibility** and **confidence**: cross-entropy; a position within 12 px of the truth is one to be confident of.
# **Mobility**: cross-entropy, the two classes weighing the same, as static points are the many.

# %%
source(mobility_loss)

# %%
source(confidence_loss)

# %% [markdown]
# *Check* by hand. One visible point, off by 3 px in $u$: $\tfrac12 (\tfrac{3^2}{2} + 0)$. Off by 10 px: $\tfrac12 \cdot 6 (10 - 3)$.

# %%
yes = torch.ones(1, 1, 1, dtype=torch.bool)
for off, expected in ((3.0, 9 / 4), (10.0, 21.0)):
    loss = position_loss(torch.tensor([[[[off, 0.0]]]]), torch.zeros(1, 1, 1, 2), visible=yes, valid=yes)
    assert float(loss) == expected

# %% [markdown]
# And what is it trained *on*? Windows of clips, cropped, mirrored, turned back in time, recoloured, with things that slide in front; in half of them positions start as an earlier window would leave them.

# %%
source(TrackWindows)

# %% [markdown]
# ## 5. Watch one learn
#
# Training DynPT takes a GPU and a day. The *principle* fits in a minute, in a world small enough: one picture slides by (that is the camera), another slides over it (that is an object). Points on
# the second are dynamic. The network cannot tell by looks: textures are random. Only by how points move, against all others.

# %%
toy = sliding_clip(100)
filmstrip(toy.frames, count=6)

# %%
folder = Path(tempfile.mkdtemp())
for number in range(40):
    sliding_clip(number).save(folder / ("train" if number < 32 else "watch") / f"{number:02d}.npz")
tiny = DynPTConfig(
    encoders=("cnn",),
    channels=16,
    cnn_widths=(8, 16, 24, 32),
    levels=3,
    correlation=(32, 24),
    width=48,
    depth=1,
    virtual=4,
    long_side=64,
    flow_start=True,
)
recipe = TrainConfig(
    network=tiny, steps=160, learning_rate=3e-3, window=12, points=32, validate_every=40, validation_windows=16
)
learner = train(clip_sources(folder / "train"), folder, config=recipe, validation=clip_sources(folder / "watch"))
f"{sum(p.numel() for p in learner.parameters()):,} values, {recipe.steps} steps"

# %% tags=["nbval-ignore-output"]
history = json.loads((folder / "losses.json").read_text())["history"]
loss_figure({name: history[name] for name in ("position", "mobility", "d_acc")})

# %% [markdown]
# Losses of single windows are noisy; `d_acc`, the share of mobilities that are right, is measured on clips that it never saw, every 40 steps. Positions
# begin with flow, which textures like these leave little to improve: what is learned here is to tell the object from the camera.
#
# *Check.* "All static" would score what the share of static points is. It does much better:

# %%
assert history["d_acc"][-1][1] > history["always_static"][-1][1] + 0.1

# %% [markdown]
# ## 6. The shipped weights
#
# They are the same network as above, trained by the same command on mini-Kubric clips shrunk to 128 px, and then to 192 px, for as long as two CPU cores could be had ([card](../data/README.md) tells how long, and with what result). Videos of any
# length are tracked in windows of 16 frames, 4 apart. Each window begins where the one before it left off; a point that is asked for in the middle is followed both ways.

# %%
source(track)

# %%
index = torch.arange(len(clip.truth.tracks.query_frame))
asked = Queries(clip.truth.tracks.uv[clip.truth.tracks.query_frame, index], clip.truth.tracks.query_frame)
tracks = track(clip, asked, model=model)
show.tracks_figure(clip, tracks)

# %% [markdown]
# Above, orange points are those the network calls dynamic; below, how sure it is that a point is where it says.
#
# ### Anchored to the query
#
# Flow loses points, and the network looks at small frames. But nobody has asked the picture itself: does the place that a track has reached *look like* the one where it began? `anchor` searches the full frame
# around it for the patch of the query, and draws the track there if the search back leads to where it began:

# %%
source(anchor)

# %%
flow_uv, flow_seen = chain_flow(clip.frames, asked)
true = clip.truth.tracks
asked_elsewhere = true.visible & (true.query_frame != torch.arange(len(clip))[:, None])
followed, lost = flow_seen & asked_elsewhere, ~flow_seen & tracks.visible & asked_elsewhere
positions = {
    "flow follows it: flow's": (flow_uv, followed),
    "flow's, anchored": (anchor(clip.frames, asked, flow_uv)[0], followed),
    "DynPT's": (tracks.uv, followed),
    "flow has lost it: flow's last": (flow_uv, lost),
    "DynPT's, anchored": (tracks.uv, lost),
}
errors = {name: (uv - true.uv).norm(dim=-1)[where] for name, (uv, where) in positions.items()}
rows = [
    [name, len(error), round(float(error.median()), 2), f"{100 * (error < 1).float().mean():.0f} %"]
    for name, error in errors.items()
]
table(["position of a visible point", "how many", "median error (px)", "within 1 px"], rows)

# %% [markdown]
# Where flow follows a point, patches have nothing to add: flow is as exact, and does not slip to what looks alike. So DynPT keeps its positions there, and anchors the others, few but precious. The patch also bears witness.
# A point is **visible** where two of three say so: flow follows it, the network sees it, its patch is found.
#
# *Check.*

# %%
assert errors["DynPT's, anchored"].median() < 0.5 * errors["flow has lost it: flow's last"].median()
assert (errors["DynPT's"] < 1).float().mean() > (errors["flow's, anchored"] < 1).float().mean()

# %% [markdown]
# ### How good is that?
#
# TAP-Vid's scores: $\delta_{avg}$, the share of visible positions within 1, 2, 4, 8 and 16 px, averaged; **OA**, how often visibility is right; **AJ**, which asks for both. And **D-ACC**, how often
# mobility is right. Beside it stands what "everything is static" would score; *balanced* is the mean over both classes; *d_acc+masks* is D-ACC after a second look, with
# motion masks at hand ([chapter 4](04_motion_masks.ipynb), section 6). On three clips, the network with both encoders, with either alone, and the flow-chained tracker whose mobility comes from epipolar residuals:

# %%
source(clip_scores)

# %% tags=["nbval-ignore-output"]
clips = {name: load_clip(f"../data/{name}.npz") for name in ("movi_e", "panning_movi_e", "movi_f")}
trackers = {name: dynpt_tracker(DynPT.from_checkpoint(name)) for name in weights}
trackers["flow-chained"] = track_by_flow
masks = {name: robust(correspondences(clip)) for name, clip in clips.items()}
scores = {
    (clip, name): clip_scores(clips[clip], tracker, masks[clip]) for clip in clips for name, tracker in trackers.items()
}
table(["clip", "tracker", *SCORES], [[*who, *(round(row[name]) for name in SCORES)] for who, row in scores.items()])

# %% [markdown]
# These three clips are examples, not a measurement; held-out clips are scored by `make tracker-scores`, whose table is in the [README](../README.md). There, mobility is eight to ten points better than
# the flow-chained tracker's on MOVi-E, four to seven better on MOVi-F and on panning clips; two encoders are no better than the CNN alone. With masks at hand all are better, and nearer to each other. AJ is within a point of flow's, whose positions these are. (On the three clips here,
# mobility is ahead on the first two and level on the third; with masks at hand chained flow is as good as the network, or better.)
#
# ## 7. Where does it fail?

# %%
show.error_figure(clip, tracks, clip.truth.tracks)

# %% [markdown]
# - **Positions drift.** The error grows with the distance from the query (right): flow adds up what it errs from frame to frame, and a surface that has turned or come closer does not look like its patch any more, and nothing holds it; twice as fast on what moves as on what rests.
# - **Mobility errs in patches** (circles): among the objects in the middle, where much moves behind and beside each other, and at the borders of the image.
# - **What is hidden stays lost.** The network may call a point visible again, but seldom finds where it came out.
#
# Our small network also hears what the camera's geometry says (`epipolar_motion`): the points that the pass before called static determine fundamental matrices over 1, 4 and 8 frames, and every
# point is told how far its way is from them. The paper's network has to find that out for itself; with a thousand windows ours could not.
#
# What would help is known: more windows. The paper's network saw 270 times as many. `python -m c4d_nb.correspondence.training --help` shows how to go on, on a GPU.
#
# ## Exercises
#
# 1. **What does the 3D-aware encoder buy?** Compare the mobility of `dynpt` and `dynpt_cnn` clip by clip. Is the difference larger than that between two clips?
# 2. **Static or slow?** Plot mobility against how far a point moves in the world in a frame ([chapter 1](01_kubric_mobility.ipynb)). Where is the network's own threshold?
# 3. **Longer windows.** `track(..., window=24, stride=12)`: what changes, and what does it cost?
#
# Next: [which points to ask for](03_grid_query_sampling.ipynb).
