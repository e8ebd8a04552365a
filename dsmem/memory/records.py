"""What a ledger books: one record for each storage, the timeline they make, and how tensors are found in arguments."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dsmem.units import format_bytes

CATEGORIES = ("weight", "buffer", "gradient", "optimizer", "kv_cache", "input", "activation", "temporary")
BEFORE = "(before)"


@dataclasses.dataclass(eq=False, repr=False)
class Record:
    """One storage: its bytes, who made it, and when it lived, in event numbers.

    op: the operator that made it, "(before)" for what existed before the ledger began. module: the innermost one at
    work at its birth, "" outside all. shape, dtype: of the first tensor seen on it. device: as torch writes it.
    call: the number of that module's call. category: one of `CATEGORIES`, None while the ledger is at work.
    birth, death: event numbers, None while the ledger is at work; death stays None for what outlived it.

    >>> Record(4096, "mm", "layers.0.mlp", (4, 512), "float16", "cpu", category="activation", birth=5, death=9)
    <Record 4.00 KiB: activation (4, 512) float16 on cpu, by mm in layers.0.mlp, events 5 to 9>
    """

    nbytes: int
    op: str
    module: str
    shape: tuple
    dtype: str
    device: str
    call: int | None = None
    category: str | None = None
    birth: int | None = None
    death: int | None = None

    def __repr__(self) -> str:
        maker = "from before" if self.op == BEFORE else f"by {self.op}"
        place = f" in {self.module}" if self.module else ""
        end = "the end" if self.death is None else self.death
        life = "" if self.birth is None else f", events {self.birth} to {end}"
        what = f"{self.category or 'tensor'} {self.shape} {self.dtype} on {self.device}"
        return f"<Record {format_bytes(self.nbytes)}: {what}, {maker}{place}{life}>"


@dataclasses.dataclass(frozen=True, repr=False)
class Timeline:
    """Live bytes after each birth or death.

    step: event numbers, (events,). live_bytes: after each, (events,), int64. by_category: {name: the same of one
    category}. labels: the operator of each event. peak_step: the event with the most live bytes.
    """

    step: np.ndarray
    live_bytes: np.ndarray
    by_category: dict[str, np.ndarray]
    labels: list[str]
    peak_step: int

    def __repr__(self) -> str:
        peak = format_bytes(int(self.live_bytes.max(initial=0)))
        return f"<Timeline of {len(self.step):,} events, at most {peak}, at event {self.peak_step}>"


def tensors_in(tree: Any, inside: bool = False, depth: int = 0) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts; with `inside`, also in the attributes of other objects.

    depth: how deep `tree` lies already; attributes are followed down to 16.
    """
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from tensors_in(item, inside, depth + 1)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors_in(item, inside, depth + 1)
    elif inside and depth < 16 and hasattr(tree, "__dict__") and not isinstance(tree, (type, torch.nn.Module)):
        yield from tensors_in(vars(tree), inside, depth + 1)


def plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors inside a subclass that wraps others (DTensor, torchao): the wrapper owns no bytes."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        inner = getattr(tensor, name)
        if isinstance(inner, torch.Tensor):
            yield from plain_tensors(inner)
