"""A sheet of clips: where frames go, what is outlined, and what cannot be drawn."""

import cv2
import pytest
import torch

from c4d_nb.clip import Clip, Truth
from c4d_nb.errors import InputError
from c4d_nb.show.sheet import contact_sheet, main


def test_frames_fill_rows_and_masks_are_outlined():
    frames = [torch.full((8, 10, 3), value, dtype=torch.uint8) for value in (10, 20, 30)]
    masks = [torch.zeros(8, 10, dtype=torch.bool) for _ in frames]
    masks[1][3:6, 4:7] = True
    sheet = contact_sheet(frames, masks, columns=2)
    assert sheet.shape == (16, 20, 3)
    assert sheet[0, 0, 0] == 10
    assert sheet[8, 0, 0] == 30
    assert (sheet[8:, 10:] == 0).all()
    assert sheet[2, 13, 0] == 228  # the outline, in the colour of what is dynamic
    assert sheet[4, 15, 0] == 20  # inside it
    assert (frames[1] == 20).all()


def test_command(tmp_path):
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    frames = torch.full((3, 16, 16, 3), 50, dtype=torch.uint8)
    Clip(frames, 12.0, truth=Truth(motion_mask=mask)).save(tmp_path / "0.npz")
    Clip(frames, 12.0).save(tmp_path / "1.npz")
    assert main([str(tmp_path), "--out", str(tmp_path / "sheet.png")]) == 0
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape == (16, 96, 3)
    outlined = (picture[:, :32] != 50).any(axis=-1)
    assert outlined[:, :16].sum() == 12**2 - 8**2
    assert not outlined[:, 16:].any()


def test_bad_input(tmp_path, caplog):
    with pytest.raises(InputError, match=r"^frames: expected one or more of one size"):
        contact_sheet([], [])
    assert main([str(tmp_path)]) == 2
    assert "folder: expected clip archives" in caplog.text
