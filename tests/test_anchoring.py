"""Tracks held to the patches around their queries."""

import math

import pytest
import torch
import torch.nn.functional as F

from c4d_nb.correspondence.anchoring import PATCH_PX, REACH_PX, anchor
from c4d_nb.correspondence.queries import Queries
from c4d_nb.errors import InputError

SIZE = (60, 80)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth random texture, 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, height // 3, width // 3, generator=generator)
    return 255 * F.interpolate(noise, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)[0, 0]


def shifted(shifts: list[tuple[float, float]]) -> torch.Tensor:
    """A frame for every (x, y) shift of one picture, exact to a tenth of a px: cut from it at ten times the size."""
    margin, (height, width) = 12, SIZE
    large = F.interpolate(picture(height + 2 * margin, width + 2 * margin)[None, None], scale_factor=10, mode="bicubic")
    frames = []
    for x, y in shifts:
        left, top = round(10 * (margin - x)), round(10 * (margin - y))
        frames.append(F.avg_pool2d(large[..., top : top + 10 * height, left : left + 10 * width], 10)[0, 0])
    gray = torch.stack(frames).clamp(0, 255).round().to(torch.uint8)
    return gray[..., None].expand(-1, -1, -1, 3).contiguous()


def lattice(n: int = 5) -> torch.Tensor:
    x, y = torch.linspace(20, SIZE[1] - 20, n), torch.linspace(20, SIZE[0] - 20, n)
    return torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1).reshape(-1, 2)


def queries(frame: int = 0, n: int = 5) -> Queries:
    return Queries(lattice(n), torch.full((n * n,), frame))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (1.4, 2.7), (-6.3, 0.5)])
@pytest.mark.parametrize("source", [0, 1])
def test_a_shift_is_found_from_where_a_drifted_track_is(shift, source):
    """Begun 1.5 px off, in both directions of time."""
    frames, asked = shifted([(0, 0), shift]), queries(source)
    true = torch.stack([asked.uv, asked.uv])
    true[1 - source] += torch.tensor(shift) * (1 if source == 0 else -1)
    start = true.clone()
    start[1 - source] += torch.tensor([1.2, -0.9])
    uv, found = anchor(frames, asked, start)
    assert found.float().mean() > 0.9
    assert (uv - true)[found].norm(dim=-1).max() < 0.1
    torch.testing.assert_close(uv[~found], start[~found])


def test_query_stays_where_it_was_asked_for():
    asked = queries(1)
    uv, found = anchor(shifted([(0, 0)] * 3), asked, torch.full((3, 25, 2), 40.0))
    assert torch.equal(uv[1], asked.uv)
    assert found[1].all()


def test_nothing_is_found_where_nothing_is_to_be_seen():
    """No texture, another picture, or the same one too far off: positions stay as they are."""
    frames, asked = shifted([(0, 0)] * 2), queries()
    start = torch.stack([asked.uv, asked.uv + 0.5])
    flat = torch.full_like(frames, 90)
    other = torch.stack([frames[0], picture(*SIZE, seed=1).to(torch.uint8)[..., None].expand(-1, -1, 3)])
    for clip, allowed in ((flat, 0), (other, 0.1)):
        uv, found = anchor(clip, asked, start)
        assert found[1].float().mean() <= allowed
        torch.testing.assert_close(uv[~found], start[~found])
    far = start + 2 * REACH_PX
    uv, found = anchor(frames, asked, far)
    assert found[1].float().mean() < 0.1
    assert ((uv - far)[1].norm(dim=-1) < REACH_PX).all()


def test_a_point_behind_something_is_not_found():
    frames = shifted([(0, 0)] * 2).clone()
    asked = queries()
    frames[1, :, :40] = picture(*SIZE, seed=2).to(torch.uint8)[:, :40, None]
    _, found = anchor(frames, asked, asked.uv.expand(2, -1, -1).clone())
    hidden = asked.uv[:, 0] < 36
    assert found[1][asked.uv[:, 0] > 44].all()
    assert found[1][hidden].float().mean() < 0.1


@pytest.mark.parametrize("place", [(0.0, 30.0), (PATCH_PX // 2 - 0.1, 30.0), (40.0, SIZE[0] - 2.0), (-0.5, -0.5)])
def test_patches_that_the_border_cuts_are_not_found(place):
    asked = Queries(torch.tensor([place]), torch.tensor([0]))
    _, found = anchor(shifted([(0, 0)] * 2), asked, asked.uv.expand(2, -1, -1).clone())
    assert found[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 7), (8, 40)])
def test_small_frames(size):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (3, *size, 3), generator=generator, dtype=torch.uint8)
    asked = Queries(torch.zeros(4, 2), torch.tensor([0, 1, 2, 2]))
    uv, found = anchor(frames, asked, torch.zeros(3, 4, 2))
    assert torch.isfinite(uv).all()
    assert found[asked.frame, torch.arange(4)].all()


def test_order_kind_and_input_are_kept(generator):
    """Points far beyond the frame are none of its business."""
    frames, asked = shifted([(0, 0), (2, 1), (-1.3, 3)]), queries()
    start = asked.uv.double().expand(3, -1, -1) + torch.rand(3, 25, 2, generator=generator, dtype=torch.float64)
    start[2, 0] = 1e6
    kept, order = start.clone(), torch.randperm(25, generator=generator)
    uv, found = anchor(frames, asked, start)
    again, found_again = anchor(frames, Queries(asked.uv[order], asked.frame[order]), start[:, order])
    assert torch.equal(start, kept)
    assert uv.dtype == torch.float64
    assert math.isclose(uv[2, 0, 0].item(), 1e6)
    torch.testing.assert_close(uv[:, order], again, atol=1e-2, rtol=0)
    assert torch.equal(found[:, order], found_again)


@pytest.mark.parametrize(("uv", "frame"), [(torch.zeros(0, 2), []), ([[90.0, 3.0]], [0]), ([[3.0, 3.0]], [2])])
def test_queries_that_are_none(uv, frame):
    asked = Queries(torch.as_tensor(uv), torch.tensor(frame, dtype=torch.long))
    with pytest.raises(InputError, match="queries: expected points"):
        anchor(shifted([(0, 0)] * 2), asked, asked.uv.expand(2, -1, -1))
