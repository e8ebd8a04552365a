"""Huffman coding: bit for bit there and back, as short as the theory allows, and beside published sizes."""

import heapq
import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dsmem.model import load_model, small_path
from dsmem.model.quantize import entropy, huffman

PUBLISHED = (0.676, 0.695)  # share of BF16's size: DFloat11, arXiv 2504.11651, table 2, from 70B of Llama to SD 3.5
EVERY_BYTE = np.arange(256, dtype=np.uint8)


def same_bits(a, b):
    return a.shape == b.shape and torch.equal(a.view(torch.int16), b.view(torch.int16))


def huffman_bits(counts):
    """Bits of the best code of all, by the textbook's two least trees, without a limit."""
    heap = [int(count) for count in counts if count]
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        bits += joined
        heapq.heappush(heap, joined)
    return bits


def bit_by_bit(coded):
    """Decode as one would by hand: one bit after the other until a code is complete."""
    pairs = zip(coded.lengths, huffman.codes(coded.lengths), strict=True)
    names = {(int(length), int(code)): symbol for symbol, (length, code) in enumerate(pairs) if length}
    out, code, length = [], 0, 0
    for bit in np.unpackbits(coded.data):
        code, length = 2 * code + int(bit), length + 1
        if (length, code) in names:
            out.append(names[length, code])
            code = length = 0
    return out[: coded.count]


@pytest.mark.parametrize(
    "symbols",
    [np.array([0], np.uint8), np.full(10_000, 255, np.uint8), EVERY_BYTE, np.repeat(EVERY_BYTE, 1 + EVERY_BYTE),
     np.repeat(EVERY_BYTE[:30], [int(1.6**i) + 1 for i in range(30)])],
    ids=["one", "one many times", "every byte once", "every byte", "longer than the limit"],
)  # fmt: skip
def test_any_bytes_come_back(symbols):
    coded = huffman.encode(symbols)
    assert np.array_equal(huffman.decode(coded), symbols)
    assert coded.lengths.max() <= huffman.LIMIT


@given(arrays.arrays(np.uint8, st.integers(1, 300)))
def test_it_decodes_as_one_would_by_hand(symbols):
    coded = huffman.encode(symbols)
    assert bit_by_bit(coded) == symbols.tolist() == huffman.decode(coded).tolist()


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=256).filter(lambda counts: sum(map(bool, counts)) > 1))
@settings(max_examples=30)
def test_the_code_is_complete_and_the_best_there_is(counts):
    counts = np.array(counts)
    lengths = huffman.code_lengths(counts)
    assert sum(2.0 ** -int(n) for n in lengths if n) == 1  # Kraft: no code is wasted
    bits = int((counts * lengths).sum())
    assert bits == huffman_bits(counts) or (lengths.max() == huffman.LIMIT and bits > huffman_bits(counts))
    shares = counts[counts > 0] / counts.sum()
    assert 0 <= bits / counts.sum() + (shares * np.log2(shares)).sum() + 1e-9 < 1 + 1e-9 or lengths.max() == 15


@given(st.lists(st.integers(1, 500), min_size=5, max_size=5))
@settings(max_examples=20)
def test_under_a_limit_the_code_is_the_best_of_all(counts):
    counts = np.array(counts)
    lengths = huffman.code_lengths(counts, limit=3)
    every = (np.array(each) for each in itertools.product((1, 2, 3), repeat=5))
    best = min(int((counts * each).sum()) for each in every if (0.5**each).sum() <= 1)
    assert lengths.max() <= 3 and int((counts * lengths).sum()) == best


def test_the_codes_are_those_of_the_standards_example():
    # RFC 1951, section 3.2.2
    lengths = np.array([3, 3, 3, 3, 3, 2, 4, 4])
    shown = [f"{code:0{length}b}" for code, length in zip(huffman.codes(lengths), lengths, strict=True)]
    assert shown == ["010", "011", "100", "101", "110", "00", "1110", "1111"]


@pytest.mark.parametrize("coder", entropy.CODERS)
def test_the_trained_model_comes_back_bit_for_bit(coder):
    model = load_model(small_path(), weights="bf16")
    weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    packed = entropy.pack(weights, coder)
    assert same_bits(entropy.unpack(packed), weights)
    if coder == "own":  # to the byte: signs and mantissas, the bits of all codes, the table, the starts
        counts, coded = np.bincount(entropy.fields(weights)[0], minlength=256), packed.coded
        bits = int((counts * coded.lengths).sum())
        assert huffman_bits(counts) <= bits < 1.0002 * huffman_bits(counts)  # a few rare ones would be longer than 15
        assert packed.nbytes == len(weights) + -(-bits // 8) + 128 + 8 * -(-len(weights) // huffman.CHUNK)
    assert 0.66 < packed.nbytes / weights.nbytes < PUBLISHED[1]


@pytest.mark.parametrize("coder", entropy.CODERS)
def test_numbers_that_no_weight_has_come_back(coder):
    odd = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, -1e-40, 3e38, 1.0]).bfloat16()
    assert same_bits(entropy.unpack(entropy.pack(odd, coder)), odd)
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16).view(256, 256)
    assert same_bits(entropy.unpack(entropy.pack(every, coder)), every)


@pytest.mark.parametrize("std", [0.004, 0.01, 0.02, 0.05, 0.3])
def test_normal_weights_shrink_to_a_little_less_than_published(std):
    weight = (std * torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))).bfloat16()
    exponents, _ = entropy.fields(weight)
    coded = huffman.encode(exponents)
    bits = entropy.entropy(exponents)
    assert 2.4 < bits < 2.7  # published: about 2.6
    assert bits <= 8 * coded.data.nbytes / coded.count < bits + 0.1
    for coder in entropy.CODERS:
        share = entropy.pack(weight, coder).nbytes / weight.nbytes
        assert PUBLISHED[0] - 0.02 < share < PUBLISHED[1]


def test_a_million_weights_take_a_moment():
    weight = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    start = time.process_time()
    assert same_bits(entropy.unpack(entropy.pack(weight, "own")), weight)
    assert time.process_time() - start < 5  # half a second or so, on a machine with nothing else to do


def test_the_size_is_that_of_everything_kept():
    packed = entropy.pack(torch.ones(5000).bfloat16(), "own")
    # signs and mantissas; a bit each; a length of half a byte for each of 256 symbols; two starts of 8 bytes
    assert packed.nbytes == 5000 + 625 + 128 + 16


def test_what_is_no_bf16_is_refused(refuses):
    refuses(lambda: entropy.pack(torch.ones(3)), "weight is in torch.float32")
    refuses(lambda: entropy.pack(torch.ones(3).bfloat16(), "gzip"), "coder='gzip' is not a coder")
    refuses(lambda: huffman.encode(np.array([], np.uint8)), "counts has 0 symbols that come")


def test_normal_weights_leave_what_is_published_for_models():
    shares = entropy.normal_shares()
    one, mixed = shares["BF16, one layer"], shares["BF16, all layers under one code"]
    assert one < PUBLISHED[0] < mixed < PUBLISHED[1]
    assert shares["FP8"] > 0.8 and shares["INT8"] > 0.85
