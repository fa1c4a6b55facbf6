"""Masks refined by SAM 2: who is told what, how runs are combined, and what is said where something is missing.

A fake stands in for SAM 2 in most tests; a tiny random one of transformers runs where transformers is installed.
"""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from c4d_nb import sam2
from c4d_nb.errors import InputError
from c4d_nb.sam2 import load_sam2, prompt_frames, refine_masks

SIDE = 64
"""Of the square that a test's SAM 2 sees, px."""


class FakeSession:
    def __init__(self, video, **options):
        self.video, self.options, self.told = video, options, {}

    def obj_id_to_idx(self, name):
        return 0

    def add_mask_inputs(self, index, frame, mask):
        self.told[frame] = mask


class FakeSAM2(torch.nn.Module):
    """Hands told masks back and sees ``logits(n, told frames)`` of 16x16 cells in other frames."""

    device, dtype, config = torch.device("cpu"), torch.float32, SimpleNamespace(image_size=SIDE)

    def __init__(self, logits):
        super().__init__()
        self.logits, self.sessions = logits, []

    def forward(self, session, frame_idx):
        assert session.obj_with_new_inputs  # or SAM 2 does not look at the mask
        session.obj_with_new_inputs = []
        self.sessions = [*self.sessions, session] if session not in self.sessions else self.sessions

    def propagate_in_video_iterator(self, session, start_frame_idx, reverse):
        assert not session.obj_with_new_inputs
        last = 0 if reverse else len(session.video) - 1
        for n in range(start_frame_idx, last + (-1 if reverse else 1), -1 if reverse else 1):
            logits = 20.0 * session.told[n][0, 0] - 10 if n in session.told else self.logits(n, sorted(session.told))
            yield SimpleNamespace(frame_idx=n, pred_masks=logits[None, None])


@pytest.fixture
def fake_session(monkeypatch):
    monkeypatch.setattr(sam2, "_sam2", lambda: (FakeSAM2, FakeSession))


