"""The ray caster against cases worked by hand and an independent caster, and what the renderer makes of a scene."""

import math
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import roma
import torch
from mujoco_oracle import cast_oracle
from PIL import Image
from scipy.spatial.transform import Rotation
from torch.nn.functional import max_pool2d

from c4d_nb.camera import invert, pinhole, pixel_grid, project, rays, transform, unproject
from c4d_nb.clip import Truth
from c4d_nb.errors import InputError
from c4d_nb.kubric.cast import cast
from c4d_nb.kubric.render import render_clip, render_frame
from c4d_nb.kubric.sampling import sample_scene
from c4d_nb.kubric.scene import Body, Light, Part, Scene, Texture, look_at
from c4d_nb.kubric.shapes import sample_parts
from c4d_nb.kubric.truth import object_poses

TEXTURE = Texture("marble", ((0.9, 0.9, 0.8), (0.2, 0.3, 0.4), (0.7, 0.2, 0.1)), 0.5)
IDENTITY = [0.0, 0.0, 0.0, 1.0]


def body(shape, half, positions, quaternions=None):
    positions = torch.as_tensor(positions, dtype=torch.float64)
    quaternions = torch.tensor([IDENTITY] * len(positions)) if quaternions is None else quaternions
    shape = "ellipsoid" if shape == "sphere" else shape
    return Body((Part(shape, half, TEXTURE),), positions, quaternions.double())


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


def test_rendering_repeats_itself(moving):
    world, clip = moving
    again = render_clip(world, fps=12, samples=1, n_tracks=200, seed=5, threads=1)
    assert torch.equal(again.truth.tracks.uv, clip.truth.tracks.uv)
    assert torch.equal(again.frames, clip.frames)
    other = render_clip(world, fps=12, samples=1, n_tracks=200, seed=6)
    assert torch.equal(other.frames, clip.frames)
    assert not torch.equal(other.truth.tracks.uv, clip.truth.tracks.uv)


def test_one_frame_has_no_flow():
    clip = render_clip(scene(body("sphere", (1.0,) * 3, [[0, 0, 1]])), fps=12, samples=1, n_tracks=5)
    assert clip.truth.flow.shape == (0, 31, 41, 2)
    assert not clip.truth.mobility.any()


def test_cylinder_side_and_cap():
    """Upright, radius 1, at eye level; and lying with a cap towards the camera."""
    upright = scene(body("cylinder", (1.0, 1.0, 0.5), [[0, 0, 2]]))
    depth, segmentation = cast(upright, 0, torch.tensor([[20.0, 15.0], [20.0, 15 + 40 * 0.5 / 4.0 + 0.2]]))
    assert depth[0].item() == pytest.approx(4.0, abs=1e-12)
    assert segmentation.tolist() == [1, 0]
    lying = roma.rotvec_to_unitquat(torch.tensor([[math.pi / 2, 0, 0]], dtype=torch.float64))
    world = scene(body("cylinder", (1.0, 1.0, 0.5), [[0, 0, 2]], lying))
    inside, outside = 20 + 40 * 0.99 / 4.5, 20 + 40 * 1.01 / 4.5
    depth, segmentation = cast(world, 0, torch.tensor([[inside, 15.0], [outside, 15.0]], dtype=torch.float64))
    assert depth[0].item() == pytest.approx(4.5, abs=1e-12)
    assert segmentation.tolist() == [1, 0]


