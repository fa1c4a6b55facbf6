"""The ray caster against cases worked by hand, and the shipped clip against its scene and its card."""

import hashlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import roma
import torch

from c4d_nb.camera import invert, pinhole, pixel_grid, rays, transform, unproject
from c4d_nb.clip import Clip
from c4d_nb.errors import InputError
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.first_light import first_light_scene
from c4d_nb.kubric.render import render_clip, render_frame
from c4d_nb.kubric.scene import Body, Scene, Texture, look_at
from c4d_nb.kubric.tracks import VISIBLE_TOLERANCE, point_tracks
from c4d_nb.kubric.truth import truth_flow

DATA = Path(__file__).parent.parent / "data"
TEXTURE = Texture("marble", ((0.9, 0.9, 0.8), (0.2, 0.3, 0.4), (0.7, 0.2, 0.1)), 0.5)
IDENTITY = [0.0, 0.0, 0.0, 1.0]


def body(shape, half, positions, quaternions=None):
    positions = torch.as_tensor(positions, dtype=torch.float64)
    quaternions = torch.tensor([IDENTITY] * len(positions)) if quaternions is None else quaternions
    return Body(shape, half, positions, quaternions.double(), TEXTURE)


def scene(*bodies, eyes=((0, -5, 2),), targets=((0, 0, 2),), size=(31, 41)):
    """A small scene; its image has a centre pixel, (20, 15), that looks at the target."""
    eyes, targets = torch.tensor(eyes, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
    return Scene(
        bodies=bodies,
        room=((-6.0, -7.0, 0.0), (6.0, 8.0, 9.0)),
        floor=TEXTURE,
        walls=TEXTURE,
        world_from_cam=look_at(eyes, targets),
        intrinsics=pinhole(40.0, *size).double(),
        height=size[0],
        width=size[1],
    )


@pytest.fixture(scope="module")
def moving():
    """Six frames: the camera walks past a tumbling box that slides, behind a sphere at rest."""
    a = torch.linspace(0, 1, 6, dtype=torch.float64)
    turn = roma.rotvec_to_unitquat(a[:, None] * a.new_tensor([0.3, 0.5, 0.9]))
    path = torch.stack([-1.5 + 3 * a, 1 + 0 * a, 1.3 + 0 * a], dim=-1)
    world = scene(
        body("box", (0.7, 0.5, 0.4), path, turn),
        body("sphere", (0.6,) * 3, [[0.2, -0.6, 0.6]] * 6),
        body("ellipsoid", (0.3, 0.5, 0.9), [[-1.4, 2.0, 0.9]] * 6),
        eyes=[(-0.5 + 0.2 * i, -4.5, 2.0) for i in range(6)],
        targets=[(0.0, 0.0, 1.0)] * 6,
        size=(48, 64),
    )
    return world, render_clip(world, fps=12, samples=1, n_tracks=200, seed=5)


@pytest.fixture(scope="module")
def shipped():
    return Clip.load(DATA / "first_light.npz")


def test_sphere_on_the_axis():
    """Its nearest point lies on the optical axis: 5 m to the centre less the radius."""
    world = scene(body("sphere", (1.5,) * 3, [[0, 0, 2]]))
    depth, segmentation = cast(world, 0, torch.tensor([[20.0, 15.0]]))
    assert depth.item() == pytest.approx(3.5, abs=1e-12)
    assert segmentation.item() == 1
    # The limb: rays at an angle whose sine is 1.5 / 5 touch the sphere.
    limb = 40 * math.tan(math.asin(1.5 / 5))
    uv = torch.tensor([[20 + limb - 1e-6, 15], [20 + limb + 1e-6, 15]], dtype=torch.float64)
    assert cast(world, 0, uv)[1].tolist() == [1, 0]


def test_ellipsoid_is_a_scaled_sphere_in_its_own_axes():
    quarter = roma.rotvec_to_unitquat(torch.tensor([[0, 0, math.pi / 2]], dtype=torch.float64))
    world = scene(body("ellipsoid", (2.0, 0.5, 0.7), [[0, 0, 2]], quarter))
    assert cast(world, 0, torch.tensor([[20.0, 15.0]]))[0].item() == pytest.approx(3.0, abs=1e-12)


def test_box_face_has_one_depth():
    """A face that is parallel to the image: z-depth, not distance, is the same in all its pixels."""
    world = scene(body("box", (1.0, 0.5, 0.8), [[0, 0, 2]]))
    _, depth, segmentation = render_frame(world, 0, samples=1)
    torch.testing.assert_close(depth[segmentation == 1], torch.full((17 * 15,), 4.5))
    # Half extents 1.0 and 0.8 at 4.5 m and 40 px: +-8.9 columns and +-7.1 rows about the middle.
    assert segmentation[15 - 7 : 15 + 8, 20 - 8 : 20 + 9].eq(1).all()
    assert segmentation.sum() == 17 * 15


def test_turned_box_shows_its_edge():
    eighth = roma.rotvec_to_unitquat(torch.tensor([[0, 0, math.pi / 4]], dtype=torch.float64))
    world = scene(body("box", (1.0, 1.0, 1.0), [[0, 0, 2]], eighth))
    assert cast(world, 0, torch.tensor([[20.0, 15.0]]))[0].item() == pytest.approx(5 - math.sqrt(2), abs=1e-12)


def test_empty_room_is_floor_and_walls():
    """A level camera 2 m above the floor: floor depth is f h / (v - cy) until the wall, 13 m away."""
    world = scene()
    _, depth, segmentation = render_frame(world, 0, samples=1)
    rows = torch.arange(31, dtype=torch.float64)
    floor = torch.where(rows > 15, 40 * 2 / (rows - 15).clamp(min=1e-9), torch.inf)
    torch.testing.assert_close(depth[:, 20].double(), floor.clamp(max=13), rtol=1e-6, atol=0)
    assert (segmentation == 0).all()
    assert world.positions.shape == (0, 1, 3)


def test_camera_inside_a_body_sees_its_inside():
    world = scene(body("sphere", (1.0,) * 3, [[0, -5, 2]]), body("box", (2.0,) * 3, [[0, -5, 2]]))
    assert cast(world, 0, torch.tensor([[20.0, 15.0]]))[0].item() == pytest.approx(1.0, abs=1e-12)


def test_look_at_is_upright():
    pose = look_at(torch.tensor([[1.0, -5.0, 3.0]]), torch.tensor([[0.0, 1.0, 0.5]]))[0]
    torch.testing.assert_close(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.linalg.det(pose[:3, :3]).item() == pytest.approx(1, abs=1e-6)
    assert pose[2, 0].abs() < 1e-6  # x is level
    assert pose[2, 1] < 0  # y points down


def test_unprojected_depth_lies_on_the_surfaces(moving):
    world, clip = moving
    truth = clip.truth
    xyz = transform(truth.world_from_cam[:, None], unproject(truth.depth, truth.intrinsics)).double()
    sphere = (xyz[truth.segmentation == 2] - torch.tensor([0.2, -0.6, 0.6])).norm(dim=-1)
    torch.testing.assert_close(sphere, torch.full_like(sphere, 0.6), atol=3e-6, rtol=0)
    low, high = torch.tensor(world.room, dtype=torch.float64)
    background = xyz[truth.segmentation == 0]
    gap = torch.minimum((background - low).abs(), (background - high).abs()).amin(dim=-1)
    assert gap.max() < 1e-5
    for t in range(6):
        obj_from_world = invert(_pose(world.bodies[0], t))
        inside = transform(obj_from_world, xyz[t][truth.segmentation[t] == 1]).abs() / torch.tensor([0.7, 0.5, 0.4])
        torch.testing.assert_close(inside.amax(dim=-1), torch.ones(len(inside)).double(), atol=1e-5, rtol=0)


def test_truth_names_what_moves(moving):
    world, clip = moving
    truth = clip.truth
    assert truth.mobility.tolist() == [True, False, False]
    assert torch.equal(truth.motion_mask, truth.segmentation == 1)
    assert 0.02 < truth.motion_mask.float().mean() < 0.3
    assert clip.intrinsics is None
    torch.testing.assert_close(truth.intrinsics[0], world.intrinsics.float())
    assert clip.frames.shape == (6, 48, 64, 3)
    assert clip.frames.float().std() > 20


def test_flow_lands_on_the_same_surface(moving):
    """Cast a ray where the flow points: unless another surface hides it, it hits the point that was carried there."""
    world, clip = moving
    truth, grid = clip.truth, pixel_grid(48, 64).double()
    for t in range(5):
        xyz_world = transform(world.world_from_cam[t], unproject(truth.depth[t].double(), world.intrinsics))
        carried = xyz_world.clone()
        own = truth.segmentation[t] == 1
        step = _pose(world.bodies[0], t + 1) @ invert(_pose(world.bodies[0], t))
        carried[own] = transform(step, xyz_world[own])
        expected = transform(invert(world.world_from_cam[t + 1]), carried)[..., 2].flatten()
        first, segment = cast(world, t + 1, (grid + truth.flow[t]).reshape(-1, 2))
        same = segment == truth.segmentation[t].flatten()
        hidden = first < expected * (1 - 1e-4)
        agree = (first - expected).abs() < 1e-4 * expected
        assert (agree | hidden | ~same).all()
        assert agree.float().mean() > 0.9
    assert (truth.flow[truth.motion_mask[:-1]].norm(dim=-1) > 1).all()


def test_still_camera_and_scene_have_no_flow():
    world = scene(body("sphere", (1.0,) * 3, [[0, 0, 1]] * 2), eyes=((0, -5, 2),) * 2, targets=((0, 0, 1),) * 2)
    clip = render_clip(world, fps=12, samples=2, n_tracks=10)
    assert clip.truth.flow.abs().max() < 1e-5
    assert torch.equal(clip.frames[0], clip.frames[1])
    assert not clip.truth.motion_mask.any()


def test_tracks_pass_through_their_queries(moving):
    _, clip = moving
    tracks, n = clip.truth.tracks, torch.arange(200)
    uv = tracks.uv[tracks.query_frame, n]
    torch.testing.assert_close(uv, uv.round(), atol=1e-4, rtol=0)
    assert tracks.visible[tracks.query_frame, n].all()
    assert (tracks.confidence == 1).all()
    assert len(set(tracks.query_frame.tolist())) == 6
    u, v = uv.round().long().unbind(-1)
    own = clip.truth.segmentation[tracks.query_frame, v, u]
    assert own.bincount(minlength=4).min() > 5
    assert torch.equal(tracks.mobility[0] > 0, own == 1)


def test_tracks_follow_the_flow(moving):
    _, clip = moving
    tracks = clip.truth.tracks
    for t in range(5):
        asked = tracks.query_frame == t
        u, v = tracks.uv[t, asked].round().long().unbind(-1)
        moved = tracks.uv[t + 1, asked] - tracks.uv[t, asked]
        torch.testing.assert_close(moved, clip.truth.flow[t, v, u], atol=2e-4, rtol=0)


def test_visibility_agrees_with_depth(moving):
    """A visible point is the first surface on its ray; a hidden one lies behind it, or outside the image."""
    world, clip = moving
    tracks = clip.truth.tracks
    image = torch.tensor([-0.5, -0.5]), torch.tensor([63.5, 47.5])
    hidden = 0
    for t in range(6):
        uv, n = tracks.uv[t].double(), torch.arange(200)
        depth, segment = cast(world, t, uv)
        u, v = tracks.uv[tracks.query_frame, n].round().long().unbind(-1)
        own = clip.truth.segmentation[tracks.query_frame, v, u]
        seen = tracks.visible[t]
        assert (segment[seen] == own[seen]).float().mean() > 0.98  # but for rounding of uv at outlines
        inside = ((uv >= image[0]) & (uv <= image[1])).all(-1)
        assert not (seen & ~inside).any()
        unseen = inside & ~seen
        hidden += unseen.sum().item()
        point = _carried(world, clip.truth, t, own)
        assert (point[unseen] > depth[unseen] * (1 + VISIBLE_TOLERANCE / 2)).all()
    assert hidden > 20


def test_rendering_repeats_itself(moving):
    world, clip = moving
    again = point_tracks(world, clip.truth, n_tracks=200, seed=5)
    assert torch.equal(again.uv, clip.truth.tracks.uv)
    assert torch.equal(render_frame(world, 2, samples=1)[0], clip.frames[2])
    assert not torch.equal(point_tracks(world, clip.truth, n_tracks=200, seed=6).uv, again.uv)


def test_one_frame_has_no_flow():
    clip = render_clip(scene(body("sphere", (1.0,) * 3, [[0, 0, 1]])), fps=12, samples=1, n_tracks=5)
    assert clip.truth.flow.shape == (0, 31, 41, 2)
    assert not clip.truth.mobility.any()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("shape", lambda: body("torus", (1.0,) * 3, [[0, 0, 1]])),
        ("half_size_m", lambda: body("sphere", (1.0, 1.0, 2.0), [[0, 0, 1]])),
        ("half_size_m", lambda: body("box", (1.0, 0.0, 2.0), [[0, 0, 1]])),
        ("quaternions", lambda: body("box", (1.0,) * 3, [[0, 0, 1]], torch.tensor([[0.0, 0, 0, 2]]))),
        ("quaternions", lambda: body("box", (1.0,) * 3, [[0, 0, 1]], torch.tensor([IDENTITY] * 2))),
        ("bodies", lambda: scene(body("box", (1.0,) * 3, [[0, 0, 1]] * 2))),
        ("world_from_cam", lambda: scene(eyes=((0, -50, 2),))),
        ("pattern", lambda: Texture("plaid", TEXTURE.colors, 1.0)),
        ("scale_m", lambda: Texture("checks", TEXTURE.colors, 0.0)),
        ("samples", lambda: render_frame(scene(), 0, samples=0)),
        ("n_tracks", lambda: render_clip(scene(), fps=12, samples=1, n_tracks=0)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument(name, make):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        make()


def test_package_and_truth_import_without_numba():
    code = "import sys, c4d_nb, c4d_nb.kubric.truth; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shipped_clip_is_the_one_on_the_card():
    digest = hashlib.sha256((DATA / "first_light.npz").read_bytes()).hexdigest()
    card = (DATA / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\b[0-9a-f]{64}\b", card).group() == digest


def test_shipped_depth_is_that_of_the_scene(shipped):
    world = first_light_scene()
    for frame in (0, 17):
        _, depth, segmentation = render_frame(world, frame, samples=1)
        assert torch.equal(depth, shipped.truth.depth[frame])
        assert torch.equal(segmentation, shipped.truth.segmentation[frame])


def test_shipped_clip_has_the_motion_it_claims(shipped):
    """What the card says of it: a share of motion, a flow, a parallax that a tutorial can rely on."""
    truth = shipped.truth
    assert shipped.frames.shape == (24, 192, 256, 3)
    assert shipped.fps == 12
    assert shipped.intrinsics is None
    assert truth.flow is None
    assert truth.intrinsics[0, 0, 0].item() == 1.09375 * 256
    assert truth.mobility.sum() == 1
    assert 0.05 < truth.motion_mask.float().mean() < 0.10
    speed = truth_flow(truth).norm(dim=-1)
    assert 2 < speed[~truth.motion_mask[:-1]].mean() < 6
    assert 0.15 < truth.world_from_cam[:, :3, 3].diff(dim=0).norm(dim=-1).sum() / truth.depth.median() < 0.26
    assert truth.tracks.uv.shape == (24, 256, 2)
    assert (DATA / "first_light.npz").stat().st_size < 5e6


def _pose(of: Body, t: int) -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = roma.unitquat_to_rotmat(of.quaternions[t]), of.positions[t]
    return pose


def _carried(world: Scene, truth, t: int, own: torch.Tensor) -> torch.Tensor:
    """Depth in frame t of each track's point, worked from its query frame one track at a time."""
    tracks, depths = truth.tracks, []
    for i, (frame, segment) in enumerate(zip(tracks.query_frame.tolist(), own.tolist(), strict=True)):
        uv = tracks.uv[frame, i].round()
        u, v = uv.long().tolist()
        xyz = truth.depth[frame, v, u].double() * rays(world.intrinsics, uv.double())
        xyz = transform(world.world_from_cam[frame], xyz[None])
        if segment:
            ridden = world.bodies[segment - 1]
            xyz = transform(_pose(ridden, t) @ invert(_pose(ridden, frame)), xyz)
        depths.append(transform(invert(world.world_from_cam[t]), xyz)[0, 2])
    return torch.stack(depths)
