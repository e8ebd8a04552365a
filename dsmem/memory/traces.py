"""A real GPU's allocator trace, replayed event by event on our model of the allocator until the two differ.

A trace is a dict: `start_segments` (address, bytes, "small", "large" or None, stream), `start_blocks` (address,
requested bytes, bytes or None, ...), `events` (action, address, bytes, stream), and, where known, `end_segments`
(address, bytes, [[bytes, used] per block]), `peak_reserved_bytes`, `peak_allocated_bytes`, `settings` of the
`CachingAllocator`, and `total_bytes` of the GPU, which limit how far an expandable segment can grow. `memory.snapshots`
makes one of a snapshot that somebody recorded.
"""

import base64
import dataclasses
import functools
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from dsmem.memory.follow import ACTIONS, GIVEN_BACK, TAKEN, Difference, Differs, ReplayedGPU
from dsmem.units import one_of

_KEYS = ("start_segments", "start_blocks", "events")
_PACKAGE = Path(__file__).parents[1]
_FILE = Path("data/measured/gpu_traces.json.xz")  # beside the modules in a wheel, beside the package in a checkout


@dataclasses.dataclass(frozen=True, eq=False)
class TraceReplay:
    """The model's bytes after each event, arrays as long as the events it got through, and the first `difference`.

    requested: as the tensors ask; allocated: in whole blocks; reserved: in segments taken from the GPU.
    difference: None, or a `Difference`.
    """

    requested_bytes: np.ndarray
    allocated_bytes: np.ndarray
    reserved_bytes: np.ndarray
    difference: Difference | None


def replay_trace(trace: dict[str, Any]) -> Difference | None:
    """None where our model does all that the GPU's trace says, else the first `Difference`.

    Same means: every block at the same address, the same segments taken and given back at the same events, out of
    memory at the same events, the same map of segments and blocks at the end, and the same peaks.
    trace: an entry of `data/measured/gpu_traces.json.xz`, or what `snapshots.snapshot_trace` returns.
    Raises ValueError for a trace that cannot be read.

    >>> trace = shipped("cs336-first-step")
    >>> replay_trace(trace) is None
    True
    >>> trace["events"][1][2] += 512
    >>> print(replay_trace(trace))
    event 2: the trace puts 2,097,152 bytes at 4706009088 of stream 0; the model puts 2,097,152 bytes at 4706009600
    """
    return run_trace(trace).difference


def run_trace(trace: dict[str, Any]) -> TraceReplay:
    """The `TraceReplay` of a trace: the model's bytes after each event, and where it differs first."""
    _check(trace)
    replayed = ReplayedGPU(trace)
    try:
        replayed.run()
        difference = None
    except Differs as found:
        difference = found.args[0]
    return TraceReplay(*np.array(replayed.rows, dtype=np.int64).reshape(-1, 3).T, difference)


def trace_bytes(trace: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """What the trace alone says after each event: arrays (requested bytes, reserved bytes).

    No rule of ours is used; the bytes of whole blocks are not in a trace, but for those in use at its end.

    >>> requested, reserved = trace_bytes(shipped("cs336-first-step"))
    >>> int(requested.max()), int(reserved.max())
    (3249143816, 3781165056)
    """
    _check(trace)
    signs = {"alloc": (1, 0), "free_completed": (-1, 0), "oom": (0, 0)}
    signs |= dict.fromkeys(TAKEN, (0, 1)) | dict.fromkeys(GIVEN_BACK, (0, -1))
    changes = np.array([(*signs[action], nbytes) for action, _, nbytes, _ in trace["events"]], dtype=np.int64)
    changes = changes.reshape(-1, 3)
    start = [sum(row[1] for row in trace[name]) for name in ("start_blocks", "start_segments")]
    return tuple(begin + np.cumsum(changes[:, column] * changes[:, 2]) for column, begin in enumerate(start))


def _check(trace):
    missing = [key for key in _KEYS if not isinstance(trace, dict) or not isinstance(trace.get(key), list)]
    if missing:
        raise ValueError(f"trace has no list {missing[0]!r}; it must be a dict with {', '.join(_KEYS)}")
    for number, event in enumerate(trace["events"]):
        if len(event) != 4 or event[0] not in ACTIONS or not _are_counts(event[2:] if event[0] == "oom" else event[1:]):
            allowed = f"(action, address, bytes, stream) with an action of {', '.join(ACTIONS)}"
            raise ValueError(f"trace has event {number} {event!r}; it must be {allowed}")
    for row in trace["start_segments"] + trace["start_blocks"]:
        if len(row) != 4 or not _are_counts(row[:2]):
            raise ValueError(f"trace has {row!r} at its start; it must have 4 fields and begin with address and bytes")


def _are_counts(values):
    return all(type(value) is int and value >= 0 for value in values)


def shipped(name: str | None = None) -> dict[str, Any]:
    """Traces of real GPUs that come with the kit, {name: trace}, recorded and published by others; or the one named.

    Each has its `source` (repository, file and commit) and `licence`. ValueError for a name that is not there.

    >>> len(shipped()), len(shipped("octree-inference")["events"])
    (13, 1598)
    """
    traces = json.loads(_text())["traces"]
    if name is None:
        return traces
    one_of("name", name, traces, "a trace that comes with the kit")
    return traces[name]


def pack_trace(trace: dict[str, Any]) -> str:
    """A trace as short text that keeps all of it, for a recorded run; `unpack_trace` gives it back.

    >>> trace = shipped("cs336-first-step")
    >>> unpack_trace(pack_trace(trace)) == trace
    True
    """
    return base64.b85encode(lzma.compress(json.dumps(trace, separators=(",", ":")).encode())).decode()


def unpack_trace(text: str) -> dict[str, Any]:
    """The trace in a text made by `pack_trace`, ready for `replay_trace`."""
    return json.loads(lzma.decompress(base64.b85decode(text)))


@functools.cache
def _text():
    path = next(folder / _FILE for folder in (_PACKAGE, _PACKAGE.parent) if (folder / _FILE).is_file())
    return lzma.decompress(path.read_bytes()).decode()
