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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/c4d-nb/c4d_nb/blob/main/notebooks/08_your_own_video.ipynb)
#
# # Your own video
#
# The other chapters know the truth. Your video has none. This one is a workbench: your video in, 4D out, into the tools that you use; what to look at before you believe it; and what to do when it fails.
#
# As it stands it runs on 16 frames of a shipped clip, written as an ordinary `.mp4` and read back, so that all of it can be checked. Below, set `video` to the path of yours, or run it on Colab and choose a file.
#
# **What makes a good video:** the camera *moves sideways* while it looks, as if walking past, and does not only turn; most of the picture stands still and has texture; no cuts; little blur; a second or two to begin with.

# %% tags=["nbval-skip"]
import os

if "COLAB_NOTEBOOK_ID" in os.environ:  # on Colab only: fetch the package and its data
    # !git clone --quiet --depth 1 https://github.com/c4d-nb/c4d_nb /content/c4d_nb
    # !pip install --quiet -e "/content/c4d_nb[weights,export]"
    # %cd /content/c4d_nb/notebooks
    pass

# %%
# %matplotlib inline
# %config InlineBackend.figure_format = "jpeg"
# %config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "pil_kwargs": {"quality": 65}}
import logging
import sys
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import plotly.io as pio
import torch
import torch.nn.functional as F
from IPython.display import Markdown

from c4d_nb import load_clip
from c4d_nb.checkpoints import PUBLISHED
from c4d_nb.clip import kept_frames, select_frames
from c4d_nb.command_line import parse_intrinsics
from c4d_nb.correspondence.cotracker import cotracker, load_cotracker
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.tracking import chain_flow
from c4d_nb.export import export
from c4d_nb.hand_masks import polygon_masks
from c4d_nb.inspection import video_signs
from c4d_nb.kubric.generate import generate_clip
from c4d_nb.metrics import score_table
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.reconstruct import ReconstructConfig, reconstruct
from c4d_nb.show import figures, scene
from c4d_nb.show import own_video as show
from c4d_nb.show.cells import source, table
from c4d_nb.show.kubric import image_grid
from c4d_nb.show.viewer import write_viewer
from c4d_nb.show.widgets import slice_explorer
from c4d_nb.video import read_frames

plt.rcParams["figure.dpi"] = 72
pio.renderers.default = "plotly_mimetype+notebook_connected"
logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)  # warnings belong to the page

# %% tags=["parameters"]
video = ""  # a path: a video file, a folder of images, a clip archive. Empty: an upload on Colab, the shipped clip elsewhere
start, stride, max_frames = 0, 1, 16  # begin small; more once it works
long_side = 192  # px; 256 to 384 is finer, and takes longer
intrinsics = ""  # if known: "fx,fy,cx,cy" in pixels of the original video, or a file with a 3x3 matrix
accept_non_commercial = False  # True: on a GPU, published weights, which are downloaded (2 GB, CC BY-NC-SA 4.0)
published = "monst3r_512_dpt"
use_cotracker = False  # True: on a GPU, CoTracker3 as the tracker, which is downloaded (CC BY-NC 4.0)
out = "../out/own_video"

# %% [markdown]
# ## 1. The video comes in

# %%
shipped = "../data/movi_e.npz"
path = show.choose_video(video, shipped=shipped, folder=mkdtemp())
selection = {"start": start, "stride": stride, "max_frames": max_frames}
clip = load_clip(path, long_side=long_side, **selection)
original = f"{clip.original.original_width}x{clip.original.original_height}"
f"{len(clip)} frames of {clip.size[1]}x{clip.size[0]} px at {clip.fps:g} frames a second, from a video of {original} px"

# %%
figures.filmstrip(clip.frames)

# %% [markdown]
# Only now, for the shipped clip, the truth about it: to check by, never shown to the pipeline.

# %%
is_shipped = path.stem == "movi_e"
truth = load_clip(shipped, long_side=long_side, **selection).truth if is_shipped else None

# %% [markdown]
# ### Look before you compute
#
# Two things ruin a reconstruction and can be seen at once. At a **cut**, pixels no longer find their match in the next frame. A **blurred** frame is less sharp than those around it. Dashed lines are where we begin to worry.

