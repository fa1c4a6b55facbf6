"""Pointmaps of many pairs: what encoding once and decoding in batches must not change, and what comes in what order."""

import logging

import pytest
import torch

from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import DUSt3R, DUSt3RConfig
from c4d_nb.pointmaps.inference import encode_frames, network_images, predict_pointmaps
from c4d_nb.pointmaps.scene_graph import sliding_window_graph


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    torch.manual_seed(0)
    return DUSt3R(DUSt3RConfig(head="linear", encoder=(32, 2, 2), decoder=(32, 2, 2))).eval()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (5, 32, 48, 3), generator=generator, dtype=torch.uint8)


def test_every_pair_is_what_the_network_says_of_it_alone(model, frames):
    edges = sliding_window_graph(5, offsets=(1, 3))
    pairs = predict_pointmaps(model, frames, edges, batch_size=3)
    images = network_images(frames)
    with torch.inference_mode():
        for i, (n, m) in enumerate(edges.tolist()):
            alone = model(images[n : n + 1], images[m : m + 1])
            for name in ("xyz_1", "xyz_2", "conf_1", "conf_2"):
                stored, expected = getattr(pairs, name)[i], getattr(alone, name)[0]
                assert stored.dtype == torch.float16
                torch.testing.assert_close(stored.float(), expected, atol=2e-3, rtol=2e-3)
    assert torch.equal(pairs.edges, edges)


def test_batches_change_nothing(model, frames):
    edges = sliding_window_graph(5, offsets=(1, 2))
    one, many = (predict_pointmaps(model, frames, edges, batch_size=size) for size in (1, 64))
    torch.testing.assert_close(one.xyz_1, many.xyz_1, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(one.conf_2, many.conf_2, atol=2e-3, rtol=2e-3)


def test_each_frame_is_encoded_once(model, frames, monkeypatch):
    seen = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda images: (seen.append(len(images)), encode(images))[1])
    predict_pointmaps(model, frames, sliding_window_graph(5), batch_size=2)
    assert sum(seen) == 5


def test_tokens_do_not_depend_on_the_batch(model, frames):
    with torch.inference_mode():
        whole, split = encode_frames(model, frames, batch_size=5), encode_frames(model, frames, batch_size=1)
    torch.testing.assert_close(whole, split, atol=1e-5, rtol=1e-5)


def test_memory_is_stated_before_the_work(model, frames, caplog):
    with caplog.at_level(logging.INFO, logger="c4d_nb"):
        predict_pointmaps(model, frames, sliding_window_graph(5, offsets=(1,)))
    assert "pointmaps of 8 pairs of 48x32 px take 0 MB" in caplog.text


def test_images_are_rgb_between_minus_one_and_one():
    frames = torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)
    torch.testing.assert_close(network_images(frames)[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize(
    ("name", "shape", "edges", "batch"),
    [
        ("frames", (5, 30, 48, 3), [[0, 1]], 1),
        ("edges", (5, 32, 48, 3), [[0, 5]], 1),
        ("edges", (5, 32, 48, 3), [[-1, 0]], 1),
        ("batch_size", (5, 32, 48, 3), [[0, 1]], 0),
    ],
)
def test_errors_name_the_argument(model, name, shape, edges, batch):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        predict_pointmaps(model, torch.zeros(shape, dtype=torch.uint8), torch.tensor(edges), batch_size=batch)
