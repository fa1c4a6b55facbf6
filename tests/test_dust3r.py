"""DUSt3R's network against outputs of the published one, its symmetries, and checkpoints in the published layout."""

import hashlib
import json
import logging
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from c4d_nb import checkpoints
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import VITL_DPT, VITL_LINEAR, DUSt3R, DUSt3RConfig
from c4d_nb.pointmaps.transformer import rotary_table, rotate

SMALL = {
    "linear": DUSt3RConfig("linear", encoder=(128, 2, 2), decoder=(64, 2, 1)),
    "dpt": DUSt3RConfig("dpt", encoder=(128, 2, 2), decoder=(64, 10, 1)),
}


@pytest.fixture(scope="module")
def small() -> dict[str, DUSt3R]:
    """Heads of 64 channels, as the published networks have them. Do not write to them: all tests share them."""
    return {head: filled(DUSt3R(config)) for head, config in SMALL.items()}


def filled(model: DUSt3R) -> DUSt3R:
    """Every parameter from its name, as the reference vectors' README says."""
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            x = generator.standard_normal(tuple(parameter.shape)).astype(np.float32)
            if x.ndim >= 2:
                x = x / np.sqrt(np.prod(x.shape[1:])).astype(np.float32)
            else:
                x = 1 + 0.1 * x if name.endswith("weight") else 0.02 * x
            parameter.copy_(torch.from_numpy(x))
    return model.eval()


def images(height: int, width: int, *, seed: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def assert_near(found, expected, *, relative: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= relative * theirs.abs().max()


# The published network


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_equals_the_published_network(shared_vectors, head) -> None:
    vectors = np.load(shared_vectors / f"dust3r_{head}.npz")
    config = json.loads(str(vectors["config"]))
    model = filled(DUSt3R(DUSt3RConfig(head, tuple(config["enc"]), tuple(config["dec"]), config["patch"])))
    image_1, image_2 = (torch.from_numpy(vectors[name]) for name in ("image1", "image2"))
    with torch.inference_mode():
        tokens = model.encode(image_1)
        found = model(image_1, image_2)
    assert (tokens - torch.from_numpy(vectors["encoder_tokens1"])).abs().max() < 1e-5
    expected = [torch.from_numpy(vectors[name]) for name in ("pts3d_1", "conf_1", "pts3d_2_in_1", "conf_2")]
    assert_near(found, expected, relative=5e-5)


@pytest.mark.parametrize(
    ("config", "keys"), [(VITL_DPT, "dust3r_vitl_512_dpt"), (VITL_LINEAR, "dust3r_vitl_512_linear")]
)
def test_full_size_has_the_published_names_and_shapes(shared_vectors, config, keys) -> None:
    with torch.device("meta"):
        model = DUSt3R(config)
    expected = json.loads((shared_vectors / f"{keys}.keys.json").read_text())
    assert {name: list(values.shape) for name, values in model.state_dict().items()} == expected


# Properties


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_a_transposed_network_sees_transposed_images(small, head) -> None:
    """Portrait as well as landscape: rows and columns play the same part throughout, odd numbers of patches included.

    The transposed network has its convolutions' kernels transposed, its queries and keys' row halves and column halves
    exchanged, and (linear head) the pixels of its patches transposed.
    """
    model, image_1, image_2 = small[head], images(48, 80, seed=1), images(48, 80, seed=2)
    mirrored = DUSt3R(model.config).eval()
    mirrored.load_state_dict({name: transposed(name, values) for name, values in model.state_dict().items()})
    with torch.inference_mode():
        landscape, portrait = model(image_1, image_2), mirrored(image_1.mT.contiguous(), image_2.mT.contiguous())
    assert portrait.xyz_1.shape == (1, 80, 48, 3)
    assert portrait.conf_2.shape == (1, 80, 48)
    assert_near([values.transpose(1, 2) for values in portrait], landscape, relative=1e-4)


def transposed(name: str, values: torch.Tensor) -> torch.Tensor:
    def exchange(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(0, (-1, 2, 32)).flip(1).flatten(0, 2)

    if values.ndim == 4:
        return values.mT
    if ".projq." in name or ".projk." in name:
        return exchange(values)
    if ".qkv." in name:
        q, k, v = values.chunk(3)
        return torch.cat([exchange(q), exchange(k), v])
    if name.startswith(("downstream_head1.proj.", "downstream_head2.proj.")):
        return values.unflatten(0, (4, 16, 16)).transpose(1, 2).flatten(0, 2)
    return values


def test_attention_depends_on_relative_positions(generator) -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator, dtype=torch.float64)
    table = rotary_table(4, 7, 16, like=q)
    turned = [rotate(x.expand(-1, -1, 28, -1), table)[0, 0].unflatten(0, (4, 7)) for x in (q, k)]
    products = torch.einsum("yxc,vuc->yxvu", *turned)
    torch.testing.assert_close(products[1, 2, 3, 5], products[0, 1, 2, 4])
    torch.testing.assert_close(products[0, 0, 0, 0], (q * k).sum())
    assert (products[0, 0, 1, 2] - products[0, 0, 2, 1]).abs() > 1e-3


def test_rotary_frequencies() -> None:
    cos, sin = rotary_table(3, 5, 8, like=torch.zeros(()))  # patch (2, 4) is the last
    angles = torch.tensor([2, 0.2, 2, 0.2, 4, 0.4, 4, 0.4])
    torch.testing.assert_close(cos[-1], angles.cos())
    torch.testing.assert_close(sin[-1], angles.sin())


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_stored_tokens_decode_to_the_same(small, head) -> None:
    model, frames = small[head], images(32, 48, seed=3, batch=3)
    n, m = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 1, 2])
    with torch.inference_mode():
        tokens = model.encode(frames)
        stored = model.decode(tokens[n], tokens[m], (32, 48))
        at_once = model(frames[n], frames[m])
    assert_near(stored, at_once, relative=1e-5)