@pytest.fixture
def tiny_sam2():
    """Of random weights. Its sizes are the smallest that transformers' code, with some of them written in, can do."""
    try:
        from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
    except ImportError as error:
        pytest.skip(f"no transformers that has SAM 2 ({error})")
    cells = [[SIDE // stride] * 2 for stride in (4, 8, 16)]
    vision = Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(
            hidden_size=8,
            image_size=[SIDE, SIDE],
            blocks_per_stage=[1, 1, 2, 1],
            embed_dim_per_stage=[8, 16, 32, 64],
            num_attention_heads_per_stage=[1, 1, 1, 1],
            window_size_per_stage=[4, 4, 4, 2],
            window_positional_embedding_background_size=[2, 2],
            global_attention_blocks=[3],
        ),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=cells,
        fpn_hidden_size=128,
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": SIDE, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 32, "iou_head_hidden_dim": 16},
        image_size=SIDE,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=cells[-1],
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    torch.manual_seed(0)
    return Sam2VideoModel(config).eval()


@pytest.fixture
def square(generator):
    """Noise of 40x60 px, and a square of 16 px that goes right by 2 px a frame, masked in all but the first two."""
    frames = torch.randint(0, 256, (9, 40, 60, 3), generator=generator, dtype=torch.uint8)
    masks = torch.zeros(9, 40, 60, dtype=torch.bool)
    for n in range(2, 9):
        masks[n, 12:28, 8 + 2 * n : 24 + 2 * n] = True
    return frames, masks


def half(n: int, told: list[int]) -> Float[Tensor, "16 16"]:
    """Left."""
    return torch.where(torch.arange(16) < 8, 5.0, -5.0).expand(16, 16)


def sizes(*areas):
    """Masks of that many pixels."""
    masks = torch.zeros(len(areas), 4, 5, dtype=torch.bool)
    for mask, area in zip(masks, areas, strict=True):
        mask.view(-1)[:area] = True
    return masks


def test_prompts_are_the_median_masks_of_each_stretch():
    assert prompt_frames(sizes(1, 2, 9, 5, 4, 6), 2) == [1, 3]


def test_empty_masks_are_no_prompts():
    assert prompt_frames(sizes(0, 0, 0, 0, 3, 0, 2, 8, 4), 3) == [4, 8]
    assert prompt_frames(sizes(0, 0), 2) == []


def test_more_prompts_than_frames():
    assert prompt_frames(sizes(1, 0, 3), 8) == [0, 2]


def test_no_prompt_is_refused():
    with pytest.raises(InputError, match=r"^prompts: expected at least 1, but it is 0"):
        prompt_frames(sizes(1), 0)


def test_every_mask_is_what_was_seen_by_who_was_not_told_it(square, fake_session):
    """Also the prompts', also before the first one; at the frames' size, which is none of SAM 2's."""
    frames, masks = square
    model = FakeSAM2(half)
    refined = refine_masks(frames, masks, model=model, prompts=4)
    assert refined.dtype == torch.bool
    assert torch.equal(refined, (torch.arange(60) < 30).expand(9, 40, 60))
    chosen = prompt_frames(masks, 4)
    assert [sorted(session.told) for session in model.sessions] == [chosen[::2], chosen[1::2]]


def test_runs_have_equal_say(square, fake_session):
    """One is told the first prompt and sees the left half, surely; the other sees less, less surely, or nothing."""
    frames, masks = square
    chosen = prompt_frames(masks, 4)
    for other, seen in ((-1.0, True), (-1000.0, False)):
        model = FakeSAM2(
            lambda n, told, other=other: half(n, told) if chosen[0] in told else torch.full((16, 16), other)
        )
        refined = refine_masks(frames, masks, model=model, prompts=4)
        free = [n for n in range(9) if n not in chosen]
        assert refined[free][:, :, :28].all() == seen
        assert not refined[free][:, :, 32:].any()
        assert refined[chosen[1::2]][:, :, :28].all()
        assert not refined[chosen[::2]].any()


def test_lone_prompt_keeps_its_mask(square, fake_session):
    frames, masks = square
    refined = refine_masks(frames, masks, model=FakeSAM2(half), prompts=1)
    [n] = prompt_frames(masks, 1)
    assert torch.equal(refined[n], masks[n])
    assert refined[n - 1, :, :30].all()


def test_prompts_are_squeezed_into_the_square(square, fake_session):
    frames, masks = square
    model = FakeSAM2(half)
    refine_masks(frames, masks, model=model, prompts=1)
    [(n, told)] = model.sessions[0].told.items()
    rows, columns = told[0, 0].nonzero().T
    assert told.shape == (1, 1, SIDE, SIDE)
    assert rows.min() / SIDE == pytest.approx(12 / 40, abs=1 / SIDE)
    assert (rows.max() + 1) / SIDE == pytest.approx(28 / 40, abs=1 / SIDE)
    assert columns.min() / SIDE == pytest.approx((8 + 2 * n) / 60, abs=1 / SIDE)
    assert (columns.max() + 1) / SIDE == pytest.approx((24 + 2 * n) / 60, abs=1 / SIDE)


def test_frames_are_normalised_as_imagenet(square, fake_session):
    _, masks = square
    model = FakeSAM2(half)
    frames = torch.tensor([255, 0, 51], dtype=torch.uint8).expand(9, 40, 60, 3)
    refine_masks(frames, masks, model=model, prompts=1)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])
    torch.testing.assert_close(model.sessions[0].video, expected[:, None, None].expand(9, 3, SIDE, SIDE))


def test_nothing_to_follow_leaves_the_masks(caplog):
    """Without a model, so that none is downloaded for nothing."""
    masks = torch.zeros(3, 8, 9, dtype=torch.bool)
    assert torch.equal(refine_masks(torch.zeros(3, 8, 9, 3, dtype=torch.uint8), masks), masks)
    assert "nothing for SAM 2 to follow" in caplog.text


@pytest.mark.usefixtures("unchecked")
def test_masks_of_another_shape_are_refused(square):
    frames, masks = square
    with pytest.raises(InputError, match=r"^masks: expected shape \(9, 40, 60\), but it is \(8, 40, 60\)"):
        refine_masks(frames, masks[1:])


