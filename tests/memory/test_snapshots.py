"""Snapshots that people bring: turned into traces exactly, and refused when they are damaged or hostile."""

import copy
import os
import pickle

import pytest
from gpus import RecordingGPU

from dsmem.memory.snapshots import load_snapshot, snapshot_trace
from dsmem.memory.traces import replay_trace, shipped

MIB = 2**20
BLOCKS = [(1024, 1000, "active_allocated"), (512, 0, "inactive"), (1536, 1300, "active_awaiting_free")]
TINY = {
    "segments": [
        {
            "device": 0,
            "address": 4096,
            "total_size": 2 * MIB,
            "stream": 140_000,
            "segment_type": "small",
            "segment_pool_id": (0, 0),
            "blocks": [{"size": size, "requested_size": asked, "state": state} for size, asked, state in BLOCKS]
            + [{"size": 2 * MIB - 3072, "state": "inactive"}],
        }
    ],
    "device_traces": [
        [
            {"action": "free_requested", "addr": 5120, "size": 100, "stream": 140_000},
            {"action": "free_completed", "addr": 5120, "size": 100, "stream": 140_000},
            {"action": "free_completed", "addr": 8 * MIB, "size": 7, "stream": 0},
            {"action": "segment_free", "addr": 8 * MIB, "size": 2 * MIB, "stream": 0},
            {"action": "alloc", "addr": 5632, "size": 1300, "stream": 140_000},
            {"action": "snapshot", "addr": 0, "size": 0, "stream": 0},
        ]
    ],
    "allocator_settings": {"max_split_size": -1, "roundup_power2_divisions": {"1": 0}, "expandable_segments": False},
}


def changed(change):
    snapshot = copy.deepcopy(TINY)
    change(snapshot)
    return snapshot


def dumped(path, snapshot, protocol=None):
    path.write_bytes(pickle.dumps(snapshot, protocol))
    return path


# ---- from a snapshot to a trace ----


def test_a_tiny_snapshot_by_hand():
    # backwards: the block at 5,632 goes, its segment at 8 MiB comes back, then a block in it, then one of 100 bytes
    assert snapshot_trace(TINY) == {
        "device": 0,
        "settings": {},
        "total_bytes": None,
        "start_segments": [[4096, 2 * MIB, "small", 1], [8 * MIB, 2 * MIB, None, 0]],
        "start_blocks": [[4096, 1000, 1024, False], [5120, 100, None, False], [8 * MIB, 7, None, False]],
        "events": [
            ["free_completed", 5120, 100, 1],
            ["free_completed", 8 * MIB, 7, 0],
            ["segment_free", 8 * MIB, 2 * MIB, 0],
            ["alloc", 5632, 1300, 1],
        ],
        "end_segments": [
            [4096, 2 * MIB, [[1024, True], [512, False], [1536, True], [2 * MIB - 3072, False]]],
        ],
    }


def test_the_replay_of_a_tiny_snapshot_finds_what_no_allocator_does():
    # 1,300 bytes fit right behind the first block, at 5,120: torch would not have left 512 bytes free there
    assert replay_trace(snapshot_trace(TINY)).model == "puts 1,300 bytes at 5120"


SETTINGS = ({}, {"expandable_segments": True}, {"max_split_size_mb": 20})


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_a_recorded_process_is_followed_through_full_memory_and_give_backs(settings, seed):
    gpu = RecordingGPU((100, 400)[seed % 2] * MIB, **settings).work(seed)
    assert replay_trace(snapshot_trace(gpu.snapshot(), total_bytes=gpu.capacity) | {"settings": settings}) is None


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
@pytest.mark.parametrize("last", [5, 60, 200])
def test_a_trace_that_lost_its_beginning_is_followed_from_there(settings, last):
    gpu = RecordingGPU(1000 * MIB, **settings).work(last)
    assert replay_trace(snapshot_trace(gpu.snapshot(last), total_bytes=gpu.capacity)) is None


def test_the_recorded_processes_meet_every_kind_of_event():
    gpus = [RecordingGPU(100 * MIB, **settings).work(seed) for settings in SETTINGS[:2] for seed in range(4)]
    seen = {event["action"] for gpu in gpus for event in gpu.events}
    assert {"segment_alloc", "segment_free", "segment_map", "segment_unmap", "oom", "alloc", "free_completed"} <= seen


@pytest.mark.parametrize("name", ["octree-cut-off", "sqattn-give-backs", "cs336-training-512"])
def test_a_published_trace_as_a_snapshot_has_the_start_that_was_found_for_it(name):
    trace = shipped(name)
    snapshot = as_snapshot(trace)
    again = snapshot_trace(snapshot)
    assert again["start_segments"] == sorted(trace["start_segments"])
    assert again["start_blocks"] == sorted(trace["start_blocks"])
    assert replay_trace(again) is None


