"""Fused attention whose scores are capped (arXiv 2408.00118, section 2), as FlashAttention has it.

No kernel of torch has it: on a GPU such a model runs with attention="eager". On a CPU, and on fake tensors, the
operator here stands for such a kernel, scores hidden inside it.
"""

import torch
from torch import Tensor

from dsmem.model.backward import only_first


@torch.library.custom_op("dsmem::capped_attention", mutates_args=())
def attention(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, window: int | None, softcap: float
) -> tuple[Tensor, Tensor]:
    """`operators.attention`, its scores squeezed between `softcap` and its negative before the softmax.

    Kept for backward: query, key, value and both results. Raises ValueError on a GPU.
    """
    _refuse_on_gpu(query, softcap)
    _, _, v, _, scores = _wide(query, key, value, causal, window, softcap)
    out = (scores.softmax(dim=-1) @ v).transpose(1, 2).to(query.dtype)
    return out.clone(memory_format=torch.contiguous_format), scores.logsumexp(dim=-1)


@attention.register_fake
def _(query, key, value, causal, window, softcap):
    batch, seq_len, heads, _ = query.shape
    return torch.empty_like(query), query.new_empty((batch, heads, seq_len), dtype=torch.float32)


@torch.library.custom_op("dsmem::capped_attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    causal: bool,
    window: int | None,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, all three; as `backward.attention_backward`."""
    q, k, v, squeezed, scores = _wide(query, key, value, causal, window, softcap)
    shares, grad = (scores - logsumexp[..., None]).exp(), grad.transpose(1, 2).float()
    delta = (grad * out.transpose(1, 2)).sum(-1, keepdim=True)
    of_scores = shares * (grad @ v.transpose(2, 3) - delta) * (1 - squeezed.square()) * q.shape[-1] ** -0.5
    dk, dv = (
        tensor.unflatten(1, (key.shape[2], -1)).sum(2)
        for tensor in (of_scores.transpose(2, 3) @ q, shares.transpose(2, 3) @ grad)
    )
    return tuple(
        tensor.transpose(1, 2).to(query.dtype, memory_format=torch.contiguous_format, copy=True)
        for tensor in (of_scores @ k, dk, dv)
    )


@attention_backward.register_fake
def _(grad, query, key, value, out, logsumexp, causal, window, softcap):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))


def _keep(ctx, inputs, output):
    query, key, value, *ctx.rules = inputs
    ctx.save_for_backward(query, key, value, *output)
    only_first(ctx, output)


def _gradients(ctx, grad, _):
    return *attention_backward(grad, *ctx.saved_tensors, *ctx.rules), None, None, None


attention.register_autograd(_gradients, setup_context=_keep)


def _wide(query, key, value, causal, window, softcap):
    """Queries, keys and values of all heads in float32, the scores' tanh, and the scores (batch, heads, ...)."""
    groups, new, seen = query.shape[2] // key.shape[2], query.shape[1], key.shape[1]
    q = query.transpose(1, 2).float()
    k, v = (tensor.transpose(1, 2).float().repeat_interleave(groups, dim=1) for tensor in (key, value))
    squeezed = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 / softcap).tanh()
    scores = squeezed * softcap
    if causal:
        age = torch.arange(seen - new, seen)[:, None] - torch.arange(seen)
        scores = scores.masked_fill((age < 0) | (age >= (window or seen)), -torch.inf)
    return q, k, v, squeezed, scores


def _refuse_on_gpu(query, softcap):
    if query.is_cuda:
        raise ValueError(f"softcap={softcap} is not in torch's fused kernels; use attention='eager'")
