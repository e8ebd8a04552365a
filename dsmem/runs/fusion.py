"""What fusing operators saves: the middle of a SwiGLU MLP, `silu(gate(x)) * up(x)`, in bytes that were allocated.

Eager PyTorch runs one kernel after the other, and each writes its result to memory. A compiler joins the two that work
number by number, and writes over what nobody reads any more. The products with the weights stay what they were.
"""

import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dsmem.memory.ledger import BEFORE, Ledger
from dsmem.units import one_of, whole_number

WAYS = ("eager", "in place")
"""The middle of the MLP as a ledger can watch it: as one writes it, and written over the gate."""


class Fused(NamedTuple):
    """Bytes of one pass beside weights and input: all that was allocated, and the most that was alive at once."""

    allocated_bytes: int
    peak_bytes: int


class Middle(nn.Module):
    """`gate` and `up` projection, and what `way` of `WAYS` makes of the two: (tokens, width), from (tokens, hidden)."""

    def __init__(self, hidden: int, width: int, way: str = "eager", dtype: torch.dtype = torch.float32):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(hidden, width, bias=False, dtype=dtype) for _ in range(2))
        self.way = one_of("way", way, WAYS, "a way to run it")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, width), from (tokens, hidden)."""
        if self.way == "in place":
            return F.silu(self.gate_proj(x), inplace=True).mul_(self.up_proj(x))
        return F.silu(self.gate_proj(x)) * self.up_proj(x)  # one expression, so that the gate dies before the product


@torch.no_grad()
def ledger_bytes(way: str = "eager", tokens: int = 64, hidden: int = 64, width: int = 256) -> Fused:
    """A pass of `Middle` in FP32 on the CPU, watched by a ledger. Raises ValueError for an unknown way.

    >>> [ledger_bytes(way).allocated_bytes // (4 * 64 * 256) for way in WAYS]
    [4, 2]
    """
    model = Middle(hidden, width, way)
    x = torch.randn(whole_number("tokens", tokens), hidden)
    with Ledger(model) as ledger:
        model(x)
    made = [record.nbytes for record, sign in ledger.events if sign > 0 and record.op != BEFORE]
    before = sum(record.nbytes for record, sign in ledger.events if sign > 0 and record.op == BEFORE)
    return Fused(sum(made), ledger.peak_bytes - before)


def compiler() -> str | None:
    """The C++ compiler that `torch.compile` would call on this machine, or None."""
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    return next(filter(None, map(shutil.which, names)), None)


@torch.no_grad()
def compiled_bytes(tokens: int = 64, hidden: int = 64, width: int = 256) -> Fused | str:
    """The same pass under `torch.compile`, counted by PyTorch's profiler; or one sentence why there is none.

    A ledger sees operators, and compiled code calls none. The first call compiles, for up to two minutes.
    """
    if compiler() is None:
        return "Not compiled: torch.compile needs a C++ compiler here, and none was found (on Debian: apt install g++)."
    model, x = torch.compile(Middle(hidden, width)), torch.randn(whole_number("tokens", tokens), hidden)
    for _ in range(2):
        model(x)
    return profiled_bytes(lambda: model(x))


def profiled_bytes(call: Callable) -> Fused:
    """Bytes that `call` allocates on the CPU, compiled or not, as PyTorch's profiler reports them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        out = call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    del out
    alive = torch.tensor([0, *sizes]).cumsum(0)
    return Fused(sum(size for size in sizes if size > 0), int(alive.max()))