def as_snapshot(trace):
    """The snapshot that a published trace may have come from: its end as our replay leaves it."""
    from dsmem.memory.follow import ReplayedGPU

    gpu = ReplayedGPU(trace)
    gpu.run()
    recorder = RecordingGPU(None)
    recorder.allocator = gpu.allocator
    rows = [dict(zip(("action", "addr", "size", "stream"), event, strict=True)) for event in trace["events"]]
    return recorder.snapshot() | {"device_traces": [rows]}


# ---- what is refused ----


def segment(**fields):
    return lambda snapshot: snapshot["segments"][0].update(fields)


def setting(**fields):
    return lambda snapshot: snapshot["allocator_settings"].update(fields)


def event(**fields):
    return lambda snapshot: snapshot["device_traces"][0][1].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda snapshot: snapshot.pop("segments"), ("snapshot", "segments")),
        (lambda snapshot: snapshot.update(device_traces=[{}]), ("snapshot", "no list")),
        (segment(address=-1), ("address=-1", "2**63")),
        (segment(address=True), ("address=True",)),
        (segment(segment_type="huge"), ("segment_type", "'huge'", "'small'")),
        (segment(total_size=4 * MIB), ("4,194,304", "add up")),
        (segment(segment_pool_id=(0, 1)), ("private pools",)),
        (segment(segment_pool_id=3), ("private pools",)),
        (segment(blocks=[{"size": 2 * MIB, "state": "active_allocated"}]), ("requested_size=None",)),
        (segment(blocks=[7]), ("a block",)),
        (setting(roundup_power2_divisions={"1": 4}), ("roundup_power2_divisions",)),
        (setting(roundup_power2_divisions=[4]), ("roundup_power2_divisions",)),
        (setting(garbage_collection_threshold=0.8), ("garbage_collection_threshold",)),
        (setting(max_split_size="a"), ("max_split_size='a'",)),
        (setting(PYTORCH_CUDA_ALLOC_CONF="backend:cudaMallocAsync"), ("cudaMallocAsync",)),
        (event(action="teleport"), ("event 1", "'teleport'", "free_requested")),
        (event(action=None), ("event 1", "action=None")),
        (event(addr=4096), ("event 1", "contradict")),
        (event(addr=2**70), ("event 1", "addr")),
        (event(pool_id=(0, 1)), ("event 1", "pool_id=(0, 1)")),
        (lambda snapshot: snapshot["device_traces"][0][4].update(size=8), ("event 4", "contradict")),
        (lambda snapshot: snapshot["device_traces"][0].insert(0, 5), ("event 0", "action")),
    ],
)
def test_a_damaged_snapshot_is_refused(change, words, refuses):
    refuses(lambda: snapshot_trace(changed(change)), *words)


@pytest.mark.parametrize("device", [1, -1, True, "cuda"])
def test_a_device_that_is_not_in_the_snapshot(device, refuses):
    refuses(lambda: snapshot_trace(TINY, device), "device", repr(device), "from 0 to 0")


# ---- files ----


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_snapshot_file_comes_back_as_it_was_written(protocol, tmp_path):
    path = dumped(tmp_path / "snapshot.pickle", TINY | {"more": [1.5, None, True, 2**70, "é"]}, protocol)
    assert load_snapshot(path) == pickle.loads(path.read_bytes())


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_not_executed(protocol, tmp_path, refuses):
    mark = tmp_path / "executed"
    path = dumped(tmp_path / "snapshot.pickle", TINY | {"more": Hostile(f"echo > {mark}")}, protocol)
    refuses(lambda: load_snapshot(path), "path", "system", "plain dicts")
    assert not mark.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not a pickle",
        b"(S'true'\nios\nsystem\n.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02\x82\x01.",  # from the extension registry
        b"Pid\n.",  # a persistent id
        b"\x80\x04N" + b"r\xff\xff\xff\xff.",  # a memo index of 4 billion
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00a.",  # bytes without end
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",  # lists within lists
        pickle.dumps({1, 2}, 4),
        pickle.dumps(bytearray(b"1"), 5),
        pickle.dumps([TINY]),
        pickle.dumps(TINY)[:-40],
    ],
)
def test_a_damaged_file_is_refused(payload, tmp_path, refuses):
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(payload)
    refuses(lambda: load_snapshot(path), "path", "snapshot")


def test_a_file_that_is_not_there(tmp_path, refuses):
    refuses(lambda: load_snapshot(tmp_path / "none.pickle"), "path", "cannot be read")
