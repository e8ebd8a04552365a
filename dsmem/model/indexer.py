"""The indexer of DeepSeek Sparse Attention: for every new token it chooses the keys that attention may read.

It computes what transformers' reference computes: attention itself still goes over all keys, with those not chosen
hidden by a bias. GPU kernels (DeepGEMM's scores, FlashMLA's sparse attention) never write that bias, read the chosen
rows alone, and keep the indexer's keys in FP8; none of them runs here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dsmem.model import operators
from dsmem.model.layers import LayerNorm, Linear, Step, split_heads

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture

ALIGNED = 16  # keys: masked kernels of a GPU read the rows of their bias in such steps
NORM_EPS = 1e-6  # of the indexer's own norm, whatever the config says of the others


class Indexer(nn.Module):
    """Scores of all keys by a few narrow heads, in float32, and the choice of the best (arXiv 2512.02556, section 2.1).

    The scores are computed however few keys there are, as in transformers and DeepSeek's own code. Arguments as in
    `attention.Attention`; parts are named as in transformers.
    """

    def __init__(self, arch: "Architecture", index: int, make_linear: Callable, **like: Any):
        super().__init__()
        self.index, self.heads, self.head_dim = index, arch.index_n_heads, arch.index_head_dim
        self.topk, self.rotated = arch.index_topk, arch.qk_rope_head_dim
        self.pairs, self.interleave = arch.rope_interleave, arch.indexer_rope_interleave
        self.wq_b, self.wk = make_linear("indexer.wq_b"), make_linear("indexer.wk")
        self.k_norm = LayerNorm(arch.index_head_dim, NORM_EPS, **like)
        # in 16 bit under every scheme, as in DeepSeek's FP8 files
        self.weights_proj = Linear(arch.hidden_size, arch.index_n_heads, bias=False, **like)

    @torch.no_grad()
    def forward(self, x: torch.Tensor, query_latent: torch.Tensor, step: Step) -> torch.Tensor:
        """What is added to attention's scores: 0 for a chosen key, -inf for others, (batch, 1, seq_len, key_len).

        x: (batch, seq_len, hidden_size). query_latent: (batch, seq_len, q_lora_rank), normed.
        """
        scores = self.scores(x, query_latent, step)
        chosen = scores.masked_fill_(step.mask, -torch.inf).topk(min(self.topk, scores.shape[-1]), dim=-1).indices
        key_len = scores.shape[-1]
        del scores
        bias = x.new_full((*x.shape[:2], -(-key_len // ALIGNED) * ALIGNED), -torch.inf)[..., :key_len]
        # of a token with fewer keys than there are to choose, those that lie after it are chosen, too
        return bias.scatter_(-1, chosen, 0.0).masked_fill_(step.mask, -torch.inf)[:, None]

    def scores(self, x: torch.Tensor, query_latent: torch.Tensor, step: Step) -> torch.Tensor:
        """(batch, seq_len, key_len), float32: the weighted sum over heads of the positive part of query times key."""
        q = split_heads(self.wq_b(query_latent), self.head_dim)
        self.rotate(q, step)
        k = self.k_norm(self.wk(x))
        self.rotate(k[:, :, None], step)
        if step.cache is not None:
            k = step.cache.update_indexer(self.index, k)
        weights = self.weights_proj(x).float().mul_((self.heads * self.head_dim) ** -0.5)
        if not step.eager:
            return operators.index_scores(q, k, weights)[0]
        by_head = torch.bmm(q.flatten(1, 2).float(), k.float().transpose(1, 2)).relu_()
        return torch.matmul(weights[:, :, None], by_head.view(*weights.shape, -1))[:, :, 0]

    def rotate(self, x: torch.Tensor, step: Step) -> None:
        """Turn the first `qk_rope_head_dim` of each head of `x` (batch, seq_len, heads, head_dim) in place."""
        half = self.rotated // 2
        cos = step.cos[..., ::2] if self.pairs else step.cos[..., :half]
        shape, axis = ((half, 2), -1) if self.interleave else ((2, half), -2)
        pairs = x[..., : self.rotated].unflatten(-1, shape)
        out = pairs * cos.unsqueeze(axis)
        out.select(axis, 0).addcmul_(pairs.select(axis, 1), step.sin, value=-1)
        out.select(axis, 1).addcmul_(pairs.select(axis, 0), step.sin)
        pairs.copy_(out)
