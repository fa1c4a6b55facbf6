"""End to end, in process: the shipped clip at full size meets its bounds, and every view of the result can be drawn."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import cv2
import matplotlib
import pytest
import roma
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from c4d_nb import Clip
from c4d_nb.alignment import AlignConfig, RefineConfig
from c4d_nb.clip import resize_clip, select_frames
from c4d_nb.errors import InputError
from c4d_nb.kubric.generate import generate_clip
from c4d_nb.metrics import score_table, video_depth
from c4d_nb.pointmaps.dust3r import DUSt3R, DUSt3RConfig
from c4d_nb.reconstruct import ReconstructConfig, reconstruct
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show import figures, scene

SHORT = ReconstructConfig(align=AlignConfig(iterations=60), refine=RefineConfig(iterations=30))
TURNING = replace(SHORT, flow_noise_px=0.5)
"""Of the small clip, half a pixel of noise hides what parallax there is: pairs only turn."""


@pytest.fixture(scope="module")
def result(yard) -> Reconstruction:
    """The whole clip with the default configuration. Do not write to it."""
    return reconstruct(yard)


@pytest.fixture(scope="module")
def scores(result) -> dict[str, float]:
    return score_table(result, result.clip.truth)


@pytest.fixture(scope="module")
def small_clip(yard) -> Clip:
    return resize_clip(select_frames(yard, max_frames=8), 128)


@pytest.fixture(scope="module")
def small_result(small_clip) -> Reconstruction:
    """Few iterations: quick, and as deterministic as many."""
    return reconstruct(small_clip, SHORT)


@pytest.fixture(scope="module")
def turning_result(small_clip) -> Reconstruction:
    return reconstruct(small_clip, TURNING)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def assert_identical(a, b) -> None:
    """The same bits, dtypes and shapes in every field, NaN included, however deep."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_identical(a[key], b[key])
    elif hasattr(a, "__dataclass_fields__"):
        for field in fields(a):
            assert_identical(getattr(a, field.name), getattr(b, field.name))
    else:
        assert a == b


def test_camera_is_found(scores):
    assert scores["ATE (% of path)"] < 5
    assert scores["RPE rotation (deg)"] < 1


def test_depth_is_found(scores):
    assert scores["depth AbsRel"] < 0.15


def test_motion_is_found(scores):
    assert scores["motion mask IoU"] > 0.5
    assert scores["mobility balanced accuracy"] > 0.8


def test_shapes(result, yard):
    t, (h, w) = len(yard), yard.size
    n = len(result.tracks.query_frame)
    assert n > 100
    shapes = {
        "depth": (t, h, w),
        "confidence": (t, h, w),
        "intrinsics": (t, 3, 3),
        "world_from_cam": (t, 4, 4),
        "motion_mask": (t, h, w),
        "tracks_xyz": (t, n, 3),
    }
    assert {name: tuple(getattr(result, name).shape) for name in shapes} == shapes
    assert tuple(result.tracks.uv.shape) == (t, n, 2)
    for name in ("visible", "confidence", "mobility"):
        assert getattr(result.tracks, name).shape == (t, n)
    assert result.losses.keys() == {"ga", "cma", "cts", "pts"}
    assert all(len(values) == 300 for values in result.losses.values())
    assert result.clip is yard


def test_everything_is_finite(result):
    for name in ("depth", "confidence", "intrinsics", "world_from_cam"):
        assert torch.isfinite(getattr(result, name)).all(), name
    for name in ("uv", "confidence", "mobility"):
        assert torch.isfinite(getattr(result.tracks, name)).all(), name
    for name in ("ga", "cts", "pts"):
        assert torch.isfinite(result.losses[name]).all(), name
    assert torch.isfinite(result.losses["cma"][30:]).all()  # it begins after a tenth of the iterations


def test_ranges(result):
    assert (result.depth > 0).all()
    assert (result.confidence >= 1).all()
    for values in (result.tracks.confidence, result.tracks.mobility):
        assert values.min() >= 0
        assert values.max() <= 1
    rotation = result.world_from_cam[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0)
    assert (rotation.det() > 0).all()
    assert torch.equal(result.world_from_cam[:, 3], torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(len(rotation), 4))


