"""The tensor ledger: birth and death of every tensor while code runs, byte for byte, on real or fake tensors.

It watches torch's dispatcher, so it needs no GPU and no change to the model. A storage counts once, however many
tensors view it; it is born with the operator that first returns it and dies when the last reference to it goes.
Left out: what a kernel allocates and frees while it runs, which the dispatcher does not see; on a GPU, `runs` holds
the device's own counters against the ledger.
"""

import dataclasses
import itertools
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dsmem.memory.booked import Booked
from dsmem.memory.records import BEFORE, CATEGORIES, Record, plain_tensors, tensors_in
from dsmem.memory.sums import add_in_place, holders_of_one
from dsmem.units import as_text, one_of

UNSEEN = "bytes"  # the format of a storage that was met as it was refilled, before any tensor on it
CACHE_ARGUMENTS = ("cache", "past_key_values")


class Ledger(Booked, TorchDispatchMode):
    """Books every tensor made inside the `with` block, and every tensor that the code inside touches.

    model: any `nn.Module`, transformers' included. Its parameters and buffers count from the start, its submodules
    name the records, and peaks are those of its device. Without one the ledger books all the same, nameless.
    events: (record, +1 at its birth or -1 at its death), in order. Categories, births and deaths are settled when the
    block ends. marks: {phase: number of its first event}, from `mark`. Gradients are known by the parameters that get
    them, whoever frees them first. Raises ValueError for a second block.

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
        self.marks: dict[str, int] = {}
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

    def mark(self, phase: str) -> None:
        """What follows belongs to `phase`, until the next mark; for `phases`. ValueError for a name twice."""
        if as_text("phase", phase) in self.marks:
            raise ValueError(f"phase={phase!r} is marked already; each must be marked once")
        self.marks[phase] = len(self.events)

    def book(self, tensors: Any, category: str) -> None:
        """Say what tensors that are alive are for, inside the block; whatever did not exist yet counts from the start.

        tensors: nested in tuples, lists and dicts. category: one of `records.CATEGORIES`; ValueError for another.
        """
        self._book_all(tensors_in(tensors), category=one_of("category", category, CATEGORIES, "a category"))

    def __enter__(self):
        if self.events:
            raise ValueError("this ledger has booked a block already; make a new Ledger for each")
        if self.model is not None:
            self._hook_modules()
            self._hook_gradients()
            self._book_all(self.model.parameters(), category="weight")
            self._book_all(self.model.buffers(), category="buffer")
        self._hook_resize()
        holders_of_one()  # counted now, for it takes a small backward of its own
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
        if add_in_place(func, args):
            func = torch.ops.aten.add_.Tensor
        result = func(*args, **kwargs)
        self._book_all(tensors_in(result), op=func.name().split("::")[-1].split(".")[0])
        return result

    def _book_all(self, tensors, op=BEFORE, category=None):
        for tensor in tensors:
            for plain in plain_tensors(tensor):
                self._book(plain, op, category)

    def _book(self, tensor, op, category):
        storage = tensor.untyped_storage()
        record, _ = self._live.get(storage._cdata, (None, None))
        if record is None or record.nbytes != storage.nbytes():
            record = self._bear(storage, tensor, op)
        if record.dtype == UNSEEN:  # the first tensor that views what was refilled; a fake one's storage is on "meta"
            record.shape, record.device = tuple(tensor.shape), str(tensor.device)
            record.dtype = str(tensor.dtype).removeprefix("torch.")
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

    def _hook_gradients(self):
        """A gradient may be used and freed within backward; who looks at the end sees the others alone."""
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.is_leaf:
                hook = parameter.register_post_accumulate_grad_hook(self._book_gradient)
                self._undo.append(hook.remove)

    def _book_gradient(self, parameter):
        if parameter.grad is not None:
            self._book_all([parameter.grad], category="gradient")

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
            before = storage.nbytes()
            result = original(storage, size)
            if before != storage.nbytes():
                ledger._resized(storage, before)
            return result

        torch.UntypedStorage.resize_ = resize_
        self._undo.append(lambda: setattr(torch.UntypedStorage, "resize_", original))

    def _resized(self, storage, before):
        key = storage._cdata
        record, _ = self._live.get(key, (None, None))
        if record is None:
            record = Record(before, BEFORE, "", (before,), UNSEEN, str(storage.device))
            self._live[key] = record, weakref.finalize(storage, self._bury, key)
            self.events.append((record, 1))
        self._bury(key)
        reborn = dataclasses.replace(record, nbytes=storage.nbytes(), op="resize_")
        self._live[key] = reborn, weakref.finalize(storage, self._bury, key)
        self.events.append((reborn, 1))

    def _classify(self):
        """An activation outlives the module whose operator made it, or outside all the forward pass of a training step.

        Anything else without a holder is a temporary.
        """
        forward_ends = self.marks.get("backward")
        deaths = {record: step for step, (record, sign) in enumerate(self.events) if sign < 0}
        for step, (record, sign) in enumerate(self.events):
            if sign < 0:
                continue
            left = self._exits.get(record.call)
            if record.call is None and forward_ends is not None and step < forward_ends:
                left = forward_ends
            outlives = left is not None and deaths.get(record, len(self.events)) >= left
            record.category = record.category or ("activation" if outlives else "temporary")

    def _settle(self):
        """What existed before is alive from the first event on, also where the pass touched it late."""
        late = [step for step, event in enumerate(self.events) if _from_before(event)]
        self.marks = {phase: start + sum(step >= start for step in late) for phase, start in self.marks.items()}
        self.events.sort(key=lambda event: not _from_before(event))
        for step, (record, sign) in enumerate(self.events):
            setattr(record, "birth" if sign > 0 else "death", step)


def _from_before(event):
    record, sign = event
    return record.op == BEFORE and sign > 0


def _is_cache(item):
    return hasattr(item, "update") and not isinstance(item, dict)
