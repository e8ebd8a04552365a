"""Exercises of notebook 05: blocks, segments and padding."""

from dsmem.check.exercise import Exercise, Mistake
from dsmem.memory import allocator
from dsmem.serving import requests

_MIB = 2**20


_REQUESTS = tuple({"nbytes": n} for n in (1000, 512, 1, 300_001, _MIB, _MIB + 1, 9 * _MIB, 10 * _MIB, 11 * _MIB + 3))


rounded_bytes = Exercise(
    "rounded_bytes",
    "Return the bytes of the block that holds a tensor of `nbytes`: a whole number of 512.",
    allocator.rounded_bytes,
    _REQUESTS[:6],
    (
        Mistake("not rounded", "A block is a whole number of 512 bytes.", lambda nbytes: nbytes),
        Mistake("rounded down", "A block that is too small holds no tensor.", lambda nbytes: nbytes // 512 * 512),
        Mistake(
            "always one more",
            "A tensor that is a whole number of 512 bytes needs no block beyond them.",
            lambda nbytes: (nbytes // 512 + 1) * 512,
        ),
        Mistake("counted in blocks", "Asked for are bytes, 512 for each.", lambda nbytes: -(-nbytes // 512)),
    ),
)


segment_bytes = Exercise(
    "segment_bytes",
    "Return the bytes that the allocator takes from the card for the first tensor of all, of `nbytes`.",
    allocator.segment_bytes,
    _REQUESTS[2:],
    (
        Mistake("the block alone", "The card is asked for whole segments.", allocator.rounded_bytes),
        Mistake(
            "whole 2 MiB for all",
            "Between 1 and 10 MiB the allocator takes 20 MiB, so that several such tensors can share them.",
            lambda nbytes: -(-nbytes // (2 * _MIB)) * 2 * _MIB,
        ),
        Mistake(
            "20 MiB for all that is large",
            "From 10 MiB on a tensor gets a segment of its own, in whole 2 MiB.",
            lambda nbytes: 2 * _MIB if nbytes <= _MIB else -(-nbytes // (20 * _MIB)) * 20 * _MIB,
        ),
        Mistake(
            "own segments not rounded",
            "A segment of its own is a whole number of 2 MiB.",
            lambda nbytes: allocator.segment_bytes(nbytes) if nbytes < 10 * _MIB else allocator.rounded_bytes(nbytes),
        ),
    ),
)


def _padding_bytes(lengths, token_bytes):
    return token_bytes * (requests.padded_tokens(lengths, len(lengths)) - requests.packed_tokens(lengths))


padding_bytes = Exercise(
    "padding_bytes",
    "Return the bytes that a batch of sequences of these `lengths` wastes when all are padded to the longest.",
    _padding_bytes,
    (
        {"lengths": [3, 10, 4, 9], "token_bytes": 57_344},
        {"lengths": [700, 700], "token_bytes": 28_672},
        {"lengths": [1, 2048, 2, 16, 300], "token_bytes": 57_344},
    ),
    (
        Mistake(
            "the whole batch",
            "What the tokens themselves take is no waste.",
            lambda lengths, token_bytes: len(lengths) * max(lengths) * token_bytes,
        ),
        Mistake(
            "what is used", "That is what the tokens need.", lambda lengths, token_bytes: sum(lengths) * token_bytes
        ),
        Mistake(
            "counted in tokens",
            "Each token takes token_bytes.",
            lambda lengths: len(lengths) * max(lengths) - sum(lengths),
        ),
        Mistake(
            "the shortest alone",
            "Every sequence is padded, not only the shortest.",
            lambda lengths, token_bytes: (max(lengths) - min(lengths)) * token_bytes,
        ),
    ),
)
