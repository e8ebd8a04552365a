"""Real GPUs' traces on our allocator: the same addresses, segments and map; every change and every other rule shows."""

import copy

import numpy as np
import pytest

from dsmem.memory import allocator, traces
from dsmem.memory.traces import replay_trace, run_trace, shipped, trace_bytes

MIB = 2**20
SHIPPED = shipped()
by_name = pytest.mark.parametrize("name", SHIPPED)


def trace(events, segments=(), blocks=(), **more):
    """A trace from its start and events."""
    return {"start_segments": list(segments), "start_blocks": list(blocks), "events": [list(e) for e in events]} | more


# ---- real GPUs ----


@by_name
def test_the_model_does_all_that_the_real_gpu_did(name):
    assert replay_trace(SHIPPED[name]) is None


@by_name
def test_the_replays_bytes_are_the_traces_own(name):
    replayed, (requested, reserved) = run_trace(SHIPPED[name]), trace_bytes(SHIPPED[name])
    assert np.array_equal(replayed.requested_bytes, requested)
    assert np.array_equal(replayed.reserved_bytes, reserved)
    assert (replayed.allocated_bytes >= requested).all() and (replayed.allocated_bytes <= reserved).all()


def test_the_shipped_traces_are_telling_ones():
    streams = {name: {event[3] for event in one["events"]} for name, one in SHIPPED.items()}
    assert len(streams["select-n-ten-streams"]) == 10
    given_back = [name for name, one in SHIPPED.items() if any(event[0] == "segment_free" for event in one["events"])]
    assert {"octree-inference", "octree-cut-off", "select-n-ten-streams", "sqattn-give-backs"} == set(given_back)
    assert any(block[3] for block in SHIPPED["cs336-training-512"]["start_blocks"])  # a size seen from a later address
    assert not SHIPPED["cs336-from-empty"]["start_segments"]
    assert all("@" in one["source"] and one["licence"] == "not stated" for one in SHIPPED.values())


def test_a_trace_that_does_not_come_with_the_kit(refuses):
    refuses(lambda: shipped("my-gpu"), "name", "'my-gpu'", "octree-inference")


@pytest.mark.parametrize("number", range(71))
def test_a_changed_event_is_reported_where_it_stands(number):
    changed = copy.deepcopy(SHIPPED["cs336-first-step"])
    field = 2 if changed["events"][number][0] == "segment_alloc" else 1  # where a segment lies is the GPU's own choice
    changed["events"][number][field] += 512
    assert replay_trace(changed).event == number


def test_a_changed_end_and_a_changed_peak_are_reported_after_all_events():
    for name in ("end_segments", "peak_reserved_bytes", "peak_allocated_bytes"):
        changed = copy.deepcopy(SHIPPED["cs336-first-step"])
        if name == "end_segments":
            changed[name][0][1] += 512
        else:
            changed[name] += 512
        assert replay_trace(changed).event == len(changed["events"]), name


@pytest.mark.parametrize(
    "rule", ["BLOCK_BYTES", "SMALL_BYTES", "SMALL_SEGMENT_BYTES", "LARGE_ALLOC_BYTES", "ROUND_LARGE_BYTES"]
)
def test_another_rule_is_noticed(rule, monkeypatch):
    monkeypatch.setattr(allocator, rule, getattr(allocator, rule) * 2)
    assert any(replay_trace(one) for name, one in SHIPPED.items() if len(one["events"]) < 6000), rule


# ---- worked by hand ----

FIRST = ("segment_alloc", 1000 * MIB, 20 * MIB, 0)
PLACED = ("alloc", 1000 * MIB, 5 * MIB, 0)
FULL = [[0, 20 * MIB, "large", 0]]
LIVE = [[0, 5 * MIB, None, False], [12 * MIB, 8 * MIB, None, False]]


