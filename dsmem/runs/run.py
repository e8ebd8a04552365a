"""One pass at every level that this machine has: formula, ledger, allocator, device."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import Timer

from dsmem.config.architecture import Architecture
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.instants import Footprint
from dsmem.memory import cuda
from dsmem.memory.ledger import Ledger
from dsmem.memory.replay import Replay, replay
from dsmem.model import hub
from dsmem.model.decoder import build_model
from dsmem.model.devices import check_device, settled
from dsmem.runs.gaps import Waterfall, explain
from dsmem.table import Table
from dsmem.units import format_bytes, one_of, whole_number

CODES = ("dsmem", "transformers")


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """One pass at up to four levels: `footprint`, `ledger`, `replay` and, on a GPU, `device_memory` (else None).

    arch, work: what ran, with attention="auto" settled. device: "fake", "cpu" or "cuda". code: whose model ran, "dsmem"
    or "transformers". device_memory: peaks in bytes, see `memory.cuda.peaks`; trace: the allocator's own story of the
    pass, see `memory.cuda.trace`. seconds: wall time of the pass under the ledger, None on fake tensors.
    """

    arch: Architecture
    work: Workload
    device: str
    footprint: Footprint
    ledger: Ledger
    replay: Replay
    device_memory: dict | None
    trace: dict | None
    seconds: float | None
    code: str = "dsmem"

    def gaps(self) -> Waterfall:
        """The way from formula to device, every difference between two levels named: see `explain`."""
        return explain(self)

    def table(self) -> Table:
        """The levels as a `Table`: what each says of the peak."""
        totals = [(name, nbytes, nbytes) for name, nbytes, kind in self.gaps().steps if kind == "total"]
        return Table({"level": None, "bytes": ",", "size": format_bytes}, totals, str(self))

    def plot_timeline(self, **options: Any) -> Any:
        """Live bytes over the pass; returns the Axes. Options: those of `plots.plot_timeline`."""
        from dsmem import plots  # not above: it loads Matplotlib

        return plots.plot_timeline(self, **options)

    def plot_tensors(self, **options: Any) -> Any:
        """The largest tensors alive at the peak; returns the Axes. Options: those of `plots.plot_tensors`."""
        from dsmem import plots

        return plots.plot_tensors(self, **options)

    def plot_instants(self, **options: Any) -> Any:
        """Every instant that the formula lists; returns the Axes. Options: those of `plots.plot_instants`."""
        from dsmem import plots

        return plots.plot_instants(self, **options)

    def plot_gaps(self, **options: Any) -> Any:
        """The way from formula to device as a waterfall; returns the Axes. Options: those of `plots.plot_waterfall`."""
        from dsmem import plots

        return plots.plot_waterfall(self.gaps(), **options)

    def __str__(self) -> str:
        work = self.work
        code = "" if self.code == "dsmem" else f", in {self.code}' code"
        return (
            f"{self.arch.name}, {work.phase} of {work.batch:,} × {work.seq_len:,} tokens, {work.weights}, "
            f"{work.attention} attention, on {self.device} tensors{code}"
        )

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def measure(
    arch: Any,
    work: Workload | None = None,
    device: Any = "fake",
    seed: int = 0,
    code: str = "dsmem",
    **fields: Any,
) -> Run:
    """Run a workload once with random weights and token ids, watched at every level; returns a `Run`.

    arch: an `Architecture`, or whatever `Architecture.of` takes: a name, a path, a dict.
    work: a `Workload`, or its fields as keywords; attention="auto" becomes what the device can run.
    device: "fake" (any size, no memory), "cpu" or "cuda", see `model.devices.check_device`. seed: of the weights.
    code: whose model runs, "dsmem" or "transformers"; the formula is ours in both, so the ledger of the latter need not
    agree with it. Raises ValueError for a workload with arrays or a device that is not there, torch.OutOfMemoryError
    where it does not fit.

    >>> run = measure("qwen2.5-0.5b", batch=4, seq_len=1024)
    >>> run.footprint.total_bytes == run.ledger.peak_bytes
    True
    """
    arch, work, device = Architecture.of(arch), Workload.of(work, **fields), check_device(device)
    one_of("code", code, CODES, "a model that runs here")
    for name in ("batch", "seq_len", "cached_tokens"):
        whole_number(name, getattr(work, name), least=0, what="one number, and one workload is run at a time")
    work = settled(arch, work, device)
    # before the model, as the replay has it: a workspace that takes a hole which the model left would pin its segment
    elsewhere = cuda.held_bytes() if device == "cuda" else 0
    capacity = cuda.room_bytes(elsewhere) if device == "cuda" else None
    workspace = cuda.workspace_bytes() if device == "cuda" else 0
    forward, model = (prepare if code == "dsmem" else hub.prepare)(arch, work, device, seed)
    seen = watch(forward, model, device, elsewhere, workspace, capacity)
    return Run(arch, work, device, inference_footprint(arch, work), *seen, code=code)


def prepare(arch: Any, work: Workload, device: Any, seed: int = 0) -> tuple[Callable, torch.nn.Module]:
    """A call that runs `work` on `arch`, from the same start each time, and the model that it runs on.

    arch: whatever `Architecture.of` takes. device: as in `model.devices.check_device`. seed: of the random weights.
    """
    arch, device = Architecture.of(arch), check_device(device)
    formats = {"activations": work.activations, "modules_to_not_convert": work.modules_to_not_convert}
    model = build_model(arch, weights=work.weights, device=device, seed=seed, **formats)
    if device == "cuda":
        torch.cuda.empty_cache()  # what building left behind must not hold what the pass makes
    return bind(model, arch, work, device), model


def bind(model: torch.nn.Module, arch: Architecture, work: Workload, device: Any) -> Callable:
    """A call that runs `work` on the `model` of `arch`, with a cache and tokens of its own, the same start each time.

    model: from `build_model`, on `device`.
    """
    device = check_device(device)
    work = settled(arch, work, device)
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
def tokens_per_second(arch: Any, works: Iterable[Workload], device: Any) -> np.ndarray:
    """Tokens a second that one model of `arch` reads or writes in each of `works`, an array; medians, random weights.

    arch: whatever `Architecture.of` takes. works: at least one `Workload`, all of one weights, activations and
    modules_to_not_convert, for they share a model. device: "cpu" or "cuda", for fake tensors take no time.
    Raises ValueError for anything else.
    """
    arch, works, device = Architecture.of(arch), [Workload.of(work) for work in works], check_device(device)
    if device == "fake":
        raise ValueError("device='fake' computes nothing, so it has no time; allowed: 'cpu', 'cuda'")
    for name in ("weights", "activations", "modules_to_not_convert"):
        if len(kinds := {getattr(work, name) for work in works}) != 1:
            raise ValueError(
                f"works hold {name}={sorted(kinds)!r}; they must be of one kind, for one model runs them all"
            )
    first, model = prepare(arch, works[0], device)
    seconds = []
    for work in works:
        forward = first if work is works[0] else bind(model, arch, work, device)
        seconds.append(Timer("forward()", globals={"forward": forward}).blocked_autorange(min_run_time=0.15).median)
    return np.array([work.batch * work.new_tokens for work in works]) / seconds


@torch.no_grad()
def watch(
    forward: Callable,
    model: torch.nn.Module,
    device: Any,
    elsewhere_bytes: int = 0,
    workspace_bytes: int | None = None,
    capacity: int | None = None,
) -> tuple[Ledger, Replay, dict | None, dict | None, float | None]:
    """Ledger, replay, device memory, trace and seconds of `forward()` on any module; a GPU runs it four times.

    elsewhere_bytes: what the GPU held for this process before the model was made, see `memory.cuda.held_bytes`.
    workspace_bytes: what cuBLAS took then, see `memory.cuda.workspace_bytes`; by default it is taken now, which may
    raise what the GPU reserves.
    capacity: bytes that the allocator could reserve then, see `memory.cuda.room_bytes`; on a nearly full GPU cached
    segments go back, and the replay must do so too. Raises ReplayedOutOfMemory where the replay does not fit.
    """
    device = check_device(device)
    on_gpu = device == "cuda"
    memory = cuda.peaks(forward, elsewhere_bytes, workspace_bytes) if on_gpu else None
    trace = cuda.trace(forward) if on_gpu else None
    with Ledger(model) as ledger:
        start = time.perf_counter()
        forward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    replayed = replay(ledger, workspace_bytes=memory["workspace"] if on_gpu else 0, capacity=capacity)
    return ledger, replayed, memory, trace, None if device == "fake" else seconds
