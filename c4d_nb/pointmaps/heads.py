"""Heads of DUSt3R: from tokens to a point and a confidence for every pixel.

Attributes are named as in the published checkpoints, so that ``state_dict`` speaks their language.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LEVELS = (96, 192, 384, 768)
"""Channels of DPT's four levels, fine to coarse."""
FEATURES = 256


def points_and_confidence(raw: Float[Tensor, "b 4 h w"]) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b h w"]]:
    """A network's last four channels as a point and its confidence, in float32 at least.

    The point lies in the direction of the first three channels at exp(their norm) - 1, so that near and far are both
    within reach; the confidence 1 + exp(c) is above 1 (DUSt3R, section 3.2).
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    direction = raw[:, :3].movedim(1, -1)
    norm = direction.norm(dim=-1, keepdim=True)
    return direction / norm.clamp(min=1e-8) * norm.expm1(), 1 + raw[:, 3].exp()


class LinearHead(nn.Module):
    """Each token becomes its patch of pixels."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(width, 4 * patch**2)

    def forward(
        self, layers: Sequence[Float[Tensor, "b tokens _"]], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b h w"]]:
        return points_and_confidence(F.pixel_shuffle(_as_map(self.proj(layers[-1]), grid), self.patch))


class DPTHead(nn.Module):
    """Dense prediction from four layers of a transformer (Ranftl et al., ICCV 2021)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.dpt = DPT(widths)

    def forward(
        self, layers: Sequence[Float[Tensor, "b tokens _"]], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b h w"]]:
        return points_and_confidence(self.dpt([_as_map(layer, grid) for layer in layers]))


class DPT(nn.Module):
    """Four maps of the token grid's size become a pyramid, which is fused from coarse to fine."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        a, b, c, d = LEVELS
        self.scratch = Scratch()
        self.head = nn.Sequential(
            nn.Conv2d(FEATURES, FEATURES // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(FEATURES // 2, FEATURES // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(FEATURES // 2, 4, 1),
        )
        self.act_postprocess = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(widths[0], a, 1), nn.ConvTranspose2d(a, a, 4, stride=4)),
                nn.Sequential(nn.Conv2d(widths[1], b, 1), nn.ConvTranspose2d(b, b, 2, stride=2)),
                nn.Sequential(nn.Conv2d(widths[2], c, 1)),
                nn.Sequential(nn.Conv2d(widths[3], d, 1), nn.Conv2d(d, d, 3, stride=2, padding=1)),
            ]
        )

    def forward(self, maps: Sequence[Float[Tensor, "b _ rows columns"]]) -> Float[Tensor, "b 4 h w"]:
        levels = [resample(values) for resample, values in zip(self.act_postprocess, maps, strict=True)]
        return self.head(self.scratch(levels))


class Scratch(nn.Module):
    """The pyramid's fusion. (The layers that MiDaS trained from scratch, hence the name in the checkpoints.)"""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, FEATURES, 3, padding=1, bias=False) for width in LEVELS]
        for number, convolution in enumerate(convolutions, start=1):
            self.add_module(f"layer{number}_rn", convolution)  # the checkpoints know each under two names
        self.layer_rn = nn.ModuleList(convolutions)
        self.refinenet1 = Fusion()
        self.refinenet2 = Fusion()
        self.refinenet3 = Fusion()
        self.refinenet4 = Fusion()

    def forward(self, levels: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        l1, l2, l3, l4 = (convolution(level) for convolution, level in zip(self.layer_rn, levels, strict=True))
        # The stride that made l4 rounds an odd number of patches up: twice its size may be one row or column too many.
        path = self.refinenet4(l4)[..., : l3.shape[-2], : l3.shape[-1]]
        return self.refinenet1(self.refinenet2(self.refinenet3(path, l3), l2), l1)


class Fusion(nn.Module):
    """Adds a level of the pyramid to what comes from the coarser ones, and doubles the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(FEATURES, FEATURES, 1)
        self.resConfUnit1 = ResidualUnit()  # without a use in the coarsest fusion, but with weights in the checkpoints
        self.resConfUnit2 = ResidualUnit()

    def forward(
        self, path: Float[Tensor, "b c h w"], level: Float[Tensor, "b c h w"] | None = None
    ) -> Float[Tensor, "b c h2 w2"]:
        if level is not None:
            path = path + self.resConfUnit1(level)
        # A convolution of single pixels and an interpolation, whose weights sum to 1, may change places. Before it, the
        # convolution has a fourth of the pixels.
        path = self.out_conv(self.resConfUnit2(path))
        return F.interpolate(path, scale_factor=2, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.conv2 = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def _as_map(tokens: Float[Tensor, "b tokens c"], grid: tuple[int, int]) -> Float[Tensor, "b c rows columns"]:
    return tokens.transpose(1, 2).unflatten(-1, grid)
