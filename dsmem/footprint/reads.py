"""What one decode step reads from memory: the floor of its time is these bytes over the memory's bandwidth.

A step reads every weight that it multiplies with once, whatever the batch; of the embedding the rows of its tokens; of
the routed experts those that some token chose; and of each sequence the cache that attention reads. Left out: what it
writes, and activations, which are small beside these at one token a sequence.
"""

from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.workload import EXPERTS
from dsmem.footprint.stored import cache_rows, weight_part, weights_by_layer
from dsmem.units import finite, whole_numbers


def step_reads(
    arch: Any, batch: Any = 1, tokens: Any = 0, weights: str = "bf16", kv_cache: str = "bf16", **options: Any
) -> dict[str, Any]:
    """{part: bytes} that one decode step of `batch` sequences reads; the weights' parts as in `stored.weight_parts`.

    arch: whatever `Architecture.of` takes. batch: sequences, a number or an array. tokens: that attention looks back at
    in each. weights, and options: as in `stored.weights_by_layer`, scales with their part. kv_cache: as in `Workload`.
    Routed experts count as `formulas.touched_experts` of each layer, an average, so their bytes are no whole number.
    An indexer reads its keys of all tokens, attention then `index_topk` of them (arXiv 2512.02556, section 2.1).

    >>> reads = step_reads("deepseek-r1", weights="fp8")
    >>> {part: round(nbytes / 1e9, 2) for part, nbytes in reads.items() if nbytes > 1e9}
    {'attention': 11.42, 'mlp': 1.19, 'shared_experts': 2.55, 'experts': 20.44, 'lm_head': 1.85}
    """
    arch, batch, tokens = Architecture.of(arch), whole_numbers("batch", batch), whole_numbers("tokens", tokens, least=0)
    reads = {}
    for name, sizes in weights_by_layer(arch, weights, **options).items():
        part = weight_part(arch, name)
        reads[part] = reads.get(part, 0) + _share(arch, name, batch) * sum(sizes)
    return reads | {"kv_cache": _cache(arch, batch, tokens, kv_cache)}


def floor_seconds(reads: dict[str, Any], bandwidth_bytes_per_s: float) -> Any:
    """The least time that reading so many bytes takes: their sum over the bandwidth.

    >>> floor_seconds({"weights": 15_000_000_000}, 300e9)
    0.05
    """
    if not finite("bandwidth_bytes_per_s", bandwidth_bytes_per_s, "a bandwidth") > 0:
        raise ValueError(f"bandwidth_bytes_per_s={bandwidth_bytes_per_s!r} moves nothing; it must be above 0")
    return formulas.fetch_seconds(sum(reads.values()), bandwidth_bytes_per_s, 0)


def _share(arch, name, batch):
    """Which share of a tensor a step reads."""
    if name in EXPERTS:
        touched = formulas.touched_experts(arch.n_routed_experts, arch.num_experts_per_tok, batch)
        return touched / arch.n_routed_experts
    if name == "embed_tokens" and not arch.tie_word_embeddings:  # a tied one is the head as well
        return batch / arch.vocab_size
    return batch / (arch.learned_positions + arch.position_offset) if name == "embed_positions" else 1


def _cache(arch, batch, tokens, kv_cache):
    total = 0
    for name, shape in arch.cache_rows().items():
        for slide in (False, True):
            seen = arch.kept_tokens(slide, tokens)
            if arch.indexed and name != "indexer_keys":
                seen = arch.chosen_keys(seen)
            total = total + arch.layers_caching(name, slide) * sum(cache_rows(kv_cache, batch, seen, *shape))
    return total
