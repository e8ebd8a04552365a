"""The kernels behind `operators.attention` and its gradient: which one a device has, and how each is called.

Queries, keys and values are (batch, len, heads, head_dim) on the way in and out.
"""

from typing import Any

import torch
from torch import Tensor

from dsmem.config.devices import MIN_FLASH_CAPABILITY

LOWER_RIGHT = 2  # torch.nn.attention.bias.CausalVariant, whose import takes a second


def attention_backend(device: Any = "cpu", dtype: torch.dtype = torch.float16) -> str:
    """The kernel of `operators.attention` on this device and dtype: "flash (CPU)", "flash" or "memory-efficient".

    device: as torch takes it; fake tensors count as those of the CPU.

    >>> attention_backend("cpu")
    'flash (CPU)'
    """
    if not str(device).startswith("cuda"):
        return "flash (CPU)"
    modern = torch.cuda.get_device_capability(device) >= MIN_FLASH_CAPABILITY
    return "flash" if modern and dtype != torch.float32 else "memory-efficient"


def forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, bias: Tensor | None, window: int | None) -> tuple:
    """Output and log-sum-exp, by this device's kernel; arguments and results as in `operators.attention`."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    kernel = _KERNELS[_backend(query, bias)]
    out, logsumexp = kernel(q, k, v, causal, bias, narrowing(causal, window, key))
    return unpadded(out.transpose(1, 2)), unpadded(logsumexp)


def narrowing(causal: bool, window: int | None, key: Tensor) -> int | None:
    """`window` where it hides keys at all, else None: one as wide as the keys hides nothing."""
    return window if causal and window is not None and window < key.shape[1] else None


def _backend(query, bias):
    return "memory-efficient" if bias is not None and query.is_cuda else attention_backend(query.device, query.dtype)


def _flash_on_cpu(q, k, v, causal, bias=None, window=None):
    mask = _cpu_mask(q, k, causal, bias, window)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal and mask is None, attn_mask=mask
    )


def _cpu_mask(q, k, causal, bias, window):
    """What is added to the scores; None where the kernel needs nothing but to know that it is causal."""
    new, seen = q.shape[2], k.shape[2]
    if causal and (window or new != seen):  # this kernel takes the tokens for the first of the keys
        bias = torch.full((new, seen), -torch.inf, dtype=q.dtype).triu_(seen - new + 1)
    if window:
        bias += torch.full_like(bias, -torch.inf).tril_(seen - new - window)
    return bias


def _flash(q, k, v, causal, bias=None, window=None):
    # on a GPU causal tokens are the last of the keys (torch/nn/attention/bias.py)
    padded, scale = _in_eights(q, k, v), q.shape[-1] ** -0.5
    if window:
        tokens = [tensor.transpose(1, 2) for tensor in padded]
        lengths, sides = (q.shape[2], k.shape[2]), {"window_size_left": window - 1, "window_size_right": 0}
        out, logsumexp, *_ = torch.ops.aten._flash_attention_forward(
            *tokens, None, None, *lengths, 0.0, True, False, scale=scale, **sides
        )
        return out.transpose(1, 2)[..., : q.shape[-1]], logsumexp
    out, logsumexp, *_ = torch.ops.aten._scaled_dot_product_flash_attention(*padded, 0.0, causal, scale=scale)
    return out[..., : q.shape[-1]], logsumexp


def _in_eights(*tensors):
    """The kernel reads heads in multiples of 8; zeros in the padding change no score."""
    pad = -tensors[0].shape[-1] % 8
    return [torch.nn.functional.pad(tensor, (0, pad)) if pad else tensor for tensor in tensors]


def _memory_efficient(q, k, v, causal, bias=None, window=None):
    if k.shape[1] != q.shape[1]:
        raise ValueError(
            f"key has {k.shape[1]} heads and query {q.shape[1]}; this GPU's kernel wants as many: "
            "use attention='expanded'"
        )
    if window or (causal and q.shape[2] != k.shape[2]):
        out, logsumexp = _efficient_of_the_last(q, k, v, window)
    else:
        bias = bias if bias is None else bias.expand(-1, q.shape[1], -1, -1)
        out, logsumexp, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, 0.0, causal)
    return out, logsumexp[..., : q.shape[2]]


def _efficient_of_the_last(q, k, v, window):
    """The same kernel, told that the tokens are the last of the keys, as torch's `bias.py` tells it."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    out, logsumexp, *_ = torch.ops.aten._efficient_attention_forward(
        *(q, k, v, None, None, None, None, None, 0.0),
        custom_mask_type=LOWER_RIGHT,
        compute_log_sumexp=True,
        **({"window_size": window} if window else {}),
    )
    return out.transpose(1, 2), logsumexp


