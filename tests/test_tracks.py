"""Point tracks: TAP-Vid's queries, tracks worked by hand, visibility against rays and analytic occlusion."""

from dataclasses import replace

import pytest
import roma
import torch

from c4d_nb.camera import invert, pinhole, pixel_grid, pose, project, rays, transform
from c4d_nb.clip import Truth
from c4d_nb.correspondence.queries import Queries
from c4d_nb.errors import InputError
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.mobility import mobility_labels
from c4d_nb.kubric.scene import Body, Part, Scene, Texture, look_at
from c4d_nb.kubric.tracks import _trajectories, point_tracks, sample_tapvid_queries
from c4d_nb.kubric.truth import truth_flow

TEXTURE = Texture("marble")


def queries_at(frame, *uv):
    return Queries(uv=torch.tensor(uv, dtype=torch.float32), frame=torch.full((len(uv),), frame))


def at_query(tracks):
    """uv (n, 2) of each track in its own query frame."""
    return tracks.uv[tracks.query_frame, torch.arange(len(tracks.query_frame))]


def segments_at(truth, queries):
    column, row = queries.uv.round().long().unbind(-1)
    return truth.segmentation[queries.frame, row, column]


# A world of flat plates that face the camera: all of it can be worked by hand


def plates(*plates, camera_x=(0, 0, 0, 0), size=(24, 32), focal=20.0, offset=(0.0, 0.0)):
    """Truth of a wall at z = 10 and square plates ((x of every frame), z, half side) at y = 0, which face the camera.

    The camera looks along z from ``camera_x``, its centre pixel is (15.5, 11.5), and 1 px is z / 20 metres.
    """
    frames = len(camera_x)
    world_from_cam = torch.eye(4).repeat(frames, 1, 1)
    world_from_cam[:, 0, 3] = torch.tensor(camera_x, dtype=torch.float32)
    intrinsics = pinhole(focal, *size).float().expand(frames, 3, 3).clone()
    direction = rays(intrinsics[0].double(), pixel_grid(*size).double() + torch.tensor(offset).double())
    depth, segmentation = torch.full((frames, *size), 10.0), torch.zeros(frames, *size, dtype=torch.long)
    for number, (x, z, half) in sorted(enumerate(plates), key=lambda item: -item[1][1]):
        for t in range(frames):
            inside = (direction[..., 0] * z + camera_x[t] - x[t]).abs() < half
            inside &= (direction[..., 1] * z).abs() < half
            depth[t][inside], segmentation[t][inside] = z, number + 1
    x = torch.tensor([p[0] for p in plates], dtype=torch.float32).reshape(-1, frames)
    z = torch.tensor([p[1] for p in plates], dtype=torch.float32)[:, None].expand(-1, frames)
    positions = torch.stack([x, 0 * x, z], dim=-1)
    return Truth(
        depth=depth,
        world_from_cam=world_from_cam,
        intrinsics=intrinsics,
        segmentation=segmentation,
        positions=positions,
        quaternions=torch.tensor([0.0, 0, 0, 1]).repeat(len(plates), frames, 1),
        mobility=mobility_labels(positions),
        sample_offset_px=torch.tensor(offset) if any(offset) else None,
    )


SLIDING = ((-2.0, -1.0, 0.0, 1.0), 5.0, 1.0)  # 4 px a frame; half a side is 4 px
RESTING = ((2.0, 2.0, 2.0, 2.0), 8.0, 0.5)  # spans 2 x 2.5 px about (20.5, 11.5)


def test_nothing_moves_before_a_still_camera():
    truth = plates(RESTING)
    tracks = point_tracks(truth, queries_at(1, (3, 4), (20, 11), (31, 23)))
    torch.testing.assert_close(tracks.uv, torch.tensor([[3.0, 4], [20, 11], [31, 23]]).expand(4, 3, 2))
    assert tracks.visible.all()
    assert (tracks.mobility == 0).all()
    assert (tracks.confidence == 1).all()
    assert tracks.query_frame.tolist() == [1, 1, 1]


