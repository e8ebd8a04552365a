"""What a ledger books: one record for each storage, the timeline they make, and how tensors are found in arguments."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

CATEGORIES = ("weight", "buffer", "gradient", "kv_cache", "input", "activation", "temporary")
BEFORE = "(before)"


@dataclasses.dataclass(eq=False)
class Record:
    """One storage: its bytes, who made it, and when it lived, in event numbers.

    `op` is "(before)" for what existed before the ledger began; `death` is None for what outlived it.
    `shape` and `dtype` are those of the first tensor seen on it; `module` is the innermost one at work at its birth.
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


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Live bytes after each birth or death: arrays `step`, `live_bytes`, `by_category[name]`; `labels`."""

    step: np.ndarray
    live_bytes: np.ndarray
    by_category: dict
    labels: list
    peak_step: int


def tensors_in(tree: Any, inside: bool = False, depth: int = 0) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts; with `inside`, also in the attributes of other objects."""
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
