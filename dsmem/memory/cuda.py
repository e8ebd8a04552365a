"""What a CUDA device says of its memory: the allocator's counters, its trace, the context and cuBLAS's workspace.

Nothing here needs Jupyter, and nothing runs without a GPU but `trace_events`, which takes a trace of any origin.
"""

import subprocess
import sys

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


def peaks(forward, elsewhere_bytes=0):
    """Run `forward` once to load kernels, once to measure; peak bytes of this process by level.

    elsewhere_bytes: what `held_bytes` said before `forward` and its model were made: tensors of earlier cells, which
    all the peaks contain.
    Returns {"requested", "allocated", "reserved", "used", "workspace", "elsewhere", "retries"}: as the tensors ask, in
    blocks, in segments, on the whole GPU at the end; what cuBLAS keeps of "allocated", elsewhere_bytes, and how often
    the GPU was full, so that cached segments went back to it.
    """
    workspace = workspace_bytes()
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
        "workspace": workspace,
        "elsewhere": elsewhere_bytes,
        "retries": torch.cuda.memory_stats()["num_alloc_retries"] - retries,
    }


def held_bytes():
    """Bytes of the blocks that this process holds now, cuBLAS's workspace given back first."""
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated()


def workspace_bytes():
    """What a process's first matrix product leaves allocated on this GPU: cuBLAS's workspace.

    8,519,680 bytes before compute capability 9.0, 32 MiB from there on (`aten/src/ATen/cuda/CublasHandlePool.cpp`).
    """
    held_bytes()
    factor = torch.ones(64, 64, device="cuda", dtype=torch.float16)
    before = torch.cuda.memory_allocated()
    product = factor @ factor
    kept = torch.cuda.memory_allocated() - before
    return kept - -(-product.untyped_storage().nbytes() // 512) * 512


def expected_workspace_bytes(capability):
    """cuBLAS's workspace as torch asks for it on a GPU of this compute capability.

    >>> expected_workspace_bytes((7, 5)), expected_workspace_bytes((9, 0))
    (8519680, 33554432)
    """
    return 32 * 2**20 if capability[0] >= 9 else 4096 * 1024 * 2 + 16 * 1024 * 8


def context_bytes():
    """What one more process with a CUDA context takes of the card beyond its tensors, seen from this one."""
    before = _used()
    child = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        reserved = int(child.stdout.readline())
        return _used() - before - reserved
    finally:
        child.communicate("\n", timeout=60)


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
