"""A workload's fields: what follows from them, what a change takes along, and what is refused."""

import math

import pytest

from dsmem import Workload


@pytest.mark.parametrize(
    ("work", "changes", "expected"),
    [
        (Workload(weights="fp16"), {"weights": "bf16"}, Workload(weights="bf16")),
        (Workload(weights="bf16"), {"weights": "int8"}, Workload(weights="int8")),
        (
            Workload(weights="int8", activations="bf16"),
            {"weights": "int8_w8a8"},
            Workload(weights="int8_w8a8", activations="bf16"),
        ),
        (Workload(weights="fp16", kv_cache="fp32"), {"batch": 8}, Workload(8, weights="fp16", kv_cache="fp32")),
        (Workload(4, 1024), {"phase": "decode"}, Workload(4, 1024, "decode")),
        (Workload(4, 1024, "decode"), {"seq_len": 64}, Workload(4, 64, "decode")),
        (Workload(4, 1024, "decode", cached_tokens=7), {"batch": 1}, Workload(1, 1024, "decode", cached_tokens=7)),
        (Workload(4, 512, cached_tokens=7), {"batch": 1}, Workload(1, 512, cached_tokens=7)),
        (Workload(4, 512, "decode"), {"phase": "prefill"}, Workload(4, 512)),
        (Workload(4, 512, cached_tokens=512), {"phase": "decode"}, Workload(4, 512, "decode", cached_tokens=512)),
    ],
)
def test_a_change_is_followed_by_what_follows_by_default(work, changes, expected):
    assert work.changed(**changes) == expected


def test_a_change_that_is_not_allowed_is_refused(refuses):
    refuses(lambda: Workload().changed(batch=-1), "batch", "-1", "at least 1")


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("batch", -1, "at least 1"),
        ("batch", 0, "at least 1"),
        ("batch", 2.0, "whole number"),
        ("batch", True, "whole number"),
        ("batch", "4", "whole number"),
        ("batch", math.nan, "whole number"),
        ("batch", [], "at least 1"),
        ("seq_len", 0, "at least 1"),
        ("seq_len", -7, "at least 1"),
        ("seq_len", 1e3, "whole number"),
        ("seq_len", [16, 0], "at least 1"),
        ("phase", "train", "prefill, decode"),
        ("attention", "flash", "fused, expanded, eager, eager_fp32, auto"),
        ("logits", "none", "all, last"),
        ("cache", "swapped", "static, growing, paged, none"),
        ("mla_cache", "absorbed", "latent, expanded"),
        ("block_size", 0, "at least 1"),
        ("weights", "fp6", "fp16"),
        ("activations", "int4", "fp16"),
        ("kv_cache", "double", "fp16"),
        ("cached_tokens", -7, "at least 0"),
    ],
)
def test_an_impossible_workload_is_refused(argument, value, allowed, refuses):
    refuses(lambda: Workload(**{argument: value}), argument, repr(value), allowed)


@pytest.mark.parametrize("cached", [-1, 1.5, "all"])
def test_decode_with_impossible_cached_tokens_is_refused(cached, refuses):
    refuses(lambda: Workload(phase="decode", cached_tokens=cached), "cached_tokens", repr(cached), "at least 0")


def test_activations_in_another_format_than_float_weights_are_refused(refuses):
    refuses(lambda: Workload(weights="fp16", activations="fp32"), "activations", "'fp32'", "fp16")


def test_decode_without_a_cache_is_refused(refuses):
    refuses(lambda: Workload(phase="decode", cache="none"), "cache", "'none'", "decode", "static")


def test_a_chunk_without_a_cache_is_refused(refuses):
    refuses(lambda: Workload(cached_tokens=9, cache="none"), "cache", "'none'", "cached_tokens=9", "static")


def test_a_chunk_is_new_tokens_after_cached_ones():
    work = Workload(1, 512, cached_tokens=1536)
    assert (work.new_tokens, work.cached_tokens, work.key_len, work.cache_len) == (512, 1536, 2048, 2048)


def test_decode_reads_the_cache_without_its_own_room_growing():
    work = Workload(1, 4096, "decode")
    assert (work.new_tokens, work.cached_tokens, work.key_len, work.cache_len) == (1, 4095, 4096, 4096)


def test_a_cache_makes_room_for_what_decode_needs():
    assert Workload(1, 16, "decode", cached_tokens=99).cache_len == 100
