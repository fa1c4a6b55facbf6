"""Views to turn, drag and slide: what they show is the result's, and each control changes the picture."""

import math
from dataclasses import replace

import ipywidgets
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from c4d_nb.camera import pinhole, pose
from c4d_nb.clip import Clip, Tracks, Truth
from c4d_nb.errors import InputError
from c4d_nb.metrics import trajectory_errors
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show.figures import DYNAMIC_COLOR
from c4d_nb.show.scene import path_figure, scene_figure, scene_from_above
from c4d_nb.show.slices import GAP_PX, depth_image, slice_image
from c4d_nb.show.threshold import threshold_figure, threshold_text
from c4d_nb.show.widgets import mask_explorer, slice_explorer

T, HEIGHT, WIDTH, N = 9, 24, 32, 8


@pytest.fixture
def result(generator) -> Reconstruction:
    """A square moves over a plane; tracks 0 to 3 ride on it, the rest are still; track 3 is lost after frame 4."""
    frames = torch.randint(0, 256, (T, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    depth = 4 + torch.arange(HEIGHT).float()[:, None].expand(T, HEIGHT, WIDTH) / 20
    mask = torch.zeros(T, HEIGHT, WIDTH, dtype=torch.bool)
    for t in range(T):
        mask[t, 8:16, 4 + t : 14 + t] = True
    centre = torch.stack([torch.linspace(0, 1, T), 0.1 * torch.randn(T, generator=generator), torch.zeros(T)], dim=-1)
    poses = pose(torch.eye(3).expand(T, 3, 3), centre)
    moving = (torch.arange(N) < 4).float()
    xyz = torch.randn(N, 3, generator=generator) * torch.tensor([0.5, 0.3, 0.1]) + torch.tensor([0.3, 0.0, 4.5])
    xyz = xyz + 0.1 * moving[:, None] * torch.arange(T)[:, None, None] * torch.tensor([1.0, 0, 0])
    xyz[5:, 3] = torch.nan
    visible = torch.isfinite(xyz).all(-1)
    tracks = Tracks(torch.zeros(T, N, 2), visible, visible.float(), moving.expand(T, N), torch.zeros(N).long())
    jitter = 0.03 * torch.randn(T, 3, generator=generator)
    truth = Truth(motion_mask=mask, world_from_cam=pose(torch.eye(3).expand(T, 3, 3), 5 * centre + jitter))
    return Reconstruction(
        depth=depth.clone(),
        confidence=torch.full((T, HEIGHT, WIDTH), 9.0),
        intrinsics=pinhole(torch.full((T,), 30.0), HEIGHT, WIDTH),
        world_from_cam=poses,
        motion_mask=mask,
        tracks=tracks,
        tracks_xyz=xyz,
        losses={},
        clip=Clip(frames, fps=8.0, truth=truth),
    )


# The scene to turn


def tail_of(figure, frame):
    (trace,) = (trace for trace in figure.data if trace.name == f"track tails, frame {frame}")
    return np.stack([trace.x, trace.y, trace.z], axis=-1).reshape(-1, 6, 3)  # 5 places and the gap


@pytest.mark.parametrize(("frame", "tracks"), [(4, [0, 1, 2, 3]), (8, [0, 1, 2])])
def test_tails_are_the_ways_of_what_moves(result, frame, tracks):
    tail = tail_of(scene_figure(result, dynamic_frames=T, tail=4), frame)
    expected = result.tracks_xyz[frame - 4 : frame + 1, tracks].transpose(0, 1).numpy()
    assert np.isnan(tail[:, 5]).all()
    np.testing.assert_array_equal(tail[:, :5], expected)


def test_a_step_of_the_slider_shows_one_frame_with_its_tails(result):
    figure = scene_figure(result, dynamic_frames=3)
    for step, frame in zip(figure.layout.sliders[0].steps[1:], (0, 4, 8), strict=True):
        shown = [trace.name for trace, seen in zip(figure.data, step.args[0]["visible"], strict=True) if seen]
        fixed = ["static, all frames", "camera path", "cameras"]
        assert shown == [*fixed, f"dynamic, frame {frame}", f"track tails, frame {frame}"]


def test_scene_holds_what_it_frames(result):
    figure = scene_figure(result)
    spans = [figure.layout.scene[f"{axis}axis"].range for axis in "xyz"]
    path = next(trace for trace in figure.data if trace.name == "camera path")
    for (low, high), values in zip(spans, (path.x, path.y, path.z), strict=True):
        assert low <= values.min()
        assert values.max() <= high


def test_scene_without_tracks(result):
    tracks = result.tracks
    maps = (tracks.uv, tracks.visible, tracks.confidence, tracks.mobility)
    none = Tracks(*(values[:, :0] for values in maps), tracks.query_frame[:0])
    untracked = replace(result, tracks=none, tracks_xyz=result.tracks_xyz[:, :0])
    assert len(scene_figure(untracked, dynamic_frames=2).data) == 3 + 2 * 2
    assert scene_from_above(untracked).axes


def test_path_says_how_far_off_it_is(result):
    figure = path_figure(result)
    estimate, truth = (next(trace for trace in figure.data if trace.name == name) for name in ("estimate", "truth"))
    apart = [np.asarray([getattr(trace, axis) for axis in "xyz"]) for trace in (estimate, truth)]
    distance = np.linalg.norm(apart[0] - apart[1], axis=0)
    ate = trajectory_errors(result.world_from_cam, result.clip.truth.world_from_cam)["ate"]
    assert math.sqrt((distance**2).mean()) == pytest.approx(ate, rel=1e-4)
    assert [float(text.split()[2]) for text in estimate.text] == pytest.approx(distance.tolist(), rel=0.01)


def test_path_without_truth(result):
    figure = path_figure(replace(result, clip=replace(result.clip, truth=None)))
    assert [trace.name for trace in figure.data] == ["cameras", "estimate"]
    np.testing.assert_allclose(figure.data[1].x, result.world_from_cam[:, 0, 3], rtol=1e-6)


# Slices


def test_slice_is_one_column_through_time(result):
    column, scale = 7, 4
    image = slice_image(result, depth_image(result), column, width_px=scale * WIDTH)
    assert image.shape == (scale * HEIGHT, 3 * scale * WIDTH + 2 * GAP_PX, 3)
    colors = image[::scale, scale * WIDTH + GAP_PX : 2 * scale * WIDTH + GAP_PX]
    for frame in range(T):
        u = round((frame + 0.5) * scale * WIDTH / T)
        assert torch.equal(colors[:, u], result.clip.frames[frame, :, column])
    marked = image[0, : scale * WIDTH].double() - 255 * torch.tensor(to_rgb(DYNAMIC_COLOR))
    found = (marked.abs().amax(-1) <= 1).nonzero()[:, 0]
    assert len(found) >= 2
    assert (column - 0.5) * scale < found.double().mean() < (column + 1.5) * scale


def test_depth_has_the_colours_of_the_still_picture(result):
    image = depth_image(result)
    turbo = matplotlib.colormaps["turbo_r"]
    low, high = (torch.tensor(turbo(end)[:3]) * 255 for end in (0.0, 1.0))
    assert (image[0, 0, 0].double() - low).abs().max() < 1
    assert (image[0, -1, 0].double() - high).abs().max() < 1 or result.depth.max() < 1.25 * result.depth.min()


@pytest.mark.parametrize("column", [-1, WIDTH])
def test_column_outside_the_image(result, column):
    with pytest.raises(InputError, match=f"column: expected 0 to 31, but it is {column}"):
        slice_image(result, depth_image(result), column)


# Widgets


def parts_of(widget):
    return [widget, *(part for child in getattr(widget, "children", ()) for part in parts_of(child))]


def test_column_can_be_dragged(result):
    parts = parts_of(slice_explorer(result))
    assert all(type(part).__module__.startswith("ipywidgets.") for part in parts)
    (slider,) = (part for part in parts if isinstance(part, ipywidgets.IntSlider))
    (picture,) = (part for part in parts if isinstance(part, ipywidgets.Image))
    assert slider.continuous_update
    assert (slider.value, slider.max) == (WIDTH // 2, WIDTH - 1)
    seen = {bytes(picture.value)}
    for slider.value in (0, 5, WIDTH - 1):
        seen.add(bytes(picture.value))
    assert len(seen) == 4


@pytest.fixture
def evidence(result, generator):
    return 0.4 * result.clip.truth.motion_mask + 0.5 * torch.rand(T, HEIGHT, WIDTH, generator=generator)


def test_threshold_and_frame_redraw_the_mask(result, evidence):
    parts = parts_of(mask_explorer(result.clip, evidence, threshold=0.45))
    (picture,) = (part for part in parts if isinstance(part, ipywidgets.Image))
    (text,) = (part for part in parts if isinstance(part, ipywidgets.Label))
    controls = {part.description: part for part in parts if getattr(part, "description", "")}
    pictures, texts = {bytes(picture.value)}, {text.value}
    for name, value in (("above", 0.2), ("frame", 0), ("above", 0.7)):
        controls[name].value = value
        pictures.add(bytes(picture.value))
        texts.add(text.value)
    assert len(pictures) == len(texts) == 4


def test_text_of_a_threshold_by_hand(result):
    evidence = result.clip.truth.motion_mask.float()
    share = 100 * 80 / (HEIGHT * WIDTH)
    assert threshold_text(result.clip, evidence, 0, 0.5) == (
        f"{share:.1f} % dynamic; IoU 1.00 in this frame, 1.00 in the clip"
    )
    evidence[0] = 1
    assert threshold_text(result.clip, evidence, 0, 0.5).startswith("100.0 % dynamic; IoU 0.10 in this frame, 0.90")
    unknown = Clip(result.clip.frames, fps=8.0)
    assert threshold_text(unknown, evidence, 0, 0.5) == "100.0 % dynamic"


@pytest.mark.parametrize("known", [True, False])
def test_thresholds_as_a_picture(result, evidence, known, tmp_path):
    clip = result.clip if known else Clip(result.clip.frames, fps=8.0)
    figure = threshold_figure(clip, evidence, thresholds=(0.2, 0.45), frames=3)
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert len(figure.axes) == 2 * 3 + 1
    assert figure.axes[-1].get_ylabel() == ("IoU" if known else "dynamic (%)")


def test_evidence_of_another_size(result):
    with pytest.raises(InputError, match=r"evidence: expected \(9, 24, 32\), but it is \(9, 24, 31\)"):
        mask_explorer(result.clip, torch.zeros(T, HEIGHT, WIDTH - 1))


def test_evidence_that_says_nothing(result):
    assert isinstance(mask_explorer(result.clip, torch.zeros(T, HEIGHT, WIDTH)), ipywidgets.VBox)
