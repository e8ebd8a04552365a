"""What every quantized linear layer shares: the product through a copy of the weight, and tiles of a matrix."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn


class QuantizedLinear(nn.Module):
    """`nn.Linear` that stores fewer bits and multiplies in the input's format, through a copy of the weight per call.

    A scheme fills in `set_weight` and `weight_copy`. bias, dtype, device: as in `nn.Linear`; the bias keeps `dtype`.
    """

    def __init__(self, in_features, out_features, bias, dtype, device):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = stored(torch.zeros(out_features, dtype=dtype, device=device)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight_copy(x.dtype), self.bias)


def stored(tensor):
    """A parameter that is never trained."""
    return nn.Parameter(tensor, requires_grad=False)


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
