"""What stands beside a model's tensors: the allocator's part against replays, contexts and workspaces as published."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsmem
from dsmem.config.devices import devices
from dsmem.config.overhead import CONTEXT_BYTES, CONTEXTS, WORKSPACES, overhead
from dsmem.footprint.fit.verdict import fit
from dsmem.footprint.segments import reserved_bytes, shared_bytes
from dsmem.memory.allocator import segment_bytes
from dsmem.memory.cuda import expected_workspace_bytes
from dsmem.memory.replay import replay, smallest_capacity_bytes


@pytest.mark.parametrize(
    ("model", "training", "fields"),
    [
        ("qwen2.5-0.5b", None, {"seq_len": 16}),
        ("deepseek-r1-distill-qwen-1.5b", None, {"seq_len": 4096, "weights": "int4"}),
        ("deepseek-r1-distill-llama-8b", None, {"seq_len": 4096, "batch": 4, "phase": "decode", "cache": "growing"}),
        ("gpt2", True, {"seq_len": 512, "batch": 2}),
    ],
)
def test_a_replay_runs_in_what_is_kept_for_segments(model, training, fields):
    run = dsmem.measure(model, training=training, **fields)
    answer = fit(model, gpu="H200", training=training, **fields)
    assert answer.peak_bytes == run.ledger.peak_bytes
    low, high = answer.overhead["segments"]
    assert low <= smallest_capacity_bytes(run.replay.events) - run.ledger.peak_bytes <= high


@given(st.integers(1, 40 * 2**20), st.integers(1, 40), st.integers(0, 2**20))
@settings(max_examples=40)
def test_segments_of_equal_tensors_are_the_allocators(nbytes, count, more):
    events = [(number, nbytes, "weight") for number in range(count)]
    assert reserved_bytes(nbytes, count) == replay(events).peak_reserved_bytes
    assert reserved_bytes(nbytes, 1) == segment_bytes(-(-nbytes // 512) * 512)
    assert reserved_bytes(nbytes, 100) <= 100 * shared_bytes(nbytes) + 20 * 2**20
    assert nbytes <= shared_bytes(nbytes) <= shared_bytes(nbytes + more)
    assert shared_bytes(np.array([nbytes, nbytes + more])).tolist() == [
        shared_bytes(nbytes),
        shared_bytes(nbytes + more),
    ]


def test_contexts_and_workspaces_are_the_published_ones():
    assert {size for pair in CONTEXTS.values() for size in pair} <= set(CONTEXT_BYTES.values())
    for name in ("T4", "A100 80 GB", "H100", "RTX 4090"):
        capability = dsmem.GPUS[name].capability
        expected = expected_workspace_bytes(capability)
        assert overhead(devices(name), 0)["workspace"] == (expected, expected)
        assert overhead(devices(name), 0, threads=2)["workspace"] == (2 * expected, 2 * expected)
    for name in ("B200", "RTX 5090"):
        versions = {expected_workspace_bytes(dsmem.GPUS[name].capability, v) for v in ("2.11.0", "2.13.0")}
        assert set(overhead(devices(name), 0)["workspace"]) == versions == set(WORKSPACES)
    assert set(overhead(devices("MI300X"), 0)) == {"segments"} and overhead(devices("Apple M4 32"), 0) == {}
