"""What is read from a ledger's events: peaks, what is alive at them, phases, and the timeline."""

import collections
import dataclasses

import numpy as np

from dsmem.memory.records import CATEGORIES, Record, Timeline
from dsmem.table import Table
from dsmem.units import format_bytes, one_of


class Booked:
    """The reading side of a `Ledger`, which fills `events` and `marks`.

    events: (record, +1 at its birth or -1 at its death), in order. marks: {phase: number of its first event}.
    """

    events: list[tuple[Record, int]]
    marks: dict[str, int]
    _device: str | None = None
    _open = False

    @property
    def device(self) -> str:
        """The device that peaks speak of: the model's, else the one that held the most."""
        if self._device is None:
            peaks = self.by_device()
            return max(peaks, key=peaks.get) if peaks else "cpu"
        return self._device

    @property
    def records(self) -> list[Record]:
        """Every storage that the ledger booked, in order of birth."""
        return [record for record, sign in self.events if sign > 0]

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at one instant, on `device`."""
        return int(self._curve().max(initial=0))

    @property
    def working_bytes(self) -> int:
        """What is alive at that instant beside what is kept: all but weights, buffers and KV cache."""
        kept = ("weight", "buffer", "kv_cache")
        return sum(nbytes for name, nbytes in self.by_category().items() if name not in kept)

    def at_peak(self, phase: str | None = None) -> list[Record]:
        """The records alive at that instant, or at the worst of one `phase`, largest first.

        phase: one of `marks`; ValueError for another.
        """
        device, alive = self.device, {}
        for record, sign in self.events[: self._peak_step(phase) + 1]:
            alive[record] = sign > 0 and record.device == device
        return sorted((record for record, held in alive.items() if held), key=lambda record: -record.nbytes)

    def by_category(self, phase: str | None = None) -> dict[str, int]:
        """Bytes alive at the peak by category, or at that of one `phase`; they sum to it. ValueError inside the block.

        phase: as in `at_peak`.
        """
        self._must_be_closed()
        return _by_category(self.at_peak(phase))

    @property
    def phases(self) -> dict[str, int]:
        """The most bytes alive in each phase, from where it was marked to the next mark or the end."""
        self._must_be_closed()
        curve = np.append(0, self._curve())
        return {phase: int(curve[slice(*self._span(phase))].max()) for phase in self.marks}

    @property
    def at_marks(self) -> dict[str, int]:
        """Bytes alive where each phase begins: what the one before it hands on."""
        self._must_be_closed()
        curve = np.append(0, self._curve())
        return {phase: int(curve[start]) for phase, start in self.marks.items()}

    def by(self, *fields: str) -> Table:
        """Bytes alive at the peak, summed by fields of a record ("category", "dtype", "op", "module"), as a `Table`.

        Raises ValueError for what is not a field of a `Record`, and inside the block.
        """
        self._must_be_closed()
        for field in fields:
            one_of("field", field, (each.name for each in dataclasses.fields(Record)), "a field of a Record")
        held = collections.Counter()
        for record in self.at_peak():
            held[tuple(getattr(record, field) for field in fields)] += record.nbytes
        rows = [(*key, nbytes, nbytes) for key, nbytes in held.most_common()]
        return Table(dict.fromkeys(fields) | {"bytes": ",", "size": format_bytes}, rows)

    def by_device(self) -> dict[str, int]:
        """Peak bytes of every device that held a tensor."""
        devices = dict.fromkeys(record.device for record, _ in self.events)
        return {device: int(self._curve(device).max()) for device in devices}

    def table(self) -> Table:
        """What is alive at the peak, by category, as a `Table`."""
        rows = [(name, nbytes, nbytes) for name, nbytes in self.by_category().items()]
        return Table({"category": None, "bytes": ",", "size": format_bytes}, rows, str(self))

    def __str__(self) -> str:
        count = sum(sign > 0 for _, sign in self.events)
        if self._open:
            return f"a ledger at work: {count:,} tensors so far"
        if not self.events:
            return "a ledger that has booked nothing"
        return f"{count:,} tensors on {self.device}, at most {format_bytes(self.peak_bytes)} at one instant"

    def __repr__(self) -> str:
        return f"<{self}>" if self._open or not self.events else repr(self.table())

    def _repr_html_(self) -> str | None:
        return None if self._open or not self.events else self.table()._repr_html_()

    def timeline(self) -> Timeline:
        """Live bytes over the pass, whole and by category, for `plots.plot_timeline`. ValueError inside the block."""
        self._must_be_closed()
        curve = self._curve()
        parts = {name: self._curve(category=name) for name in CATEGORIES}
        parts = {name: part for name, part in parts.items() if part.any()}
        peak = int(curve.argmax()) if len(curve) else 0
        return Timeline(np.arange(len(curve)), curve, parts, [record.op for record, _ in self.events], peak)

    def _must_be_closed(self):
        if self._open:
            raise ValueError("this ledger is still at work; its categories are settled when its block ends")

    def _curve(self, device=None, category=None):
        device = device or self.device
        changes = [
            sign * r.nbytes if r.device == device and category in (None, r.category) else 0 for r, sign in self.events
        ]
        return np.cumsum(np.array(changes, dtype=np.int64))

    def _span(self, phase):
        """Where a phase lies in the curve that begins with 0: what it found, then what each of its events left."""
        one_of("phase", phase, self.marks, "a phase of this ledger")
        later = [step for step in self.marks.values() if step > self.marks[phase]]
        return self.marks[phase], min(later, default=len(self.events)) + 1

    def _peak_step(self, phase=None):
        """The event after which the most is alive; -1 before all."""
        curve = np.append(0, self._curve())
        start, end = (0, len(curve)) if phase is None else self._span(phase)
        return start + int(curve[start:end].argmax()) - 1


def _by_category(records):
    held = {name: 0 for name in CATEGORIES}
    for record in records:
        held[record.category] += record.nbytes
    return {name: nbytes for name, nbytes in held.items() if nbytes}