def test_tracks_in_space_are_nan_exactly_where_invisible(result):
    assert torch.equal(torch.isfinite(result.tracks_xyz).all(-1), result.tracks.visible)
    assert torch.equal(torch.isnan(result.tracks_xyz).any(-1), ~result.tracks.visible)
    assert 0.2 < result.tracks.visible.float().mean() < 1


def test_losses_fall(result):
    assert result.losses["ga"][-10:].mean() < result.losses["ga"][:10].mean()
    assert result.losses["pts"][-10:].mean() < result.losses["pts"][:10].mean()


def test_save_and_load(result, tmp_path):
    loaded = Reconstruction.load(result.save(tmp_path / "result.npz"))
    assert_identical(loaded, result)


def test_save_and_load_without_truth(small_result, tmp_path):
    bare = replace(small_result, clip=replace(small_result.clip, truth=None))
    assert_identical(Reconstruction.load(bare.save(tmp_path / "result.npz")), bare)


def test_the_same_again_gives_the_same(small_clip, small_result):
    assert_identical(reconstruct(small_clip, SHORT), small_result)


def test_an_older_processor_comes_to_nearly_the_same(small_clip, turning_result, tmp_path):
    """Other instructions add in another order, which 60 steps of Adam make more of."""
    small_clip.save(tmp_path / "clip.npz")
    command = (
        "from c4d_nb import load_clip; from test_reconstruct import TURNING, reconstruct; import sys;"
        "reconstruct(load_clip(sys.argv[1]), TURNING).save(sys.argv[2])"
    )
    older = {"ATEN_CPU_CAPABILITY": "default", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    older |= {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "OPENCV_CPU_DISABLE": "AVX512-SKX"}
    paths = [str(tmp_path / name) for name in ("clip.npz", "result.npz")]
    environment = os.environ | older | {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", command, *paths], env=environment, check=True, timeout=300)
    found = Reconstruction.load(paths[1])
    assert ((found.depth - turning_result.depth).abs() / turning_result.depth).median() < 0.02
    assert (found.motion_mask != turning_result.motion_mask).float().mean() < 0.01
    turned = roma.rotmat_geodesic_distance(found.world_from_cam[:, :3, :3], turning_result.world_from_cam[:, :3, :3])
    assert turned.max() < 0.01


def test_truth_is_never_used(small_clip, small_result):
    blind = reconstruct(replace(small_clip, truth=None), SHORT)
    assert_identical(replace(blind, clip=small_clip), small_result)


def test_seed_changes_only_the_random_queries(small_clip, small_result):
    other = reconstruct(small_clip, replace(SHORT, seed=1))
    assert other.tracks.uv.shape == small_result.tracks.uv.shape
    assert not torch.equal(other.tracks.uv, small_result.tracks.uv)


def test_known_intrinsics_are_kept(small_clip):
    K = small_clip.truth.intrinsics + torch.tensor([[0.37, 0, 1.3], [0, 0.53, -0.7], [0, 0, 0]])
    known = reconstruct(replace(small_clip, intrinsics=K), SHORT)
    assert torch.equal(known.intrinsics, K)


def random_network() -> DUSt3R:
    """Untrained: what it says is wrong, and nothing may break."""
    torch.manual_seed(0)
    sizes = {"encoder": (32, 1, 2), "decoder": (32, 1, 2), "long_side": 64, "coordinates": True}
    return DUSt3R(DUSt3RConfig("linear", **sizes)).eval()


def test_the_small_network_makes_cameras_and_depth_more_exact(yard, scores):
    with_it = score_table(reconstruct(yard, network=DUSt3R.from_checkpoint("small")), yard.truth)
    assert with_it["ATE (% of path)"] < 0.9 * scores["ATE (% of path)"]
    assert with_it["depth AbsRel"] < 0.95 * scores["depth AbsRel"]


def test_a_network_that_knows_nothing_changes_nothing(small_clip, small_result):
    without = reconstruct(small_clip, SHORT, network=random_network())
    for name in ("depth", "world_from_cam", "intrinsics", "confidence"):
        assert torch.equal(getattr(without, name), getattr(small_result, name)), name


def test_without_parallax_a_network_changes_depth_alone(small_clip, turning_result):
    """The cameras are those of pairs that only turn, whatever the network says."""
    result = reconstruct(small_clip, TURNING, network=random_network())
    assert (turning_result.confidence == 1).all()
    assert torch.isfinite(result.depth).all()
    assert (result.depth > 0).all()
    assert not torch.allclose(result.depth, turning_result.depth, rtol=0.05)
    for name in ("world_from_cam", "intrinsics", "motion_mask", "confidence"):
        assert torch.equal(getattr(result, name), getattr(turning_result, name)), name
    assert torch.equal(result.tracks.uv, turning_result.tracks.uv)


def test_without_parallax_the_small_network_knows_depth():
    """In the rooms that it knows; flat depth is what there is without it."""
    clip = generate_clip(102, split="movi_e", case="pure_rotation", frames=8, size=128)
    results = (reconstruct(clip, SHORT, network=network) for network in (None, DUSt3R.from_checkpoint("small")))
    flat, seen = (video_depth(result.depth, clip.truth.depth)["abs_rel"] for result in results)
    assert seen < 0.7 * flat


@pytest.mark.parametrize(("network", "expected"), [(None, 4.0), ("random", 2.0)], ids=["without", "with"])
def test_a_mover_is_half_way_between_the_ground_and_where_a_network_sees_it(
    small_clip, turning_result, monkeypatch, network, expected
):
    """By ratio: ground that is four times as far moves it by two. Without a network it stands on the ground."""
    module, depths = sys.modules["c4d_nb.reconstruct"], []
    monkeypatch.setattr(module, "refine_depth", lambda stage_1, *_: stage_1)
    for factor in (1.0, 4.0):
        monkeypatch.setattr(module, "stand_on_ground", lambda depth, moving, _, k=factor: depth * k ** moving.float())
        depths.append(reconstruct(small_clip, TURNING, network=network and random_network()).depth)
    near, far = depths
    masks = turning_result.motion_mask.numpy().astype(np.uint8)
    inside, outside = (
        torch.from_numpy(np.stack([change(mask, np.ones((9, 9))) == value for mask in masks]))
        for change, value in ((cv2.erode, 1), (cv2.dilate, 0))
    )
    assert inside.any()
    torch.testing.assert_close(far[inside], expected * near[inside])
    torch.testing.assert_close(far[outside], near[outside])


def test_a_networks_pairs_alone(small_clip, small_result):
    result = reconstruct(small_clip, replace(SHORT, triangulate=False), network=random_network())
    assert torch.equal(result.motion_mask, small_result.motion_mask)
    assert torch.equal(result.tracks.uv, small_result.tracks.uv)
    assert torch.isfinite(result.depth).all()
    assert (result.depth > 0).all()
    assert not torch.equal(result.depth, small_result.depth)


@pytest.mark.parametrize("t", [1, 2])
def test_too_few_frames(small_clip, t):
    with pytest.raises(InputError, match=f"^clip: expected at least 3 frames, but it has {t}"):
        reconstruct(select_frames(small_clip, max_frames=t))


def test_nan_intrinsics(small_clip):
    K = small_clip.truth.intrinsics.clone()
    K[3, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"^intrinsics: expected finite"):
        reconstruct(replace(small_clip, intrinsics=K))


def test_three_frames(small_clip):
    assert torch.isfinite(reconstruct(select_frames(small_clip, max_frames=3), SHORT).depth).all()


FIGURES = {
    "overview": figures.overview,
    "time_slice": figures.time_slice,
    "time_slice at a border": lambda result: figures.time_slice(result, column=0),
    "camera_path": figures.camera_path,
    "loss_curves": lambda result: figures.loss_curves(result.losses),
    "track_strip": figures.track_strip,
    "mask_strip": figures.mask_strip,
    "depth_strip": figures.depth_strip,
    "filmstrip": lambda result: figures.filmstrip(result.clip.frames),
    "scene_from_above": scene.scene_from_above,
}


@pytest.mark.parametrize("truth", [True, False], ids=["with truth", "without truth"])
@pytest.mark.parametrize("name", FIGURES)
def test_figure(small_result, tmp_path, name, truth):
    shown = small_result if truth else replace(small_result, clip=replace(small_result.clip, truth=None))
    figure = FIGURES[name](shown)
    assert isinstance(figure, Figure)
    assert_saved(figure, tmp_path / "figure.png")


@pytest.mark.parametrize("name", ["overview", "camera_path", "depth_strip", "scene_from_above"])
def test_figure_at_full_size(result, tmp_path, name):
    assert_saved(FIGURES[name](result), tmp_path / "figure.png")


@pytest.mark.parametrize("moving", [True, False], ids=["all moves", "nothing moves"])
@pytest.mark.parametrize("name", FIGURES)
def test_figure_of_one_class_only(small_result, tmp_path, name, moving):
    clip = replace(small_result.clip, truth=None)
    one = replace(small_result, clip=clip, motion_mask=torch.full_like(small_result.motion_mask, moving))
    assert_saved(FIGURES[name](one), tmp_path / "figure.png")


def assert_saved(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=50)
    assert plt.imread(path)[..., :3].std() > 0.02


def points_of(figure) -> int:
    return sum(len(trace.x) for trace in figure.data if trace.mode == "markers")


@pytest.mark.parametrize("max_points", [30_000, 5_000, 30])
def test_scene_keeps_to_its_budget(result, max_points):
    figure = scene.scene_figure(result, max_points=max_points)
    assert 0.3 * max_points < points_of(figure) <= max_points
    assert len(figure.to_json().encode()) < 1_000_000


def test_scene_has_a_slider_step_for_every_shown_frame(result):
    figure = scene.scene_figure(result, dynamic_frames=4)
    steps = figure.layout.sliders[0].steps
    assert len(steps) == 5
    for step in steps:
        assert len(step.args[0]["visible"]) == len(figure.data)
    assert points_of(figure) <= scene.MAX_PLOTLY_POINTS


def test_scene_points_are_finite(small_result):
    for trace in scene.scene_figure(small_result).data:
        if trace.mode == "markers":
            assert all(np.isfinite(np.asarray(values)).all() for values in (trace.x, trace.y, trace.z))


@pytest.mark.parametrize("column", [-1, 128, 10_000])
def test_bad_column(small_result, column):
    with pytest.raises(InputError, match=f"^column: expected 0 to 127, but it is {column}$"):
        figures.time_slice(small_result, column=column)


@pytest.mark.parametrize("max_points", [0, -1, 30_001])
def test_bad_budget(small_result, max_points):
    with pytest.raises(InputError, match=f"^max_points: expected 1 to 30000, but it is {max_points}$"):
        scene.scene_figure(small_result, max_points=max_points)


def test_saved_result_without_an_entry(small_result, tmp_path):
    """A file that lacks a part is refused, whichever part it is."""
    with np.load(small_result.save(tmp_path / "result.npz")) as file:
        entries = dict(file)
    for missing in ("depth", "tracks.uv", "clip.frames", "clip.fps"):
        np.savez(tmp_path / "part.npz", **{name: value for name, value in entries.items() if name != missing})
        with pytest.raises(InputError, match=r"^path: .*part\.npz is not a complete reconstruction archive"):
            Reconstruction.load(tmp_path / "part.npz")


def test_own_masks_replace_or_join_ours(small_clip, small_result):
    own = torch.zeros(small_clip.frames.shape[:3], dtype=torch.bool)
    own[:, :6, :6] = True
    replaced = reconstruct(small_clip, SHORT, masks=own)
    assert torch.equal(replaced.motion_mask, own)
    joined = reconstruct(small_clip, replace(SHORT, own_masks="combine"), masks=own)
    assert torch.equal(joined.motion_mask, own | small_result.motion_mask)


@pytest.mark.usefixtures("unchecked")
def test_own_masks_of_another_size(small_clip):
    with pytest.raises(InputError, match=r"^masks: expected a shape of"):
        reconstruct(small_clip, masks=torch.zeros(len(small_clip), 5, 5, dtype=torch.bool))


@pytest.mark.usefixtures("unchecked")
def test_own_masks_are_replaced_or_combined_only(small_clip):
    with pytest.raises(InputError, match=r"^own_masks: expected 'replace' or 'combine'"):
        reconstruct(small_clip, ReconstructConfig(own_masks="join"))
