"""Guesses of depth: movers stand on the ground; and the weighted median they and others rest on."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from c4d_nb.pointmaps.fill import stand_on_ground
from c4d_nb.statistics import weighted_median


def ramp(height: int = 8, width: int = 6) -> torch.Tensor:
    """Ground that comes nearer towards the lower edge: depth is 10 in the first row, 3 in the last."""
    return torch.linspace(10, 3, height)[None, :, None].expand(1, height, width).clone()


def test_a_mover_takes_the_depth_right_below_its_foot() -> None:
    depth, moving = ramp(), torch.zeros(1, 8, 6, dtype=torch.bool)
    moving[0, 2:5, 1:4] = True
    standing = stand_on_ground(depth, moving, ~moving)
    assert (standing[moving] == depth[0, 5, 0]).all()
    assert torch.equal(standing[~moving], depth[~moving])


def test_a_higher_part_of_the_outline_does_not_count_as_foot() -> None:
    depth, moving = ramp(), torch.zeros(1, 8, 6, dtype=torch.bool)
    moving[0, 1:6, 1] = True  # a leg
    moving[0, 1:3, 1:5] = True  # a body that hangs over the ground
    assert (stand_on_ground(depth, moving, ~moving)[moving] == depth[0, 6, 0]).all()


def test_two_movers_stand_each_on_its_own_ground() -> None:
    depth, moving = ramp(), torch.zeros(1, 8, 6, dtype=torch.bool)
    moving[0, 1:3, 0] = True
    moving[0, 3:6, 4] = True
    standing = stand_on_ground(depth, moving, ~moving)
    assert standing[0, 1, 0] == depth[0, 3, 0]
    assert standing[0, 3, 4] == depth[0, 6, 0]


def test_without_measured_ground_below_nothing_changes() -> None:
    depth, moving = ramp(), torch.zeros(1, 8, 6, dtype=torch.bool)
    moving[0, 5:, 2] = True  # leaves the image below
    assert torch.equal(stand_on_ground(depth, moving, ~moving), depth)
    moving[0] = False
    moving[0, 2:5, 1:4] = True
    assert torch.equal(stand_on_ground(depth, moving, torch.zeros_like(moving)), depth)


def test_weighted_median_by_hand() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    weight = torch.tensor([[1.0, 1.0, 1.0], [5.0, 1.0, 1.0]])
    assert weighted_median(values, weight).tolist() == [2.0, 3.0]


def test_weighted_median_without_weight_is_the_smallest() -> None:
    assert weighted_median(torch.tensor([3.0, 1.0, 2.0]), torch.zeros(3)) == 1.0


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9), st.data())
def test_whole_weights_are_repetitions(values: list[int], data: st.DataObject) -> None:
    weight = data.draw(st.lists(st.integers(1, 4), min_size=len(values), max_size=len(values)))
    repeated = torch.tensor(values).repeat_interleave(torch.tensor(weight)).float()
    found = weighted_median(torch.tensor(values).float(), torch.tensor(weight).float())
    assert found == repeated.sort().values[(len(repeated) - 1) // 2]
