"""Baselines of motion masks by hand, and the command on folders of both kinds."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Tracks, select_frames
from c4d_nb.errors import InputError
from c4d_nb.mask_evaluation import (
    Correspondences,
    ablation,
    all_static,
    correspondences,
    main,
    mobility_alone,
    nothing_moves,
    sequences,
)
from c4d_nb.metrics import motion_iou


def test_pixels_are_what_the_nearest_track_is(yard):
    clip = select_frames(yard, max_frames=2)
    height, width = clip.size
    uv = torch.tensor([[0.0, 10], [width - 1.0, 10], [20.0, 10]]).expand(2, 3, 2)
    visible = torch.tensor([[True, True, False], [False, False, False]])
    mobility = torch.tensor([[0.9, 0.1, 0.9]]).expand(2, 3)
    tracks = Tracks(uv, visible, visible.float(), mobility, torch.zeros(3, dtype=torch.long))
    nothing = torch.zeros(0, height, width, 2)
    found = Correspondences(clip, nothing, nothing[..., 0].bool(), torch.zeros(0, 2, dtype=torch.long), tracks)
    masks = mobility_alone(found)
    assert torch.equal(masks[0], pixel_grid(height, width)[..., 0] < (width - 1) / 2)
    assert not masks[1].any()
    assert not nothing_moves(found).any()


def test_points_of_all_static():
    tracks = all_static(3, 16, 24)
    assert tracks.uv.shape == (3, 3 * 6, 2)
    assert tracks.uv[0, 0].tolist() == [4, 4]
    assert (tracks.query_frame.bincount() == 6).all()


def test_ablation_switches_every_part_off():
    assert len(ablation()) == 10


def test_masks_from_other_static_points(yard):
    """Of points that are known, masks are no worse than of those that the tracker tells."""
    found = correspondences(select_frames(yard, max_frames=8))
    true = found.clip.truth.motion_mask
    methods = {name: ablation()[name] for name in ("robust", "made once more", "with true static points")}
    iou = {name: motion_iou(method(found), true) for name, method in methods.items()}
    assert iou["with true static points"] > iou["robust"] - 0.02
    assert iou["made once more"] > iou["robust"] - 0.02


@pytest.fixture(scope="module")
def davis(tmp_path_factory, yard):
    """Six frames of the yard in DAVIS' layout, the masks in an indexed colour below 128."""
    folder = tmp_path_factory.mktemp("davis")
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "480p" / "yard").mkdir(parents=True)
    for i in range(6):
        frame, mask = yard.frames[i].numpy(), yard.truth.motion_mask[i].numpy()
        cv2.imwrite(str(folder / "JPEGImages" / "480p" / "yard" / f"{i:05}.jpg"), frame[..., ::-1])
        color = np.zeros((*mask.shape, 3), dtype=np.uint8)
        color[mask] = (0, 0, 100)
        cv2.imwrite(str(folder / "Annotations" / "480p" / "yard" / f"{i:05}.png"), color)
    return folder


def test_davis_is_read(davis, yard):
    [(name, clip, true)] = sequences(davis, long_side=None, max_frames=4)
    assert name == "yard"
    assert clip.frames.shape[:3] == true.shape == (4, *yard.size)
    assert torch.equal(true, yard.truth.motion_mask[:4])


def test_command(davis, capsys):
    """Methods in the order of the table; that nothing moves is wrong in every frame with a mover."""
    assert main([str(davis), "--max-frames", "4", "--long-side", "128"]) == 0
    head, row, mean = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["IoU,", "%", "robust"]
    assert row.startswith("yard")
    assert mean.startswith(f"mean of {davis.name}")
    assert [float(x) for x in row.split()[1:]] == [float(x) for x in mean.split()[3:]]
    assert float(row.split()[-1]) == 0
    assert float(row.split()[1]) > 20  # four frames of 128 px: a small mover; measured 30


def test_clip_archives_are_read(yard, tmp_path):
    select_frames(yard, max_frames=3).save(tmp_path / "yard.npz")
    [(name, clip, true)] = sequences(tmp_path, long_side=64, max_frames=None)
    assert name == "yard"
    assert max(clip.size) == 64
    assert motion_iou(true, clip.truth.motion_mask) == 1


def test_folder_without_sequences(tmp_path):
    with pytest.raises(InputError, match=r"^folder: expected JPEGImages"):
        list(sequences(tmp_path, long_side=None, max_frames=None))


def test_missing_masks(davis, tmp_path):
    shutil.copytree(davis, tmp_path / "d")
    (tmp_path / "d" / "Annotations" / "480p" / "yard" / "00005.png").unlink()
    with pytest.raises(InputError, match=r"^path: expected a mask of every frame, but .*yard has none of 00005"):
        list(sequences(tmp_path / "d", long_side=None, max_frames=None))
