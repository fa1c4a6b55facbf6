"""DynPT, the dynamic-aware point tracker: where queried points are in every frame of a window, whether they are seen,
how sure that is, and whether they move in the world.

C4D's tracker is CoTracker's architecture with a second, 3D-aware encoder and a fourth output, mobility. Where C4D says
no more, sizes and details follow CoTracker3 (Karaev et al., 2024).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from c4d_nb.correspondence.encoders import ENCODERS, STRIDE, CNNEncoder, FeatureEncoder, GeometryEncoder
from c4d_nb.correspondence.local_correlation import (
    FeaturePyramid,
    best_match,
    build_pyramid,
    cells_from_uv,
    local_correlation,
    neighborhoods,
)
from c4d_nb.correspondence.space_time import (
    EPIPOLAR_PX,
    OWN_BANDS,
    PLACE_BANDS,
    SpaceTimeTransformer,
    displacement_code,
    epipolar_motion,
    epipolar_motion_code,
    own_motion,
    own_motion_code,
    place_code,
)
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import ImageEncoder

FIRST_SHARPNESS = 10.0
"""Of matches, before training: products of features, -1 to 1, are multiplied by it before the softmax."""
FIRST_LOGIT = 2.0
"""Of visibility, where another tracker has followed a point, and less this where it has lost it."""


@dataclass(frozen=True)
class DynPTConfig:
    """Sizes of the network, by default the small one's."""

    encoders: tuple[str, ...] = ENCODERS
    """Which see the frames: ``("cnn", "3d")``, ``("cnn",)`` or ``("3d",)``."""
    channels: int = 64
    """Of the features."""
    cnn_widths: tuple[int, int, int, int] = (24, 48, 64, 96)
    cnn_blocks: tuple[int, int, int, int] = (0, 1, 1, 1)
    levels: int = 4
    radius: int = 2
    """Of the neighbourhoods that are correlated, in cells of each level."""
    correlation: tuple[int, int] = (96, 64)
    """Widths of the hidden and the last layer of each level's MLP."""
    displacement_bands: int = 8
    """Frequencies of the Fourier code of a displacement: 1, 1/2, 1/4, ... radians a px."""
    context: bool = True
    """Whether tokens also carry the query's features and the place in the frame: the camera's motion shows in where a
    point is as much as in how it moves."""
    matching: bool = True
    """Whether positions also move to where the query's own feature matches best on every level, as far as the
    transformer lets them: a short training learns that much sooner than to read displacements off the correlations."""
    flow_start: bool = False
    """Whether positions begin with chained flow, the short-term correspondences, and with what it has lost from sight;
    otherwise every point begins where it is queried, as in CoTracker, and a short training hardly ever gets away."""
    own_motion: tuple[int, ...] = (1, 4)
    """Over how many frames tokens are told what a point's way has beyond the camera's (``space_time.own_motion``)."""
    epipolar: tuple[int, ...] = (1, 4, 8)
    """Over how many frames they are told how far it is from the epipolar geometry of the points that were found static
    so far (``space_time.epipolar_motion``)."""
    width: int = 128
    depth: int = 3
    heads: int = 4
    mlp_ratio: int = 2
    virtual: int = 16
    passes: int = 3
    long_side: int = 128
    """Longer side of the frames it is trained on, px: larger ones are shrunk to it, as far as tracking goes."""

    def __post_init__(self) -> None:
        known = [name for name in ENCODERS if name in self.encoders]
        if not known or sorted(self.encoders) != sorted(known):
            raise InputError(f"encoders: expected one or both of {ENCODERS}, each once, but they are {self.encoders}")
        for name in ("channels", "levels", "radius", "displacement_bands", "depth", "heads", "virtual", "passes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, but it is {getattr(self, name)}")
        if self.long_side < self.smallest_side:
            raise InputError(f"size: expected {self.smallest_side} px or more, but it is {self.long_side}")
        if self.width < 2 or self.width % (2 * self.heads):
            raise InputError(f"width: expected a multiple of twice the {self.heads} heads, but it is {self.width}")

    @property
    def smallest_side(self) -> int:
        """Of a frame, px: one cell of the coarsest level."""
        return STRIDE * 2 ** (self.levels - 1)


SMALL = DynPTConfig(flow_start=True)
"""For a CPU: 2.3 M values besides the frozen encoder."""
PAPER = DynPTConfig(
    channels=128,
    cnn_widths=(64, 96, 128, 128),
    cnn_blocks=(2, 2, 2, 2),
    radius=3,
    correlation=(384, 256),
    displacement_bands=10,
    context=False,
    matching=False,
    own_motion=(),
    epipolar=(),
    width=384,
    heads=8,
    mlp_ratio=4,
    virtual=64,
    passes=4,
    long_side=512,
)
"""Sizes as of CoTracker3, as far as they are known to us."""


class TrackState(NamedTuple):
    """What is thought of n points in the t frames of a window. All but the positions are logits."""

    uv: Float[Tensor, "b t n 2"]
    visibility: Float[Tensor, "b t n"]
    confidence: Float[Tensor, "b t n"]
    """That the position is within 12 px of the truth."""
    mobility: Float[Tensor, "b t n"]


