"""Quantized linear layers: what is stored, what is computed, and which temporary tensors appear while they work.

| scheme | stored per layer | product runs in | temporaries |
|---|---|---|---|
| `int8` (weight-only) | INT8 weight, a float32 scale per output channel | 16 bit | 16-bit copy of the weight |
| `int8_w8a8` | the same | INT8 x INT8 -> INT32 | INT8 input, INT32 product, its float32 copy |
| `fp8` (weight-only) | FP8 E4M3 weight, a float32 scale per 128 x 128 tile | 16 bit | 16-bit copy of the weight |

INT8 is symmetric rounding to nearest, no zero points (arXiv 2208.07339, section 3, without its outlier columns; see
`outliers` for these). FP8 is what DeepSeek-V3 and R1 are published in (arXiv 2412.19437, section 3.3). Biases stay in
16 bit. Left out: fused kernels, which never write the temporaries to memory.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

LEVELS = 127  # symmetric: -128 is not used
FP8_LARGEST = 448  # of E4M3: 1.75 * 2**8
FP8_TILE = 128
ROW_BLOCK = 32  # torch._int_mm on CUDA wants more than 16 rows, so every device pads to whole blocks
WIDTH_BLOCK = 8  # and widths in eights


def quantize_rows(x):
    """Round each row of `x` (rows, width) to INT8 on its own scale.

    Returns the INT8 rows (int8, same shape) and the scales (float32, (rows, 1)): x is about rows * scales.

    >>> rows, scales = quantize_rows(torch.tensor([[127.0, -63.0], [0.0, 0.0]]))
    >>> rows.tolist(), scales[0].item()
    ([[127, -63], [0, 0]], 1.0)
    """
    wide = x.float()
    scales = wide.abs().amax(dim=-1, keepdim=True).div_(LEVELS).clamp_min_(torch.finfo(torch.float32).tiny)
    return (wide / scales).round_().to(torch.int8), scales


def tiles(matrix, height, width):
    """`matrix` (rows, columns) as views of tiles, with the index of their scales; tiles at the edges are cut short.

    Yields one pair for the whole tiles and one for each cut edge: the view (tile row, row in tile, tile column, column
    in tile), and the index that makes a matrix of one number per tile fit it. Copies nothing.

    >>> [tuple(view.shape) for view, _ in tiles(torch.zeros(300, 256), 128, 128)]
    [(2, 128, 2, 128), (1, 44, 2, 128)]
    """
    for (rows, row_tiles, high), (columns, column_tiles, wide) in itertools.product(
        _spans(matrix.shape[0], height), _spans(matrix.shape[1], width)
    ):
        view = matrix[rows, columns].unflatten(1, (-1, wide)).unflatten(0, (-1, high))
        yield view, (row_tiles, None, column_tiles, None)


def _spans(length, step):
    """Where the whole steps lie and where the rest: (slice of elements, slice of steps, elements in a step)."""
    whole, rest = divmod(length, step)
    spans = [(slice(0, whole * step), slice(0, whole), step)] if whole else []
    return spans + ([(slice(whole * step, length), slice(whole, whole + 1), rest)] if rest else [])


class QuantizedLinear(nn.Module):
    """`nn.Linear` that stores fewer bits and multiplies in the input's format, through a copy of the weight per call.

    A scheme fills in `set_weight` and `weight_copy`. bias, dtype, device: as in `nn.Linear`; the bias keeps `dtype`.
    """

    def __init__(self, in_features, out_features, bias, dtype, device):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = _stored(torch.zeros(out_features, dtype=dtype, device=device)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight_copy(x.dtype), self.bias)


class Int8Linear(QuantizedLinear):
    """INT8, one float32 scale per output channel."""

    def __init__(self, in_features, out_features, bias, dtype, device):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.weight = _stored(torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.scale = _stored(torch.ones(out_features, 1, device=device))

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


class Fp8Linear(QuantizedLinear):
    """FP8 E4M3, one float32 scale per 128 x 128 tile, named as in DeepSeek's checkpoints: weight = weight * scale."""

    def __init__(self, in_features, out_features, bias, dtype, device):
        super().__init__(in_features, out_features, bias, dtype, device)
        self.weight = _stored(torch.zeros(out_features, in_features, dtype=torch.float8_e4m3fn, device=device))
        shape = -(-out_features // FP8_TILE), -(-in_features // FP8_TILE)
        self.weight_scale_inv = _stored(torch.ones(shape, device=device))

    def set_weight(self, weight):
        """Store `weight` (out_features, in_features; any float format), rounded to FP8 tile by tile."""
        wide = weight.float()  # a copy even of float32, for the tiles are divided in place
        wide = wide.clone() if wide is weight else wide
        for tile, index in tiles(wide, FP8_TILE, FP8_TILE):
            scale = tile.abs().amax(dim=(1, 3), keepdim=True).div_(FP8_LARGEST)
            scale.clamp_min_(torch.finfo(torch.float32).tiny)
            # rounding of the scale may leave a hair more than the largest number, which FP8 would turn into NaN
            tile.div_(scale).clamp_(-FP8_LARGEST, FP8_LARGEST)
            self.weight_scale_inv[index[::2]] = scale[:, 0, :, 0]
        self.weight.copy_(wide)

    def weight_copy(self, dtype):
        """The weight (out_features, in_features) in `dtype`, scaled in place, so that it is the one temporary."""
        copy = self.weight.to(dtype)  # exact: every FP8 number is a 16-bit one
        for tile, index in tiles(copy, FP8_TILE, FP8_TILE):
            tile.mul_(self.weight_scale_inv[index])
        return copy


def fp8_scales(in_features, out_features):
    """How many scales an FP8 weight has: one for each 128 x 128 tile, cut or whole.

    >>> fp8_scales(7168, 2048)
    896
    """
    return -(-in_features // FP8_TILE) * -(-out_features // FP8_TILE)


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


def _stored(tensor):
    return nn.Parameter(tensor, requires_grad=False)


SCHEMES = {"int8": Int8Linear, "int8_w8a8": W8A8Linear, "fp8": Fp8Linear}
"""Linear layers by the name that `Workload(weights=...)` and `build_model(weights=...)` take."""
