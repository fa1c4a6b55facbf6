"""Random scenes: the published ranges, one stream of numbers a scene, and the forced cases."""

from functools import cache

import numpy as np
import pytest
import torch

from c4d_nb.camera import invert, project, rotation_angle_deg
from c4d_nb.errors import InputError
from c4d_nb.kubric.camera_paths import sample_camera
from c4d_nb.kubric.mobility import mobility_labels, position_steps
from c4d_nb.kubric.ranges import CASES, SPLITS
from c4d_nb.kubric.sampling import _moving_share, sample_scene
from c4d_nb.kubric.scene import Scene, parts_box
from c4d_nb.kubric.shapes import COMPOUNDS, sample_parts, scaled
from c4d_nb.motion_mask import sampson_error


@cache
def scene(seed: int = 0, split: str = "movi_e", subset: str = "train", case: str | None = None) -> Scene:
    return sample_scene(seed, split=split, subset=subset, case=case, size=64)


def same(a: Scene, b: Scene) -> bool:
    return len(a.bodies) == len(b.bodies) and torch.equal(a.positions, b.positions) and a.floor == b.floor


def test_a_seed_is_a_scene():
    again = sample_scene(0, size=64)
    assert same(again, scene(0))
    assert torch.equal(again.world_from_cam, scene(0).world_from_cam)
    assert torch.equal(again.quaternions, scene(0).quaternions)
    assert [b.parts for b in again.bodies] == [b.parts for b in scene(0).bodies]
    assert (again.light, again.walls, again.room) == (scene(0).light, scene(0).walls, scene(0).room)


def test_streams_are_apart():
    """Another seed, another subset and another split never give the same scene."""
    others = [scene(1), scene(0, subset="validation"), scene(0, split="panning_movi_e"), scene(0, case="still_camera")]
    assert not any(same(scene(0), other) for other in others)


def test_size_changes_the_picture_not_the_scene():
    large = sample_scene(0, size=128)
    assert same(large, scene(0))
    torch.testing.assert_close(large.intrinsics[0, 0], 2 * scene(0).intrinsics[0, 0])


@pytest.mark.parametrize("split", SPLITS)
def test_published_numbers(split):
    for seed in range(2):
        made, ranges = scene(seed, split), SPLITS[split]
        assert len(made) == 24
        assert made.intrinsics[0, 0].item() == pytest.approx(35 / 32 * 64)
        tossed = made.is_dynamic.sum().item()
        assert ranges.tossed[0] <= tossed <= ranges.tossed[1]
        assert ranges.resting[0] <= len(made.bodies) - tossed <= ranges.resting[1]
        sides = (made.boxes_m[:, 1] - made.boxes_m[:, 0]).amax(dim=1)
        assert ((sides >= 0.75 - 1e-9) & (sides <= 3 + 1e-9)).all()
        assert (made.motion_blur > 0) == (split == "movi_f")
        assert made.motion_blur <= 2


@pytest.mark.parametrize("split", SPLITS)
def test_camera_paths(split):
    """200 paths: in the half shell, straight, of the published length, upright, at the published target."""
    rng, ranges = np.random.default_rng(0), SPLITS[split]
    for _ in range(200):
        camera = sample_camera(rng, ranges, 24)
        center = camera[:, :3, 3]
        steps = center.diff(dim=0)
        # The path bends nowhere, and the shell is not convex: only its ends, just outside of the clip, must be in it.
        torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-12, rtol=0)
        assert center.norm(dim=1).max() <= 12
        assert center[:, 2].min() > 0.1
        assert 26 / 23 * (center[-1] - center[0]).norm() <= ranges.camera_travel_m[1] + 1e-9
        assert camera[:, 2, 0].abs().max() < 1e-9  # x is level
        to_origin = torch.nn.functional.normalize(-center, dim=1)
        assert ((camera[:, :3, 2] * to_origin).sum(dim=1) > 1 - 1e-9).all() == (split != "panning_movi_e")


