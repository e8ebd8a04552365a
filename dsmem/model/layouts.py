"""How a cache's rows lie in memory: grown by concatenation, allocated once, cut into pages, or cut short; and in what
format.

A layout keeps the rows of one kind in one layer: `write(start, rows)` takes the rows (batch, seq_len, ...) of the
tokens from `start` on, `read(end)` gives those of the first `end` tokens, `reset(length)` says how many are filled.
Those of layers that slide are in `windows`.
"""

from collections.abc import Callable
from typing import Any

import torch

from dsmem.model.devices import TORCH_DTYPES
from dsmem.model.quantize import int8_rows
from dsmem.model.quantize.fp8 import LARGEST
from dsmem.units import whole_number


class Static:
    """Room for `max_len` tokens, allocated at once: (batch, max_len, *tail).

    tail: the shape of one token's row. like: dtype and device.
    """

    def __init__(self, batch: int, max_len: int, tail: tuple, **like: Any):
        self.data = torch.zeros(batch, max_len, *tail, **like)

    def reset(self, length: int) -> None:
        """Nothing to do: what lies beyond the filled length is never read."""

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Copies the rows to their place."""
        self.data[:, start : start + rows.shape[1]].copy_(rows)

    def read(self, end: int) -> torch.Tensor:
        """All that is filled, as a view."""
        return self.data[:, :end]


class Growing:
    """As long as what it holds: every step concatenates old and new, and for a moment both copies are there.

    So does transformers' DynamicCache. Arguments as in `Static`; `max_len` is not asked for.
    """

    def __init__(self, batch: int, max_len: int, tail: tuple, **like: Any):
        self.empty = self.data = torch.zeros(batch, 0, *tail, **like)

    def reset(self, length: int) -> None:
        """Hold `length` tokens of zeros."""
        self.data = self.empty  # the old one is freed before the new one is made
        if length:
            self.data = self.empty.new_zeros((len(self.empty), length, *self.empty.shape[2:]))

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Old and new rows as one new tensor; the old one is freed afterwards."""
        if self.data is self.empty:
            self.data = rows.to(self.empty.dtype, copy=True, memory_format=torch.contiguous_format)
        else:
            self.data = torch.cat((self.data, rows.to(self.data.dtype)), dim=1)

    def read(self, end: int) -> torch.Tensor:
        """All that is filled, itself."""
        return self.data


class Paged:
    """Room in pages of `block_size` tokens that any sequence may get (PagedAttention, arXiv 2309.06180, section 4).

    `slots` (batch, tokens), int64, says where each token of a sequence lies. A paged kernel would read in place; here
    one layer's rows are gathered into a copy first, as torch's kernels want them in one piece.
    """

    def __init__(self, batch: int, max_len: int, tail: tuple, slots: torch.Tensor, **like: Any):
        self.data, self.slots = torch.zeros(slots.numel(), *tail, **like), slots

    def reset(self, length: int) -> None:
        """Nothing to do: what lies beyond the filled length is never read."""

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Copies each token's row to its slot."""
        self.data.index_put_((self.slots[:, start : start + rows.shape[1]],), rows.to(self.data.dtype))

    def read(self, end: int) -> torch.Tensor:
        """All that is filled, gathered into a copy (batch, end, *tail)."""
        return self.data[self.slots[:, :end]]


def page_slots(batch: int, max_len: int, block_size: int, device: Any) -> torch.Tensor:
    """Where each token of each sequence lies, (batch, max_len rounded up to whole pages), int64.

    block_size: tokens in a page. Pages go round the sequences in turn, as sequences that grow together take them.
    """
    blocks = -(-max_len // block_size)
    places = torch.arange(batch * blocks * block_size, device=device)
    return places.view(blocks, batch, block_size).transpose(0, 1).flatten(1).contiguous()


class Sink(Static):
    """The first `sink` tokens and the most recent ones, `max_len` in all (StreamingLLM, arXiv 2309.17453, section 3).

    Older tokens are overwritten. Keys keep the positions that they were rotated to. Raises ValueError for a `sink` that
    leaves no room for others.
    """

    def __init__(self, batch: int, max_len: int, tail: tuple, sink: int, **like: Any):
        if whole_number("sink", sink, least=0) >= max_len:
            raise ValueError(f"sink={sink!r} leaves no room in max_len={max_len}; it must be from 0 to {max_len - 1}")
        super().__init__(batch, max_len, tail, **like)
        self.sink = sink

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Copies the rows one by one, each over the oldest that may go."""
        room = self.data.shape[1] - self.sink
        for offset in range(rows.shape[1]):
            place = start + offset
            place = place if place < self.sink else self.sink + (place - self.sink) % room
            self.data[:, place].copy_(rows[:, offset])

    def read(self, end: int) -> torch.Tensor:
        """All that is kept, as a view, in the order in which it lies there."""
        return self.data[:, : min(end, self.data.shape[1])]


LAYOUTS = {"static": Static, "growing": Growing, "paged": Paged, "sink": Sink}
"""The class of each layout, by its name."""


class Rows:
    """One kind of rows of one layer (its keys, say), kept in a layout and a format.

    make: makes a layout of a `tail`, `dtype` and `device`. tail: the shape of one token's row. dtype: the format's
    name; "fp8" is E4M3 without scales, "int8" has one float32 scale per token and head.
    """

    def __init__(self, make: Callable, tail: tuple, dtype: str, device: Any):
        self.dtype = dtype
        # E4M3 lies there as plain bytes
        stored = {"fp8": torch.uint8, "int8": torch.int8}.get(dtype) or TORCH_DTYPES[dtype]
        self.parts = [make(tail=tail, dtype=stored, device=device)]
        if dtype == "int8":
            self.parts.append(make(tail=(*tail[:-1], 1), dtype=torch.float32, device=device))

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Stores the rows of the tokens from `start` on, rounded to the format."""
        for part, encoded in zip(self.parts, self.encode(rows), strict=True):
            part.write(start, encoded)

    def encode(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors to be stored: the rows in the format, and for "int8" their scales."""
        if self.dtype == "int8":
            return int8_rows(rows)
        if self.dtype == "fp8":
            # beyond the largest number of E4M3 a cast would give NaN
            return (rows.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).view(torch.uint8),)
        return (rows,)

    def read(self, end: int, dtype: torch.dtype) -> torch.Tensor:
        """The rows of the first `end` tokens as `dtype`: the stored ones where it is theirs, else a copy."""
        stored = self.parts[0].read(end)
        if self.dtype == "int8":
            return stored.to(dtype).mul_(self.parts[1].read(end))
        return (stored.view(torch.float8_e4m3fn) if self.dtype == "fp8" else stored).to(dtype)
