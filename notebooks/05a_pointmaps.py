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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/c4d-nb/c4d_nb/blob/main/notebooks/05a_pointmaps.ipynb)
#
# # Pointmaps: what a network says of two images
#
# C4D upgrades a **3D** reconstruction to 4D. The 3D comes from a network, DUSt3R, that takes two images and answers with two
# **pointmaps**: for every pixel of either image, a point in space. Camera, depth and focal length all follow from them.
#
# This chapter shows what a pointmap is, by exact truth; what a small network of our own says; how it learns to know when it
# is wrong; and how it fails on what moves. That last failure is what the rest of the book repairs.
#
# Equations are those of [DUSt3R](https://arxiv.org/abs/2312.14132) (CVPR 2024).

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
import matplotlib.pyplot as plt
import plotly.io as pio
import torch

from c4d_nb import load_clip
from c4d_nb.alignment.initialise import estimate_focal
from c4d_nb.camera import fit_similarity, invert, pixel_grid, project, transform
from c4d_nb.clip import resize_clip
from c4d_nb.kubric.takes import static_takes
from c4d_nb.kubric.truth import points_at_time
from c4d_nb.pointmaps.dust3r import DUSt3R, Pointmaps
from c4d_nb.pointmaps.inference import encode_frames, network_images, predict_pointmaps
from c4d_nb.pointmaps.losses import ALPHA, confidence_loss, regression_error, relative_point_error
from c4d_nb.pointmaps.pairs import Pairs, true_pairs
from c4d_nb.show import pointmaps as show
from c4d_nb.show.cells import source, table
from c4d_nb.show.figures import score_text

plt.rcParams["figure.dpi"] = 80
pio.renderers.default = "plotly_mimetype+notebook_connected"

# %% tags=["parameters"]
video = "../data/movi_e.npz"
weights = "small"  # or a name or path of published weights: the docstring of c4d_nb.checkpoints tells how
seed = 103
px = 192  # side of the images: what the small network was trained on

# %% [markdown]
# ## 1. What is a pointmap?
#
# A pointmap $X$ gives each pixel the 3D point that it sees. In whose coordinates? A depth map $D$ with intrinsics $K$ makes one
# in the camera's own: $X(u, v) = K^{-1}\,[u\,D,\; v\,D,\; D]^\top$. DUSt3R's $X^{n,m}$, the points of image $n$ in the frame
# of camera $m$, comes from there by the cameras' poses $P$, which map the world to a camera (its equation 1):
#
# $$ X^{n,m} = P_m\, P_n^{-1}\, h\big(X^{n}\big) $$
#
# The network takes images 1 and 2 and says $X^{1,1}$ and $X^{2,1}$: **both images' points in the frame of camera 1**. That is the trick. Whoever can say where the points
# of image 2 are as seen from camera 1 knows how the second camera stands to the first, without ever speaking of poses.
#
# Here is the truth of a pair, as the network is trained on it:

# %%
source(true_pairs)

# %% [markdown]
# The scene is one of mini-Kubric's **static** ones, from a seed that training never saw. Nothing in it moves but the camera.

# %%
clip = static_takes(seed, subset="validation", takes=1, frames=4, size=px)[0]
pair = true_pairs(clip, 0, 3)
table(["field", "shape"], [[f"`{name}`", tuple(value.shape)] for name, value in pair._asdict().items()])

# %%
show.pair_figure(pair)

# %% [markdown]
# Look at the last column. The same thing has the same colour in both rows, because its three coordinates are the same:
# a pointmap in a common frame says which pixels see the same point. For image 1, its own camera *is* camera 1; for image 2 the second and third column differ a little.
#
# In space the two clouds lie in each other. Drag to turn; click in the legend to hide one.

# %%
show.pair_in_space(pair, max_points=8_000)

# %% [markdown]
# The same for the printed page, from above. The third picture is the sum of the first two, image 1 in blue and image 2 in
# orange: where both see the floor, they agree about it.

