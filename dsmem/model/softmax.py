"""The softmax of scores in memory: in the format that they are in, or in float32 as transformers' eager attention has.

On a GPU torch reads FP16 numbers and writes float32 ones in one kernel; BF16 numbers it copies into float32 first, and
on a CPU both (aten/src/ATen/native/SoftMax.cpp). The operator here allocates as a GPU does on every device. The numbers
are the same either way, for inside its kernels torch adds up in float32 what is in 16 bit.
"""

from typing import Any

import torch
from torch import Tensor


def softmax(scores: Tensor, attention: str) -> Tensor:
    """`scores` (..., key_len) turned into weights that sum to 1, in their own dtype.

    attention: as in `Step`. With "eager_fp32", 16-bit scores have weights in float32 beside them, which are rounded to
    a tensor of their own; BF16 ones a float32 copy of themselves before that. FP32 scores make their weights alone.
    Under torch.autocast it is always so, as on a GPU; on a CPU torch itself would stay in 16 bit.
    """
    wide = attention == "eager_fp32" or torch.is_autocast_enabled(scores.device.type)
    return (in_float32(scores) if wide else scores.softmax(dim=-1)).to(scores.dtype)


def in_float32(scores: Tensor) -> Tensor:
    """The softmax of `scores` along the last axis in float32, whatever they are in."""
    return from_fp16(scores) if scores.dtype == torch.float16 else scores.softmax(dim=-1, dtype=torch.float32)


@torch.library.custom_op("dsmem::softmax_from_fp16", mutates_args=())
def from_fp16(scores: Tensor) -> Tensor:
    """The softmax of FP16 numbers along the last axis, float32: the result is all that a GPU allocates."""
    return scores.softmax(dim=-1, dtype=torch.float32)


@from_fp16.register_fake
def _(scores):
    return scores.new_empty(scores.shape, dtype=torch.float32)


@torch.library.custom_op("dsmem::softmax_from_fp16_backward", mutates_args=())
def from_fp16_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient of FP16 scores, FP16, from that of their weights; both float32. A GPU's kernel rounds it itself."""
    dtype = torch.float16 if grad.is_cuda else torch.float32
    return torch.ops.aten._softmax_backward_data(grad, weights, -1, dtype).to(torch.float16)


@from_fp16_backward.register_fake
def _(grad, weights):
    return weights.new_empty(weights.shape, dtype=torch.float16)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(output)


def _gradient(ctx: Any, grad: Tensor) -> Tensor:
    return from_fp16_backward(grad, *ctx.saved_tensors)


from_fp16.register_autograd(_gradient, setup_context=_keep)