_KERNELS = {"flash (CPU)": _flash_on_cpu, "flash": _flash, "memory-efficient": _memory_efficient}


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    causal: bool,
    bias: Tensor | None,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, by the kernel that `forward` ran. As in `backward.attention_backward`."""
    kernel = _GRADIENTS[_backend(query, bias)]
    window = narrowing(causal, window, key)
    grads = kernel(grad.contiguous(), query, key, value, out, logsumexp, causal, bias, window)
    return tuple(unpadded(tensor) for tensor in grads)


def _flash_on_cpu_backward(grad, query, key, value, out, logsumexp, causal, bias, window):
    groups = query.shape[2] // key.shape[2]  # its gradient wants as many key heads as query heads
    wide = [tensor.repeat_interleave(groups, dim=2) if groups > 1 else tensor for tensor in (key, value)]
    grad, q, k, v, out = (tensor.transpose(1, 2) for tensor in (grad, query, *wide, out))
    mask = _cpu_mask(q, k, causal, bias, window)
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, logsumexp, 0.0, causal and mask is None, attn_mask=mask
    )
    dq, dk, dv = (tensor.transpose(1, 2) for tensor in grads)
    if groups > 1:
        dk, dv = (tensor.unflatten(2, (-1, groups)).sum(3) for tensor in (dk, dv))
    return dq, dk, dv


def _flash_backward(grad, query, key, value, out, logsumexp, causal, bias, window):
    grad, q, k, v, out = _in_eights(grad, query, key, value, out)
    sides = {"window_size_left": window - 1, "window_size_right": 0} if window else {}
    seed = torch.empty(2, dtype=torch.uint64, device=query.device)  # never read: nothing is dropped
    grads = torch.ops.aten._flash_attention_backward(
        *(grad, q, k, v, out, logsumexp, None, None, query.shape[1], key.shape[1], 0.0, causal, seed, seed),
        scale=query.shape[-1] ** -0.5,
        **sides,
    )
    return (tensor[..., : query.shape[-1]] for tensor in grads)


def _memory_efficient_backward(grad, query, key, value, out, logsumexp, causal, bias, window):
    # this kernel reads the log-sum-exp in steps of 32 rows, infinite beyond the last
    logsumexp = torch.nn.functional.pad(logsumexp, (0, -logsumexp.shape[-1] % 32), value=torch.inf)
    bias = bias if bias is None else bias.expand(-1, query.shape[2], -1, -1)
    seed = torch.empty((), dtype=torch.int64, device=query.device)  # never read: nothing is dropped
    grads = torch.ops.aten._efficient_attention_backward(
        *(grad, query, key, value, bias, out, None, None, query.shape[1], key.shape[1], logsumexp, 0.0, seed, seed),
        *(LOWER_RIGHT if causal else 0, False),
        **({"window_size": window} if window else {}),
    )
    return grads[:3]


_GRADIENTS = {
    "flash (CPU)": _flash_on_cpu_backward,
    "flash": _flash_backward,
    "memory-efficient": _memory_efficient_backward,
}


def unpadded(tensor: Tensor) -> Tensor:
    """`tensor` itself where it fills its storage in order, else a copy that does.

    `contiguous()` alone may keep the padding: a slice along an axis beside axes of length 1 counts as contiguous.
    """
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
