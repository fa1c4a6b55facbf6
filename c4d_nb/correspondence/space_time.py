"""Attention over tracks: along each in time, and among those of a frame by way of virtual ones; what tokens know of
space and time.

Full attention among n tracks costs n^2; virtual tracks (Karaev et al., CoTracker, ECCV 2024) are few
learned tokens a frame that listen to all tracks, talk to each other, and tell all tracks: it costs n.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from c4d_nb.epipolar import reweighted_fundamental, sampson_error
from c4d_nb.precision import attention, without_autocast

PLACE_BANDS = 4
OWN_BANDS = 6
RIDGE = 1e-2
REWEIGHTINGS = 4
LEAST_SPREAD_PX = 0.25
"""Of the points that are taken to rest: below it residuals are noise."""
EPIPOLAR_PX = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""What distances from the epipolar constraint are compared with."""
ENOUGH_POINTS = 15
"""That rest, for the camera's motion to show; a sum of weights counts as its effective sample size."""


class Attention(nn.Module):
    """From each token of ``x`` to all of ``memory``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n c"], memory: Float[Tensor, "b m c"]) -> Float[Tensor, "b n c"]:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), *self.key_value(memory).chunk(2, dim=-1))
        )
        return self.out(attention(q, k, v))


class Block(nn.Module):
    """Attention, then a two-layer network for each token, both pre-norm."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(
        self, x: Float[Tensor, "b n c"], memory: Float[Tensor, "b m c"] | None = None
    ) -> Float[Tensor, "b n c"]:
        """Self-attention without a ``memory``."""
        normed = self.norm_1(x)
        x = x + self.attention(normed, normed if memory is None else memory)
        return x + self.mlp(self.norm_2(x))


class SpaceTimeBlock(nn.Module):
    """Time: each track, real or virtual, by itself. Space: each frame by itself, by way of the virtual tracks."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: int) -> None:
        super().__init__()
        self.time, self.gather, self.among_virtual, self.spread = (
            Block(width, heads, mlp_ratio=mlp_ratio) for _ in range(4)
        )
        self.norm_tracks = nn.LayerNorm(width)
        self.norm_virtual = nn.LayerNorm(width)

    def forward(
        self, tracks: Float[Tensor, "b n t c"], virtual: Float[Tensor, "b v t c"]
    ) -> tuple[Float[Tensor, "b n t c"], Float[Tensor, "b v t c"]]:
        batch = len(tracks)
        tracks, virtual = (
            self.time(x.flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)
            for x in (tracks, virtual)
        )  # (b t) n c
        virtual = self.among_virtual(self.gather(virtual, self.norm_tracks(tracks)))
        tracks = self.spread(tracks, self.norm_virtual(virtual))
        return tuple(x.unflatten(0, (batch, -1)).transpose(1, 2) for x in (tracks, virtual))


class SpaceTimeTransformer(nn.Module):
    """Alternating attention over time and space. It does not depend on the order of the tracks."""

    def __init__(self, width: int, *, depth: int, heads: int, mlp_ratio: int, virtual: int) -> None:
        super().__init__()
        self.virtual = nn.Parameter(torch.randn(virtual, 1, width))
        self.blocks = nn.ModuleList(SpaceTimeBlock(width, heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tracks: Float[Tensor, "b n t c"]) -> Float[Tensor, "b n t c"]:
        """Tokens of n tracks in t frames, numbered from the first of the window on, to as many."""
        batch, _, frames, width = tracks.shape
        code = time_code(frames, width, like=tracks)
        tracks = tracks + code
        virtual = (self.virtual + code).expand(batch, -1, -1, -1)
        for block in self.blocks:
            tracks, virtual = block(tracks, virtual)
        return self.norm(tracks)


def time_code(frames: int, width: int, *, like: Tensor) -> Float[Tensor, "t c"]:
    """Sines and cosines of the frame's number (Vaswani et al., 2017), periods from 6 to 600 frames."""
    exponent = torch.arange(width // 2, device=like.device, dtype=torch.float32) / (width // 2)
    number = torch.arange(frames, device=like.device, dtype=torch.float32)
    return fourier_code(number[:, None], 100.0**-exponent).to(like.dtype)


def displacement_code(uv: Float[Tensor, "b n t 2"], bands: int) -> Float[Tensor, "b n t c"]:
    """Fourier code of the way to the next and to the previous frame, px; 0 beyond the window's ends."""
    step = uv.diff(dim=2)
    none = torch.zeros_like(uv[:, :, :1])
    ways = torch.cat([torch.cat([step, none], dim=2), torch.cat([none, -step], dim=2)], dim=-1)
    return fourier_code(ways, 2.0 ** -torch.arange(bands, dtype=uv.dtype, device=uv.device))


def own_motion(
    uv: Float[Tensor, "b n t 2"], weight: Float[Tensor, "b n t"], *, size: tuple[int, int], horizon: int
) -> Float[Tensor, "b n t 2"]:
    """What each point's way over ``horizon`` frames, px, has beyond a quadratic function of its place, which is fitted
    to all points' ways by iterated reweighting: motion of its own, and parallax. The last frames have the way to them.

    A plane's flow under a moving camera is such a function, nearly; what rests and is the majority determines it.
    Without a gradient, and in float32 whatever the network's dtype.
    """
    frames = uv.shape[2]
    horizon = min(horizon, frames - 1)
    if horizon == 0:
        return torch.zeros_like(uv)
    with torch.no_grad(), without_autocast(uv):
        start = uv[:, :, : frames - horizon].transpose(1, 2).float()  # b t n 2
        way = uv[:, :, horizon:].transpose(1, 2).float() - start
        prior = weight[:, :, : frames - horizon].transpose(1, 2).float()
        x, y = ((start - start.new_tensor([size[1], size[0]]) / 2) / (max(size) / 2)).clamp(-2, 2).unbind(-1)
        basis = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)
        ridge = RIDGE * torch.eye(6, device=uv.device)
        rest = way
        for step in range(REWEIGHTINGS + 1):
            if step:
                length = rest.norm(dim=-1)
                scale = length.median(dim=-1, keepdim=True).values.clamp(min=LEAST_SPREAD_PX)
                w = prior / (1 + (length / scale).square())
            else:
                w = prior
            weighted = w[..., None] * basis
            coefficients = torch.linalg.solve(weighted.mT @ basis + ridge, weighted.mT @ way)
            rest = way - basis @ coefficients
        rest = torch.cat([rest, rest[:, -1:].expand(-1, horizon, -1, -1)], dim=1)
    return rest.transpose(1, 2).to(uv.dtype)