@pytest.mark.parametrize(
    ("events", "number", "model"),
    [
        ([("alloc", 0, 5 * MIB, 0)], 0, "takes a segment of 20,971,520 bytes for stream 0"),
        ([(*FIRST[:2], 10 * MIB, 0), PLACED], 0, "takes a segment of 20,971,520 bytes for stream 0"),
        ([FIRST, PLACED, FIRST, ("alloc", 1005 * MIB, 5 * MIB, 0)], 2, "puts 5,242,880 bytes at 1053818880"),
        ([FIRST, PLACED, ("alloc", 1006 * MIB, 5 * MIB, 0)], 2, "puts 5,242,880 bytes at 1053818880"),
        ([FIRST, PLACED, ("alloc", 1005 * MIB, 5 * MIB, 1)], 2, "takes a segment of 20,971,520 bytes for stream 1"),
        ([FIRST, PLACED, ("free_completed", 0, 5 * MIB, 0)], 2, "has no block there"),
        (
            [FIRST, PLACED, ("free_completed", 1000 * MIB, 512, 0)],
            2,
            "has a block of 5,242,880 bytes for stream 0 there",
        ),
        ([FIRST, PLACED, ("segment_free", 1000 * MIB, 20 * MIB, 0)], 2, "has nothing left to give back"),
        ([FIRST, PLACED, ("oom", 0, 5 * MIB, 0)], 2, "puts 5,242,880 bytes at 1053818880"),
        ([FIRST], 0, "takes memory for a request alone, and none follows"),
    ],
)
def test_the_first_difference_says_what_each_of_the_two_does(events, number, model):
    found = replay_trace(trace(events))
    assert (found.event, found.model) == (number, model)
    assert str(found) == f"event {number}: the trace {found.trace}; the model {model}"


def test_a_start_is_filled_with_its_blocks():
    events = [("alloc", 5 * MIB, 7 * MIB, 0), ("free_completed", 0, 5 * MIB, 0)]
    end = [[0, 20 * MIB, [[5 * MIB, False], [7 * MIB, True], [8 * MIB, True]]]]
    assert replay_trace(trace(events, FULL, LIVE, end_segments=end)) is None
    assert run_trace(trace(events, FULL, LIVE)).allocated_bytes.tolist() == [20 * MIB, 15 * MIB]


def test_a_rest_of_at_most_1_mib_stays_with_a_block_of_unknown_size():
    blocks = [[0, 11 * MIB, None, False], [12 * MIB, 8 * MIB, None, False]]
    assert replay_trace(trace([], FULL, blocks, peak_allocated_bytes=20 * MIB)) is None


def test_out_of_memory_comes_after_all_that_is_cached_went_back():
    start, blocks = [*FULL, [100 * MIB, 30 * MIB, "large", 0]], LIVE
    full = ("oom", 0, 40 * MIB, 0)
    assert replay_trace(trace([("segment_free", 100 * MIB, 30 * MIB, 0), full], start, blocks)) is None
    found = replay_trace(trace([full], start, blocks))
    assert (found.event, found.model) == (0, "gives back 31,457,280 bytes at 104857600 of stream 0")


def test_the_order_in_which_segments_go_back_is_free_and_none_may_be_kept():
    start = [[0, 20 * MIB, "large", 0], [100 * MIB, 30 * MIB, "large", 1]]
    events = [("segment_free", 100 * MIB, 30 * MIB, 1), ("segment_free", 0, 20 * MIB, 0)]
    assert replay_trace(trace(events, start)) is replay_trace(trace(events[::-1], start)) is None
    assert replay_trace(trace(events[:1], start)).model == "gives back 20,971,520 bytes at 0 of stream 0"


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ([], ("trace", "start_segments")),
        ({"start_segments": [], "start_blocks": []}, ("trace", "events")),
        (trace([("malloc", 0, 1, 0)]), ("event 0", "malloc", "segment_unmap")),
        (trace([("alloc", 0, 1)]), ("event 0", "bytes")),
        (trace([("alloc", 0, "1", 0)]), ("event 0", "'1'")),
        (trace([], FULL, [[30 * MIB, 1, None, False]]), ("blocks", "no segment")),
        (trace([], FULL, [[0, 5 * MIB, None, False], [MIB, 5 * MIB, None, False]]), ("blocks", "overlaps")),
        (trace([], FULL, [[0, 30 * MIB, None, False]]), ("blocks", "left there")),
    ],
)
def test_a_damaged_trace_is_refused(damaged, words, refuses):
    refuses(lambda: replay_trace(damaged), *words)


def test_a_packed_trace_comes_back_whole():
    assert traces.unpack_trace(traces.pack_trace(SHIPPED["octree-inference"])) == SHIPPED["octree-inference"]
