"""Decode steps beside their floor: the times are this machine's, so only what must hold on any is held."""

import pytest
import torch

import dsmem
from dsmem.runs.floor import ReadInt8, decode_floors, read_bandwidth

SMALL = dsmem.Architecture.of("qwen3-1.7b").scaled(
    hidden_size=256, intermediate_size=512, num_hidden_layers=2, vocab_size=64, tie_word_embeddings=False
)


@pytest.fixture(scope="module")
def floors():
    return decode_floors(SMALL, batches=(1, 8), tokens=4, repeats=2)


def test_every_step_has_a_time_and_a_floor(floors):
    assert [(step.weights, step.batch) for step in floors.steps] == [("bf16", 1), ("bf16", 8), ("int8", 1), ("int8", 8)]
    assert all(step.seconds > 0 and step.floor_seconds > 0 for step in floors.steps)
    assert floors.bandwidth_bytes_per_s > 1e8


def test_the_floor_is_the_bytes_of_the_weights_over_the_bandwidth(floors):
    matrices = sum(n_in * n_out * copies for n_in, n_out, copies in SMALL.matrices().values())
    bf16, int8 = (floors.of(weights)[0].floor_seconds * floors.bandwidth_bytes_per_s for weights in ("bf16", "int8"))
    assert 2 * matrices < bf16 < 2.02 * matrices
    assert matrices < int8 < 1.03 * matrices  # scales, norms, one row of the embedding, the cache


def test_a_table_has_a_row_for_each_batch(floors):
    table = floors.table()
    assert table.column("batch") == [1, 8]
    assert "GB/s in the same run" in repr(floors)


def test_where_there_is_no_product_in_int8_it_is_left_out(monkeypatch):
    def refuse(*args):
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(torch, "_weight_int8pack_mm", refuse)
    found = decode_floors(SMALL, batches=(1,), tokens=4, repeats=1)
    assert found.formats == ["bf16"] and "int8 is left out" in repr(found)


def test_the_product_in_int8_is_that_of_the_rounded_weight():
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    layer = ReadInt8(weight)
    exact = x.double() @ (layer.weight.double() * layer.scale.double()[:, None]).T
    assert layer(x).shape == (2, 3, 48)
    assert float((layer(x).double() - exact).norm() / exact.norm()) < 0.01
    assert sum(p.nbytes for p in layer.parameters()) == 48 * 64 + 2 * 48


def test_bandwidth_is_a_rate():
    assert 1e8 < read_bandwidth(repeats=1, nbytes=2**24) < 1e13


def test_what_is_not_timed_is_refused(refuses):
    refuses(lambda: decode_floors("qwen3-30b-a3b"), "arch='qwen3-30b-a3b' has experts, biases or a tied head")
    refuses(lambda: decode_floors(SMALL, batches=(0,)), "batch=0")
