"""Softmax as a GPU allocates it: FP16 scores are not copied to float32 first, and backward makes a product beside."""

from typing import Any

import torch
from torch import Tensor


class GpuSoftmax(torch.autograd.Function):
    """Softmax over `dim`, with the output in `dtype`: the tensors that torch's CUDA kernels make.

    Forward: from FP16 to FP32 in one kernel; other formats are cast before. Backward: the gradient times the output,
    then the result in the input's format (aten/src/ATen/native/cuda/SoftMax.cu, `softmax_backward_cuda_out`); a CPU
    makes no product, and casts the result.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
        """x: any shape."""
        fused = x.dtype == torch.float16 and dtype == torch.float32
        if not fused and dtype is not None:
            x = x.to(dtype)
        out = wide_softmax(x, dim) if fused else torch.softmax(x, dim)
        ctx.save_for_backward(out)
        ctx.dim, ctx.dtype = dim, x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """grad: as the output."""
        (out,) = ctx.saved_tensors
        return softmax_backward(grad * out, out, ctx.dim, ctx.dtype), None, None


@torch.library.custom_op("dsmem::wide_softmax", mutates_args=())
def wide_softmax(x: Tensor, dim: int) -> Tensor:
    """Softmax of FP16 numbers in FP32: nothing but the output is made."""
    return torch.softmax(x, dim, dtype=torch.float32)


@wide_softmax.register_fake
def _(x, dim):
    return torch.empty_like(x, dtype=torch.float32)


@torch.library.custom_op("dsmem::softmax_backward", mutates_args=())
def softmax_backward(product: Tensor, out: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """The gradient of a softmax's input, in `dtype`, from that of its output times the output."""
    return (product - out * product.sum(dim, keepdim=True)).to(dtype)


@softmax_backward.register_fake
def _(product, out, dim, dtype):
    return torch.empty_like(out, dtype=dtype)
