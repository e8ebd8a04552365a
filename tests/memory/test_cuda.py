"""Reading a GPU's own story, as far as a machine without one can: snapshots in the shape that torch documents."""

import pytest

from dsmem.memory import cuda
from dsmem.memory.cuda import expected_workspace_bytes, trace_events
from dsmem.memory.replay import replay
from dsmem.memory.snapshots import snapshot_trace
from dsmem.memory.traces import pack_trace, replay_trace, unpack_trace

SNAPSHOT = {
    "segments": [
        {
            "device": 0,
            "address": 4096,
            "total_size": 2**21,
            "stream": 0,
            "segment_type": "small",
            "blocks": [
                {"size": 512, "requested_size": 512, "state": "active_allocated"},
                {"size": 512, "state": "inactive"},
                {"size": 512, "requested_size": 512, "state": "active_allocated"},
                {"size": 2**21 - 1536, "state": "inactive"},
            ],
        }
    ],
    "device_traces": [
        [
            {"action": "segment_alloc", "addr": 4096, "size": 2**21, "stream": 0},
            {"action": "alloc", "addr": 4096, "size": 1024, "stream": 0},
            {"action": "alloc", "addr": 5120, "size": 512, "stream": 0},
            {"action": "free_requested", "addr": 4096, "size": 1024, "stream": 0},
            {"action": "free_completed", "addr": 4096, "size": 1024, "stream": 0},
            {"action": "alloc", "addr": 4096, "size": 512, "stream": 0},
            {"action": "snapshot", "addr": 0, "size": 0, "stream": 0},
        ]
    ],
}


def test_a_trace_keeps_all_that_an_exact_replay_needs():
    trace = snapshot_trace(SNAPSHOT)
    assert replay_trace(trace) is None
    assert unpack_trace(pack_trace(trace)) == trace


def test_a_block_at_an_address_used_before_is_a_new_one():
    events = trace_events(snapshot_trace(SNAPSHOT))
    assert [(change, label) for _, change, label in events] == [(n, "traced") for n in (1024, 512, -1024, 512)]
    assert events[0][0] == events[2][0] != events[3][0]


def test_a_trace_can_be_replayed():
    replayed = replay(trace_events(snapshot_trace(SNAPSHOT)))
    assert replayed.allocated_bytes.tolist() == [1024, 1536, 512, 1024]
    assert replayed.peak_reserved_bytes == 2**21


@pytest.mark.parametrize(("version", "large"), [("2.11.0+cu130", (9,)), ("2.13.0", (9, 10, 12))])
def test_the_workspace_depends_on_compute_capability_and_version(version, large):
    for major in (7, 8, 9, 10, 11, 12):
        expected = 2**25 if major in large else 8_519_680
        assert expected_workspace_bytes((major, 0), version) == expected


@pytest.mark.parametrize(
    ("child", "words"),
    [
        ("raise SystemExit('no GPU for you')", "no GPU for you"),
        ("print('warning: 7 things')", "no word of why"),
        ("pass", "no word of why"),
    ],
)
def test_a_second_process_that_fails_says_why_and_is_no_number(monkeypatch, child, words):
    monkeypatch.setattr(cuda, "_CHILD", child)
    monkeypatch.setattr(cuda, "_used", lambda: 0)
    with pytest.raises(RuntimeError, match=f"context is not known: {words}"):
        cuda.context_bytes()


def test_the_context_is_what_a_second_process_takes_beyond_its_segments(monkeypatch):
    used = iter([1000, 151_000])
    monkeypatch.setattr(cuda, "_CHILD", "print(2000, flush=True); input()")
    monkeypatch.setattr(cuda, "_used", lambda: next(used))
    assert cuda.context_bytes() == 148_000
