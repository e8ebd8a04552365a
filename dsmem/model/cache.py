"""The KV cache as its users meet it: grown by concatenation, allocated once, cut into pages, or cut short.

A cache keeps for every layer the rows that `Architecture.cache_rows` names: keys and values of every key-value head, or
the latents of MLA. `layout` says how they lie in memory, `dtype` in which format. `footprint.cache` walks the same
steps, byte for byte.

A layout keeps the rows of one kind in one layer: `write(start, rows)` takes the rows (batch, seq_len, ...) of the
tokens from `start` on, `read(end)` gives those of the first `end` tokens, `reset(length)` says how many are filled.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from dsmem.config.workload import CACHE_FORMATS
from dsmem.model.devices import TORCH_DTYPES
from dsmem.model.quantize import int8_rows
from dsmem.model.quantize.fp8 import LARGEST
from dsmem.units import format_bytes, format_name, one_of, whole_number

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture


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


OF_ALL_HEADS = ("latents", "indexer_keys")  # rows without an axis for heads

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


class KVCache:
    """Rows of every layer of `arch` for `batch` sequences; `length` tokens of each are filled. See `Decoder.new_cache`.

    max_len: tokens per sequence that there is room for ("growing" does not ask for it first).
    dtype: "fp32", "bf16", "fp16", "fp8" or "int8", in any spelling. device: as torch takes it.
    layout: "static", "growing", "paged" or "sink". mla_cache: what latent attention keeps, "latent" or "expanded".
    block_size: tokens per page, of "paged". sink: first tokens that are never given up, of "sink".
    Raises ValueError for a size, a format or a layout that cannot be.
    """

    def __init__(
        self,
        arch: "Architecture",
        batch: int,
        max_len: int,
        dtype: Any,
        device: Any,
        layout: str = "static",
        mla_cache: str = "latent",
        block_size: int = 16,
        sink: int = 4,
    ):
        batch, max_len = whole_number("batch", batch), whole_number("max_len", max_len)
        block_size = whole_number("block_size", block_size)
        dtype = one_of("dtype", format_name(dtype), CACHE_FORMATS, "a format of a cache")
        one_of("layout", layout, LAYOUTS, "a layout of a cache")
        one_of("mla_cache", mla_cache, ("latent", "expanded"))
        self.batch, self.max_len, self.layout, self.dtype = batch, max_len, layout, dtype
        self.latent = arch.latent and mla_cache == "latent"
        self.length = 0
        self.slots = page_slots(batch, max_len, block_size, device) if layout == "paged" else None
        if arch.indexed and layout == "sink":
            raise ValueError(
                f"layout='sink' gives up tokens that an indexer of {arch.name} may choose; allowed: others"
            )
        options = {"paged": {"slots": self.slots}, "sink": {"sink": sink}}.get(layout, {})

        def make(**rest):
            return LAYOUTS[layout](batch, max_len, **options, **rest)

        def layer(index):
            kinds = arch.attended_rows(mla_cache) | ({} if arch.shares_index(index) else arch.indexer_rows())
            tails = {name: shape[1:] if name in OF_ALL_HEADS else shape for name, shape in kinds.items()}
            return {name: Rows(make, tail, dtype, device) for name, tail in tails.items()}

        self.layers = [layer(index) for index in range(arch.num_hidden_layers)]

    @property
    def room(self) -> int | None:
        """Tokens per sequence that may still come; None where there is no end."""
        return None if self.layout in ("growing", "sink") else self.max_len - self.length

    def reset(self, length: int = 0) -> None:
        """Say that `length` tokens are held (of zeros, where none were written)."""
        self.length = length
        for part in self._parts():
            part.reset(length)

    def write(self, layer: int, *rows: torch.Tensor) -> None:
        """Keep the new tokens' rows: (batch, seq_len, heads, head_dim), or latents (batch, seq_len, width).

        `length` stays as it is, for the other layers of the pass: `Decoder.hidden` moves it on at the end.
        """
        for kept, new in zip(self._attended(layer), rows, strict=True):
            kept.write(self.length, new)

    def read(self, layer: int, dtype: torch.dtype, new: int = 0) -> tuple[torch.Tensor, ...]:
        """The rows of all `length + new` tokens as `dtype`, one tensor per kind."""
        return tuple(kept.read(self.length + new, dtype) for kept in self._attended(layer))

    def update(self, layer: int, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Write the new tokens' rows and read all, in the dtype of the new ones."""
        self.write(layer, *rows)
        return self.read(layer, rows[0].dtype, rows[0].shape[1])

    def update_indexer(self, layer: int, keys: torch.Tensor) -> torch.Tensor:
        """Write the new tokens' indexer keys (batch, seq_len, index_head_dim), and read all, in their dtype."""
        kept = self.layers[layer]["indexer_keys"]
        kept.write(self.length, keys)
        return kept.read(self.length + keys.shape[1], keys.dtype)

    def _attended(self, layer):
        """The rows that attention itself reads, kind by kind."""
        return [rows for name, rows in self.layers[layer].items() if name != "indexer_keys"]

    @property
    def nbytes(self) -> int:
        """Bytes that are allocated now."""
        tensors = [self.slots, *(part.data for part in self._parts())]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is filled, as stored: {"layers.0.keys": tensor, ...}, for a prefix that is to be kept elsewhere."""
        return {name: part.read(self.length).contiguous() for name, part in self._named_parts()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Fill an empty cache of the same make with what `tensors()` gave; raises ValueError where it does not fit."""
        parts = dict(self._named_parts())
        if parts.keys() != tensors.keys():
            raise ValueError(
                f"tensors has {len(tensors)} names that are not this cache's {len(parts)}; they must agree"
            )
        lengths = {tensor.shape[1] for tensor in tensors.values()}
        if len(lengths) != 1 or (self.room is not None and max(lengths) > self.max_len):
            raise ValueError(f"tensors hold {sorted(lengths)} tokens; they must agree and be at most {self.max_len}")
        self.reset()
        for name, part in parts.items():
            part.write(0, tensors[name])
        self.length = lengths.pop()

    def __repr__(self) -> str:
        room = "" if self.room is None else f", room for {self.room:,} more"
        return (
            f"<KVCache, {self.layout}, {self.dtype}: {self.length:,} tokens of {self.batch:,} sequences{room}, "
            f"{format_bytes(self.nbytes)}>"
        )

    def _named_parts(self) -> Iterator[tuple[str, Any]]:
        for index, layer in enumerate(self.layers):
            for name, rows in layer.items():
                for part, suffix in zip(rows.parts, ("", "_scales"), strict=False):
                    yield f"layers.{index}.{name}{suffix}", part

    def _parts(self):
        return [part for _, part in self._named_parts()]
