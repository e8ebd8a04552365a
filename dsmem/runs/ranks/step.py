"""What one rank does: builds the model, hands it to an engine, takes a step under a ledger and tells what it held."""

import dataclasses
import gc
from typing import Any

import torch
import torch.distributed as dist

from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.memory.ledger import Ledger
from dsmem.memory.records import BEFORE, plain_tensors
from dsmem.model.decoder import build_model
from dsmem.model.training import TrainingStep, next_token_loss
from dsmem.runs.ranks.launcher import say


@dataclasses.dataclass(frozen=True)
class Job:
    """One step on all ranks; fields as in `run_ranks`. engine: one of `plan.ENGINES`."""

    arch: Architecture
    work: Workload
    training: Training
    sharding: Sharding
    engine: str
    device: str = "cpu"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Held:
    """One tensor as a rank holds it at rest.

    name: the parameter it belongs to. kind: "parameter", "gradient", or the optimizer's name of a state. shape: of the
    whole tensor. local_shape: of this rank's part; nbytes: of its numbers. storage: bytes of what they lie in, 0
    where that was counted before; it is more where the engine fills parts up to the same size.
    """

    name: str
    kind: str
    shape: tuple
    local_shape: tuple
    dtype: str
    nbytes: int
    storage: int


@dataclasses.dataclass(frozen=True)
class RankReport:
    """What one rank tells of a step. held: {"parameters", "gradients", "optimizer_states": a `Held` each}.

    events, marks, device: of its ledger, as `Ledger.of` takes them. loss: the mean of all ranks' in the first step,
    None on fake tensors. beside: {what: number} that is told beside, such as rows that its experts were given.
    """

    rank: int
    held: dict[str, list[Held]]
    events: list
    marks: dict[str, int]
    device: str
    loss: float | None
    beside: dict[str, int]


class Watcher:
    """Stands between a `TrainingStep` and its ledger: says where the step is, and looks at the gradients at rest."""

    def __init__(self, ledger: Ledger, model: torch.nn.Module):
        self.ledger, self.model, self.gradients = ledger, model, []

    def mark(self, phase: str) -> None:
        """A phase begins; before the optimizer's, gradients are at rest."""
        say(phase)
        if phase == "optimizer step":
            grads = [(name, "gradient", p.grad) for name, p in self.model.named_parameters() if p.grad is not None]
            self.gradients = held(grads)
        self.ledger.mark(phase)

    def book(self, tensors: Any, category: str) -> None:
        """As `Ledger.book`."""
        self.ledger.book(tensors, category)


def train(job: Job) -> RankReport:
    """One step of `job` on this rank, one of a process group of as many ranks as its sharding has."""
    from dsmem.runs.ranks.engines import spread  # not above: whoever asks for a step need not load all engines

    say("the building of the model")
    rank = dist.get_rank()
    model = build_model(job.arch, weights=job.training.parameters(job.work), device=job.device, seed=job.seed)
    ready = spread(model, job.sharding, job.engine, job.device)
    work = job.work
    step = TrainingStep(
        model, tokens_of(job, rank), job.training, work.activations, work.attention, optimizer=ready.make
    )
    step.loss = lambda tokens: next_token_loss(ready.call(tokens, attention=work.attention), tokens)
    say("the steps before")
    loss = step.run()
    for _ in range(ready.warm - 1):
        step.run()
    gc.collect()
    report = watched(step, model, ready.made, rank)
    if ready.call is not model:
        _name_buckets(report.events)
    if job.device != "fake":
        dist.all_reduce(loss)
        report = dataclasses.replace(report, loss=loss.item() / dist.get_world_size())
    say("the end")
    return report


def _name_buckets(events):
    """What DistributedDataParallel adds gradients up in is there before the step, and the last of its kind."""
    for record, _ in events:
        if record.op == BEFORE and record.category == "temporary":
            record.category = "gradient"


def watched(step: TrainingStep, model: torch.nn.Module, optimizers: list, rank: int) -> RankReport:
    """What a rank holds, and the ledger of one step. optimizers: those that `step` steps."""
    with Ledger(model) as ledger:
        step.observer = watcher = Watcher(ledger, model)
        step.run()
    step.observer = None
    parameters = held((name, "parameter", p) for name, p in model.named_parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    states = held(
        (names.get(id(p), ""), kind, tensor)
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for kind, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    )
    rows = {"rows of experts": sum(getattr(module, "arrived", 0) for module in model.modules())}
    found = {"parameters": parameters, "gradients": watcher.gradients, "optimizer_states": states}
    beside = {what: number for what, number in rows.items() if number}
    return RankReport(rank, found, ledger.events, ledger.marks, ledger.device, None, beside)


def tokens_of(job: Job, rank: int) -> torch.Tensor:
    """Token ids of the rank's replica, (batch, seq_len): ranks of one replica have the same."""
    source = torch.Generator().manual_seed(job.seed + job.sharding.place(rank).data)
    tokens = torch.randint(job.arch.vocab_size, (job.work.batch, job.work.seq_len), generator=source)
    return tokens if job.device == "fake" else tokens.to(job.device)


def held(named: Any) -> list[Held]:
    """A `Held` of every (name, kind, tensor)."""
    found, seen = [], set()
    for name, kind, tensor in named:
        for plain in plain_tensors(tensor):
            storage = plain.untyped_storage()
            nbytes = 0 if storage._cdata in seen else storage.nbytes()
            seen.add(storage._cdata)
            dtype = str(plain.dtype).removeprefix("torch.")
            size = plain.numel() * plain.element_size()
            found.append(Held(name, kind, tuple(tensor.shape), tuple(plain.shape), dtype, size, nbytes))
    return found
