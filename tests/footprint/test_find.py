"""Lines of real out-of-memory errors, and the tensors that they were about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmem import Architecture, find_tensor
from dsmem.__main__ import main
from dsmem.footprint.find import size_range

SEVENTY = Architecture.from_config("deepseek-r1-distill-llama-70b")
WORDS_64K = Architecture.from_config("llama-2-7b").scaled(vocab_size=64_000)

# Public reports; each matched a tensor to the byte, but only after a loop by hand.
REPORTS = [
    ("Tried to allocate 448.00 MiB", SEVENTY, "gate_proj", "bf16 or fp16", 28_672 * 8192 * 2),
    ("Tried to allocate 172.00 MiB. GPU 0 has 14.58 GiB", "llama-2-7b", "down_proj", "fp32", 11_008 * 4096 * 4),
    ("1.96 GiB", SEVENTY, "embed_tokens, lm_head", "bf16 or fp16", 128_256 * 8192 * 2),
    ("250.00 MiB", WORDS_64K, "logits", "fp32", 1024 * 64_000 * 4),
    ("56.00 MiB", "deepseek-r1", "experts.gate_up_proj of one expert", "bf16 or fp16", 2 * 2048 * 7168 * 2),
    ("56.00 MiB", "deepseek-r1", "experts.down_proj of one expert", "fp32", 2048 * 7168 * 4),
    (536_870_912, "qwen2.5-72b", "hidden state", "bf16 or fp16", 32_768 * 8192 * 2),
    (29_540_067_328, "deepseek-r1-distill-qwen-14b", "all weights at once", "bf16 or fp16", 29_540_067_328),
]


@pytest.mark.parametrize(("size", "model", "what", "element", "nbytes"), REPORTS)
def test_a_reported_size_is_traced_to_its_tensor_among_the_first(size, model, what, element, nbytes):
    first = find_tensor(size, model).candidates[:5]
    assert any(what in found.what and (found.element, found.nbytes) == (element, nbytes) for found in first)


# of a 28,672 x 8,192 matrix: 4 bits a number, and llama.cpp's blocks by the package gguf's table
PACKED = [
    ("4 bit, two in a byte", 117_440_512),
    ("q4_K or q4_0", 132_120_576),
    ("q6_K", 192_675_840),
    ("q8_0", 249_561_088),
]


@pytest.mark.parametrize(("element", "nbytes"), PACKED)
def test_a_packed_matrix_is_found(element, nbytes):
    found = find_tensor(nbytes, SEVENTY).candidates
    assert any(c.what.startswith("gate_proj") and (c.element, c.nbytes) == (element, nbytes) for c in found)


def test_the_number_of_tokens_that_would_explain_it_is_said():
    found = next(c for c in find_tensor("250.00 MiB", WORDS_64K).candidates if c.what == "logits")
    assert found.when == "batch × length is 1,024 tokens"
    scores = find_tensor(32 * 4096**2 * 2, "llama-2-7b", most=99).candidates
    assert any("scores" in c.what and "4,096 tokens" in c.when and c.shape == "1 × 32 × 4,096 × 4,096" for c in scores)


@given(st.integers(1, 2**45))
def test_what_torch_prints_of_a_size_always_covers_it(nbytes):
    unit, divisor = next((u, d) for u, d in (("GiB", 2**30), ("MiB", 2**20), ("bytes", 1)) if nbytes >= d)
    text = f"{nbytes / divisor:.2f} {unit}" if divisor > 1 else f"{nbytes} bytes"
    low, high = size_range(f"Tried to allocate {text}")
    assert low <= nbytes <= high


def test_every_candidate_has_a_size_that_the_message_covers():
    for size, model, *_ in REPORTS:
        low, high = size_range(size)
        assert all(low <= found.nbytes <= high for found in find_tensor(size, model, most=99).candidates)


@pytest.mark.parametrize("size", ["out of memory", "448", "", None, 0, -5, 1.5, True, "448 parsecs"])
def test_a_text_without_a_size_is_refused(size, refuses):
    refuses(lambda: find_tensor(size, "llama-2-7b"), "size", repr(size), "448 MiB")


def test_the_command_line_takes_the_line_as_it_is_and_refuses_in_a_sentence(capsys):
    assert main(["find-tensor", "CUDA out of memory. Tried to allocate 172.00 MiB", "llama-2-7b"]) == 0
    assert "down_proj" in capsys.readouterr().out
    assert main(["find-tensor", "nothing", "llama-2-7b"]) == 2
    assert capsys.readouterr().err.startswith("dsmem find-tensor: size='nothing'")
    assert main(["find-tensor", "1 GiB", "no-such-model"]) == 2