def test_points_are_far_and_confidence_is_above_one(small) -> None:
    with torch.inference_mode():
        found = small["linear"](images(32, 32, seed=4), images(32, 32, seed=5))
    assert all(torch.isfinite(values).all() for values in found)
    assert min(found.conf_1.min(), found.conf_2.min()) > 1


def test_gradients_reach_every_parameter_in_use() -> None:
    model = filled(DUSt3R(SMALL["dpt"]))
    sum(values.log().mean() for values in model(images(32, 32, seed=4), images(32, 32, seed=5))[1::2]).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert all(".refinenet4.resConfUnit1." in name for name in unused)


# A network that is told where patches lie

TOLD = DUSt3RConfig("linear", encoder=(96, 2, 6), decoder=(64, 1, 4), long_side=48, coordinates=True)


def test_patches_are_told_where_they_lie() -> None:
    """Beside RGB come x and y over half the longer side, 0 in the middle."""
    model, image = filled(DUSt3R(TOLD)), images(32, 48, seed=1)
    seen = []
    model.patch_embed.proj.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.inference_mode():
        model.encode(image)
    assert seen[0].shape == (1, 5, 32, 48)
    assert torch.equal(seen[0][:, :3], image)
    torch.testing.assert_close(seen[0][0, 3], ((torch.arange(48) - 23.5) / 24).expand(32, 48))
    torch.testing.assert_close(seen[0][0, 4], ((torch.arange(32) - 15.5) / 24)[:, None].expand(32, 48))


@pytest.mark.parametrize("told", [False, True])
def test_only_coordinates_tell_where_a_picture_lies(told) -> None:
    """All patches alike: rotary positions are relative, so that every token is the same unless it is told its place."""
    model = filled(DUSt3R(replace(TOLD, coordinates=told)))
    patch = images(16, 16, seed=1)
    with torch.inference_mode():
        tokens = model.encode(patch.repeat(1, 1, 2, 3))[0]
    difference = (tokens - tokens[:1]).abs().max()
    assert difference > 1e-2 if told else difference < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_own_checkpoints_keep_their_whole_config(tmp_path, caplog, dtype) -> None:
    """Heads, the size of the training's images and coordinates included, with no config.json beside."""
    checkpoints._tell_licence.cache_clear()
    model = filled(DUSt3R(TOLD))
    path = checkpoints.save_dust3r(model, tmp_path / "own.safetensors", dtype=dtype, licence="Apache-2.0")
    found = DUSt3R.from_checkpoint(path)
    assert found.config == TOLD
    assert not caplog.records
    assert {values.dtype for values in found.state_dict().values()} == {torch.float32}
    for name, values in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], values.to(dtype).float())


def test_dpt_checkpoints_of_our_own(small, tmp_path) -> None:
    """Tensors that have two names are written once."""
    path = checkpoints.save_dust3r(small["dpt"], tmp_path / "own.safetensors")
    found = DUSt3R.from_checkpoint(path)
    assert found.config == small["dpt"].config
    assert_same_parameters(found, small["dpt"])


def test_small_is_the_file_beside_the_package(tmp_path, monkeypatch) -> None:
    root = Path(__file__).resolve().parent.parent
    assert checkpoints.SHIPPED["small"].resolve() == root / "data" / "pointmaps.safetensors"
    path = tmp_path / "pointmaps.safetensors"
    monkeypatch.setitem(checkpoints.SHIPPED, "small", path)
    with pytest.raises(InputError, match=r"name_or_path: expected .* which ships beside the package"):
        DUSt3R.from_checkpoint("small")
    checkpoints.save_dust3r(filled(DUSt3R(TOLD)), path, licence="Apache-2.0")
    assert DUSt3R.from_checkpoint("small").config == TOLD


