"""DynPT's weights in one file: what is written comes back, and every other file is refused in one sentence."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from c4d_nb import archive
from c4d_nb.checkpoints import licence_of, note_of, save_dust3r
from c4d_nb.correspondence import weights
from c4d_nb.correspondence.dynpt import DynPT, DynPTConfig
from c4d_nb.correspondence.weights import SHIPPED, fingerprint, load_dynpt, save_dynpt
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import DUSt3R, DUSt3RConfig

CONFIG = DynPTConfig(
    channels=8,
    cnn_widths=(4, 6, 8, 10),
    levels=2,
    radius=1,
    correlation=(8, 6),
    displacement_bands=4,
    context=False,
    width=16,
    depth=1,
    heads=2,
    virtual=2,
    passes=2,
    long_side=48,
)
GEOMETRY = DUSt3RConfig("linear", encoder=(32, 2, 2), decoder=(32, 1, 2), long_side=32, coordinates=True)


def network(*encoders: str) -> DynPT:
    """Heads that change something from the start."""
    torch.manual_seed(0)
    model = DynPT(replace(CONFIG, encoders=encoders), geometry=DUSt3R(GEOMETRY) if "3d" in encoders else None)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model.eval()


@pytest.fixture(params=[("cnn", "3d"), ("cnn",), ("3d",)], ids="+".join)
def model(request) -> DynPT:
    return network(*request.param)


@pytest.fixture
def saved(tmp_path) -> Path:
    """Of a network with both encoders."""
    return save_dynpt(network("cnn", "3d"), tmp_path / "model.safetensors")


def outputs(model: DynPT) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = 2 * torch.rand(1, 4, 3, 32, 48, generator=generator) - 1
    uv = torch.rand(1, 5, 2, generator=generator) * torch.tensor([47, 31])
    frame = torch.randint(4, (1, 5, 1), generator=generator)
    with torch.inference_mode():
        return list(model(frames, torch.cat([frame, uv], dim=-1))[-1])


def rewritten(path: Path, *, note: object = None, **tensors: torch.Tensor | None) -> Path:
    """The same file with other tensors (None: without them), or another note of how it is built."""
    content = load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    metadata = note_of(path) | ({} if note is None else {"config": json.dumps(note)})
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, path, metadata=metadata)
    return path


def assert_refused(path: str | Path, message: str, **options) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load_dynpt(path, **options)
    assert "\n" not in str(raised.value)


# There and back


def test_the_same_network_comes_back(model, tmp_path):
    found = load_dynpt(save_dynpt(model, tmp_path / "model.safetensors"))
    assert found.config == model.config
    assert not found.training
    for ours, theirs in zip(outputs(found), outputs(model), strict=True):
        assert torch.equal(ours, theirs)


def test_all_weights_come_back(model, tmp_path):
    found, expected = load_dynpt(save_dynpt(model, tmp_path / "w.safetensors")).state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_frozen_encoder_is_in_the_file(model, tmp_path):
    """Without decoder and head: it is no DUSt3R any more."""
    path = save_dynpt(model, tmp_path / "model.safetensors")
    inside = {name.removeprefix("geometry.") for name in load_file(path) if name.startswith("geometry.")}
    found = load_dynpt(path).geometry
    if model.geometry is None:
        assert found is None
        assert not inside
    else:
        assert inside == set(found.state_dict()) < set(model.geometry.state_dict())
        assert fingerprint(found) == fingerprint(model.geometry)
        assert found.config == GEOMETRY
        assert not any(p.requires_grad for p in found.parameters())


def test_half_precision(model, tmp_path):
    """Half the space, nearly the same; what is loaded computes in float32."""
    whole = save_dynpt(model, tmp_path / "whole.safetensors")
    half = save_dynpt(model, tmp_path / "half.safetensors", dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(half).values()} == {torch.float16}
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    found = load_dynpt(half)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    for ours, theirs in zip(outputs(found), outputs(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.05)


def test_saved_again_is_the_same_file(saved, tmp_path):
    again = save_dynpt(load_dynpt(saved), tmp_path / "again.safetensors")
    assert again.read_bytes() == saved.read_bytes()


def test_saving_changes_nothing(model, tmp_path):
    before = outputs(model)
    save_dynpt(model, tmp_path / "model.safetensors", dtype=torch.float16)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), before, strict=True))


def test_from_checkpoint(saved):
    """Of a file or a folder; by name, as a text, too."""
    expected = outputs(load_dynpt(saved))
    for place in (saved, saved.parent, str(saved)):
        found = outputs(DynPT.from_checkpoint(place))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_shipped_weights_are_known_by_name(saved, monkeypatch):
    monkeypatch.setitem(SHIPPED, "dynpt", saved)
    assert DynPT.from_checkpoint("dynpt").config == load_dynpt(saved).config


def test_sha256(saved):
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert load_dynpt(saved, sha256=digest.upper()).config.encoders == ("cnn", "3d")
    assert_refused(saved, rf"^sha256: expected {'0' * 64}, but that of .* is {digest}", sha256="0" * 64)


@pytest.mark.parametrize("licence", [None, "Apache-2.0", "CC BY-NC-SA 4.0"])
def test_licence(model, tmp_path, licence):
    path = save_dynpt(model, tmp_path / "model.safetensors", licence=licence)
    assert licence_of(path) == licence
    assert load_dynpt(path).config == model.config


# Fingerprints


def test_fingerprint_is_of_the_encoder_only():
    torch.manual_seed(0)
    one = DUSt3R(GEOMETRY)
    before = fingerprint(one)
    torch.nn.init.normal_(one.decoder_embed.weight)
    assert fingerprint(one) == before
    with torch.no_grad():
        one.enc_norm.bias[3] += 1e-3
    assert fingerprint(one) != before


def test_fingerprint_is_short(model):
    if model.geometry is not None:
        assert re.fullmatch("[0-9a-f]{16}", fingerprint(model.geometry))


# Interruptions


@pytest.mark.parametrize("before", ["nothing", "weights"])
def test_interrupted_saving_leaves_what_was_there(tmp_path, monkeypatch, before):
    path, model = tmp_path / "model.safetensors", network("cnn")
    old = save_dynpt(network("3d"), path).read_bytes() if before == "weights" else None

    def interrupted(tensors, partial, metadata):
        Path(partial).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_dynpt(model, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if old is None else [old])


def test_file_is_written_under_another_name_first(tmp_path, monkeypatch):
    path, there = tmp_path / "sub" / "model.safetensors", []
    replaced = archive.os.replace
    monkeypatch.setattr(archive.os, "replace", lambda a, b: (there.append(path.exists()), replaced(a, b)))
    assert save_dynpt(network("cnn"), path) == path
    assert there == [False]
    with safe_open(path, framework="pt") as file:
        assert "head.weight" in file.keys()  # noqa: SIM118


# What cannot be used


def test_absent_file():
    assert_refused("absent.safetensors", "expected .* one of dynpt, dynpt_cnn, dynpt_3d, but it is absent.safetensors$")


def test_folder_without_weights(tmp_path):
    assert_refused(tmp_path, r"expected a folder with model\.safetensors, but .* has none$")


def test_weights_of_dust3r(tmp_path):
    path = save_dust3r(DUSt3R(GEOMETRY), tmp_path / "dust3r.safetensors", licence="Apache-2.0")
    assert_refused(path, r"^name_or_path: expected weights of DynPT, but .*dust3r\.safetensors does not say how it is ")


@pytest.mark.parametrize("content", ["cut", "header", "empty", "text"])
def test_damaged_file(saved, content):
    whole = saved.read_bytes()
    changed = {"cut": whole[: len(whole) // 2], "header": whole[:40], "empty": b"", "text": b"no weights at all " * 9}
    saved.write_bytes(changed[content])
    assert_refused(saved, r"^name_or_path: expected a \.safetensors file, but .* cannot be read \(")


@pytest.mark.parametrize("name", ["head__weight", "geometry__enc_norm__bias"])
def test_tensor_of_another_shape(saved, name):
    plain = name.replace("__", ".").removeprefix("geometry.")
    path = rewritten(saved, **{name: torch.zeros(3)})
    assert_refused(path, rf"^name_or_path: expected {plain} of shape \(.*\), but in .* it is \(3,\)$")


@pytest.mark.parametrize("name", ["head__weight", "geometry__enc_norm__bias", "unknown", "geometry__unknown"])
def test_missing_or_unknown_tensor(saved, name):
    plain = name.replace("__", ".").removeprefix("geometry.")
    path = rewritten(saved, **{name: torch.zeros(3) if "unknown" in name else None})
    assert_refused(path, rf"^name_or_path: expected weights of its own config, but .* differs in {plain}$")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "note",
    [
        {},
        [],
        {"dynpt": {"colour": 3}},
        {"dynpt": {"channels": "8"}},
        {"dynpt": [1, 2]},
        {"dynpt": {"encoders": ["cnn"], "cnn_widths": [4, 6]}},
        {"dynpt": {}, "geometry": 3},
        {"dynpt": {}, "geometry": {"head": "linear", "encoder": [32, 2]}},
    ],
    ids=json.dumps,
)
def test_note_that_describes_no_network(saved, note):
    assert_refused(rewritten(saved, note=note), "expected weights of DynPT, but .* does not say how it is built$")


def test_file_without_note(tmp_path):
    save_file({"head.weight": torch.zeros(3)}, tmp_path / "bare.safetensors")
    assert_refused(tmp_path / "bare.safetensors", r"expected weights of DynPT, but .* does not say how it is built$")


def test_note_without_the_geometry_it_needs(saved):
    note = json.loads(note_of(saved)["config"])
    assert_refused(rewritten(saved, note={"dynpt": note["dynpt"]}), "expected ")
