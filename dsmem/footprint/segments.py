"""What PyTorch's allocator adds to a loaded model, by sizes alone: blocks of 512 bytes, segments of 2 and 20 MiB.

What stays in memory decides: a matrix of 24.5 MiB has a segment of 26, five of 3.5 MiB share one of 20. A pass finds
room between them. `memory.replay` has the rules in full; this bound needs no pass, and tests hold replays to it.
"""

import functools
from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.ranks import rank_architecture
from dsmem.config.schemes import PACKED, SCHEMES, packed
from dsmem.config.workload import EXPERTS, STORED_CACHES, Workload
from dsmem.units import MIB, dtype_bits

BLOCK, SMALL, ALONE = 512, MIB, 10 * MIB  # bytes: blocks are whole 512, and by size share a segment or have their own
SHARED, UNIT = 20 * MIB, 2 * MIB  # the segment that blocks share, and what one of its own is rounded to
PASS = 64 * MIB  # for the tensors of a pass, which come and go: seen up to 40 MiB
COPIES = 5  # of all parameters in a step: weights, gradients, two moments, one more while a foreach kernel runs


def reserved_bytes(nbytes: int, count: int) -> int:
    """Bytes of the segments that hold `count` tensors of `nbytes` each, and nothing else.

    >>> reserved_bytes(25_690_112, 1) // 2**20, reserved_bytes(3_670_016, 6) // 2**20
    (26, 40)
    """
    block = -(-nbytes // BLOCK) * BLOCK
    if block >= ALONE:
        return count * (-(-block // UNIT) * UNIT)
    segment = UNIT if block <= SMALL else SHARED
    return -(-count // (segment // block)) * segment


def shared_bytes(nbytes: Any) -> Any:
    """What one of many equal tensors takes of segments, a number or an array; never less for a larger one.

    >>> shared_bytes(3_670_016), shared_bytes(4 * 2**20)
    (4194304, 4194304)
    """
    block = -(-nbytes // BLOCK) * BLOCK
    kinds = (block <= SMALL) * UNIT + (block > SMALL) * (block < ALONE) * SHARED
    together = kinds // block
    alone = -(-block // UNIT) * UNIT
    return (kinds > 0) * -(-kinds // (together + (kinds == 0))) + (kinds == 0) * alone


def segment_bytes(arch: Architecture, work: Workload, stored: str, training: bool, sharding: Any) -> Any:
    """The most that blocks and segments add to what is kept, weights and cache, and to a pass, an array for arrays.

    stored: a format of weights in place of the workload's, or "". training: of a step, which has the parameters
    several times. sharding: of the matrices, else None.
    """
    if sharding is not None:
        arch = rank_architecture(arch, sharding)  # of the first stage
    weights = _weights_beyond(arch, work.weights, work.activations, work.modules_to_not_convert, stored)
    return PASS + (COPIES * weights if training else weights + _cache_beyond(arch, work))


@functools.lru_cache(maxsize=256)
def _weights_beyond(arch, weights, activations, kept, stored):
    """What segments add to all matrices of a model."""
    work = Workload(weights=weights, activations=activations, modules_to_not_convert=kept)
    bits, stacks = dtype_bits(activations), arch.expert_stacks()
    sizes = [(formulas.tensor_bytes(arch.vocab_size * arch.hidden_size, bits), 1)]
    for name, (n_in, n_out, copies) in arch.matrices().items():
        scheme = packed(stored) if stored in PACKED else SCHEMES.get(stored or work.scheme(arch, name))
        if stored and (name in kept or (scheme.stacks == "kept" and name in EXPERTS)):
            scheme = None
        one = scheme.payload_bytes(n_in, n_out) if scheme else formulas.tensor_bytes(n_in * n_out, bits)
        whole = name in stacks and (scheme is None or scheme.stacks != "one by one")
        experts = stacks[name][0] if whole else 1  # a layer's are one tensor
        sizes.append((experts * one, copies // experts))
    return sum(reserved_bytes(size, count) - count * size for size, count in sizes)


def _cache_beyond(arch, work):
    """What they add to the cache, a tensor for each layer and kind of rows."""
    if work.cache == "none" or work.kv_cache in STORED_CACHES:
        return 0
    bits, room = dtype_bits(work.kv_cache), work.key_len if work.cache == "growing" else work.cache_len
    beyond = 0
    for name, (heads, width) in arch.cache_rows(work.mla_cache).items():
        for slide in (False, True):
            tokens, layers = arch.kept_tokens(slide, room), arch.layers_caching(name, slide)
            tokens = formulas.paged_tokens(tokens, work.block_size if work.cache == "paged" else 1)
            if layers:
                size = formulas.cache_rows_bytes(work.batch, tokens, heads, width, bits)
                beyond = beyond + layers * (shared_bytes(size) - size)
    return beyond
