"""A pass watched on the device that it runs on: ledger, replay and, on a GPU, the device's own counters."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from dsmem.memory import cuda
from dsmem.memory.ledger import Ledger
from dsmem.memory.replay import Replay, replay
from dsmem.model.devices import check_device
from dsmem.runs.folded import Folded


class Watched(NamedTuple):
    """What was seen of a pass; device_memory and trace are None where it ran on no GPU, seconds on fake tensors."""

    ledger: Ledger
    replay: Replay
    device_memory: dict | None
    trace: dict | None
    seconds: float | None


@torch.no_grad()
def watch(
    forward: Callable,
    model: torch.nn.Module,
    device: Any,
    elsewhere_bytes: int = 0,
    workspace: tuple[int, ...] | None = None,
    capacity: int | None = None,
    look: Callable | None = None,
    folded: Folded | None = None,
    attend: Any = None,
) -> Watched:
    """`forward()`, on any module, `Watched`; a GPU runs it four times.

    elsewhere_bytes: what the GPU held for this process before the model was made, see `memory.cuda.held_bytes`.
    workspace: what cuBLAS took then, see `memory.cuda.workspace_blocks`; by default it is taken now, which may raise
    what the GPU reserves.
    capacity: bytes that the allocator could reserve then, see `memory.cuda.room_bytes`; on a nearly full GPU cached
    segments go back, and the replay must do so too. look: called with what the watched `forward()` returned.
    folded: of a model some of whose layers are left out; ledger and replay are those of all layers, or NotEqualError.
    attend: whoever tells its `observer` of the pass, such as a `TrainingStep`; the ledger observes.
    Raises ReplayedOutOfMemory where the replay does not fit.
    """
    device = check_device(device)
    on_gpu = device == "cuda"
    memory = cuda.peaks(forward, elsewhere_bytes, workspace) if on_gpu else None
    trace = cuda.trace(forward) if on_gpu else None
    with Ledger(model) as ledger, folded.watching(ledger) if folded else contextlib.nullcontext():
        if attend is not None:
            attend.observer = ledger
        start = time.perf_counter()
        out = forward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        if look:
            look(out)
        del out  # inside the block: what the caller would drop dies within the pass
    if attend is not None:
        attend.observer = None
    if folded:
        ledger = folded.unfold(ledger)
    blocks = tuple(memory["workspace_blocks"]) if on_gpu else ()
    replayed = replay(ledger, workspace_bytes=blocks, capacity=capacity)
    return Watched(ledger, replayed, memory, trace, None if device == "fake" else seconds)
