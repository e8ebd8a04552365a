"""The footprint by itself: arrays against loops, sums, known sizes, its table, and passes that are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import passes

import dsmem
from dsmem import Architecture, Workload, inference_footprint
from dsmem.footprint import cache_bytes, cache_growth
from dsmem.units import QUANTIZED

GQA = Architecture.from_config("deepseek-r1-distill-qwen-7b")
SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=3)
each_format = pytest.mark.parametrize("weights", [None, *QUANTIZED])


@each_format
def test_arrays_give_the_same_as_loops(weights):
    @given(passes(weights), SIZES, SIZES)
    @settings(max_examples=40)
    def check(case, batch, seq_len):
        arch, work = case
        work = work.changed(cached_tokens=None)  # in a decode it follows from seq_len
        grid = inference_footprint(arch, work.changed(batch=np.array(batch)[:, None], seq_len=np.array(seq_len)))
        for (i, j), total in np.ndenumerate(grid.total_bytes):
            one = inference_footprint(arch, work.changed(batch=batch[i], seq_len=seq_len[j]))
            assert (total, grid.peak_instant[i, j]) == (one.total_bytes, one.peak_instant)
            assert {name: part[i, j] for name, part in grid.parts.items() if part[i, j]} == one.parts

    check()


@each_format
def test_parts_are_plain_ints_that_sum_to_the_total_and_the_total_is_the_largest_instant(weights):
    @given(passes(weights))
    @settings(max_examples=40)
    def check(case):
        footprint = inference_footprint(*case)
        assert {type(nbytes) for parts in footprint.instants.values() for nbytes in parts.values()} == {int}
        assert sum(footprint.parts.values()) == footprint.total_bytes == max(footprint.totals.values())
        assert footprint.totals[footprint.peak_instant] == footprint.total_bytes

    check()


def test_cached_tokens_may_be_an_array_too():
    cached = np.array([0, 100, 5000])
    grid = inference_footprint(GQA, Workload(2, 1024, "decode", cached_tokens=cached))
    loop = [inference_footprint(GQA, Workload(2, 1024, "decode", cached_tokens=int(c))).total_bytes for c in cached]
    assert grid.total_bytes.tolist() == loop


def test_sweeps_do_not_overflow_at_the_largest_cache_of_a_large_model():
    arch = Architecture.from_config("llama-3.1-405b")
    grid = inference_footprint(arch, Workload(np.array([256], dtype=np.int32), np.array([2**20], dtype=np.int32)))
    one = inference_footprint(arch, Workload(256, 2**20))
    assert grid.total_bytes.tolist() == [one.total_bytes]


def test_of_equal_instants_the_earliest_is_named():
    footprint = dsmem.Footprint({"first": {"a": 1}, "second": {"b": 3}, "third": {"c": 3}})
    assert (footprint.peak_instant, footprint.total_bytes, footprint.parts) == ("second", 3, {"b": 3})


@pytest.mark.parametrize(
    ("name", "mla_cache", "part", "per_token"),
    [
        ("deepseek-r1", "latent", "latent_cache", 70_272),  # arXiv 2505.09343, table 1
        ("deepseek-r1", "expanded", "kv_cache", 4_997_120),
        ("qwen2.5-72b", "latent", "kv_cache", 327_680),
        ("llama-3.1-405b", "latent", "kv_cache", 516_096),
    ],
)
def test_a_cached_token_takes_the_published_bytes(name, mla_cache, part, per_token):
    fp = inference_footprint(name, batch=1, seq_len=1, weights="bf16", mla_cache=mla_cache)
    assert fp.instants["lm_head"][part] == per_token


def test_weights_are_two_bytes_for_each_published_parameter():
    assert inference_footprint(GQA, Workload()).parts["weights"] == 2 * 7_615_616_512


def test_the_cache_of_one_long_sequence_is_the_known_one():
    llama = Architecture.from_config("deepseek-r1-distill-llama-70b")
    assert inference_footprint(llama, Workload(1, 131_072)).parts["kv_cache"] == 40 * 2**30  # 320 KiB a token


def test_one_layers_hidden_state_is_far_from_the_peak_of_a_forward_pass():
    llama = Architecture.from_config("llama-2-7b")
    footprint = inference_footprint(llama, Workload(16, 2048, attention="eager", cache="none"))
    scores = footprint.parts["attention_weights"]
    assert scores == 16 * 32 * 2048 * 2048 * 2
    assert footprint.peak_instant in ("softmax", "merge_heads")


@pytest.mark.parametrize(("weights", "more"), [("fp16", 4), ("bf16", 6), ("fp32", 0)])
def test_a_softmax_in_float32_takes_so_many_bytes_a_score_more(weights, more):
    """FP16: the weights in float32. BF16: the scores and the weights in float32, less the weights in BF16."""
    plain, precise = (
        inference_footprint("llama-2-7b", seq_len=4096, weights=weights, attention=attention)
        for attention in ("eager", "eager_fp32")
    )
    assert precise.total_bytes - plain.total_bytes == more * 32 * 4096**2
    assert ("attention_weights_wide" in precise.parts) == (more > 0) == ("scores_wide" in precise.parts or more == 4)


def test_logits_of_the_last_token_alone_save_all_other_logits():
    every, last = (inference_footprint(GQA, Workload(4, 1024, logits=kept)) for kept in ("all", "last"))
    assert every.instants["lm_head"]["logits"] == 4 * 1024 * 152_064 * 2
    assert last.instants["lm_head"]["logits"] == 4 * 152_064 * 2


def test_the_table_lists_each_part_and_the_total():
    footprint = inference_footprint(GQA, Workload(4, 1024))
    table = footprint.table()
    assert footprint.peak_instant in str(table).splitlines()[0]
    for part, nbytes in [*footprint.parts.items(), ("total", footprint.total_bytes)]:
        assert f"{nbytes:,}" in next(line for line in str(table).splitlines() if line.split()[0] == part)
    assert repr(footprint) == str(table)


def test_a_footprint_of_arrays_has_no_table_but_can_be_shown(refuses):
    footprint = inference_footprint(GQA, Workload(np.array([1, 2]), 16))
    refuses(footprint.table, "table()", "2", "one workload")
    assert repr(footprint)


def test_a_sharding_that_the_model_does_not_allow_is_refused(refuses):
    refuses(lambda: inference_footprint(GQA, Workload(), sharding={"tensor": 5}), "tensor=5", "num_attention_heads")


def test_what_64_bits_cannot_hold_is_refused_for_arrays_and_counted_for_numbers(refuses):
    arch, how = Architecture.from_config("deepseek-r1"), {"attention": "eager", "weights": "bf16"}
    alone = inference_footprint(arch, batch=64, seq_len=10_000_000, **how).total_bytes
    assert alone == 3_277_048_559_332_868_224
    refuses(lambda: inference_footprint(arch, batch=[1, 64], seq_len=[10_000_000], **how), "batch=64", "64-bit")
    row = 70_272  # arXiv 2405.04434, table 1: 9/2 of 128 dimensions in each of 61 layers, 2 bytes each
    big = {"batch": 2**30, "seq_len": 2**30}
    assert cache_bytes(arch, weights="bf16", **big) == {"latent_cache": 2**60 * row}
    refuses(lambda: cache_bytes(arch, **{name: [size, 1] for name, size in big.items()}), "batch=1073741824", "64-bit")
    end = 2**63 - 1
    assert cache_bytes(arch, phase="decode", seq_len=end) == {"latent_cache": end * row}
    refuses(lambda: cache_bytes(arch, phase="decode", seq_len=[end], cached_tokens=[end]), f"seq_len={end}")
    refuses(lambda: Workload(batch=np.array([2**63], dtype=np.uint64)), "batch", "9223372036854775808")


def test_a_growing_cache_of_short_integers_does_not_wrap():
    curves = cache_growth("deepseek-r1", np.array([40_000], dtype=np.int32), room=1)
    assert curves["growing"].tolist() == [40_000 * 70_272]


@pytest.mark.parametrize(
    "options", [{}, {"phase": "decode", "kv_cache": "int8"}, {"weights": "int8", "logits": "last"}]
)
def test_working_memory_is_what_the_ledger_counts_beside_what_is_kept(options):
    arch = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2)
    run = dsmem.measure(arch, batch=2, seq_len=96, **options)
    assert run.footprint.working_bytes == run.ledger.working_bytes > 0