# %%
up = clip.truth.world_from_cam[0, 2, :3]  # the world's z axis, in camera 1's frame
show.pair_from_above(pair, up)

# %% [markdown]
# *Check.* If $X^{2,1}$ holds the second camera, one can get it back: take its points to camera 2 and project them. Each must land on its own pixel.

# %%
xyz_cam_2 = transform(pair.cam_2_from_cam_1, pair.xyz_2.flatten(0, 1))
uv, _ = project(xyz_cam_2, clip.truth.intrinsics[3])
assert torch.allclose(uv.reshape(px, px, 2), pixel_grid(px, px), atol=1e-2)

# %% [markdown]
# ## 2. What does a small network say?
#
# DUSt3R's network cuts each image into patches, **encodes** them image by image, and then lets two **decoders** look at each
# other's tokens. The published one has 578 M values. Ours has the same parts, in
# [`dust3r.py`](../c4d_nb/pointmaps/dust3r.py), and 4 M values; it saw 310,000 pairs of static mini-Kubric scenes, more than half of them of 128 by 128 px, the rest of 192 by 192.

# %%
model = DUSt3R.from_checkpoint(weights)
source(DUSt3R.forward)

# %%
with torch.inference_mode():
    found = model(pair.images_1[None], pair.images_2[None])
show.prediction_figure(found, pair)

# %% [markdown]
# Two images cannot tell how *large* a scene is, so the network's unit of length is its own. Before we compare, one factor brings its points to metres: the median
# of $\lvert X \rvert / \lvert \hat X \rvert$.
#
# Be honest about what there is to see. This network has learned the **room**: where the floor is, how it recedes, and from where each camera looks at it. Of bodies it
# knows that they stand out from the floor, and about by how much; but the large ball is a heap of tiles, for every patch of 16 px comes out nearly flat. That is what 4 M values and five hours on a CPU buy; the published weights
# see the ball. Nor does it know well how the camera moved between the images: see exercise 2.
#
# The score is the median of the relative error over both images' pixels:

# %%
source(relative_point_error)


# %%
def score(found: Pointmaps, pair: Pairs) -> float:
    truth = (x[None] for x in (pair.xyz_1, pair.xyz_2, pair.valid_1, pair.valid_2))
    return float(relative_point_error(found.xyz_1.float(), found.xyz_2.float(), *truth))


# %% [markdown]
# *Check.* How good is that? Compare it with an answer that knows nothing: every pixel at the same depth, and a camera that stands still. The
# network must be much better than that. (`make pointmap-scores` makes this comparison over many clips, and with two-view geometry.)

# %%
flat = pair.xyz_1 / pair.xyz_1[..., 2:]
nothing = Pointmaps(flat[None], torch.ones(1, px, px), flat[None], torch.ones(1, px, px))
scores = {"network": score(found, pair), "constant depth": score(nothing, pair)}
print(score_text(scores))
assert scores["network"] < 0.15
assert scores["network"] < 0.7 * scores["constant depth"]

# %% [markdown]
# ### Encode once
#
# A clip of $T$ frames has many pairs, each frame in a dozen of them. The encoder looks at one image only, so each frame's tokens can be kept, and only
# the decoder runs for every pair. (The published code encodes both images of every pair anew.)

# %%
source(predict_pointmaps)

# %% [markdown]
# *Check.* Decoding kept tokens is the same as the whole network. All twelve ordered pairs of the four frames, of which ours is one:

# %%
with torch.inference_mode():
    tokens = encode_frames(model, clip.frames)
    cached = model.decode(tokens[[0]], tokens[[3]], clip.size)
assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(cached, found, strict=True))

# %%
edges = torch.tensor([(n, m) for n in range(4) for m in range(4) if n != m])
every = predict_pointmaps(model, clip.frames, edges)
ours = edges.tolist().index([0, 3])
assert torch.allclose(every.xyz_2[ours].float(), found.xyz_2[0], rtol=1e-2, atol=1e-2)  # stored in half precision
f"{len(edges)} pairs, {len(clip)} frames encoded"