def test_capsule_is_a_cylinder_with_two_half_spheres():
    world = scene(body("capsule", (0.5, 0.5, 1.5), [[0, 0, 2]]))
    top = 40 * math.tan(math.asin(0.5 / math.hypot(5, 1)) + math.atan(1 / 5))  # the ray that touches the upper cap
    uv = [[20.0, 15.0], [20.0, 15 - top + 1e-6], [20.0, 15 - top - 1e-6], [20 + 40 * 0.5 / 5, 15 - 40 * 0.9 / 5]]
    depth, segmentation = cast(world, 0, torch.tensor(uv, dtype=torch.float64))
    assert depth[0].item() == pytest.approx(4.5, abs=1e-12)
    assert segmentation.tolist() == [1, 1, 0, 1]
    ball = scene(body("sphere", (0.5,) * 3, [[0, 0, 2]]))
    grid = pixel_grid(31, 41).double().reshape(-1, 2)
    same = cast(scene(body("capsule", (0.5, 0.5, 0.5), [[0, 0, 2]])), 0, grid)
    torch.testing.assert_close(same[0], cast(ball, 0, grid)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("case", [None, "large_mover"])
def test_generated_scenes_agree_with_mujoco(case):
    """Every ray of a frame against an independent caster: depth to 1e-6, segments wherever none of its neighbours
    is an outline, and 99.9 % of all rays."""
    world = sample_scene(7, split="panning_movi_e", case=case, size=64)
    grid = pixel_grid(64, 64).double().reshape(-1, 2)
    for frame in (0, 23):
        depth, segmentation = cast(world, frame, grid)
        expected, segments = cast_oracle(world, frame, grid)
        same = segmentation == segments
        around = segments.reshape(1, 1, 64, 64).float()
        inner = (max_pool2d(around, 3, 1, 1) == -max_pool2d(-around, 3, 1, 1)).flatten()
        assert same[inner].all()
        assert same.float().mean() > 0.999
        assert ((depth - expected).abs() / expected)[same].max() < 1e-6


def test_generated_flow_and_tracks_reproject():
    """By scipy's rotations and OpenCV's projection, from exact rays: flow both ways to 1e-3 px, tracks to 1e-4 px
    (float32), for a clip with tossed bodies, a blurred picture and a moving camera."""
    world = sample_scene(5, split="movi_f", size=96)
    truth = render_clip(world, fps=12, samples=1, n_tracks=128, seed=2).truth
    for t, (flow, target) in [(4, (truth.flow[4], 5)), (12, (truth.backward_flow[11], 11)), (23, (None, 23))]:
        tracks = truth.tracks
        asked = (tracks.query_frame == t).nonzero()[:, 0]
        v, u = torch.meshgrid(torch.arange(0, 96, 5), torch.arange(0, 96, 7), indexing="ij")
        grid = torch.stack([u.flatten(), v.flatten()], dim=-1).double()
        uv = torch.cat([grid, tracks.uv[t, asked].double()])
        depth, segment = cast(world, t, uv)
        for m in {target, 0, 23}:
            there = reproject(world, uv, depth, segment, t, m)
            if m == target and flow is not None:
                error = grid + flow[v.flatten(), u.flatten()] - there[: len(grid)]
                assert error.norm(dim=-1).max() < 1e-3
            ahead = there[len(grid) :].abs().amax(dim=-1) < 1e3  # behind a camera uv means nothing
            error = (tracks.uv[m, asked] - there[len(grid) :]).norm(dim=-1)[ahead]
            assert (error < 1e-4 * (1 + there[len(grid) :].norm(dim=-1)[ahead] / 96)).all()
    assert {0, 1} <= set(truth.tracks.mobility[0].tolist())


def reproject(world: Scene, uv, depth, segment, source: int, target: int):
    """Where what the rays through ``uv`` of one frame hit is seen in another; NaN behind the camera."""
    k = world.intrinsics.numpy()
    xyz = depth.numpy()[:, None] * (np.column_stack([uv.numpy(), np.ones(len(uv))]) @ np.linalg.inv(k).T)
    camera = [world.world_from_cam[t].numpy() for t in (source, target)]
    xyz = xyz @ camera[0][:3, :3].T + camera[0][:3, 3]
    for i, body in enumerate(world.bodies):
        own = (segment == i + 1).numpy()
        before, after = (Rotation.from_quat(body.quaternions[t].numpy()) for t in (source, target))
        in_body = before.inv().apply(xyz[own] - body.positions[source].numpy())
        xyz[own] = after.apply(in_body) + body.positions[target].numpy()
    cam_from_world = np.linalg.inv(camera[1])
    turn, shift = Rotation.from_matrix(cam_from_world[:3, :3]).as_rotvec(), cam_from_world[:3, 3]
    projected = cv2.projectPoints(xyz[:, None], turn, shift, k, None)[0][:, 0]
    behind = (xyz @ cam_from_world[:3, :3].T + shift)[:, 2] <= 0
    return torch.from_numpy(np.where(behind[:, None], np.nan, projected))


def test_every_shape_agrees_with_mujoco():
    """Random parts at random places and rotations, seen from all sides, far more of them than a scene has."""
    rng = np.random.default_rng(3)
    bodies = []
    for _ in range(60):
        quaternion = torch.from_numpy(rng.normal(size=4))
        place = torch.from_numpy(rng.uniform([-5, -5, 0.5], [5, 7, 8]))
        bodies.append(Body(sample_parts(rng, 1.5), place[None], (quaternion / quaternion.norm())[None]))
    assert {part.shape for each in bodies for part in each.parts} == {"ellipsoid", "box", "cylinder", "capsule"}
    world = scene(*bodies, eyes=((0, -6, 3),), targets=((0, 0, 3),), size=(96, 128))
    grid = pixel_grid(96, 128).double().reshape(-1, 2)
    depth, segmentation = cast(world, 0, grid)
    expected, segments = cast_oracle(world, 0, grid)
    same = segmentation == segments
    assert same.float().mean() > 0.9995
    assert ((depth - expected).abs() / expected)[same].max() < 1e-9


def test_parts_ride_with_their_body():
    """A compound turned by a quarter about the vertical: its part at x = 1 stands at y = 1, behind the other."""
    parts = (
        Part("ellipsoid", (0.5,) * 3, TEXTURE, (-1.0, 0.0, 0.0)),
        Part(
            "box", (0.2, 2.0, 0.1), TEXTURE, (1.0, 0.0, 0.0), (0.0, 0.0, math.sin(math.pi / 4), math.cos(math.pi / 4))
        ),
    )
    quarter = roma.rotvec_to_unitquat(torch.tensor([[0, 0, math.pi / 2]], dtype=torch.float64))
    world = scene(Body(parts, torch.tensor([[0, 0, 2.0]]).double(), quarter))
    depth, segmentation = cast(world, 0, torch.tensor([[20.0, 15.0], [20 + 40 * 0.15 / 4.0, 15.0], [20 + 4.5, 15.0]]))
    assert depth[:2].tolist() == pytest.approx([3.5, 5 - 1 - math.sqrt(0.25 - 0.15**2)], abs=1e-1)
    assert segmentation.tolist() == [1, 1, 1]
    torch.testing.assert_close(world.boxes_m[0], torch.tensor([[-1.5, -0.5, -0.5], [3.0, 0.5, 0.5]]).double())


def test_back_flow_is_the_flow_of_the_film_run_backwards(moving):
    world, clip = moving
    back = replace(
        world,
        bodies=tuple(
            replace(b, positions=b.positions.flip(0), quaternions=b.quaternions.flip(0)) for b in world.bodies
        ),
        world_from_cam=world.world_from_cam.flip(0),
    )
    reverse = render_clip(back, fps=12, samples=1, n_tracks=10).truth
    torch.testing.assert_close(clip.truth.backward_flow, reverse.flow.flip(0), atol=1e-5, rtol=1e-5)


def test_flow_there_and_back_returns(moving):
    """Where the same surface is seen in both frames, the pixel found by the flow leads back to where it came from."""
    world, clip = moving
    truth, grid = clip.truth, pixel_grid(48, 64)
    for t in range(5):
        there = (grid + truth.flow[t]).double()
        depth, segment = cast(world, t + 1, there.reshape(-1, 2))
        at = Truth(
            depth=torch.stack([truth.depth[t], depth.reshape(48, 64).float()]),
            world_from_cam=truth.world_from_cam[t : t + 2],
            intrinsics=truth.intrinsics[t : t + 2],
            segmentation=torch.stack([truth.segmentation[t], segment.reshape(48, 64)]),
            positions=truth.positions[:, t : t + 2],
            quaternions=truth.quaternions[:, t : t + 2],
        )
        xyz = depth.reshape(48, 64, 1).float() * rays(at.intrinsics[1], there.float())
        home = at.segmentation[1].clone()
        step = object_poses(at)[:, 0] @ invert(object_poses(at)[:, 1])
        motion = invert(at.world_from_cam[0].double()) @ step @ at.world_from_cam[1].double()
        uv, _ = project(transform(motion[home], xyz[..., None, :].double()), at.intrinsics[0].double())
        error = (uv[..., 0, :] - grid).norm(dim=-1)
        assert (error < 1e-3).float().mean() > 0.9


def test_object_coordinates_span_the_box(moving):
    _, clip = moving
    coordinates, segmentation = clip.truth.object_coordinates, clip.truth.segmentation
    assert (coordinates[segmentation == 0] == 0).all()
    face = coordinates[segmentation == 1]
    assert torch.minimum(face, 1 - face).amin(dim=-1).max() < 1e-5  # on a box every point lies on a face
    ball = 2 * coordinates[segmentation == 2] - 1
    torch.testing.assert_close(ball.norm(dim=-1), torch.ones(len(ball)), atol=1e-5, rtol=0)


def test_blur_does_nothing_where_nothing_moves():
    world = scene(body("sphere", (1.0,) * 3, [[0, 0, 1]] * 2), eyes=((0, -5, 2),) * 2, targets=((0, 0, 1),) * 2)
    assert torch.equal(render_frame(replace(world, motion_blur=1.5), 0)[0], render_frame(world, 0)[0])


def test_blur_smears_what_moves_and_leaves_truth_sharp():
    """A bright box on a dark wall, 8 px a frame to the right: half a frame of shutter smears its outline over 4 px."""
    plain = [Texture("checks", ((x, x, x),) * 3, 1.0, grain=0.0) for x in (0.0, 1.0)]
    light = Light(sun_color=(0.0,) * 3, sky_color=(1.0,) * 3)
    path = torch.tensor([[x, 0.0, 2.0] for x in (-0.9, 0.0, 0.9)], dtype=torch.float64)
    box = Body((Part("box", (0.6, 0.5, 0.8), plain[1]),), path, torch.tensor([IDENTITY] * 3).double())
    world = replace(
        scene(box, eyes=((0, -5, 2),) * 3, targets=((0, 0, 2),) * 3), floor=plain[0], walls=plain[0], light=light
    )
    sharp, *truth = render_frame(world, 1, samples=6)
    smeared, *same = render_frame(replace(world, motion_blur=0.5), 1, samples=6)
    assert all(torch.equal(a, b) for a, b in zip(truth, same, strict=True))
    partly = lambda image: ((image[15, :, 0] > 30) & (image[15, :, 0] < 200)).sum().item()  # noqa: E731
    assert partly(sharp) <= 2
    assert 6 <= partly(smeared) <= 12


def test_picture_is_upright_and_not_mirrored(tmp_path):
    """Red left, green right, blue below: seen so on a face towards the camera, and in mirror image beside it."""
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    picture[:32, :32, 0], picture[:32, 32:, 1], picture[32:, :, 2] = 255, 255, 255
    Image.fromarray(picture).save(tmp_path / "flag.png")
    paint = Texture("image", scale_m=2.0, grain=0.0, image=str(tmp_path / "flag.png"))
    box = Body((Part("box", (2.0, 0.5, 2.0), paint),), torch.tensor([[1.0, 0, 3.0]]).double(), torch.tensor([IDENTITY]))
    rgb, _, _ = render_frame(scene(box, eyes=((0, -5, 3),), targets=((1, 0, 3),), size=(101, 101)), 0, samples=2)
    pixel = 40 / 4.5
    strongest = lambda x, z: "RGB"[int(rgb[round(50 - pixel * z), round(50 + pixel * x)].argmax())]  # noqa: E731
    assert [strongest(x, -0.5) for x in (0.5, 1.5)] == ["R", "G"]
    assert [strongest(x, -1.5) for x in (0.5, 1.5)] == ["B", "B"]
    assert [strongest(x, -0.5) for x in (-0.5, -1.5)] == ["R", "G"]  # mirrored about the body's centre


def test_shadow_and_gloss():
    """A floor point under a box sees no sun; a glossy sphere has a spot brighter than a dull one's."""
    dull = Texture("checks", ((0.5,) * 3,) * 3, 1.0, grain=0.0)
    box = Body((Part("box", (0.5,) * 3, dull),), torch.tensor([[0.0, 0, 3.0]]).double(), torch.tensor([IDENTITY]))
    world = replace(scene(box, eyes=((0, -5, 4),), targets=((0, 0, 0),)), floor=dull, light=Light(sun=(0, 0, 1)))
    shaded, lit = (render_frame(w, 0)[0][15, 20].float().mean() for w in (world, replace(world, bodies=())))
    assert shaded < 0.75 * lit
    balls = [
        Body((Part("ellipsoid", (1.0,) * 3, replace(dull, gloss=g)),), box.positions, box.quaternions)
        for g in (0.0, 0.5)
    ]
    facing = replace(world, world_from_cam=look_at(*torch.tensor([[[0, -5, 4]], [[0, 0, 3]]]).double()))
    peaks = [render_frame(replace(facing, bodies=(ball,)), 0)[0].max().item() for ball in balls]
    assert peaks[1] > peaks[0] + 20


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("shape", lambda: body("torus", (1.0,) * 3, [[0, 0, 1]])),
        ("half_size_m", lambda: body("cylinder", (1.0, 1.1, 2.0), [[0, 0, 1]])),
        ("half_size_m", lambda: body("capsule", (1.0, 1.0, 0.9), [[0, 0, 1]])),
        ("parts", lambda: Body((), torch.zeros(1, 3), torch.tensor([IDENTITY]))),
        ("image", lambda: Texture("image")),
        ("image", lambda: render_frame(replace(scene(), floor=Texture("image", image="no/such.png")), 0)),
        ("motion_blur", lambda: replace(scene(), motion_blur=2.5)),
        ("half_size_m", lambda: body("box", (1.0, 0.0, 2.0), [[0, 0, 1]])),
        ("quaternions", lambda: body("box", (1.0,) * 3, [[0, 0, 1]], torch.tensor([[0.0, 0, 0, 2]]))),
        ("quaternions", lambda: body("box", (1.0,) * 3, [[0, 0, 1]], torch.tensor([IDENTITY] * 2))),
        ("bodies", lambda: scene(body("box", (1.0,) * 3, [[0, 0, 1]] * 2))),
        ("world_from_cam", lambda: scene(eyes=((0, -50, 2),))),
        ("pattern", lambda: Texture("plaid", TEXTURE.colors, 1.0)),
        ("scale_m", lambda: Texture("checks", TEXTURE.colors, 0.0)),
        ("samples", lambda: render_frame(scene(), 0, samples=0)),
        ("n_queries", lambda: render_clip(scene(), fps=12, samples=1, n_tracks=0)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument(name, make):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        make()


def test_package_and_truth_import_without_numba():
    code = "import sys, c4d_nb, c4d_nb.kubric.truth; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _pose(of: Body, t: int) -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = roma.unitquat_to_rotmat(of.quaternions[t]), of.positions[t]
    return pose
