"""What autograd keeps from forward for backward: every storage once, by module and by the operation that keeps it.

An autograd node holds the tensors that its gradient needs; torch hands each to hooks of ours as it is put away
(torch.autograd.graph.saved_tensors_hooks). Parameters are left out: they are there anyway.
"""

import collections
import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from dsmem.memory.records import plain_tensors, tensors_in
from dsmem.table import Table
from dsmem.units import format_bytes, one_of

SHARED = "(shared by layers)"


@dataclasses.dataclass(eq=False)
class Saved:
    """One storage that is kept.

    layer: the layer whose backward wants it, `SHARED` where several do, "" outside of layers. module: the innermost one
    at work when it was first put away. operation: of the autograd node that did, as torch names it, less "Backward".
    shape, dtype: of the first tensor put away. nbytes: of the whole storage. copies: the same as a multiple of one
    layer's input, (batch, seq, hidden); None where there are no layers.
    """

    layer: str
    module: str
    operation: str
    shape: tuple
    dtype: str
    nbytes: int
    copies: float | None = None


class SavedTensors:
    """What `saved_tensors` found. tensors: a `Saved` each, in order. copy_bytes: of one layer's input, or None."""

    def __init__(self, tensors: list[Saved], copy_bytes: int | None):
        self.tensors, self.copy_bytes = tensors, copy_bytes
        for saved in tensors:
            saved.copies = saved.nbytes / copy_bytes if copy_bytes else None

    @property
    def total_bytes(self) -> int:
        """Bytes of all storages that are kept, parameters left out."""
        return sum(saved.nbytes for saved in self.tensors)

    @property
    def layers(self) -> dict[str, int]:
        """Bytes by layer, and what several share under `SHARED`; "" for what lies outside of layers."""
        return self._summed("layer")

    def of_layer(self, layer: str) -> "SavedTensors":
        """What one layer alone keeps. Raises ValueError for a layer that keeps nothing."""
        one_of("layer", layer, self.layers, "a layer here")
        return SavedTensors([saved for saved in self.tensors if saved.layer == layer], self.copy_bytes)

    def by(self, *fields: str) -> Table:
        """Bytes and copies summed by fields of a `Saved` ("layer", "module", "operation", ...), in order of forward.

        Raises ValueError for what is not a field.
        """
        for field in fields:
            one_of("field", field, (each.name for each in dataclasses.fields(Saved)), "a field of a Saved")
        rows = []
        for key, nbytes in self._summed(*fields).items():
            key = key if len(fields) > 1 else (key,)
            rows.append((*key, nbytes, nbytes, nbytes / self.copy_bytes if self.copy_bytes else None))
        columns = dict.fromkeys(fields) | {"bytes": ",", "size": format_bytes, "copies of [b, s, h]": ".3f"}
        return Table(columns, rows, str(self))

    def table(self) -> Table:
        """Every storage in a row of its own, as a `Table`."""
        rows = [dataclasses.astuple(saved) for saved in self.tensors]
        columns = dict.fromkeys(("layer", "module", "operation", "shape", "dtype"))
        return Table(columns | {"bytes": ",", "copies of [b, s, h]": ".3f"}, rows, str(self))

    def __len__(self) -> int:
        return len(self.tensors)

    def __str__(self) -> str:
        return f"{len(self):,} tensors kept for backward, {format_bytes(self.total_bytes)}"

    def __repr__(self) -> str:
        return repr(self.by("layer"))

    def _repr_html_(self) -> str:
        return self.by("layer")._repr_html_()

    def _summed(self, *fields):
        held = collections.Counter()
        for saved in self.tensors:
            key = tuple(getattr(saved, field) for field in fields)
            held[key if len(fields) > 1 else key[0]] += saved.nbytes
        return dict(held)