def test_transformers_is_imported_on_request_only():
    code = "import sys, c4d_nb.sam2; print({'torchvision', 'transformers'} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"


def test_missing_transformers_is_named(square, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r'^model: expected transformers 4\.56 .* pip install "c4d_nb\[sam2\]"'):
        refine_masks(*square)


def test_unknown_weights_are_refused(fake_session):
    with pytest.raises(InputError, match=r"^name_or_path: expected a folder or one of facebook/.*, but it is sam3"):
        load_sam2("sam3")


def test_offline_says_what_to_put_where(fake_session, monkeypatch, caplog):
    def offline(name, local_files_only=False):
        raise OSError("no network")

    monkeypatch.setattr(FakeSAM2, "from_pretrained", staticmethod(offline), raising=False)
    address = "https://huggingface.co/facebook/sam2.1-hiera-tiny"
    with pytest.raises(InputError, match=rf"^name_or_path: .*\(OSError\).*model\.safetensors from {address} into a"):
        load_sam2()
    assert f"(Apache-2.0) is not in the cache and is downloaded from {address}" in caplog.text


def test_random_sam2_refines(square, tiny_sam2):
    frames, masks = square
    refined = refine_masks(frames, masks, model=tiny_sam2, prompts=4)
    assert refined.shape == masks.shape
    assert refined.dtype == torch.bool
    assert torch.equal(refined, refine_masks(frames, masks, model=tiny_sam2, prompts=4))
    assert not torch.equal(refined, refine_masks(frames, masks.roll(12, dims=1), model=tiny_sam2, prompts=4))


def test_random_sam2_sees_every_frame_and_knows_what_it_is_told(square, tiny_sam2):
    frames, masks = square
    seen = dict(sam2._follow(tiny_sam2, sam2._as_input(frames, tiny_sam2), masks, [3, 6]))
    assert sorted(seen) == list(range(9))
    for n in (3, 6):
        overlap = (seen[n] > 0.5) & masks[n]
        assert overlap.sum() / ((seen[n] > 0.5) | masks[n]).sum() > 0.85


def test_saved_sam2_is_read_from_its_folder(tiny_sam2, tmp_path):
    tiny_sam2.save_pretrained(tmp_path)
    model = load_sam2(tmp_path, device="cpu")
    assert not model.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, tiny_sam2.state_dict()[name])
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"^name_or_path: expected a folder with SAM 2's"):
        load_sam2(tmp_path)


def test_session_is_that_of_transformers_own_processor(square, tiny_sam2):
    """The documented way, which needs torchvision: processor, prompts, propagation both ways."""
    try:
        import torchvision  # noqa: F401
        from transformers import Sam2ImageProcessor, Sam2VideoProcessor, Sam2VideoVideoProcessor
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no torchvision that fits this torch, or a transformers before 5 ({error})")
    frames, masks = square
    size = {"height": SIDE, "width": SIDE}
    processor = Sam2VideoProcessor(Sam2ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size))
    session = processor.init_video_session(video=list(frames.permute(0, 3, 1, 2)))
    video = sam2._as_input(frames, tiny_sam2)
    rounded = 1.01 / 255 / 0.224  # theirs rounds to uint8 after resizing
    torch.testing.assert_close(video, torch.stack(list(session.processed_frames.values())), rtol=0, atol=rounded)
    session.processed_frames = dict(enumerate(video))
    for n in (3, 6):
        processor.add_inputs_to_inference_session(session, frame_idx=n, obj_ids=1, input_masks=masks[n])
        tiny_sam2(session, frame_idx=n)
    theirs = {
        output.frame_idx: processor.post_process_masks([output.pred_masks], [[40, 60]], binarize=False)[0][0, 0]
        for reverse in (False, True)
        for output in tiny_sam2.propagate_in_video_iterator(session, start_frame_idx=3, reverse=reverse)
    }
    for n, seen in sam2._follow(tiny_sam2, video, masks, [3, 6]):
        torch.testing.assert_close(seen, theirs[n].sigmoid(), rtol=1e-3, atol=1e-3)