def own_motion_code(rest: Float[Tensor, "b n t 2"]) -> Float[Tensor, "b n t c"]:
    """Fourier code of a way, and the logarithm of its length."""
    bands = 2.0 ** -torch.arange(OWN_BANDS, dtype=rest.dtype, device=rest.device)
    return torch.cat([fourier_code(rest, bands), rest.norm(dim=-1, keepdim=True).log1p()], dim=-1)


def epipolar_motion(
    uv: Float[Tensor, "b n t 2"],
    seen: Float[Tensor, "b n t"],
    mobility: Float[Tensor, "b n t"],
    *,
    size: tuple[int, int],
    horizon: int,
) -> tuple[Float[Tensor, "b n t"], Float[Tensor, "b n t"]]:
    """(how far each point's way over ``horizon`` frames is from what the camera's motion allows, px; how sure it is
    that both ends are seen). The last frames have the way to them.

    The camera's motion is the fundamental matrix of the points that are seen and, as far as is known, static; both are
    probabilities. What it says of a way is its root Sampson error: 0 also for what moves along its epipolar line.
    Between frames with fewer than ``ENOUGH_POINTS`` such points nothing is said, and both are 0.
    Without a gradient, and in float64 whatever the network's dtype.
    """
    frames = uv.shape[2]
    horizon = min(horizon, frames - 1)
    if horizon == 0:
        return torch.zeros_like(seen), seen
    with torch.no_grad(), without_autocast(uv):
        rest = own_motion(uv, seen, size=size, horizon=horizon).norm(dim=-1)
        start, end = slice(0, frames - horizon), slice(horizon, frames)
        both = seen[:, :, start] * seen[:, :, end]
        static = both * (1 - mobility[:, :, start]) + 1e-6
        uv_1, uv_2 = (uv[:, :, span].transpose(1, 2).double() for span in (start, end))
        weight, first = static.transpose(1, 2).double(), rest[:, :, start].transpose(1, 2).double()
        F = reweighted_fundamental(uv_1, uv_2, weight, rest=first)
        error = sampson_error(F, uv_1, uv_2).sqrt().transpose(1, 2)
        enough = weight.sum(dim=2).square() >= ENOUGH_POINTS * weight.square().sum(dim=2)
        error, both = error * enough[:, None], both * enough[:, None]
        error, both = (torch.cat([x, x[:, :, -1:].expand(-1, -1, horizon)], dim=2) for x in (error, both))
    return error.to(uv.dtype), both


def epipolar_motion_code(error: Float[Tensor, "b n t"], seen: Float[Tensor, "b n t"]) -> Float[Tensor, "b n t c"]:
    """A soft step at each of ``EPIPOLAR_PX``, as far as the way is seen, and how far that is."""
    squares = error[..., None].square()
    steps = squares / (squares + error.new_tensor(EPIPOLAR_PX).square())
    return torch.cat([seen[..., None] * steps, seen[..., None]], dim=-1)


def place_code(uv: Float[Tensor, "b n t 2"], size: tuple[int, int]) -> Float[Tensor, "b n t c"]:
    """Fourier code of the place in the frame, from the middle, in halves of the longer side."""
    height, width = size
    middle = uv.new_tensor([(width - 1) / 2, (height - 1) / 2])
    frequencies = torch.pi / 2 * 2.0 ** torch.arange(PLACE_BANDS, dtype=uv.dtype, device=uv.device)
    return fourier_code((uv - middle) / (max(size) / 2), frequencies)


def fourier_code(values: Float[Tensor, "*b d"], frequencies: Float[Tensor, "f"]) -> Float[Tensor, "*b c"]:
    """Sine and cosine of every value at every frequency (radians a unit): c = 2 d f."""
    angles = (values[..., None] * frequencies).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
