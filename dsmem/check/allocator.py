"""Exercises of notebook 05: blocks, segments and padding."""

from dsmem.check.exercise import Exercise, Mistake
from dsmem.memory import allocator
from dsmem.units import MIB

_SMALL = tuple({"nbytes": n} for n in (1000, 512, 1, 300_001, MIB, MIB + 1))
_LARGE = tuple({"nbytes": n} for n in (9 * MIB, 10 * MIB - 1, 10 * MIB, 11 * MIB + 3))


rounded_bytes = Exercise(
    "rounded_bytes",
    "Return the bytes of the block that holds a tensor of `nbytes`: a multiple of 512.",
    allocator.rounded_bytes,
    _SMALL,
    nudge="How many pieces of 512 bytes does the tensor begin?",
    mistakes=(
        Mistake("not rounded", "A block is a multiple of 512 bytes.", lambda nbytes: nbytes),
        Mistake(
            "rounded down",
            "The tensor would not fit into that block, so round up.",
            lambda nbytes: nbytes // 512 * 512,
        ),
        Mistake(
            "rounded to the nearest",
            "Even one byte more than a multiple of 512 needs the next one, so always round up.",
            lambda nbytes: (nbytes + 256) // 512 * 512,
        ),
        Mistake(
            "always one more",
            "A tensor that is a multiple of 512 bytes needs nothing beyond it.",
            lambda nbytes: (nbytes // 512 + 1) * 512,
        ),
        Mistake(
            "counted in pieces of 512",
            "The answer must be in bytes, 512 for each piece.",
            lambda nbytes: -(-nbytes // 512),
        ),
    ),
    formula="return -(-nbytes // 512) * 512",
    notebook="05",
)


def _segment(nbytes, own_from=10 * MIB, small_up_to=MIB):
    """The segment for a tensor or block of `nbytes`, with limits that may be wrong by one byte."""
    if nbytes <= small_up_to:
        return 2 * MIB
    return 20 * MIB if nbytes < own_from else -(-nbytes // (2 * MIB)) * 2 * MIB


def _own_segments_not_rounded(nbytes):
    block = allocator.rounded_bytes(nbytes)
    return block if block >= 10 * MIB else _segment(block)


segment_bytes = Exercise(
    "segment_bytes",
    "Return the bytes that the allocator takes from the GPU for the first tensor of all, of `nbytes`.",
    allocator.segment_bytes,
    _SMALL[2:] + _LARGE,
    nudge="Round to whole blocks first, then ask which of three kinds of segment a block of that size comes from.",
    mistakes=(
        Mistake("the block alone", "The allocator asks the GPU for whole segments.", allocator.rounded_bytes),
        Mistake(
            "the tensor's size in place of the block's",
            "One byte below 10 MiB, a tensor already needs a block of 10 MiB, so round to 512 bytes first.",
            _segment,
        ),
        Mistake(
            "2 MiB up to but not including 1 MiB",
            "A block of exactly 1 MiB still comes from a small segment.",
            lambda nbytes: _segment(allocator.rounded_bytes(nbytes), small_up_to=MIB - 1),
        ),
        Mistake(
            "20 MiB up to and including 10 MiB",
            "A block of exactly 10 MiB already gets a segment of its own.",
            lambda nbytes: _segment(allocator.rounded_bytes(nbytes), own_from=10 * MIB + 1),
        ),
        Mistake(
            "whole 2 MiB for all",
            "Between 1 and 10 MiB the allocator takes 20 MiB, so that several such tensors can share them.",
            lambda nbytes: -(-nbytes // (2 * MIB)) * 2 * MIB,
        ),
        Mistake(
            "20 MiB for all that is large",
            "From 10 MiB on, a tensor gets a segment of its own, in steps of 2 MiB.",
            lambda nbytes: 2 * MIB if nbytes <= MIB else -(-nbytes // (20 * MIB)) * 20 * MIB,
        ),
        Mistake(
            "own segments not rounded",
            "A segment of its own is a multiple of 2 MiB.",
            _own_segments_not_rounded,
        ),
    ),
    formula="""block = -(-nbytes // 512) * 512
if block <= 2**20:
    return 2 * 2**20
if block < 10 * 2**20:
    return 20 * 2**20
return -(-block // (2 * 2**20)) * 2 * 2**20""",
    notebook="05",
)


def _padding_bytes(lengths, token_bytes):
    return (len(lengths) * max(lengths) - sum(lengths)) * token_bytes


padding_bytes = Exercise(
    "padding_bytes",
    "Return the bytes that a batch of sequences of these `lengths` wastes when all are padded to the longest.",
    _padding_bytes,
    (
        {"lengths": [3, 10, 4, 9], "token_bytes": 57_344},
        {"lengths": [700, 700], "token_bytes": 28_672},
        {"lengths": [1, 2048, 2, 16, 300], "token_bytes": 70_272},
    ),
    nudge="How many places does the padded batch have, and how many of them hold a token?",
    mistakes=(
        Mistake(
            "the whole batch",
            "The places that hold tokens are not wasted.",
            lambda lengths, token_bytes: len(lengths) * max(lengths) * token_bytes,
        ),
        Mistake(
            "what is used", "That is what the tokens need.", lambda lengths, token_bytes: sum(lengths) * token_bytes
        ),
        Mistake(
            "tokens in place of bytes",
            "Each token takes token_bytes.",
            lambda lengths: len(lengths) * max(lengths) - sum(lengths),
        ),
        Mistake(
            "the shortest alone",
            "Every sequence is padded, not only the shortest.",
            lambda lengths, token_bytes: (max(lengths) - min(lengths)) * token_bytes,
        ),
    ),
    notebook="05",
)
