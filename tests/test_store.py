"""Generated clips on disk: the scene comes back bit for bit, the truth up to the rounding of depth."""

import json
from dataclasses import fields, replace

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from c4d_nb import __version__, load_clip
from c4d_nb.archive import read_archive, write_archive
from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip, Truth, save_compact
from c4d_nb.errors import InputError
from c4d_nb.kubric.render import render_clip
from c4d_nb.kubric.scene import Body, Light, Part, Scene, Texture, look_at
from c4d_nb.kubric.store import COMPUTED, Recipe, load_recipe, load_scene, save_generated
from c4d_nb.kubric.truth import complete_truth

FRAMES = 3
UNIT = st.floats(0, 1)
COLOR = st.tuples(UNIT, UNIT, UNIT)
TEXTURES = st.builds(
    Texture,
    pattern=st.sampled_from(["checks", "dots"]),
    colors=st.tuples(COLOR, COLOR, COLOR),
    scale_m=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**62),
    grain=UNIT,
)
LENGTHS = st.floats(1e-2, 2)
PARTS = st.builds(
    Part,
    shape=st.sampled_from(["box", "ellipsoid"]),
    half_size_m=st.tuples(LENGTHS, LENGTHS, LENGTHS),
    texture=TEXTURES,
    center_m=st.tuples(UNIT, UNIT, UNIT),
)


def texture(seed, **options):
    return Texture("marble", ((0.9, 0.1 + 0.2, 1 / 3), (0.2, 0.3, 0.4), (0.7, 0.2, 0.1)), 0.5, seed, **options)


def body(parts, seed, is_dynamic=False):
    rng = torch.Generator().manual_seed(seed)
    a = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    turn = a[:, None] * torch.randn(3, generator=rng, dtype=torch.float64)
    path = torch.randn(3, generator=rng, dtype=torch.float64) + 0.3 * a[:, None]
    return Body(tuple(parts), path, roma.rotvec_to_unitquat(turn), is_dynamic)


def scene_of(*bodies, size=(24, 33), **options):
    eyes = torch.tensor([[0.1 * i, -5 + 1 / 7, 2] for i in range(FRAMES)], dtype=torch.float64)
    return Scene(
        bodies=bodies,
        room=((-6.0, -7.0, -5.0), (6.0, 8.0, 9.1)),
        floor=texture(1),
        walls=texture(2, gloss=0.1),
        world_from_cam=look_at(eyes, torch.zeros_like(eyes)),
        intrinsics=pinhole(40.0, *size).double(),
        height=size[0],
        width=size[1],
        **options,
    )


@pytest.fixture(scope="module")
def scene():
    compound = [
        Part("capsule", (0.3, 0.3, 0.7), texture(3), (0.1, 0.2, 0.3), (0.6, 0.0, 0.0, 0.8)),
        Part("cylinder", (0.5, 0.5, 0.2), texture(4)),
    ]
    light = Light(sun=(0.1, 0.2, 0.7), sun_radius=0.03)
    bodies = body(compound, 1, is_dynamic=True), body([Part("box", (0.4, 0.5, 0.6), texture(5))], 2)
    return scene_of(*bodies, light=light, motion_blur=1.3)


@pytest.fixture(scope="module")
def clip(scene):
    return render_clip(scene, fps=12, samples=2, n_tracks=20)


@pytest.fixture
def path(tmp_path, clip, scene):
    return save_generated(tmp_path / "clip.npz", clip, scene, Recipe(7, split="movi_f", case="hit", size=33))


