"""What autocast rounds, and what it must not."""

import pytest
import torch

from c4d_nb.correspondence.encoders import CNNEncoder
from c4d_nb.pointmaps.dust3r import SMALL, DUSt3R
from c4d_nb.precision import attention, hardware_has_bf16, without_autocast


def heads(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_hand(q, k, v):
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_is_a_weighted_mean_of_the_values(dtype):
    q, k, v = (
        heads(2, 3, 5, 8, dtype=dtype),
        heads(2, 3, 7, 8, seed=1, dtype=dtype),
        heads(2, 3, 7, 8, seed=2, dtype=dtype),
    )
    found = attention(q, k, v)
    assert found.dtype == dtype
    torch.testing.assert_close(found, by_hand(q, k, v))


def test_attention_has_the_right_gradient():
    inputs = [heads(1, 2, 3, 4, seed=seed, dtype=torch.float64).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(attention, inputs)


def test_attention_of_half_precision_is_rounded_once_at_the_end():
    q, k, v = (heads(1, 2, 6, 8, seed=seed, dtype=torch.bfloat16) for seed in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(q, k, v)
    assert found.dtype == torch.bfloat16
    exact = attention(q.float(), k.float(), v.float())
    assert torch.equal(found, exact.bfloat16())


def test_nothing_is_rounded_without_autocast():
    a = heads(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with without_autocast(a):
            assert (a @ a).dtype == torch.float32


def test_points_keep_their_digits_under_autocast():
    """Rounded to bfloat16, a coordinate has 256 values between 1 and 2: neighbours would fall on the same."""
    torch.manual_seed(0)
    network = DUSt3R(SMALL)
    images = heads(1, 3, 64, 64).clamp(-1, 1)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = network.encode(images)
        found = network.decode(tokens, tokens, (64, 64))
    assert tokens.dtype == torch.float32
    assert (found.xyz_1 != found.xyz_1.bfloat16()).float().mean() > 0.9
    with torch.inference_mode():
        expected = network(images, images)
    for rounded, exact in zip(found, expected, strict=True):
        assert (rounded - exact).abs().max() < 0.03 * exact.abs().max()


def test_cnn_under_autocast_sees_the_same():
    torch.manual_seed(0)
    encoder = CNNEncoder(16, widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1))
    images = heads(2, 3, 64, 64).clamp(-1, 1)
    with torch.inference_mode():
        exact = encoder(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = encoder(images)
    assert ((rounded.float() * exact).sum(dim=1) > 0.99).all()


def test_training_without_such_hardware_keeps_full_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert not hardware_has_bf16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert hardware_has_bf16()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not hardware_has_bf16()
