"""The GPT block, of GPT-2 and OPT: LayerNorm, attention without rotary positions, an MLP without a gate.

Of the sizes of a layer, in copies of (batch, seq_len, hidden_size): one for each norm, three for queries, keys and
values, one for attention's output, four and four again in the MLP, and one for what each half adds.

In training it can drop: the weights of eager attention, and what each half adds (not the embedding). A fused kernel
drops weights inside, with no mask in memory; the one here drops none, which takes the same memory.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from dsmem.model import operators
from dsmem.model.layers import Embedding, LayerNorm, Step, drop, eager_attention, once, repeat_heads, split_heads

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture

_GELU_BY_TANH = functools.partial(F.gelu, approximate="tanh")
ACTIVATIONS = {"gelu_new": _GELU_BY_TANH, "gelu_pytorch_tanh": _GELU_BY_TANH, "gelu": F.gelu, "relu": F.relu}
"""One operator for each name of `hidden_act`; transformers writes "gelu_new" out in eight, with the same numbers."""


class LearnedPositions(Embedding):
    """A vector for each place in a sequence: the rows of a table, those before `position_offset` never read."""

    def __init__(self, arch: "Architecture", **like: Any):
        super().__init__(arch.learned_positions + arch.position_offset, arch.hidden_size, **like)
        self.offset = arch.position_offset

    def forward(self, start: int, seq_len: int) -> torch.Tensor:
        """The vectors of `seq_len` places from `start` on: (seq_len, hidden_size)."""
        first = self.offset + start
        return super().forward(torch.arange(first, first + seq_len, device=self.weight.device))


class GPTBlock(nn.Module):
    """One layer: attention, then an MLP, each on a normed copy and added to the residual stream. As `decoder.Layer`."""

    def __init__(self, arch: "Architecture", index: int, make_linear: Callable, make_stack: Callable, **like: Any):
        super().__init__()
        self.input_layernorm = LayerNorm(arch.hidden_size, arch.layer_norm_epsilon, **like)
        self.self_attn = GPTAttention(arch, index, make_linear)
        self.post_attention_layernorm = LayerNorm(arch.hidden_size, arch.layer_norm_epsilon, **like)
        self.mlp = GPTMLP(arch, make_linear)

    def forward(self, h: torch.Tensor, step: Step) -> torch.Tensor:
        """The residual stream (batch, seq_len, hidden_size) after this layer."""
        h = h + drop(self.self_attn(self.input_layernorm(h), step), step.dropout)
        return h + drop(self.mlp(self.post_attention_layernorm(h)), step.dropout)


class GPTAttention(nn.Module):
    """Multi-head attention; queries, keys and values come from one matrix (GPT-2) or from three (OPT).

    index: the layer's place, where its rows lie in a cache. make_linear: as in `Decoder`.
    """

    def __init__(self, arch: "Architecture", index: int, make_linear: Callable):
        super().__init__()
        self.index, self.heads, self.head_dim = index, arch.num_attention_heads, arch.head_dim
        names = ("qkv_proj",) if arch.joined_qkv else ("q_proj", "k_proj", "v_proj")
        for name in (*names, "o_proj"):
            self.add_module(name, make_linear(name))
        # attention divides by the root of head_dim; what GPT-2 may do beside or in place of that
        self.factor = 1.0 if arch.scale_attn_weights else self.head_dim**0.5
        if arch.scale_attn_by_inverse_layer_idx:
            self.factor /= index + 1

    attend = staticmethod(once)

    def forward(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """(batch, seq_len, hidden_size), from the same shape."""
        return self.o_proj(self.mix(x, step))

    def mix(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """What goes into `o_proj`: (batch, seq_len, heads * head_dim)."""
        q, k, v = self.queries_keys_values(x)
        if self.factor != 1:
            q = q * self.factor if q.requires_grad else q.mul_(self.factor)
        if step.cache is not None:
            k, v = step.cache.update(self.index, k, v)
        if step.eager:
            k = repeat_heads(k, 1)
            v = repeat_heads(v, 1)
            q = repeat_heads(q, 1)
            rules = {"attention": step.attention, "dropout": step.dropout}
            return self.attend(eager_attention, q, k, v, step.mask, **rules)
        return self.attend(operators.attention, q, k, v, causal=q.shape[1] > 1)[0].flatten(2)

    def queries_keys_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each (batch, seq_len, heads, head_dim); three views of one tensor where one matrix makes them."""
        if hasattr(self, "qkv_proj"):
            joined = self.qkv_proj(x).unflatten(-1, (3, self.heads, self.head_dim))
            return joined.unbind(2)
        return tuple(split_heads(project(x), self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))


class GPTMLP(nn.Module):
    """`down(act(up(x)))`, `act` of `ACTIVATIONS`. make_linear: as in `Decoder`."""

    def __init__(self, arch: "Architecture", make_linear: Callable):
        super().__init__()
        self.up_proj, self.down_proj = make_linear("up_proj"), make_linear("down_proj")
        self.act = ACTIVATIONS[arch.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden_size), from the same shape."""
        return self.down_proj(self.act(self.up_proj(x)))
