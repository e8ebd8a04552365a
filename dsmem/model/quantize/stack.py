"""The routed experts of a layer in fewer bits: one stack for all, and a copy of one expert's weight at a time."""

import types

import torch
from torch import Tensor, nn

from dsmem.model.backward import only_first
from dsmem.model.grouped import turns
from dsmem.model.quantize.base import stored
from dsmem.model.quantize.int4 import GROUP
from dsmem.model.quantize.table import LAYERS


class QuantizedStack(nn.Module):
    """What a scheme's linear layer stores, stacked over the experts: (experts, out_features, in_features) as a whole.

    scheme: a name in `LAYERS`. dtype, device: as in `QuantizedLinear`. The whole stack is never copied: in DeepSeek-R1
    that would take 22.5 GB per layer, while one expert's matrix takes 59 MB.
    """

    def __init__(
        self,
        scheme: str,
        experts: int,
        out_features: int,
        in_features: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        super().__init__()
        self.scheme, self.experts, self.out_features, self.in_features = scheme, experts, out_features, in_features
        one = LAYERS[scheme](in_features, out_features, bias=False, dtype=dtype, device=device)
        for name, parameter in one.named_parameters():
            like = {"dtype": parameter.dtype, "device": device}
            self.register_parameter(name, stored(torch.zeros((experts, *parameter.shape), **like)))

    def set_weight(self, expert: int, weight: Tensor) -> None:
        """Round `weight` (out_features, in_features), of any float format, and store it as that of one expert."""
        payload = {name: parameter[expert] for name, parameter in self.named_parameters()}
        one = _layer(payload, self.out_features, self.in_features)
        LAYERS[self.scheme].set_weight(one, weight)

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        """Each row of `x` (rows, in_features) times its expert's matrix: (rows, out_features).

        The rows are sorted by expert. ends: (experts,), where each expert's rows end.
        """
        names, payload = zip(*self.named_parameters(), strict=True)
        return grouped_linear_by_copy(x, list(payload), ",".join(names), self.scheme, self.out_features, ends)[0]


@torch.library.custom_op("dsmem::grouped_linear_by_copy", mutates_args=())
def grouped_linear_by_copy(
    x: Tensor, payload: list[Tensor], names: str, scheme: str, out_features: int, ends: Tensor
) -> list[Tensor]:
    """Like `operators.grouped_linear`, but each matrix is first copied to the format of `x`.

    payload: what the scheme's linear layer stores, in the order of `names`, with the experts as the first axis. Returns
    the rows (rows, out_features) and the last copy: the matrix, and for INT4 also the half of the codes it unpacked.
    Kept for backward: payload, ends; the input alone has a gradient.
    """
    out = x.new_empty(len(x), out_features)
    for start, end, expert in turns(ends):
        leftovers = None  # freed before the next expert's copy is made
        parts = {name: part[expert] for name, part in zip(names.split(","), payload, strict=True)}
        one = _layer(parts, out_features, x.shape[1])
        leftovers = [LAYERS[scheme].weight_copy(one, x.dtype)]
        torch.mm(x[start:end], leftovers[0].t(), out=out[start:end])
    return [out, *leftovers, *_unpacked(scheme, leftovers[0])]


@grouped_linear_by_copy.register_fake
def _(x, payload, names, scheme, out_features, ends):
    copy = x.new_empty(out_features, x.shape[1])
    return [x.new_empty(x.shape[0], out_features), copy, *_unpacked(scheme, copy)]


@torch.library.custom_op("dsmem::grouped_linear_by_copy_backward", mutates_args=())
def grouped_linear_by_copy_backward(
    grad: Tensor, payload: list[Tensor], names: str, scheme: str, in_features: int, ends: Tensor
) -> list[Tensor]:
    """The gradient of the input (rows, in_features), and the last copy of a matrix, as `grouped_linear_by_copy` has."""
    out = grad.new_empty(len(grad), in_features)
    for start, end, expert in turns(ends):
        leftovers = None  # freed before the next expert's copy is made
        parts = {name: part[expert] for name, part in zip(names.split(","), payload, strict=True)}
        one = _layer(parts, grad.shape[1], in_features)
        leftovers = [LAYERS[scheme].weight_copy(one, grad.dtype)]
        torch.mm(grad[start:end], leftovers[0], out=out[start:end])
    return [out, *leftovers, *_unpacked(scheme, leftovers[0])]


@grouped_linear_by_copy_backward.register_fake
def _(grad, payload, names, scheme, in_features, ends):
    copy = grad.new_empty(grad.shape[1], in_features)
    return [grad.new_empty(grad.shape[0], in_features), copy, *_unpacked(scheme, copy)]


def _keep(ctx, inputs, output):
    x, payload, names, scheme, _, ends = inputs
    ctx.save_for_backward(*payload, ends)
    ctx.rules = names, scheme, x.shape[1]
    only_first(ctx, output)


def _gradient(ctx, grads):
    *payload, ends = ctx.saved_tensors
    dx = grouped_linear_by_copy_backward(grads[0], payload, *ctx.rules, ends)[0]
    return dx, [None] * len(payload), None, None, None, None


grouped_linear_by_copy.register_autograd(_gradient, setup_context=_keep)


def _unpacked(scheme, copy):
    """For INT4, half of the codes as one byte each; they lie beside the copy while it is filled."""
    return [copy.new_empty(copy.shape[0], -(-copy.shape[1] // 2), dtype=torch.uint8)] if scheme == "int4" else []


def _layer(payload, out_features, in_features):
    """What a scheme's methods need from a linear layer: its parameters, its sizes and its group size."""
    return types.SimpleNamespace(**payload, out_features=out_features, in_features=in_features, group_size=GROUP)