# %% [markdown]
# ## 3. How does it learn to doubt itself?
#
# The error of a pixel is the distance between prediction and truth, each in a unit of its own: $z$ and $\hat z$ are the mean distances of a pair's points to
# the origin (equations 2 and 3), which makes the loss blind to scale.
#
# $$ \ell = \Big\lVert \tfrac{1}{\hat z} \hat X - \tfrac{1}{z} X \Big\rVert $$
#
# Then every pixel may say how much its error should count, by a confidence $C > 1$ (equation 4), and is rewarded for saying much:
#
# $$ \mathcal{L} = \sum_{\text{pixels}} C\, \ell - \alpha \log C, \qquad \alpha = 0.2 $$

# %%
source(confidence_loss)

# %% [markdown]
# Why is that honest? The derivative is $\ell - \alpha / C$: the loss is least at $C = \alpha / \ell$, or at 1 if that is below 1. Whoever errs little
# gains by confidence, whoever errs much pays for it. Here the library's loss for one pixel, over $C$, for three errors:

# %%
confidence = torch.linspace(1, 6, 501)
one, yes = torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
losses = {
    error: torch.stack([confidence_loss(error * one, error * one, c * one, c * one, yes, yes) for c in confidence])
    for error in (0.05, 0.1, 0.3)
}

# %% [markdown]
# *Check.* Each curve's lowest point is where it should be:

# %%
for error, loss in losses.items():
    assert abs(float(confidence[loss.argmin()]) - max(ALPHA / error, 1)) < 0.02

# %% [markdown]
# And does the network do it? On the right its own pixels, in tenths from the least confident to the most, against the dashed line $\ell = \alpha / C$ of one that
# knows itself perfectly:

# %%
truth = [x[None] for x in (pair.xyz_1, pair.xyz_2, pair.valid_1, pair.valid_2)]
errors = torch.cat(regression_error(found.xyz_1, found.xyz_2, *truth)).flatten()
said = torch.cat([found.conf_1, found.conf_2]).flatten()
show.confidence_figure(confidence, losses, said, errors, alpha=ALPHA)

# %% [markdown]
# It is no perfect judge of itself: dots above the line are too sure of themselves, dots below it too shy. But what it trusts most is much better than what it trusts least. It was never told what
# confidence is; the loss alone made it so. The global alignment will weigh every point by it.

# %%
by_confidence = said.argsort().chunk(10)
least, most = (float(errors[part].median()) for part in (by_confidence[0], by_confidence[-1]))
print(score_text({"error where least confident": least, "error where most confident": most}))
assert least > 1.5 * most

# %% [markdown]
# ## 4. What is the focal length?
#
# A pointmap in its own camera's frame is a bundle of rays with a scale for each, so it says what the camera's focal length was. With the principal point in the middle
# and pixels $p$ counted from there (DUSt3R, section 3.3):
#
# $$ \hat f = \arg\min_f \sum_{p} C_p \Big\lVert p - f\, \tfrac{(x_p,\, y_p)}{z_p} \Big\rVert $$
#
# A norm without a square, so that wrong points cannot pull far. Weiszfeld's method turns it into a few least-squares fits, each weighted by the inverse residual of the last:

# %%
source(estimate_focal)

# %% [markdown]
# *Check.* From true pointmaps, the true focal length, exactly:

# %%
true_px = float(clip.truth.intrinsics[0, 0, 0])
by_truth = float(estimate_focal(pair.xyz_1[None], torch.ones(1, px, px)))
assert abs(by_truth - true_px) < 0.01
f"true {true_px:.1f} px, from the true pointmap {by_truth:.1f} px"

# %% [markdown]
# From the network's:

# %%
by_network = float(estimate_focal(found.xyz_1, found.conf_1))
print(score_text({"off by (%)": 100 * abs(by_network / true_px - 1)}))
assert abs(by_network / true_px - 1) < 0.1

