"""Windows of clips with true point tracks, altered at random: what DynPT learns from.

Mini-Kubric archives and MOVi records are read alike. Scenes, cameras and mobility labels are those of the clips; crop,
mirror image, time's direction, colours and occluders are drawn anew every time a clip is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from c4d_nb.archive import archives_in
from c4d_nb.clip import Clip, Tracks, load_clip
from c4d_nb.correspondence.dynpt import first_logits
from c4d_nb.correspondence.losses import TrackTruth
from c4d_nb.correspondence.queries import Queries
from c4d_nb.correspondence.tracking import chain_flow
from c4d_nb.errors import InputError
from c4d_nb.kubric.movi import MoviShards
from c4d_nb.kubric.tfrecord import SHARD_NAME, Shards
from c4d_nb.kubric.tracks import point_tracks, sample_tapvid_queries

CACHED_CLIPS = 2048
SMALLEST_CROP = 0.6
"""Of the clip's side."""
MOST_OCCLUDERS = 2
OCCLUDER_SIDE = (0.1, 0.35)
"""Of the frame's side."""
GUESS_NOISE_PX = 3.0
"""Standard deviation, at most, of a position that an earlier window left."""
KNOWN = 0.75
"""Share of the frames that an earlier window has seen: with a stride of 4 in windows of 16."""


class TrackWindow(NamedTuple):
    """Frames, RGB in [-1, 1], queries (frame, x, y) in them, what to begin with, and the truth."""

    frames: Float[Tensor, "*b t 3 h w"]
    queries: Float[Tensor, "*b n 3"]
    start: Float[Tensor, "*b t n 2"]
    start_visibility: Float[Tensor, "*b t n"]
    """Logits."""
    truth: TrackTruth


@dataclass(frozen=True)
class ClipSource:
    """Where a clip with tracks is: an archive, or a record of a file of MOVi records."""

    path: Path
    index: int | None = None

    def load(self) -> Clip:
        """Raises ``InputError`` if it has no tracks, and nothing to make them of."""
        clip = load_clip(self.path) if self.index is None else MoviShards(self.path)[self.index]
        if clip.truth is None:
            raise InputError(f"clips: expected clips with true tracks, but {self.path} has no truth")
        if clip.truth.tracks is not None:
            return clip
        generator = torch.Generator().manual_seed(self.index or 0)
        try:
            queries = sample_tapvid_queries(clip.truth, generator=generator)
            return replace(clip, truth=replace(clip.truth, tracks=point_tracks(clip.truth, queries)))
        except InputError as error:
            raise InputError(f"clips: {self.path} has no tracks, and none can be made of its {error}") from error


def clip_sources(folder: str | Path) -> list[ClipSource]:
    """All clip archives and MOVi records of a folder, in the order of their names."""
    folder = Path(folder)
    archives = [ClipSource(path) for path in archives_in(folder)]
    shards = [path for path in sorted(folder.glob("*.tfrecord*")) if SHARD_NAME.fullmatch(path.name)]
    records = [ClipSource(path, index) for path in shards for index in range(len(Shards(path)))]
    if not archives and not records:
        raise InputError(f"clips: expected a folder of clip archives (.npz) or MOVi records, but {folder} has none")
    return archives + records


