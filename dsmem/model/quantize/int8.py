"""INT8: each row is rounded on its own scale, in the weight only or in the input as well."""

import torch
from torch import Tensor

from dsmem.model.quantize.base import QuantizedLinear, stored

LEVELS = 127  # symmetric: -128 is not used
ROW_BLOCK = 32  # torch._int_mm on CUDA needs more than 16 rows, so every device pads to whole blocks
WIDTH_BLOCK = 8  # and it needs widths that are multiples of 8


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of `x` (..., width), of any float format, to INT8 on its own scale.

    Returns the rows (int8, same shape) and the scales (float32, (..., 1)); x is approximately rows * scales.

    >>> rows, scales = quantize_rows(torch.tensor([[127.0, -63.0], [0.0, 0.0]]))
    >>> rows.tolist(), scales[0].item()
    ([[127, -63], [0, 0]], 1.0)
    """
    wide = x.float()
    scales = wide.abs().amax(dim=-1, keepdim=True).div_(LEVELS).clamp_min_(torch.finfo(torch.float32).tiny)
    return (wide / scales).round_().to(torch.int8), scales


@torch.library.custom_op("dsmem::int8_rows", mutates_args=())
def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of `x` (..., width) as one operator, so that a ledger sees only its outputs.

    A kernel that writes a cache behaves in the same way; what PyTorch's own operators allocate in between is scratch.
    """
    return quantize_rows(x)


@int8_rows.register_fake
def _(x):
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


class Int8Linear(QuantizedLinear):
    """INT8 weight with one float32 scale per output channel. Arguments: as in `QuantizedLinear`.

    >>> layer = Int8Linear(64, 16, bias=False, dtype=torch.float32, device="cpu")
    >>> sum(parameter.nbytes for parameter in layer.parameters()) == 64 * 16 + 4 * 16
    True
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device | str):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.weight = stored(torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.scale = stored(torch.ones(out_features, 1, device=device))

    def set_weight(self, weight: Tensor) -> None:
        """Round `weight` (out_features, in_features), of any float format, per output channel and store it."""
        rows, scales = quantize_rows(weight)
        self.weight.copy_(rows)
        self.scale.copy_(scales)

    def weight_copy(self, dtype: torch.dtype) -> Tensor:
        """The weight (out_features, in_features) in `dtype`; this copy is the only temporary."""
        return self.weight.to(dtype).mul_(self.scale)


class W8A8Linear(Int8Linear):
    """`nn.Linear` that multiplies in INT8: the input is rounded too, per token and in every call.

    Arguments: as in `QuantizedLinear`. Raises ValueError unless both widths are multiples of 8, and for an input that
    wants a gradient.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device | str):
        for name, width in (("in_features", in_features), ("out_features", out_features)):
            if width % WIDTH_BLOCK:
                raise ValueError(
                    f"{name}={width} does not work with 'int8_w8a8'; it must be a multiple of {WIDTH_BLOCK}"
                )
        super().__init__(in_features, out_features, bias, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise ValueError(
                "weights='int8_w8a8' rounds the input, through which no gradient passes; allowed: 'int8', 'int4', 'fp8'"
            )
        rows = x.reshape(-1, self.in_features)
        quantized, scales = padded_int8_rows(rows)
        product = torch._int_mm(quantized, self.weight.t())
        # float32, because a sum of thousands of INT8 products overflows 16 bits before it is scaled
        result = (product[: len(rows)] * scales.float()).mul_(self.scale.t())
        del product
        if self.bias is not None:
            result.add_(self.bias)
        return result.to(x.dtype).view(*x.shape[:-1], self.out_features)


def padded_int8_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`rows` (tokens, width) in INT8, padded with rows of zeros to a multiple of 32, and their scales.

    The scales are (tokens, 1) in the format of `rows`, without padding.

    >>> padded, scales = padded_int8_rows(torch.ones(3, 8))
    >>> padded.shape, scales.shape
    (torch.Size([32, 8]), torch.Size([3, 1]))
    """
    scales = torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, keepdim=True)
    # plus the format's smallest step: no scale is 0, and none is rounded down so far that its row is clipped
    step = 2.0**-24 if rows.dtype == torch.float16 else torch.finfo(rows.dtype).tiny
    scales.div_(LEVELS).add_(step)
    scaled = (rows / scales).round_().clamp_(-LEVELS, LEVELS)
    padded = rows.new_zeros((-(-len(rows) // ROW_BLOCK) * ROW_BLOCK, rows.shape[1]), dtype=torch.int8)
    padded[: len(rows)].copy_(scaled)
    return padded, scales
