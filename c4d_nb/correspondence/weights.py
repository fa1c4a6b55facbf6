"""Weights of DynPT in one ``.safetensors`` file: the network, its frozen encoder, and what both are built of."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from c4d_nb.archive import atomic_output
from c4d_nb.checkpoints import DATA, check_sha256, find_weights, note_of, read_weights
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import DUSt3RConfig, ImageEncoder

if TYPE_CHECKING:
    from c4d_nb.correspondence.dynpt import DynPT

SHIPPED = {name: DATA / f"{name}.safetensors" for name in ("dynpt", "dynpt_cnn", "dynpt_3d")}
"""Weights of this project, beside the package: with both encoders, with the CNN alone, with the 3D-aware one alone."""
_GEOMETRY = "geometry."
_ENCODER = ("patch_embed.", "enc_blocks.", "enc_norm.")


def save_dynpt(
    model: "DynPT", path: str | Path, *, dtype: torch.dtype = torch.float32, licence: str | None = None
) -> Path:
    """Write a file that ``load_dynpt`` reads, atomically. ``licence``: of the weights, if they have one of ours."""
    tensors, note = dict(model.state_dict()), {"dynpt": asdict(model.config)}
    if (geometry := model.geometry) is not None:
        tensors |= {_GEOMETRY + name: tensor for name, tensor in _encoder_state(geometry).items()}
        note["geometry"] = asdict(geometry.config)
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    metadata = {"config": json.dumps(note)} | ({} if licence is None else {"licence": licence})
    with atomic_output(path) as partial:
        save_file(weights, partial, metadata=metadata)
    return Path(path)


def load_dynpt(name_or_path: str | Path, *, device: str | torch.device = "cpu", sha256: str | None = None) -> "DynPT":
    """The network of a file, in evaluation mode and float32; by its name where it is one of ``SHIPPED``.

    Raises ``InputError`` if the file cannot be had, is damaged or is none of DynPT's.
    """
    from c4d_nb.correspondence.dynpt import DynPT, DynPTConfig

    path = find_weights(name_or_path, shipped=SHIPPED, published={})
    if sha256 is not None:
        check_sha256(path, sha256)
    weights = read_weights(path, device=device, dtype=torch.float32)
    try:
        note = json.loads(note_of(path)["config"])
        config = DynPTConfig(**_with_tuples(note["dynpt"]))
        geometry = ImageEncoder(DUSt3RConfig(**_with_tuples(note["geometry"]))) if "geometry" in note else None
        model = DynPT(config, geometry=geometry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"name_or_path: expected weights of DynPT, but {path} does not say how it is built") from error
    if geometry is not None:
        found = {name.removeprefix(_GEOMETRY): t for name, t in weights.items() if name.startswith(_GEOMETRY)}
        _fill(geometry, found, path)
    _fill(model, {name: t for name, t in weights.items() if not name.startswith(_GEOMETRY)}, path)
    return model.to(device).eval()


def fingerprint(encoder: ImageEncoder) -> str:
    """The same for the same weights of the part that sees one image, whatever file they come from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_encoder_state(encoder).items()):
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _encoder_state(encoder: ImageEncoder) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in encoder.state_dict().items() if name.startswith(_ENCODER)}


def _with_tuples(values: dict[str, object]) -> dict[str, object]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _fill(module: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    expected = module.state_dict()
    differing = sorted(expected.keys() ^ weights.keys())
    if differing:
        raise InputError(f"name_or_path: expected weights of its own config, but {path} differs in {differing[0]}")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"name_or_path: expected {name} of shape {tuple(tensor.shape)}, but in {path} it is "
                f"{tuple(weights[name].shape)}"
            )
    module.load_state_dict(weights)
