"""A snapshot of a GPU's memory that somebody brings: read without running anything, and turned into a trace.

Such files come from `torch.cuda.memory._dump_snapshot(path)` after `torch.cuda.memory._record_memory_history()`. They
show the memory at the end and the last events, so the memory at the first event is found by running them backwards.
"""

import bisect
import io
import pickle
import re
from pathlib import Path
from typing import Any

from dsmem.memory.allocator import MIB, SMALL_BYTES, rounded_bytes
from dsmem.memory.follow import ACTIONS, GIVEN_BACK, TAKEN

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

    snapshot: what `load_snapshot` or `torch.cuda.memory._snapshot()` returns. device: the GPU's number. total_bytes: all
    of the GPU's memory, where known: a full GPU with expandable segments can be followed with it alone.
    Streams are numbered from 0 in the order of their handles. A block that is freed within the trace shows its size
    only through the next address handed out; where none is, it is None and follows from the allocator's rules.
    Raises ValueError for a damaged snapshot, and for what the allocator's model leaves out: private pools of CUDA graphs,
    rounding to powers of two, garbage collection by threshold, other backends.
    """
    _known(snapshot, "snapshot")
    count = len(snapshot["device_traces"])
    if isinstance(device, bool) or not isinstance(device, int) or not 0 <= device < count:
        raise ValueError(f"device={device!r} is not in the snapshot; it must be a whole number from 0 to {count - 1}")
    segments = [segment for segment in snapshot["segments"] if _field(segment, "device", "a segment") == device]
    settings = _settings(snapshot.get("allocator_settings", {}), segments)
    events = list(_events(snapshot["device_traces"][device]))
    streams = {*(event[3] for event in events), *(_field(segment, "stream", "a segment") for segment in segments)}
    number = {stream: place for place, stream in enumerate(sorted(streams))}
    events = [(action, address, nbytes, number[stream]) for action, address, nbytes, stream in events]
    past = _Backwards([_segment(segment, number) for segment in segments], settings.get("expandable_segments", False))
    end = past.end
    for place in reversed(range(len(events))):
        past.undo(place, *events[place])
    blocks = _sized(past, events)
    return {
        "device": device,
        "settings": settings,
        "total_bytes": total_bytes,
        "start_segments": past.segments_now(events),
        "start_blocks": blocks,
        "events": [list(event) for event in events],
        "end_segments": end,
    }


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
    said = said if isinstance(said, dict) else {}
    text = str(said.get("PYTORCH_CUDA_ALLOC_CONF") or "")
    divisions = said.get("roundup_power2_divisions") or {}
    left_out = {
        "roundup_power2_divisions": any(value > 1 for value in divisions.values()),
        "garbage_collection_threshold": said.get("garbage_collection_threshold", 0) > 0,
        "backend:cudaMallocAsync": "cudaMallocAsync" in text,
        "private pools": any(tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0) for segment in segments),
    }
    if any(left_out.values()):
        name = next(name for name, there in left_out.items() if there)
        raise ValueError(f"snapshot was taken with {name}, which the allocator's model leaves out; it must be without")
    kinds = {bool(segment.get("is_expandable", False)) for segment in segments}
    if len(kinds) > 1:
        raise ValueError("snapshot has both expandable and other segments; it must have one kind, for one is replayed")
    settings = {"expandable_segments": True} if True in kinds or (not kinds and said.get("expandable_segments")) else {}
    if said.get("max_split_size", -1) not in (-1, None):
        settings["max_split_size_mb"] = said["max_split_size"] // MIB
    middling = re.search(r"large_segment_size_mb:(\d+)", text)
    return settings | ({"large_segment_size_mb": int(middling[1])} if middling else {})


def _events(entries):
    for place, entry in enumerate(entries):
        action = _field(entry, "action", f"event {place}", str)
        if tuple(entry.get("pool_id") or (0, 0)) != (0, 0):
            raise ValueError(
                f"snapshot has event {place} in private pool {entry['pool_id']!r}; it must be without such pools"
            )
        if action in ACTIONS:
            address = entry.get("device_free") if action == "oom" else _field(entry, "addr", f"event {place}")
            yield action, address, _field(entry, "size", f"event {place}"), _field(entry, "stream", f"event {place}")
        elif action not in _SILENT:
            raise ValueError(
                f"snapshot has event {place} with action={action!r}; allowed: {', '.join(ACTIONS + _SILENT)}"
            )


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


class _Backwards:
    """The memory at the end of a trace, taken back event by event.

    segments: {address: (bytes, kind, stream)}; blocks: {address: (requested bytes, bytes or None)} of those in use.
    end: the map at the end, as `state.memory_map` returns it.
    """

    def __init__(self, segments, expandable):
        self.expandable = expandable
        self.segments, self.blocks, self.end = {}, {}, []
        for address, nbytes, kind, stream, blocks in sorted(segments):
            self.segments[address] = nbytes, kind, stream
            self.end.append([address, nbytes, [[size, requested is not None] for size, requested in blocks]])
            for size, requested in blocks:
                if requested is not None:
                    self.blocks[address] = requested, size
                address += size

    def undo(self, place, action, address, nbytes, stream):
        """Take back one event; ValueError where the memory after it is not as it says."""
        if action == "alloc":
            requested, _ = self.blocks.pop(address, (None, None))
            self._hold(place, action, requested == nbytes)
        elif action == "free_completed":
            self._hold(place, action, address not in self.blocks)
            self.blocks[address] = nbytes, None
        elif action in TAKEN:
            self._hold(place, action, self._without(address, nbytes, stream))
        elif action in GIVEN_BACK:
            self._hold(place, action, address not in self.segments)
            self.segments[address] = nbytes, None, stream

    def segments_now(self, events):
        """(address, bytes, kind, stream) of each segment, pages of an expandable one joined where they touch."""
        rows = [[address, *row] for address, row in sorted(self.segments.items())]
        return _joined(rows, events, self.blocks) if self.expandable else rows

    def _without(self, address, nbytes, stream):
        """Remove a segment, or pages within a run of pages; False where they are not there."""
        if not self.expandable:
            return self.segments.pop(address, (None,))[0] == nbytes
        rows = _joined([[start, *row] for start, row in sorted(self.segments.items())], [], {})
        place = bisect.bisect_right(rows, address, key=lambda row: row[0]) - 1
        if place < 0 or address + nbytes > rows[place][0] + rows[place][1] or rows[place][3] != stream:
            return False
        start, size, kind, _ = rows.pop(place)
        for begin, end in ((start, address), (address + nbytes, start + size)):
            if end > begin:
                rows.append([begin, end - begin, kind, stream])
        self.segments = {row[0]: tuple(row[1:]) for row in rows}
        return True

    def _hold(self, place, action, holds):
        if not holds:
            raise ValueError(f"snapshot has event {place} {action!r} that its segments contradict; the two must agree")


def _joined(rows, events, blocks):
    """Runs of pages, (address, bytes, kind, stream) by address; a kind not known follows from what lies in the run."""
    runs = []
    for address, nbytes, kind, stream in rows:
        if runs and sum(runs[-1][:2]) == address and runs[-1][3] == stream:
            runs[-1][1] += nbytes
            runs[-1][2] = runs[-1][2] or kind
        else:
            runs.append([address, nbytes, kind, stream])
    inside = sorted(
        [(address, row[0]) for address, row in blocks.items()] + [e[1:3] for e in events if e[0] == "alloc"]
    )
    for run in runs:
        place = bisect.bisect_left(inside, (run[0],))
        if run[2] is None and place < len(inside) and inside[place][0] < sum(run[:2]):
            run[2] = "small" if rounded_bytes(inside[place][1]) <= SMALL_BYTES else "large"
        elif run[2] is None and events:
            run[2] = "large" if run[1] % (20 * MIB) == 0 else "small"
    return runs


def _sized(past, events):
    """[address, requested bytes, bytes or None, inferred] of the blocks in use at the first event.

    The first block put between a used block and the next one, or the segment's end, begins where the used block ends.
    """
    addresses = sorted(past.blocks)
    rows = {address: [address, *past.blocks[address], False] for address in addresses}
    limits = _limits(addresses, past.segments)
    unsure = {address for address, row in rows.items() if row[2] is None}
    for action, address, _, _ in events:
        if action == "free_completed":
            unsure.discard(address)
        elif action == "alloc":
            before = addresses[max(bisect.bisect_left(addresses, address) - 1, 0)] if addresses else None
            if before in unsure and before < address < limits[before]:
                size = rounded_bytes(rows[before][1])
                if size < address - before <= size + SMALL_BYTES:
                    rows[before][2:] = address - before, True
                unsure.discard(before)
    return [rows[address] for address in addresses]


def _limits(addresses, segments):
    """{address of a used block: where the next used block of its segment begins, or the segment ends}."""
    starts, limits = sorted(segments), {}
    for address, following in zip(addresses, [*addresses[1:], None], strict=False):
        place = bisect.bisect_right(starts, address) - 1
        if place < 0:
            raise ValueError(f"snapshot has a block at address {address} in no segment; each must lie in one")
        end = starts[place] + segments[starts[place]][0]
        limits[address] = end if following is None else min(end, following)
    return limits