def initial_state(queries: Float[Tensor, "b n 3"], frames: int) -> TrackState:
    """Every point stays where it is queried, and nothing else is known. Queries are (frame, x, y)."""
    uv = queries[:, None, :, 1:].expand(-1, frames, -1, -1)
    return TrackState(uv, *(torch.zeros_like(uv[..., 0]) for _ in range(3)))


def first_logits(visible: Bool[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Of visibility, from the word of another tracker."""
    return torch.where(visible, FIRST_LOGIT, -FIRST_LOGIT)


class DynPT(nn.Module):
    """``encode`` each frame once, take each query's features from its frame once, ``refine`` window by window.

    ``geometry`` is the frozen 3D-aware encoder, a whole DUSt3R or its encoder alone; it is not part of
    ``state_dict``.
    """

    def __init__(self, config: DynPTConfig = SMALL, *, geometry: ImageEncoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = FeatureEncoder(_encoders(config, geometry), config.channels)
        hidden, out = config.correlation
        k = (2 * config.radius + 1) ** 2
        self.correlation = nn.ModuleList(
            nn.Sequential(nn.Linear(k * k, hidden), nn.GELU(), nn.Linear(hidden, out)) for _ in range(config.levels)
        )
        inputs = 3 + config.levels * out + 8 * config.displacement_bands
        inputs += len(config.own_motion) * (4 * OWN_BANDS + 1) + len(config.epipolar) * (len(EPIPOLAR_PX) + 1)
        if config.matching:
            inputs += 4 * config.levels
            self.sharpness = nn.Parameter(torch.full((config.levels,), math.log(FIRST_SHARPNESS)))
            self.pull = nn.Linear(config.width, config.levels)
            nn.init.zeros_(self.pull.weight)
            nn.init.constant_(self.pull.bias, -3.0 if config.flow_start else 0.0)
        self.token = nn.Linear(inputs, config.width)
        if config.context:
            self.appearance = nn.Linear(config.levels * config.channels, config.width)
            self.place = nn.Linear(4 * PLACE_BANDS, config.width)
        self.transformer = SpaceTimeTransformer(
            config.width,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            virtual=config.virtual,
        )
        self.head = nn.Linear(config.width, 5)
        nn.init.normal_(self.head.weight, std=1e-3)  # an untrained network only follows its matches, if anything
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_checkpoint(
        cls, name_or_path: str | Path, *, device: str | torch.device = "cpu", sha256: str | None = None
    ) -> "DynPT":
        """A network that ``c4d_nb.correspondence.weights`` saved: shipped ones by their names, others by their path."""
        from c4d_nb.correspondence.weights import load_dynpt

        return load_dynpt(name_or_path, device=device, sha256=sha256)

    @property
    def geometry(self) -> ImageEncoder | None:
        """The frozen 3D-aware encoder, if there is one."""
        return self.encoder.parts["3d"].network if "3d" in self.encoder.parts else None

    def forward(
        self, frames: Float[Tensor, "b t 3 h w"], queries: Float[Tensor, "b n 3"], state: TrackState | None = None
    ) -> list[TrackState]:
        """The states after every pass over one window. Frames are RGB in [-1, 1]; queries are (frame, x, y), the frame
        counted from the window's first. ``state`` is where to begin, by default ``initial_state``.

        Raises ``InputError`` for what ``encode``, ``query_features`` or ``refine`` cannot use.
        """
        pyramid = self.encode(frames)
        features = self.query_features(pyramid, queries)
        return self.refine(pyramid, features, initial_state(queries, frames.shape[1]) if state is None else state)

    def encode(self, frames: Float[Tensor, "b t 3 h w"]) -> FeaturePyramid:
        """Features of any number of frames. Raises ``InputError`` for frames with NaN, or too small."""
        if frames.ndim != 5 or frames.shape[2] != 3 or not frames.numel():
            raise InputError(f"frames: expected a shape of (b, t, 3, h, w), but it is {tuple(frames.shape)}")
        size = tuple(frames.shape[-2:])
        if min(size) < self.config.smallest_side:
            raise InputError(f"frames: expected sides of {self.config.smallest_side} px or more, but they are {size}")
        if not torch.isfinite(frames).all():
            raise InputError("frames: expected finite numbers, but there is NaN or infinity among them")
        features = self.encoder(frames.flatten(0, 1)).unflatten(0, tuple(frames.shape[:2]))
        return build_pyramid(features, levels=self.config.levels, size=size)

    def query_features(
        self, pyramid: FeaturePyramid, queries: Float[Tensor, "b n 3"]
    ) -> tuple[Float[Tensor, "b n k c"], ...]:
        """For every level the features around each query: all that ``refine`` needs of the frame it was made in.

        Raises ``InputError`` for no queries, or queries outside the pyramid's frames.
        """
        _check_queries(queries, pyramid)
        frame, uv = queries[..., 0].round().long(), queries[..., 1:]
        return tuple(
            neighborhoods(level, frame, cells_from_uv(uv, level=i), radius=self.config.radius)
            for i, level in enumerate(pyramid.levels)
        )

    def refine(
        self, pyramid: FeaturePyramid, query_features: tuple[Float[Tensor, "b n k c"], ...], state: TrackState
    ) -> list[TrackState]:
        """The states after every pass, the best one last.

        Updates are added. No gradient flows from a pass to the positions that it began with.
        """
        _check_state(state, pyramid, query_features)
        states = []
        for _ in range(self.config.passes):
            state = state._replace(uv=state.uv.detach())
            tokens, matches = self._tokens(pyramid, query_features, state)
            x = self.transformer(tokens)
            change = self.head(x).to(state.uv.dtype)
            step = STRIDE * change[..., :2]
            if self.config.matching:
                step = step + (self.pull(x).sigmoid()[..., None] * matches).mean(dim=-2)
            uv = state.uv + step.transpose(1, 2)
            logits = change[..., 2:].transpose(1, 2).unbind(-1)
            state = TrackState(uv, *(a + b for a, b in zip(state[1:], logits, strict=True)))
            states.append(state)
        return states

    def _tokens(
        self, pyramid: FeaturePyramid, query_features: tuple[Tensor, ...], state: TrackState
    ) -> tuple[Float[Tensor, "b n t c"], Float[Tensor, "b n t l 2"] | None]:
        """(what the transformer hears of each point and frame, the ways to the best matches on all levels, px)"""
        uv = state.uv.transpose(1, 2)
        similarity = [
            local_correlation(level, around, cells_from_uv(uv, level=i), radius=self.config.radius)
            for i, (level, around) in enumerate(zip(pyramid.levels, query_features, strict=True))
        ]
        parts = [torch.stack(state[1:], dim=-1).transpose(1, 2)]
        parts += [mlp(values) for mlp, values in zip(self.correlation, similarity, strict=True)]
        parts.append(displacement_code(uv, self.config.displacement_bands))
        seen = state.visibility.transpose(1, 2).sigmoid()
        for horizon in self.config.own_motion:
            parts.append(own_motion_code(own_motion(uv, seen, size=pyramid.size, horizon=horizon)))
        mobile = state.mobility.transpose(1, 2).sigmoid()
        for horizon in self.config.epipolar:
            parts.append(epipolar_motion_code(*epipolar_motion(uv, seen, mobile, size=pyramid.size, horizon=horizon)))
        matches = None
        if self.config.matching:
            found = [
                best_match(values, sharpness.exp())
                for values, sharpness in zip(similarity, self.sharpness, strict=True)
            ]
            parts += [torch.cat([cells, torch.stack([peak, here], dim=-1)], dim=-1) for cells, peak, here in found]
            matches = torch.stack([STRIDE * 2**i * match.cells for i, match in enumerate(found)], dim=-2)
        tokens = self.token(torch.cat(parts, dim=-1))
        if self.config.context:
            middle = torch.cat([around[:, :, around.shape[2] // 2] for around in query_features], dim=-1)
            tokens = tokens + self.appearance(middle)[:, :, None] + self.place(place_code(uv, pyramid.size))
        return tokens, matches


def _encoders(config: DynPTConfig, geometry: ImageEncoder | None) -> dict[str, nn.Module]:
    if "3d" in config.encoders and geometry is None:
        raise InputError("geometry: expected a DUSt3R network for the '3d' encoder, but it is None")
    make = {
        "cnn": lambda: CNNEncoder(config.channels, widths=config.cnn_widths, blocks=config.cnn_blocks),
        "3d": lambda: GeometryEncoder(geometry, config.channels),
    }
    return {name: make[name]() for name in config.encoders}


def _check_queries(queries: Tensor, pyramid: FeaturePyramid) -> None:
    batch, frames = pyramid.levels[0].shape[:2]
    if queries.ndim != 3 or queries.shape[0] != batch or queries.shape[2] != 3:
        raise InputError(f"queries: expected a shape of ({batch}, n, 3), but it is {tuple(queries.shape)}")
    if not queries.shape[1]:
        raise InputError("queries: expected at least one point, but there are none")
    height, width = pyramid.size
    most = queries.new_tensor([frames - 1, width - 0.5, height - 0.5])
    least = queries.new_tensor([0, -0.5, -0.5])
    outside = ~((queries >= least) & (queries <= most)).all(dim=-1)  # NaN is outside
    if outside.any():
        first = ", ".join(f"{value:g}" for value in queries[outside][0].tolist())
        raise InputError(
            f"queries: expected (frame, x, y) within {frames} frames of {width}x{height} px, but there is ({first})"
        )


def _check_state(state: TrackState, pyramid: FeaturePyramid, query_features: tuple[Tensor, ...]) -> None:
    batch, frames = pyramid.levels[0].shape[:2]
    expected = (batch, frames, query_features[0].shape[1])
    if state.uv.shape != (*expected, 2) or any(part.shape != expected for part in state[1:]):
        shapes = [tuple(part.shape) for part in state]
        raise InputError(f"state: expected {expected} values and as many uv, as the features, but they are {shapes}")
    if not torch.isfinite(state.uv).all():
        raise InputError("state: expected finite positions, but there is NaN or infinity among them")
