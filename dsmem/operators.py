"""The two operators that torch's own would allocate differently on a CPU and on a GPU.

Each returns everything it allocates, the small leftovers of its fused kernel included, so a ledger sees the same
tensors on fake, CPU and CUDA devices. What a CPU kernel uses in secret at work is not GPU memory and not counted.
"""

import torch
from torch import Tensor

MIN_FLASH_CAPABILITY = (8, 0)


@torch.library.custom_op("dsmem::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x` over its root mean square along the last axis, times `weight` (arXiv 1910.07467).

    Returns the output (shape and dtype of x) and the inverse root mean square (float32, last axis 1).
    """
    if x.is_cuda:
        return torch.ops.aten._fused_rms_norm(x, [x.shape[-1]], weight, eps)
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * inverse * weight).to(x.dtype), inverse


@rms_norm.register_fake
def _(x, weight, eps):
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("dsmem::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Softmax attention without the s x t scores in memory (FlashAttention, arXiv 2205.14135).

    query (batch, seq_len, heads, head_dim); key, value (batch, key_len, kv_heads, head_dim); kv_heads divides heads.
    causal: token i attends to keys 0..i, for seq_len == key_len; otherwise to all keys.
    Returns the output (shape of query) and the log-sum-exp of each row (batch, heads, seq_len) in float32.
    """
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    kernel = _KERNELS[attention_backend(query.device, query.dtype)]
    out, logsumexp = kernel(q, k, v, causal)
    return out.transpose(1, 2).contiguous(), logsumexp.contiguous()


@attention.register_fake
def _(query, key, value, causal):
    batch, seq_len, heads, _ = query.shape
    return torch.empty_like(query), query.new_empty((batch, heads, seq_len), dtype=torch.float32)


def attention_backend(device="cpu", dtype=torch.float16):
    """The kernel that `attention` runs on this device and dtype: "flash (CPU)", "flash" or "memory-efficient"."""
    if not str(device).startswith("cuda"):
        return "flash (CPU)"
    modern = torch.cuda.get_device_capability(device) >= MIN_FLASH_CAPABILITY
    return "flash" if modern and dtype != torch.float32 else "memory-efficient"


def _flash_on_cpu(q, k, v, causal):
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)


def _flash(q, k, v, causal):
    # the kernel reads heads in multiples of 8; zeros in the padding change no score
    pad = -q.shape[-1] % 8
    padded = [torch.nn.functional.pad(tensor, (0, pad)) if pad else tensor for tensor in (q, k, v)]
    out, logsumexp, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        *padded, 0.0, causal, scale=q.shape[-1] ** -0.5
    )
    return out[..., : q.shape[-1]], logsumexp


def _memory_efficient(q, k, v, causal):
    if k.shape[1] != q.shape[1]:
        raise ValueError(
            f"key has {k.shape[1]} heads and query {q.shape[1]}; this GPU's kernel wants as many: "
            "use attention='expanded'"
        )
    out, logsumexp, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal)
    return out, logsumexp[..., : q.shape[2]]


_KERNELS = {"flash (CPU)": _flash_on_cpu, "flash": _flash, "memory-efficient": _memory_efficient}
