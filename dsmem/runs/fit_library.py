"""What is asked to fit where no formula is known: the ledger's bytes, of transformers' code on fake tensors."""

import collections
import dataclasses
import functools
from typing import Any

from dsmem.config.devices import Devices
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.fit.asked import Sized
from dsmem.footprint.segments import COPIES, PASS, reserved_bytes
from dsmem.runs.run import measure


def asked_of(
    model: Any, work: Workload | None, found: Devices, sharding: Any, training: Any, fields: dict[str, Any]
) -> "Ran":
    """What `dsmem.fit` asks of a model that only transformers runs; arguments as there, `fields` those of a workload.

    Raises ValueError for several devices, and for what transformers does not run.
    """
    if found.count > 1 or sharding is not None:
        what = f"count={found.count}" if sharding is None else f"sharding={sharding!r}"
        raise ValueError(f"{what} of a model without formulas is not modelled; allowed: one device")
    training = None if training is None or training is False else Training.of(training)
    run = measure(model, work, training=training, **fields)
    config = getattr(run.arch.config, "text_config", None) or run.arch.config
    limit = getattr(config, "max_position_embeddings", None)
    asked = Ran(model, run.arch.name, run.work, training, limit if isinstance(limit, int) and limit > 0 else None)
    asked.__dict__["run"] = run  # it has run already
    return asked


@dataclasses.dataclass(frozen=True)
class Ran(Sized):
    """A model in transformers' code and what it is to do; each number takes a run of seconds.

    model: as `measure` takes it. most_context: the tokens that its config says it is made for, or None.
    """

    model: Any
    name: str
    work: Workload
    training: Training | None
    most_context: int | None
    sharding: None = None
    stored: str = ""
    depth: str = "ledger"
    bound: int = 2**20  # each point on the way takes seconds

    @property
    def weights_words(self) -> str:
        """The format of the weights."""
        return self.work.weights

    @property
    def least_context(self) -> int:
        """The fewest tokens that a sequence can have."""
        return 2 if self.work.phase == "decode" else self.work.cached_tokens + (2 if self.training else 1)

    def changed(self, **fields: Any) -> "Ran":
        """The same with another workload."""
        return dataclasses.replace(self, work=self.work.changed(**fields))

    def spread(self, sharding: Any) -> "Ran":
        """The same on one device; ValueError for several, whose shares are not modelled."""
        if sharding is not None:
            raise ValueError(f"sharding={sharding!r} of a model without formulas is not modelled; it must be None")
        return self

    @functools.cached_property
    def run(self) -> Any:
        """The `Run` that tells."""
        return measure(self.model, self.work, training=self.training)

    def parts(self) -> dict[str, int]:
        """{category: bytes} at the peak."""
        return {name: nbytes for name, nbytes in self.run.ledger.by_category().items() if nbytes}

    def total(self) -> int:
        """Bytes at the peak."""
        return self.run.ledger.peak_bytes

    def segment_bytes(self) -> int:
        """The most that blocks and segments add, by the sizes of the weights that ran: see `footprint.segments`."""
        births = (record for record, sign in self.run.ledger.events if sign > 0)
        sizes = collections.Counter(record.nbytes for record in births if record.category == "weight")
        beyond = sum(reserved_bytes(size, count) - count * size for size, count in sizes.items())
        return PASS + (COPIES if self.training else 1) * beyond

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from what one may expect, a sentence each."""
        return f"No formula reads {self.name}: transformers' code ran on fake tensors.", *self.run.notes