def test_points_ride_on_what_they_show():
    """In frame 1 the plate is centred on (11.5, 11.5): (10, 11) shows it, (3, 11) the wall."""
    tracks = point_tracks(plates(SLIDING), queries_at(1, (10, 11), (3, 11)))
    torch.testing.assert_close(tracks.uv[:, 0], torch.tensor([[6.0, 11], [10, 11], [14, 11], [18, 11]]))
    torch.testing.assert_close(tracks.uv[:, 1], torch.tensor([[3.0, 11]] * 4))
    assert tracks.mobility.tolist() == [[1, 0]] * 4


def test_parallax_falls_with_depth():
    """The camera goes 0.5 m a frame to the right: 1 px at 10 m, 1.25 px at 8 m."""
    tracks = point_tracks(plates(RESTING, camera_x=(0, 0.5, 1, 1.5)), queries_at(0, (25, 3), (20, 11)))
    torch.testing.assert_close(tracks.uv[:, 0, 0], torch.tensor([25.0, 24, 23, 22]))
    torch.testing.assert_close(tracks.uv[:, 1, 0], torch.tensor([20.0, 18.75, 17.5, 16.25]))
    assert tracks.visible.all()


def test_wall_is_hidden_while_the_plate_passes():
    """The plate spans columns 3.5 to 11.5, 7.5 to 15.5, 11.5 to 19.5 and 15.5 to 23.5, rows 7.5 to 15.5."""
    tracks = point_tracks(plates(SLIDING), queries_at(3, (9, 11), (13, 11), (13, 6), (25, 11)))
    assert tracks.visible.T.tolist() == [
        [False, False, True, True],
        [True, False, False, True],
        [True, True, True, True],
        [True, True, True, True],
    ]


def test_point_that_leaves_the_image_is_hidden_beyond_its_edge():
    """The edge is at -0.5: a track at column -0.4 is inside, though left of every pixel's centre."""
    tracks = point_tracks(plates(camera_x=(0, 0.5, 0.7, 0.8, 4.0)), queries_at(0, (1, 3)))
    torch.testing.assert_close(tracks.uv[:, 0, 0], torch.tensor([1, 0, -0.4, -0.6, -7.0]))
    assert tracks.visible[:, 0].tolist() == [True, True, True, False, False]


def test_point_behind_the_camera_is_hidden_and_finite():
    truth = plates(((2.0,) * 3, 8.0, 0.5), camera_x=(0, 0, 0))
    truth.world_from_cam[1, 2, 3] = 10.0
    truth.world_from_cam[2, 2, 3] = 20.0  # mirrored into the image
    tracks = point_tracks(truth, queries_at(0, (3, 4), (20, 11)))
    assert tracks.uv.isfinite().all()
    assert tracks.visible.tolist() == [[True, True], [False, False], [False, False]]


def test_turning_body_carries_its_points():
    """A plate that turns by 90 degrees about the viewing axis takes (u, v) to where (-v, u) was about its centre."""
    truth = plates(((0.0, 0.0), 5.0, 1.0), camera_x=(0, 0))
    half = 0.5**0.5
    turned = replace(truth, quaternions=torch.tensor([[[0, 0, 0, 1.0], [0, 0, half, half]]]))
    tracks = point_tracks(turned, queries_at(0, (18, 12)))
    torch.testing.assert_close(tracks.uv[1, 0], torch.tensor([15.5 - 0.5, 11.5 + 2.5]))


def test_query_between_pixels_takes_the_nearest_one():
    tracks = point_tracks(plates(SLIDING), queries_at(0, (-0.5, 5.4), (31.5, 23.5), (6.6, 11.3)))
    assert tracks.uv[0].tolist() == [[0, 5], [31, 23], [7, 11]]


