"""One rank of many, alone: torch's fake process group, which sends nothing, on fake tensors, which hold nothing.

So FSDP2 of a model of any size is followed at 8 or 1,024 ranks on a laptop. Nothing frees late there, as threads of
gloo do: backward's peak is the same at every run.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.model.devices import settled
from dsmem.runs.ranks.plan import check_step, engine_of
from dsmem.runs.ranks.run import RankRun, RanksRun
from dsmem.runs.ranks.step import Job, train
from dsmem.units import one_of, whole_number


def fake_rank(
    arch: Any,
    work: Workload | None = None,
    sharding: Any = None,
    training: Any = True,
    rank: int = 0,
    **fields: Any,
) -> RanksRun:
    """A training step of one rank under FSDP2, zero=2 or 3, in this process; a `RanksRun` of that rank alone.

    rank: which of the sharding's ranks it plays. Other arguments as in `run_ranks`, the model of any size. Its loss is
    None. It takes about a second for each thousand of tensors x ranks: `fully_shard` makes a part of each tensor for
    each rank. Raises ValueError for other engines, and where this process has a process group already.
    """
    arch, training, sharding = Architecture.of(arch), Training.of(training), Sharding.of(sharding)
    work = settled(arch, training.workload(work, **fields), "fake")
    engine = one_of("the engine", engine_of(sharding, arch), ("fsdp2",), "one that runs on fake ranks")
    check_step(work, training, [engine])
    sharding.place(rank)
    job = Job(arch, work, training, sharding, engine, "fake")
    with fake_group(rank, sharding.ranks):
        return RanksRun(arch, work, training, sharding, engine, "fake", [RankRun.of(train(job))])


@contextlib.contextmanager
def fake_group(rank: int, world: int) -> Iterator[None]:
    """Within the block this process is `rank` of a default group of `world` ranks that are not there."""
    from torch.testing._internal.distributed import fake_pg  # registers the backend

    if dist.is_initialized():
        raise ValueError(f"rank={rank} cannot be played here, where a process group is at work; end that one first")
    dist.init_process_group("fake", store=fake_pg.FakeStore(), rank=whole_number("rank", rank, 0), world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
