"""Fused attention whose scores are capped (arXiv 2408.00118, section 2), as FlashAttention has it.

No kernel of torch has it: on a GPU such a model runs with attention="eager". On a CPU, and on fake tensors, the
operator here stands for such a kernel, scores hidden inside it.
"""

import torch
from torch import Tensor


@torch.library.custom_op("dsmem::capped_attention", mutates_args=())
def attention(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, window: int | None, softcap: float
) -> tuple[Tensor, Tensor]:
    """`operators.attention`, its scores squeezed between `softcap` and its negative before the softmax.

    Raises ValueError on a GPU.
    """
    _refuse_on_gpu(query, softcap)
    groups, new, seen = query.shape[2] // key.shape[2], query.shape[1], key.shape[1]
    q = query.transpose(1, 2).float()
    k, v = (tensor.transpose(1, 2).float().repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 / softcap).tanh() * softcap
    if causal:
        age = torch.arange(seen - new, seen)[:, None] - torch.arange(seen)
        scores = scores.masked_fill((age < 0) | (age >= (window or seen)), -torch.inf)
    out = (scores.softmax(dim=-1) @ v).transpose(1, 2).to(query.dtype)
    return out.clone(memory_format=torch.contiguous_format), scores.logsumexp(dim=-1)


@attention.register_fake
def _(query, key, value, causal, window, softcap):
    batch, seq_len, heads, _ = query.shape
    return torch.empty_like(query), query.new_empty((batch, heads, seq_len), dtype=torch.float32)


def _refuse_on_gpu(query, softcap):
    if query.is_cuda:
        raise ValueError(f"softcap={softcap} is not in torch's fused kernels; use attention='eager'")
