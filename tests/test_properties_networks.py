"""What holds for every clip that networks, trackers, two-view geometry and hand-drawn masks are given."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_dynpt_weights import CONFIG, GEOMETRY
from test_properties import GENERATORS, SIDES, examples, mask, noise, normal

from c4d_nb.camera import pinhole
from c4d_nb.clip import Clip, Tracks
from c4d_nb.correspondence.dynpt import DynPT
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.tracking import track, track_by_flow
from c4d_nb.errors import InputError
from c4d_nb.hand_masks import polygon_masks
from c4d_nb.inspection import video_signs
from c4d_nb.pointmaps.dust3r import DUSt3R
from c4d_nb.pointmaps.grid import PixelGrid
from c4d_nb.pointmaps.inference import pointmaps_on_grid
from c4d_nb.pointmaps.scene_graph import sliding_window_graph
from c4d_nb.pointmaps.two_view import two_view_pointmaps
from c4d_nb.resize import target_size

TRACKER = replace(CONFIG, levels=4, flow_start=True)


@pytest.fixture(scope="module")
def pointmap_network() -> DUSt3R:
    torch.manual_seed(0)
    return DUSt3R(GEOMETRY).eval()


@pytest.fixture(scope="module")
def tracker() -> DynPT:
    """Untrained, with both encoders; its head says something."""
    torch.manual_seed(0)
    model = DynPT(TRACKER, geometry=DUSt3R(GEOMETRY))
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model.eval()


def some_queries(generator: torch.Generator, count: int, frames: int, size: tuple[int, int]) -> Queries:
    span = torch.tensor([size[1], size[0]])
    return Queries(
        torch.rand(count, 2, generator=generator) * span - 0.5,
        torch.randint(0, frames, (count,), generator=generator),
    )


def assert_tracks(found: Tracks, queries: Queries, frames: int) -> None:
    index = torch.arange(len(queries.frame))
    assert found.uv.shape == (frames, len(index), 2)
    assert found.uv.isfinite().all()
    assert torch.equal(found.uv[queries.frame, index], queries.uv)
    assert found.visible[queries.frame, index].all()
    for name in ("confidence", "mobility"):
        values = getattr(found, name)
        assert values.shape == found.visible.shape
        assert ((values >= 0) & (values <= 1)).all()
    assert (found.mobility == found.mobility[0]).all()  # one number a track


@examples(20)
@given(st.integers(2, 5), SIDES, SIDES, st.integers(1, 40), GENERATORS)
def test_pointmaps_of_any_clip(pointmap_network, t, height, width, long_side, generator):
    frames, edges = noise(generator, t, height, width, 3), sliding_window_graph(t, offsets=(1,))
    grid = PixelGrid.within((height, width), long_side)
    found = pointmaps_on_grid(pointmap_network, frames, edges, grid)
    size = tuple(grid.sample(frames).shape[1:3])
    assert max(size) <= long_side
    assert found.xyz_1.shape == found.xyz_2.shape == (len(edges), *size, 3)
    for points, confidence in ((found.xyz_1, found.conf_1), (found.xyz_2, found.conf_2)):
        assert points.isfinite().all()
        assert (confidence >= 1).all()


@examples(15)
@given(
    st.integers(1, 7),
    st.integers(30, 70),
    st.integers(30, 70),
    st.integers(1, 12),
    st.integers(2, 9),
    st.data(),
    GENERATORS,
)
def test_any_points_of_any_clip_are_tracked(tracker, t, height, width, count, window, data, generator):
    stride = data.draw(st.integers(1, window - 1))
    clip, queries = (
        Clip(noise(generator, t, height, width, 3), 10.0),
        some_queries(generator, count, t, (height, width)),
    )
    arguments = {"model": tracker, "window": window, "stride": stride}
    if min(target_size(height, width, TRACKER.long_side)) < TRACKER.smallest_side:
        with pytest.raises(InputError, match=r"^frames: expected sides of 32 px or more"):
            track(clip, queries, **arguments)
        return
    found = track(clip, queries, **arguments)
    assert_tracks(found, queries, t)


@examples(20)
@given(st.integers(1, 6), SIDES, SIDES, st.integers(1, 30), GENERATORS)
def test_flow_chains_any_points(t, height, width, count, generator):
    queries = some_queries(generator, count, t, (height, width))
    assert_tracks(track_by_flow(noise(generator, t, height, width, 3), queries), queries, t)


@examples(25)
@given(
    st.integers(2, 4),
    st.integers(3, 24),
    st.integers(3, 24),
    st.sampled_from(["any", "still", "even", "none usable", "far"]),
    GENERATORS,
)
def test_two_view_pointmaps_of_any_flow(t, height, width, kind, generator):
    """Not one flow here is that of a rigid scene: what comes out is finite, and hardly believed."""
    edges = sliding_window_graph(t, offsets=(1,))
    flows = 3 * normal(generator, len(edges), height, width, 2)
    if kind in ("still", "even"):
        flows = torch.full_like(flows, 0.0 if kind == "still" else 2.0)
    flows = flows * (1e4 if kind == "far" else 1)
    usable = mask(generator, len(edges), height, width, share=0.0 if kind == "none usable" else 0.8)
    found = two_view_pointmaps(flows, usable, edges, pinhole(1.1 * width, height, width))
    for points, confidence in ((found.xyz_1, found.conf_1), (found.xyz_2, found.conf_2)):
        assert points.isfinite().all()
        assert confidence.isfinite().all()
        assert (confidence > 1).all()
    assert (found.xyz_1[..., 2] > 0).all()


@examples(40)
@given(st.integers(1, 6), SIDES, SIDES, st.integers(3, 6), st.data(), GENERATORS)
def test_outlines_of_any_frames(frames, height, width, corners, data, generator):
    drawn = data.draw(st.sets(st.integers(0, frames - 1), min_size=1))
    outlines = {i: [tuple(uv) for uv in (100 * normal(generator, corners, 2)).tolist()] for i in sorted(drawn)}
    masks = polygon_masks(outlines, frames=frames, size=(height, width))
    assert masks.shape == (frames, height, width)
    everything = {
        i: [(-9.0, -9.0), (width + 9.0, -9.0), (width + 9.0, height + 9.0), (-9.0, height + 9.0)] for i in drawn
    }
    assert polygon_masks(everything, frames=frames, size=(height, width)).all()


@examples(15)
@given(st.integers(0, 5), SIDES, SIDES, st.booleans(), GENERATORS)
def test_signs_of_any_video(t, height, width, black, generator):
    frames = noise(generator, t, height, width, 3) * (not black)
    if t < 2:
        with pytest.raises(InputError, match=r"^frames: expected at least 2"):
            video_signs(frames)
        return
    signs = video_signs(frames)
    assert signs.matched.shape == signs.moved_px.shape == (t - 1,)
    assert ((signs.matched >= 0) & (signs.matched <= 1)).all()
    for values in (signs.moved_px, signs.sharpness):
        assert values.isfinite().all()
        assert (values >= 0).all()
    assert all(0 < frame < t for frame in signs.cuts)