# %% [markdown]
# Very near. But beware: all its training videos had **the same lens**, as MOVi has. Did it measure the focal length, or remember it? Render the scene with twice as
# many pixels and keep the middle quarter: the image is again as wide, and its true focal length twice as long.

# %%
large = static_takes(seed, subset="validation", takes=1, frames=4, size=2 * px)[0].frames[
    :, px // 2 : -px // 2, px // 2 : -px // 2
]
zoomed = network_images(large)
with torch.inference_mode():
    found_zoomed = model(zoomed[[0]], zoomed[[3]])
by_zoomed = float(estimate_focal(found_zoomed.xyz_1, found_zoomed.conf_1))
print(score_text({"share of the true focal length": by_zoomed / (2 * true_px)}))

# %%
focals = torch.linspace(0.5, 2.5, 261) * px
named = {"true pointmap": (pair.xyz_1, torch.ones(px, px)), "network": (found.xyz_1[0], found.conf_1[0])}
named["network, zoomed image"] = (found_zoomed.xyz_1[0], found_zoomed.conf_1[0])
residuals = {name: show.focal_residuals(*maps, focals) for name, maps in named.items()}
estimates = dict(zip(named, (by_truth, by_network, by_zoomed), strict=True))
show.focal_figure(focals, residuals, estimates, {"truth": true_px, "truth, zoomed image": 2 * true_px})

# %% [markdown]
# It remembered. On the zoomed images, where the truth is at 420 px, the small network says what it always says. DUSt3R's published weights saw
# thousands of lenses and do better; ours are made for videos like the ones they were trained on. A number that comes out right is no proof that it was measured.
#
# ## 5. Where does a static model fail?
#
# Now something moves. In the shipped clip a box falls; at first it is high in the air. What the network is **asked for** is clear even then: the points of image 2 where they
# were when *image 2* was taken, in the frame of camera 1. `true_pairs` computes just that, from depth and poses.

# %%
movie = resize_clip(load_clip(video), px)
n, m = 0, 4
moving = true_pairs(movie, n, m)
moves_1, moves_2 = movie.truth.motion_mask[[n, m]]
rests = (~moves_1, ~moves_2)

# %%
with torch.inference_mode():
    moving_found = model(moving.images_1[None], moving.images_2[None])
show.prediction_figure(moving_found, moving, rests)

# %% [markdown]
# Movers are outlined in white. The box is at 10 m, in front of a wall at 25 m. The network sees that there is something, and sets half of it at 11 to 15 m, the rest farther, its upper corner on the wall. In the static scenes of its training hardly anything was ever in the air.
# The wall is two fifths too far as well: the camera looks along the floor from little more than a metre above it, and from there a small angle is many metres. The network does say that it does not know: above the floor its confidence is next to nothing.
#
# In numbers, for the pixels of image 2. The scale of the pair comes from what rests.

# %%
error_2 = show.relative_errors(moving_found, moving, rests)[1]
segments = movie.truth.segmentation[m]
groups = {"floor and walls": segments == 0, "objects at rest": ~moves_2 & (segments > 0), "movers": moves_2}
show.error_bars({name: error_2[group] for name, group in groups.items()})

# %%
medians = {name: float(error_2[group].nanmedian()) for name, group in groups.items()}
print(score_text(medians))
assert medians["movers"] > 1.5 * medians["objects at rest"]

# %% [markdown]
# The middle bar is the measure to compare with: things are hard for this network even if they rest. And is it *motion* that makes movers twice as hard?
# A pair of frame 4 with itself has none at all, and no parallax either. If motion between the frames is to blame, the movers must now be no worse than other objects:

# %%
same = true_pairs(movie, m, m)
with torch.inference_mode():
    same_found = model(same.images_1[None], same.images_2[None])
