"""From tensor bytes to allocator bytes: a ledger's events replayed on the caching allocator, without a GPU."""

import dataclasses
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np

from dsmem.memory.allocator import CachingAllocator, ReplayedOutOfMemory
from dsmem.table import Table
from dsmem.units import as_text, format_bytes, whole_number


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Replay:
    """Bytes after each event: arrays `requested_bytes` <= `allocated_bytes` <= `reserved_bytes`, `largest_free_bytes`.

    requested: as the tensors ask; allocated: in whole blocks; reserved: in segments taken from the GPU.
    events: (key, signed bytes, label) as replayed; settings: those of the `CachingAllocator`.
    """

    requested_bytes: np.ndarray
    allocated_bytes: np.ndarray
    reserved_bytes: np.ndarray
    largest_free_bytes: np.ndarray
    events: list
    settings: dict

    @property
    def peak_allocated_bytes(self) -> int:
        """The most block bytes at one instant: what `torch.cuda.max_memory_allocated` would say of these tensors."""
        return int(self.allocated_bytes.max(initial=0))

    @property
    def peak_reserved_bytes(self) -> int:
        """The most segment bytes at one instant: `torch.cuda.max_memory_reserved`."""
        return int(self.reserved_bytes.max(initial=0))

    @property
    def rounding_bytes(self) -> int:
        """What whole blocks add to the peak of the tensors."""
        return self.peak_allocated_bytes - int(self.requested_bytes.max(initial=0))

    @property
    def fragmentation(self) -> np.ndarray:
        """Share of the free bytes in segments that the largest free block does not cover, after each event (0 to 1)."""
        free = self.reserved_bytes - self.allocated_bytes
        return np.divide(free - self.largest_free_bytes, free, out=np.zeros(len(free)), where=free > 0)

    def table(self) -> Table:
        """The peaks as a `Table`: requested, allocated and reserved."""
        peaks = {
            "requested": int(self.requested_bytes.max(initial=0)),
            "allocated": self.peak_allocated_bytes,
            "reserved": self.peak_reserved_bytes,
        }
        rows = [(name, nbytes, nbytes) for name, nbytes in peaks.items()]
        title = f"{len(self.events):,} events replayed on PyTorch's allocator, at the peak of each:"
        return Table({"bytes as": None, "bytes": ",", "size": format_bytes}, rows, title)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def segments(self, step: int | None = None) -> list[list[tuple[int, str]]]:
        """The segment map after event `step` (left out: at the reserved peak): [[(bytes, label or "")] per segment]."""
        count = len(self.events)
        if not count:
            return []
        step = int(self.reserved_bytes.argmax()) if step is None else step
        if not -count <= step < count:
            raise ValueError(f"step={step} is no event of this replay; it must be from {-count} to {count - 1}")
        allocator = CachingAllocator(**self.settings)
        for _ in _run(allocator, self.events[: step % count + 1]):
            pass
        return [[(block.size, block.label) for block in segment.blocks()] for segment in allocator.segments]


def replay(source: Any, workspace_bytes: int | tuple = 0, **settings: Any) -> Replay:
    """Replay a closed `Ledger` (the tensors of its own device), or a list of events, on the caching allocator.

    source: a ledger, or events (key, bytes at a birth or -bytes at a death, label) with a key per tensor.
    workspace_bytes: what the GPU's libraries keep allocated beside the tensors, taken first: one block, or a tuple of
    the bytes of each.
    settings: capacity, max_split_size_mb, expandable_segments, large_segment_size_mb of `CachingAllocator`.
    Raises ReplayedOutOfMemory where `capacity` does not suffice, ValueError for a birth or death out of turn.
    """
    events = _ledger_events(source) if hasattr(source, "events") else _checked(source)
    blocks = workspace_bytes if isinstance(workspace_bytes, tuple) else (workspace_bytes,)
    blocks = [whole_number("workspace_bytes", nbytes, 0, "bytes") for nbytes in blocks]
    events = [*((("workspace", number), size, "workspace") for number, size in enumerate(blocks) if size), *events]
    allocator = CachingAllocator(**settings)
    columns = np.array(list(_run(allocator, events)), dtype=np.int64).reshape(-1, 4).T
    return Replay(*columns, events, settings)


def smallest_capacity_bytes(source: Any, unit: int = 2 * 2**20, **settings: Any) -> int:
    """The least memory, in whole `unit` bytes, with which `source` can be replayed: what it needs, not what it keeps.

    A GPU that is full takes back what is cached, so this lies between the peak of the blocks and that of the segments.
    Arguments as in `replay`; found by halving, for more memory seldom hurts.
    """
    replayed, unit = replay(source, **settings), whole_number("unit", unit, what="bytes")
    events, least, most = replayed.events, 0, -(-replayed.peak_reserved_bytes // unit)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if _fits(events, middle * unit, settings) else (middle, most)
    return most * unit


def compare_settings(title: str, source: Any, settings: dict[str, dict]) -> Table:
    """A `Table`: what `source` reserves under each of `settings`, and the smallest GPU on which it still runs.

    title: stands above the names. source: as in `replay`. settings: {name: settings of the `CachingAllocator`}.
    """
    rows = []
    if not (isinstance(settings, dict) and all(isinstance(setting, dict) for setting in settings.values())):
        raise ValueError(f"settings={settings!r} are not settings by name; they must be {{name: {{setting: value}}}}")
    for name, setting in settings.items():
        replayed = replay(source, **setting)
        least = smallest_capacity_bytes(replayed.events, **setting)
        rows.append((name, replayed.peak_reserved_bytes, least))
    rows.append(("(its tensors)", int(replay(source).requested_bytes.max(initial=0)), None))
    return Table(
        {as_text("title", title): None, "reserved": format_bytes, "smallest GPU": format_bytes},
        rows,
        widths=(22, 14, 16),
    )


def _fits(events, capacity, settings):
    try:
        for _ in _run(CachingAllocator(capacity, **settings), events):
            pass
    except ReplayedOutOfMemory:
        return False
    return True


def _ledger_events(ledger):
    device = ledger.device
    return [(id(r), sign * r.nbytes, f"{r.module} {r.op}") for r, sign in ledger.events if r.device == device]


def _checked(source):
    """The events of a list, each of them looked at."""
    events = list(source) if isinstance(source, Iterable) else None
    if events is None or not all(isinstance(event, tuple | list) and len(event) == 3 for event in events):
        raise ValueError(f"source={source!r} is not a ledger or a list of events; an event is (key, bytes, label)")
    for step, (_, change, _) in enumerate(events):
        if type(change) is not int and not isinstance(change, Integral):
            raise ValueError(f"events[{step}]: {change!r} is not a number of bytes; it must be a whole number")
    return events


def _run(allocator, events):
    """Feed the events to the allocator; yields its four byte counts after each."""
    held = {}
    for step, (key, change, label) in enumerate(events):
        if change and (change > 0) == (key in held):
            happens = "is born while alive" if change > 0 else "dies while not alive"
            raise ValueError(f"events[{step}]: {key!r} {happens}; births and deaths of one key must alternate")
        if change > 0:
            held[key] = allocator.malloc(change, label)
        elif change < 0:
            allocator.free(held.pop(key))
        yield allocator.requested, allocator.allocated, allocator.reserved, allocator.largest_free_bytes
