"""The KV cache compared: with other kinds of attention, and layout beside layout as it grows."""

from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.footprint.stored import model_rows, rows_of
from dsmem.units import whole_number, whole_numbers


def cache_kinds(arch: Any, num_key_value_heads: int, mla_cache: str = "latent") -> dict[str, dict]:
    """What `arch` caches of a token in a layer, beside three others of its shape: {name: {rows: (heads, width)}}.

    num_key_value_heads: of the grouped attention (GQA); more than the model has heads count as all.
    """
    arch = Architecture.of(arch)
    heads, width = arch.num_attention_heads, arch.value_head_dim
    grouped = min(whole_number("num_key_value_heads", num_key_value_heads), heads)
    built = f"as built: MLA, {mla_cache}" if arch.latent else f"as built: {arch.num_key_value_heads} KV heads"
    kinds = {f"MHA: all {heads} heads": heads, f"GQA: {grouped} KV heads": grouped, "MQA: one KV head": 1}
    others = {name: {"keys": (count, width), "values": (count, width)} for name, count in kinds.items()}
    return {built: arch.cache_rows(mla_cache)} | others


def cache_growth(
    arch: Any, lengths: np.ndarray, room: int, kv_cache: str = "bf16", block_size: int = 16
) -> dict[str, np.ndarray]:
    """Bytes of one sequence's cache at `lengths` tokens, an array: {layout: array}, as `plots.plot_curves` takes it.

    "growing, while copied": the worst moment of a step, in the last layer of a kind, with one tensor's old rows beside
    its new. room: tokens that the static cache is made for; block_size: tokens of a page.
    """
    arch, lengths = Architecture.of(arch), whole_numbers("lengths", lengths, least=0)
    room, block_size = whole_number("room", room), whole_number("block_size", block_size)
    rows = arch.cache_rows()
    sizes = [size for kind in rows.items() for size in model_rows(dict([kind]), 1, kv_cache, 1, 1)]
    beside = []
    for places in filter(None, map(arch.layers_that, (False, True))):
        # tensors are joined one after the other, so those still to come lack the new token's row
        before, grown = _step(arch, places[-1], lengths)
        later = sum(_step(arch, index, lengths)[1] for index in range(places[-1] + 1, arch.num_hidden_layers))
        beside += [before * size - grown * sum(sizes[i + 1 :]) - later * sum(sizes) for i, size in enumerate(sizes)]
    held = sum(rows_of(arch, rows, kv_cache, 1, lengths))
    return {
        "static": np.full(len(lengths), sum(rows_of(arch, rows, kv_cache, 1, room))),
        "growing": held,
        "growing, while copied": held + np.max(beside, axis=0),
        "paged, pages in use": sum(rows_of(arch, rows, kv_cache, 1, lengths, block_size=block_size)),
    }


def _step(arch, index, lengths):
    """Tokens that the layer's cache holds before it takes the last of `lengths`, and by how many it then grows."""
    before, after = (arch.kept_tokens(arch.slides(index), tokens) for tokens in (lengths - 1, lengths))
    return before, after - before
