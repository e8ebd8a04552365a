"""One matrix product per expert: torch's grouped kernel where this device has it, else a loop that writes in place."""

import torch
from torch import Tensor


def product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """As `operators.grouped_linear`."""
    if has_grouped_kernel(x, weight):
        return torch._grouped_mm(x, weight.transpose(1, 2), ends)
    out = x.new_empty(len(x), weight.shape[1])
    for start, end, expert in turns(ends):
        torch.mm(x[start:end], weight[expert].t(), out=out[start:end])
    return out


def gradient_of_x(grad: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """(rows, in_features), from `grad` (rows, out_features)."""
    if has_grouped_kernel(grad, weight):
        return torch._grouped_mm(grad, weight, ends)
    out = grad.new_empty(len(grad), weight.shape[2])
    for start, end, expert in turns(ends):
        torch.mm(grad[start:end], weight[expert], out=out[start:end])
    return out


def gradient_of_weight(grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """(experts, out_features, in_features): zeros for an expert without rows."""
    if has_grouped_kernel(x, weight):
        return torch._grouped_mm(grad.t(), x, ends)
    out = torch.zeros_like(weight)
    for start, end, expert in turns(ends):
        torch.mm(grad[start:end].t(), x[start:end], out=out[expert])
    return out


def has_grouped_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether one kernel serves all experts: BF16 on compute capability 9.0 and later, rows in 16 bytes.

    x, weight: as in `grouped_linear`.
    """
    if not x.is_cuda or x.dtype != torch.bfloat16 or torch.cuda.get_device_capability(x.device) < (9, 0):
        return False
    return weight.shape[1] % 8 == 0 and weight.shape[2] % 8 == 0


def turns(ends: Tensor) -> list[tuple[int, int, int]]:
    """(first row, end row, expert) of every expert that has rows. ends: as in `grouped_linear`.

    >>> turns(torch.tensor([2, 2, 5]))
    [(0, 2, 0), (2, 5, 2)]
    """
    ends = ends.tolist()
    return [
        (start, end, expert) for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)) if end > start
    ]
