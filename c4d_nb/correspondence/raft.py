"""Optical flow by RAFT (Teed and Deng, ECCV 2020): torchvision's network with its published weights.

Used on request only, ``method="raft"``, with the extra ``raft``. torchvision's code is BSD-3-Clause. The weights are no
part of this package: they are downloaded when they are first needed, and are under no licence of their own. torchvision
leaves it to whoever uses them to find out whether the terms of the training data permit it.
"""

import hashlib
import logging
import math
from functools import cache
from http.client import HTTPException
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from c4d_nb.correspondence.encoders import pad_to_multiple
from c4d_nb.errors import InputError

PUBLISHED = {"raft_large": "Raft_Large_Weights.C_T_SKHT_V2", "raft_small": "Raft_Small_Weights.C_T_V2"}
"""torchvision's weights, of 20 and 4 MB. Both learned from FlyingChairs and FlyingThings3D (for research only), the
large ones from Sintel, KITTI (CC BY-NC-SA 3.0) and HD1K as well."""
STRIDE = 8
"""Pixels from one feature to the next."""
MIN_SIDE_PX = 128
"""Below it the coarsest of RAFT's four correlation maps has fewer than two cells a side."""
_MAX_CORRELATIONS = 2**28
"""Numbers in the finest correlation map of the pairs that are seen at once: 1 GiB."""

_log = logging.getLogger(__name__)


def raft_flow(
    frames_1: UInt8[Tensor, "b h w 3"],
    frames_2: UInt8[Tensor, "b h w 3"],
    *,
    network: nn.Module | None = None,
    updates: int = 12,
) -> Float[Tensor, "b h w 2"]:
    """Where each pixel of the first frames went in the second: target uv minus source uv, in px of these frames.

    ``network`` is torchvision's RAFT, on the device where it is to run; without it ``load_raft()``, once a process.
    Frames whose shorter side is below 128 px are enlarged by a whole factor, and sides padded to multiples of 8 by
    repeating the last row and column. Flow comes back to the frames' device.

    Raises ``InputError`` for frames of different sizes, and as ``load_raft`` does.
    """
    if frames_1.shape != frames_2.shape:
        raise InputError(f"frames_2: expected shape {tuple(frames_1.shape)}, but it is {tuple(frames_2.shape)}")
    network = _default_network() if network is None else network
    height, width = frames_1.shape[1:3]
    zoom = math.ceil(MIN_SIDE_PX / min(height, width))
    cells = math.ceil(zoom * height / STRIDE) * math.ceil(zoom * width / STRIDE)
    at_once = max(1, _MAX_CORRELATIONS // cells**2)
    parts = zip(frames_1.split(at_once), frames_2.split(at_once), strict=True)
    return torch.cat([_flow(network, part_1, part_2, zoom, updates) for part_1, part_2 in parts])


def load_raft(name: str = "raft_large", *, device: str | torch.device | None = None) -> nn.Module:
    """torchvision's network with published weights, in evaluation mode; on a GPU if ``device`` says nothing else.

    Weights that are not in torch hub's folder are downloaded, after a warning that says what is known of their terms.
    Raises ``InputError`` if ``name`` is not one of ``PUBLISHED``, torchvision is missing or not of torch's build, or
    the weights cannot be had or are damaged.
    """
    if name not in PUBLISHED:
        raise InputError(f"name: expected one of {', '.join(PUBLISHED)}, but it is {name!r}")
    models = _torchvision_models()
    network = models.get_model(name, weights=None)
    path = _find_weights(models.get_weight(PUBLISHED[name]).url)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


@cache
def _default_network() -> nn.Module:
    return load_raft()


@torch.no_grad()
def _flow(network: nn.Module, frames_1: Tensor, frames_2: Tensor, zoom: int, updates: int) -> Tensor:
    height, width = frames_1.shape[1:3]
    device = next(network.parameters()).device
    images = (_as_input(frames.to(device), zoom) for frames in (frames_1, frames_2))
    flow = network(*images, num_flow_updates=updates)[-1][..., : zoom * height, : zoom * width]
    return (F.avg_pool2d(flow, zoom) / zoom).permute(0, 2, 3, 1).to(frames_1.device)


def _as_input(frames: Tensor, zoom: int) -> Tensor:
    """RGB in [-1, 1], as torchvision's own transform has it, at a size that RAFT takes."""
    images = frames.permute(0, 3, 1, 2) / 127.5 - 1
    if zoom > 1:
        images = F.interpolate(images, scale_factor=zoom, mode="bilinear", align_corners=False)
    return pad_to_multiple(images, STRIDE)


def _find_weights(url: str) -> Path:
    """The file in torch hub's folder, downloaded if it is not there; its name ends with the start of its sha256."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        _log.warning(
            "%s is downloaded from %s. The weights have no licence of their own, but the data they learned from has "
            "terms: FlyingThings3D, for one, is for research only",
            path.name,
            url,
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (OSError, HTTPException) as error:
            raise InputError(
                f"method: expected the weights of RAFT in {path.parent} or a network to download them by, but there "
                f"is neither ({type(error).__name__}): download {url} and put it there"
            ) from error
    expected = path.stem.rsplit("-", 1)[1]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise InputError(f"method: expected a sha256 of {expected}..., but that of {path} is {found}: delete it")
    return path


def _torchvision_models() -> ModuleType:
    try:
        from torchvision import models
    except ImportError:
        raise InputError(
            'method: expected torchvision, which has RAFT, but it is missing: pip install "c4d_nb[raft]"'
        ) from None
    except RuntimeError as error:  # its compiled part is of another build, CUDA beside a CPU's torch for one
        raise InputError(
            f"method: expected a torchvision that fits torch {torch.__version__}, but the one installed does not load "
            f"({error}): install both anew, from the same index"
        ) from error
    return models