@pytest.mark.parametrize(
    ("name", "side"), [("DUSt3R_ViTLarge_BaseDecoder_224_linear", 224), ("DUSt3R_ViTLarge_BaseDecoder_512_linear", 512)]
)
def test_size_of_the_images_of_published_networks(small, tmp_path, name, side) -> None:
    """Their files do not say it."""
    (tmp_path / name).mkdir()
    assert DUSt3R.from_checkpoint(saved(small["linear"], tmp_path / name)).config.long_side == side


# What cannot be used


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder": (100, 2, 3)}, r"encoder: expected .*\(100, 2, 3\)"),
        ({"decoder": (36, 12, 6)}, r"decoder: expected .*multiple of 4"),
        ({"head": "dpt", "decoder": (64, 9, 1)}, "head: expected a decoder of depth 10 or more"),
        ({"head": "linear", "encoder": (64, 0, 1)}, "encoder: expected"),
    ],
)
def test_impossible_sizes(config, message) -> None:
    with pytest.raises(InputError, match=message):
        DUSt3RConfig(**config)


def test_unknown_head(unchecked) -> None:
    with pytest.raises(InputError, match="head: expected 'linear' or 'dpt', but it is 'mlp'"):
        DUSt3RConfig("mlp")


def test_images_that_do_not_fit(small, unchecked) -> None:
    model, tokens = small["linear"], torch.zeros(1, 6, 128)
    with pytest.raises(InputError, match=r"images: expected a height and a width .* 16 px, but it is \(32, 40\)"):
        model.encode(torch.zeros(1, 3, 32, 40))
    with pytest.raises(InputError, match=r"images: expected a shape of \(b, 3, h, w\), but it is \(1, 4, 32, 48\)"):
        model.encode(torch.zeros(1, 4, 32, 48))
    with pytest.raises(InputError, match=r"images_2: expected the shape of images_1, \(2, 3, 32, 48\)"):
        model(torch.zeros(2, 3, 32, 48), torch.zeros(1, 3, 32, 48))
    with pytest.raises(InputError, match=r"tokens_1: expected a shape of \(b, 4, 128\), but it is \(1, 6, 128\)"):
        model.decode(tokens, tokens, (32, 32))
    with pytest.raises(InputError, match=r"tokens_2: expected the shape of tokens_1, .* but it is \(2, 6, 128\)"):
        model.decode(tokens, tokens.repeat(2, 1, 1), (32, 48))


# Checkpoints


