"""Transformer blocks of CroCo and DUSt3R: attention over image patches that knows where each patch lies.

Attributes are named as in the published checkpoints, so that ``state_dict`` speaks their language.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from c4d_nb.precision import attention

ROTARY_BASE = 100.0
MLP_RATIO = 4


def rotary_table(rows: int, columns: int, head_width: int, *, like: Tensor) -> Float[Tensor, "2 n d"]:
    """Cosines and sines that ``rotate`` turns the queries and keys of rows x columns patches (row-major) by.

    Su et al., RoFormer (2021), in two dimensions: the first half of a head's channels turns with the row, the second
    half with the column, and a product of query and key depends on how far apart their patches are, not on where.
    """
    precise = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
    frequencies = ROTARY_BASE ** (-torch.arange(head_width // 4, **precise) / (head_width // 4))
    positions = torch.cartesian_prod(torch.arange(rows, **precise), torch.arange(columns, **precise))  # (y, x)
    angles = positions[:, :, None, None] * frequencies
    angles = angles.expand(-1, 2, 2, -1).flatten(1)  # both members of a pair of channels turn by the same angle
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Float[Tensor, "b heads n d"], rotary: Float[Tensor, "2 n d"]) -> Float[Tensor, "b heads n d"]:
    """Turn each pair of channels (c, c + d/4) within either half of a head."""
    cos, sin = rotary
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    quarter_turn = torch.stack((-second, first), dim=-2).flatten(-3)
    return (x * cos + quarter_turn * sin).to(x.dtype)  # turned in float32, whatever the network's dtype


class Attention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n c"], rotary: Float[Tensor, "2 n d"]) -> Float[Tensor, "b n c"]:
        q, k, v = (_split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(_attend(q, k, v, rotary))


class CrossAttention(nn.Module):
    """Queries from one image's patches, keys and values from the other's; both have the same patch grid."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n c"], memory: Float[Tensor, "b n c"], rotary: Float[Tensor, "2 n d"]
    ) -> Float[Tensor, "b n c"]:
        q, k, v = self.projq(x), self.projk(memory), self.projv(memory)
        q, k, v = (_split_heads(part, self.heads) for part in (q, k, v))
        return self.proj(_attend(q, k, v, rotary))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    """A pre-norm ViT block (Dosovitskiy et al., ICLR 2021)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = Attention(width, heads)
        self.norm2 = layer_norm(width)
        self.mlp = MLP(width)

    def forward(self, x: Float[Tensor, "b n c"], rotary: Float[Tensor, "2 n d"]) -> Float[Tensor, "b n c"]:
        x = x + self.attn(self.norm1(x), rotary)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, then cross-attention to the other image's tokens (DUSt3R, section 3.1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = Attention(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.norm2 = layer_norm(width)
        self.norm3 = layer_norm(width)
        self.mlp = MLP(width)
        self.norm_y = layer_norm(width)

    def forward(
        self, x: Float[Tensor, "b n c"], y: Float[Tensor, "b n c"], rotary: Float[Tensor, "2 n d"]
    ) -> Float[Tensor, "b n c"]:
        x = x + self.attn(self.norm1(x), rotary)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(y), rotary)
        return x + self.mlp(self.norm3(x))


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def _split_heads(x: Float[Tensor, "b n c"], heads: int) -> Float[Tensor, "b heads n d"]:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(
    q: Float[Tensor, "b heads n d"],
    k: Float[Tensor, "b heads n d"],
    v: Float[Tensor, "b heads n d"],
    rotary: Float[Tensor, "2 n d"],
) -> Float[Tensor, "b n c"]:
    return attention(rotate(q, rotary), rotate(k, rotary), v)
