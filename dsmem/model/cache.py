"""The KV cache as its users meet it: grown by concatenation, allocated once, cut into pages, or cut short.

A cache keeps for every layer the rows that `Architecture.cache_rows` names: keys and values of every key-value head, or
the latents of MLA. `layout` says how they lie in memory, `dtype` in which format. `footprint.cache` walks the same
steps, byte for byte. A layer that slides keeps the last of the tokens alone (`windows`).
"""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from dsmem.config.workload import CACHE_FORMATS
from dsmem.model.layouts import LAYOUTS, Rows, page_slots
from dsmem.model.windows import WINDOWS, SlidingRows
from dsmem.units import format_bytes, format_name, one_of, whole_number

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture

OF_ALL_HEADS = ("latents", "indexer_keys")  # rows without an axis for heads


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
        if layout == "sink" and arch.sliding_window is not None:
            raise ValueError(
                f"layout={layout!r} is not for {arch.name}, whose layers slide already; allowed: {', '.join(WINDOWS)}"
            )
        if layout == "sink" and arch.indexed:
            raise ValueError(
                f"layout='sink' gives up tokens that an indexer of {arch.name} may choose; allowed: others"
            )
        self.batch, self.max_len, self.layout, self.dtype, self.block_size = batch, max_len, layout, dtype, block_size
        self.latent = arch.latent and mla_cache == "latent"
        self.length, self.slots = 0, {}
        makers = {slide: self._maker(arch, slide, block_size, sink, device) for slide in (False, True)}

        def layer(index):
            kinds = arch.attended_rows(mla_cache) | ({} if arch.shares_index(index) else arch.indexer_rows())
            tails = {name: shape[1:] if name in OF_ALL_HEADS else shape for name, shape in kinds.items()}
            return {
                name: makers[arch.slides(index)](tail=tail, dtype=dtype, device=device) for name, tail in tails.items()
            }

        self.layers = [layer(index) for index in range(arch.num_hidden_layers)]

    def _maker(self, arch, slide, block_size, sink, device):
        """Makes the `Rows` of a layer that slides, or of one that does not; all of a kind share one table of places."""
        if not arch.layers_that(slide):
            return None
        whole = arch.sliding_window if slide and self.layout == "growing" else self.max_len
        room, kind = arch.kept_tokens(slide, whole), (WINDOWS if slide else LAYOUTS)[self.layout]
        options = {"sink": sink} if self.layout == "sink" else {}
        if self.layout == "paged":
            options["slots"] = self.slots[slide] = page_slots(self.batch, room, block_size, device)
        make = functools.partial(kind, self.batch, room, **options)
        return functools.partial(SlidingRows, make, room=room) if slide else functools.partial(Rows, make)

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
        """Write the new tokens' rows and read all, in the dtype of the new ones: what attention works on.

        In a layer that slides: the rows kept so far and the new ones as they are, then the last of them are kept.
        """
        if self.slides(layer):
            seen = [kept.join(self.length, new) for kept, new in zip(self._attended(layer), rows, strict=True)]
            self.write(layer, *rows)
            return tuple(seen)
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
        return sum(tensor.nbytes for tensor in (*self.slots.values(), *(part.data for part in self._parts())))

    @property
    def taken_bytes(self) -> int:
        """Bytes that no other sequence can have: the pages that hold a token, or, without pages, all of `nbytes`."""
        if self.layout != "paged":
            return self.nbytes
        return sum(self._page_bytes(part) for part in self._parts())

    def _page_bytes(self, part):
        """Bytes of a part's pages in use."""
        pages = (part.slots[:, : self.length] // self.block_size).unique()
        return part.data.nbytes // part.slots.numel() * self.block_size * len(pages)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is filled, as stored: {"layers.0.keys": tensor, ...}, for a prefix that is to be kept elsewhere.

        Raises ValueError where a layer that slides has given tokens up.
        """
        self._check_whole(self.length)
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
        self._check_whole(max(lengths))
        self.reset()
        for name, part in parts.items():
            part.write(0, tensors[name])
        self.length = lengths.pop()

    def slides(self, layer: int) -> bool:
        """Whether the layer keeps the last of the tokens alone."""
        return any(isinstance(rows, SlidingRows) for rows in self.layers[layer].values())

    def _check_whole(self, length):
        rooms = [rows.room for layer in self.layers for rows in layer.values() if isinstance(rows, SlidingRows)]
        if rooms and length > min(rooms):
            raise ValueError(
                f"a prefix of {length} tokens is more than a layer that slides keeps; allowed: at most {min(rooms)}"
            )

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
