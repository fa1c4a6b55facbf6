"""What the notebook of one's own video uses: signs of trouble, masks by hand, how a video comes in, what is shown."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from c4d_nb import Clip, load_clip
from c4d_nb.clip import resize_clip
from c4d_nb.errors import InputError
from c4d_nb.export import FORMATS, export
from c4d_nb.hand_masks import polygon_masks
from c4d_nb.inspection import result_signs, video_signs
from c4d_nb.reconstruction import Reconstruction
from c4d_nb.show import own_video as show
from c4d_nb.show.truth import truth_as_result

SQUARE = [(2.0, 1.0), (6.0, 1.0), (6.0, 4.0), (2.0, 4.0)]


@pytest.fixture(scope="module")
def small(shipped) -> Clip:
    return resize_clip(replace(shipped, frames=shipped.frames[:8], truth=None), 96)


@pytest.fixture(scope="module")
def result(yard) -> Reconstruction:
    return truth_as_result(yard, yard.truth.tracks)


class TestVideoSigns:
    def test_nothing_is_said_of_a_good_clip(self, small):
        signs = video_signs(small.frames)
        assert (signs.cuts, signs.blurred) == ([], [])
        assert signs.matched.shape == (7,)
        assert signs.sharpness.shape == (8,)

    def test_a_cut_is_found_where_it_is(self, small, yard):
        other = resize_clip(Clip(yard.frames[:4], 12.0), 96).frames
        frames = torch.cat([small.frames[:5, :72], other])
        assert video_signs(frames).cuts == [5]

    def test_blurred_frames_are_found(self, small):
        frames = small.frames.float()
        frames[3:5] = torch.stack([frames[3:5].roll(shift, dims=2) for shift in range(-4, 5)]).mean(dim=0)
        assert video_signs(frames.to(torch.uint8)).blurred == [3, 4]

    def test_motion_is_in_pixels(self, small):
        frames = torch.stack([small.frames[0].roll(3 * step, dims=1) for step in range(3)])
        assert torch.allclose(video_signs(frames).moved_px, torch.tensor([3.0, 3.0]), atol=0.2)

    def test_one_frame_has_no_steps(self, small):
        with pytest.raises(InputError, match="frames: expected at least 2, but there are 1"):
            video_signs(small.frames[:1])

    def test_a_clip_of_one_colour_is_as_sharp_as_itself(self):
        signs = video_signs(torch.full((3, 40, 40, 3), 90, dtype=torch.uint8))
        assert torch.isfinite(signs.sharpness).all()


def test_result_signs_by_hand(result):
    t, height = result.depth.shape[:2]
    confidence = torch.ones_like(result.depth)
    confidence[1, : height // 2] = 3.0
    mask = torch.zeros_like(result.motion_mask)
    mask[2] = True
    mobility = torch.ones_like(result.tracks.mobility)
    mobility[:, :5] = 0.0
    tracks = replace(result.tracks, mobility=mobility, visible=torch.ones_like(result.tracks.visible))
    signs = result_signs(replace(result, confidence=confidence, motion_mask=mask, tracks=tracks))
    assert signs.measured[:3].tolist() == [0.0, 0.5, 0.0]
    assert signs.dynamic[:3].tolist() == [0.0, 0.0, 1.0]
    assert signs.static_tracks.tolist() == [5] * t


class TestPolygonMasks:
    def test_an_outline_holds_its_corners_and_what_is_inside(self):
        mask = polygon_masks({0: SQUARE}, frames=1, size=(6, 8))[0]
        expected = torch.zeros(6, 8, dtype=torch.bool)
        expected[1:5, 2:7] = True
        assert torch.equal(mask, expected)

    def test_it_moves_evenly_between_frames_and_stands_outside_them(self):
        moved = [(u + 4, v + 2) for u, v in SQUARE]
        masks = polygon_masks({1: SQUARE, 3: moved}, frames=5, size=(12, 16))
        corner = [tuple(mask.nonzero().amin(dim=0).tolist()) for mask in masks]
        assert corner == [(1, 2), (1, 2), (2, 4), (3, 6), (3, 6)]

    def test_what_is_outside_the_image_is_cut_off(self):
        mask = polygon_masks({0: [(-9.0, -9.0), (99.0, -9.0), (99.0, 99.0), (-9.0, 99.0)]}, frames=2, size=(5, 7))
        assert mask.all()

    @pytest.mark.parametrize(
        ("corners", "message"),
        [
            ({}, "corners: expected outlines of 3"),
            ({0: SQUARE[:2]}, "corners: expected outlines of 3"),
            ({0: SQUARE, 1: SQUARE[:3]}, "corners: expected outlines of 3"),
            ({4: SQUARE}, "corners: expected frames from 0 to 3, but there is 4"),
            ({-1: SQUARE}, "corners: expected frames from 0 to 3, but there is -1"),
            ({0: [(float("nan"), 0.0), *SQUARE]}, "corners: expected finite numbers"),
        ],
    )
    def test_what_is_no_outline_is_refused(self, corners, message):
        with pytest.raises(InputError, match=message):
            polygon_masks(corners, frames=4, size=(6, 8))


class TestChooseVideo:
    @pytest.fixture
    def archive(self, small, tmp_path):
        return small.save(tmp_path / "little.npz")

    @pytest.fixture
    def colab(self, monkeypatch):
        """Upload as on Colab; the returned dictionary is what the reader chooses."""
        chosen = {}
        google, files = types.ModuleType("google.colab"), types.ModuleType("google.colab.files")
        files.upload = lambda: chosen
        google.files = files
        monkeypatch.setitem(sys.modules, "google.colab", google)
        monkeypatch.setitem(sys.modules, "google.colab.files", files)
        monkeypatch.setenv("COLAB_NOTEBOOK_ID", "1")
        return chosen

    def test_a_path_is_taken_as_it_is(self, archive, tmp_path, colab):
        colab["other.mp4"] = b""
        assert show.choose_video("mine.mp4", shipped=archive, folder=tmp_path).name == "mine.mp4"

    def test_elsewhere_the_shipped_clip_goes_through_a_video_file(self, small, archive, tmp_path):
        path = show.choose_video("", shipped=archive, folder=tmp_path)
        assert path.name == "little.mp4"
        clip = load_clip(path)
        assert clip.frames.shape == small.frames.shape
        assert (clip.frames.float() - small.frames.float()).abs().mean() < 6
        assert clip.fps == small.fps

    def test_an_uploaded_video_is_stored_whole_and_within_the_folder(self, archive, tmp_path, colab):
        colab["../../mine.mp4"] = b"content"
        path = show.choose_video("", shipped=archive, folder=tmp_path)
        assert path == tmp_path / "mine.mp4"
        assert path.read_bytes() == b"content"

    def test_uploaded_images_are_a_folder(self, archive, tmp_path, colab):
        folder = tmp_path / "images"
        folder.mkdir()
        colab |= {"1.png": b"a", "2.png": b"b"}
        assert show.choose_video("", shipped=archive, folder=folder) == folder
        assert [file.name for file in sorted(folder.iterdir())] == ["1.png", "2.png"]

    def test_nothing_chosen_is_the_shipped_clip(self, archive, tmp_path, colab):
        assert show.choose_video("", shipped=archive, folder=tmp_path).name == "little.mp4"


def test_video_figure_marks_cuts_and_blur(small, yard):
    other = resize_clip(Clip(yard.frames[:4], 12.0), 96).frames
    signs = video_signs(torch.cat([small.frames[:5, :72], other]))
    figure = show.video_figure(signs)
    cut = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [4.5, 4.5]]
    assert len(cut) == 1


def test_trust_figure_draws_measured_and_dynamic(result):
    figure = show.trust_figure(result, count=3)
    assert isinstance(figure, Figure)
    labels = [text.get_text() for ax in figure.axes if (legend := ax.get_legend()) for text in legend.get_texts()]
    assert labels == ["measured", "dynamic"]
    measured = next(line for ax in figure.axes for line in ax.lines if line.get_label() == "measured")
    assert np.allclose(measured.get_ydata(), 100 * result_signs(result).measured.numpy())


def test_sign_rows_hold_the_worst_of_each(result):
    row = show.sign_rows({"truth": result})[0]
    assert len(row) == len(show.SIGNS)
    assert row[0] == "truth"
    assert row[4] == round(100 * float(result.motion_mask.float().mean(dim=(1, 2)).max()))


def test_every_export_is_read_again(result, tmp_path):
    formats = show.available_formats()
    assert formats == list(FORMATS)
    few = replace(result, clip=replace(result.clip, truth=None))
    rows = show.export_rows(formats, export(few, tmp_path, formats))
    text = {row[0]: row[2] for row in rows}
    assert text["`colmap`"].startswith("24 images, ")
    assert text["`trajectory.txt`"] == "24 poses"
    assert text["`nerfstudio`"] == "24 frames with images and masks"
    assert text["`arrays.npz`"] == "16 arrays"
    assert all(row[1] > 0 for row in rows)


def test_a_refusal_is_its_sentence_and_success_is_an_error():
    assert show.refusal(lambda: load_clip("nowhere.mp4")).startswith("path: expected a video")
    with pytest.raises(AssertionError, match="it was not"):
        show.refusal(lambda: None)
