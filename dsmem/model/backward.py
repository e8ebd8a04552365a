"""The gradients of `operators`: for each what forward keeps, and one operator that allocates gradients alone.

`keep_for_...` says which tensors autograd holds until backward: those that a GPU's fused kernel would. `of_...` turns
them into gradients by an operator of ours, so that fake, CPU and CUDA tensors are born alike: each gradient contiguous,
in the shape and format of what it belongs to, and none for what needs none. What a GPU's kernel allocates and frees on
the way is named with each operator; it belongs to the gap between ledger and device.
"""

from typing import Any

import torch
from torch import Tensor

from dsmem.model import flash, grouped


def only_first(ctx: Any, output: tuple) -> None:
    """Of the results only the first has a gradient; for the others autograd makes no zeros either."""
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _placed(grads, needs):
    """`grads`, in order, where one is needed; None elsewhere."""
    remaining = iter(grads)
    return tuple(next(remaining) if needed else None for needed in needs)


def _asked(grads, needs):
    """Those of `grads` that are needed, each in a storage of its own."""
    return [flash.unpadded(grad) for grad, needed in zip(grads, needs, strict=True) if needed]


@torch.library.custom_op("dsmem::rms_norm_backward", mutates_args=())
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, needs: list[bool]) -> list[Tensor]:
    """Gradients of `x` and `weight`, those that `needs` asks for. inverse: as `operators.rms_norm` returns it.

    Left out: where rows are many and short, a GPU's kernel adds up the weight's gradient in float32 scratch first.
    """
    if x.is_cuda:
        return _asked(torch.ops.aten._fused_rms_norm_backward(grad, x, [x.shape[-1]], inverse, weight, needs), needs)
    wide, scaled = x.float() * inverse, grad.float() * weight.float()
    dx = inverse * (scaled - wide * (scaled * wide).mean(-1, keepdim=True))
    dweight = (grad.float() * wide).flatten(0, -2).sum(0)
    return _asked((dx.to(x.dtype), dweight.to(weight.dtype)), needs)


@rms_norm_backward.register_fake
def _(grad, x, weight, inverse, needs):
    return [tensor.new_empty(tensor.shape) for tensor, needed in zip((x, weight), needs, strict=True) if needed]


def keep_for_rms_norm(ctx: Any, inputs: tuple, output: tuple) -> None:
    """x, weight, and the inverse root mean square."""
    ctx.save_for_backward(*inputs[:2], output[1])
    only_first(ctx, output)


def of_rms_norm(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    needs = list(ctx.needs_input_grad[:2])
    return *_placed(rms_norm_backward(grad, *ctx.saved_tensors, needs), needs), None


@torch.library.custom_op("dsmem::layer_norm_backward", mutates_args=())
def layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, needs: list[bool]
) -> list[Tensor]:
    """Gradients of `x`, `weight` and the bias, those that `needs` asks for.

    mean, inverse: as `operators.layer_norm` returns them. Left out: as with `rms_norm_backward`.
    """
    if x.is_cuda:  # of the bias the kernel reads the shape alone, which is that of the weight
        kept = ([x.shape[-1]], mean, inverse, weight, weight)
        return _asked(torch.ops.aten.native_layer_norm_backward(grad, x, *kept, needs), needs)
    wide, scaled = (x.float() - mean) * inverse, grad.float() * weight.float()
    centered = scaled - scaled.mean(-1, keepdim=True)
    dx = inverse * (centered - wide * (scaled * wide).mean(-1, keepdim=True))
    dweight, dbias = ((grad.float() * factor).flatten(0, -2).sum(0).to(weight.dtype) for factor in (wide, 1.0))
    return _asked((dx.to(x.dtype), dweight, dbias), needs)


@layer_norm_backward.register_fake
def _(grad, x, weight, mean, inverse, needs):
    return [tensor.new_empty(tensor.shape) for tensor, needed in zip((x, weight, weight), needs, strict=True) if needed]


def keep_for_layer_norm(ctx: Any, inputs: tuple, output: tuple) -> None:
    """x, weight, mean and inverse standard deviation; not the bias."""
    ctx.save_for_backward(*inputs[:2], *output[1:])
    only_first(ctx, output)


