"""What all quantized linear layers share: the product through a copy of the weight, and the tiles of a matrix."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class QuantizedLinear(nn.Module):
    """`nn.Linear` that stores fewer bits; each call copies the weight to the input's format and multiplies by the copy.

    A gradient passes through to the input by one more such copy, with none kept in between; the weight itself has none.
    A scheme adds `set_weight` and `weight_copy`. in_features, out_features, bias, dtype, device: as in `nn.Linear`; the
    bias is stored in `dtype`.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device | str):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = stored(torch.zeros(out_features, dtype=dtype, device=device)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _ByCopy.apply(x, self)


class _ByCopy(torch.autograd.Function):
    """Keeps nothing: torch's own linear layer would keep the copy of every weight until backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantizedLinear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight_copy(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        return torch.matmul(grad, ctx.layer.weight_copy(grad.dtype)), None


def stored(tensor: torch.Tensor) -> nn.Parameter:
    """`tensor` as a parameter that is never trained.

    >>> stored(torch.ones(2)).requires_grad
    False
    """
    return nn.Parameter(tensor, requires_grad=False)


def tiles(matrix: torch.Tensor, height: int, width: int) -> Iterator[tuple[torch.Tensor, tuple]]:
    """`matrix` (rows, columns) as views of tiles, each with the index of its scales. Nothing is copied.

    height, width: rows and columns of a whole tile; tiles at the edges may be partial. Yields one pair for all whole
    tiles and one for each edge of partial tiles: the view (tile row, row in tile, tile column, column in tile), and the
    index that broadcasts a matrix of one number per tile over that view.

    >>> [tuple(view.shape) for view, _ in tiles(torch.zeros(300, 256), 128, 128)]
    [(2, 128, 2, 128), (1, 44, 2, 128)]
    """
    for (rows, row_tiles, high), (columns, column_tiles, wide) in itertools.product(
        _spans(matrix.shape[0], height), _spans(matrix.shape[1], width)
    ):
        view = matrix[rows, columns].unflatten(1, (-1, wide)).unflatten(0, (-1, high))
        yield view, (row_tiles, None, column_tiles, None)


def _spans(length, step):
    """Where the whole steps are and where the rest is: (slice of elements, slice of steps, elements in a step)."""
    whole, rest = divmod(length, step)
    spans = [(slice(0, whole * step), slice(0, whole), step)] if whole else []
    return spans + ([(slice(whole * step, length), slice(whole, whole + 1), rest)] if rest else [])
