"""Operators of our own where torch's allocate differently on a CPU and on a GPU, or where their shapes depend on data.

Each has a gradient, by an operator in `backward`. Each returns everything it allocates that lives on, the small
leftovers of its fused kernel included, so a ledger sees the same tensors on fake, CPU and CUDA devices. What a kernel
allocates and frees while it runs is not seen: on a CPU that is not GPU memory; on a GPU it belongs to the gap between
ledger and device (`runs.explain`).
"""

import torch
from torch import Tensor

from dsmem.model import backward, flash, grouped


@torch.library.custom_op("dsmem::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x` over its root mean square along the last axis, times `weight` (arXiv 1910.07467).

    weight: (last axis of x,). eps: added to the mean square.
    Returns the output (shape and dtype of x) and the inverse root mean square (float32, last axis 1).
    Kept for backward: x, weight, the inverse.
    """
    if x.is_cuda:
        return torch.ops.aten._fused_rms_norm(x, [x.shape[-1]], weight, eps)
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * inverse * weight).to(x.dtype), inverse


@rms_norm.register_fake
def _(x, weight, eps):
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


rms_norm.register_autograd(backward.of_rms_norm, setup_context=backward.keep_for_rms_norm)


@torch.library.custom_op("dsmem::layer_norm", mutates_args=())
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`x` less its mean, over its standard deviation along the last axis, times `weight`, plus `bias` (1607.06450).

    weight, bias: (last axis of x,). eps: added to the variance.
    Returns the output (shape and dtype of x), the mean and the inverse standard deviation (float32, last axis 1).
    Kept for backward: x, weight, mean, inverse.
    """
    if x.is_cuda:
        return torch.ops.aten.native_layer_norm(x, [x.shape[-1]], weight, bias, eps)
    wide = x.float()
    mean = wide.mean(-1, keepdim=True)
    centered = wide - mean
    inverse = torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps)
    return (centered * inverse * weight + bias).to(x.dtype), mean, inverse


@layer_norm.register_fake
def _(x, weight, bias, eps):
    mean = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    return torch.empty_like(x), mean, torch.empty_like(mean)


layer_norm.register_autograd(backward.of_layer_norm, setup_context=backward.keep_for_layer_norm)