def test_intrinsics_have_kubrics_field_of_view():
    """0.857556 rad across, from edge to edge of the outermost pixels; the middle of the image looks at the origin."""
    made = scene(0)
    half = (made.width / 2) / made.intrinsics[0, 0]
    assert 2 * torch.atan(half).item() == pytest.approx(0.857556, abs=1e-6)
    middle = torch.tensor([(made.width - 1) / 2, (made.height - 1) / 2], dtype=torch.float64)
    uv, depth = project(invert(made.world_from_cam)[:, :3, 3][:, None], made.intrinsics)
    torch.testing.assert_close(uv[:, 0], middle.expand(24, 2), atol=1e-9, rtol=0)
    assert (depth > 0).all()


def test_no_camera_is_inside_a_body():
    for seed in range(2):
        made = scene(seed)
        for body in made.bodies:
            assert ((body.positions - made.world_from_cam[:, :3, 3]).norm(dim=1) > body.radius_m).all()


def test_static_case_moves_only_the_camera():
    made = scene(0, case="static")
    assert torch.equal(made.positions, made.positions[:, :1].expand_as(made.positions))
    assert torch.equal(made.quaternions, made.quaternions[:, :1].expand_as(made.quaternions))
    assert not made.is_dynamic.any()
    assert made.world_from_cam[:, :3, 3].diff(dim=0).norm() > 0


def test_hit_case_moves_a_body_that_rested():
    made = scene(0, case="hit")
    hit = mobility_labels(made.positions) & ~made.is_dynamic
    assert made.is_dynamic.sum() == 1
    assert hit.any()
    steps = position_steps(made.positions)[hit]
    assert (steps[:, :3] <= 0.01).all(dim=1).any()


def test_epipolar_case_moves_along_epipolar_lines():
    """The mover's points keep to the lines that belong to a static scene, though it moves in the world."""
    made = scene(0, case="epipolar")
    (mover,) = mobility_labels(made.positions).nonzero()[:, 0].tolist()
    k, points = made.intrinsics, made.positions[mover]
    for m in (5, 23):
        cam_m_from_0 = invert(made.world_from_cam[m]) @ made.world_from_cam[0]
        uv = [(k @ (invert(made.world_from_cam[t]) @ torch.cat([points[t], points.new_ones(1)]))[:3]) for t in (0, m)]
        uv_0, uv_m = ((p[:2] / p[2])[None] for p in uv)
        shift = torch.linalg.cross(cam_m_from_0[:3, 3:].expand(3, 3), cam_m_from_0[:3, :3], dim=0)  # [t]x R
        fundamental = k.inverse().T @ shift @ k.inverse()
        assert sampson_error(fundamental, uv_0, uv_m).item() < 1e-12
        moved = (points[m] - points[0]).norm()
        assert moved > 0.01 * m


def test_large_mover_covers_over_half_of_every_frame():
    made = scene(0, case="large_mover")
    assert (_moving_share(made, mobility_labels(made.positions)) > 0.5).all()


def test_camera_cases():
    turning, standing = scene(0, case="pure_rotation"), scene(0, case="still_camera")
    centers = turning.world_from_cam[:, :3, 3]
    torch.testing.assert_close(centers, centers[:1].expand_as(centers), atol=1e-12, rtol=0)
    assert rotation_angle_deg(turning.world_from_cam[0, :3, :3].T @ turning.world_from_cam[-1, :3, :3]) > 5
    assert torch.equal(standing.world_from_cam, standing.world_from_cam[:1].expand(24, 4, 4))
    assert mobility_labels(standing.positions).any()


def test_parts_have_the_size_asked_for():
    rng = np.random.default_rng(1)
    for _ in range(30):
        parts = sample_parts(rng, 1.5)
        low, high = parts_box(parts)
        assert (high - low).max().item() == pytest.approx(1.5)
    assert len(COMPOUNDS) >= 5
    assert scaled(parts, 3.0)[0].half_size_m[0] == pytest.approx(2 * parts[0].half_size_m[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("split", {"split": "movi_c"}),
        ("subset", {"subset": "test"}),
        ("case", {"case": "fire"}),
        ("seed", {"seed": -1}),
        ("size", {"size": 4}),
        ("frames", {"frames": 0}),
    ],
)
def test_errors_name_the_argument(name, options):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        sample_scene(**{"seed": 0} | options)


def test_every_case_is_tested():
    assert set(CASES) == {"static", "hit", "epipolar", "large_mover", "pure_rotation", "still_camera"}
