"""Reading a GPU's own story, as far as a machine without one can: snapshots in the shape that torch documents."""

from dsmem.memory.cuda import compact_trace, expected_workspace_bytes, trace_events
from dsmem.memory.replay import replay
from dsmem.runs.recordings import pack, unpack

SNAPSHOT = {
    "segments": [],
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


def test_a_trace_keeps_blocks_and_segments_and_numbers_their_addresses():
    expected = [[2, 0, 2**21], [1, 0, 1024], [1, 1, 512], [-1, 0, 1024], [1, 0, 512]]
    assert compact_trace(SNAPSHOT) == expected
    assert unpack(pack(expected)).tolist() == expected


def test_a_block_at_an_address_used_before_is_a_new_one():
    events = trace_events(compact_trace(SNAPSHOT))
    assert [(change, label) for _, change, label in events] == [(n, "traced") for n in (1024, 512, -1024, 512)]
    assert events[0][0] == events[2][0] != events[3][0]


def test_a_trace_can_be_replayed():
    replayed = replay(trace_events(compact_trace(SNAPSHOT)))
    assert replayed.allocated_bytes.tolist() == [1024, 1536, 512, 1024]
    assert replayed.peak_reserved_bytes == 2**21


def test_the_workspace_grows_with_compute_capability_nine():
    assert [expected_workspace_bytes((major, 0)) for major in (7, 8, 9, 12)] == [8_519_680] * 2 + [2**25] * 2