def saved_tensors(forward: Callable[[], Any], model: torch.nn.Module) -> SavedTensors:
    """Run `forward` once and say what autograd keeps for backward, on real or fake tensors.

    forward: called without arguments; returns a tensor, or what holds tensors, as `lambda: model(tokens)` does.
    model: any `nn.Module` whose modules `forward` runs; its outermost list of modules, the longest of them, counts as
    its layers.
    A checkpointed layer keeps its input alone. Raises ValueError where nothing has a gradient.

    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
    >>> [(saved.module, saved.operation) for saved in saved_tensors(lambda: model(torch.ones(4, 8)), model).tensors]
    [('0', 'Addmm'), ('1', 'Relu')]
    """
    watch = _Watch(model)
    with watch.modules(), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(watch.pack, watch.unpack):
        outcome = forward()
        ends = [tensor for tensor in tensors_in(outcome, inside=True) if tensor.grad_fn is not None]
        if not ends:
            raise ValueError("forward returned nothing that has a gradient; call model.requires_grad_(True) first")
        watch.name_operations(ends)
    return SavedTensors(watch.found(), watch.copy_bytes)


@dataclasses.dataclass
class _Packed:
    """What an autograd node holds in a tensor's place."""

    tensor: torch.Tensor
    module: str
    layer: str
    operation: str = ""


class _Watch:
    def __init__(self, model):
        self.model, self.packed, self.copy_bytes = model, [], None
        self._stack, self._node = [""], ""
        lists = [(name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.ModuleList)]
        # a layer's own lists, of experts, lie deeper
        name, layers = max(lists, key=lambda pair: (-pair[0].count("."), len(pair[1])), default=("", ()))
        self._layers = [f"{name}.{index}" if name else str(index) for index in range(len(layers))]

    @contextlib.contextmanager
    def modules(self) -> Iterator[None]:
        """Inside, the module at work is known."""
        with contextlib.ExitStack() as hooks:
            for name, module in self.model.named_modules():
                hooks.callback(module.register_forward_pre_hook(self._entering(name), with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(self._leaving, always_call=True).remove)
            yield

    def pack(self, tensor: torch.Tensor) -> _Packed:
        layer = next((self._layer(name) for name in reversed(self._stack) if self._layer(name)), "")
        self.packed.append(_Packed(tensor, self._stack[-1], layer))
        return self.packed[-1]

    def unpack(self, packed: _Packed) -> torch.Tensor:
        packed.operation = packed.operation or self._node
        return packed.tensor

    def name_operations(self, ends: list[torch.Tensor]) -> None:
        """Walk the graph from its ends; a node that is asked for its tensors tells its name to `unpack`."""
        waiting, seen = [tensor.grad_fn for tensor in ends], set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            self._node = _operation(node.name())
            for attribute in dir(node):
                if attribute == "saved_tensors" or attribute.startswith("_saved_"):
                    getattr(node, attribute)
            waiting += [following for following, _ in node.next_functions]

    def found(self) -> list[Saved]:
        """One `Saved` for each storage, in order."""
        own = {_key(tensor) for parameter in self.model.parameters() for tensor in plain_tensors(parameter)}
        held = {}
        for packed, tensor in itertools.chain.from_iterable(
            ((packed, tensor) for tensor in plain_tensors(packed.tensor)) for packed in self.packed
        ):
            if _key(tensor) in own:
                continue
            saved = held.setdefault(_key(tensor), _saved(packed, tensor))
            if saved.layer != packed.layer:
                saved.layer = SHARED if saved.layer and packed.layer else saved.layer or packed.layer
        return list(held.values())

    def _entering(self, name):
        def hook(module, args, kwargs):
            self._stack.append(name)
            if self.copy_bytes is None and name in self._layers:
                inputs = [tensor for tensor in tensors_in((args, kwargs)) if tensor.is_floating_point()]
                self.copy_bytes = inputs[0].nbytes if inputs else None

        return hook

    def _leaving(self, module, args, output):
        self._stack.pop()

    def _layer(self, name):
        return name if name in self._layers else ""


def _key(tensor):
    return tensor.untyped_storage()._cdata


def _saved(packed, tensor):
    dtype = str(tensor.dtype).removeprefix("torch.")
    nbytes = tensor.untyped_storage().nbytes()
    return Saved(packed.layer, packed.module, packed.operation, tuple(tensor.shape), dtype, nbytes)


def _operation(name):
    """An autograd node's name without what torch puts around it: 'Mm' of 'MmBackward0'.

    >>> _operation("GeneratedBackwardFor_dsmem_rms_norm_defaultBackward"), _operation("MmBackward0")
    ('rms_norm', 'Mm')
    """
    name = re.sub(r"Backward\d*$", "", name)
    return re.sub(r"^GeneratedBackwardFor_[a-z]+_(.*)_default$", r"\1", name).lstrip("_")
