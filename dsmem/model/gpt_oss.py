"""What is gpt-oss's own: sinks beside the scores of attention, and experts with biases and a clamped SwiGLU.

As its code in transformers (models/gpt_oss) and its model card (arXiv 2508.10925, section 2) have them. Where no
gradient is to come back all of it is in place.
"""

from typing import Any

import torch
from torch import Tensor

from dsmem.model import operators
from dsmem.model.backward import attention_backward
from dsmem.model.grouped import turns


def attention(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, causal: bool, window: int | None) -> Tensor:
    """`operators.attention` as if each head's softmax had one more score, its sink, whose value is 0.

    sinks: (heads,). Returns the output (shape of query). Exact without the scores: of all of the softmax's share they
    keep exp(logsumexp) of exp(logsumexp) + exp(sink).
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value, sinks)):
        return _Attention.apply(query, key, value, sinks, causal, window)
    out, logsumexp = operators.attention(query, key, value, causal=causal, window=window)
    return _scaled(out, logsumexp.sub_(sinks[:, None]).sigmoid_())


def _scaled(out, share):
    """`out` (batch, seq_len, heads, head_dim) times `share` (batch, heads, seq_len), in place."""
    return out.mul_(share.transpose(1, 2)[..., None])


class _Attention(torch.autograd.Function):
    """The same with a gradient. Keeps query, key, value, the output, the log-sum-exp with the sinks in it, the sinks.

    The kernel's own gradient is right for those two: it works out each weight, and what they have in common, from them.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, *rule: Any) -> Tensor:
        out, logsumexp = operators.attention(query, key, value, rule[0], None, rule[1])
        whole = torch.logaddexp(logsumexp, sinks.float()[:, None])
        out, ctx.rule = _scaled(out, logsumexp.sub_(whole).exp_()), rule
        ctx.save_for_backward(query, key, value, out, whole, sinks)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        *kept, sinks = ctx.saved_tensors
        out, whole = kept[3:]
        of_sinks = None
        if ctx.needs_input_grad[3]:
            common = (grad * out).sum(-1, dtype=torch.float32).transpose(1, 2)
            of_sinks = (sinks.float()[:, None] - whole).exp_().mul_(common).sum((0, 2)).neg_().to(sinks.dtype)
        causal, window = ctx.rule
        return *attention_backward(grad, *kept, causal, None, window), of_sinks, None, None


def clamped_swiglu(gate_up: Tensor, limit: float, alpha: float) -> Tensor:
    """`(up + 1) * gate * sigmoid(alpha * gate)`, gate at most `limit`, up between that and its negative.

    gate_up: (rows, 2 * width), gate and up in turn. Returns (rows, width), one new tensor where no gradient is to come
    back: then gate and up are clamped in place.
    """
    gate, up = gate_up[:, ::2], gate_up[:, 1::2]
    if gate_up.requires_grad:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return (gate * alpha).sigmoid() * gate * (up + 1)
    gate.clamp_(max=limit)
    return (gate * alpha).sigmoid_().mul_(gate).mul_(up.clamp_(-limit, limit).add_(1))


class AddByExpert(torch.autograd.Function):
    """`rows` with the bias of each row's expert added, in place. Keeps `ends`; arguments as in `add_by_expert`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bias: Tensor, ends: Tensor) -> Tensor:
        ctx.mark_dirty(rows)
        ctx.save_for_backward(ends)
        add_by_expert(rows, bias, ends)
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (ends,) = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return grad, None, None
        expert = torch.searchsorted(ends.long(), torch.arange(len(grad), device=grad.device), right=True)
        return grad, grad.new_zeros(len(ends), grad.shape[1]).index_add_(0, expert, grad), None


@torch.library.custom_op("dsmem::add_by_expert", mutates_args=("rows",))
def add_by_expert(rows: Tensor, bias: Tensor, ends: Tensor) -> None:
    """Add to each of `rows`, in place, the bias of its expert.

    rows: (rows, out_features), sorted by expert. bias: (experts, out_features). ends: as in `operators.grouped_linear`.
    """
    for start, end, expert in turns(ends):
        rows[start:end].add_(bias[expert])


@add_by_expert.register_fake
def _(rows, bias, ends):
    return None
