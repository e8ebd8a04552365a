"""Rotary positions (RoPE, arXiv 2104.09864): heads turned whole or in part, and the gradient, which turns them back."""

from typing import Any

import torch


class _Rotation(torch.autograd.Function):
    """Keeps the two tables, which all layers share; its gradient allocates what it returns alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleave: bool) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleave, ctx.dtype = interleave, x.dtype
        return _turn(x, cos, sin, interleave)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        return _turn(grad, *ctx.saved_tensors, ctx.interleave, -1).to(ctx.dtype), None, None, None


class _RotationOfPart(torch.autograd.Function):
    """The same on a copy, of elements `start` to `start + rotated_dim` of each head; both ways a copy and the part."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, start: int, interleave: bool):
        ctx.save_for_backward(cos, sin)
        ctx.rules = start, interleave
        return _turn_part(x.clone(memory_format=torch.contiguous_format), cos, sin, start, interleave)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        out = grad.clone(memory_format=torch.contiguous_format)
        return _turn_part(out, *ctx.saved_tensors, *ctx.rules, -1), None, None, None, None


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleave: bool = False) -> torch.Tensor:
    """Turn each pair of `x` by its position's angle; allocates one x, and its gradient one more.

    x: (batch, seq_len, heads, head_dim). cos, sin: as in `Step`. A pair is (x[i], x[i + head_dim / 2]), or with
    `interleave` (x[2i], x[2i + 1]); `cos` lies in the same order.
    """
    return _Rotation.apply(x, cos, sin, interleave)


def rotate_part(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, start: int = 0, interleave: bool = False
) -> torch.Tensor:
    """`x` itself with a part of each head rotated, from `start` on; a copy of it where a gradient is to come back.

    Arguments as in `rotate`; `cos` says how wide the part is. Allocates the part on the way.
    """
    if x.requires_grad:
        return _RotationOfPart.apply(x, cos, sin, start, interleave)
    return _turn_part(x, cos, sin, start, interleave)


def _turn(x, cos, sin, interleave, sign=1):
    half = x.shape[-1] // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if interleave else (slice(half), slice(half, None))
    out = x * cos
    out[..., first].addcmul_(x[..., second], sin, value=-sign)
    out[..., second].addcmul_(x[..., first], sin, value=sign)
    return out


def _turn_part(x, cos, sin, start, interleave, sign=1):
    part = x[..., start : start + cos.shape[-1]]
    part.copy_(_turn(part, cos, sin, interleave, sign))
    return x