# %%
signs = video_signs(clip.frames)
show.video_figure(signs)

# %%
{"cuts before frames": signs.cuts, "blurred frames": signs.blurred}

# %% [markdown]
# ## 2. Weights: ours, or published ones
#
# Most depth is **measured**, by triangulation. A pointmap network tells the rest, and has a say in what is measured: as much as it has earned where both can be compared. Ours is small, ships with this package, and runs anywhere. Published ones know far more of the world; they want a GPU, a download, and your consent to their licence:

# %%
rows = [["small", "this package", "Apache-2.0"]]
table(["name", "from", "licence"], rows + [[name, hub, "CC BY-NC-SA 4.0"] for name, hub in PUBLISHED.items()])

# %%
on_gpu = torch.cuda.is_available()
weights = published if on_gpu and accept_non_commercial else "small"
device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
network = DUSt3R.from_checkpoint(weights, device=device, dtype=dtype)
f"{weights}: {sum(p.numel() for p in network.parameters()) / 1e6:.1f} million parameters"

# %% [markdown]
# Without a network to download by, fetch `model.safetensors` from the hub elsewhere and give the path of its folder as `published`.
#
# ## 3. Reconstruct

# %%
result = reconstruct(clip, network=network)
figures.overview(result, frames=4)

# %% [markdown]
# ## 4. Which of it to believe
#
# Never look at depth alone. `result.confidence` says how each pixel's depth was found: **1 is a guess**, above 2 it was measured, at 4 it is known to three standard deviations. What moves (orange outline) has no parallax of its own and is always a guess. The lower row is for the whole video: a frame with little
# measured depth or few static tracks is a frame to doubt.

# %%
show.trust_figure(result)

# %% [markdown]
# **Masks.** Is everything tinted that moves, and nothing else? Trackers and exports believe them, so mistakes are worth mending (section 6).

# %%
figures.mask_strip(replace(result, clip=replace(clip, truth=truth)))

# %% [markdown]
# (With truth, its outline is white.) **The camera.** A hand or a tripod draws a smooth path. A jump in it is a frame to look at, and often a cut. **Flicker** shows in a y-t slice as vertical stripes; drag the column.

# %%
scene.path_figure(result)

# %%
figures.camera_path(replace(result, clip=replace(clip, truth=truth)))

# %%
slice_explorer(result)

# %%
figures.time_slice(result)

# %% [markdown]
# ## 5. You know your camera
#
# The focal length is the hardest number to get from a video: a longer lens and a flatter scene look alike. If you know it, say it. From a phone's "35 mm equivalent" $f_{35}$ (in the metadata of a photo), $f = f_{35}\, d / 43.3$ with $d$ the diagonal of the *whole* sensor's image in px; video is often a crop of it. A
# calibration by chessboard is better.
#
# `intrinsics` are those of the **original** pixels, whatever `long_side` is. They are then kept fixed.

# %%
if intrinsics:
    K = parse_intrinsics(intrinsics)
else:
    K = clip.original.intrinsics_to_original(result.intrinsics[0] if truth is None else truth.intrinsics[0].float())
known_clip = load_clip(path, long_side=long_side, intrinsics=K, **selection)
known = reconstruct(known_clip, network=network)
K

# %% tags=["nbval-ignore-output"]
rows = [["unknown", float(result.intrinsics[0, 0, 0])], ["known", float(known.intrinsics[0, 0, 0])]]
table(["camera", "focal length (px of the clip)"], [[name, round(value, 1)] for name, value in rows])

# %% [markdown]
# *Check*, against the truth of the shipped clip:

# %% tags=["nbval-ignore-output"]
SCORES = ("focal error (%)", "ATE (% of path)", "RPE rotation (deg)", "depth AbsRel, static pixels", "motion mask IoU")


def against_truth(results: dict, truth=truth, digits: int = 3):
    """A table of a few scores, or nothing where there is no truth."""
    if truth is not None:
        scores = {name: score_table(found, truth) for name, found in results.items()}
        rows = [[name, *(round(score[key], digits) for key in SCORES)] for name, score in scores.items()]
        return table(["", *SCORES], rows)


