"""The footprint against the ledger, to the byte; arrays against loops; workloads that are refused."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures, live_after, small_architectures, workloads

import dsmem
from dsmem import Architecture, Workload, inference_footprint

GQA = Architecture.from_config("deepseek-r1-distill-qwen-7b")
PASSES = [(phase, attention) for phase in ("prefill", "decode") for attention in ("fused", "expanded", "eager")]

# Where the ledger sees an instant: module, operator (None: any) and which of its births in the first layer.
ATTENTION, MLP = "layers.0.self_attn", "layers.0.mlp"
INSTANTS = {
    "q_proj": (f"{ATTENTION}.q_proj", None, 0),
    "k_proj": (f"{ATTENTION}.k_proj", None, 0),
    "v_proj": (f"{ATTENTION}.v_proj", None, 0),
    "q_norm": (f"{ATTENTION}.q_norm", "rms_norm", 1),
    "rotate": (ATTENTION, "mul", 0),
    "read keys": (ATTENTION, "_to_copy", 0),
    "read values": (ATTENTION, "_to_copy", 1),
    "widen_keys": (ATTENTION, "clone", 0),
    "widen_values": (ATTENTION, "clone", 1),
    "queries_by_head": (ATTENTION, "clone", 2),
    "scores": (ATTENTION, "bmm", 0),
    "softmax": (ATTENTION, "_softmax", 0),
    "merge_heads": (ATTENTION, "clone", 3),
    "attention": (ATTENTION, "attention", 1),
    "o_proj": (f"{ATTENTION}.o_proj", None, 0),
    "add_attention": ("layers.0", "add", 0),
    "gate_proj": (f"{MLP}.gate_proj", None, 0),
    "silu": (MLP, "silu", 0),
    "up_proj": (f"{MLP}.up_proj", None, 0),
    "gate_times_up": (MLP, "mul", 0),
    "down_proj": (f"{MLP}.down_proj", None, 0),
    "add_mlp": ("layers.0", "add", 1),
    "lm_head": ("lm_head", None, 0),
}


def tensor_sizes(parts):
    """The sizes of the tensors behind the parts, weights apart; the tables are two, cosines twice the sines."""
    sizes = {name: nbytes for name, nbytes in parts.items() if not name.startswith("weight")}
    tables = sizes.pop("rope_tables")
    return collections.Counter([*sizes.values(), tables // 3 * 2, tables // 3])


def live_sizes(ledger):
    """The sizes of the tensors alive at the ledger's peak, parameters apart, the caches of all layers as one."""
    alive = [record for record in ledger.at_peak() if record.category != "weight"]
    cache = sum(record.nbytes for record in alive if record.category == "kv_cache")
    others = [record.nbytes for record in alive if record.category != "kv_cache"]
    return collections.Counter([*others, cache] if cache else others)


@pytest.mark.parametrize(("phase", "attention"), PASSES)
def test_the_total_is_the_ledgers_peak(phase, attention):
    @given(architectures(), workloads(phase, attention))
    @settings(max_examples=60)
    def check(arch, work):
        run = dsmem.measure(arch, work, device="fake")
        assert run.footprint.total_bytes == run.ledger.peak_bytes

    check()


@pytest.mark.parametrize(("phase", "attention"), PASSES)
def test_every_instant_is_what_the_ledger_holds_there(phase, attention):
    @given(architectures(), workloads(phase, attention))
    @settings(max_examples=30)
    def check(arch, work):
        run = dsmem.measure(arch, work, device="fake")
        seen = {name: live_after(run.ledger, *place) for name, place in INSTANTS.items()}
        assert run.footprint.totals == {name: nbytes for name, nbytes in seen.items() if nbytes is not None}

    check()


@given(architectures(), workloads())
@settings(max_examples=100)
def test_the_parts_are_the_tensors_alive_at_the_peak(arch, work):
    run = dsmem.measure(arch, work, device="fake")
    # equal instants may differ in their parts, and either may be the ledger's
    peaks = [p for p in run.footprint.instants.values() if sum(p.values()) == run.footprint.total_bytes]
    assert live_sizes(run.ledger) in [tensor_sizes(parts) for parts in peaks]


@given(architectures(), workloads())
@settings(max_examples=60)
def test_the_parts_have_the_ledgers_categories(arch, work):
    run = dsmem.measure(arch, work, device="fake")
    parts, booked = run.footprint.parts, run.ledger.by_category()
    named = {"weights": "weight", "kv_cache": "kv_cache", "buffers": "buffer", "token_ids": "input"}
    assert {part: parts.get(part, 0) for part in named} == {part: booked.get(c, 0) for part, c in named.items()}
    rest = sum(nbytes for part, nbytes in parts.items() if part not in named)
    assert rest == booked.get("activation", 0) + booked.get("temporary", 0)