def saved(model: DUSt3R, folder: Path, **changes: torch.Tensor | None) -> Path:
    """As published: one of two names of a tensor only, contiguous. A change of None drops all names that contain it."""
    weights = {name: values for name, values in model.state_dict().items() if ".layer_rn." not in name}
    for part, values in changes.items():
        if values is not None:
            weights[part] = values
        weights = {name: kept for name, kept in weights.items() if values is not None or part not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def assert_same_parameters(found: DUSt3R, expected: DUSt3R) -> None:
    theirs = found.state_dict()
    assert all(torch.equal(values, theirs[name]) for name, values in expected.state_dict().items())


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_checkpoint_round_trip(small, tmp_path, head) -> None:
    saved(small[head], tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        model = DUSt3R.from_checkpoint(path)
        assert model.config == small[head].config
        assert not model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert_same_parameters(model, small[head])
    image_1, image_2 = images(32, 48, seed=1), images(32, 48, seed=2)
    with torch.inference_mode():
        assert_near(model(image_1, image_2), small[head](image_1, image_2), relative=1e-6)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped where")
def test_parameters_are_the_mapped_file(small, tmp_path) -> None:
    path = saved(small["linear"], tmp_path)
    model = DUSt3R.from_checkpoint(path)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    mapped = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    assert all(any(low <= p.data_ptr() < high for low, high in mapped) for p in model.parameters())


def test_bfloat16(small, tmp_path) -> None:
    model = DUSt3R.from_checkpoint(saved(small["dpt"], tmp_path), dtype=torch.bfloat16)
    assert {values.dtype for values in model.state_dict().values()} == {torch.bfloat16}
    image_1, image_2 = images(32, 48, seed=1), images(32, 48, seed=2)
    with torch.inference_mode():
        found, expected = model(image_1, image_2), small["dpt"](image_1, image_2)
    assert {values.dtype for values in found} == {torch.float32}
    assert_near([c.log() for c in found[1::2]], [c.log() for c in expected[1::2]], relative=0.1)


def test_heads_from_the_config_beside(tmp_path) -> None:
    other = filled(DUSt3R(DUSt3RConfig("linear", encoder=(96, 1, 6), decoder=(64, 1, 4))))
    saved(other, tmp_path)
    with pytest.raises(InputError, match=r"name_or_path: expected a config\.json with enc_num_heads"):
        DUSt3R.from_checkpoint(tmp_path)
    fields = {"enc_num_heads": 6, "dec_num_heads": 4, "depth_mode": ["exp", -np.inf, np.inf]}
    for told in (fields, {"model": "Network(enc_num_heads=6, dec_num_heads = 4, pos_embed='RoPE100')"}):
        (tmp_path / "config.json").write_text(json.dumps(told))
        assert DUSt3R.from_checkpoint(tmp_path).config == other.config


def test_what_a_checkpoint_may_lack_or_have_besides(small, tmp_path, caplog) -> None:
    saved(small["dpt"], tmp_path, mask_token=None, dec_blocks2=None)
    model = DUSt3R.from_checkpoint(tmp_path)
    assert torch.equal(model.dec_blocks2[3].norm1.weight, small["dpt"].dec_blocks[3].norm1.weight)
    assert not model.mask_token.any()
    descriptors = {"downstream_head1.head_local_features.fc1.weight": torch.zeros(8, 8)}
    assert_same_parameters(DUSt3R.from_checkpoint(saved(small["dpt"], tmp_path, **descriptors)), small["dpt"])
    assert "not used" not in caplog.text
    DUSt3R.from_checkpoint(saved(small["dpt"], tmp_path, surplus=torch.zeros(1)))
    assert "1 tensors of" in caplog.text


def test_licence_is_shown_once(small, tmp_path, caplog) -> None:
    checkpoints._tell_licence.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            DUSt3R.from_checkpoint(saved(small["linear"], tmp_path))
    assert caplog.text.count("CC BY-NC-SA 4.0") == 1


def test_checkpoints_that_cannot_be_used(small, tmp_path) -> None:
    saved(small["linear"], tmp_path, enc_norm=None)
    with pytest.raises(InputError, match=r"name_or_path: expected .* lacks enc_norm\.weight"):
        DUSt3R.from_checkpoint(tmp_path)
    saved(small["linear"], tmp_path, **{"enc_norm.bias": torch.zeros(3)})
    with pytest.raises(InputError, match=r"expected enc_norm\.bias of shape \(128,\), but in .* it is \(3,\)"):
        DUSt3R.from_checkpoint(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"expected a checkpoint of DUSt3R, but .* lacks patch_embed\.proj"):
        DUSt3R.from_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match=r"expected a \.safetensors file, but .* cannot be read"):
        DUSt3R.from_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"expected a folder with model\.safetensors, but .* has none"):
        DUSt3R.from_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"name_or_path: expected .* dust3r_512_dpt, .* but it is dust3r_1024"):
        DUSt3R.from_checkpoint("dust3r_1024")


def test_sha256(small, tmp_path) -> None:
    file = saved(small["linear"], tmp_path) / "model.safetensors"
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert_same_parameters(DUSt3R.from_checkpoint(file, sha256=right), small["linear"])
    with pytest.raises(InputError, match=f"sha256: expected {'0' * 64}, but that of .* is {right}"):
        DUSt3R.from_checkpoint(file, sha256="0" * 64)


def test_without_network_or_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as raised:
        DUSt3R.from_checkpoint("monst3r_512_dpt")
    message = str(raised.value)
    assert "download model.safetensors from https://huggingface.co/Junyi42/MonST3R" in message
    assert "into a folder and give the path of that folder" in message
    assert "\n" not in message


def test_without_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'pip install "c4d_nb\[weights\]"'):
        DUSt3R.from_checkpoint("dust3r_512_dpt")


def test_downloads_are_checked_against_the_hubs_record(small, tmp_path, monkeypatch) -> None:
    """A stand-in for the hub: nothing is in the cache, one file is on record."""
    file = saved(small["linear"], tmp_path) / "model.safetensors"
    record = SimpleNamespace(size=file.stat().st_size, etag=hashlib.sha256(file.read_bytes()).hexdigest())

    def download(repository: str, name: str, *, local_files_only: bool = False) -> str:
        assert (repository, name) == ("naver/DUSt3R_ViTLarge_BaseDecoder_512_linear", "model.safetensors")
        if local_files_only:
            raise FileNotFoundError
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: record)
    assert_same_parameters(DUSt3R.from_checkpoint("dust3r_512_linear"), small["linear"])
    record.etag = "0" * 64
    with pytest.raises(InputError, match="sha256: expected 0000"):
        DUSt3R.from_checkpoint("dust3r_512_linear")
    record.size += 1
    with pytest.raises(InputError, match=r"name_or_path: expected \d+ bytes, but .* delete it and try again"):
        DUSt3R.from_checkpoint("dust3r_512_linear")