against_truth({"camera unknown": result, "camera known": known})

# %% [markdown]
# With so few frames the focal length is found too long, by a twelfth, and depth behind it is stretched. Knowing it takes a third off the error of depth. The camera's path hardly cares.

# %%
if not intrinsics and truth is not None:
    assert torch.allclose(known.intrinsics, truth.intrinsics.float(), rtol=1e-3)

# %% [markdown]
# ## 6. Your own masks
#
# A mask is a `bool` tensor of frames x height x width, True where it moves, of any source: a segmentation network, a paint program, a threshold. From a folder of images, white on black:
#
# ```python
# masks = load_clip("masks/", **selection).frames.amax(dim=-1) > 127
# masks = resize_nearest(masks, *clip.size)  # c4d_nb.resize
# ```
#
# **By threshold**, if what moves has a colour of its own. The box has bright green spots; grown by 8 px they cover it:

# %%
spots = (clip.frames.float() - torch.tensor([90.0, 220.0, 40.0])).norm(dim=-1) < 60
grown = F.max_pool2d(spots[:, None].float(), 17, stride=1, padding=8)[:, 0] > 0
figures.mask_strip(replace(result, motion_mask=grown))

# %% [markdown]
# **By hand**: an outline in a few frames; in between its corners move evenly.

# %%
source(polygon_masks)

# %%
box = {
    0: [(80, 3), (106, 38), (80, 60), (53, 33)],
    6: [(63, 32), (87, 55), (66, 79), (43, 55)],
    9: [(62, 30), (83, 52), (62, 74), (40, 52)],
    15: [(62, 32), (86, 53), (62, 75), (40, 52)],
}
below = {0: [(24, 61), (81, 61), (83, 90), (24, 90)], 15: [(33, 51), (86, 51), (85, 85), (33, 85)]}

# %%
drawn_for = is_shipped and (start, stride, len(clip), long_side) == (0, 1, 16, 192)
outlines = (box, below) if drawn_for else ()  # yours go here, in px of the clip
own = torch.zeros_like(result.motion_mask) if outlines else result.motion_mask
for corners in outlines:
    own = own | polygon_masks(corners, frames=len(clip), size=clip.size)

# %%
replaced = reconstruct(clip, network=network, masks=own)
combined = reconstruct(clip, ReconstructConfig(own_masks="combine"), network=network, masks=own)
best = reconstruct(known_clip, network=network, masks=own)
figures.mask_strip(replace(best, clip=replace(clip, truth=truth)))

# %% [markdown]
# `replace`, the default, takes your masks as they are. `combine` adds them to those that are found: for a mover that was missed, outlined roughly, where the rest is good.

# %% tags=["nbval-ignore-output"]
against_truth({"found": result, "yours": replaced, "both": combined, "yours, camera known": best})

# %% [markdown]
# The masks that were found have most of the box, and miss the table and the capsule that it falls on, which rest at first. Yours, roughly drawn, have these too, and depth is none the better for it: what hardly moves pulls at little. What helps it is the camera that is known: the last row
# has both, and is no better than that alone.
#
# On a GPU, `c4d_nb.sam2.refine_masks(clip.frames, result.motion_mask)` sharpens masks with SAM 2 (Apache-2.0, downloaded on request); give its answer as `masks`.
#
# ## 7. Take it with you
#
# Each export is read back, by the tool that it is for where that is installed, and its points are projected by its cameras: unless all land within a thousandth of a pixel of where they came from, nothing is written. Cameras are those of the **original** pixels, and so are the images.

# %% tags=["nbval-ignore-output"]
formats, folder = show.available_formats(), Path(out) / "exports"
rmtree(folder, ignore_errors=True)  # frames of an earlier, longer video would stay among these
written = export(best, folder, formats, originals=lambda: kept_frames(read_frames(path)[0], *selection.values()))
table(show.EXPORTS, show.export_rows(formats, written))

