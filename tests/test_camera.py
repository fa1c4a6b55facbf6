"""Cameras and poses: round trips, batches, and scipy as the oracle of angles."""

import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from c4d_nb.camera import (
    fit_similarity,
    intrinsics_matrix,
    invert,
    pinhole,
    pixel_grid,
    pose,
    project,
    rays,
    rotation_angle_deg,
    transform,
    unproject,
)


def random_pose(generator, *batch):
    rotation = roma.random_rotmat(batch, dtype=torch.float64, generator=generator)
    return pose(rotation, torch.randn(*batch, 3, dtype=torch.float64, generator=generator))


def random_intrinsics(generator, *batch):
    focal = 20 + 10 * torch.rand(*batch, 2, dtype=torch.float64, generator=generator)
    return intrinsics_matrix(focal, 3 + torch.rand(*batch, 2, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_project_undoes_unproject(generator, batch):
    K = random_intrinsics(generator, *batch)
    depth = 1 + torch.rand(*batch, 5, 7, dtype=torch.float64, generator=generator)
    uv, z = project(unproject(depth, K).flatten(-3, -2), K)
    torch.testing.assert_close(uv, pixel_grid(5, 7, like=depth).reshape(-1, 2).expand_as(uv))
    torch.testing.assert_close(z, depth.flatten(-2))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_invert_undoes_transform(generator, batch):
    b_from_a = random_pose(generator, *batch)
    xyz = torch.randn(*batch, 6, 3, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(transform(invert(b_from_a), transform(b_from_a, xyz)), xyz)


def test_invert_is_the_matrix_inverse(generator):
    b_from_a = random_pose(generator, 5)
    torch.testing.assert_close(invert(b_from_a), torch.linalg.inv(b_from_a))


def test_transform_broadcasts_over_points(generator):
    """One pose a frame on a map of points."""
    b_from_a = random_pose(generator, 2)
    xyz = torch.randn(2, 4, 5, 3, dtype=torch.float64, generator=generator)
    maps = transform(b_from_a[:, None], xyz)
    torch.testing.assert_close(maps, transform(b_from_a, xyz.flatten(1, 2)).reshape(xyz.shape))


@pytest.mark.parametrize(("uv_shape", "expected"), [((2,), (3, 3)), ((7, 2), (3, 7, 3)), ((4, 5, 2), (3, 4, 5, 3))])
def test_rays_of_a_batch_of_cameras(uv_shape, expected):
    assert rays(pinhole(torch.tensor([5.0, 6, 7]), 9, 9), torch.zeros(uv_shape)).shape == expected


def test_rays_of_a_batch_use_their_own_camera(generator):
    K, uv = random_intrinsics(generator, 3), torch.rand(3, 6, 2, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(rays(K, uv), torch.stack([rays(k, x) for k, x in zip(K, uv, strict=True)]))


def test_ray_has_unit_depth(generator):
    assert (rays(random_intrinsics(generator), torch.rand(8, 2, dtype=torch.float64))[..., 2] == 1).all()


def test_projection_behind_the_camera_says_so():
    _, depth = project(torch.tensor([[0.0, 0, -2]]), pinhole(5.0, 3, 3))
    assert depth.item() == -2


def test_projection_at_depth_zero_is_finite():
    uv, _ = project(torch.tensor([[1.0, 1, 0]]), pinhole(5.0, 3, 3))
    assert torch.isfinite(uv).all()


def test_pinhole():
    assert pinhole(30.0, 11, 20).tolist() == [[30, 0, 9.5], [0, 30, 5], [0, 0, 1]]


def test_pinhole_batch():
    K = pinhole(torch.tensor([30.0, 40]), 11, 20)
    assert K.shape == (2, 3, 3)
    assert K[:, 0, 0].tolist() == [30, 40]


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 0.1, 1.0])
def test_rotation_angle_against_scipy(generator, scale):
    rotvec = scale * torch.randn(20, 3, dtype=torch.float64, generator=generator)
    rotations = Rotation.from_rotvec(rotvec.numpy())
    expected = torch.rad2deg(torch.from_numpy(rotations.magnitude()))
    angle = rotation_angle_deg(torch.from_numpy(rotations.as_matrix()))
    torch.testing.assert_close(angle, expected, rtol=1e-6, atol=1e-13)


def test_fit_similarity_recovers_a_known_one(generator):
    rotation = roma.random_rotmat(4, dtype=torch.float64, generator=generator)
    source = torch.randn(4, 10, 3, dtype=torch.float64, generator=generator)
    scale, translation = torch.tensor([0.1, 1, 3, 50]).double(), torch.randn(4, 3, generator=generator).double()
    target = scale[:, None, None] * source @ rotation.mT + translation[:, None]
    found = fit_similarity(source, target)
    for value, expected in zip(found, (scale, rotation, translation), strict=True):
        torch.testing.assert_close(value, expected)


def test_fit_similarity_ignores_points_without_weight(generator):
    source = torch.randn(12, 3, dtype=torch.float64, generator=generator)
    target = 2 * source + 1
    target[8:] += 100
    scale, _, _ = fit_similarity(source, target, (torch.arange(12) < 8).double())
    assert scale.item() == pytest.approx(2)


def test_fit_similarity_never_mirrors(generator):
    source = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    _, rotation, _ = fit_similarity(source, source * source.new_tensor([1, 1, -1]))
    assert torch.linalg.det(rotation).item() == pytest.approx(1)
