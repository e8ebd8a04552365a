"""One pass at every level that this machine has: formula, ledger, allocator, device; and the gaps between them."""

import dataclasses
import time

import numpy as np
import torch
from torch.utils.benchmark import Timer

from dsmem import device as cuda
from dsmem.allocator import Replay, replay
from dsmem.architecture import Architecture
from dsmem.footprint import Footprint, inference_footprint
from dsmem.ledger import Ledger
from dsmem.model import build_model, check_device
from dsmem.workload import Workload


@dataclasses.dataclass(frozen=True)
class Run:
    """One pass at up to four levels: `footprint`, `ledger`, `replay` and, on a GPU, `device_memory` (else None).

    device_memory: peaks in bytes, see `device.peaks`; trace: the allocator's own story of the pass, see `device.trace`.
    seconds: wall time of the pass under the ledger, None on fake tensors.
    """

    arch: Architecture
    work: Workload
    device: str
    footprint: Footprint
    ledger: Ledger
    replay: Replay
    device_memory: dict | None
    trace: list | None
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Waterfall:
    """The levels of a run and the gaps between them: `steps` of (name, bytes, "total" or "gap")."""

    steps: list

    def __repr__(self):
        return "\n".join(f"{name:<40}{nbytes:>20,} B" for name, nbytes, _ in self.steps)


def measure(arch, work, device="fake", seed=0):
    """Run `work` once on `arch` with random weights and token ids, watched at every level; returns a `Run`.

    device: "fake" (any size, no memory), "cpu" or "cuda". Raises ValueError for a workload with arrays or a device that
    is not there, torch.OutOfMemoryError where it does not fit.
    """
    check_device(device)
    for name in ("batch", "seq_len", "cached_tokens"):
        if not isinstance(getattr(work, name), int):
            raise ValueError(f"{name} is an array, and one workload is run at a time; it must be a whole number")
    elsewhere = cuda.held_bytes() if str(device).startswith("cuda") else 0
    forward, model = prepare(arch, work, device, seed)
    return Run(arch, work, str(device), inference_footprint(arch, work), *watch(forward, model, device, elsewhere))


def prepare(arch, work, device, seed=0):
    """A call that runs `work` on `arch`, from the same start each time, and the model that it runs on."""
    formats = {"activations": work.activations, "modules_to_not_convert": work.modules_to_not_convert}
    model = build_model(arch, weights=work.weights, device=device, seed=seed, **formats)
    return bind(model, arch, work, device), model


def bind(model, arch, work, device):
    """A call that runs `work` on the `model` of `arch`, from the same start each time."""
    tokens = torch.randint(arch.vocab_size, (work.batch, work.new_tokens))
    tokens = tokens if device == "fake" else tokens.to(device)
    cache = None
    if work.cache != "none":
        options = {"mla_cache": work.mla_cache} | ({"block_size": work.block_size} if work.cache == "paged" else {})
        cache = model.new_cache(work.batch, work.cache_len, work.kv_cache, work.cache, **options)
    absorbed = work.absorbed(arch)

    def forward():
        if cache is not None:
            cache.reset(work.cached_tokens)
        return model(tokens, cache=cache, attention=work.attention, logits=work.logits, absorbed=absorbed)

    return forward


@torch.no_grad()
def tokens_per_second(arch, works, device):
    """Tokens a second that one model of `arch` reads or writes in each of `works`, an array; medians, random weights.

    works: `Workload`s that differ in batch and length alone, for they share the weights. ValueError: they do not.
    """
    if len(kinds := {work.weights for work in works}) != 1:
        raise ValueError(f"works hold weights={sorted(kinds)!r}; they must be of one kind, for one model runs them all")
    first, model = prepare(arch, works[0], device)
    seconds = []
    for work in works:
        forward = first if work is works[0] else bind(model, arch, work, device)
        seconds.append(Timer("forward()", globals={"forward": forward}).blocked_autorange(min_run_time=0.15).median)
    return np.array([work.batch * work.new_tokens for work in works]) / seconds


@torch.no_grad()
def watch(forward, model, device, elsewhere_bytes=0):
    """Ledger, replay, device memory, trace and seconds of `forward()` on any module; a GPU runs it four times.

    elsewhere_bytes: what the GPU held for this process before the model was made, see `device.held_bytes`.
    """
    on_gpu = str(device).startswith("cuda")
    memory = cuda.peaks(forward, elsewhere_bytes) if on_gpu else None
    trace = cuda.trace(forward) if on_gpu else None
    with Ledger(model) as ledger:
        start = time.perf_counter()
        forward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    replayed = replay(ledger, workspace_bytes=memory["workspace"] if on_gpu else 0)
    return ledger, replayed, memory, trace, None if device == "fake" else seconds


def explain(run):
    """The `Waterfall` from formula to device: every level a total, every difference between two a named gap."""
    formula, ledger, replayed = run.footprint.total_bytes, run.ledger.peak_bytes, run.replay
    allocated, reserved = replayed.peak_allocated_bytes, replayed.peak_reserved_bytes
    steps = [
        ("formula", formula, "total"),
        ("not in the formula", ledger - formula, "gap"),
        ("ledger", ledger, "total"),
        ("blocks larger than their tensors", replayed.rounding_bytes, "gap"),
        ("cuBLAS workspace", allocated - ledger - replayed.rounding_bytes, "gap"),
        ("allocated (predicted)", allocated, "total"),
    ]
    if run.device_memory is None:
        steps += [("free in segments", reserved - allocated, "gap"), ("reserved (predicted)", reserved, "total")]
        return Waterfall([step for step in steps if step[0] != "cuBLAS workspace"])
    real = run.device_memory
    elsewhere = real.get("elsewhere", 0)  # recordings made before this was noted lack it
    steps += [("tensors from before this run", elsewhere, "gap")] if elsewhere else []
    steps += [
        ("kernel scratch that no tensor holds", real["allocated"] - allocated - elsewhere, "gap"),
        ("allocated on the GPU", real["allocated"], "total"),
        ("free in segments", real["reserved"] - real["allocated"], "gap"),
        ("reserved on the GPU", real["reserved"], "total"),
        ("CUDA context and other processes", real["used"] - real["reserved"], "gap"),
        ("used, as nvidia-smi says", real["used"], "total"),
    ]
    return Waterfall(steps)