# %% [markdown]
# `colmap` opens in COLMAP and feeds most Gaussian splatting codes; `nerfstudio` trains with `ns-train`, its masks leave out what moves; `.ply` opens in MeshLab, Blender and CloudCompare; `.glb` in any browser's viewer; `trajectory.txt` in `evo`; `arrays.npz` in plain NumPy, without this package. COLMAP's needs
# `pycolmap` and GLB's `trimesh`: `pip install "c4d_nb[export]"`. On the command line: `python -m c4d_nb VIDEO --out DIR --export colmap,ply`.
#
# Everything at once, to go on with later, and the viewer: one HTML file with a time slider, to send to a friend.

# %%
best.save(f"{out}/reconstruction.npz")
page = write_viewer(best, f"{out}/viewer.html", title="my video")
Markdown(f"[{page.name}]({page})")

# %% [markdown]
# In the notebook, 3,000 points of it (30,000 at most):

# %%
scene.scene_figure(best, max_points=3_000)

# %%
scene.scene_from_above(best)

# %% [markdown]
# On Colab, `from google.colab import files; files.download("../out/own_video/viewer.html")` brings a file home.
#
# ## 8. When it refuses
#
# What cannot be reconstructed is refused in one sentence: what was expected, and what came. Here is each of them, on purpose.

# %%
few = select_frames(clip, max_frames=4)
gray, still = torch.full_like(few.frames, 128), few.frames[:1].expand(4, -1, -1, -1)
attempts = {
    "a photo, or two": lambda: reconstruct(select_frames(clip, max_frames=2)),
    "a stamp": lambda: reconstruct(replace(few, frames=few.frames[:, :24, :24])),
    "a wall of one colour": lambda: reconstruct(replace(few, frames=gray)),
    "a tripod before a still life": lambda: reconstruct(replace(few, frames=still)),
    "masks of other pixels": lambda: reconstruct(few, masks=torch.zeros(4, 10, 10, dtype=torch.bool)),
    "a camera without a lens": lambda: reconstruct(replace(few, intrinsics=torch.zeros(4, 3, 3))),
    "a path with a typo": lambda: load_clip("holyday.mp4"),
    "no video at all": lambda: load_clip("../LICENSE"),
}

# %% tags=["nbval-ignore-output"]
table(["you give", "it says"], [[name, show.refusal(attempt)] for name, attempt in attempts.items()])

# %% [markdown]
# | it says | what to do |
# |---|---|
# | at least 3 frames | more frames, a smaller `stride` |
# | at least 32 px a side | a larger `long_side` |
# | textured frames | more light; something with a pattern in the picture |
# | a camera or a scene that moves | a larger `stride`: neighbours are too much alike |
# | masks, intrinsics | masks in px of the *clip*; K in px of the *original* video |
# | path | the name; or the file is damaged: `ffmpeg -i IN OUT.mp4` makes it anew |
#
# ## 9. When it fails without a word
#
# Worse are failures that look like results. We make five, small ones, and a good clip beside them:

# %%
good = replace(load_clip(shipped, long_side=128, start=6, max_frames=12), truth=None)
other = load_clip("../data/panning_movi_e.npz", long_side=128, max_frames=6)
shaken = good.frames.float()
shaken[4:7] = torch.stack([shaken[4:7].roll(shift, dims=2) for shift in range(-6, 7)]).mean(dim=0)
spoilt = {
    "good": good,
    "a cut": replace(good, frames=torch.cat([good.frames[:6], other.frames])),
    "blur": replace(good, frames=shaken.round().to(torch.uint8)),
}

# %%
small = {"split": "movi_e", "size": 128, "frames": 12, "samples": 2, "n_tracks": 16}
cases = {
    "the camera only turns": "pure_rotation",
    "the camera stands": "still_camera",
    "nearly all moves": "large_mover",
}
made = {name: generate_clip(5, case=case, **small) for name, case in cases.items()}
spoilt |= {name: replace(found, truth=None, intrinsics=None) for name, found in made.items()}
image_grid({"frame 6": torch.stack([found.frames[6] for found in spoilt.values()])}, list(spoilt))

# %% tags=["nbval-ignore-output"]
failures = {name: reconstruct(found, network=network) for name, found in spoilt.items()}
table(show.SIGNS, show.sign_rows(failures))

