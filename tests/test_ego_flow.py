"""Ego-flow of pairs against exact flow; MonST3R's rule by hand; motion along the epipolar line, seen with depth."""

import torch
from scenes import room

from c4d_nb.ego_flow import ego_flow_masks, pair_ego_flows

EDGES = torch.tensor([[0, 1], [2, 0]])


def test_exact_pairs_give_exact_flow():
    """In px, at any scale of a pair. PnP takes the world's points in single precision."""
    scene = room(t=3)
    pairs = scene.pairs(EDGES, torch.Generator().manual_seed(0))
    expected = torch.stack([scene.flow(n, m) for n, m in EDGES.tolist()])
    torch.testing.assert_close(pair_ego_flows(pairs, scene.intrinsics[0].float()), expected, atol=5e-3, rtol=0)


def test_unknown_focal_is_taken_from_the_pairs():
    scene = room(t=3)
    pairs = scene.pairs(EDGES, torch.Generator().manual_seed(0))
    known = pair_ego_flows(pairs, scene.intrinsics[0].float())
    torch.testing.assert_close(pair_ego_flows(pairs), known, atol=5e-3, rtol=0)


def test_points_behind_the_second_camera_have_no_flow():
    scene = room(t=3)
    pairs = scene.pairs(EDGES)
    pairs.xyz_1[0, 0, 0, 2] = -5.0
    flows = pair_ego_flows(pairs, scene.intrinsics[0].float())
    assert flows[0, 0, 0].isnan().all()
    assert torch.isfinite(flows[0, 1:]).all()


def test_ego_flow_masks_by_hand():
    """Distances 0, 1 and 4 px are 0, 0.25 and 1 of the pair's most; a second pair, where nothing moves, halves them."""
    ego = torch.zeros(2, 1, 3, 2)
    flows = ego.clone()
    flows[0, 0, :, 0] = torch.tensor([0.0, 1, 4])
    masks = ego_flow_masks(flows, ego, torch.tensor([[0, 1], [0, 2]]), frames=3)
    assert masks[0, 0].tolist() == [False, False, True]
    assert not masks[1:].any()
