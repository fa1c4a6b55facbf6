"""Pictures of pointmaps: scale and errors worked by hand, what each figure says."""

import json

import numpy as np
import pytest
import roma
import torch

from c4d_nb.camera import invert, pinhole, pixel_grid, pose, rays, transform
from c4d_nb.clip import Truth
from c4d_nb.kubric.truth import points_at_time
from c4d_nb.pointmaps.dust3r import Pointmaps
from c4d_nb.pointmaps.losses import relative_point_error
from c4d_nb.pointmaps.pairs import Pairs
from c4d_nb.show import pointmaps as show
from c4d_nb.show.figures import DYNAMIC_COLOR

H = W = 16
UP = torch.tensor([0.0, -1.0, 0.0])


def sloping(factor=1.0):
    """A plane that recedes from row to row, 3 m to 6 m away, times ``factor``."""
    depth = torch.linspace(6, 3, H)[:, None].expand(H, W)
    return factor * depth[..., None] * rays(pinhole(20.0, H, W), pixel_grid(H, W))


@pytest.fixture
def pair():
    images = torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.1, 0.0]))
    cam_2_from_cam_1 = pose(turn, torch.tensor([-0.5, 0.0, 0.2]))
    xyz_2 = transform(invert(cam_2_from_cam_1), sloping(1.1).flatten(0, 1)).reshape(H, W, 3)
    valid = torch.ones(H, W, dtype=torch.bool)
    return Pairs(*images, sloping(), xyz_2, valid, valid, cam_2_from_cam_1)


@pytest.fixture
def found(pair):
    """The truth at a third of its size, with noise."""
    noise = 0.02 * torch.randn(2, H, W, 3, generator=torch.Generator().manual_seed(1))
    conf = 1 + torch.rand(2, 1, H, W, generator=torch.Generator().manual_seed(2))
    return Pointmaps((pair.xyz_1 / 3 + noise[0])[None], conf[0], (pair.xyz_2 / 3 + noise[1])[None], conf[1])


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


class TestErrors:
    def test_scale_is_the_ratio_of_lengths(self, pair):
        third = Pointmaps(pair.xyz_1[None] / 3, torch.ones(1, H, W), pair.xyz_2[None] / 3, torch.ones(1, H, W))
        assert show.scale_to_truth(third, pair).item() == pytest.approx(3, rel=1e-5)
        assert all(error.max() < 1e-5 for error in show.relative_errors(third, pair))

    def test_scale_of_the_pixels_to_keep(self, pair):
        left = pixel_grid(H, W)[..., 0] < 4
        halved = torch.where(left[..., None], pair.xyz_1, pair.xyz_1 / 2)
        found = Pointmaps(halved[None], torch.ones(1, H, W), pair.xyz_2[None] / 2, torch.ones(1, H, W))
        none = torch.zeros_like(left)
        assert show.scale_to_truth(found, pair).item() == pytest.approx(2, rel=1e-5)
        assert show.scale_to_truth(found, pair, (left, none)).item() == pytest.approx(1, rel=1e-5)
        error_1, error_2 = show.relative_errors(found, pair, (left, none))
        assert error_1[left].max() < 1e-5
        assert error_1[~left].median().item() == pytest.approx(0.5, rel=1e-4)
        assert error_2.median().item() == pytest.approx(0.5, rel=1e-4)

    def test_their_median_is_the_score(self, pair, found):
        valid_1 = pixel_grid(H, W)[..., 1] > 3
        pair = pair._replace(valid_1=valid_1)
        errors = torch.stack(show.relative_errors(found, pair))
        assert errors[0].isnan().equal(~valid_1)
        truth = (x[None] for x in (pair.xyz_1, pair.xyz_2, pair.valid_1, pair.valid_2))
        score = relative_point_error(found.xyz_1, found.xyz_2, *truth)
        assert errors.nanmedian().item() == pytest.approx(score.item(), rel=1e-5)


class TestPairs:
    def test_maps(self, pair):
        figure = show.pair_figure(pair)
        assert titles(figure)[:3] == ["RGB", "z in its own camera", "z in camera 1"]
        own = figure.axes[5].images[0].get_array()
        assert np.allclose(own, sloping(1.1)[..., 2], atol=1e-5)

    def test_in_space(self, pair):
        figure = show.pair_in_space(pair, max_points=300)
        names = [trace.name for trace in figure.data]
        assert names == ["image 1", "image 2", "camera 1", "camera 2"]
        assert sum(len(trace.x) for trace in figure.data[:2]) <= 300
        assert figure.data[0].marker.color.dtype == np.uint8
        centre = [figure.data[3][axis][0] for axis in "xyz"]
        assert np.allclose(centre, invert(pair.cam_2_from_cam_1)[:3, 3])
        assert len(json.loads(figure.to_json())["data"]) == 4

    def test_in_space_leaves_out_what_is_not_valid(self, pair):
        figure = show.pair_in_space(pair._replace(valid_2=torch.zeros(H, W, dtype=torch.bool)))
        assert len(figure.data[0].x) > 0
        assert len(figure.data[1].x) == 0

    def test_from_above(self, pair):
        figure = show.pair_from_above(pair, UP)
        assert titles(figure) == ["points of image 1", "points of image 2", "both"]
        above = np.asarray(figure.axes[0].collections[0].get_offsets())
        expected = pair.xyz_1.reshape(-1, 3)[:, [0, 2]].numpy()
        assert np.allclose(np.sort(above, axis=0), np.sort(expected, axis=0), atol=1e-5)


