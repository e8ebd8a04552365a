"""The plain parts of the decoder: linear layer, embedding, norm, MLP, and the turns and copies of attention's heads."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dsmem.model import operators


@dataclasses.dataclass(frozen=True)
class Step:
    """What all layers of one pass share.

    cos, sin: rotary angles of the new positions (see `Decoder.step`). mask: for eager attention, True where a token may
    not look, (seq_len, key_len). cache: a `KVCache`, or None. attention: "fused", "expanded" or "eager". absorbed:
    whether latent attention works on the cached latents as they are.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor | None = None
    cache: Any = None
    attention: str = "fused"
    absorbed: bool = False


class Linear(nn.Linear):
    """`nn.Linear` that leaves its weights as they were allocated; `build_model` fills them once."""

    def reset_parameters(self):
        pass

    def weight_copy(self, dtype):
        """The weight (out_features, in_features) itself: to multiply with it needs no copy."""
        return self.weight


class Embedding(nn.Embedding):
    """`nn.Embedding`, filled by `build_model` like every `Linear`."""

    def reset_parameters(self):
        pass


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, one fused operator."""

    def __init__(self, width, eps, **like):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, **like))
        self.eps = eps

    def forward(self, x):
        return operators.rms_norm(x, self.weight, self.eps)[0]


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))` (arXiv 2002.05202)."""

    def __init__(self, make_linear, prefix=""):
        super().__init__()
        self.gate_proj, self.up_proj = make_linear(prefix + "gate_proj"), make_linear(prefix + "up_proj")
        self.down_proj = make_linear(prefix + "down_proj")

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def split_heads(x, head_dim):
    """(batch, seq_len, heads * head_dim) seen as (batch, seq_len, heads, head_dim); moves nothing."""
    return x.view(*x.shape[:-1], -1, head_dim)


def rotate(x, cos, sin, interleave=False):
    """Turn each pair by its position's angle (RoPE, arXiv 2104.09864); allocates one x.

    A pair is (x[i], x[i + half]), or with `interleave` (x[2i], x[2i + 1]); `cos` lies in the same order.
    """
    half = x.shape[-1] // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if interleave else (slice(half), slice(half, None))
    out = x * cos
    out[..., first].addcmul_(x[..., second], sin, value=-1)
    out[..., second].addcmul_(x[..., first], sin)
    return out


def repeat_heads(x, groups):
    """(batch, len, heads, head_dim) copied to (batch, len, heads * groups, head_dim), in memory head by head."""
    by_head = x.transpose(1, 2)[:, :, None].expand(-1, -1, groups, -1, -1)
    return by_head.clone(memory_format=torch.contiguous_format).flatten(1, 2).transpose(1, 2)


def eager_attention(q, k, v, mask):
    """Attention with its scores (batch, heads, seq_len, key_len) in memory, and the softmax's copy of them."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    scores = torch.matmul(q, k.transpose(2, 3)).mul_(q.shape[-1] ** -0.5).masked_fill_(mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    del scores
    out = torch.matmul(weights, v).transpose(1, 2)
    return out.clone(memory_format=torch.contiguous_format).flatten(2)
