"""Where the numbers of the second look are from."""

from dataclasses import replace

import pytest
import torch

from c4d_nb.clip import select_frames
from c4d_nb.correspondence.tracking import track_by_flow
from c4d_nb.kubric.generate import EXIT_BAD_INPUT
from c4d_nb.mobility_fit import fit, main, witnesses

TRUE = torch.tensor([0.7, 2.5])
CONSTANT = -0.6


@pytest.fixture(scope="module")
def short(yard):
    """Twelve frames of the yard with their true tracks."""
    clip, kept = select_frames(yard, max_frames=12), yard.truth.tracks.query_frame < 12
    tracks = yard.truth.tracks
    maps = {name: getattr(tracks, name)[:12, kept] for name in ("uv", "visible", "confidence", "mobility")}
    tracks = replace(tracks, **maps, query_frame=tracks.query_frame[kept])
    return replace(clip, truth=replace(clip.truth, tracks=tracks))


def test_what_was_drawn_is_found():
    """But for the prior, which takes from what varies little."""
    generator = torch.Generator().manual_seed(0)
    said = torch.stack([3 * torch.randn(50_000, generator=generator), torch.rand(50_000, generator=generator)], dim=1)
    moves = torch.rand(50_000, generator=generator) < (said @ TRUE + CONSTANT).sigmoid()
    weights, constant = fit(said, moves)
    assert weights[0].item() == pytest.approx(TRUE[0].item(), rel=0.05)
    assert 0.75 * TRUE[1] < weights[1] < TRUE[1]
    at_the_mean = (weights @ said.double().mean(dim=0)).item() + constant
    assert at_the_mean == pytest.approx((TRUE @ said.mean(dim=0) + CONSTANT).item(), abs=0.05)


def test_what_says_nothing_weighs_nothing():
    generator = torch.Generator().manual_seed(1)
    said = torch.randn(20_000, 2, generator=generator)
    moves = torch.rand(20_000, generator=generator) < 0.25
    weights, constant = fit(said, moves)
    assert weights.abs().max() < 0.05
    assert constant == pytest.approx(-1.0986, abs=0.05)  # the log odds of a quarter


def test_classes_that_never_mix_have_an_end():
    said = torch.tensor([[-1.0], [-0.5], [0.5], [1.0]])
    weights, constant = fit(said, said[:, 0] > 0)
    assert 1 < weights.item() < 100
    assert constant == pytest.approx(0, abs=1e-4)


def test_witnesses_of_a_clip(short):
    said, moves = witnesses(short, track_by_flow)
    true = short.truth.tracks
    assert said.shape == (len(true.query_frame), 2)
    assert torch.equal(moves, true.mobility[0] > 0.5)
    assert ((said[:, 1] >= 0) & (said[:, 1] <= 1)).all()
    assert said[moves].mean(dim=0).gt(said[~moves].mean(dim=0)).all()


def test_command(short, tmp_path, capsys):
    short.save(tmp_path / "yard-0.npz")
    assert main([str(tmp_path), "--tracker", "flow"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{len(short.truth.tracks.query_frame)} tracks of 1 clips, ")
    assert second.startswith("log odds = ")
    assert third.startswith("where the tracker's count once: outside -")


def test_command_refuses_a_folder_without_clips(tmp_path, caplog):
    assert main([str(tmp_path), "--tracker", "flow"]) == EXIT_BAD_INPUT
    assert "clips: expected a folder of clip archives" in caplog.text
