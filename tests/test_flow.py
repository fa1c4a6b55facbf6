"""Optical flow and what is believed of it."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from c4d_nb.camera import pixel_grid
from c4d_nb.correspondence.flow import (
    estimate_flow,
    estimate_flows,
    forward_backward_consistent,
    reverse_edges,
    sample_map,
)
from c4d_nb.errors import InputError
from c4d_nb.video import read_frames

RUBBERWHALE_EPE_PX = 0.12
"""Mean end-point error, a bound; measured 0.103."""


def texture(generator, height, width):
    """Smooth noise of two scales."""
    layers = [torch.rand(1, 3, height // s, width // s, generator=generator) for s in (4, 12)]
    layers = [torch.nn.functional.interpolate(x, (height, width), mode="bicubic") for x in layers]
    return (255 * sum(layers) / 2).clamp(0, 255)[0].permute(1, 2, 0).byte()


def constant(height, width, uv):
    return torch.tensor(uv, dtype=torch.float32).expand(height, width, 2).contiguous()


def read_flo(path):
    """Middlebury's format: a magic number, width, height, then (u, v) float32 in row order; above 1e9 is unknown."""
    content = path.read_bytes()
    assert content[:4] == b"PIEH"
    width, height = np.frombuffer(content, "<i4", 2, offset=4)
    return torch.from_numpy(np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2).copy())


@pytest.mark.parametrize("shift", [(5, 0), (-4, 3), (0, -6)])
def test_shifted_texture_gives_the_shift(generator, shift):
    image = texture(generator, 140, 180)
    du, dv = shift
    first = image[20:120, 20:160].contiguous()
    second = image[20 - dv : 120 - dv, 20 - du : 160 - du].contiguous()
    error = estimate_flow(first, second) - torch.tensor(shift)
    assert error[15:-15, 15:-15].norm(dim=-1).median() < 0.1


def test_still_image_has_no_flow(generator):
    image = texture(generator, 60, 80)
    assert estimate_flow(image, image).abs().max() < 0.05


def test_flow_of_every_edge_and_its_validity(generator):
    image = texture(generator, 100, 130)
    frames = torch.stack([image[10:90, 10 + 3 * i : 100 + 3 * i] for i in range(3)])
    flows, valid = estimate_flows(frames, torch.tensor([[0, 2], [2, 0]]))
    assert flows[:, 20:60, 20:70, 0].mean((1, 2)).tolist() == pytest.approx([-6, 6], abs=0.1)
    assert valid[:, 20:60, 20:70].float().mean() > 0.98


def small_mover(generator, steps):
    """(frames, where it is in the first): a square of 20 px over still ground moves right by 6 px from one to the
    next."""
    ground, square = texture(generator, 80, 160), texture(generator, 20, 20)
    frames = ground.repeat(steps + 1, 1, 1, 1)
    for i, frame in enumerate(frames):
        frame[30:50, 20 + 6 * i : 40 + 6 * i] = square
    return frames, (slice(34, 46), slice(24, 36))


def test_small_thing_that_moves_far_is_followed_through_the_frames_between(generator):
    frames, (rows, columns) = small_mover(generator, 9)
    far = torch.tensor([[0, 9], [9, 0]])
    flow = estimate_flows(frames, far, progress=False)[0][0, rows, columns]
    assert (flow - torch.tensor([54.0, 0.0])).norm(dim=-1).median() < 0.1
    flow = estimate_flows(frames[[0, 9]], torch.tensor([[0, 1], [1, 0]]), progress=False)[0][0, rows, columns]
    assert (flow - torch.tensor([54.0, 0.0])).norm(dim=-1).median() > 20


def test_order_of_edges_changes_nothing(generator):
    frames, _ = small_mover(generator, 4)
    edges = torch.tensor([[0, 4], [4, 0], [0, 1], [1, 0], [1, 4], [4, 1], [0, 3], [3, 0]])
    order = torch.randperm(len(edges), generator=generator)
    flows, valid = estimate_flows(frames, edges, progress=False)
    shuffled = estimate_flows(frames, edges[order], progress=False)
    assert torch.equal(shuffled[0], flows[order])
    assert torch.equal(shuffled[1], valid[order])


def test_neighbours_among_far_edges_have_the_flow_of_the_pair(generator):
    frames, _ = small_mover(generator, 3)
    edges = torch.tensor([[0, 3], [3, 0], [1, 2], [2, 1]])
    flows, _ = estimate_flows(frames, edges, progress=False)
    assert torch.equal(flows[2], estimate_flow(frames[1], frames[2]))


