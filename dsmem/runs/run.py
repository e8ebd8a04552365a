"""One pass at every level that this machine has: formula, ledger, allocator, device."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import Timer

from dsmem.config.architecture import Architecture
from dsmem.config.families import UnknownFamily
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.instants import Footprint
from dsmem.memory import cuda
from dsmem.memory.ledger import Ledger
from dsmem.memory.replay import Replay
from dsmem.model import hub, library
from dsmem.model.decoder import build_model
from dsmem.model.devices import check_device, settled
from dsmem.runs import library_run, training_run
from dsmem.runs.gaps import Waterfall, explain
from dsmem.runs.watching import watch
from dsmem.table import Table
from dsmem.units import format_bytes, one_of, whole_number

CODES = ("dsmem", "transformers")


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """One pass at up to four levels: `footprint`, `ledger`, `replay` and, on a GPU, `device_memory` (else None).

    arch, work: what ran, with attention="auto" settled. device: "fake", "cpu" or "cuda". code: whose model ran, "dsmem"
    or "transformers". device_memory: peaks in bytes, see `memory.cuda.peaks`; trace: the allocator's own story of the
    pass, see `memory.cuda.trace`. seconds: wall time of the pass under the ledger, None on fake tensors.
    A family without a formula has run in transformers' code: then `footprint` is None and arch a
    `model.library.LibraryModel`. notes: what differs there from what one may expect, a sentence each. cache: {kind:
    bytes} that transformers' cache holds after the pass, in its code.
    training: of a training step, as it was asked for, else None; then step_seconds are the median seconds of each of
    its phases, None on fake tensors.
    """

    arch: Architecture | library.LibraryModel
    work: Workload
    device: str
    footprint: Footprint | None
    ledger: Ledger
    replay: Replay
    device_memory: dict | None
    trace: dict | None
    seconds: float | None
    code: str = "dsmem"
    notes: tuple = ()
    cache: dict | None = None
    training: Training | None = None
    step_seconds: dict | None = None

    def gaps(self) -> Waterfall:
        """The way from formula to device, every difference between two levels named: see `explain`."""
        return explain(self)

    def table(self) -> Table:
        """The levels as a `Table`: what each says of the peak; of a training step first each phase's own."""
        totals = [(name, nbytes, nbytes) for name, nbytes, kind in self.gaps().steps if kind == "total"]
        said = [training_run.words(self.ledger)] if self.training else []
        totals = [(name, nbytes, nbytes) for name, nbytes in self.ledger.phases.items()] + totals
        title = " ".join([f"{self}." if [*said, *self.notes] else str(self), *said, *self.notes])
        return Table({"level": None, "bytes": ",", "size": format_bytes}, totals, title)

    def plot_timeline(self, **options: Any) -> Any:
        """Live bytes over the pass; returns the Axes. Options: those of `plots.plot_timeline`."""
        from dsmem import plots  # not above: it loads Matplotlib

        marks = {"marks": self.ledger.marks} if self.training else {}
        return plots.plot_timeline(self, **marks | options)

    def plot_tensors(self, **options: Any) -> Any:
        """The largest tensors alive at the peak; returns the Axes. Options: those of `plots.plot_tensors`."""
        from dsmem import plots

        return plots.plot_tensors(self, **options)

    def plot_instants(self, **options: Any) -> Any:
        """Every instant that the formula lists; returns the Axes. Options: those of `plots.plot_instants`."""
        from dsmem import plots

        if self.footprint is None:
            raise ValueError(
                f"{self.arch.name} has no formula, so it has no instants; see plot_timeline() and plot_tensors()"
            )
        return plots.plot_instants(self, **options)

    def plot_gaps(self, **options: Any) -> Any:
        """The way from formula to device as a waterfall; returns the Axes. Options: those of `plots.plot_waterfall`."""
        from dsmem import plots

        return plots.plot_waterfall(self.gaps(), **options)

    def __str__(self) -> str:
        work = self.work
        code = "" if self.code == "dsmem" else f", in {self.code}' code"
        if self.footprint is None:
            code += " (no formula)" if self.code == "dsmem" else f" ({hub.version()}; no formula)"
        what, formats = work.phase, work.weights_words
        if self.training:
            what, formats = "a training step", self.training.words(work)
        return (
            f"{self.arch.name}, {what} of {work.batch:,} × {work.seq_len:,} tokens, {formats}, "
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
    code: str | None = None,
    fold: bool = True,
    training: Any = None,
    **fields: Any,
) -> Run:
    """Run a workload once with random weights and token ids, watched at every level; returns a `Run`.

    arch: an `Architecture`, or whatever `Architecture.of` takes: a name, a path, a dict, a config object.
    work: a `Workload`, or its fields as keywords; attention="auto" becomes what the device can run.
    device: "fake" (any size, no memory), "cpu" or "cuda", see `model.devices.check_device`. seed: of the weights.
    code: whose model runs, "dsmem" or "transformers". By default ours where the family is read, else that of the
    installed transformers, on this very config, and the run says so. The formula is ours in both, so the ledger of the
    latter need not agree with it; where there is none, weights are by default in the format that the config names, or
    BF16.
    fold: whether, in transformers' code on fake tensors, of layers that only repeat a few run and the ledger is written
    out for all; the run says so, and where they differ all run.
    training: None for a forward pass; or a training step of the workload's batch and length: a `Training`, its fields
    as a dict, an optimizer's name, or True. Formats are then "bf16" where none are given, and there is no cache.
    Raises ValueError for a workload with arrays, a device that is not there or a config that neither runs,
    torch.OutOfMemoryError where it does not fit.

    >>> run = measure("qwen2.5-0.5b", batch=4, seq_len=1024)
    >>> run.footprint.total_bytes == run.ledger.peak_bytes
    True
    """
    device = check_device(device)
    if not isinstance(fold, bool):
        raise ValueError(f"fold={fold!r} is not a switch; it must be True or False")
    if code is not None:
        one_of("code", code, CODES, "a model that runs here")
    source, arch, why = arch, *_architecture(arch, code)
    code = code or ("dsmem" if arch else "transformers")
    model = library.read(source) if code == "transformers" else None
    if arch is None and work is None:
        fields = {"weights": model.floats or "bf16"} | fields
    training = None if training is None or training is False else Training.of(training)
    work = training.workload(work, **fields) if training else Workload.of(work, **fields)
    for name in ("batch", "seq_len", "cached_tokens"):
        whole_number(name, getattr(work, name), least=0, what="one number, and one workload is run at a time")
    work = settled(arch, work, device).on(arch) if arch else work
    # before the model, as the replay has it: a workspace that takes a hole which the model left would pin its segment
    elsewhere = cuda.held_bytes() if device == "cuda" else 0
    capacity = cuda.room_bytes(elsewhere) if device == "cuda" else None
    workspace = cuda.workspace_blocks() if device == "cuda" else ()
    beside = device, elsewhere, workspace, capacity
    if training:
        return Run(arch or model, code=code, **training_run.levels(model, arch, work, training, seed, beside, why))
    if code == "transformers":
        return Run(arch or model, code=code, **library_run.levels(model, arch, work, seed, fold, beside, why))
    forward, module = prepare(arch, work, device, seed)
    return Run(arch, work, device, inference_footprint(arch, work), *watch(forward, module, *beside))


def _architecture(source, code):
    """The `Architecture` of a source, or None and the reason why transformers' code runs without a formula."""
    try:
        return Architecture.of(source), ()
    except UnknownFamily:
        if code == "dsmem" or not hub.has_transformers():
            raise
        return None, ()
    except ValueError as error:
        if code != "transformers":
            raise
        return None, (f"No formula: {error}.",)


def prepare(arch: Any, work: Workload, device: Any, seed: int = 0) -> tuple[Callable, torch.nn.Module]:
    """A call that runs `work` on `arch`, from the same start each time, and the model that it runs on.

    arch: whatever `Architecture.of` takes. device: as in `model.devices.check_device`. seed: of the random weights.
    """
    arch, device = Architecture.of(arch), check_device(device)
    work = work.on(arch)
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
    works = [work.on(arch) for work in works]
    first, model = prepare(arch, works[0], device)
    seconds = []
    for work in works:
        forward = first if work is works[0] else bind(model, arch, work, device)
        seconds.append(Timer("forward()", globals={"forward": forward}).blocked_autorange(min_run_time=0.15).median)
    return np.array([work.batch * work.new_tokens for work in works]) / seconds
