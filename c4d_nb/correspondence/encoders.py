"""What DynPT sees of a frame: features of stride 4 by a CNN, by a frozen 3D-aware encoder, or by both.

METHOD: the 3D-aware encoder is that of DUSt3R. Feature (i, j) lies in the middle of the pixels 4i to 4i + 3, 4j to
4j + 3: every convolution that halves the resolution has an even kernel, so that nothing shifts by half a pixel.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from c4d_nb.errors import InputError
from c4d_nb.pointmaps.dust3r import ImageEncoder

STRIDE = 4
"""Pixels from one feature to the next."""
ENCODERS = ("cnn", "3d")


class CNNEncoder(nn.Module):
    """A residual network whose maps of stride 4, 8 and 16 are added up at stride 4 (a feature pyramid network's idea,
    Lin et al., CVPR 2017), instance-normalised throughout (Ulyanov et al., 2016). Features have length 1."""

    coarsest = 16
    """Stride of the last stage, px."""

    def __init__(self, channels: int, *, widths: tuple[int, int, int, int], blocks: tuple[int, int, int, int]) -> None:
        """``widths`` and numbers of residual ``blocks`` of the stages of stride 2, 4, 8 and 16."""
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 6, stride=2, padding=2, bias=False)  # as all before a norm
        before = (widths[0], *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(*(_stage(inputs, outputs, count, halve=number > 0)))
            for number, (inputs, outputs, count) in enumerate(zip(before, widths, blocks, strict=True))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, 2 * channels, 1, bias=False) for width in widths[1:])
        self.out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c rows columns"]:
        """Images are RGB in [-1, 1], of any size; a last row or column of features may reach beyond them."""
        rows, columns = feature_size(*images.shape[-2:])
        x = F.relu(_instance_norm(self.stem(_channels_last(pad_to_multiple(images, self.coarsest)))))
        x = self.stages[0](x)
        maps = []
        for stage, lateral in zip(self.stages[1:], self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        # A 1x1 convolution of concatenated maps is a sum of such, each of which can be done before the upsampling.
        total = maps[0] + sum(_upsample(m, tuple(maps[0].shape[-2:])) for m in maps[1:])
        features = self.out(F.relu(_instance_norm(total)))
        return F.normalize(features[..., :rows, :columns], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, *((4, 2, 1) if halve else (3, 1, 1)), bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        shrink = nn.AvgPool2d(2) if halve else nn.Identity()
        self.shortcut = nn.Sequential(shrink, nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        change = F.relu(_instance_norm(self.first(x)))
        return F.relu(self.shortcut(x) + _instance_norm(self.second(change)))


class GeometryEncoder(nn.Module):
    """DUSt3R's encoder, frozen, its tokens projected to ``channels`` and upsampled to stride 4. Features have length 1.

    The frozen network is no submodule: its weights are in no ``state_dict``, no optimiser and no gradient, and
    ``train`` does not reach it. It follows the module to another device or dtype. It is frozen in place.
    """

    def __init__(self, network: ImageEncoder, channels: int) -> None:
        super().__init__()
        self._frozen = (network.eval().requires_grad_(False),)  # in a tuple, where torch does not look for modules
        self.project = nn.Conv2d(network.config.encoder[0], channels, 1)

    @property
    def network(self) -> ImageEncoder:
        return self._frozen[0]

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c rows columns"]:
        """Images are RGB in [-1, 1]; they are resized to whole patches where they are not."""
        size = feature_size(*images.shape[-2:])
        patch = self.network.config.patch
        grid = [max(1, round(STRIDE * side / patch)) for side in size]
        images = _upsample(pad_to_multiple(images, STRIDE), tuple(patch * side for side in grid))
        with torch.no_grad():
            tokens = self.network.encode(images)
        tokens = tokens.mT.unflatten(-1, grid).to(self.project.weight.dtype)
        return F.normalize(_upsample(self.project(tokens), size), dim=1)

    def _apply(self, fn, recurse: bool = True) -> "GeometryEncoder":
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)


class FeatureEncoder(nn.Module):
    """One encoder or several; the features of several are concatenated and mixed by a 1x1 convolution."""

    def __init__(self, parts: dict[str, nn.Module], channels: int) -> None:
        super().__init__()
        if not parts:
            raise InputError(f"parts: expected at least one of the encoders {ENCODERS}, but there is none")
        self.parts = nn.ModuleDict(parts)
        self.fuse = nn.Conv2d(len(parts) * channels, channels, 1) if len(parts) > 1 else None

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c rows columns"]:
        """Features of length 1 of RGB images in [-1, 1]."""
        features = [part(images) for part in self.parts.values()]
        if self.fuse is None:
            return features[0]
        return F.normalize(self.fuse(torch.cat(features, dim=1)), dim=1)


def feature_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the features of a frame."""
    return math.ceil(height / STRIDE), math.ceil(width / STRIDE)


def pad_to_multiple(images: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c h2 w2"]:
    """The last row and column repeated until the sides are multiples."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _stage(inputs: int, outputs: int, count: int, *, halve: bool) -> list[nn.Module]:
    """Residual blocks of which the first changes resolution and width."""
    first = [ResidualBlock(inputs, outputs, halve=halve)] if count else []
    return first + [ResidualBlock(outputs, outputs, halve=False) for _ in range(count - 1)]


def _channels_last(images: Tensor) -> Tensor:
    """The same values, laid out so that a CPU convolves them in half the time; what follows keeps to it."""
    return images.contiguous(memory_format=torch.channels_last)


def _instance_norm(x: Tensor) -> Tensor:
    """Group norm with a channel a group: ``F.instance_norm`` leaves the channels-last layout. In float32 at least, as
    autocast does it on a GPU; a CPU takes seven times as long for it in bfloat16."""
    return F.group_norm(x.to(torch.promote_types(x.dtype, torch.float32)), x.shape[1]).to(x.dtype)


def _upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
