"""Grid query sampling: the supplement's rule, worked by hand."""

import pytest
import torch

from c4d_nb.correspondence.queries import clip_queries, sample_grid_queries
from c4d_nb.errors import InputError


def black_with_dots(height, width, dots):
    frame = torch.zeros(height, width, 3, dtype=torch.uint8)
    for u, v in dots:
        frame[v, u] = 255
    return frame


def cells_of(uv, cell):
    return [tuple(c) for c in (uv // cell).int().tolist()]


def test_strongest_gradient_lies_beside_a_bright_pixel(generator):
    """Sobel is 0 at a lone bright pixel and largest (2 of 4 x 255) at its four neighbours; the first of these wins."""
    queries = sample_grid_queries(black_with_dots(10, 10, [(5, 5)]), cell=10, generator=generator)
    assert queries.uv[0].tolist() == [5, 4]


def test_strongest_gradient_of_an_edge(generator):
    """A step between columns 3 and 4 has its gradient in both; row order takes column 3 of the first row."""
    frame = torch.zeros(6, 8, 3, dtype=torch.uint8)
    frame[:, 4:] = 200
    assert sample_grid_queries(frame, cell=8, generator=generator).uv[0].tolist() == [3, 0]


def test_stronger_edge_wins(generator):
    frame = torch.zeros(6, 12, 3, dtype=torch.uint8)
    frame[:, 3:] = 50
    frame[:, 9:] = 250
    assert sample_grid_queries(frame, cell=12, generator=generator).uv[0, 0].item() == 8


@pytest.mark.parametrize(
    ("height", "width", "cell", "count"),
    [(20, 20, 20, 1), (21, 41, 20, 6), (40, 60, 20, 6), (5, 5, 20, 1), (3, 4, 1, 12)],
)
def test_two_queries_a_cell(generator, height, width, cell, count):
    queries = sample_grid_queries(black_with_dots(height, width, []), cell=cell, generator=generator)
    assert queries.is_gradient.tolist() == [True] * count + [False] * count
    assert queries.uv.shape == (2 * count, 2)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (47, 53), (21, 19)])
def test_each_point_lies_in_its_own_cell(generator, height, width):
    """Both halves run through the cells row by row, partial ones included."""
    frame = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    uv = sample_grid_queries(frame, cell=20, generator=generator).uv
    cells = [(i, j) for j in range(-(-height // 20)) for i in range(-(-width // 20))]
    assert cells_of(uv, 20) == cells * 2


def test_points_lie_inside_the_image(generator):
    frame = torch.randint(0, 256, (41, 41, 3), generator=generator, dtype=torch.uint8)
    for _ in range(20):
        uv = sample_grid_queries(frame, cell=20, generator=generator).uv
        assert (uv <= 40).all()


def test_queries_are_whole_pixels(generator):
    uv = sample_grid_queries(black_with_dots(47, 53, [(20, 20)]), cell=20, generator=generator).uv
    assert torch.equal(uv, uv.round())


def test_random_point_reaches_the_whole_cell(generator):
    frame = black_with_dots(4, 4, [])
    seen = {tuple(sample_grid_queries(frame, cell=4, generator=generator).uv[1].tolist()) for _ in range(300)}
    assert len(seen) == 16


@pytest.mark.parametrize(("seed", "same"), [(7, True), (8, False)])
def test_seed_decides_the_random_half(seed, same):
    frame = black_with_dots(60, 60, [(10, 10), (33, 50)])
    first, second = (
        sample_grid_queries(frame, cell=20, generator=torch.Generator().manual_seed(s)).uv for s in (7, seed)
    )
    assert torch.equal(first, second) == same
    assert torch.equal(first[:9], second[:9])


def test_flat_image_takes_the_first_pixel_of_each_cell(generator):
    uv = sample_grid_queries(black_with_dots(21, 40, []), cell=20, generator=generator).uv
    assert uv[:4].tolist() == [[0, 0], [20, 0], [0, 20], [20, 20]]


def test_clip_queries_start_every_window(generator):
    frames = torch.randint(0, 256, (10, 40, 40, 3), generator=generator, dtype=torch.uint8)
    queries = clip_queries(frames, every=4, cell=20, generator=generator)
    assert queries.frame.tolist() == [0] * 8 + [4] * 8 + [8] * 8


def test_clip_queries_are_those_of_their_frames(generator):
    frames = torch.randint(0, 256, (5, 40, 40, 3), generator=generator, dtype=torch.uint8)
    queries = clip_queries(frames, every=4, cell=20, generator=torch.Generator().manual_seed(1))
    expected = sample_grid_queries(frames[4], cell=20, generator=torch.Generator().manual_seed(1)).uv[:4]
    assert torch.equal(queries.uv[8:12], expected)


def test_cell_below_one_is_refused(generator):
    with pytest.raises(InputError, match=r"^cell: expected"):
        sample_grid_queries(black_with_dots(5, 5, []), cell=0, generator=generator)


def test_every_below_one_is_refused(generator):
    with pytest.raises(InputError, match=r"^every: expected"):
        clip_queries(black_with_dots(5, 5, [])[None], every=0, generator=generator)
