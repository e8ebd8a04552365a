"""A training step on real ranks of this machine, each with a ledger of its own; what each holds at rest, as a table."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.memory.ledger import Ledger
from dsmem.model.devices import settled
from dsmem.runs.folded import PATIENCE
from dsmem.runs.ranks.group import SECONDS, RankGroup
from dsmem.runs.ranks.plan import SAID, check_step, engine_of, sharding_words
from dsmem.runs.ranks.step import Held, Job, RankReport, train
from dsmem.table import Table
from dsmem.units import format_bytes, one_of

WORDS = 7
"""What each rank says of where it is in a job, for the bar."""

HELD = ("parameters", "gradients", "optimizer_states")
PEAKS = {"forward": "forward peak", "backward": "backward peak", "optimizer step": "step peak"}


@dataclasses.dataclass(frozen=True, repr=False)
class RankRun:
    """What one rank held and did. held, loss, beside: as in `step.RankReport`. ledger: of its step."""

    rank: int
    held: dict[str, list[Held]]
    ledger: Ledger
    loss: float | None
    beside: dict[str, int]

    @classmethod
    def of(cls, report: RankReport) -> "RankRun":
        """From what a rank has told."""
        ledger = Ledger.of(report.events, report.device)
        ledger.marks = dict(report.marks)
        return cls(report.rank, report.held, ledger, report.loss, report.beside)

    def bytes_of(self, what: str) -> int:
        """Bytes at rest of "parameters", "gradients" or "optimizer_states", each storage counted once."""
        return sum(each.storage for each in self.held[one_of("what", what, self.held)])

    @property
    def peaks(self) -> dict[str, int]:
        """{phase: most bytes alive in it}."""
        return self.ledger.phases

    def tensors(self) -> Table:
        """Every tensor at rest, as a `Table`."""
        rows = [
            (each.name, each.kind, each.shape, each.local_shape, each.nbytes)
            for kind in HELD
            for each in self.held[kind]
        ]
        return Table({"tensor": None, "kind": None, "shape": str, "here": str, "bytes": ","}, rows, f"rank {self.rank}")

    def row(self) -> tuple:
        """Its row in the table of all ranks."""
        return self.rank, *map(self.bytes_of, HELD), *(self.peaks[phase] for phase in PEAKS)

    def __repr__(self) -> str:
        return f"<rank {self.rank}: at most {format_bytes(self.ledger.peak_bytes)}>"


@dataclasses.dataclass(frozen=True, repr=False)
class RanksRun:
    """One step on all ranks: `ranks` holds a `RankRun` each. Other fields as `run_ranks` takes them."""

    arch: Architecture
    work: Workload
    training: Training
    sharding: Sharding
    engine: str
    device: str
    ranks: list[RankRun]

    @property
    def loss(self) -> float | None:
        """Mean loss of all replicas in the first step; the same for every engine that has as many of them."""
        return self.ranks[0].loss

    @property
    def said(self) -> str:
        """What the engine shares out, and for which stage of ZeRO it stands when."""
        stage2 = self.engine == "fsdp2" and self.sharding.zero == 2
        return SAID["stage 2" if stage2 else self.engine]

    def table(self) -> Table:
        """A row for each rank: what it holds at rest, and the peak of each phase, in bytes."""
        columns = dict.fromkeys((name.replace("_", " ") for name in (*HELD, *PEAKS.values())), format_bytes)
        return Table({"rank": None} | columns, [rank.row() for rank in self.ranks], f"{self}. {self.said}")

    def __str__(self) -> str:
        work, first = self.work, self.ranks[0]
        fake = self.device == "fake"
        where = f"rank {first.rank} alone on fake tensors" if fake else f"on {len(self.ranks)} {self.device} ranks"
        return (
            f"{self.arch.name}, a training step of {work.batch:,} × {work.seq_len:,} tokens a replica, "
            f"{self.training.words(work)}, {sharding_words(self.sharding)}, {where}"
        )

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def run_ranks(
    arch: Any,
    work: Workload | None = None,
    sharding: Any = None,
    training: Any = True,
    device: str = "cpu",
    seed: int = 0,
    seconds: float = SECONDS,
    **fields: Any,
) -> RanksRun:
    """A training step of our decoder on real ranks, one process each: gloo on a CPU, NCCL on GPUs; a `RanksRun`.

    arch: whatever `Architecture.of` takes, with weights that this machine holds once for each rank. work: a `Workload`
    or its fields as keywords: what one replica runs. sharding: as in `Sharding.of`; its `ranks` are started.
    training: as in `measure`. device: "cpu" or "cuda". seed: of the weights, and with the replica's number of the
    tokens. seconds: how long it may take, after the processes have started.
    data with zero=0 is DistributedDataParallel, zero=1 ZeroRedundancyOptimizer, zero=2 FSDP2 that keeps what it has
    gathered until backward, zero=3 FSDP2; tensor is DTensor's; expert=data shares out the experts.
    The processes end with the call, an interrupted one, too. Raises ValueError for what no engine runs, and
    `RankLost` where a rank ends or hangs.
    """
    return compare_ranks(arch, work, [sharding], training, device, seed, seconds, **fields)[0]


def compare_ranks(
    arch: Any,
    work: Workload | None = None,
    shardings: Iterable[Any] = (),
    training: Any = True,
    device: str = "cpu",
    seed: int = 0,
    seconds: float = SECONDS,
    **fields: Any,
) -> list[RanksRun]:
    """`run_ranks` of several shardings of as many ranks, one after another in the same processes, which start once.

    shardings: as in `Sharding.of`. Other arguments as in `run_ranks`. Raises ValueError where their ranks differ.
    """
    arch, training, shardings = Architecture.of(arch), Training.of(training), [Sharding.of(each) for each in shardings]
    work = settled(arch, training.workload(work, **fields), device)
    counts = {sharding.ranks for sharding in shardings}
    if len(counts) != 1:
        raise ValueError(
            f"shardings have {sorted(counts)} ranks; all must have as many, for the same processes run them"
        )
    engines = [engine_of(sharding, arch) for sharding in shardings]
    check_step(work, training, engines)
    jobs = [
        Job(arch, work, training, sharding, engine, device, seed)
        for sharding, engine in zip(shardings, engines, strict=True)
    ]
    with RankGroup(counts.pop(), device) as group:
        return [run_job(group, job, seconds) for job in jobs]


def run_job(group: RankGroup, job: Job, seconds: float = SECONDS) -> RanksRun:
    """One step on the processes of `group`. seconds: as in `run_ranks`."""
    words = f"{job.arch.name}, {job.engine}"
    with tqdm(total=group.world * WORDS, desc=words, unit="", delay=PATIENCE, leave=False) as bar:
        ranks = [RankRun.of(report) for report in group.ask(train, job, seconds=seconds, told=lambda *_: bar.update())]
    return RanksRun(job.arch, job.work, job.training, job.sharding, job.engine, job.device, ranks)
