"""What a step does to the KV cache: new rows are written, all rows are read; and what that makes for a moment."""

import itertools
from typing import Any

import numpy as np

from dsmem import formulas
from dsmem.footprint.stored import cache_part, cache_rows
from dsmem.footprint.walk import Pass

NEW_ROWS = {"keys": "key", "values": "value", "latents": "latents"}  # the part that a cache's new rows are


def set_grown(p: Pass, layers: int) -> None:
    """A growing cache as it stands when `layers` layers have taken their new rows and the others have not."""
    if p.work.cache != "growing":
        return
    held = {}
    kinds = p.arch.cache_rows(p.work.mla_cache).items()
    for slide, (name, shape) in itertools.product((False, True), kinds):
        grown = p.arch.layers_caching(name, slide, layers)
        rest = p.arch.layers_caching(name, slide) - grown
        kept = [p.arch.kept_tokens(slide, tokens) for tokens in (p.work.cached_tokens, p.work.key_len)]
        old, new = (_rows(p, tokens, *shape) for tokens in kept)
        for part, before, after in zip((cache_part(p.arch, p.work, name), "cache_scales"), old, new, strict=True):
            held[part] = held.get(part, 0) + rest * before + grown * after
    if p.work.kv_cache != "int8":
        held.pop("cache_scales")
    p.alive |= held


def write(p: Pass, kinds: dict[str, tuple[int, int]] | None = None) -> None:
    """`KVCache.write` of one layer: encode, then write, one kind of rows after the other.

    kinds: {name: (heads, width)}; defaults to the rows that attention itself reads.
    """
    for name, (heads, width) in _kinds(p, kinds).items():
        encoded = encode(p, name, heads, width)
        if p.work.cache == "growing":
            grow(p, name, heads, width, encoded)
        elif p.work.cache == "paged" and "converted" in encoded:
            p.instant(f"write {name}", **encoded)


def _kinds(p, kinds):
    return p.arch.attended_rows(p.work.mla_cache) if kinds is None else kinds


def encode(p, name, heads, width):
    """The parts that the new rows are turned into before they are written, none where they go in as they are."""
    payload, scales = _rows(p, p.kept_new, heads, width)
    if p.work.kv_cache in ("fp8", "int8"):
        parts = {"rows_encoded": payload} | ({"row_scales": scales} if p.work.kv_cache == "int8" else {})
        rows = formulas.cache_rows_bytes(p.work.batch, p.kept_new, heads, width, p.bits)
        p.instant(f"encode {name}", **parts, **({"rows_clamped": rows} if p.work.kv_cache == "fp8" else {}))
        return parts
    return {"converted": payload} if p.work.kv_cache != p.work.activations else {}


def grow(p, name, heads, width, encoded):
    """Old and new rows side by side for a moment, then the new ones alone; after them their scales."""
    parts = {cache_part(p.arch, p.work, name): 0} | ({"cache_scales": 1} if p.work.kv_cache == "int8" else {})
    if "converted" in encoded:  # an empty cache converts its first rows on the way
        encoded = {"converted": encoded["converted"] * (p.work.cached_tokens > 0)}
    for part, index in parts.items():
        old, new = (_rows(p, tokens, heads, width)[index] for tokens in (p.kept_len, p.kept_after))
        p.instant(f"grow {name}" + " scales" * index, **encoded, cache_grown=new)
        p.alive[part] = p.alive[part] + new - old


def read(p: Pass, where: Any = True, kinds: dict[str, tuple[int, int]] | None = None) -> None:
    """`KVCache.read` of one layer: views where the format is the pass's own, else copies; pages are gathered.

    where: False, also in an array, for passes that do not read. kinds: as in `write`.
    """
    for name, (heads, width) in _kinds(p, kinds).items():
        rows = where * p.seen(formulas.cache_rows_bytes, heads, width)
        payload, scales = (where * size for size in _rows(p, p.key_len, heads, width))
        same = p.work.kv_cache == p.work.activations
        gathered = {"rows_gathered": payload} if p.work.cache == "paged" else {}
        if gathered and same:
            p.make(f"read {name}", **{f"{name}_read": rows})
        elif not same:
            if gathered and p.work.kv_cache == "int8":
                gathered |= {"scales_gathered": scales}
            p.instant(f"read {name}", **gathered, **{f"{name}_read": rows})
            p.alive |= {f"{name}_read": rows}


def join(p: Pass) -> None:
    """`SlidingRows.join` of one layer: the tokens kept so far and the new ones in one tensor; none in a first pass."""
    where = p.work.cached_tokens > 0
    for name, (heads, width) in _kinds(p, None).items():
        payload, scales = (where * size for size in _rows(p, p.kept_len, heads, width))
        gathered = {"rows_gathered": payload, "scales_gathered": scales} if p.work.cache == "paged" else {}
        joined = {f"{name}_read": where * p.seen(formulas.cache_rows_bytes, heads, width)}
        if np.any(where):
            p.instant(f"join {name}", **gathered, **joined)
            p.alive |= joined


def update(p: Pass, *sources: str) -> None:
    """`KVCache.update`: afterwards attention works on what was read, and the new rows (`sources`) are gone.

    A layer that slides reads first, for what it writes may take the place of what it reads.
    """
    for step in (join, write) if p.slide else (write, read):
        step(p)
    if p.slide and not np.any(p.work.cached_tokens):
        return
    p.drop(*sources)
    for name, (heads, width) in _kinds(p, None).items():
        if f"{name}_read" in p.alive:
            p.drop(f"{name}_read")
            p.alive[NEW_ROWS[name]] = p.seen(formulas.cache_rows_bytes, heads, width)


def _rows(p, tokens, heads, width):
    return cache_rows(p.work.kv_cache, p.work.batch, tokens, heads, width)
