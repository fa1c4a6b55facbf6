"""What a pointmap network is trained on: exact pointmaps, either order, mirrored, in changed colours."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from c4d_nb.camera import project
from c4d_nb.clip import Clip
from c4d_nb.errors import InputError
from c4d_nb.kubric.takes import static_takes
from c4d_nb.pointmaps.pairs import StaticPairs, changed_colors, clip_paths, collate, mirrored, true_pairs


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return static_takes(5, takes=2, frames=3, size=32, samples=1)


@pytest.fixture(scope="module")
def paths(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [clip.save(folder / f"{i}.npz") for i, clip in enumerate(clips)]


def test_both_pointmaps_lie_in_the_first_camera(clips):
    clip, truth = clips[0], clips[0].truth
    pair = true_pairs(clip, 2, 0)
    torch.testing.assert_close(pair.xyz_1[..., 2], truth.depth[2])
    seen_by_2 = torch.linalg.inv(truth.world_from_cam[0].double()) @ truth.world_from_cam[2].double()
    back = pair.xyz_2.double() @ seen_by_2[:3, :3].T + seen_by_2[:3, 3]
    torch.testing.assert_close(back[..., 2].float(), truth.depth[0], atol=1e-4, rtol=1e-4)


def test_reversed_is_the_pair_of_exchanged_frames(clips):
    found, expected = true_pairs(clips[0], 0, 1).reversed(), true_pairs(clips[0], 1, 0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=1e-4, rtol=1e-4)


def test_pixels_without_depth_are_not_valid(clips):
    truth = clips[0].truth
    depth = truth.depth.clone()
    depth[0, 1, 2], depth[1, 3, 4], depth[1, 0, 0] = torch.nan, 0, torch.inf
    pair = true_pairs(replace(clips[0], truth=replace(truth, depth=depth)), 0, 1)
    assert (~pair.valid_1).nonzero().tolist() == [[1, 2]]
    assert (~pair.valid_2).nonzero().tolist() == [[0, 0], [3, 4]]
    assert torch.isfinite(pair.xyz_1).all()
    assert torch.isfinite(pair.xyz_2).all()


def test_mirrored_pair_is_a_scene_seen_by_the_same_camera(clips):
    """Points still project to their own pixels, and the reverse of the mirror image is the mirror image's reverse."""
    pair, K = mirrored(true_pairs(clips[0], 0, 1)), clips[0].truth.intrinsics[:1]
    uv, _ = project(pair.xyz_1.flatten(0, 1)[None], K)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    torch.testing.assert_close(uv[0], torch.stack([columns, rows], -1).flatten(0, 1), atol=1e-3, rtol=0)
    one, other = pair.reversed(), mirrored(true_pairs(clips[0], 0, 1).reversed())
    torch.testing.assert_close(one.xyz_2, other.xyz_2, atol=1e-4, rtol=1e-4)
    assert torch.equal(mirrored(pair).xyz_1, true_pairs(clips[0], 0, 1).xyz_1)


def test_changed_colors_leave_the_geometry(clips):
    pair = true_pairs(clips[0], 0, 1)
    changed = changed_colors(pair, np.random.default_rng(1))
    assert torch.equal(changed.xyz_2, pair.xyz_2)
    assert not torch.equal(changed.images_1, pair.images_1)
    assert changed.images_1.abs().max() <= 1


def test_item_depends_on_its_number_only(paths):
    one, other = (StaticPairs(paths, size=32, seed=4) for _ in range(2))
    other[7]
    for index in (0, 3):
        for a, b in zip(one[index], other[index], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one[0].images_1, StaticPairs(paths, size=32, seed=5)[0].images_1)


def test_smaller_size(paths):
    pair = StaticPairs(paths, size=16)[0]
    assert pair.images_1.shape == (3, 16, 16)
    assert pair.xyz_2.shape == (16, 16, 3)
    assert collate([pair, pair]).valid_1.shape == (2, 16, 16)


def test_clips_that_cannot_be_used(paths, shipped, tmp_path, unchecked):
    with pytest.raises(InputError, match="paths: expected at least one clip"):
        StaticPairs([], size=32)
    with pytest.raises(InputError, match="paths: expected 2 frames or more of 64x64 px"):
        StaticPairs(paths[:1], size=64)[0]
    with pytest.raises(InputError, match=r"paths: expected static clips, but in .* something moves"):
        StaticPairs([shipped.save(tmp_path / "moving.npz")], size=256)[0]
    bare = Clip(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), 12.0).save(tmp_path / "bare.npz")
    with pytest.raises(InputError, match=r"paths: expected clips with depth, poses and intrinsics, but .* lacks some"):
        StaticPairs([bare], size=32)[0]
    with pytest.raises(InputError, match=r"clips: expected a folder of clip archives \(\.npz\)"):
        clip_paths(tmp_path / "nowhere")
