"""What a step does to the KV cache: new rows are written, all rows are read; and what that makes for a moment."""

from dsmem import formulas
from dsmem.units import dtype_bits

NEW_ROWS = {"keys": "key", "values": "value", "latents": "latents"}  # the part that a cache's new rows are


def cache_part(arch, work):
    """The name of the part that the cache's rows are."""
    return "latent_cache" if "latents" in arch.cache_rows(work.mla_cache) else "kv_cache"


def stored_bytes(work, tokens, heads, width):
    """(rows, scales) of `tokens` per sequence in one layer, in the cache's format."""
    scales = formulas.cache_scales_bytes(work.batch, tokens, heads) if work.kv_cache == "int8" else 0
    return formulas.cache_rows_bytes(work.batch, tokens, heads, width, dtype_bits(work.kv_cache)), scales


def set_grown(walk, arch, work, layers):
    """A growing cache as it stands when `layers` layers have taken their new rows and the others have not."""
    if work.cache != "growing":
        return
    old, new = (
        [stored_bytes(work, tokens, *shape) for shape in arch.cache_rows(work.mla_cache).values()]
        for tokens in (work.cached_tokens, work.key_len)
    )
    rest = arch.num_hidden_layers - layers
    held = [rest * sum(o[i] for o in old) + layers * sum(n[i] for n in new) for i in (0, 1)]
    walk.alive |= {cache_part(arch, work): held[0]} | ({"cache_scales": held[1]} if work.kv_cache == "int8" else {})


def walk_write(walk, arch, work):
    """`KVCache.write` of the last layer: encode, then write, one kind of rows after the other."""
    for name, (heads, width) in arch.cache_rows(work.mla_cache).items():
        encoded = walk_encode(walk, work, name, heads, width)
        if work.cache == "growing":
            walk_grow(walk, arch, work, name, heads, width, encoded)
        elif work.cache == "paged" and "converted" in encoded:
            walk.instant(f"write {name}", **encoded)


def walk_encode(walk, work, name, heads, width):
    """The parts that the new rows are turned into before they are written, none where they go in as they are."""
    rows = formulas.cache_rows_bytes(work.batch, work.new_tokens, heads, width, dtype_bits(work.activations))
    payload, scales = stored_bytes(work, work.new_tokens, heads, width)
    if work.kv_cache in ("fp8", "int8"):
        parts = {"rows_encoded": payload} | ({"row_scales": scales} if work.kv_cache == "int8" else {})
        walk.instant(f"encode {name}", **parts, **({"rows_clamped": rows} if work.kv_cache == "fp8" else {}))
        return parts
    return {"converted": payload} if work.kv_cache != work.activations else {}


def walk_grow(walk, arch, work, name, heads, width, encoded):
    """Old and new rows side by side for a moment, then the new ones alone; after them their scales."""
    parts = {cache_part(arch, work): 0, "cache_scales": 1} if work.kv_cache == "int8" else {cache_part(arch, work): 0}
    if "converted" in encoded:  # an empty cache converts its first rows on the way
        encoded = {"converted": encoded["converted"] * (work.cached_tokens > 0)}
    for part, index in parts.items():
        old, new = (stored_bytes(work, tokens, heads, width)[index] for tokens in (work.cached_tokens, work.key_len))
        walk.instant(f"grow {name}", **encoded, cache_grown=new)
        walk.alive[part] = walk.alive[part] + new - old


def walk_read(walk, arch, work):
    """`KVCache.read` of the last layer: views where the format is the pass's own, else copies; pages are gathered."""
    for name, (heads, width) in arch.cache_rows(work.mla_cache).items():
        rows = formulas.cache_rows_bytes(work.batch, work.key_len, heads, width, dtype_bits(work.activations))
        payload, scales = stored_bytes(work, work.key_len, heads, width)
        same = work.kv_cache == work.activations
        gathered = {"rows_gathered": payload} if work.cache == "paged" else {}
        if gathered and same:
            walk.make(f"read {name}", **{f"{name}_read": rows})
        elif not same:
            if gathered and work.kv_cache == "int8":
                gathered |= {"scales_gathered": scales}
            walk.instant(f"read {name}", **gathered, **{f"{name}_read": rows})
            walk.alive |= {f"{name}_read": rows}


def walk_update(walk, arch, work, *sources):
    """`KVCache.update`: afterwards attention works on what was read, and the new rows (`sources`) are gone."""
    walk_write(walk, arch, work)
    walk_read(walk, arch, work)
    walk.drop(*sources)
    for name in arch.cache_rows(work.mla_cache):
        if f"{name}_read" in walk.alive:
            walk.alive[NEW_ROWS[name]] = walk.alive.pop(f"{name}_read")
