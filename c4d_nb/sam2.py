"""Motion masks refined by SAM 2, which follows what a few masks show through a whole video (Ravi et al., 2024).

MonST3R refines its masks so. Used on request only, with the extra ``sam2``: transformers, Apache-2.0. SAM 2's weights,
Apache-2.0 as well, are no part of this package: they are downloaded when they are first needed.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from c4d_nb.errors import InputError

PUBLISHED = tuple(f"facebook/sam2.1-hiera-{size}" for size in ("tiny", "small", "base-plus", "large"))
"""Repositories on the model hub (huggingface.co), of 160 to 900 MB."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB in [0, 1]: what SAM 2's images are normalised by."""
_OBJECT = 1

_log = logging.getLogger(__name__)


def refine_masks(
    frames: UInt8[Tensor, "t h w 3"],
    masks: Bool[Tensor, "t h w"],
    *,
    model: nn.Module | None = None,
    prompts: int = 8,
) -> Bool[Tensor, "t h w"]:
    """What SAM 2 takes for dynamic in every frame, told so by the masks of up to ``prompts`` frames.

    SAM 2 hands back a mask it is given as it is. So every other prompt goes into a first run, the rest into a second,
    each forward and backward from its first prompt, and a frame takes the mean of the runs that were not told its mask.
    (MonST3R prompts with odd and even frames in turn.) All that moves is one object. If there is one prompt only, its
    frame keeps its mask; if there is none, all do, after a warning. MonST3R's masks are the union
    ``masks | refine_masks(frames, masks)``.

    ``model`` is transformers' ``Sam2VideoModel``, on the device where it is to run; without it ``load_sam2()``. A GPU's
    work: one CPU core takes about half a minute a frame. Frames wait in main memory at SAM 2's size, 13 MB each.

    Raises ``InputError`` if frames and masks do not match, and as ``load_sam2`` does.
    """
    if masks.shape != frames.shape[:3]:
        raise InputError(f"masks: expected shape {tuple(frames.shape[:3])}, but it is {tuple(masks.shape)}")
    chosen = prompt_frames(masks, prompts)
    if not chosen:
        _log.warning("there is nothing for SAM 2 to follow: every mask is empty, and stays so")
        return masks
    model = load_sam2() if model is None else model
    video = _as_input(frames, model)
    probability = torch.zeros(masks.shape, device=masks.device)
    runs = torch.zeros(len(masks), 1, 1, device=masks.device)
    for told in filter(None, (chosen[::2], chosen[1::2])):
        for n, seen in tqdm(_follow(model, video, masks, told), desc="SAM 2", unit="frame", leave=False):
            if n not in told:
                probability[n] += seen.to(masks.device)
                runs[n] += 1
    return torch.where(runs > 0, probability > runs / 2, masks)


