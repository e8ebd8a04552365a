"""Gemma's layer: what attention and MLP give is normed once more, and the MLP's gate is a GELU (arXiv 2408.00118).

Norms multiply by 1 + their stored weight; here the sum is the weight, made where a checkpoint is read, so that the same
operator serves. In 16 bit that rounds the sum, which transformers adds in float32.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from dsmem.model.attention import Attention
from dsmem.model.layers import MLP, RMSNorm, Step

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture


class GemmaLayer(nn.Module):
    """One layer, as `decoder.Layer`, with a norm before and after each half."""

    def __init__(self, arch: "Architecture", index: int, make_linear: Callable, make_stack: Callable, **like: Any):
        super().__init__()
        for name in arch.layer_norms():
            self.add_module(name, RMSNorm(arch.hidden_size, arch.rms_norm_eps, **like))
        self.self_attn, self.mlp = Attention(arch, index, make_linear, **like), GemmaMLP(make_linear)

    def forward(self, h: torch.Tensor, step: Step) -> torch.Tensor:
        """The residual stream (batch, seq_len, hidden_size) after this layer."""
        h = h + self.post_attention_layernorm(self.self_attn(self.input_layernorm(h), step))
        return h + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(h)))


class GemmaMLP(MLP):
    """`down(gelu(gate(x)) * up(x))`, the GELU by its tanh (arXiv 2002.05202)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden_size), from the same shape."""
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


def embedding_scale(arch: "Architecture", dtype: torch.dtype) -> float:
    """What embeddings are multiplied by: the root of hidden_size, rounded to `dtype` as transformers rounds it."""
    exact = arch.hidden_size**0.5
    step = 2.0 ** math.floor(math.log2(exact)) * torch.finfo(dtype).eps  # from one number of this format to the next
    return round(exact / step) * step
