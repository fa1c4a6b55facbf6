"""Every line of the conventions page, the docstring of ``c4d_nb``, by an example."""

import math
from dataclasses import replace

import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from c4d_nb.alignment.objectives import ego_flow
from c4d_nb.camera import invert, pinhole, pixel_grid, pose, project, rays, transform, unproject
from c4d_nb.clip import Clip, Resize, resize_clip, select_frames
from c4d_nb.correspondence.flow import estimate_flow
from c4d_nb.kubric.scene import look_at
from c4d_nb.kubric.truth import truth_flow
from c4d_nb.motion_mask import epipolar_motion_masks


def test_camera_axes_are_opencv():
    """Right is a larger column, below is a larger row, ahead is a depth above 0."""
    uv, depth = project(torch.tensor([[0.0, 0, 2], [1, 0, 2], [0, 1, 2]]), pinhole(10.0, 21, 31))
    assert uv.tolist() == [[15, 10], [20, 10], [15, 15]]
    assert (depth > 0).all()


def test_world_and_cameras_are_right_handed():
    world_from_cam = look_at(torch.tensor([[1.0, -5, 3]]), torch.tensor([[0.0, 1, 0.5]]))
    torch.testing.assert_close(torch.linalg.det(world_from_cam[0, :3, :3]), torch.tensor(1.0))


def test_integers_are_pixel_centres():
    """The middle of the image is ((w - 1) / 2, (h - 1) / 2)."""
    assert pinhole(10.0, 4, 6)[:2, 2].tolist() == [2.5, 1.5]


def test_array_index_is_row_column():
    assert pixel_grid(4, 6)[3, 5].tolist() == [5, 3]


@pytest.mark.parametrize("corner", [(-0.5, -0.5), (31.5, 23.5)])
def test_image_borders_stay_borders_when_resized(corner):
    resize = Resize(48, 64, 24, 32)
    expected = [(2 * (c + 0.5)) - 0.5 for c in corner]
    assert resize.uv_to_original(torch.tensor([corner])).tolist() == [expected]


def test_resized_image_shows_its_content_where_uv_says():
    """The centroid of a blob moves as ``uv_from_original`` moves its point."""
    grid = pixel_grid(60, 90)
    centre = torch.tensor([52.3, 21.7])
    blob = 255 * torch.exp(-(grid - centre).square().sum(-1) / 50)
    clip = resize_clip(Clip(blob[None, ..., None].expand(1, 60, 90, 3).byte().contiguous(), fps=1.0), 30)
    weight = clip.frames[0, ..., 0].float()
    centroid = (weight[..., None] * pixel_grid(20, 30)).sum((0, 1)) / weight.sum()
    torch.testing.assert_close(centroid, clip.original.uv_from_original(centre), atol=0.05, rtol=0)


def test_intrinsics_are_of_the_pixels_at_hand():
    """A ray through a pixel does not change when both the pixel and K are mapped to the resized image."""
    resize = Resize(480, 640, 121, 161)
    K = torch.tensor([[500.0, 0, 311], [0, 510, 250], [0, 0, 1]], dtype=torch.float64)
    uv = torch.tensor([[3.0, 470], [600, 20]], dtype=torch.float64)
    mapped = rays(resize.intrinsics_from_original(K), resize.uv_from_original(uv))
    torch.testing.assert_close(mapped, rays(K, uv))


def test_intrinsics_map_forth_and_back():
    resize = Resize(480, 640, 121, 161)
    K = torch.tensor([[500.0, 0, 311], [0, 510, 250], [0, 0, 1]]).expand(3, 3, 3)
    torch.testing.assert_close(resize.intrinsics_to_original(resize.intrinsics_from_original(K)), K)


def test_mask_goes_back_to_the_original_image():
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    full = Resize(6, 8, 3, 4).mask_to_original(mask)
    assert torch.nonzero(full[0]).tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_pose_maps_the_second_name_to_the_first():
    """x_world = world_from_cam @ x_cam: the camera's centre is the translation."""
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0, math.pi / 2]))
    world_from_cam = pose(turn, torch.tensor([1.0, 2, 3]))
    xyz_world = transform(world_from_cam, torch.tensor([[0.0, 0, 0], [1, 0, 0]]))
    torch.testing.assert_close(xyz_world, torch.tensor([[1.0, 2, 3], [1, 3, 3]]))


