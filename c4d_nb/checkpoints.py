"""Checkpoints, ours and published ones: where they are, whether they are intact, and how they become a network.

Published weights are not part of this package: who uses them downloads them, under their own licence and with the extra
``weights``.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from c4d_nb.archive import atomic_output
from c4d_nb.errors import InputError

if TYPE_CHECKING:
    from c4d_nb.pointmaps.dust3r import DUSt3R, DUSt3RConfig

PUBLISHED = {
    "dust3r_512_dpt": "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt",
    "dust3r_512_linear": "naver/DUSt3R_ViTLarge_BaseDecoder_512_linear",
    "dust3r_224_linear": "naver/DUSt3R_ViTLarge_BaseDecoder_224_linear",
    "monst3r_512_dpt": "Junyi42/MonST3R_PO-TA-S-W_ViTLarge_BaseDecoder_512_dpt",
    "mast3r_512_metric": "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
}
"""Repositories on the model hub (huggingface.co)."""


def _data_folder() -> Path:
    """Beside the package in a checkout; of an installed package, in the checkout whose notebooks are run."""
    beside = Path(__file__).parent.parent / "data"
    places = beside, Path.cwd() / "data", Path.cwd().parent / "data"
    return next((place for place in places if (place / "pointmaps.safetensors").is_file()), beside)


DATA = _data_folder()
SHIPPED = {"small": DATA / "pointmaps.safetensors"}
"""Weights of this project, beside the package."""
WEIGHTS = "model.safetensors"
_HEAD_WIDTH = 64
"""Channels of a head where no config.json says otherwise: all published networks have this."""

_log = logging.getLogger(__name__)


def load_dust3r(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    sha256: str | None = None,
) -> "DUSt3R":
    """DUSt3R, MonST3R or MASt3R (without its descriptors) by its name in ``PUBLISHED``, or from a folder or file.

    On the CPU and in the file's own dtype the parameters are the file, mapped into memory: nothing is copied. Sizes are
    read off the names and shapes, the numbers of heads from a ``config.json`` beside the weights if there is one.

    Raises ``InputError`` if the weights cannot be had, are damaged (``sha256``, if given, is that of the weights) or
    are not of this architecture.
    """
    from c4d_nb.pointmaps.dust3r import DUSt3R

    path = find_weights(name_or_path)
    if sha256 is not None:
        check_sha256(path, sha256)
    weights = read_weights(path, device=device, dtype=dtype)
    config = _deduce_config(path, weights)
    with torch.device("meta"):
        model = DUSt3R(config)
    model.load_state_dict(_in_layout(path, weights, model.state_dict()), assign=True)
    if licence_of(path) is None:
        _tell_licence()
    return model.eval()


def save_dust3r(
    model: "DUSt3R", path: str | Path, *, dtype: torch.dtype = torch.float32, licence: str | None = None
) -> Path:
    """Write the weights as a ``.safetensors`` file that ``load_dust3r`` reads, atomically.

    Without a ``licence`` they count as published ones, whose licence is shown when they are loaded.
    """
    weights = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if ".layer_rn." not in name  # of two names of a tensor the published files have this one only in part, too
    }
    sizes = {
        "enc_num_heads": model.config.encoder[2],
        "dec_num_heads": model.config.decoder[2],
        "long_side": model.config.long_side,
    }
    note = {"config": json.dumps(sizes)}
    with atomic_output(path) as partial:
        save_file(weights, partial, metadata=note if licence is None else note | {"licence": licence})
    return Path(path)


def licence_of(path: Path) -> str | None:
    """What a weights file says of its licence, if anything; published ones say nothing."""
    return note_of(path).get("licence")


def find_weights(
    name_or_path: str | Path, *, shipped: Mapping[str, Path] = SHIPPED, published: Mapping[str, str] = PUBLISHED
) -> Path:
    """The ``.safetensors`` file of a folder, a file or a known name, downloaded if it is not in the hub's cache."""
    path = shipped.get(str(name_or_path), Path(name_or_path).expanduser())
    if path.is_dir():
        files = [path / WEIGHTS] if (path / WEIGHTS).exists() else sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise InputError(f"name_or_path: expected a folder with {WEIGHTS}, but {path} has none")
        return files[0]
    if path.is_file():
        return path
    if str(name_or_path) in shipped:
        raise InputError(f"name_or_path: expected {path}, which ships beside the package, but it is not there")
    if str(name_or_path) not in published:
        names = ", ".join([*shipped, *published])
        raise InputError(
            f"name_or_path: expected a folder, a .safetensors file or one of {names}, but it is {name_or_path}"
        )
    return _from_hub(str(name_or_path))


