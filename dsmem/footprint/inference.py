"""From an architecture and a workload to bytes: every named instant of a pass, and what is alive at it.

A peak is not the sum of everything that a pass touches. It is the largest of these instants, so they are listed one by
one, in the order in which the model runs them; `tests/` holds each total against the ledger of a real pass.
"""

from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.ranks import rank_architecture
from dsmem.config.sharding import Sharding
from dsmem.config.workload import CACHE_FORMATS, STORED_CACHES, Workload
from dsmem.footprint import gpt, indexer
from dsmem.footprint.attention import attention
from dsmem.footprint.cache import set_grown
from dsmem.footprint.instants import Footprint
from dsmem.footprint.mlp import experts, head, mlp
from dsmem.footprint.sharded import passes
from dsmem.footprint.stored import buffer_bytes, cache_bytes, check_range, weight_formats
from dsmem.footprint.walk import Pass
from dsmem.units import dtype_bits


def inference_footprint(
    arch: Any, work: Workload | None = None, sharding: Any = None, rank: int = 0, **fields: Any
) -> Footprint:
    """The `Footprint` of one forward pass, on one device or on one rank of many.

    arch: an `Architecture`, or whatever `Architecture.of` takes: a name, a path, a dict. work: a `Workload`, or its
    fields as keywords; attention="auto" counts as "fused". sharding: None for one device, else whatever `Sharding.of`
    takes, such as a count of tensor ranks; work is then what one replica of the data runs, and these are the bytes of
    `rank`: see `sharded.passes` for what ranks hand on. Raises ValueError where the pass is not modelled. Left
    out: allocator rounding, workspaces and the CUDA context.

    >>> inference_footprint("deepseek-r1-distill-qwen-7b", batch=4, seq_len=1024)
    peak instant: lm_head
    weights                 15,231,233,024     14.19 GiB   91.0%
    buffers                            256         256 B    0.0%
    token_ids                       32,768     32.00 KiB    0.0%
    kv_cache                   234,881,024    224.00 MiB    1.4%
    rope_tables                    393,216    384.00 KiB    0.0%
    normed                      29,360,128     28.00 MiB    0.2%
    logits                   1,245,708,288      1.16 GiB    7.4%
    total                   16,741,608,704     15.59 GiB  100.0%
    """
    arch = Architecture.of(arch)
    work = Workload.of(work, **fields).on(arch)
    if work.kv_cache in STORED_CACHES:
        raise ValueError(
            f"kv_cache={work.kv_cache!r} is a format of llama.cpp or FlashMLA, of which only the size is known; a pass "
            f"is modelled in: {', '.join(CACHE_FORMATS)}"
        )
    arch.check_positions(work.key_len)
    check_range(work, lambda largest: inference_footprint(arch, largest, sharding, rank).total_bytes)
    if sharding is None:
        Sharding().place(rank)  # which refuses any but 0
        p = Pass(arch, work, resident(arch, work))
    else:
        share = rank_architecture(arch, Sharding.of(sharding), rank)
        work = passes.own_work(share, work)
        p = passes.RankPass(share, work, resident(share, work))
    (gpt_layers if arch.gpt_block else layers)(p)
    return Footprint(p.instants, p.arch, work)


def stage_footprints(
    arch: Any, work: Workload | None = None, sharding: Any = None, **fields: Any
) -> dict[int, Footprint]:
    """{rank: `Footprint`} of the first rank of every pipeline stage: those of one stage hold equal bytes.

    Arguments as in `inference_footprint`.
    """
    sharding = Sharding.of(sharding)
    firsts = range(0, sharding.ranks, sharding.stage_ranks)
    return {rank: inference_footprint(arch, work, sharding, rank, **fields) for rank in firsts}


def gpt_layers(p: Pass) -> None:
    """GPT blocks, from the embedding to the head."""
    if p.arch.first_stage:
        gpt.embedding(p)
    gpt.block(p)
    if p.arch.last_stage:
        gpt.final_norm(p)
    if p.arch.last_stage and p.arch.head != "none":
        head(p)


def layers(p: Pass) -> None:
    """`Layer`s: the last of each kind of attention half, the last of each kind of MLP half, and the head."""
    arch, held = p.arch, dict(p.alive)
    for (p.slide, shares, hands_on), index in _last(arch, arch.slides, arch.shares_index, arch.hands_on_index):
        indexer.between(p, shares, hands_on)
        p.prefix += "sliding." * (p.slide and bool(arch.layer_types))
        attention(p, index)
        p.alive = dict(held)
    p.slide = False
    for (sparse, hands_on), index in _last(arch, arch.has_experts, arch.hands_on_index):
        set_grown(p, index + 1)
        indexer.between(p, hands_on, hands_on)
        (experts if sparse else mlp)(p)
        p.alive = dict(held)
    p.prefix = ""
    set_grown(p, arch.num_hidden_layers)
    if arch.last_stage:
        head(p)


def _last(arch, *kinds):
    """(what each of `kinds` says of a layer, the last layer of which they say so), for all that they say."""
    return {tuple(kind(index) for kind in kinds): index for index in range(arch.num_hidden_layers)}.items()


def given(arch: Architecture, work: Workload) -> dict[str, Any]:
    """{part: bytes} of what is there before a pass and after it: weights, buffers, token ids, cache."""
    return {
        **weight_formats(arch, work),
        "buffers": buffer_bytes(arch),
        "token_ids": formulas.token_ids_bytes(work.batch, work.new_tokens),
        **cache_bytes(arch, work),
    }


def resident(arch: Architecture, work: Workload) -> dict[str, Any]:
    """{part: bytes} of what is alive from the first instant to the last: `given`, tables of positions, masks."""
    parts = given(arch, work)
    if not arch.learned_positions:
        bits = dtype_bits(work.activations)
        tables = formulas.rope_tables_bytes(work.new_tokens, arch.rotated_dim, bits)
        parts["rope_tables"] = arch.rotary_bases * tables
    if work.eager or arch.indexed:
        for slide, part in ((False, "causal_mask"), (True, "window_mask")):
            if arch.layers_that(slide):
                seen = arch.kept_tokens(slide, work.cached_tokens) + work.new_tokens
                parts[part] = formulas.causal_mask_bytes(work.new_tokens, seen)
    return parts
