"""Pictures of tracker and queries: what they draw, not how it looks."""

import math

import pytest
import torch

from c4d_nb import Clip
from c4d_nb.correspondence.dynpt import DynPT, DynPTConfig, initial_state
from c4d_nb.correspondence.losses import TrackTruth
from c4d_nb.correspondence.queries import gradient_magnitude, sample_grid_queries, uniform_queries
from c4d_nb.correspondence.toy import sliding_clip
from c4d_nb.show import dynpt as show
from c4d_nb.show import queries as show_queries
from c4d_nb.show.widgets import query_explorer


@pytest.fixture(scope="module")
def toy() -> Clip:
    return sliding_clip(0, frames=6)


def test_features_of_two_kinds_have_two_colours():
    values = torch.zeros(8, 10, 10)
    values[0, :, :5], values[1, :, 5:] = 1, 1
    image = show._main_components(values + 0.01 * torch.randn(8, 10, 10, generator=torch.Generator().manual_seed(0)))
    assert (image[:, :5].mean(dim=(0, 1)) - image[:, 5:].mean(dim=(0, 1))).abs().max() > 0.5


def test_feature_at_a_cell_is_that_cell(generator):
    level = torch.rand(5, 7, 3, generator=generator)
    torch.testing.assert_close(show._at(level, 4, 2), level[2, 4])
    torch.testing.assert_close(show._at(level, 4.5, 2), (level[2, 4] + level[2, 5]) / 2)


def test_figures_of_the_network(toy):
    model = DynPT(DynPTConfig(encoders=("cnn",), channels=8, levels=2, width=16, depth=1, virtual=2)).eval()
    frames = toy.frames.permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    tracks = toy.truth.tracks
    queries = torch.cat([torch.zeros(20, 1), tracks.uv[0, :20]], dim=1)[None]
    truth = TrackTruth(
        tracks.uv[None, :, :20],
        tracks.visible[None, :, :20],
        tracks.mobility[None, :, :20] > 0.5,
        torch.ones(1, 6, 20, dtype=torch.bool),
        torch.zeros(1, 20, dtype=torch.long),
    )
    with torch.inference_mode():
        pyramid = model.encode(frames)
        states = [initial_state(queries, 6), *model(frames, queries)]
    assert (
        len(
            show.correlation_figure(
                toy.frames, pyramid, (0, 30.0, 30.0), (5, 32.0, 30.0), truth=(31.0, 30.0), radius=2
            ).axes
        )
        == 4
    )
    assert len(show.feature_figure(toy.frames[0], {"one": pyramid.levels[0][0, 0].permute(2, 0, 1)}).axes) == 2
    left, right = show.passes_figure(toy.frames[3], states, truth, 3).axes
    assert len(right.lines) == 4
    assert all(len(line.get_xdata()) in (1, 4, len(left.lines[-1].get_xdata())) for line in left.lines)


def test_tracks_and_their_errors(toy):
    figure = show.tracks_figure(toy, toy.truth.tracks, count=3)
    assert len(figure.axes) == 7
    _, right = show.error_figure(toy, toy.truth.tracks, toy.truth.tracks).axes
    assert all(max(line.get_ydata()) == 0 for line in right.lines)


def test_distance_to_query():
    distance = show_queries.distance_to_query((4, 6), torch.tensor([[1.0, 1.0]]))
    assert distance[1, 1] == 0
    assert distance[3, 5].item() == pytest.approx(math.hypot(4, 2))


def test_survival_of_the_truth_is_whole(toy):
    tracks = toy.truth.tracks
    kinds = {"all": torch.ones(tracks.uv.shape[1], dtype=torch.bool)}
    share = show_queries.survival_curves(tracks, tracks, kinds)["all"]
    assert (share[:4] == 1).all()
    assert len(show_queries.survival_figure({"truth": {"all": share}}).axes) == 1


def test_query_figures(toy):
    queries = sample_grid_queries(toy.frames[0], cell=16, generator=torch.Generator().manual_seed(0))
    figure = show_queries.query_figure(toy.frames[0], queries, 16)
    assert figure.axes[0].get_title() == "32 queries in cells of 16 px"
    assert show_queries.track_errors_figure(toy.frames[0], toy.truth.tracks, toy.truth.tracks, 2).axes


def test_explorer_draws_anew(toy):
    explorer = query_explorer(toy)
    picture = explorer.children[1]
    before = picture.value
    explorer.children[0].children[0].value = 32
    assert picture.value != before


@pytest.mark.parametrize(("size", "count"), [((40, 60), 24), ((256, 256), 338), ((30, 30), 1)])
def test_lattice_has_about_as_many_points(size, count):
    uv = uniform_queries(size, count=count)
    assert abs(len(uv) - count) <= 0.1 * count + 1
    assert (uv >= 0).all()
    assert (uv <= torch.tensor([size[1], size[0]]) - 1).all()
    assert torch.equal(uv, uv.round())


def test_gradient_is_where_the_image_changes():
    frame = torch.zeros(8, 8, 3, dtype=torch.uint8)
    frame[:, 4:] = 200
    magnitude = gradient_magnitude(frame)
    assert (magnitude[:, 3:5] > 0).all()
    assert not magnitude[:, :3].any()