def test_maps_sampled_beside_the_centre():
    """A quarter of a pixel up and left: the surface that a pixel's sample shows is there, and so is its track."""
    truth = plates(SLIDING, offset=(-0.25, -0.25))
    tracks = point_tracks(truth, queries_at(1, (10, 11)))
    torch.testing.assert_close(
        tracks.uv[:, 0], torch.tensor([[5.75, 10.75], [9.75, 10.75], [13.75, 10.75], [17.75, 10.75]])
    )
    assert point_tracks(truth, queries_at(1, (9.4, 10.4))).uv[1].tolist() == [[9.75, 10.75]]


def test_sampled_queries_lie_on_the_samples(generator):
    truth = plates(SLIDING, RESTING, offset=(-0.25, -0.25))
    queries = sample_tapvid_queries(truth, n_queries=50, generator=generator)
    assert torch.equal(queries.uv.frac().unique(), torch.tensor([-0.25, 0.75]).double().float().unique())
    tracks = point_tracks(truth, queries)
    torch.testing.assert_close(at_query(tracks), queries.uv, atol=1e-5, rtol=0)


def test_order_of_queries_is_no_matter(generator):
    truth = plates(SLIDING, RESTING, camera_x=(0, 0.3, 0.6, 0.9))
    queries = sample_tapvid_queries(truth, n_queries=60, generator=generator)
    order = torch.randperm(60, generator=generator)
    tracks, mixed = point_tracks(truth, queries), point_tracks(truth, Queries(queries.uv[order], queries.frame[order]))
    assert torch.equal(mixed.visible, tracks.visible[:, order])
    assert torch.equal(mixed.mobility, tracks.mobility[:, order])
    torch.testing.assert_close(mixed.uv, tracks.uv[:, order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.45, -0.45)])
def test_rule_agrees_with_analytic_occlusion(offset):
    """A wall point is hidden where a plate covers it; the rule may differ only within a pixel of an outline."""
    sliding, eyes = tuple(-2 + 0.27 * t for t in range(12)), tuple(0.083 * t for t in range(12))
    image = {"size": (60, 80), "focal": 50.0, "offset": offset}
    truth = plates((sliding, 5.0, 1.0), ((1.0,) * 12, 7.0, 1.4), camera_x=eyes, **image)
    row, column = (truth.segmentation[0] == 0).nonzero().unbind(-1)
    tracks = point_tracks(truth, queries_at(0, *zip(column.tolist(), row.tolist(), strict=True)))
    direction = rays(truth.intrinsics[0], tracks.uv)
    reach_px = []
    for number, half in enumerate((1.0, 1.4)):
        z = truth.positions[number, 0, 2]
        beside = direction[..., 0] * z + (truth.world_from_cam[:, 0, 3] - truth.positions[number, :, 0])[:, None]
        reach_px.append((torch.maximum(beside.abs(), (direction[..., 1] * z).abs()) - half) * 50 / z)
    reach_px = torch.stack(reach_px)
    inside = ((tracks.uv >= -0.5) & (tracks.uv <= torch.tensor([79.5, 59.5]))).all(-1)
    exact = inside & (reach_px > 0).all(dim=0)
    near = (reach_px.abs() < 1).any(dim=0)
    assert (tracks.visible == exact)[~near].all()
    assert (tracks.visible == exact).float().mean() > 0.97
    assert (inside & ~exact).sum() > 200


# TAP-Vid's queries


def test_candidates_lie_on_a_grid_of_stride_four(generator):
    truth = segmented(torch.zeros(24, 64, 96, dtype=torch.long))
    queries = sample_tapvid_queries(truth, n_queries=200, generator=generator)
    assert len(queries.frame) == 200
    for values in (queries.frame, *queries.uv.long().unbind(-1)):
        assert len((values % 4).unique()) == 1
    seen = torch.cat([queries.frame[:, None], queries.uv.flip(-1).long()], dim=1)
    assert len(seen.unique(dim=0)) == 200
    assert torch.equal(seen, seen.unique(dim=0))  # in order of frame, row and column


