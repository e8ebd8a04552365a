"""What is gpt-oss's own: sinks beside the scores of attention, and experts with biases and a clamped SwiGLU.

As its code in transformers (models/gpt_oss) and its model card (arXiv 2508.10925, section 2) have them.
"""

import torch
from torch import Tensor

from dsmem.model.operators import turns


def with_sinks(out: Tensor, logsumexp: Tensor, sinks: Tensor) -> Tensor:
    """`out` as if each head's softmax had one more score, its sink, whose value is 0; both are changed in place.

    out: what attention gives, (batch, seq_len, heads, head_dim). logsumexp: of its scores, (batch, heads, seq_len),
    float32. sinks: (heads,). Exact: the other scores keep exp(logsumexp) of exp(logsumexp) + exp(sink).
    """
    share = logsumexp.sub_(sinks[:, None]).sigmoid_()
    return out.mul_(share.transpose(1, 2)[..., None])


def clamped_swiglu(gate_up: Tensor, limit: float, alpha: float) -> Tensor:
    """`(up + 1) * gate * sigmoid(alpha * gate)`, gate at most `limit`, up between that and its negative.

    gate_up: (rows, 2 * width), gate and up in turn; they are clamped in place. Returns one new tensor (rows, width).
    """
    gate, up = gate_up[:, ::2].clamp_(max=limit), gate_up[:, 1::2].clamp_(-limit, limit)
    return (gate * alpha).sigmoid_().mul_(gate).mul_(up.add_(1))


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
