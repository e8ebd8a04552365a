"""torch's memory-efficient attention, with the tensors of a GPU's kernel on every device: for values of another width.

Only transformers' code is led here, by `kernels`; our own decoder pads such values.
"""

from typing import Any

import torch
from torch import Tensor

from dsmem.model.backward import only_first
from dsmem.model.flash import unpadded

ROWS = 32
"""The kernel writes its log-sum-exp in rows of a multiple of so many (PyTorchMemEffAttention, kAlignLSE)."""


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Softmax attention without scores in memory.

    query (batch, heads, seq_len, head_dim), key (batch, heads, key_len, head_dim), value (batch, heads, key_len, any
    width). mask: added to the scores, without a gradient. scale: of the scores, by default one over the root of
    head_dim. Returns (batch, seq_len, heads, width of a value).
    Kept for backward, where one is to come: query, key, value, the mask, the output and the log-sum-exp.
    """
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return efficient_attention(query, key, value, mask, causal, scale, learns)[0]


@torch.library.custom_op("dsmem::efficient_attention", mutates_args=())
def efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float, learns: bool
) -> tuple[Tensor, Tensor]:
    """The output, and where it `learns` the log-sum-exp (batch, heads, seq_len in 32s) in float32, else nothing."""
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale)
    rows = query.new_empty((*query.shape[:2], 0), dtype=torch.float32)
    if learns:
        rows = _scores(query, key, mask, causal, scale).logsumexp(dim=-1)
        rows = unpadded(torch.nn.functional.pad(rows, (0, -rows.shape[-1] % ROWS), value=torch.inf))
    return unpadded(out.transpose(1, 2)), rows


@efficient_attention.register_fake
def _(query, key, value, mask, causal, scale, learns):
    batch, heads, seq_len, _ = query.shape
    rows = -(-seq_len // ROWS) * ROWS if learns else 0
    out = query.new_empty((batch, seq_len, heads, value.shape[-1]))
    return out, query.new_empty((batch, heads, rows), dtype=torch.float32)


@torch.library.custom_op("dsmem::efficient_attention_backward", mutates_args=())
def efficient_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, each (batch, seq_len, heads, width), as the kernel lays them.

    Left out, on a GPU: one float32 a row (batch, heads, seq_len), and float32 sums of the gradients in workspace.
    """
    seq_len, grad, v = query.shape[2], grad.transpose(1, 2).float(), value.float()
    shares = (_scores(query, key, mask, causal, scale) - logsumexp[..., :seq_len, None]).exp()
    delta = (grad * out.transpose(1, 2)).sum(-1, keepdim=True)
    of_scores = shares * (grad @ v.transpose(2, 3) - delta) * scale
    grads = of_scores @ key.float(), of_scores.transpose(2, 3) @ query.float(), shares.transpose(2, 3) @ grad
    return tuple(
        each.transpose(1, 2).to(query.dtype, memory_format=torch.contiguous_format, copy=True) for each in grads
    )


@efficient_attention_backward.register_fake
def _(grad, query, key, value, mask, out, logsumexp, causal, scale):
    return tuple(each.new_empty(each.transpose(1, 2).shape) for each in (query, key, value))


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    query, key, value, mask, ctx.causal, ctx.scale, _ = inputs
    ctx.save_for_backward(query, key, value, mask, *output)
    only_first(ctx, output)


def _gradients(ctx: Any, grad: Tensor, _: Any) -> tuple:
    grads = efficient_attention_backward(grad, *ctx.saved_tensors, ctx.causal, ctx.scale)
    return *(each.transpose(1, 2) for each in grads), None, None, None, None


efficient_attention.register_autograd(_gradients, setup_context=_keep)


def _scores(query, key, mask, causal, scale):
    """(batch, heads, seq_len, key_len) in float32; causal as torch's own: the tokens are the first of the keys."""
    scores = query.float() @ key.float().transpose(2, 3) * scale
    scores = scores if mask is None else scores + mask
    if not causal:
        return scores
    return scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -torch.inf)
