"""The comparison of objectives: its summary by hand, its rows on a short clip, and what its command refuses."""

import pytest
import torch

from c4d_nb import load_clip
from c4d_nb.alignment_evaluation import SCORES, alignments, evaluate, inputs_of, main, summary
from c4d_nb.mask_evaluation import correspondences
from c4d_nb.pointmaps.dust3r import DUSt3R


def test_summary_by_hand():
    """Two clips, two seeds, one score: means over clips are 2 and 4, over seeds 1 and 5."""
    mean, over_seeds, over_clips = summary(torch.tensor([[[0.0], [2.0]], [[4.0], [6.0]]]))
    assert (mean, over_seeds) == ([3.0], [1.0])
    assert over_clips == pytest.approx([2 / 2**0.5])


@pytest.fixture(scope="module")
def clip(request):
    return load_clip(request.config.rootpath / "data" / "movi_e.npz", max_frames=6)


@pytest.fixture(scope="module")
def network():
    return DUSt3R.from_checkpoint("small")


def test_every_formulation_has_its_own_objectives(clip, network):
    """GA alone has neither of the others; stage 2 moves depth and leaves the cameras."""
    found = dict(alignments(inputs_of(correspondences(clip), network, long_side=24)))
    assert list(found) == ["GA only", "MonST3R's objective", "C4D, stage 1", "C4D, both stages"]
    assert not found["GA only"].losses.get("cma", torch.zeros(1)).nan_to_num().any()
    assert found["C4D, stage 1"].losses["cma"][-1] > 0
    before, after = found["C4D, stage 1"], found["C4D, both stages"]
    assert torch.equal(before.world_from_cam, after.world_from_cam)
    assert not torch.equal(before.depth, after.depth)


def test_scores_are_finite(clip, network):
    table = evaluate(clip, network, seed=0, long_side=24)
    assert all(len(row) == len(SCORES) for row in table.values())
    assert all(torch.isfinite(torch.tensor(row)).all() for row in table.values())


def test_folder_without_clips(tmp_path, caplog):
    assert main([str(tmp_path)]) == 2
    assert "folder: expected clip archives" in caplog.text