def test_starts_of_the_grid_are_all_used():
    truth = segmented(torch.zeros(8, 16, 16, dtype=torch.long))
    draws = [sample_tapvid_queries(truth, n_queries=1, generator=torch.Generator().manual_seed(s)) for s in range(60)]
    starts = torch.cat([torch.cat([q.frame[:, None], q.uv.long()], dim=1) for q in draws]) % 4
    assert all(starts[:, axis].unique().tolist() == [0, 1, 2, 3] for axis in range(3))


def test_every_segment_gets_its_share():
    """16 x 16 candidates in each of 2 frames. Columns 0 to 3 show object 2, columns 4 to 11 object 1: 32 and 64
    candidates, of which they give 3 and 6; the background, 416, gives the other 31 of 40."""
    segmentation = torch.zeros(8, 64, 64, dtype=torch.long)
    segmentation[..., :4], segmentation[..., 4:12] = 2, 1
    queries = sample_tapvid_queries(segmented(segmentation), n_queries=40, generator=torch.Generator().manual_seed(1))
    assert segmentation[0, 0, queries.uv[:, 0].long()].bincount().tolist() == [31, 6, 3]


def test_segments_with_enough_get_the_same():
    segmentation = torch.arange(5).repeat_interleave(20).expand(24, 100, 100).contiguous()
    queries = sample_tapvid_queries(segmented(segmentation), n_queries=252, generator=torch.Generator().manual_seed(1))
    shares = segmentation[0, 0, queries.uv[:, 0].long()].bincount()
    assert sorted(shares.tolist()) == [50, 50, 50, 51, 51]


@pytest.mark.parametrize("n_queries", [1, 60, 61, 300, 600])
def test_small_clip_gives_all_that_are_asked_for(n_queries, generator):
    """One frame of 20 x 30: 35 candidates at stride 4."""
    segmentation = torch.zeros(1, 20, 30, dtype=torch.long)
    segmentation[:, 3:5, 3:5] = 7
    queries = sample_tapvid_queries(segmented(segmentation), n_queries=n_queries, generator=generator)
    assert len(queries.frame) == n_queries
    assert len(torch.unique(queries.uv, dim=0)) == n_queries


