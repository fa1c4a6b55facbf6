"""DUSt3R's network: two images in, for each pixel of either a point in the first camera's frame.

Wang et al., DUSt3R: Geometric 3D Vision Made Easy, CVPR 2024, section 3 and figure 2; the trunk is that of CroCo v2
(Weinzaepfel et al., ICCV 2023). Parameters bear the names of the published checkpoints. MonST3R (Zhang et al., ICLR
2025) is the same network, trained further on dynamic scenes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from c4d_nb.camera import pixel_grid
from c4d_nb.errors import InputError
from c4d_nb.pointmaps.heads import DPTHead, LinearHead
from c4d_nb.pointmaps.transformer import DecoderBlock, EncoderBlock, layer_norm, rotary_table
from c4d_nb.precision import without_autocast


class Pointmaps(NamedTuple):
    """What the network says of a pair of images: both images' points in **image 1's** camera frame, up to scale."""

    xyz_1: Float[Tensor, "b h w 3"]
    conf_1: Float[Tensor, "b h w"]
    """Above 1."""
    xyz_2: Float[Tensor, "b h w 3"]
    conf_2: Float[Tensor, "b h w"]


@dataclass(frozen=True)
class DUSt3RConfig:
    """Sizes of the network, by default the published ones. ``encoder`` and ``decoder`` are (width, depth, heads)."""

    head: Literal["linear", "dpt"] = "dpt"
    encoder: tuple[int, int, int] = (1024, 24, 16)
    decoder: tuple[int, int, int] = (768, 12, 12)
    patch: int = 16
    """Side of the square that becomes a token, px."""
    long_side: int = 512
    """Longer side of the images it was trained on, px: others it sees less well."""
    coordinates: bool = False
    """Whether patches are told where they lie: two channels beside RGB, x and y over half the longer side, 0 in the
    middle. The published networks work it out from rotary positions, which a small training would spend long on."""

    def __post_init__(self) -> None:
        if self.head not in ("linear", "dpt"):
            raise InputError(f"head: expected 'linear' or 'dpt', but it is {self.head!r}")
        for name, (width, depth, heads) in (("encoder", self.encoder), ("decoder", self.decoder)):
            if min(width, depth, heads) < 1 or width % (4 * heads):
                raise InputError(
                    f"{name}: expected (width, depth, heads) with a width of heads times a multiple of 4, "
                    f"but it is {(width, depth, heads)}"
                )
        if self.head == "dpt" and (self.decoder[1] <= 9 or self.patch != 16):
            raise InputError(
                "head: expected a decoder of depth 10 or more and patches of 16 px for 'dpt', "
                f"but they are {self.decoder[1]} and {self.patch}"
            )


VITL_DPT = DUSt3RConfig("dpt")
"""DUSt3R 512 DPT and MonST3R: 577.8 M values."""
VITL_LINEAR = DUSt3RConfig("linear")
"""DUSt3R 224 and 512 linear."""
SMALL = DUSt3RConfig("linear", encoder=(128, 8, 4), decoder=(128, 4, 4), long_side=128, coordinates=True)
"""The one that ships: 4.1 M values. Its training goes on at 192 px."""


class ImageEncoder(nn.Module):
    """The part of the network that looks at one image alone; DynPT's 3D-aware encoder."""

    def __init__(self, config: DUSt3RConfig = VITL_DPT) -> None:
        super().__init__()
        self.config = config
        width, depth, heads = config.encoder
        self.patch_embed = nn.Module()
        channels = 5 if config.coordinates else 3
        self.patch_embed.proj = nn.Conv2d(channels, width, config.patch, stride=config.patch)
        self.enc_blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        self.enc_norm = layer_norm(width)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b tokens c"]:
        """Tokens of every image, row-major, in the network's dtype. Images are RGB in [-1, 1].

        Raises ``InputError`` for images that are not cut into whole patches.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images: expected a shape of (b, 3, h, w), but it is {tuple(images.shape)}")
        rows, columns = self._grid("images", tuple(images.shape[-2:]))
        if self.config.coordinates:
            images = _with_coordinates(images)
        with without_autocast(images):  # or all that blocks add to the tokens is rounded too
            tokens = self.patch_embed.proj(images.to(self.patch_embed.proj.weight)).flatten(2).transpose(1, 2)
        width, _, heads = self.config.encoder
        rotary = rotary_table(rows, columns, width // heads, like=tokens)
        for block in self.enc_blocks:
            tokens = block(tokens, rotary)
        return self.enc_norm(tokens)

    def _grid(self, argument: str, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches."""
        patch = self.config.patch
        if min(size) < patch or size[0] % patch or size[1] % patch:
            raise InputError(
                f"{argument}: expected a height and a width that are multiples of {patch} px, but it is {tuple(size)}"
            )
        return size[0] // patch, size[1] // patch


