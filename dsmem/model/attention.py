"""Attention as decoders have it: grouped heads (MHA, GQA, MQA), and DeepSeek's latent one (MLA)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from dsmem.model import capped, gpt_oss, operators
from dsmem.model.indexer import Indexer
from dsmem.model.layers import RMSNorm, Step, autocasted, eager_attention, once, repeat_heads, split_heads
from dsmem.model.rotary import rotate, rotate_part
from dsmem.model.softmax import softmax

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture

LATENT_EPS = 1e-6  # of the norms inside latent attention, whatever the config says of the others


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (arXiv 2305.13245).

    index: the layer's place, where its rows lie in a cache. make_linear, like: as in `Decoder`.
    """

    def __init__(self, arch: "Architecture", index: int, make_linear: Callable, **like: Any):
        super().__init__()
        self.index, self.head_dim, self.groups = index, arch.head_dim, arch.query_width // arch.kv_width
        self.window = arch.sliding_window if arch.slides(index) else None
        for name in arch.attention_linears():
            self.add_module(name, make_linear(name))
        self.widths = (arch.query_width, arch.kv_width, arch.kv_width)
        self.softcap, scalar = arch.attn_logit_softcapping, arch.query_pre_attn_scalar
        # attention divides by the root of head_dim; Gemma by that of another number
        self.factor = 1.0 if scalar is None else (arch.head_dim / scalar) ** 0.5
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        for name, width in arch.norms().items():
            setattr(self, name, RMSNorm(width, arch.rms_norm_eps, **like))
        self.one_norm, self.rotary_dim = arch.qk_norm_type == "per_layer", arch.rotary_dim
        self.sinks = nn.Parameter(torch.zeros(arch.num_attention_heads, **like)) if arch.attention_sinks else None

    attend = staticmethod(once)

    def forward(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """(batch, seq_len, hidden_size), from the same shape."""
        return self.o_proj(self.mix(x, step))

    def mix(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """What goes into `o_proj`: (batch, seq_len, heads * head_dim). Queries, keys and values die on return."""
        q, k, v = self.projected(x)
        q = self.by_head(q, self.q_norm)
        k = self.by_head(k, self.k_norm)
        v = split_heads(v, self.head_dim)
        q = self.turned(q, step)
        k = self.turned(k, step)
        if self.factor != 1:
            q.mul_(self.factor)
        if step.cache is not None:
            k, v = step.cache.update(self.index, k, v)
        if step.eager or (step.attention == "expanded" and self.groups > 1):
            k = repeat_heads(k, self.groups)
            v = repeat_heads(v, self.groups)
        if step.eager:
            q = repeat_heads(q, 1)
            mask = step.mask if self.window is None else step.window_mask
            rules = {"attention": step.attention, "softcap": self.softcap, "sinks": self.sinks}
            return self.attend(eager_attention, q, k, v, mask, **rules)
        q, k, v = autocasted(q, k, v)
        rules = {"causal": q.shape[1] > 1, "window": self.window}
        if self.softcap is not None:
            return self.attend(capped.attention, q, k, v, softcap=self.softcap, **rules)[0].flatten(2)
        if self.sinks is not None:
            return self.attend(gpt_oss.attention, q, k, v, self.sinks, **rules).flatten(2)
        return self.attend(operators.attention, q, k, v, **rules)[0].flatten(2)

    def projected(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, (batch, seq_len, width) each; parts of one tensor where one matrix makes them."""
        if hasattr(self, "qkv_proj"):
            return self.qkv_proj(x).split(self.widths, dim=-1)
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def by_head(self, x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        """Queries or keys (batch, seq_len, heads, head_dim), normed each by itself or all heads at once."""
        return split_heads(norm(x), self.head_dim) if self.one_norm else norm(split_heads(x, self.head_dim))

    def turned(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Queries or keys with their positions: a new tensor, or what `rotate_part` gives where a part is rotated."""
        if self.window is not None and step.window_angles is not None:
            return rotate(x, *step.window_angles)
        if self.rotary_dim is None:
            return rotate(x, step.cos, step.sin)
        return rotate_part(x, step.cos, step.sin)


class LatentAttention(nn.Module):
    """Multi-head latent attention (MLA, arXiv 2405.04434, section 2.1).

    Keys and values of all heads come from one latent per token and one rotated key that the heads share. A cache may
    hold both ("latent") or what comes of them ("expanded"). On a latent cache one new token can attend to the latents
    themselves, with `kv_b_proj` absorbed into query and output: nothing is expanded then. Several new tokens expand all
    cached latents once more. Arguments as in `Attention`.
    """

    def __init__(self, arch: "Architecture", index: int, make_linear: Callable, **like: Any):
        super().__init__()
        self.index, self.heads, self.interleave = index, arch.num_attention_heads, arch.rope_interleave
        self.rank, self.plain = arch.kv_lora_rank, arch.qk_nope_head_dim
        self.head_dim, self.value_dim = arch.qk_head_dim, arch.v_head_dim
        if arch.q_lora_rank is None:
            self.q_proj = make_linear("q_proj")
        else:
            self.q_a_proj, self.q_b_proj = make_linear("q_a_proj"), make_linear("q_b_proj")
            self.q_a_layernorm = RMSNorm(arch.q_lora_rank, LATENT_EPS, **like)
        self.kv_a_proj_with_mqa, self.kv_b_proj = make_linear("kv_a_proj_with_mqa"), make_linear("kv_b_proj")
        self.kv_a_layernorm = RMSNorm(arch.kv_lora_rank, LATENT_EPS, **like)
        self.o_proj = make_linear("o_proj")
        self.indexer, self.hands_on = None, arch.hands_on_index(index)
        if arch.indexed and not arch.shares_index(index):
            self.indexer = Indexer(arch, index, make_linear, **like)

    attend = staticmethod(once)

    def forward(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """(batch, seq_len, hidden_size), from the same shape."""
        return self.o_proj(self.mix(x, step))

    def mix(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """What goes into `o_proj`: (batch, seq_len, heads * v_head_dim)."""
        cache = step.cache
        q, bias = self.queries(x, step)
        latents = self.latents(x, step.cos, step.sin)
        if cache is not None and cache.latent:
            cache.write(self.index, latents)
            if step.absorbed:
                del latents
                return self.absorb(q, cache.read(self.index, q.dtype, new=1)[0], bias, step.attention)
            if cache.length:  # the cached tokens' keys and values are expanded again, beside the new ones'
                new = latents.shape[1]
                del latents
                latents = cache.read(self.index, q.dtype, new)[0]
        k, v = self.expand(latents)
        del latents
        if cache is not None and not cache.latent:
            k, v = cache.update(self.index, k, v)
        if step.eager:
            k = repeat_heads(k, 1)
            v = repeat_heads(v, 1)
            q = repeat_heads(q, 1)
            return self.attend(eager_attention, q, k, v, step.mask, attention=step.attention, bias=bias)
        q, k, v = autocasted(q, k, v)
        causal = q.shape[1] > 1 and bias is None
        if self.value_dim == self.head_dim:
            return self.attend(operators.attention, q, k, v, causal=causal, bias=bias)[0].flatten(2)
        # fused kernels want values as wide as keys; zeros in the padding change nothing
        v = F.pad(v, (0, self.head_dim - self.value_dim))
        out = self.attend(operators.attention, q, k, v, causal=causal, bias=bias)[0][..., : self.value_dim]
        return out.clone(memory_format=torch.contiguous_format).flatten(2)

    def queries(self, x: torch.Tensor, step: Step) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, seq_len, heads, qk_head_dim), the last `qk_rope_head_dim` of each rotated.

        And the bias that hides the keys which an indexer, this layer's or an earlier one's, did not choose, or None.
        """
        bias = step.chosen.pop() if step.chosen else None
        if hasattr(self, "q_proj"):
            q = self.q_proj(x)
        else:
            latent = self.q_a_layernorm(self.q_a_proj(x))
            bias = bias if self.indexer is None else self.indexer(x, latent, step)
            q = self.q_b_proj(latent)
            del latent
        if self.hands_on:
            step.chosen.append(bias)
        return rotate_part(split_heads(q, self.head_dim), step.cos, step.sin, self.plain, self.interleave), bias

    def latents(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor | tuple:
        """(batch, seq_len, kv_lora_rank + qk_rope_head_dim): the normed latent and the rotated key, side by side.

        Where a gradient is to come back, nothing can be written in place: the two then stay apart, in a tuple.
        """
        rows = self.kv_a_proj_with_mqa(x)
        if rows.requires_grad:
            latent, key = rows.split((self.rank, rows.shape[-1] - self.rank), dim=-1)
            del rows
            latent = self.kv_a_layernorm(latent.clone(memory_format=torch.contiguous_format))
            return latent, rotate(key[..., None, :], cos, sin, self.interleave).flatten(2)
        latent = rows[..., : self.rank].clone(memory_format=torch.contiguous_format)
        rows[..., : self.rank].copy_(self.kv_a_layernorm(latent))
        del latent
        key = rows[..., None, self.rank :]
        key.copy_(rotate(key, cos, sin, self.interleave))
        return rows

    def expand(self, latents: torch.Tensor | tuple) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (batch, seq_len, heads, qk_head_dim) and values (..., v_head_dim) of every head."""
        apart = isinstance(latents, tuple)
        latent, key = latents if apart else (latents[..., : self.rank], latents[..., self.rank :])
        kv = split_heads(self.kv_b_proj(latent), self.plain + self.value_dim)
        plain, v = kv.split((self.plain, self.value_dim), dim=-1)
        return torch.cat((plain, key[:, :, None].expand(-1, -1, self.heads, -1)), dim=-1), v

    def absorb(self, q: torch.Tensor, seen: torch.Tensor, bias: torch.Tensor | None, attention: str) -> torch.Tensor:
        """One token's attention on the `seen` latents, (batch, 1, heads * v_head_dim); no keys or values are made.

        q: (batch, 1, heads, qk_head_dim). seen: (batch, key_len, kv_lora_rank + qk_rope_head_dim). bias: an indexer's.
        attention: as in `Step`; it decides the softmax alone.
        """
        up = self.kv_b_proj.weight_copy(q.dtype).view(self.heads, self.plain + self.value_dim, self.rank)
        plain = torch.bmm(q[:, 0, :, : self.plain].transpose(0, 1), up[:, : self.plain])
        query = torch.cat((plain.transpose(0, 1), q[:, 0, :, self.plain :]), dim=-1)
        del plain
        scores = torch.bmm(query, seen.transpose(1, 2)).mul_(self.head_dim**-0.5)
        weights = softmax(scores if bias is None else scores.add_(bias[:, 0]), attention)
        del scores
        mixed = torch.bmm(weights, seen[..., : self.rank])
        del weights
        out = torch.bmm(mixed.transpose(0, 1), up[:, self.plain :].transpose(1, 2)).transpose(0, 1)
        return out.clone(memory_format=torch.contiguous_format).flatten(1)[:, None]
