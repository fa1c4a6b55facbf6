"""The toy world: what its tracks say is what its pictures show."""

import pytest
import torch

from c4d_nb.correspondence.flow import sample_map
from c4d_nb.correspondence.toy import sliding_clip


@pytest.fixture(scope="module")
def toy():
    return sliding_clip(3, frames=10, size=64, points=200)


def test_same_arguments_same_clip(toy):
    again, other = sliding_clip(3, frames=10, size=64, points=200), sliding_clip(4, frames=10)
    assert torch.equal(toy.frames, again.frames)
    assert torch.equal(toy.truth.tracks.uv, again.truth.tracks.uv)
    assert not torch.equal(toy.frames, other.frames)


def test_points_keep_their_colours(toy):
    """Away from the outline, where bilinear sampling mixes two pictures."""
    tracks = toy.truth.tracks
    colors = torch.stack([sample_map(frame.float(), uv) for frame, uv in zip(toy.frames, tracks.uv, strict=True)])
    first = tracks.visible.float().argmax(dim=0)
    expected = colors[first, torch.arange(len(first))]
    error = (colors - expected).abs().amax(dim=-1)[tracks.visible]
    assert error.quantile(0.9) < 12


def test_each_picture_moves_as_one(toy):
    tracks = toy.truth.tracks
    step = tracks.uv.diff(dim=0)
    for kind in (True, False):
        moved = step[:, (tracks.mobility[0] > 0.5) == kind]
        torch.testing.assert_close(moved, moved[:1, :1].expand_as(moved), atol=1e-4, rtol=0)
    apart = step[0, tracks.mobility[0] > 0.5][0] - step[0, tracks.mobility[0] < 0.5][0]
    assert 1 <= apart.norm() <= 3


def test_queries_are_visible(toy):
    tracks = toy.truth.tracks
    assert tracks.visible[tracks.query_frame, torch.arange(tracks.uv.shape[1])].all()


def test_square_hides_what_is_behind_it(toy):
    """No visible static point lies amid the dynamic ones."""
    tracks = toy.truth.tracks
    square = tracks.uv[5, tracks.mobility[5] > 0.5]
    low, high = square.min(dim=0).values + 1, square.max(dim=0).values - 1
    static = tracks.mobility[5] < 0.5
    behind = ((tracks.uv[5] > low) & (tracks.uv[5] < high)).all(dim=-1) & static
    assert behind.any()
    assert not tracks.visible[5, behind].any()