def test_match_outside_the_image_is_not_believed():
    forward = constant(20, 30, (4.0, 0.0))
    valid = forward_backward_consistent(forward, -forward)
    assert torch.equal(valid, (pixel_grid(20, 30)[..., 0] <= 25))


def test_exact_inverse_is_believed(generator):
    forward = constant(20, 30, (0.4, -0.3))
    assert forward_backward_consistent(forward, -forward)[1:, :-1].all()


def test_occluder_is_caught():
    """A square moves right by 6 over a still background: what it covers next is occluded, all else is not."""
    forward, backward = torch.zeros(2, 30, 40, 2)
    forward[10:20, 10:20, 0] = 6
    backward[10:20, 16:26, 0] = -6
    occluded = torch.zeros(30, 40, dtype=torch.bool)
    occluded[10:20, 20:26] = True
    assert torch.equal(forward_backward_consistent(forward, backward), ~occluded)


def test_occluder_is_caught_in_images(generator):
    """As above, by 8 px and with flow estimated from images; the outlines' surroundings are left out."""
    ground, square = texture(generator, 80, 120), texture(generator, 40, 40)
    frames = ground.repeat(2, 1, 1, 1)
    frames[0, 20:60, 30:70] = square
    frames[1, 20:60, 38:78] = square
    _, valid = estimate_flows(frames, torch.tensor([[0, 1], [1, 0]]))
    assert valid[0, 26:54, 72:76].float().mean() < 0.3
    assert valid[0, 26:54, 36:64].float().mean() > 0.95
    assert valid[0, 2:12].float().mean() > 0.95


def test_tolerance_is_that_of_sundaram():
    """|f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5: for f = (10, 0) b = (-limit, 0) is just on the border."""
    limit = (20 - (400 - 4 * 0.99 * 98.5) ** 0.5) / (2 * 0.99)
    for back, expected in ((limit + 1e-3, True), (limit - 1e-3, False)):
        forward, backward = constant(5, 60, (10.0, 0.0)), constant(5, 60, (-back, 0.0))
        assert bool(forward_backward_consistent(forward, backward)[2, 20]) is expected


def test_sample_map_against_scipy(generator):
    values = torch.randn(13, 17, 3, generator=generator, dtype=torch.float64)
    uv = torch.rand(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([16, 12])
    expected = [map_coordinates(values[..., c].numpy(), uv.flip(-1).T.numpy(), order=1) for c in range(3)]
    torch.testing.assert_close(sample_map(values, uv), torch.from_numpy(np.stack(expected, -1)))


def test_sample_map_at_pixel_centres_is_exact(generator):
    values = torch.randn(7, 9, 2, generator=generator)
    torch.testing.assert_close(sample_map(values, pixel_grid(7, 9)), values)


def test_sample_map_beyond_the_border_is_the_nearest_pixel(generator):
    values = torch.randn(7, 9, 1, generator=generator)
    sampled = sample_map(values, torch.tensor([[-5.0, 3], [20, 30]]))
    torch.testing.assert_close(sampled[:, 0], torch.stack([values[3, 0, 0], values[6, 8, 0]]))


@pytest.mark.parametrize("shape", [(2,), (5, 2), (3, 4, 2)])
def test_sample_map_keeps_leading_dimensions(shape):
    assert sample_map(torch.zeros(4, 5, 3), torch.zeros(shape)).shape == (*shape[:-1], 3)


def test_reverse_edges():
    assert reverse_edges(torch.tensor([[0, 1], [2, 0], [1, 0], [0, 2]])).tolist() == [2, 3, 0, 1]


def test_missing_reverse_is_named():
    with pytest.raises(InputError, match=r"^edges: .*\(0, 2\)"):
        reverse_edges(torch.tensor([[0, 1], [1, 0], [0, 2]]))


def test_unknown_method_is_refused(generator):
    image = texture(generator, 40, 40)
    with pytest.raises(InputError, match=r"^method: expected 'dis' or 'raft', but it is 'farneback'"):
        estimate_flow(image, image, method="farneback")


def test_rubber_whale(reference_data):
    """Mean end-point error on Middlebury's RubberWhale, of all matches and of those that are believed."""
    folder = reference_data / "data" / "middlebury_rubberwhale"
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist")
    frames = torch.from_numpy(np.stack(list(read_frames(folder)[0])))
    truth = read_flo(folder / "flow10.flo")
    known = (truth.abs() < 1e9).all(-1)
    flows, valid = estimate_flows(frames, torch.tensor([[0, 1], [1, 0]]))
    error = (flows[0] - truth).norm(dim=-1)
    assert error[known].mean() < RUBBERWHALE_EPE_PX
    assert error[known & valid[0]].mean() < error[known].mean()
