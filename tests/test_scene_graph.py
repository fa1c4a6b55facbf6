"""The scene graph's counts and layout."""

import pytest
import torch

from c4d_nb.correspondence.flow import reverse_edges
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.scene_graph import sliding_window_graph


@pytest.mark.parametrize(("t", "count"), [(24, 190), (50, 450), (90, 850), (2, 2), (3, 4)])
def test_number_of_edges(t, count):
    assert len(sliding_window_graph(t)) == count


@pytest.mark.parametrize("t", [2, 7, 24])
def test_second_half_is_the_first_reversed(t):
    first, second = sliding_window_graph(t).chunk(2)
    assert torch.equal(second, first.flip(1))


def test_first_half_runs_forward_and_is_sorted():
    first = sliding_window_graph(24)[:95].tolist()
    assert all(n < m for n, m in first)
    assert first == sorted(first)


def test_offsets_are_those_asked_for():
    edges = sliding_window_graph(10, offsets=(4, 2))
    assert set((edges[:, 1] - edges[:, 0]).tolist()) == {-4, -2, 2, 4}


def test_repeated_offsets_count_once():
    assert torch.equal(sliding_window_graph(6, offsets=(1, 1, 3)), sliding_window_graph(6, offsets=(1, 3)))


def test_up_to_ten_partners():
    assert sliding_window_graph(24)[:, 0].bincount().tolist()[9:15] == [10] * 6


def test_reverse_edges_agree_with_the_layout():
    edges = sliding_window_graph(5)
    half = len(edges) // 2
    assert reverse_edges(edges).tolist() == [*range(half, 2 * half), *range(half)]


@pytest.mark.parametrize(
    ("name", "t", "offsets"), [("t", 1, (1,)), ("offsets", 5, ()), ("offsets", 5, (0, 1)), ("offsets", 5, (-1,))]
)
def test_errors_name_the_argument(name, t, offsets):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        sliding_window_graph(t, offsets=offsets)
