"""Pairs of frames of static clips with the pointmaps that are true of them: what a pointmap network learns from."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset

from c4d_nb.archive import archives_in
from c4d_nb.camera import invert, transform, unproject
from c4d_nb.clip import Clip, load_clip
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.inference import network_images

CACHED_CLIPS = 4096


class Pairs(NamedTuple):
    """Pairs of images, as the network takes them, and both images' points in **image 1's** camera frame."""

    images_1: Float[Tensor, "*b 3 h w"]
    images_2: Float[Tensor, "*b 3 h w"]
    xyz_1: Float[Tensor, "*b h w 3"]
    xyz_2: Float[Tensor, "*b h w 3"]
    valid_1: Bool[Tensor, "*b h w"]
    valid_2: Bool[Tensor, "*b h w"]
    cam_2_from_cam_1: Float[Tensor, "*b 4 4"]

    def reversed(self) -> "Pairs":
        """The same pairs with image 2 as the first."""
        shape = self.xyz_1.shape
        xyz_1, xyz_2 = (
            transform(self.cam_2_from_cam_1, xyz.flatten(-3, -2)).reshape(shape) for xyz in (self.xyz_1, self.xyz_2)
        )
        back = invert(self.cam_2_from_cam_1)
        return Pairs(self.images_2, self.images_1, xyz_2, xyz_1, self.valid_2, self.valid_1, back)


def true_pairs(clip: Clip, n: int, m: int) -> Pairs:
    """The pair (n, m) of a static clip whose truth has depth, poses and K; a pixel without a depth is not valid."""
    truth = clip.truth
    images = network_images(clip.frames[[n, m]])
    depth = truth.depth[[n, m]]
    valid = torch.isfinite(depth) & (depth > 0)
    xyz = unproject(torch.where(valid, depth, 1.0), truth.intrinsics[[n, m]])
    n_from_m = invert(truth.world_from_cam[n]) @ truth.world_from_cam[m]
    xyz_2 = transform(n_from_m, xyz[1].flatten(0, 1)).reshape(xyz[1].shape)
    return Pairs(images[0], images[1], xyz[0], xyz_2, valid[0], valid[1], invert(n_from_m))


class StaticPairs(Dataset):
    """Endless random pairs of static clips: item k is the same whenever it is asked for.

    A pair is two frames of one clip in either order, mirrored in half of the cases, in changed colours. Clips are
    read once and kept at the size asked for, up to ``CACHED_CLIPS`` in every process.
    """

    def __init__(self, paths: Sequence[Path], *, size: int, seed: int = 0) -> None:
        if not paths:
            raise InputError("paths: expected at least one clip, but there is none")
        self.paths = list(paths)
        self.size, self.seed = size, seed
        self._load = lru_cache(CACHED_CLIPS)(self._read)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> Pairs:
        rng = np.random.default_rng([self.seed, index])
        clip = self._load(int(rng.integers(len(self.paths))))
        n, m = rng.permutation(len(clip))[:2].tolist()
        pair = true_pairs(clip, n, m)
        if rng.random() < 0.5:
            pair = mirrored(pair)
        return changed_colors(pair, rng)

    def _read(self, number: int) -> Clip:
        path = self.paths[number]
        clip = load_clip(path, long_side=self.size)
        truth = clip.truth
        if truth is None or any(x is None for x in (truth.depth, truth.world_from_cam, truth.intrinsics)):
            raise InputError(f"paths: expected clips with depth, poses and intrinsics, but {path} lacks some")
        if len(clip) < 2 or clip.size != (self.size, self.size):
            found = f"{len(clip)} frames of {clip.size[1]}x{clip.size[0]}"
            raise InputError(f"paths: expected 2 frames or more of {self.size}x{self.size} px, but {path} has {found}")
        if truth.motion_mask is not None and truth.motion_mask.any():
            raise InputError(f"paths: expected static clips, but in {path} something moves")
        return clip


def mirrored(pair: Pairs) -> Pairs:
    """Left and right exchanged: the mirror image of the scene, in a camera whose principal point is mirrored too."""
    flip = torch.tensor([-1.0, 1.0, 1.0])
    flip_pose = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    return Pairs(
        pair.images_1.flip(-1),
        pair.images_2.flip(-1),
        pair.xyz_1.flip(-2) * flip,
        pair.xyz_2.flip(-2) * flip,
        pair.valid_1.flip(-1),
        pair.valid_2.flip(-1),
        flip_pose @ pair.cam_2_from_cam_1 @ flip_pose,
    )


def changed_colors(pair: Pairs, rng: np.random.Generator) -> Pairs:
    """Both images with one random brightness, contrast and tint, and a little of their own brightness each."""
    gain = torch.from_numpy(rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, (3, 1, 1))).float()
    shift = float(rng.uniform(-0.2, 0.2))
    own = rng.uniform(0.95, 1.05, 2).tolist()
    images = [(own[i] * gain * image + shift).clamp(-1, 1) for i, image in enumerate(pair[:2])]
    return Pairs(*images, *pair[2:])


def clip_paths(folder: str | Path) -> list[Path]:
    """The clip archives of a folder, in the order of their names."""
    paths = archives_in(folder)
    if not paths:
        raise InputError(f"clips: expected a folder of clip archives (.npz), but {folder} has none")
    return paths


def collate(pairs: Sequence[Pairs]) -> Pairs:
    """One batch of single pairs."""
    return Pairs(*(torch.stack(parts) for parts in zip(*pairs, strict=True)))
