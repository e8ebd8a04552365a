"""Softmax with the backward that a GPU runs: it makes the product of gradient and output, which a CPU's does not."""

from typing import Any

import torch
from torch import Tensor

from dsmem.model.softmax import from_fp16


class GpuSoftmax(torch.autograd.Function):
    """Softmax over `dim`, in `dtype` where that is not None: the tensors that torch's CUDA kernels make.

    Backward: the gradient times the output, both in the output's format, then the result in the input's
    (aten/src/ATen/native/cuda/SoftMax.cu, `softmax_backward_cuda_out`). Held to a T4's peaks in `tests/runs`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
        """x: any shape."""
        fused = x.dtype == torch.float16 and dtype == torch.float32 and dim in (-1, x.dim() - 1)
        out = from_fp16(x) if fused else torch.softmax(x, dim, dtype)
        ctx.save_for_backward(out)
        ctx.dim, ctx.dtype = dim, x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """grad: as the output."""
        (out,) = ctx.saved_tensors
        return softmax_backward(grad * out, out, ctx.dim, ctx.dtype), None, None


@torch.library.custom_op("dsmem::softmax_backward", mutates_args=())
def softmax_backward(product: Tensor, out: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """The gradient of a softmax's input, in `dtype`, from that of its output times the output."""
    return (product - out * product.sum(dim, keepdim=True)).to(dtype)


@softmax_backward.register_fake
def _(product, out, dim, dtype):
    return torch.empty_like(out, dtype=dtype)
