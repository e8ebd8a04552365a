"""What a CUDA device says of its memory: the allocator's counters, its trace, the context and cuBLAS's workspace.

Nothing here needs Jupyter, and nothing runs without a GPU but `trace_events`, which takes a trace of any origin.

Read in torch's sources and not yet seen on a GPU: a second workspace, of autograd's thread; cublasLt's in torch 2.11;
float32 scratch of the memory-efficient kernel for heads wider than 128; 32 MiB for a capability of major 11; which
grouped product runs where; windows, soft caps and chunks in the fused kernels.
"""

import gc
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch

from dsmem.memory.snapshots import snapshot_trace

TRACE_ENTRIES = 1_000_000
_CHILD = """
import torch
torch.zeros(1, device="cuda")
torch.cuda.synchronize()
print(torch.cuda.memory_reserved(), flush=True)
input()
"""


def peaks(forward: Callable, elsewhere_bytes: int = 0, workspace: Iterable[int] | None = None) -> dict[str, Any]:
    """Run `forward` once to load kernels, once to measure; peak bytes of this process by level.

    elsewhere_bytes: what `held_bytes` said before `forward` and its model were made: tensors of earlier cells, which
    all the peaks contain. workspace: what `workspace_blocks` said then; by default they are taken now.
    Returns {"requested", "allocated", "reserved", "used", "workspace", "workspace_blocks", "elsewhere", "retries"}: as
    the tensors ask, in blocks, in segments, on the whole GPU at the end; what cuBLAS keeps of "allocated", in all and
    block by block, elsewhere_bytes, and how often the GPU was full, so that cached segments went back to it.
    """
    workspace = workspace_blocks() if workspace is None else tuple(workspace)
    forward()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    retries = torch.cuda.memory_stats()["num_alloc_retries"]
    forward()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return {
        "requested": torch.cuda.memory_stats()["requested_bytes.all.peak"],
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "used": total - free,
        "workspace": sum(workspace),
        "workspace_blocks": list(workspace),
        "elsewhere": elsewhere_bytes,
        "retries": torch.cuda.memory_stats()["num_alloc_retries"] - retries,
    }


def held_bytes() -> int:
    """Bytes of the blocks that this process holds now: garbage, cuBLAS's workspaces and cached segments go first."""
    gc.collect()  # a first pass under the ledger leaves its model in a reference cycle
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def workspace_blocks() -> tuple[int, ...]:
    """Bytes of each block that a thread's first matrix products leave allocated on this GPU, in order.

    The first product takes cuBLAS's workspace. One with a bias goes through cublasLt, which in torch 2.11 keeps 1 MiB
    of its own, a small block in another segment, and in torch 2.13 shares the first. See `expected_workspace_bytes`.
    Raises RuntimeError where nothing stays, for then every product takes its own, and no peak of the kit holds.
    """
    held_bytes()
    factor = torch.ones(64, 64, device="cuda", dtype=torch.float16)
    marks = [torch.cuda.memory_allocated()]
    for bias in (None, factor[0]):
        torch.nn.functional.linear(factor, factor, bias)
        marks.append(torch.cuda.memory_allocated())
    kept = tuple(after - before for before, after in itertools.pairwise(marks) if after > before)
    if not kept:
        raise RuntimeError(
            "cuBLAS kept 0 bytes of workspace after a matrix product; it must keep one: leave CUBLAS_WORKSPACE_CONFIG "
            "unset, and set TORCH_CUBLAS_WORKSPACE_CACHE=1 where torch has it"
        )
    return kept


def workspace_bytes() -> int:
    """What a thread's first matrix products leave allocated on this GPU: the sum of `workspace_blocks`."""
    return sum(workspace_blocks())


def expected_workspace_bytes(capability: tuple[int, int], torch_version: str | None = None) -> int:
    """cuBLAS's workspace in bytes, as torch asks for it on a GPU of this compute capability.

    capability: (major, minor). torch_version: such as "2.11.0"; defaults to the installed one. Source:
    `aten/src/ATen/cuda/CublasHandlePool.cpp`. torch 2.11 has 32 MiB for capability 9.0 alone, a later listing for
    majors 9, 10 and 12 (taken here for every version after 2.11); all others have 8,519,680. Left out: what cublasLt
    keeps beside it, and CUBLAS_WORKSPACE_CONFIG, which changes all of it; `workspace_bytes` measures both.

    >>> expected_workspace_bytes((7, 5)), expected_workspace_bytes((9, 0))
    (8519680, 33554432)
    >>> expected_workspace_bytes((10, 0), "2.11.0"), expected_workspace_bytes((10, 0), "2.13.0")
    (8519680, 33554432)
    """
    version = tuple(map(int, re.findall(r"\d+", torch_version or torch.__version__)[:2]))
    large = tuple(capability) == (9, 0) if version <= (2, 11) else capability[0] in (9, 10, 12)
    return 32 * 2**20 if large else 4096 * 1024 * 2 + 16 * 1024 * 8


def context_bytes() -> int:
    """What one more process with a CUDA context takes of the GPU beyond its tensors, seen from this one.

    Another program that starts or ends meanwhile is counted, too. Raises RuntimeError, with the last line that the
    process wrote, where it could not start on the GPU.
    """
    before = _used()
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    child = subprocess.Popen([sys.executable, "-c", _CHILD], **pipes, text=True)
    said = child.stdout.readline().strip()
    taken = _used() - before
    _, errors = child.communicate("\n", timeout=60)
    if not said.isdigit():
        last = (errors.strip() or "no word of why").splitlines()[-1]
        raise RuntimeError(f"a second process did not start on this GPU, so its context is not known: {last}")
    return taken - int(said)


def trace(forward):
    """The allocator's own story of one `forward`, complete enough to be replayed: see `snapshots.snapshot_trace`."""
    device = torch.cuda.current_device()
    torch.cuda.memory._record_memory_history(max_entries=TRACE_ENTRIES, context=None, stacks="python")
    try:
        forward()
        torch.cuda.synchronize()
        return snapshot_trace(torch.cuda.memory._snapshot(), device, torch.cuda.mem_get_info()[1])
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def trace_events(trace):
    """The blocks handed out in a trace as events for `replay.replay`: (key, signed bytes, label), in order.

    Blocks that were in use before it are left out.
    """
    events, live = [], {}
    for index, (action, address, nbytes, _) in enumerate(trace["events"]):
        if action == "alloc":
            live[address] = index
            events.append((index, nbytes, "traced"))
        elif action == "free_completed" and address in live:
            events.append((live.pop(address), -nbytes, "traced"))
    return events


def room_bytes(elsewhere_bytes=0):
    """What the allocator of this process can reserve on the current GPU, beside `elsewhere_bytes` that it holds."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - elsewhere_bytes


def _used():
    free, total = torch.cuda.mem_get_info()
    return total - free