def of_layer_norm(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    needs = list(ctx.needs_input_grad[:3])
    return *_placed(layer_norm_backward(grad, *ctx.saved_tensors, needs), needs), None


@torch.library.custom_op("dsmem::attention_backward", mutates_args=())
def attention_backward(
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
    """Gradients of query, key and value, all three whatever is needed: one kernel makes them. The bias has none.

    Arguments and results of `operators.attention`, and the gradient of its output. Left out, on a GPU: the flash kernel
    adds up the query's gradient in float32 (batch, seq_len in 128s, heads, head_dim in 32s), holds one float32 a row
    (batch, heads, seq_len in 128s), and with fewer key heads makes both gradients of all heads first, (batch, key_len,
    heads, head_dim) each; the memory-efficient kernel has float32 sums of the same kinds, and a copy of the log-sum-exp
    where seq_len is not a multiple of 32. Where head_dim is not a multiple of 8, copies that are.
    """
    return flash.backward(grad, query, key, value, out, logsumexp, causal, bias, window)


@attention_backward.register_fake
def _(grad, query, key, value, out, logsumexp, causal, bias, window):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))


def keep_for_attention(ctx: Any, inputs: tuple, output: tuple) -> None:
    """query, key, value, the output, its log-sum-exp, and the bias where there is one."""
    query, key, value, ctx.causal, bias, ctx.window = inputs
    ctx.save_for_backward(query, key, value, *output, bias)
    only_first(ctx, output)


def of_attention(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    *kept, bias = ctx.saved_tensors
    return *attention_backward(grad, *kept, ctx.causal, bias, ctx.window), None, None, None


@torch.library.custom_op("dsmem::route_backward", mutates_args=())
def route_backward(
    grad: Tensor, logits: Tensor, slot: Tensor, ends: Tensor, scoring_func: str, norm_topk_prob: bool, scale: float
) -> Tensor:
    """Gradient of `logits` from that of the weights; the scores and who was chosen are worked out again.

    Left out: what that takes on the way, some copies of the logits.
    """
    scores = logits.sigmoid() if scoring_func == "sigmoid" else logits.softmax(dim=-1)
    chosen = torch.searchsorted(ends.long(), slot, right=True)
    grad = grad * scale
    if norm_topk_prob:
        total = scores.gather(1, chosen).sum(dim=-1, keepdim=True) + 1e-20
        shares = scores.gather(1, chosen) / total
        grad = (grad - (grad * shares).sum(dim=-1, keepdim=True)) / total
    of_scores = torch.zeros_like(scores).scatter_(1, chosen, grad)
    if scoring_func == "sigmoid":
        return of_scores * scores * (1 - scores)
    return scores * (of_scores - (of_scores * scores).sum(dim=-1, keepdim=True))


@route_backward.register_fake
def _(grad, logits, slot, ends, scoring_func, norm_topk_prob, scale):
    return logits.new_empty(logits.shape)


def keep_for_route(ctx: Any, inputs: tuple, output: tuple) -> None:
    """logits, and the slots and ends, which say who was chosen."""
    logits, *_, scoring_func, norm_topk_prob, scale = inputs
    ctx.rules = scoring_func, norm_topk_prob, scale
    ctx.save_for_backward(logits, *output[2:])
    only_first(ctx, output)


def of_route(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    return route_backward(grad, *ctx.saved_tensors, *ctx.rules), *[None] * 7


@torch.library.custom_op("dsmem::grouped_linear_backward", mutates_args=())
def grouped_linear_backward(
    grad: Tensor, x: Tensor | None, weight: Tensor, ends: Tensor, needs: list[bool]
) -> list[Tensor]:
    """Gradients of `x` and `weight`, those that `needs` asks for; `x` is read for that of the weight alone."""
    dx = [grouped.gradient_of_x(grad, weight, ends)] if needs[0] else []
    return dx + ([grouped.gradient_of_weight(grad, x, weight, ends)] if needs[1] else [])


@grouped_linear_backward.register_fake
def _(grad, x, weight, ends, needs):
    dx = [grad.new_empty(len(grad), weight.shape[2])] if needs[0] else []
    return dx + ([weight.new_empty(weight.shape)] if needs[1] else [])


def keep_for_grouped_linear(ctx: Any, inputs: tuple, output: Tensor) -> None:
    """x where the weight is trained, weight, ends."""
    x, weight, ends = inputs
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, ends)


def of_grouped_linear(ctx: Any, grad: Tensor) -> tuple:
    needs = list(ctx.needs_input_grad[:2])
    return *_placed(grouped_linear_backward(grad, *ctx.saved_tensors, needs), needs), None


def no_gradient(ctx: Any, inputs: tuple, output: list) -> None:
    """Nothing is kept, and no result has a gradient."""
    ctx.mark_non_differentiable(*output)
    ctx.set_materialize_grads(False)
