"""What DynPT sees of a frame: where features lie, how long they are, and that the frozen network stays as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from c4d_nb.correspondence.encoders import CNNEncoder, FeatureEncoder, GeometryEncoder, feature_size, pad_to_multiple
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import DUSt3R, DUSt3RConfig

CHANNELS = 8


def cnn(*, blocks=(0, 1, 1, 1), seed=0) -> CNNEncoder:
    torch.manual_seed(seed)
    return CNNEncoder(CHANNELS, widths=(4, 6, 8, 10), blocks=blocks)


def dust3r(*, patch=16, seed=1) -> DUSt3R:
    torch.manual_seed(seed)
    return DUSt3R(DUSt3RConfig("linear", encoder=(16, 1, 2), decoder=(16, 1, 2), patch=patch))


def geometry(*, patch=16) -> GeometryEncoder:
    network = dust3r(patch=patch)
    torch.manual_seed(2)
    return GeometryEncoder(network, CHANNELS)


def both() -> FeatureEncoder:
    parts = {"cnn": cnn(), "3d": geometry()}
    torch.manual_seed(3)
    return FeatureEncoder(parts, CHANNELS)


MAKERS = {"cnn": cnn, "3d": geometry, "both": both}


def images(height, width, *, batch=1, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(("size", "expected"), [((32, 48), (8, 12)), ((33, 50), (9, 13)), ((35, 32), (9, 8))])
def test_stride_is_four_and_features_have_length_one(make, size, expected):
    with torch.no_grad():
        features = make()(images(*size, batch=2))
    assert features.shape == (2, CHANNELS, *expected)
    assert feature_size(*size) == expected
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, *expected))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_frames_of_a_batch_do_not_see_each_other(make):
    encoder, frames = make(), images(32, 48, batch=3)
    with torch.no_grad():
        together, alone = encoder(frames), torch.cat([encoder(frame[None]) for frame in frames])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("blocks", [(0, 1, 1, 1), (1, 2, 1, 2)])
def test_features_lie_in_the_middle_of_their_pixels(axis, blocks):
    """A mirrored network on a mirrored image says the mirror image: nothing shifts, at any of the strides."""
    encoder, image = cnn(blocks=blocks), images(48, 64)
    mirrored = copy.deepcopy(encoder)
    for module in mirrored.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.flip(axis)
    with torch.no_grad():
        torch.testing.assert_close(mirrored(image.flip(axis)), encoder(image).flip(axis), rtol=1e-4, atol=1e-5)


def test_concatenation_is_what_the_sum_stands_for():
    """Upsampled maps, concatenated, through one 1x1 convolution of all laterals' weights."""
    encoder, image = cnn(), images(32, 48)
    with torch.no_grad():
        stem = F.relu(F.instance_norm(encoder.stem(image)))
        maps = [encoder.stages[1](stem)]
        maps += [encoder.stages[2](maps[0])]
        maps += [encoder.stages[3](maps[1])]
        large = torch.cat([F.interpolate(m, (8, 12), mode="bilinear", align_corners=False) for m in maps], dim=1)
        mixed = F.conv2d(large, torch.cat([lateral.weight for lateral in encoder.lateral], dim=1))
        expected = F.normalize(encoder.out(F.relu(F.instance_norm(mixed))), dim=1)
        torch.testing.assert_close(encoder(image), expected, rtol=1e-4, atol=1e-5)


def test_cnn_does_not_depend_on_contrast():
    """Instance norm; up to the border, where the padding is not of the image."""
    encoder, image = cnn(), images(64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(3 * image), encoder(image), rtol=1e-2, atol=1e-3)


def test_tokens_are_upsampled_between_their_middles():
    """Feature (i, j) lies at pixel (4i + 1.5, 4j + 1.5), token (0, 0) at (7.5, 7.5), token (0, 1) at (7.5, 23.5)."""
    encoder, image = geometry(), images(32, 32)
    with torch.no_grad():
        tokens = encoder.project(encoder.network.encode(image).mT.unflatten(-1, (2, 2)))[0]
        features = encoder(image)[0]
    share = (13.5 - 7.5) / 16  # of the way from one token to the next, in the fourth row or column
    expected = torch.lerp(tokens[:, 0, 0], tokens[:, 0, 1], share)
    torch.testing.assert_close(features[:, 0, 3], F.normalize(expected, dim=0))
    torch.testing.assert_close(features[:, 0, 0], F.normalize(tokens[:, 0, 0], dim=0))


@pytest.mark.parametrize("patch", [16, 14, 8])
def test_frames_are_resized_to_whole_patches_for_the_network_only(patch):
    encoder, image = geometry(patch=patch), images(41, 54)
    seen = []
    encode = encoder.network.encode
    encoder.network.encode = lambda x: seen.append(x) or encode(x)
    with torch.no_grad():
        features = encoder(image)
    height, width = seen[0].shape[-2:]
    assert height % patch == width % patch == 0
    assert abs(height - 44) <= patch / 2
    assert abs(width - 56) <= patch / 2
    assert features.shape[-2:] == (11, 14)


def test_a_frame_smaller_than_half_a_patch_still_has_a_token():
    with torch.no_grad():
        assert geometry()(images(4, 4)).shape == (1, CHANNELS, 1, 1)


def test_padding_repeats_the_border():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert pad_to_multiple(image, 4)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(pad_to_multiple(image, 1), image)


def test_frozen_weights_are_no_part_of_the_encoder():
    encoder = both()
    assert not any("_frozen" in name or "network" in name for name in encoder.state_dict())
    owned = {id(parameter) for parameter in encoder.parameters()}
    network = encoder.parts["3d"].network
    assert not any(id(parameter) in owned for parameter in network.parameters())


def test_frozen_network_stays_in_evaluation_mode_and_gets_no_gradient():
    encoder = both().train().requires_grad_(True)
    network = encoder.parts["3d"].network
    before = copy.deepcopy(network.state_dict())
    assert encoder.parts["3d"].training
    assert not any(module.training for module in network.modules())
    target = torch.randn(1, CHANNELS, 8, 12, generator=torch.Generator().manual_seed(5))
    (encoder(images(32, 48)) * target).sum().backward()
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    assert all(parameter.grad.abs().max() > 0 for parameter in encoder.parameters())


def test_frozen_network_follows_to_another_dtype():
    encoder = both().double()
    assert encoder.parts["3d"].network.decoder_embed.weight.dtype == torch.float64
    with torch.no_grad():
        assert encoder(images(32, 32).double()).dtype == torch.float64


def test_half_precision_tokens_join_full_precision_features():
    encoder = both()
    encoder.parts["3d"].network.bfloat16()
    with torch.no_grad():
        assert encoder(images(32, 32)).dtype == torch.float32


def test_one_encoder_is_not_mixed():
    assert FeatureEncoder({"cnn": cnn()}, CHANNELS).fuse is None


def test_no_encoder_is_refused():
    with pytest.raises(InputError, match="parts: expected at least one of the encoders"):
        FeatureEncoder({}, CHANNELS)
