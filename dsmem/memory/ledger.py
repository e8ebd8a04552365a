"""The tensor ledger: birth and death of every tensor while code runs, byte for byte, on real or fake tensors.

It watches torch's dispatcher, so it needs no GPU and no change to the model. A storage counts once, however many
tensors view it; it is born with the operator that first returns it and dies when the last reference to it goes.
Left out: what a kernel allocates and frees while it runs, which the dispatcher does not see; on a GPU, `runs` holds
the device's own counters against the ledger.
"""

import collections
import dataclasses
import itertools
import weakref

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dsmem.memory.records import BEFORE, CATEGORIES, Record, Timeline, plain_tensors, tensors_in
from dsmem.table import Table
from dsmem.units import format_bytes, one_of

CACHE_ARGUMENTS = ("cache", "past_key_values")


class Ledger(TorchDispatchMode):
    """Books every tensor made inside the `with` block, and every tensor that the code inside touches.

    model: any `nn.Module`, transformers' included. Its parameters and buffers count from the start, its submodules
    name the records, and peaks are those of its device. Without one the ledger books all the same, nameless.
    events: (record, +1 at its birth or -1 at its death), in order. Categories, births and deaths are settled when the
    block ends. Raises ValueError for a second block.

    >>> with Ledger() as ledger:
    ...     total = torch.ones(1024) + torch.ones(1024)
    >>> ledger.peak_bytes, len(ledger.records)
    (12288, 3)
    """

    def __init__(self, model: torch.nn.Module | None = None):
        super().__init__()
        if not isinstance(model, torch.nn.Module | None):
            raise ValueError(f"model={model!r} is not a model; it must be a torch.nn.Module or None")
        self.model = model
        self.events: list[tuple[Record, int]] = []
        self._open = False
        self._live = {}  # storage key -> (record, finalizer)
        self._stack = []  # (module name, call number) of the modules at work
        self._exits = {}  # call number -> number of events when it returned
        self._undo = []
        tensors = () if model is None else itertools.chain(model.parameters(), model.buffers())
        self._device = next((str(tensor.device) for tensor in tensors), None)

    @classmethod
    def of(cls, events: list[tuple[Record, int]], device: str) -> "Ledger":
        """A closed ledger of these births and deaths, whose records have their categories. device: as `device`."""
        ledger = cls()
        ledger.events, ledger._device = events, device
        ledger._settle()
        return ledger

    def record_of(self, tensor: torch.Tensor) -> Record | None:
        """The record of a plain tensor that is alive, inside the block; None for one that is not booked."""
        return self._live.get(tensor.untyped_storage()._cdata, (None, None))[0]

    def __enter__(self):
        if self.events:
            raise ValueError("this ledger has booked a block already; make a new Ledger for each")
        if self.model is not None:
            self._hook_modules()
            self._book_all(self.model.parameters(), category="weight")
            self._book_all(self.model.buffers(), category="buffer")
        self._hook_resize()
        self._open = True
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for undo in self._undo:
            undo()
        if self.model is not None:
            self._book_all((p.grad for p in self.model.parameters() if p.grad is not None), category="gradient")
        for _, finalizer in self._live.values():
            finalizer.detach()
        self._live, self._undo, self.model = {}, [], None  # a ledger that is kept keeps no weights
        self._classify()
        self._settle()
        self._open = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # inputs first: a view of a tensor from before would otherwise count as a birth
        fresh = func is torch.ops.aten.lift_fresh.default
        self._book_all(tensors_in((args, kwargs)), op="tensor" if fresh else BEFORE)
        result = func(*args, **kwargs)
        self._book_all(tensors_in(result), op=func.name().split("::")[-1].split(".")[0])
        return result

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

    def at_peak(self) -> list[Record]:
        """The records alive at that instant, largest first."""
        curve, device = self._curve(), self.device
        step = int(curve.argmax()) if len(curve) else -1
        alive = {}
        for record, sign in self.events[: step + 1]:
            alive[record] = sign > 0 and record.device == device
        return sorted((record for record, held in alive.items() if held), key=lambda record: -record.nbytes)

    def by_category(self) -> dict[str, int]:
        """Bytes alive at the peak by category; they sum to `peak_bytes`. ValueError inside the block."""
        self._must_be_closed()
        held = {name: 0 for name in CATEGORIES}
        for record in self.at_peak():
            held[record.category] += record.nbytes
        return {name: nbytes for name, nbytes in held.items() if nbytes}

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

    def _book_all(self, tensors, op=BEFORE, category=None):
        for tensor in tensors:
            for plain in plain_tensors(tensor):
                self._book(plain, op, category)

    def _book(self, tensor, op, category):
        storage = tensor.untyped_storage()
        record, _ = self._live.get(storage._cdata, (None, None))
        if record is None or record.nbytes != storage.nbytes():
            record = self._bear(storage, tensor, op)
        record.category = category or record.category

    def _bear(self, storage, tensor, op):
        key = storage._cdata
        self._bury(key)
        module, call = self._stack[-1] if self._stack else ("", None)
        dtype, device = str(tensor.dtype).removeprefix("torch."), str(tensor.device)
        record = Record(storage.nbytes(), op, module, tuple(tensor.shape), dtype, device, call)
        self._live[key] = record, weakref.finalize(storage, self._bury, key)
        self.events.append((record, 1))
        return record

    def _bury(self, key):
        record, finalizer = self._live.pop(key, (None, None))
        if record is not None:
            finalizer.detach()
            self.events.append((record, -1))

    def _hook_modules(self):
        for name, module in self.model.named_modules():
            before = module.register_forward_pre_hook(self._entering(name), with_kwargs=True)
            after = module.register_forward_hook(self._leaving(name), with_kwargs=True, always_call=True)
            self._undo += [before.remove, after.remove]

    def _entering(self, name):
        def hook(module, args, kwargs):
            if not name:
                self._book_all(tensors_in((args, kwargs)), category="input")
                self._book_cache(kwargs, args)
            self._stack.append((name, len(self._exits)))
            self._exits[len(self._exits)] = None

        return hook

    def _leaving(self, name):
        def hook(module, args, kwargs, output):
            _, call = self._stack.pop()
            self._exits[call] = len(self.events)
            if not name:
                self._book_cache(kwargs, args, output)

        return hook

    def _book_cache(self, kwargs, *others):
        """Whoever is handed to the model, or returned by it, as its cache holds the KV cache."""
        holders = [kwargs.get(name) for name in CACHE_ARGUMENTS]
        holders += [getattr(output, name, None) for output in others for name in CACHE_ARGUMENTS]
        holders += [item for args in others if isinstance(args, tuple) for item in args if _is_cache(item)]
        self._book_all(tensors_in(holders, inside=True), category="kv_cache")

    def _hook_resize(self):
        """FSDP frees and refills storages in place; a resize is a death and a birth."""
        original, ledger = torch.UntypedStorage.resize_, self

        def resize_(storage, size):
            record, _ = ledger._live.get(storage._cdata, (None, None))
            result = original(storage, size)
            if record is not None and record.nbytes != storage.nbytes():
                ledger._resized(storage, record)
            return result

        torch.UntypedStorage.resize_ = resize_
        self._undo.append(lambda: setattr(torch.UntypedStorage, "resize_", original))

    def _resized(self, storage, record):
        self._bury(storage._cdata)
        reborn = dataclasses.replace(record, nbytes=storage.nbytes(), op="resize_")
        self._live[storage._cdata] = reborn, weakref.finalize(storage, self._bury, storage._cdata)
        self.events.append((reborn, 1))

    def _classify(self):
        """An activation outlives the module whose operator made it; anything else without a holder is a temporary."""
        deaths = {record: step for step, (record, sign) in enumerate(self.events) if sign < 0}
        for record in self.records:
            left = self._exits.get(record.call)
            outlives = left is not None and deaths.get(record, len(self.events)) >= left
            record.category = record.category or ("activation" if outlives else "temporary")

    def _settle(self):
        """What existed before is alive from the first event on, also where the pass touched it late."""
        self.events.sort(key=lambda event: not (event[0].op == BEFORE and event[1] > 0))
        for step, (record, sign) in enumerate(self.events):
            setattr(record, "birth" if sign > 0 else "death", step)


def _is_cache(item):
    return hasattr(item, "update") and not isinstance(item, dict)