def test_draw_repeats_with_its_generator():
    truth = segmented(torch.zeros(8, 64, 64, dtype=torch.long))
    draws = [
        sample_tapvid_queries(truth, n_queries=30, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    ]
    assert torch.equal(draws[0].uv, draws[1].uv)
    assert torch.equal(draws[0].frame, draws[1].frame)
    assert not torch.equal(draws[0].uv, draws[2].uv)


# A rendered world: curved and turning bodies, a camera that moves


@pytest.fixture(scope="module")
def world():
    """Eight frames: a tumbling box slides behind a ball at rest, beside an egg, while the camera walks past."""
    a = torch.linspace(0, 1, 8, dtype=torch.float64)
    turn = roma.rotvec_to_unitquat(a[:, None] * a.new_tensor([0.3, 0.5, 0.9]))
    path = torch.stack([-1.5 + 3 * a, 1 + 0 * a, 1.3 + 0 * a], dim=-1)
    still = torch.tensor([[0.0, 0, 0, 1]]).double().expand(8, 4)
    rest = [torch.tensor([place]).double().expand(8, 3) for place in ((0.2, -0.6, 0.6), (-1.4, 2.0, 0.9))]
    size = 96, 128
    return Scene(
        bodies=(
            Body((Part("box", (0.7, 0.5, 0.4), TEXTURE),), path, turn),
            Body((Part("ellipsoid", (0.6, 0.6, 0.6), TEXTURE),), rest[0], still),
            Body((Part("ellipsoid", (0.3, 0.5, 0.9), TEXTURE),), rest[1], still),
        ),
        room=((-6.0, -7.0, 0.0), (6.0, 8.0, 9.0)),
        floor=TEXTURE,
        walls=TEXTURE,
        world_from_cam=look_at(
            torch.stack([-0.8 + 1.6 * a, -4.5 + 0 * a, 2 + 0 * a], dim=-1),
            torch.tensor([0.0, 0, 1]).double().expand(8, 3),
        ),
        intrinsics=pinhole(110.0, *size).double(),
        height=size[0],
        width=size[1],
    )


@pytest.fixture(scope="module")
def truth(world):
    grid = pixel_grid(world.height, world.width).double().reshape(-1, 2)
    depth, segmentation = zip(*(cast(world, t, grid) for t in range(len(world))), strict=True)
    shape = len(world), world.height, world.width
    return Truth(
        depth=torch.stack(depth).float().reshape(shape),
        world_from_cam=world.world_from_cam.float(),
        intrinsics=world.intrinsics.float().expand(len(world), 3, 3).clone(),
        segmentation=torch.stack(segmentation).reshape(shape),
        positions=world.positions.float(),
        quaternions=world.quaternions.float(),
        mobility=mobility_labels(world.positions),
    )


@pytest.fixture(scope="module")
def queries(truth):
    return sample_tapvid_queries(truth, n_queries=300, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("exact", [True, False])
def test_tracks_pass_through_their_queries(world, truth, queries, exact):
    uv, depth, segment = _trajectories(truth, queries, world if exact else None)
    n = torch.arange(300)
    torch.testing.assert_close(uv[queries.frame, n], queries.uv.double(), atol=1e-6, rtol=0)
    column, row = queries.uv.long().unbind(-1)
    expected = truth.depth[queries.frame, row, column].double()
    torch.testing.assert_close(depth[queries.frame, n], expected, atol=0, rtol=2e-7)
    assert torch.equal(segment, segments_at(truth, queries))
    tracks = point_tracks(truth, queries, scene=world if exact else None)
    assert tracks.visible[queries.frame, n].all()
    assert torch.equal(tracks.uv, uv.float())
    assert torch.equal(tracks.mobility, (segment == 1).float().expand(8, 300))


def test_query_between_pixels_is_exact_with_the_scene(world, truth, generator):
    """Its point lies on the ray through it, on the surface of the ball; so does its projection in any other frame."""
    uv = torch.tensor([world.width, world.height]) * torch.rand(4000, 2, generator=generator) - 0.5
    on_ball = cast(world, 2, uv.double())[1] == 2
    asked = Queries(uv[on_ball], torch.full((int(on_ball.sum()),), 2))
    assert len(asked.frame) > 50
    position, depth, _ = _trajectories(truth, asked, world)
    torch.testing.assert_close(position[2], asked.uv.double(), atol=1e-9, rtol=0)
    xyz_cam = depth[..., None] * rays(world.intrinsics.expand(8, 3, 3), position)
    distance = (transform(world.world_from_cam, xyz_cam) - torch.tensor([0.2, -0.6, 0.6])).norm(dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.6), atol=1e-9, rtol=0)


def test_query_on_the_very_border_is_visible(world, truth):
    """Though its projection may round to just outside."""
    asked = queries_at(3, *((-0.5, float(v)) for v in range(96)), *((float(u), 95.5) for u in range(128)))
    assert point_tracks(truth, asked, scene=world).visible[3].all()


def test_tracks_follow_the_flow(truth, queries):
    tracks, flow = point_tracks(truth, queries), truth_flow(truth)
    for t in range(7):
        asked = queries.frame == t
        column, row = queries.uv[asked].long().unbind(-1)
        moved = tracks.uv[t + 1, asked] - tracks.uv[t, asked]
        torch.testing.assert_close(moved, flow[t, row, column], atol=2e-4, rtol=0)


def test_tracks_follow_poses_worked_one_by_one(world, truth, queries):
    uv, _, segment = _trajectories(truth, queries, world)
    for i in range(0, 300, 7):
        frame = int(queries.frame[i])
        depth = cast(world, frame, queries.uv[i : i + 1].double())[0]
        xyz = transform(world.world_from_cam[frame], depth * rays(world.intrinsics, queries.uv[i : i + 1].double()))
        for t in range(8):
            moved = xyz
            if segment[i]:
                body = world.bodies[int(segment[i]) - 1]
                now, then = (pose(roma.unitquat_to_rotmat(body.quaternions[k]), body.positions[k]) for k in (t, frame))
                moved = transform(now @ invert(then), xyz)
            seen = project(transform(invert(world.world_from_cam[t]), moved), world.intrinsics)[0]
            torch.testing.assert_close(uv[t, i], seen[0], atol=1e-9, rtol=0)


def test_rays_see_what_is_visible(world, truth, queries):
    """Visible: the first surface on its ray is its own. Hidden: outside the image, or behind another surface."""
    tracks = point_tracks(truth, queries, scene=world)
    uv, depth, segment = _trajectories(truth, queries, world)
    hidden = 0
    for t in range(8):
        first, shown = cast(world, t, uv[t])
        seen = tracks.visible[t]
        assert torch.equal(shown[seen], segment[seen])
        inside = ((uv[t] >= -0.5) & (uv[t] <= torch.tensor([127.5, 95.5]))).all(-1)
        assert not (seen & ~inside).any()
        unseen = inside & ~seen
        assert (depth[t, unseen] > first[unseen] * (1 + 1e-5)).all()
        hidden += int(unseen.sum())
    assert hidden > 50


def test_rule_agrees_with_rays(world, truth, queries):
    """Where TAP-Vid's rule differs from exact rays, it nearly always takes a hidden point for visible."""
    rule, exact = point_tracks(truth, queries).visible, point_tracks(truth, queries, scene=world).visible
    assert (rule == exact).float().mean() > 0.97
    assert (exact & ~rule).float().mean() < 0.005


def test_rule_agrees_with_the_shipped_tracks(yard):
    """They were made with rays; 98.7 % of their visibility is recovered from depth and segmentation alone."""
    truth = yard.truth
    frame = truth.tracks.query_frame
    tracks = point_tracks(truth, Queries(at_query(truth.tracks).round(), frame))
    torch.testing.assert_close(tracks.uv, truth.tracks.uv, atol=1e-4, rtol=0)
    assert torch.equal(tracks.mobility, truth.tracks.mobility)
    assert (tracks.visible == truth.tracks.visible).float().mean() > 0.98


# Bad input


def segmented(segmentation):
    return Truth(segmentation=segmentation, depth=torch.ones(segmentation.shape))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            "n_queries: expected 1 to 600, the pixels of the clip, but it is 601",
            lambda g: sample_tapvid_queries(segmented(torch.zeros(1, 20, 30).long()), n_queries=601, generator=g),
        ),
        (
            "n_queries: expected 1 to 600",
            lambda g: sample_tapvid_queries(segmented(torch.zeros(1, 20, 30).long()), n_queries=0, generator=g),
        ),
        (
            "truth: expected depth, segmentation, but it has no depth",
            lambda g: sample_tapvid_queries(Truth(), generator=g),
        ),
        (
            "truth: expected .*, but it has no mobility",
            lambda g: point_tracks(replace(plates(SLIDING), mobility=None), queries_at(0, (1, 1))),
        ),
        ("queries: expected points within 4 frames", lambda g: point_tracks(plates(), queries_at(4, (1, 1)))),
        ("queries: expected points within 4 frames", lambda g: point_tracks(plates(), queries_at(0, (31.6, 1)))),
        ("queries: expected points", lambda g: point_tracks(plates(), queries_at(0, (float("nan"), 1)))),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument(message, call, generator):
    with pytest.raises(InputError, match=f"^{message}"):
        call(generator)


def test_scene_must_be_that_of_the_clip(world):
    with pytest.raises(InputError, match=r"^scene: expected that of the clip, \(4, 24, 32\), but it renders \(8, 96"):
        point_tracks(plates(SLIDING), queries_at(0, (1, 1)), scene=world)
