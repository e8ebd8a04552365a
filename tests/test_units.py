"""Bytes in words, and widths of number formats against torch's own."""

import pytest
import torch

from dsmem import units

TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("name", TORCH)
def test_a_format_is_as_wide_as_torchs(name):
    assert units.dtype_bits(name) == 8 * TORCH[name].itemsize


@pytest.mark.parametrize("name", ["fp17", "float64", ""])
def test_an_unknown_format_is_refused_by_name(name, refuses):
    refuses(lambda: units.dtype_bits(name, "kv_cache"), "kv_cache", repr(name), *TORCH)


@pytest.mark.parametrize("name", ["float16", "torch.float16", torch.float16, "half", "FP16"])
def test_a_format_has_many_spellings(name):
    assert units.format_name(name) == "fp16" and units.dtype_bits(name) == 16


def test_a_gib_is_not_a_gb():
    assert units.gib(80 * 2**30) == 80
    assert units.gb(80 * 2**30) == 85.89934592


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536 * 2**20, "1.50 GiB"),
        (-(2**40), "-1.00 TiB"),
        (327_680, "320.00 KiB"),
    ],
)
def test_bytes_in_words_use_binary_units(nbytes, words):
    assert units.format_bytes(nbytes) == words