error_same = show.relative_errors(same_found, same, (rests[1], rests[1]))[1]
alone = {name: float(error_same[groups[name]].nanmedian()) for name in ("objects at rest", "movers")}
print(score_text({f"{name}, frame 4 with itself": value for name, value in alone.items()}))
assert alone["movers"] < 1.2 * alone["objects at rest"]
assert medians["objects at rest"] < 0.8 * alone["objects at rest"]
assert medians["movers"] > 1.1 * alone["movers"]

# %% [markdown]
# They are not. Compare the two pairs: **a second image helps with what rests, and harms what moves**. Parallax takes two fifths off the error of the objects at rest. What moved between the images has no consistent
# parallax, and a network that compares them, this one a little and the published one much more, is led astray by it. (The floor and the walls are no fair comparison here: the far wall is wrong for another reason.)
#
# ### Why pairs cannot be aligned there
#
# Suppose the network were perfect. The alignment will look for one rigid camera motion between the frames, and with it for **one** place of each point. For what rests there is one. For a mover there
# are two: where its points are in image 2, and where *the same points* were in image 1. The scene knows both.

# %%
source(points_at_time)

# %%
world = points_at_time(movie.truth, frame=m, time=n)
then_2 = transform(invert(movie.truth.world_from_cam[n]), world.flatten(0, 1)).reshape(px, px, 3)
gap = (then_2 - moving.xyz_2).norm(dim=-1)
print(
    score_text({"gap at rest (m)": float(gap[~moves_2].max()), "gap of movers, largest (m)": float(gap[moves_2].max())})
)
assert gap[~moves_2].max() < 1e-3
assert gap[moves_2].max() > 0.5

# %% [markdown]
# From the side, with the true poses, so that all that rests lies in place. No rigid motion that keeps the floor brings the box of one image onto that of the other. Crosses
# are what the network said of the movers: farther than they are, and strewn along the line of sight to the wall and beyond.

# %%
up = movie.truth.world_from_cam[n, 2, :3]
guess = show.scale_to_truth(moving_found, moving, rests) * moving_found.xyz_2[0]
show.two_times_figure(moving, then_2, moves_2, up, others=[("movers, by the network", guess)])

# %% [markdown]
# And a camera that trusted the mover? Take the matched points of the two frames, exact as they are, and fit the rigid motion from camera 2 to camera 1, once to what rests and once to the box:

# %%
own = transform(moving.cam_2_from_cam_1, moving.xyz_2.flatten(0, 1)).reshape(px, px, 3)
true_motion = invert(moving.cam_2_from_cam_1)
box = moves_2 & (gap > 0.5)
displaced = {}
for name, chosen in {"by what rests": ~moves_2, "by the box": box}.items():
    _, _, translation = fit_similarity(own[chosen], then_2[chosen])
    displaced[name] = float((translation - true_motion[:3, 3]).norm())

# %%
print(score_text({f"camera 2 {name}, off by (m)": metres for name, metres in displaced.items()}))
assert displaced["by what rests"] < 0.01
assert displaced["by the box"] > 0.3

# %% [markdown]
# So the alignment must be told which pixels to leave out when it looks for the cameras. That is the **motion mask**, and to find it C4D brings in what pointmaps lack:
# correspondences. What the movers did meanwhile, the point tracks will say.
#
# ## Exercises
#
# 1. **How far apart?** Score all twelve pairs of `every` against `true_pairs`. Does the error grow with the distance between the cameras? In which of the two images is it larger, and why?
# 2. **Turn the network's own pointmaps into a pose.** `true_pairs(clip, 0, 3).reversed()` is the pair (3, 0). Its prediction and that of (0, 3) both hold the points of frame 3, in two frames:
#    `fit_similarity` finds the camera motion between them. How far is it from the truth, and how far would "the camera stood still" be? What does that say about how the small network comes to its answer?
# 3. **Back on the floor.** Repeat section 5 for later pairs, such as (6, 15) and (20, 23), when the box lies on the others. Are movers still worse than what rests, and is it motion?
#
# Next: [two-stage optimisation](05_two_stage_optimization.ipynb), which makes one scene of all pairs.
