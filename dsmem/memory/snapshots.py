"""A snapshot of a GPU's memory that somebody brings: read without running anything, and turned into a trace.

Such files come from `torch.cuda.memory._dump_snapshot(path)` after `torch.cuda.memory._record_memory_history()`. They
show the memory at the end and the last events, so the memory at the first event is found by running them backwards.
"""

import io
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dsmem.memory.allocator import MIB
from dsmem.memory.backwards import Backwards
from dsmem.memory.follow import ACTIONS

MAX_BYTES = 2**30
_SILENT = ("free_requested", "snapshot", "user_defined")  # change nothing in the allocator
_PLAIN = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "NONE", "NEWTRUE", "NEWFALSE"),
    *("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "INT", "BININT", "BININT1", "BININT2"),
    *("LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "LIST"),
    *("APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM"),
    *("SETITEMS", "GLOBAL", "STACK_GLOBAL", "INST"),  # the last three end in find_class, which refuses by name
)


class _PlainUnpickler(pickle._Unpickler):
    """Builds dicts, lists, tuples, strings, bytes and numbers; whatever would import or call something is refused.

    Python's own unpickler written in Python: slower than the C one (2 s for 100,000 events with stacks), but a damaged
    file cannot make it reserve memory of any size.
    """

    dispatch = {
        code: read
        for code, read in pickle._Unpickler.dispatch.items()
        if chr(code) in {getattr(pickle, name).decode("latin-1") for name in _PLAIN}
    }

    def find_class(self, module, name):
        raise ValueError(f"asks for {module}.{name}")


def load_snapshot(path: str | Path) -> dict[str, Any]:
    """The dict in a snapshot file of `torch.cuda.memory._dump_snapshot`. Nothing in the file is imported or called.

    Raises ValueError for a file over 1 GiB, one that holds more than plain containers, or one that is no snapshot.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"holds {path.stat().st_size:,} bytes of at most {MAX_BYTES:,}")
        snapshot = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise ValueError(f"path={str(path)!r} cannot be read ({error}); it must be a snapshot file") from None
    except Exception as error:  # a damaged pickle fails in many ways
        said = f"opcode {error.args[0]}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        allowed = "it must be a snapshot of plain dicts, lists, tuples, strings and numbers"
        raise ValueError(f"path={str(path)!r} is refused ({said}); {allowed}") from None
    _known(snapshot, f"path={str(path)!r}")
    return snapshot


def snapshot_trace(snapshot: dict[str, Any], device: int = 0, total_bytes: int | None = None) -> dict[str, Any]:
    """The trace of one device in a snapshot, for `traces.replay_trace`: the memory at its first event, and the events.

    snapshot: what `load_snapshot` or `torch.cuda.memory._snapshot()` returns. device: the GPU's number.
    total_bytes: all of the GPU's memory, where known; a full GPU with expandable segments is followed only with it.
    Streams are numbered from 0 in the order of their handles. A block that is freed within the trace shows its size
    only through the next address handed out; where none is, it is None and follows from the allocator's rules.
    Raises ValueError for a damaged snapshot, and for what the allocator's model leaves out: private pools of CUDA
    graphs, rounding to powers of two, garbage collection by threshold, other backends.
    """
    _known(snapshot, "snapshot")
    count = len(snapshot["device_traces"])
    if isinstance(device, bool) or not isinstance(device, int) or not 0 <= device < count:
        raise ValueError(f"device={device!r} is not in the snapshot; it must be a whole number from 0 to {count - 1}")
    segments = [segment for segment in snapshot["segments"] if _field(segment, "device", "a segment") == device]
    said = snapshot.get("allocator_settings")
    settings = _settings(said if isinstance(said, dict) else {}, segments)
    events = list(_events(snapshot["device_traces"][device]))
    streams = {*(event[-1] for event in events), *(_field(segment, "stream", "a segment") for segment in segments)}
    number = {stream: place for place, stream in enumerate(sorted(streams))}
    events = [(*event[:-1], number[event[-1]]) for event in events]
    past = Backwards([_segment(segment, number) for segment in segments], settings.get("expandable_segments", False))
    for event in reversed(events):
        past.undo(*event)
    events = [list(event[1:]) for event in events]
    start = {"start_segments": past.segments_now(events), "start_blocks": past.blocks_now(events)}
    known = {"device": device, "settings": settings, "total_bytes": total_bytes}
    return known | start | {"events": events, "end_segments": past.end}


def _known(snapshot, argument):
    names = ("segments", "device_traces")
    wrong = [name for name in names if not isinstance(snapshot, dict) or not isinstance(snapshot.get(name), list)]
    if wrong:
        raise ValueError(f"{argument} has no list {wrong[0]!r}; it must be a snapshot with segments and device_traces")
    if not all(isinstance(trace, list) for trace in snapshot["device_traces"]):
        raise ValueError(f"{argument} has a device trace that is no list; it must hold one list of events per device")


def _field(entry, name, what, kind=int):
    """A field of an entry; bytes, addresses and streams are whole numbers from 0 to 2**63 - 1."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and not 0 <= value < 2**63):
        allowed = "a whole number from 0 to 2**63 - 1" if kind is int else f"a {kind.__name__}"
        raise ValueError(f"snapshot has {what} with {name}={value!r}; it must be {allowed}")
    return value


def _settings(said, segments):
    """The settings of the `CachingAllocator` that the snapshot was taken under; refuses what the model leaves out."""
    _left_out(said, segments)
    kinds = {bool(segment.get("is_expandable", False)) for segment in segments}
    if len(kinds) > 1:
        raise ValueError("snapshot has both expandable and other segments; it must have one kind, for one is replayed")
    settings = {"expandable_segments": True} if True in kinds or (not kinds and said.get("expandable_segments")) else {}
    if said.get("max_split_size", -1) not in (-1, None):
        settings["max_split_size_mb"] = _field(said, "max_split_size", "allocator_settings") // MIB
    middling = re.search(r"large_segment_size_mb:(\d+)", str(said.get("PYTORCH_CUDA_ALLOC_CONF")))
    return settings | ({"large_segment_size_mb": int(middling[1])} if middling else {})


def _left_out(said, segments):
    """ValueError, by name, for what the allocator's model leaves out; only a default value is known to be harmless."""
    divisions = said.get("roundup_power2_divisions") or {}
    divisions = divisions.values() if isinstance(divisions, dict) else divisions
    found = {
        "roundup_power2_divisions": not isinstance(divisions, Iterable) or any(n not in (0, 1) for n in divisions),
        "garbage_collection_threshold": said.get("garbage_collection_threshold", 0) != 0,
        "backend:cudaMallocAsync": "cudaMallocAsync" in str(said.get("PYTORCH_CUDA_ALLOC_CONF")),
        "private pools": any(_private(segment, "segment_pool_id") for segment in segments),
    }
    name = next((name for name, there in found.items() if there), None)
    if name:
        raise ValueError(f"snapshot was taken with {name}, which the allocator's model leaves out; it must be without")


def _private(entry, name):
    return entry.get(name, (0, 0)) not in ((0, 0), [0, 0], None)


def _events(entries):
    """(number in the snapshot, action, address, bytes, stream) of the events that change the allocator's memory."""
    for place, entry in enumerate(entries):
        what = f"event {place}"
        action = _field(entry, "action", what, str)
        if _private(entry, "pool_id"):
            raise ValueError(
                f"snapshot has {what} with pool_id={entry['pool_id']!r}; it must be (0, 0), no private pool"
            )
        if action in ACTIONS:
            address = entry.get("device_free") if action == "oom" else _field(entry, "addr", what)
            yield place, action, address, _field(entry, "size", what), _field(entry, "stream", what)
        elif action not in _SILENT:
            allowed = ", ".join(ACTIONS + _SILENT)
            raise ValueError(f"snapshot has {what} with action={action!r}; allowed: {allowed}")


def _segment(segment, number):
    """(address, bytes, kind, stream, [(bytes, requested bytes or None) per block])."""
    kind = _field(segment, "segment_type", "a segment", str)
    if kind not in ("small", "large"):
        raise ValueError(f"snapshot has a segment with segment_type={kind!r}; it must be 'small' or 'large'")
    nbytes, blocks = _field(segment, "total_size", "a segment"), []
    for block in _field(segment, "blocks", "a segment", list):
        used = _field(block, "state", "a block", str) != "inactive"
        blocks.append((_field(block, "size", "a block"), _field(block, "requested_size", "a block") if used else None))
    if sum(size for size, _ in blocks) != nbytes:
        raise ValueError(f"snapshot has a segment of {nbytes:,} bytes whose blocks do not add up; they must")
    return _field(segment, "address", "a segment"), nbytes, kind, number[segment["stream"]], blocks