def check_sha256(path: Path, expected: str) -> None:
    """Raises ``InputError`` if the file's content is another."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.lower():
        raise InputError(f"sha256: expected {expected.lower()}, but that of {path} is {found}: download it again")


def read_weights(path: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file; without a copy where device and dtype are already right."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).to(device, dtype) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"name_or_path: expected a .safetensors file, but {path} cannot be read ({error})") from error


def _from_hub(name: str) -> Path:
    """The weights in the hub's cache; downloaded and checked against the hub's record if they are not there."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError:
        raise InputError(
            'name_or_path: expected huggingface-hub to download by, but it is missing: pip install "c4d_nb[weights]"'
        ) from None
    repository = PUBLISHED[name]
    try:
        return Path(hf_hub_download(repository, WEIGHTS, local_files_only=True))
    except (OSError, EntryNotFoundError):
        _log.info("%s is not in the cache and is downloaded from https://huggingface.co/%s", name, repository)
    try:
        path = Path(hf_hub_download(repository, WEIGHTS))
    except (OSError, EntryNotFoundError) as error:
        raise InputError(
            f"name_or_path: expected {name} in the cache or a network to download it by, but there is neither "
            f"({type(error).__name__}): download {WEIGHTS} from https://huggingface.co/{repository} into a folder and "
            "give the path of that folder instead of the name"
        ) from error
    _check_download(path, repository)
    return path


def _check_download(path: Path, repository: str) -> None:
    """The size and the sha256 that the hub has on record for the file."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    record = get_hf_file_metadata(hf_hub_url(repository, WEIGHTS))
    if record.size is not None and record.size != path.stat().st_size:
        raise InputError(
            f"name_or_path: expected {record.size} bytes, but {path} has {path.stat().st_size}: delete it and try again"
        )
    if re.fullmatch(r"[0-9a-f]{64}", record.etag or ""):
        check_sha256(path, record.etag)


def _deduce_config(path: Path, weights: dict[str, Tensor]) -> "DUSt3RConfig":
    """Widths from shapes, depths from names; a ``config.json`` is asked for the numbers of heads only."""
    from c4d_nb.pointmaps.dust3r import DUSt3RConfig

    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    depths = [
        len({name.split(".")[1] for name in shapes if name.startswith(f"{stack}.")})
        for stack in ("enc_blocks", "dec_blocks")
    ]
    head = "dpt" if any(name.startswith("downstream_head1.dpt.") for name in shapes) else "linear"
    try:
        enc_width, channels, _, patch = shapes["patch_embed.proj.weight"]
        dec_width, _ = shapes["decoder_embed.weight"]
    except (KeyError, ValueError):
        raise InputError(
            f"name_or_path: expected a checkpoint of DUSt3R, but {path} lacks patch_embed.proj or decoder_embed"
        ) from None
    beside = path.with_name("config.json")
    told = note_of(path).get("config") or (beside.read_text() if beside.is_file() else "")
    return DUSt3RConfig(
        head,
        encoder=(enc_width, depths[0], _heads(told, "enc_num_heads", enc_width)),
        decoder=(dec_width, depths[1], _heads(told, "dec_num_heads", dec_width)),
        patch=patch,
        long_side=_long_side(told, path),
        coordinates=channels == 5,
    )


def note_of(path: Path) -> dict[str, str]:
    """What is written into a weights file beside its tensors."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _heads(config: str, field: str, width: int) -> int:
    """The field's value: ``"field": 12`` in JSON as well as ``field=12`` in a string of Python inside the JSON."""
    if found := re.search(rf"\b{field}\W{{1,5}}(\d+)", config):
        return int(found[1])
    if width % _HEAD_WIDTH:
        raise InputError(
            f"name_or_path: expected a config.json with {field} beside the weights, as heads of {_HEAD_WIDTH} channels "
            f"do not fill a width of {width}"
        )
    return width // _HEAD_WIDTH


def _long_side(config: str, path: Path) -> int:
    """Ours say it; of the published ones the hub's folder or the file does."""
    if found := re.search(r'"long_side": (\d+)', config):
        return int(found[1])
    return 224 if re.search(r"DUSt3R_\w*_224_", str(path)) else 512


def _in_layout(path: Path, weights: dict[str, Tensor], layout: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under every name of the layout. Files may leave out what is there under another name."""
    complete = {}
    for name, wanted in layout.items():
        found = next((weights[alias] for alias in _aliases(name) if alias in weights), None)
        if found is None and name == "mask_token":
            found = next(iter(weights.values())).new_zeros(wanted.shape)
        if found is None:
            raise InputError(f"name_or_path: expected a checkpoint of DUSt3R, but {path} lacks {name}")
        if found.shape != wanted.shape:
            shapes = f"shape {tuple(wanted.shape)}, but in {path} it is {tuple(found.shape)}"
            raise InputError(f"name_or_path: expected {name} of {shapes}")
        complete[name] = found
    unknown = [name for name in weights if name not in layout and ".head_local_features." not in name]
    if unknown:
        _log.warning("%d tensors of %s are not used, %s for one", len(unknown), path, unknown[0])
    return complete


def _aliases(name: str) -> list[str]:
    """Names under which a file may have what the layout calls ``name``, in order of preference."""
    if match := re.fullmatch(r"(.*\.scratch)\.(?:layer_rn\.(\d)|layer(\d)_rn)\.weight", name):
        level = int(match[2]) if match[2] else int(match[3]) - 1
        return [f"{match[1]}.layer_rn.{level}.weight", f"{match[1]}.layer{level + 1}_rn.weight"]
    return [name, name.replace("dec_blocks2.", "dec_blocks.")]


@cache
def _tell_licence() -> None:
    _log.warning(
        "The published weights of DUSt3R, MonST3R and MASt3R are licensed CC BY-NC-SA 4.0: non-commercial use only"
    )