class TestPredictions:
    def test_depth_is_brought_to_the_scale_of_truth(self, pair, found):
        figure = show.prediction_figure(found, pair)
        scaled = show.scale_to_truth(found, pair) * found.xyz_1[0, ..., 2]
        assert np.allclose(figure.axes[2].images[0].get_array(), scaled)
        assert not figure.axes[0].collections

    def test_what_is_not_kept_is_outlined(self, pair, found):
        keep = pixel_grid(H, W)[..., 0] < 8
        figure = show.prediction_figure(found, pair, (keep, keep))
        assert all(ax.collections for ax in figure.axes[:10])

    def test_confidence(self):
        confidence = torch.linspace(1, 5, 401)
        losses = {e: confidence * e - 0.2 * confidence.log() for e in (0.05, 0.1)}
        said = torch.linspace(1, 3, 1000)
        figure = show.confidence_figure(confidence, losses, said, 0.2 / said, alpha=0.2)
        minima = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
        assert minima == pytest.approx([4, 2], abs=0.02)
        dots = [line for line in figure.axes[1].lines if len(line.get_xdata()) == 1]
        assert len(dots) == 10
        assert all(float(d.get_ydata()[0]) == pytest.approx(0.2 / float(d.get_xdata()[0]), rel=0.01) for d in dots)

    def test_focal_residual_is_least_at_the_true_focal_length(self):
        focals = torch.arange(10.0, 31.0)
        values = show.focal_residuals(sloping(), torch.ones(H, W), focals)
        assert focals[values.argmin()] == 20
        assert values.min() < 1e-4
        corner = torch.zeros(H, W)
        corner[0, 0] = 2.0  # a pixel 7.5 px left of and above the middle: at 10 px its point is seen half as far off
        assert show.focal_residuals(sloping(), corner, focals)[0].item() == pytest.approx(3.75 * 2**0.5, rel=1e-5)
        figure = show.focal_figure(focals, {"truth": values}, {"truth": 20.0}, {"true": 20.0})
        assert len(figure.axes[0].lines) == 3

    def test_error_bars(self):
        errors = {"floor": torch.tensor([0.1, 0.1, torch.nan]), "movers": torch.tensor([0.2, 0.4, 0.6])}
        bars = show.error_bars(errors).axes[0].patches
        assert [bar.get_width() for bar in bars] == pytest.approx([0.1, 0.4])
        assert bars[1].get_facecolor() == pytest.approx((0xE4 / 255, 0x57 / 255, 0x2E / 255, 1))
        assert DYNAMIC_COLOR == "#e4572e"


class TestTwoTimes:
    def test_movers_are_drawn_at_both_times(self, pair):
        moves = torch.zeros(H, W, dtype=torch.bool)
        moves[4:8, 4:8] = True
        then = pair.xyz_2 + torch.tensor([0.0, -2.0, 0.0])
        figure = show.two_times_figure(pair, then, moves, UP, others=[("guess", 1.5 * pair.xyz_2)])
        before, after, guess = (np.asarray(c.get_offsets()) for c in figure.axes[0].collections[1:])
        assert np.allclose(before - after, [[0, 2]], atol=1e-5)  # up is -y
        assert np.allclose(guess, 1.5 * after, atol=1e-5)

    def test_points_at_time(self):
        """A wall in front of a camera that moves and, in front of it, a body that goes 1 m along x and turns."""
        quarter = torch.tensor([0.0, 0.0, 2**-0.5, 2**-0.5])
        eye = torch.eye(4).repeat(2, 1, 1)
        eye[1, 0, 3] = 3.0
        segmentation = torch.zeros(2, H, W, dtype=torch.long)
        segmentation[0, :8] = 1
        depth = torch.where(segmentation > 0, 4.0, 5.0)
        truth = Truth(
            depth=depth,
            world_from_cam=eye,
            intrinsics=pinhole(20.0, H, W).expand(2, 3, 3),
            segmentation=segmentation,
            positions=torch.tensor([[[0.0, 0, 4], [1, 0, 4]]]),
            quaternions=torch.stack([torch.tensor([0.0, 0, 0, 1]), quarter])[None],
        )
        now, then = points_at_time(truth, 0, 0), points_at_time(truth, 0, 1)
        assert torch.allclose(now[..., 2], depth[0])
        assert torch.allclose(then[8:], now[8:], atol=1e-6)
        x, y = now[:8, :, 0], now[:8, :, 1]
        assert torch.allclose(then[:8, :, :2], torch.stack([1 - y, x], dim=-1), atol=1e-5)
        assert torch.allclose(points_at_time(truth, 1, 1)[..., 0], points_at_time(truth, 1, 0)[..., 0])