# %% [markdown]
# | you see | it is | what to do |
# |---|---|---|
# | hardly a match at one step | a **cut** | each shot by itself: `start` and `max_frames` |
# | a frame less sharp than those around it | **blur** | more light, a short exposure; or leave such frames out, in a folder of images |
# | nothing measured | the **camera only turns, or stands**: no parallax, all depth is a guess: the network's, before cameras that turn exactly. Masks, tracks and rotations are still good | walk sideways; or published weights, which have seen more than our rooms |
# | many pixels dynamic, few matches, and the mask is not where you see motion | **most of the frame moves**: the geometry wavers between the mover and the world | your own masks; more background |
# | "pairs have too few static points" | one of the above | |
# | it takes for ever, or memory runs out | **too much at once**: flow of every pair is in memory, frames x pixels x ten partners | a smaller `long_side`, a larger `stride`, fewer frames |
#
# The last case is the treacherous one. The more moves, the *calmer* the signs: what fills the frame is taken for the world. With seed 1 instead of 5 the mover covers 97 % of the frame; then 95 % find their match, 73 % are measured, and 5 % at most are called dynamic. Like a passenger who looks at the train beside theirs: only someone who knows can tell.
#
# *Check.* The signs must point at what we did:

# %%
cut, blur, turned = (
    video_signs(spoilt["a cut"].frames),
    video_signs(spoilt["blur"].frames),
    failures["the camera only turns"],
)
assert (cut.cuts, cut.blurred) == ([6], [])
assert (blur.cuts, blur.blurred) == ([], [4, 5, 6])
assert not (turned.confidence > 2).any()

# %% [markdown]
# The cure for masks that miss, on the clip in which nearly all moves: your own. Here the true ones stand for careful work by hand. (`ATE` is of the camera's place, `RPE` of its turning from frame to frame.)

# %% tags=["nbval-ignore-output"]
hard = spoilt["nearly all moves"]
cured = reconstruct(hard, network=network, masks=made["nearly all moves"].truth.motion_mask)
against_truth({"masks found": failures["nearly all moves"], "your masks": cured}, made["nearly all moves"].truth)

# %% [markdown]
# It turns better, and what rests is better placed. But where the camera *stood* is worse: it hardly travels here, and a fifth of the picture is not enough to tell by how much. Masks mend masks; they do not make parallax.
#
# ## 10. A part of another project
#
# Parts are exchanged by handing over another one with the same small interface. `network` takes any pointmap network of DUSt3R's kind, `masks` any masks, `tracker` any function from frames and queries to `Tracks`. DynPT (on the command line `--tracker dynpt`) is
#
# ```python
# reconstruct(clip, tracker=dynpt_tracker(DynPT.from_checkpoint("dynpt")))
# ```
#
# And a tracker of another project? **CoTracker3** (Karaev et al., 2024) follows points very well, but does not know what *moves*. Our epipolar residual does. This is all it takes to bring the two together:

# %%
source(cotracker)

# %% [markdown]
# Without a GPU and the download (set `use_cotracker`) we cannot run it. But the adapter can be checked: any model that is called the same way will do, such as our own chain of flow, dressed up.


# %%
def dressed_up(video: torch.Tensor, *, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Called as CoTracker3's predictor is; answers with ``chain_flow``."""
    frames = video[0].permute(0, 2, 3, 1).to("cpu", torch.uint8)
    asked = queries[0].cpu()
    uv, visible = chain_flow(frames, Queries(asked[:, 1:], asked[:, 0].long()))
    return uv[None], visible[None]


# %%
download = use_cotracker and on_gpu
tracker = cotracker(load_cotracker(device), device=device) if download else cotracker(dressed_up)
plugged = reconstruct(clip, network=network, tracker=tracker)
figures.track_strip(plugged)

# %% [markdown]
# *Check.* Dressed up, our own tracker must come out as it is:

# %%
if not download:
    assert torch.equal(plugged.tracks.uv, result.tracks.uv)
    assert torch.equal(plugged.tracks.mobility, result.tracks.mobility)
    assert torch.equal(plugged.motion_mask, result.motion_mask)

# %% [markdown]
# You have reached the end of the book. What did your video teach you? A failure that is not on this page is worth an issue.
