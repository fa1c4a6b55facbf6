"""A sheet of clips: where frames go, what is outlined, and what cannot be drawn."""

import cv2
import pytest
import torch

from c4d_nb.clip import Clip, Truth
from c4d_nb.errors import InputError
from c4d_nb.show.sheet import OUTLINE_RGB, contact_sheet, main


def test_frames_fill_rows_and_masks_are_outlined():
    frames = [torch.full((8, 10, 3), value, dtype=torch.uint8) for value in (10, 20, 30)]
    masks = [torch.zeros(8, 10, dtype=torch.bool) for _ in frames]
    masks[1][2:7, 3:8] = True
    sheet = contact_sheet(frames, masks, columns=2)
    assert sheet.shape == (16, 20, 3)
    assert sheet[0, 0, 0] == 10
    assert sheet[8, 0, 0] == 30
    assert (sheet[8:, 10:] == 0).all()
    assert tuple(sheet[2, 13].tolist()) == OUTLINE_RGB
    assert sheet[4, 15, 0] == 20  # inside the outline
    assert (frames[1] == 20).all()


def test_command(tmp_path):
    segmentation = torch.zeros(3, 16, 16, dtype=torch.long)
    segmentation[:, 4:12, 4:12] = 1
    truth = Truth(segmentation=segmentation, mobility=torch.tensor([True]))
    for number in range(2):
        Clip(torch.full((3, 16, 16, 3), 50, dtype=torch.uint8), 12.0, truth=truth).save(tmp_path / f"{number}.npz")
    Clip(torch.full((3, 16, 16, 3), 50, dtype=torch.uint8), 12.0).save(tmp_path / "2.npz")
    assert main([str(tmp_path), "--out", str(tmp_path / "sheet.png")]) == 0
    picture = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert picture.shape == (16, 96, 3)
    outlined = (picture == OUTLINE_RGB).all(axis=-1)
    assert outlined[:, :16].sum() == outlined[:, 16:32].sum() == 28
    assert not outlined[:, 32:].any()


def test_bad_input(tmp_path, caplog):
    with pytest.raises(InputError, match=r"^frames: expected one or more of one size"):
        contact_sheet([], [])
    assert main([str(tmp_path)]) == 2
    assert "folder: expected clip archives" in caplog.text
