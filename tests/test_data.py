"""The shipped clips are those of the card, and their maps are what rays into their scenes hit."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import load_clip
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.mobility import compare_with_is_dynamic, mobility_labels
from c4d_nb.kubric.store import load_recipe, load_scene
from c4d_nb.kubric.truth import complete_truth
from c4d_nb.packing import depth_error

DATA = Path(__file__).parent.parent / "data"
CARD = (DATA / "README.md").read_text(encoding="utf-8")
NAMES = ("movi_e", "panning_movi_e", "movi_f")


def test_every_file_is_on_the_card():
    assert {path.stem for path in DATA.glob("*.npz")} == set(NAMES)
    assert all(f"`{path.name}`" in CARD for path in DATA.iterdir() if path.name != "README.md")
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 60e6


@pytest.mark.parametrize("name", NAMES)
def test_hash_and_recipe_are_those_of_the_card(name):
    path = DATA / f"{name}.npz"
    seed, case, digest, size = re.search(
        rf"\| `{name}\.npz` \| (\d+)(?:, (\w+))? \| `(\w+)` \| ([\d,]+) \|", CARD
    ).groups()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert int(size.replace(",", "")) == path.stat().st_size
    recipe = load_recipe(path)
    assert (recipe.split, recipe.subset, recipe.seed, recipe.case) == (name, "validation", int(seed), case)


@pytest.mark.parametrize("name", ["pointmaps", "dynpt", "dynpt_cnn", "dynpt_3d"])
def test_weights_are_those_of_the_card(name):
    path = DATA / f"{name}.safetensors"
    digest, size = re.search(rf"\| `{name}\.safetensors` \| `(\w+)` \| ([\d,]+) \|", CARD).groups()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert int(size.replace(",", "")) == path.stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_what_rays_hit(name):
    """Segmentation exactly, depth to the bound that is stored beside it."""
    path = DATA / f"{name}.npz"
    truth, scene = load_clip(path).truth, load_scene(path)
    near_far = torch.from_numpy(np.load(path)["truth.depth.near_far"])
    grid = pixel_grid(256, 256).double().reshape(-1, 2)
    for frame in (0, 12, 23):
        depth, segmentation = cast(scene, frame, grid)
        assert torch.equal(segmentation, truth.segmentation[frame].flatten())
        error = (depth - truth.depth[frame].flatten()).abs()
        assert (error <= depth_error(depth, near_far)).all()


@pytest.mark.parametrize("name", NAMES)
def test_truth_belongs_together(name):
    clip, scene = load_clip(DATA / f"{name}.npz"), load_scene(DATA / f"{name}.npz")
    truth = complete_truth(clip.truth)
    assert clip.frames.shape == (24, 256, 256, 3)
    assert clip.fps == 12
    assert clip.intrinsics is None
    assert torch.equal(truth.motion_mask, clip.truth.motion_mask)
    assert torch.equal(truth.mobility, mobility_labels(scene.positions))
    assert torch.equal(truth.is_dynamic, scene.is_dynamic)
    assert (scene.motion_blur > 0) == (name == "movi_f")
    assert truth.tracks.uv.shape == (24, 256, 2)
    assert truth.flow.shape == truth.backward_flow.shape == (23, 256, 256, 2)


def test_a_resting_object_is_hit():
    truth = load_clip(DATA / "movi_e.npz").truth
    assert compare_with_is_dynamic(truth.mobility, truth.is_dynamic).hit.tolist() == [0, 7]
