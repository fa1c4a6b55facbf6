"""Pictures of smoothing: what they plot is what smoothing says."""

import ipywidgets
import pytest
import torch

from c4d_nb.show import smoothing as show
from c4d_nb.show.figures import DYNAMIC_COLOR
from c4d_nb.show.widgets import smoothing_explorer
from c4d_nb.smoothing import smooth_trajectories


@pytest.fixture
def paths(generator):
    """A point that rises, and samples of it."""
    true = torch.linspace(0, 1, 12)[:, None] * torch.tensor([0.2, -0.1, 1.0])
    return true, true + 0.05 * torch.randn(12, 3, generator=generator)


def line(ax, color):
    return next(torch.tensor(found.get_ydata()) for found in ax.lines if found.get_color() == color)


def test_track_figure_shows_height_and_errors(paths):
    true, noisy = paths
    smoothed = smooth_trajectories(noisy[:, None])[:, 0]
    weights = torch.linspace(0, 1, 12)
    top, middle, bottom = show.track_figure(true, noisy, {"paper": smoothed}, {"paper": weights}).axes
    assert top.get_ylabel() == "height (m)"
    assert torch.equal(line(top, DYNAMIC_COLOR), smoothed[:, 2])
    torch.testing.assert_close(line(middle, DYNAMIC_COLOR), (smoothed - true).norm(dim=1))
    assert [bar.get_height() for bar in bottom.patches] == pytest.approx(weights.tolist())
    assert len(show.track_figure(true, noisy, {"paper": smoothed}).axes) == 2


def test_options_reach_the_smoothing(paths):
    true, noisy = paths
    options = show.SmoothingOptions(kernel_size=3, decay=2.0, per_median_step=True, both_steps=True)
    figure = show.options_figure(true, noisy, options)
    expected = smooth_trajectories(noisy[:, None], kernel_size=3, decay=2.0, per_median_step=True, both_steps=True)
    torch.testing.assert_close(line(figure.axes[0], DYNAMIC_COLOR), expected[:, 0, 2])
    after = 100 * (expected[:, 0] - true).norm(dim=1).mean()
    assert figure.axes[0].get_title().endswith(f"{after:.1f} cm after")


def test_a_spike_is_added_in_the_middle(paths):
    true, noisy = paths
    figure = show.options_figure(true, noisy, show.SmoothingOptions(spike=True))
    distance = line(figure.axes[1], "black")
    expected = (noisy - true)[6] + torch.tensor([0, 0, show.SPIKE_M])
    assert distance[6].item() == pytest.approx(expected.norm().item(), rel=1e-5)
    assert distance.argmax() == 6


def test_explorer_draws_anew(paths):
    explorer = smoothing_explorer(*paths)
    pictures = [explorer.children[-1].value]
    size, decay = explorer.children[0].children
    size.value = 9
    pictures.append(explorer.children[-1].value)
    decay.value = 10.0
    pictures.append(explorer.children[-1].value)
    boxes = explorer.children[1].children
    assert all(isinstance(box, ipywidgets.Checkbox) for box in boxes)
    boxes[-1].value = True
    pictures.append(explorer.children[-1].value)
    assert len(set(pictures)) == 4


def test_decay_figure_is_in_centimetres():
    decays = torch.tensor([0.1, 1, 10])
    figure = show.decay_figure(decays, {"static": {3: decays, 5: 2 * decays}}, {"static": 0.5})
    lines = [torch.tensor(found.get_ydata()) for found in figure.axes[0].lines]
    torch.testing.assert_close(lines[1], 200 * decays)
    assert list(lines[2]) == [50, 50]


def test_frames_figure_marks_seams():
    figure = show.frames_figure({"a": torch.arange(5.0), "b": torch.zeros(5)}, "steps", seams=(3,))
    ax = figure.axes[0]
    assert list(ax.lines[0].get_xdata()) == [2.5, 2.5]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_blend_figure_colors_alike(generator):
    frame = torch.zeros(6, 8, 3, dtype=torch.uint8)
    uv, moved = torch.tensor([[1.0, 2], [6, 4]]), torch.tensor([-0.5, 0.5])
    dense = {"k = 1": torch.randn(6, 8, generator=generator)}
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[2:4, 3:6] = True
    first, second = show.blend_figure(frame, uv, moved, dense, "moved (m)", mask).axes[:2]
    assert first.collections[0].get_clim() == second.images[0].get_clim()
    torch.testing.assert_close(torch.as_tensor(second.images[0].get_array()), dense["k = 1"])
    assert first.get_title() == "2 controls"


def test_slices_show_relative_error_after_one_scale():
    """A factor on the whole video is no error; one frame 10 % too far is one, in that frame."""
    true = torch.full((5, 6, 7), 4.0)
    wrong = true.clone()
    wrong[3] *= 1.1
    frame = torch.zeros(6, 7, 3, dtype=torch.uint8)
    figure = show.slices_figure(frame, {"scaled": 3 * true, "flickers": wrong}, true, 2)
    grid = {ax.get_subplotspec().num1: ax for ax in figure.axes if ax.get_subplotspec() and ax.images}
    assert [grid[i].get_title() for i in (0, 1, 2, 3)] == ["column 2", "scaled", "flickers", "truth"]
    scaled, error, change = (torch.as_tensor(grid[i].images[0].get_array()) for i in (4, 5, 8))
    assert scaled.abs().max() < 1e-4
    torch.testing.assert_close(error[0], torch.tensor([0, 0, 0, 10.0, 0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(change[0], torch.tensor([0, 0, 10.0, -10]), rtol=0, atol=1e-4)