def prompt_frames(masks: Bool[Tensor, "t h w"], prompts: int) -> list[int]:
    """Of each of ``prompts`` equal stretches of the video the frame whose mask is of median size, empty ones aside.

    The largest masks are no better prompts: on the shipped clips they are those with the most false alarms.
    """
    if prompts < 1:
        raise InputError(f"prompts: expected at least 1, but it is {prompts}")
    areas = masks.flatten(1).sum(dim=1).cpu()
    chosen = []
    for stretch in torch.arange(len(masks)).tensor_split(min(prompts, len(masks))):
        filled = stretch[areas[stretch] > 0]
        if len(filled):
            chosen.append(int(filled[areas[filled].argsort(stable=True)[len(filled) // 2]]))
    return chosen


def load_sam2(name_or_path: str | Path = PUBLISHED[0], *, device: str | torch.device | None = None) -> nn.Module:
    """transformers' ``Sam2VideoModel`` in evaluation mode, by its name in ``PUBLISHED`` or from a folder.

    It is on a GPU if there is one and ``device`` says nothing else. What is not in the hub's cache is downloaded, after
    a warning that says so. Raises ``InputError`` if transformers is missing or the weights cannot be had or read.
    """
    network, _ = _sam2()
    if Path(name_or_path).is_dir():
        try:
            model = network.from_pretrained(name_or_path, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(
                f"name_or_path: expected a folder with SAM 2's config.json and model.safetensors, but {name_or_path} "
                f"cannot be read ({error})"
            ) from error
    elif str(name_or_path) in PUBLISHED:
        model = _from_hub(network, str(name_or_path))
    else:
        raise InputError(f"name_or_path: expected a folder or one of {', '.join(PUBLISHED)}, but it is {name_or_path}")
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def _from_hub(network: type[nn.Module], name: str) -> nn.Module:
    try:
        return network.from_pretrained(name, local_files_only=True)
    except OSError:
        address = f"https://huggingface.co/{name}"
        _log.warning("%s (Apache-2.0) is not in the cache and is downloaded from %s", name, address)
    try:
        return network.from_pretrained(name)
    except OSError as error:
        raise InputError(
            f"name_or_path: expected {name} in the cache or a network to download it by, but there is neither "
            f"({type(error).__name__}): download config.json and model.safetensors from {address} into a folder and "
            "pass model=load_sam2(FOLDER)"
        ) from error


def _follow(
    model: nn.Module, video: Float[Tensor, "t 3 s s"], masks: Bool[Tensor, "t h w"], told: list[int]
) -> Iterator[tuple[int, Float[Tensor, "h w"]]]:
    """Every frame with the probability that a pixel is dynamic; the told frames have their own masks."""
    _, new_session = _sam2()
    session = new_session(
        video=video,
        video_height=masks.shape[1],
        video_width=masks.shape[2],
        inference_device=model.device,
        inference_state_device=model.device,
        video_storage_device="cpu",
        dtype=model.dtype,
    )
    index = session.obj_id_to_idx(_OBJECT)
    for n in told:
        session.add_mask_inputs(index, n, _resize(masks[n].float(), tuple(video.shape[-2:]))[None, None] >= 0.5)
        session.obj_with_new_inputs = [_OBJECT]
        model(session, frame_idx=n)
    for reverse in (False, True):
        for output in model.propagate_in_video_iterator(session, start_frame_idx=told[0], reverse=reverse):
            yield output.frame_idx, _resize(output.pred_masks[0, 0].float(), tuple(masks.shape[1:])).sigmoid()


def _as_input(frames: UInt8[Tensor, "t h w 3"], model: nn.Module) -> Float[Tensor, "t 3 s s"]:
    """Squeezed into SAM 2's square and normalised, as transformers' own processor does it, which needs torchvision."""
    side = model.config.image_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    mean, std = (torch.tensor(values)[:, None, None] for values in (_MEAN, _STD))
    video = torch.empty(len(frames), 3, *size, dtype=model.dtype)
    for n, frame in enumerate(frames.cpu()):
        video[n] = (_resize(frame.permute(2, 0, 1).float(), size) / 255 - mean) / std
    return video


def _resize(image: Float[Tensor, "*c h w"], size: tuple[int, int]) -> Float[Tensor, "*c h2 w2"]:
    layers = image.reshape(1, -1, *image.shape[-2:])
    resized = F.interpolate(layers, size, mode="bilinear", align_corners=False, antialias=True)
    return resized.reshape(*image.shape[:-2], *size)


def _sam2() -> tuple[type[nn.Module], type]:
    """transformers' model, and its record of what it was told and has seen."""
    try:
        from transformers import Sam2VideoInferenceSession, Sam2VideoModel
    except ImportError as error:
        raise InputError(
            f"model: expected transformers 4.56 or newer, which has SAM 2, but it cannot be imported ({error}): pip "
            'install "c4d_nb[sam2]", and no torchvision of another build than torch beside it'
        ) from error
    return Sam2VideoModel, Sam2VideoInferenceSession