def test_inner_names_cancel(generator):
    a, b = (pose(roma.random_rotmat(generator=generator), torch.randn(3, generator=generator)) for _ in range(2))
    world_from_cam, cam_from_obj, x = a, b, torch.randn(5, 3, generator=generator)
    torch.testing.assert_close(transform(world_from_cam @ cam_from_obj, x), transform(a, transform(b, x)))


def test_quaternions_are_xyzw(yard):
    quaternions = yard.truth.quaternions[0]
    expected = torch.from_numpy(Rotation.from_quat(quaternions.numpy()).as_matrix()).float()
    torch.testing.assert_close(roma.unitquat_to_rotmat(quaternions), expected, atol=1e-5, rtol=0)


def test_depth_is_z_not_distance():
    xyz = unproject(torch.full((1, 9, 9), 3.0), pinhole(4.0, 9, 9)[None])
    assert (xyz[..., 2] == 3).all()
    assert xyz[0, 0, 0].norm() > 3.5


def test_flow_is_target_minus_source(generator):
    """The second image shows the content 3 px further right and 2 px further up: flow is (3, -2)."""
    coarse = torch.rand(1, 3, 24, 32, generator=generator)
    scene = (255 * torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic")).clamp(0, 255)
    image = scene[0].permute(1, 2, 0).byte()
    flow = estimate_flow(image[10:80, 10:110].contiguous(), image[12:82, 7:107].contiguous())
    torch.testing.assert_close(flow[15:55, 15:85].mean((0, 1)), torch.tensor([3.0, -2.0]), atol=0.05, rtol=0)


def test_ego_flow_has_the_sign_of_flow():
    """The camera moves to the right, so a static point moves to the left."""
    points = torch.tensor([[[0.0], [0], [4]]])
    world_from_cam = pose(torch.eye(3), torch.tensor([1.0, 0, 0]))
    ego = ego_flow(points, invert(world_from_cam)[None], pinhole(8.0, 1, 1)[None], (1, 1))
    assert ego.flow[0, :, 0].tolist() == [-2, 0]


def test_truth_flow_carries_tracks(yard):
    truth = select_frames(yard, start=0, max_frames=6).truth
    tracks, flow = truth.tracks, truth_flow(truth)
    asked = tracks.query_frame == 4
    u, v = tracks.uv[4, asked].round().long().unbind(-1)
    torch.testing.assert_close(tracks.uv[5, asked] - tracks.uv[4, asked], flow[4, v, u], atol=2e-3, rtol=0)


def test_mask_is_true_where_dynamic(yard):
    """Object 1 of the shipped clip, the ball, is what moves."""
    assert torch.equal(yard.truth.motion_mask, yard.truth.segmentation == 1)


def test_mobility_is_one_where_dynamic(yard):
    tracks = yard.truth.tracks
    n = torch.arange(tracks.uv.shape[1])
    u, v = tracks.uv[tracks.query_frame, n].round().long().unbind(-1)
    assert torch.equal(tracks.mobility[0] == 1, yard.truth.motion_mask[tracks.query_frame, v, u])


def test_mobility_below_one_half_makes_a_static_point(yard):
    """With every track called dynamic there is no static point, so no mask."""
    tracks = yard.truth.tracks
    dynamic = replace(tracks, mobility=torch.ones_like(tracks.mobility))
    flows = torch.zeros(1, *yard.size, 2)
    assert not epipolar_motion_masks(flows, dynamic, torch.tensor([[0, 1]]), max_age=24).any()


def test_truth_is_in_metres(yard):
    """The ball of the yard has a radius of 0.68 m: its nearest point is that much closer than its centre."""
    truth = yard.truth
    centre = transform(invert(truth.world_from_cam[0]), truth.positions[0, :1])
    distance = unproject(truth.depth[:1], truth.intrinsics[:1])[0].norm(dim=-1)
    nearest = distance[truth.segmentation[0] == 1].min()
    assert (centre.norm() - nearest).item() == pytest.approx(0.68, abs=0.001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_input(dtype):
    assert unproject(torch.ones(1, 3, 4, dtype=dtype), pinhole(torch.tensor([5.0], dtype=dtype), 3, 4)).dtype == dtype
