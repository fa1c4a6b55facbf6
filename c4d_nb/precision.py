"""Half precision where it pays. Training runs under autocast, which halves matrix products; what loses by it, or is
slower so, is done in full precision."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def hardware_has_bf16() -> bool:
    """Whether bfloat16 is multiplied by the hardware: by a CPU that does, four times as fast as float32."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)  # older torch does not say what a CPU can
    return torch.cuda.is_available() or capabilities().get("avx512_bf16", False)


def without_autocast(like: Tensor) -> torch.autocast:
    """A context, for ``like``'s device, in which nothing is rounded to half precision."""
    return torch.autocast(like.device.type, enabled=False)


def attention(
    q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads m d"], v: Float[Tensor, "b heads m d"]
) -> Float[Tensor, "b n c"]:
    """Scaled dot-product attention, its heads side by side, in the values' dtype.

    On a CPU in float32 at least: torch's kernel takes four times as long to go backward in bfloat16.
    """
    if q.device.type == "cpu":
        dtype = torch.promote_types(v.dtype, torch.float32)
        with without_autocast(q):
            out = F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype)).to(v.dtype)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(-2)
