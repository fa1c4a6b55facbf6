"""Scores on real video: by hand, and on the real annotations where they are."""

import json
from dataclasses import replace

import pytest
import torch

from c4d_nb import Clip, Tracks, load_clip
from c4d_nb.correspondence.badja import (
    Joints,
    animal_scores,
    joint_queries,
    main,
    read_joints,
    share_found,
    shares_by_mask,
)
from c4d_nb.correspondence.dynpt import DynPT, DynPTConfig
from c4d_nb.correspondence.weights import save_dynpt
from c4d_nb.errors import InputError
from c4d_nb.kubric.generate import EXIT_BAD_INPUT


def joints() -> Joints:
    uv = torch.tensor([[[10.0, 10], [0, 0]], [[20, 10], [30, 30]], [[30, 10], [40, 30]]])
    return Joints(torch.tensor([0, 5, 9]), uv, torch.tensor([[True, False], [True, True], [True, True]]))


def tracks_of(uv: torch.Tensor, query_frame: list[int], mobility: float = 1.0) -> Tracks:
    ones = torch.ones(uv.shape[:2])
    return Tracks(uv, ones.bool(), ones, mobility * ones, torch.tensor(query_frame))


def test_queries_are_where_joints_are_first_seen():
    queries = joint_queries(joints())
    assert queries.frame.tolist() == [0, 5]
    assert queries.uv.tolist() == [[10, 10], [30, 30]]


def test_share_found_by_hand():
    """sqrt(400) x 0.2 = 4 px. Joint 0: 3 px off, then 5; joint 1 after its query: exact."""
    masks = torch.zeros(10, 64, 64, dtype=torch.bool)
    masks[:, :20, :20] = True
    uv = torch.zeros(10, 2, 2)
    uv[5], uv[9] = torch.tensor([[23.0, 10], [0, 0]]), torch.tensor([[30.0, 15], [40, 30]])
    assert share_found(tracks_of(uv, [0, 5]), joints(), masks) == pytest.approx(2 / 3)


def test_shares_by_mask_by_hand():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :4] = True
    uv = torch.tensor([[[1.0, 1], [2, 3], [3, 6], [4, 7], [5, 2], [50, 50]]])
    tracks = tracks_of(uv, [0] * 6)
    tracks.mobility[0] = torch.tensor([1.0, 1, 1, 0, 0, 1])  # in, in, out; out, in; beyond the frame
    shares = shares_by_mask(tracks, masks)
    assert shares == pytest.approx({"dynamic inside": 2 / 3, "static outside": 1 / 2, "inside dynamic": 2 / 3})


def test_annotations_are_mapped_to_the_frames(tmp_path):
    rows = [
        {"image_path": "a/00002.jpg", "visibility": [True, False], "joints": [[539.5, 959.5], [0, 0]]},
        {"image_path": "a/00007.jpg", "visibility": [False, False], "joints": [[0, 0], [0, 0]]},
    ]
    (tmp_path / "dog.json").write_text(json.dumps(rows))
    found = read_joints(tmp_path / "dog.json", (108, 192))
    assert found.frame.tolist() == [2, 7]
    assert found.visible.tolist() == [[True], [False]]
    torch.testing.assert_close(found.uv[0, 0], torch.tensor([95.5, 53.5]))


@pytest.mark.parametrize("content", [None, "", "[]x", '[{"joints": []}]', "[1, 2]"])
def test_file_without_joints(tmp_path, content):
    path = tmp_path / "dog.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"^annotations: expected joints of BADJA, but .*dog\.json has none"):
        read_joints(path, (64, 64))


def test_real_annotations(reference_data):
    """The camel's joints lie on the camel, or near it."""
    folder = reference_data / "data"
    if not (folder / "badja").is_dir():
        pytest.skip("no BADJA annotations")
    masks = load_clip(folder / "davis" / "Annotations" / "480p" / "camel").frames[..., 0] > 127
    found = read_joints(folder / "badja" / "joint_annotations" / "camel.json", tuple(masks.shape[1:]))
    frame = found.frame[:, None].expand(found.visible.shape)[found.visible]
    column, row = found.uv[found.visible].round().long().unbind(-1)
    assert masks[frame, row, column].float().mean() > 0.85

    def perfect(frames, queries):
        index = torch.arange(len(queries.frame))
        uv = queries.uv.expand(len(frames), -1, -1).clone()
        if len(index) == found.uv.shape[1]:
            uv[found.frame] = found.uv
        column, row = uv.round().long().unbind(-1)
        inside = masks[torch.arange(len(frames))[:, None], row, column]
        ones = torch.ones(uv.shape[:2])
        return Tracks(uv, ones.bool(), ones, inside.float(), queries.frame)

    clip = Clip(load_clip(folder / "davis" / "JPEGImages" / "480p" / "camel").frames, 24.0)
    names = ("joints found", "dynamic inside", "static outside", "inside dynamic")
    scores = animal_scores(clip, masks, found, perfect, motion_mask=masks)
    assert scores == dict.fromkeys(("alone", "masks too"), dict.fromkeys(names, 100.0))

    def unsure(frames, queries):
        """Calls all static, but does not mean it."""
        tracks = perfect(frames, queries)
        return replace(tracks, mobility=torch.full_like(tracks.mobility, 0.4))

    scores = animal_scores(clip, masks, found, unsure, motion_mask=masks)
    assert scores["alone"]["inside dynamic"] == 0
    assert scores["masks too"]["inside dynamic"] > 60
    assert scores["masks too"]["dynamic inside"] > 2 * 100 * masks.float().mean()


def test_command_refuses_absent_videos(tmp_path, caplog):
    model = DynPT(DynPTConfig(encoders=("cnn",), channels=8, width=16, depth=1, virtual=2))
    path = save_dynpt(model, tmp_path / "w.safetensors")
    command = ["dog", "--davis", str(tmp_path), "--annotations", str(tmp_path), "--weights", str(path)]
    assert main(command) == EXIT_BAD_INPUT
    assert "path: expected frames of DAVIS' sequence dog" in caplog.text