def assert_equal(a, b):
    """Bit for bit, in every field of two dataclasses, or every item of two tuples."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif hasattr(a, "__dataclass_fields__"):
        for field in fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_equal(left, right)
    else:
        assert a == b


def test_scene_comes_back_bit_for_bit(path, scene):
    assert_equal(load_scene(path), scene)


def test_rendered_again_it_is_the_same_clip(path, clip):
    again = render_clip(load_scene(path), fps=12, samples=2, n_tracks=20)
    assert_equal(again, clip)


@settings(deadline=None)  # it writes files
@given(st.lists(st.lists(PARTS, min_size=1, max_size=3), max_size=3), TEXTURES, COLOR)
def test_any_scene_survives(tmp_path_factory, parts, floor, sun):
    clip = Clip(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), 12.0, truth=Truth())
    scene = replace(scene_of(*(body(p, i) for i, p in enumerate(parts))), floor=floor, light=Light(sun=sun))
    path = tmp_path_factory.mktemp("scene") / "clip.npz"
    assert_equal(load_scene(save_generated(path, clip, scene, Recipe(0))), scene)


def test_empty_room(tmp_path):
    scene = scene_of()
    clip = render_clip(scene, fps=12, samples=1, n_tracks=5)
    path = save_generated(tmp_path / "clip.npz", clip, scene, Recipe(0))
    assert_equal(load_scene(path), scene)
    assert complete_truth(load_clip(path).truth).motion_mask.sum() == 0


def test_truth_is_completed_from_what_is_stored(path, clip):
    stored = load_clip(path)
    assert torch.equal(stored.frames, clip.frames)
    assert all(getattr(stored.truth, name) is None for name in COMPUTED)
    truth = complete_truth(stored.truth)
    assert torch.equal(truth.motion_mask, clip.truth.motion_mask)
    for name, tolerance in (("flow", 2e-3), ("backward_flow", 2e-3), ("object_coordinates", 1e-3), ("depth", 1e-3)):
        torch.testing.assert_close(getattr(truth, name), getattr(clip.truth, name), rtol=0, atol=tolerance)
    for name in ("segmentation", "world_from_cam", "intrinsics", "positions", "quaternions", "boxes", "is_dynamic"):
        assert_equal(getattr(truth, name), getattr(clip.truth, name))
    assert_equal(truth.tracks, clip.truth.tracks)


def test_recipe_comes_back_with_the_version(path):
    recipe = load_recipe(path)
    assert recipe == Recipe(7, split="movi_f", case="hit", size=33)
    assert recipe.version == __version__


def test_recipes_of_two_versions_are_the_same():
    assert Recipe(1, version="0.0.1") == Recipe(1)
    assert Recipe(1, subset="validation") != Recipe(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("split", "movi_z"), ("subset", "test"), ("case", "none")],
        *[("seed", -1), ("size", 7), ("frames", 0), ("samples", 0), ("n_tracks", 0)],
    ],
)
def test_bad_recipe(name, value):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        Recipe(**{"seed": 0, name: value})


@pytest.mark.parametrize("load", [load_scene, load_recipe])
def test_other_archives_hold_neither(load, tmp_path, clip):
    for path in (clip.save(tmp_path / "plain.npz"), save_compact(clip, tmp_path / "compact.npz")):
        with pytest.raises(InputError, match=r"^path: .* is not a complete generated clip archive"):
            load(path)
    with pytest.raises(InputError, match=r"^path: expected a clip archive, but .* does not exist"):
        load(tmp_path / "nothing.npz")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("damage", ["text", "shape", "name", "missing", "bodies"])
def test_damaged_scene_is_one_sentence(path, damage):
    entries = read_archive(path, "clip")
    plain = json.loads(entries["scene"])
    if damage == "text":
        entries["scene"] = entries["scene"][:-5]
    elif damage == "missing":
        del entries["scene.positions"]
    else:
        plain["bodies"][0]["parts"][0] |= {"shape": {"shape": "cone"}, "name": {"nom": 1}}.get(damage, {})
        plain["bodies"] = plain["bodies"][: 1 if damage == "bodies" else None]
        entries["scene"] = json.dumps(plain)
    write_archive(path, "clip", entries)
    with pytest.raises(
        InputError, match=r"^(path: .* is not a complete generated clip archive|shape: expected one of)"
    ):
        load_scene(path)


def test_interrupted_write_leaves_nothing(tmp_path, clip, scene, monkeypatch):
    def interrupt(file, **arrays):
        raise KeyboardInterrupt

    monkeypatch.setattr("numpy.savez_compressed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_generated(tmp_path / "clip.npz", clip, scene, Recipe(0))
    assert not list(tmp_path.iterdir())
