"""What a CUDA device says of its memory: the allocator's counters, its trace, the context and cuBLAS's workspace.

Nothing here needs Jupyter, and nothing runs without a GPU but `compact_trace`, which reads a snapshot of any origin.
"""

import subprocess
import sys

import torch

TRACE_ENTRIES = 1_000_000
_ACTIONS = {"alloc": 1, "free_completed": -1, "segment_alloc": 2, "segment_free": -2}
_ACTIONS |= {"segment_map": 2, "segment_unmap": -2}
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
    Returns {"requested", "allocated", "reserved", "used", "workspace", "elsewhere"}: as the tensors ask, in blocks, in
    segments, on the whole card at the end; what cuBLAS keeps of "allocated", and elsewhere_bytes.
    """
    workspace = workspace_bytes()
    forward()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
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
    """The allocator's own story of one `forward`: see `compact_trace`."""
    torch.cuda.memory._record_memory_history(max_entries=TRACE_ENTRIES, context=None, stacks="python")
    try:
        forward()
        torch.cuda.synchronize()
        return compact_trace(torch.cuda.memory._snapshot())
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def compact_trace(snapshot, device=0):
    """A snapshot's device trace as a list of [action, block, bytes], small enough to keep with a recorded run.

    action: 1 a block is handed out, -1 it comes back, 2 a segment is taken from the card, -2 given back.
    block: a number for each address, in order of appearance.
    """
    numbers = {}
    entries = []
    for entry in snapshot["device_traces"][device]:
        if entry["action"] in _ACTIONS:
            number = numbers.setdefault(entry["addr"], len(numbers))
            entries.append([_ACTIONS[entry["action"]], number, entry["size"]])
    return entries


def trace_events(entries):
    """The blocks of a compact trace as events for `allocator.replay`: (key, signed bytes, label), in order."""
    events, live = [], {}
    for index, (action, number, size) in enumerate(entries):
        if action == 1:
            live[number] = index
            events.append((index, size, "traced"))
        elif action == -1 and number in live:
            events.append((live.pop(number), -size, "traced"))
    return events


def _used():
    free, total = torch.cuda.mem_get_info()
    return total - free
