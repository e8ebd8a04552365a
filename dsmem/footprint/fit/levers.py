"""Which lever saves most: every way to make a pass or a training step smaller, each weighed by the footprint alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.training.step import training_footprint
from dsmem.table import Table
from dsmem.units import FLOATS, format_bytes, whole_number

KINDS = ("quantization", "batching", "attention", "parallelism", "optimizer", "checkpointing", "adapters")
"""What kind of lever each is, in the words of those who advise to pull one first."""

_CACHE = {"kv_cache": "fp8"}
_PASS = (
    ("quantization", {"weights": "int8"}),
    ("quantization", {"weights": "int4"}),
    ("quantization", _CACHE),
    ("batching", {"logits": "last"}),
    ("attention", {"attention": "fused"}),
    ("attention", {"mla_cache": "latent"}),
)
_STEP = (
    ("optimizer", {"optimizer_kernel": "fused"}),
    ("optimizer", {"optimizer": "adamw8bit"}),
    ("optimizer", {"optimizer": "lion"}),
    ("checkpointing", {"checkpointing": "selective"}),
    ("checkpointing", {"checkpointing": "full"}),
    ("adapters", {"lora_rank": 16}),
)


def levers(arch: Any, work: Workload | None = None, training: Any = None, ranks: int = 2, **fields: Any) -> Table:
    """Each lever by what it saves at the peak, the largest first: `Table` of lever, kind, bytes left, saved, and share.

    arch: whatever `Architecture.of` takes. work: a `Workload` or its fields as keywords. training: as in `Training.of`
    for a step of training, None for inference. ranks: GPUs to share over. A lever that changes nothing here, or that no
    formula tells of, is left out. One lever is pulled at a time: what two save together is less than their sum, where
    both make the same instant smaller.

    >>> levers("deepseek-r1-distill-qwen-7b", batch=4, seq_len=1024, weights="fp16").column("lever")[:2]
    ["weights='int4'", "weights='int8'"]
    """
    arch, ranks = Architecture.of(arch), whole_number("ranks", ranks, least=2, what="a count of GPUs to share over")
    if training is None or training is False:
        work = Workload.of(work, **fields)
        before, tried = inference_footprint(arch, work).total_bytes, _of_pass(arch, work, ranks)
    else:
        training = Training.of(training)
        work = training.workload(work, **fields)
        before, tried = training_footprint(arch, work, training).total_bytes, _of_step(arch, work, training, ranks)
    if np.ndim(before):
        raise ValueError("levers of arrays are not weighed; each field of the workload must be one number")
    rows = [(words, kind, after, before - after, (before - after) / before) for kind, words, after in tried]
    rows = sorted((row for row in rows if row[3] > 0), key=lambda row: -row[3])
    columns = {"lever": None, "kind": None, "left": format_bytes, "saved": format_bytes, "share": ".1%"}
    return Table(columns, rows, f"{arch.name}, {format_bytes(before)} at the peak: what one lever alone saves")


def _of_pass(arch, work, ranks) -> Iterator[tuple[str, str, int]]:
    for kind, change in _PASS:
        if kind != "quantization" or work.weights in FLOATS or change is _CACHE:
            yield from _weighed(kind, change, lambda change=change: inference_footprint(arch, work.changed(**change)))
    for change in _halves(work):
        yield from _weighed("batching", change, lambda change=change: inference_footprint(arch, work.changed(**change)))
    sharding = {"tensor": ranks}
    yield from _weighed(
        "parallelism", {"sharding": sharding}, lambda: inference_footprint(arch, work, sharding=sharding)
    )


def _of_step(arch, work, training, ranks) -> Iterator[tuple[str, str, int]]:
    for kind, change in _STEP:
        other = Training.of(training, **change)
        yield from _weighed(kind, change, lambda other=other: training_footprint(arch, work, other))
    for change in _halves(work):
        make = lambda change=change: training_footprint(arch, work.changed(**change), training)  # noqa: E731
        yield from _weighed("batching", change, make)
    for sharding in ({"data": ranks, "zero": 3}, {"tensor": ranks}):
        make = lambda sharding=sharding: training_footprint(arch, work, training, sharding=sharding)  # noqa: E731
        yield from _weighed("parallelism", {"sharding": sharding}, make)


def _halves(work):
    """Half the sequences, and sequences half as long."""
    least = {"batch": 2, "seq_len": 4}
    return [{name: getattr(work, name) // 2} for name, number in least.items() if getattr(work, name) >= number]


def _weighed(kind, change, make):
    try:
        after = make().total_bytes
    except ValueError:  # no formula for it, or nothing that this model has
        return
    yield kind, ", ".join(f"{name}={value!r}" for name, value in change.items()), int(after)