@torch.library.custom_op("dsmem::attention", mutates_args=())
def attention(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, bias: Tensor | None = None, window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention without the s x t scores in memory (FlashAttention, arXiv 2205.14135).

    query (batch, seq_len, heads, head_dim); key, value (batch, key_len, kv_heads, head_dim); kv_heads divides heads.
    causal: the tokens are the last of the keys, and each attends to the keys up to its own; otherwise to all.
    bias: added to the scores of all heads, (batch, 1, seq_len, key_len), its rows 16 numbers apart at a time; on a GPU
    the memory-efficient kernel takes it. window: of the keys up to its own a token attends to the last so many alone;
    only where causal, and without a bias.
    Returns the output (shape of query) and the log-sum-exp of each row (batch, heads, seq_len) in float32.
    Kept for backward: query, key, value, both results, and the bias, which has no gradient.
    Raises ValueError where this GPU's kernel wants as many key heads as query heads. Left out: the memory-efficient
    kernel (a T4's) may use float32 scratch for heads wider than 128.
    """
    return flash.forward(query, key, value, causal, bias, window)


@attention.register_fake
def _(query, key, value, causal, bias=None, window=None):
    batch, seq_len, heads, _ = query.shape
    return torch.empty_like(query), query.new_empty((batch, heads, seq_len), dtype=torch.float32)


attention.register_autograd(backward.of_attention, setup_context=backward.keep_for_attention)


@torch.library.custom_op("dsmem::index_scores", mutates_args=())
def index_scores(query: Tensor, key: Tensor, weights: Tensor) -> list[Tensor]:
    """An indexer's scores, head by head: no more than one head's are in memory (arXiv 2512.02556, equation 1).

    query (batch, seq_len, heads, head_dim); key (batch, key_len, head_dim); weights (batch, seq_len, heads), float32.
    Returns the weighted sum of the heads' positive scores (batch, seq_len, key_len), the last head's scores in the same
    shape, and where they are not float32 the copies of the keys and of one head's queries that are; all float32. None
    has a gradient: DeepSeek trains an indexer apart, by its distance from attention's own scores.
    """
    total, wide, copies = None, key.float(), []
    for head in range(query.shape[2]):
        one = query[:, :, head].float()
        total = torch.zeros(*one.shape[:2], key.shape[1], device=key.device) if total is None else total
        scores = torch.bmm(one, wide.transpose(1, 2)).relu_()
        total.addcmul_(scores, weights[:, :, head, None])
        if head + 1 < query.shape[2]:
            del scores, one
    if key.dtype != torch.float32:
        copies = [wide, one]
    return [total, scores, *copies]


@index_scores.register_fake
def _(query, key, weights):
    batch, seq_len, _, head_dim = query.shape
    shapes = [(batch, seq_len, key.shape[1])] * 2
    if key.dtype != torch.float32:
        shapes += [key.shape, (batch, seq_len, head_dim)]
    return [weights.new_empty(shape) for shape in shapes]


index_scores.register_autograd(lambda ctx, *grads: (None, None, None), setup_context=backward.no_gradient)


@torch.library.custom_op("dsmem::route", mutates_args=())
def route(
    logits: Tensor,
    bias: Tensor | None,
    top_k: int,
    n_group: int,
    topk_group: int,
    scoring_func: str,
    norm_topk_prob: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose `top_k` experts for every token, and sort the choices by expert (arXiv 2412.19437, section 2.1.2).

    logits: (tokens, experts), float32. bias: (experts,), float32, or None; added to the scores for the choice alone.
    scoring_func: "sigmoid" (DeepSeek-V3) or "softmax". n_group > 1: a token may only choose among its `topk_group` best
    groups of experts. norm_topk_prob: weights of a token sum to 1 before they are multiplied by `scale`.
    Returns, for n = tokens * top_k choices: weights (tokens, top_k), float32; token (n,), int64: whose turn it is,
    expert by expert; slot (tokens, top_k), int64: the turn of each choice; ends (experts,), int32: the first turn after
    an expert's. No shape depends on the data.
    Kept for backward: logits, slot, ends. A gradient flows through the weights alone; `bias` has none.
    """
    scores = logits.sigmoid() if scoring_func == "sigmoid" else logits.softmax(dim=-1)
    chosen = _choose(scores, scores if bias is None else scores + bias, top_k, n_group, topk_group)
    weights = scores.gather(1, chosen)
    if norm_topk_prob:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    order = chosen.flatten().argsort(stable=True)
    slot = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device)).view_as(chosen)
    counts = order.new_zeros(logits.shape[1]).scatter_add_(0, chosen.flatten(), torch.ones_like(order))
    return weights * scale, order // top_k, slot, counts.cumsum(0).to(torch.int32)


@route.register_fake
def _(logits, bias, top_k, n_group, topk_group, scoring_func, norm_topk_prob, scale):
    tokens, experts = logits.shape
    whole = {"dtype": torch.int64}
    return (
        logits.new_empty((tokens, top_k)),
        logits.new_empty((tokens * top_k,), **whole),
        logits.new_empty((tokens, top_k), **whole),
        logits.new_empty((experts,), dtype=torch.int32),
    )


route.register_autograd(backward.of_route, setup_context=backward.keep_for_route)


def _choose(scores, preference, top_k, n_group, topk_group):
    """Indices (tokens, top_k) of the experts with the highest preference, from the best groups only."""
    if n_group > 1:
        groups = preference.unflatten(1, (n_group, -1))
        biased = preference is not scores
        # DeepSeek-V3 ranks a group by its two best experts, V2 by its best
        rank = groups.topk(min(2, groups.shape[2]), dim=-1).values.sum(-1) if biased else groups.amax(-1)
        best = torch.zeros_like(rank, dtype=torch.bool).scatter_(1, rank.topk(topk_group, dim=-1).indices, True)
        preference = groups.masked_fill(~best[..., None], -torch.inf if biased else 0.0).flatten(1)
    return preference.topk(top_k, dim=-1).indices


@torch.library.custom_op("dsmem::grouped_linear", mutates_args=())
def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows `ends[e-1]` to `ends[e]` of `x` times the e-th matrix: one linear layer per expert.

    x (rows, in_features), sorted by expert; weight (experts, out_features, in_features); ends (experts,), int32.
    Returns (rows, out_features). One grouped kernel where torch has it for this device and format, else a loop that
    writes into one output. Kept for backward: x where the weight is trained, weight, ends.
    """
    return grouped.product(x, weight, ends)


@grouped_linear.register_fake
def _(x, weight, ends):
    return x.new_empty((x.shape[0], weight.shape[1]))


grouped_linear.register_autograd(backward.of_grouped_linear, setup_context=backward.keep_for_grouped_linear)
