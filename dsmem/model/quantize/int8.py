"""INT8: rows rounded on their own scale, in the weight alone or in the input as well."""

import torch
from torch import Tensor

from dsmem.model.quantize.base import QuantizedLinear, stored

LEVELS = 127  # symmetric: -128 is not used
ROW_BLOCK = 32  # torch._int_mm on CUDA wants more than 16 rows, so every device pads to whole blocks
WIDTH_BLOCK = 8  # and widths in eights


def quantize_rows(x):
    """Round each row of `x` (..., width) to INT8 on its own scale.

    Returns the INT8 rows (int8, same shape) and the scales (float32, (..., 1)): x is about rows * scales.

    >>> rows, scales = quantize_rows(torch.tensor([[127.0, -63.0], [0.0, 0.0]]))
    >>> rows.tolist(), scales[0].item()
    ([[127, -63], [0, 0]], 1.0)
    """
    wide = x.float()
    scales = wide.abs().amax(dim=-1, keepdim=True).div_(LEVELS).clamp_min_(torch.finfo(torch.float32).tiny)
    return (wide / scales).round_().to(torch.int8), scales


@torch.library.custom_op("dsmem::int8_rows", mutates_args=())
def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of `x` (any shape, its last axis a row) as one operator, which shows a ledger only its outputs.

    So does a kernel that writes a cache; what torch's own operators take in between is scratch.
    """
    return quantize_rows(x)


@int8_rows.register_fake
def _(x):
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


class Int8Linear(QuantizedLinear):
    """INT8, one float32 scale per output channel."""

    def __init__(self, in_features, out_features, bias, dtype, device):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.weight = stored(torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.scale = stored(torch.ones(out_features, 1, device=device))

    def set_weight(self, weight):
        """Store `weight` (out_features, in_features; any float format), rounded to INT8 per output channel."""
        rows, scales = quantize_rows(weight)
        self.weight.copy_(rows)
        self.scale.copy_(scales)

    def weight_copy(self, dtype):
        """The weight (out_features, in_features) in `dtype`, the one temporary."""
        return self.weight.to(dtype).mul_(self.scale)


class W8A8Linear(Int8Linear):
    """`nn.Linear` that multiplies in INT8: the input, too, is rounded, per token and at every call."""

    def __init__(self, in_features, out_features, bias, dtype, device):
        for name, width in (("in_features", in_features), ("out_features", out_features)):
            if width % WIDTH_BLOCK:
                raise ValueError(f"{name}={width} does not go with 'int8_w8a8'; it must be a multiple of {WIDTH_BLOCK}")
        super().__init__(in_features, out_features, bias, dtype, device)

    def forward(self, x):
        rows = x.reshape(-1, self.in_features)
        quantized, scales = padded_int8_rows(rows)
        product = torch._int_mm(quantized, self.weight.t())
        # float32, since a sum of thousands of INT8 products overflows 16 bit before it is scaled
        result = (product[: len(rows)] * scales.float()).mul_(self.scale.t())
        del product
        if self.bias is not None:
            result.add_(self.bias)
        return result.to(x.dtype).view(*x.shape[:-1], self.out_features)


def padded_int8_rows(rows):
    """Rows in INT8, filled up with zero rows to a multiple of 32, and their scales (rows, 1) in the rows' format."""
    scales = torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, keepdim=True)
    # the format's least step on top: no scale is 0, and none is rounded down so far that its row is cut off
    step = 2.0**-24 if rows.dtype == torch.float16 else torch.finfo(rows.dtype).tiny
    scales.div_(LEVELS).add_(step)
    scaled = (rows / scales).round_().clamp_(-LEVELS, LEVELS)
    padded = rows.new_zeros((-(-len(rows) // ROW_BLOCK) * ROW_BLOCK, rows.shape[1]), dtype=torch.int8)
    padded[: len(rows)].copy_(scaled)
    return padded, scales
