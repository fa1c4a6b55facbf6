"""Scores of whole pipelines: their means by hand, a short clip's beside the command's, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from c4d_nb import load_clip
from c4d_nb.clip import resize_clip, select_frames
from c4d_nb.metrics import score_table
from c4d_nb.pipeline_evaluation import SCORES, evaluate, main, summary
from c4d_nb.reconstruct import reconstruct


def test_summary_by_hand():
    """Three clips: scores of 1, 2 and 6; one that a clip lacks; one that only one has; one that none has."""
    lacks, alone, none = [2.0, math.nan, 4.0], [math.inf, 5.0, math.nan], [math.nan] * 3
    means, errors, medians = summary(torch.tensor([[1.0, 2.0, 6.0], lacks, alone, none]).T)
    assert means[:3] == [3.0, 3.0, 5.0]
    assert medians[:3] == [2.0, 2.0, 5.0]  # of two, torch takes the lower one
    assert errors[:2] == pytest.approx([7**0.5 / 3**0.5, 1.0])
    assert all(map(math.isnan, (errors[2], means[3], errors[3], medians[3])))


@pytest.fixture(scope="module")
def clip(request):
    return resize_clip(select_frames(load_clip(request.config.rootpath / "data" / "movi_e.npz"), max_frames=6), 128)


def test_scores_are_those_of_the_reconstruction(clip):
    found = dict(zip(SCORES, evaluate(clip, None), strict=True))
    direct = score_table(reconstruct(clip), clip.truth)
    assert found["ATE (% of path)"] == direct["ATE (% of path)"]
    assert found["AbsRel"] == direct["depth AbsRel"]
    assert found["mask IoU"] == direct["motion mask IoU"]
    assert 0 < found["path (share of true)"] < 10
    assert 0 < found["track flicker (m)"] < 1
    assert 0 < found["depth flicker"] < 1


def test_command_prints_every_clip_and_the_mean(clip, tmp_path, capsys):
    """Two clips under two pipelines; the mean is that of the rows above it."""
    for name in ("a", "b"):
        clip.save(tmp_path / f"{name}.npz")
    assert main([str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[:2] for line in lines] == [
        *(["a", "two_view"], ["a", "small"], ["b", "two_view"], ["b", "small"]),
        *(["mean", "two_view"], ["median", "two_view"], ["mean", "small"], ["median", "small"]),
    ]
    assert lines[0][2:] == lines[2][2:] == lines[4][2::3] == lines[5][2:]
    assert lines[1][2:] == lines[3][2:] == lines[6][2::3] == lines[7][2:]
    assert lines[0][2:] != lines[1][2:]


@pytest.mark.parametrize(
    ("lacks", "said"),
    [({"truth": None}, "clip: expected one with the truth of mini-Kubric"), ({"tracks": None}, "it has no tracks")],
)
def test_clip_without_truth(clip, tmp_path, caplog, lacks, said):
    part = replace(clip, truth=None) if "truth" in lacks else replace(clip, truth=replace(clip.truth, **lacks))
    part.save(tmp_path / "a.npz")
    assert main([str(tmp_path), "--pointmaps", "two_view"]) == 2
    assert said in caplog.text


def test_bad_arguments(tmp_path, caplog):
    assert main([str(tmp_path)]) == 2
    assert "expected a folder of clip archives" in caplog.text
    assert main([str(tmp_path), "--pointmaps", "huge"]) == 2
    assert "pointmaps: " in caplog.text
    assert main([str(tmp_path), "--tracker", "huge"]) == 2
    assert "tracker: " in caplog.text
