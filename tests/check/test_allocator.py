"""Notebook 05's exercises: the right answers and the common mistakes, written as a reader would write them."""

from exercises import checks_of, up

from dsmem.check import EXERCISES
from dsmem.units import MIB


def segment(nbytes):
    block = up(nbytes, 512) * 512
    if block <= MIB:
        return 2 * MIB
    return 20 * MIB if block < 10 * MIB else up(block, 2 * MIB) * 2 * MIB


def segment_of_the_tensor(nbytes):
    if nbytes <= MIB:
        return 2 * MIB
    return 20 * MIB if nbytes < 10 * MIB else up(nbytes, 2 * MIB) * 2 * MIB


RIGHT = {
    "rounded_bytes": lambda nbytes: up(nbytes, 512) * 512,
    "segment_bytes": segment,
    "padding_bytes": lambda lengths, token_bytes: sum(max(lengths) - length for length in lengths) * token_bytes,
}

WRONG = {
    "rounded_bytes": {
        "not rounded": lambda nbytes: nbytes,
        "rounded down": lambda nbytes: nbytes - nbytes % 512,
        "rounded to the nearest": lambda nbytes: round(nbytes / 512) * 512,
        "always one more": lambda nbytes: nbytes - nbytes % 512 + 512,
        "counted in pieces of 512": lambda nbytes: up(nbytes, 512),
    },
    "segment_bytes": {
        "the block alone": lambda nbytes: up(nbytes, 512) * 512,
        "the tensor's size in place of the block's": segment_of_the_tensor,
        "2 MiB up to but not including 1 MiB": lambda nbytes: 20 * MIB if nbytes == MIB else segment(nbytes),
        "20 MiB up to and including 10 MiB": lambda nbytes: (
            20 * MIB if up(nbytes, 512) * 512 == 10 * MIB else segment(nbytes)
        ),
        "whole 2 MiB for all": lambda nbytes: up(nbytes, 2 * MIB) * 2 * MIB,
        "20 MiB for all that is large": lambda nbytes: 2 * MIB if nbytes <= MIB else up(nbytes, 20 * MIB) * 20 * MIB,
        "own segments not rounded": lambda nbytes: (
            up(nbytes, 512) * 512 if up(nbytes, 512) * 512 >= 10 * MIB else segment(nbytes)
        ),
    },
    "padding_bytes": {
        "the whole batch": lambda lengths, token_bytes: max(lengths) * len(lengths) * token_bytes,
        "what is used": lambda lengths, token_bytes: sum(lengths) * token_bytes,
        "tokens in place of bytes": lambda lengths: sum(max(lengths) - length for length in lengths),
        "the shortest alone": lambda lengths, token_bytes: (max(lengths) - min(lengths)) * token_bytes,
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)


def test_one_byte_below_10_mib_takes_10_mib_and_not_20():
    assert segment(10_485_759) == EXERCISES["segment_bytes"].reference(10_485_759) == 10 * MIB
    assert segment_of_the_tensor(10_485_759) == 20 * MIB
    assert {"nbytes": 10_485_759} in EXERCISES["segment_bytes"].cases