class DUSt3R(ImageEncoder):
    """Encoder (shared), two decoders that look at each other at every layer, and a head for each.

    ``encode`` is a function of one image: who decodes many pairs encodes each image once and keeps its tokens.
    """

    def __init__(self, config: DUSt3RConfig = VITL_DPT) -> None:
        super().__init__(config)
        width = config.encoder[0]
        dec_width, dec_depth, dec_heads = config.decoder
        self.decoder_embed = nn.Linear(width, dec_width)
        self.dec_blocks = nn.ModuleList(DecoderBlock(dec_width, dec_heads) for _ in range(dec_depth))
        self.dec_blocks2 = nn.ModuleList(DecoderBlock(dec_width, dec_heads) for _ in range(dec_depth))
        self.dec_norm = layer_norm(dec_width)
        self.downstream_head1 = _head(config)
        self.downstream_head2 = _head(config)
        self.register_buffer("mask_token", torch.zeros(1, 1, dec_width))  # of the pre-training; in every checkpoint

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        sha256: str | None = None,
    ) -> "DUSt3R":
        """A published network by its name, or one from a folder or a ``.safetensors`` file, in evaluation mode.

        See ``c4d_nb.checkpoints`` for the names and for what is checked. The published weights are licensed for
        non-commercial use only.
        """
        from c4d_nb.checkpoints import load_dust3r

        return load_dust3r(name_or_path, device=device, dtype=dtype, sha256=sha256)

    def decode(
        self, tokens_1: Float[Tensor, "b tokens c"], tokens_2: Float[Tensor, "b tokens c"], size: tuple[int, int]
    ) -> Pointmaps:
        """Pointmaps of pairs from the tokens of either image; ``size`` is the images' (height, width).

        Raises ``InputError`` for tokens that are not those of two batches of images of that size.
        """
        grid = self._grid("size", size)
        self._check_tokens(tokens_1, tokens_2, grid)
        layers_1, layers_2 = [tokens_1], [tokens_2]
        with without_autocast(tokens_1):
            x, y = self.decoder_embed(tokens_1), self.decoder_embed(tokens_2)
        width, depth, heads = self.config.decoder
        rotary = rotary_table(*grid, width // heads, like=x)
        for number, (block, block2) in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True), start=1):
            x, y = block(x, y, rotary), block2(y, x, rotary)  # both from the previous layer
            if number in _middle_layers(depth):
                layers_1.append(x)
                layers_2.append(y)
        with without_autocast(x):  # which would leave points three digits
            xyz_1, conf_1 = self.downstream_head1([*layers_1, self.dec_norm(x)], grid)
            xyz_2, conf_2 = self.downstream_head2([*layers_2, self.dec_norm(y)], grid)
        return Pointmaps(xyz_1, conf_1, xyz_2, conf_2)

    def forward(self, images_1: Float[Tensor, "b 3 h w"], images_2: Float[Tensor, "b 3 h w"]) -> Pointmaps:
        """Pointmaps of pairs of images, RGB in [-1, 1], all of one size whose sides are multiples of the patch."""
        if images_1.shape != images_2.shape:
            raise InputError(
                f"images_2: expected the shape of images_1, {tuple(images_1.shape)}, but it is {tuple(images_2.shape)}"
            )
        return self.decode(self.encode(images_1), self.encode(images_2), tuple(images_1.shape[-2:]))

    def _check_tokens(self, tokens_1: Tensor, tokens_2: Tensor, grid: tuple[int, int]) -> None:
        expected = (grid[0] * grid[1], self.config.encoder[0])
        if tokens_1.shape[1:] != expected:
            raise InputError(
                f"tokens_1: expected a shape of (b, {expected[0]}, {expected[1]}), but it is {tuple(tokens_1.shape)}"
            )
        if tokens_2.shape != tokens_1.shape:
            raise InputError(
                f"tokens_2: expected the shape of tokens_1, {tuple(tokens_1.shape)}, but it is {tuple(tokens_2.shape)}"
            )


def _with_coordinates(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 5 h w"]:
    b, _, h, w = images.shape
    uv = pixel_grid(h, w, like=images) - images.new_tensor([(w - 1) / 2, (h - 1) / 2])
    return torch.cat([images, (2 / max(h, w) * uv).permute(2, 0, 1).expand(b, 2, h, w)], dim=1)


def _middle_layers(depth: int) -> tuple[int, int]:
    """The decoder layers, counted from 1, that a DPT head reads besides the encoder's tokens and the last layer."""
    return depth // 2, depth * 3 // 4


def _head(config: DUSt3RConfig) -> LinearHead | DPTHead:
    width = config.decoder[0]
    return LinearHead(width, config.patch) if config.head == "linear" else DPTHead([config.encoder[0], *[width] * 3])