class TrackWindows(Dataset):
    """Endless random windows of clips: item k is the same whenever it is asked for.

    With ``flow_start``, queries are the tracks' own and begin with chained flow. Otherwise every query is a random
    point of truth in a frame that shows it, and in a share ``warm`` of the windows, positions are
    as an earlier window leaves them, near the truth in the first three quarters of the frames and standing still after;
    in the others every point begins at its query. Without ``augment``, windows show the frames as they are, as large a
    square as fits from the top left.
    """

    def __init__(
        self,
        sources: Sequence[ClipSource],
        *,
        size: int,
        frames: int,
        points: int,
        seed: int = 0,
        flow_start: bool = False,
        warm: float = 0.5,
        augment: bool = True,
    ) -> None:
        self.sources = list(sources)
        self.size, self.frames, self.points, self.seed = size, frames, points, seed
        self.flow_start, self.warm, self.augment = flow_start, warm, augment
        self._load = lru_cache(CACHED_CLIPS)(self._read)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, number: int) -> TrackWindow:
        rng = np.random.default_rng([self.seed, number])
        images, tracks, chained = self._load(int(rng.integers(len(self.sources))))
        first = int(rng.integers(len(images) - self.frames + 1))
        window = slice(first, first + self.frames)
        backward = self.augment and rng.random() < 0.5
        uv, visible, mobile = tracks.uv, tracks.visible, tracks.mobility > 0.5
        images, uv, visible, mobile, flowed, followed = (
            part[window].flip(0) if backward else part[window] for part in (images, uv, visible, mobile, *chained)
        )
        crop = random_crop(rng, tuple(images.shape[1:3])) if self.augment else (0, 0, min(images.shape[1:3]))
        images, uv, flowed = cropped(images, uv, flowed, crop=crop, size=self.size)
        visible = visible & ((uv >= -0.5) & (uv <= self.size - 0.5)).all(dim=-1)
        if self.augment:
            if rng.random() < 0.5:
                images = images.flip(-1)
                uv, flowed = (p * p.new_tensor([-1, 1]) + p.new_tensor([self.size - 1, 0]) for p in (uv, flowed))
            images, hidden = with_occluders(images, uv, rng)
            visible = visible & ~hidden
            images = with_changed_colors(images, rng)
        if self.flow_start:
            own = tracks.query_frame - first
            chosen, query_frame = self._own_queries(visible, self.frames - 1 - own if backward else own, rng)
        else:
            chosen, query_frame = self._queries(visible, rng)
        uv, visible, mobile, flowed = uv[:, chosen], visible[:, chosen], mobile[:, chosen], flowed[:, chosen]
        # What is asked for lies within the frame also where every point is hidden, and none can be asked for rightly.
        at_query = uv[query_frame, torch.arange(self.points)].clamp(-0.5, self.size - 0.5)
        start, start_visibility = at_query.expand(self.frames, -1, -1).clone(), torch.zeros(visible.shape)
        if self.flow_start:
            start, start_visibility = flowed, first_logits(followed[:, chosen])
        elif self.augment and rng.random() < self.warm:
            start = guessed(uv, round(KNOWN * self.frames), rng)
        return TrackWindow(
            frames=images,
            queries=torch.cat([query_frame[:, None].float(), at_query], dim=1),
            start=start,
            start_visibility=start_visibility,
            truth=TrackTruth(uv, visible, mobile, _near_the_frame(uv, self.size), query_frame),
        )

    def _read(self, number: int) -> tuple[Tensor, Tracks, tuple[Tensor, Tensor]]:
        """(frames, true tracks, (positions, visibility) of the same queries by chained flow if it is to be)"""
        clip = self.sources[number].load()
        if len(clip) < self.frames:
            raise InputError(
                f"clips: expected {self.frames} frames or more, but {self.sources[number].path} has {len(clip)}"
            )
        tracks = clip.truth.tracks
        if not self.flow_start:
            return clip.frames, tracks, (tracks.uv, tracks.visible)
        asked = tracks.uv[tracks.query_frame, torch.arange(len(tracks.query_frame))]
        return clip.frames, tracks, chain_flow(clip.frames, Queries(asked, tracks.query_frame))

    def _own_queries(
        self, visible: Bool[Tensor, "t n"], frame: Int[Tensor, "n"], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """As ``_queries``, of the tracks whose own ``frame`` is in the window and still shows them."""
        inside = (frame >= 0) & (frame < self.frames)
        inside &= visible[frame.clamp(0, self.frames - 1), torch.arange(len(frame))]
        at_query = torch.zeros_like(visible)
        at_query[frame[inside], inside.nonzero()[:, 0]] = True
        return self._queries(at_query, rng)

    def _queries(self, visible: Bool[Tensor, "t n"], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(number of the track, frame) of each query, each track once if there are enough that are ever seen."""
        seen = visible.any(dim=0).nonzero()[:, 0].numpy()
        if not len(seen):  # every point is hidden: nothing can be asked
            seen, visible = np.arange(visible.shape[1]), torch.ones_like(visible)
        chosen = torch.from_numpy(rng.permutation(np.resize(rng.permutation(seen), max(len(seen), self.points))))
        chosen = chosen[: self.points]
        chance = torch.from_numpy(rng.random((len(visible), self.points)))
        return chosen, (visible[:, chosen] * (1 + chance)).argmax(dim=0)


def random_crop(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int, int]:
    """(left, top, side) of a square within the frames, in px."""
    shorter = min(size)
    side = round(shorter * rng.uniform(SMALLEST_CROP, 1.0))
    left, top = (int(rng.integers(length - side + 1)) for length in (size[1], size[0]))
    return left, top, side


def cropped(frames: Tensor, *uv: Float[Tensor, "t n 2"], crop: tuple[int, int, int], size: int) -> tuple[Tensor, ...]:
    """Frames (t, h, w, 3) of 0 to 255 as RGB in [-1, 1], the crop resized to ``size`` x ``size``, and points in it."""
    left, top, side = crop
    images = frames[:, top : top + side, left : left + side].permute(0, 3, 1, 2).float() / 127.5 - 1
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(-1, 1)
    scale = size / side
    return images, *((points - points.new_tensor([left, top]) + 0.5) * scale - 0.5 for points in uv)


def with_occluders(
    images: Float[Tensor, "t 3 h w"], uv: Float[Tensor, "t n 2"], rng: np.random.Generator
) -> tuple[Float[Tensor, "t 3 h w"], Bool[Tensor, "t n"]]:
    """Rectangles that slide over the video, painted with a part of it or in one colour, and what they hide."""
    images, hidden = images.clone(), torch.zeros(uv.shape[:2], dtype=torch.bool)
    size, count = images.shape[-1], len(images)
    for _ in range(rng.integers(MOST_OCCLUDERS + 1)):
        w, h = (round(size * side) for side in rng.uniform(*OCCLUDER_SIDE, 2))
        ends = rng.uniform(-0.2, 1.0, (2, 2)) * size
        corner = torch.from_numpy(np.linspace(*ends, count).round()).long()
        row, column = (int(rng.integers(size - side + 1)) for side in (h, w))
        paint = images[rng.integers(count), :, row : row + h, column : column + w].clone()
        if rng.random() < 0.3:
            paint[:] = torch.from_numpy(rng.uniform(-1, 1, (3, 1, 1))).float()
        for t, (x, y) in enumerate(corner.tolist()):
            to_y, to_x = slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))
            part = images[t, :, to_y, to_x]
            skip_y, skip_x = max(-y, 0), max(-x, 0)
            part[:] = paint[:, skip_y : skip_y + part.shape[1], skip_x : skip_x + part.shape[2]]
        inside = (uv >= corner[:, None] - 0.5) & (uv < corner[:, None] + torch.tensor([w, h]) - 0.5)
        hidden |= inside.all(dim=-1)
    return images, hidden


def with_changed_colors(images: Float[Tensor, "t 3 h w"], rng: np.random.Generator) -> Float[Tensor, "t 3 h w"]:
    """One random brightness, contrast and tint for all frames, a drift of the brightness, and a little noise."""
    gain = torch.from_numpy(rng.uniform(0.6, 1.3) * rng.uniform(0.85, 1.15, (3, 1, 1))).float()
    drift = torch.linspace(*rng.uniform(-0.15, 0.15, 2).tolist(), len(images))[:, None, None, None]
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)) * float(rng.uniform(0, 0.03))
    return (gain * images + float(rng.uniform(-0.2, 0.2)) + drift + noise).clamp(-1, 1)


def guessed(uv: Float[Tensor, "t n 2"], known: int, rng: np.random.Generator) -> Float[Tensor, "t n 2"]:
    """Positions as an earlier window leaves them: off a little in the first ``known`` frames, then standing still."""
    drift = rng.standard_normal((1, *uv.shape[1:])) + 0.3 * rng.standard_normal(uv.shape)
    guess = uv + torch.from_numpy(drift * rng.uniform(0, GUESS_NOISE_PX)).float()
    guess[known:] = guess[known - 1]
    return guess


def collate(windows: Sequence[TrackWindow]) -> TrackWindow:
    """One batch of single windows."""
    *parts, truths = zip(*windows, strict=True)
    truth = TrackTruth(*(torch.stack(part) for part in zip(*truths, strict=True)))
    return TrackWindow(*(torch.stack(part) for part in parts), truth)


def _near_the_frame(uv: Float[Tensor, "t n 2"], size: int) -> Bool[Tensor, "t n"]:
    """Far outside nothing can be known, and behind the camera a position has no meaning."""
    return ((uv > -size) & (uv < 2 * size)).all(dim=-1)
