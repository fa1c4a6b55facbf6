"""The smallest world in which tracking and mobility can be learned: a picture slides by, another slides over it.

The background's motion stands for the camera's; the square in front moves on its own, and is dynamic. What a
point does can be told from a few frames, and a network of thousands of values learns it in a minute.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from c4d_nb.camera import pixel_grid
from c4d_nb.clip import Clip, Tracks, Truth

FPS = 12.0
CAMERA_PX, OWN_PX = 2.0, (1.0, 3.0)
"""Speeds a frame: of the background at most; of the square against it, from and to."""
SQUARE = (0.35, 0.55)
"""Its side over that of the frame."""


def sliding_clip(seed: int, *, frames: int = 12, size: int = 64, points: int = 128) -> Clip:
    """A clip with true tracks, half of its queries on the square. The same arguments give the same clip."""
    rng = np.random.default_rng(seed)
    camera = rng.uniform(-CAMERA_PX, CAMERA_PX, 2)
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*OWN_PX)
    own = camera + speed * np.array([np.cos(angle), np.sin(angle)])
    side = round(size * rng.uniform(*SQUARE))
    time = torch.arange(frames)[:, None].double() - (frames - 1) / 2
    middle = torch.from_numpy(rng.uniform(0.35, 0.65, 2) * size)
    corner = middle + torch.from_numpy(own) * time - side / 2  # of the square, frame by frame
    shift = torch.from_numpy(camera) * time
    margin = int(np.ceil(CAMERA_PX * frames / 2)) + 1
    behind, before = _texture(rng, size + 2 * margin), _texture(rng, side)
    images = torch.stack([_picture(behind, before, margin - s, c, size) for s, c in zip(shift, corner, strict=True)])
    tracks = _tracks(rng, shift, corner, side, size, points)
    return Clip((255 * images).round().to(torch.uint8).permute(0, 2, 3, 1), FPS, truth=Truth(tracks=tracks))


def _texture(rng: np.random.Generator, size: int) -> Float[Tensor, "3 s s"]:
    """Coloured noise of three sizes of grain."""
    layers = [
        torch.from_numpy(rng.standard_normal((1, 3, max(2, size // grain), max(2, size // grain))))
        for grain in (3, 6, 12)
    ]
    total = sum(F.interpolate(layer, (size, size), mode="bicubic") for layer in layers)[0]
    return (0.5 + 0.22 * total + 0.25 * torch.from_numpy(rng.uniform(-1, 1, (3, 1, 1)))).clamp(0, 1).float()


def _picture(behind: Tensor, before: Tensor, offset: Tensor, corner: Tensor, size: int) -> Float[Tensor, "3 s s"]:
    """The background, seen from ``offset`` on, with the square's first pixel at ``corner``."""
    uv = pixel_grid(size, size).double()
    inside = uv - corner
    covered = ((inside >= -0.5) & (inside < before.shape[-1] - 0.5)).all(dim=-1)
    return torch.where(covered, _sample(before, inside), _sample(behind, uv + offset))


def _sample(picture: Float[Tensor, "3 s s"], uv: Float[Tensor, "h w 2"]) -> Float[Tensor, "3 h w"]:
    place = ((2 * uv + 1) / picture.shape[-1] - 1).float()
    return F.grid_sample(picture[None], place[None], align_corners=False, padding_mode="border")[0]


def _tracks(rng: np.random.Generator, shift: Tensor, corner: Tensor, side: int, size: int, points: int) -> Tracks:
    """Each point is drawn in the middle frame; its query frame is one that shows it."""
    frames, half = len(shift), points // 2
    on_square = torch.from_numpy(rng.uniform(0, side - 1, (half, 2)))
    on_ground = torch.from_numpy(rng.uniform(0, size - 1, (points - half, 2)))
    uv = torch.cat([corner[:, None] + on_square, shift[:, None] + on_ground], dim=1)
    mobile = torch.arange(points) < half
    inside = ((uv >= -0.5) & (uv <= size - 0.5)).all(dim=-1)
    of_square = uv - corner[:, None]
    hidden = ((of_square >= -0.5) & (of_square < side - 0.5)).all(dim=-1) & ~mobile
    visible = inside & ~hidden
    chance = torch.from_numpy(rng.random(visible.shape))
    query_frame = (visible * (1 + chance)).argmax(dim=0)
    ever = visible.any(dim=0)
    return Tracks(
        uv[:, ever].float(),
        visible[:, ever],
        torch.ones(frames, int(ever.sum())),
        mobile[ever].float().expand(frames, -1).clone(),
        query_frame[ever],
    )