@given(small_architectures(), workloads(batch=2, seq_len=16))
@settings(max_examples=30)
def test_the_total_is_the_ledgers_peak_on_real_tensors(arch, work):
    run = dsmem.measure(arch, work, device="cpu")
    assert run.footprint.total_bytes == run.ledger.peak_bytes


def arrays(limit):
    return st.lists(st.integers(1, limit), min_size=1, max_size=4).map(np.array)


@given(architectures(), workloads(), arrays(64), arrays(4096))
@settings(max_examples=60)
def test_arrays_give_the_same_as_loops(arch, work, batch, seq_len):
    options = {name: getattr(work, name) for name in ("phase", "weights", "kv_cache", "attention", "logits", "cache")}
    grid = inference_footprint(arch, Workload(batch[:, None], seq_len, **options))
    for (i, j), total in np.ndenumerate(grid.total_bytes):
        one = inference_footprint(arch, Workload(int(batch[i]), int(seq_len[j]), **options))
        assert (total, grid.peak_instant[i, j]) == (one.total_bytes, one.peak_instant)
        parts = {name: part[i, j] for name, part in grid.parts.items() if part[i, j]}
        assert parts == one.parts


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


@given(architectures(), workloads())
@settings(max_examples=100)
def test_parts_sum_to_the_total_and_the_total_is_the_largest_instant(arch, work):
    footprint = inference_footprint(arch, work)
    assert sum(footprint.parts.values()) == footprint.total_bytes == max(footprint.totals.values())
    assert footprint.totals[footprint.peak_instant] == footprint.total_bytes


@given(architectures(), workloads())
@settings(max_examples=60)
def test_bytes_of_one_workload_are_plain_ints(arch, work):
    footprint = inference_footprint(arch, work)
    assert {type(nbytes) for parts in footprint.instants.values() for nbytes in parts.values()} == {int}
    assert type(footprint.total_bytes) is int


def test_of_equal_instants_the_earliest_is_named():
    footprint = dsmem.Footprint({"first": {"a": 1}, "second": {"b": 3}, "third": {"c": 3}})
    assert (footprint.peak_instant, footprint.total_bytes, footprint.parts) == ("second", 3, {"b": 3})


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


def test_logits_of_the_last_token_alone_save_all_other_logits():
    every, last = (inference_footprint(GQA, Workload(4, 1024, logits=kept)) for kept in ("all", "last"))
    assert every.instants["lm_head"]["logits"] == 4 * 1024 * 152_064 * 2
    assert last.instants["lm_head"]["logits"] == 4 * 152_064 * 2


def test_decode_reads_the_cache_without_its_own_room_growing():
    work = Workload(1, 4096, "decode")
    assert (work.new_tokens, work.cached_tokens, work.key_len, work.cache_len) == (1, 4095, 4096, 4096)


def test_a_cache_makes_room_for_what_decode_needs():
    assert Workload(1, 16, "decode", cached_tokens=99).cache_len == 100


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
        ("attention", "flash", "fused, expanded, eager"),
        ("logits", "none", "all, last"),
        ("cache", "swapped", "static, growing, paged, none"),
        ("mla_cache", "absorbed", "latent, expanded"),
        ("block_size", 0, "at least 1"),
        ("weights", "fp6", "fp16"),
        ("weights", None, "fp16"),
        ("activations", "int4", "fp16"),
        ("kv_cache", "double", "fp16"),
        ("cached_tokens", 7, "decode"),
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


def test_sharding_is_refused(refuses):
    refuses(lambda: inference_footprint(GQA, Workload(), sharding={"tensor": 8}), "sharding", "'tensor': 8", "None")


def test_more_tokens_than_a_sliding_window_are_refused(refuses):
    arch = GQA.scaled(sliding_window=512)
    assert inference_footprint(arch, Workload(1, 512)).total_bytes
    refuses(lambda: inference_footprint(arch, Workload(1, 513)), "513", "sliding_window", "512")
    refuses(lambda: inference_footprint(arch, Workload(1, np.array([8, 600]))), "600", "sliding_window", "512")


def test_what_64_bits_cannot_hold_is_refused_for_arrays_and_counted_for_numbers(refuses):
    arch, how = Architecture.from_config("deepseek-r1"), {"attention": "eager", "weights": "bf16"}
    alone = inference_footprint(arch, batch=64, seq_len=10_000_000, **how).total_bytes
    assert alone == 3_277_048_559_332_868_224
    refuses(lambda: inference_footprint(arch, batch=[1, 64], seq_len=[10_000_000], **how), "batch=64", "64-bit")


@pytest.mark.parametrize(
    "options", [{}, {"phase": "decode", "kv_cache": "int8"}, {"weights": "int8", "logits": "last"}]
)
def test_working_memory_is_what_the_ledger_counts_beside_what_is_kept(options):
    arch = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2)
    run = dsmem.measure(arch, batch=2, seq_len=96, **options)
    assert run.footprint.working_bytes == run.ledger.working_bytes > 0
