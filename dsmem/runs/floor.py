"""Decode steps on this machine beside their bandwidth floor: the bytes that a step reads over the memory's bandwidth.

The bandwidth is measured in the same run, so that whatever else the machine does meets both. 16 bit means BF16, because
most CPUs have no fast product in FP16. INT8 means PyTorch's own product of BF16 inputs and INT8 weights, which reads
the INT8 numbers themselves; a layer of `model.quantize` would first write a 16-bit copy, and read that as well.
"""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from dsmem.config.architecture import Architecture
from dsmem.footprint.reads import floor_seconds, step_reads
from dsmem.model.decoder import build_model
from dsmem.model.devices import check_device
from dsmem.model.quantize import quantize_rows
from dsmem.model.quantize.base import stored
from dsmem.table import Table
from dsmem.units import one_of, whole_number

FORMATS = ("bf16", "int8")
READ_BYTES = 2**28  # far more than a processor caches


@dataclasses.dataclass(frozen=True)
class Step:
    """A decode step: its weights' format, sequences, fastest time, and the time that reading alone would take."""

    weights: str
    batch: int
    seconds: float
    floor_seconds: float

    @property
    def share(self) -> float:
        """The floor over the time: 1 where reading is all that takes time."""
        return self.floor_seconds / self.seconds


@dataclasses.dataclass(frozen=True)
class Floors:
    """The steps of one run, and the bandwidth that the same run measured."""

    steps: list[Step]
    bandwidth_bytes_per_s: float

    @property
    def formats(self) -> list[str]:
        """The formats that were timed: INT8 is left out where this PyTorch has no such product for the device."""
        return list(dict.fromkeys(step.weights for step in self.steps))

    def of(self, weights: str) -> list[Step]:
        """The steps of one format, in the order of their batches."""
        one_of("weights", weights, self.formats, "a format that was timed")
        return [step for step in self.steps if step.weights == weights]

    def table(self) -> Table:
        """Milliseconds and shares of the floor, a row for each batch."""
        names = [f"{name}, ms" for name in self.formats] + [f"floor / {name}" for name in self.formats]
        rows = []
        for steps in zip(*map(self.of, self.formats), strict=True):
            times = [1000 * step.seconds for step in steps]
            ratio = [times[0] / times[1]] if len(times) > 1 else []
            rows.append((steps[0].batch, *times, *(step.share for step in steps), *ratio))
        names += ["bf16 / int8"] if len(self.formats) > 1 else []
        title = f"memory read at {self.bandwidth_bytes_per_s / 1e9:.1f} GB/s in the same run"
        title += "" if len(self.formats) > 1 else "; int8 is left out: this PyTorch has no such product for the device"
        return Table({"batch": None} | dict.fromkeys(names, ".2f"), rows, title)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __repr__(self) -> str:
        return str(self.table())


class ReadInt8(nn.Module):
    """A linear layer in INT8 whose product reads the stored numbers: no copy of the weight is made.

    weight: (out_features, in_features), of any float format; rounded per output channel as in `quantize.int8`. The
    product wants its scales in BF16, which is 2 bytes a row less than `formulas.int8_linear_bytes` counts.
    """

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        rows, scales = quantize_rows(weight)
        self.weight, self.scale = stored(rows), stored(scales.flatten().bfloat16())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., out_features), from (..., in_features) in BF16."""
        out = torch._weight_int8pack_mm(x.flatten(0, -2), self.weight, self.scale)
        return out.view(*x.shape[:-1], -1)


def read_bandwidth(device: str = "cpu", repeats: int = 5, nbytes: int = READ_BYTES) -> float:
    """Bytes a second that this device reads: the fastest sum of a large tensor.

    >>> read_bandwidth(repeats=1, nbytes=2**20) > 0
    True
    """
    numbers = torch.ones(whole_number("nbytes", nbytes, 4) // 4, device=check_device(device))
    return numbers.nbytes / min(_seconds(numbers.sum, device) for _ in range(whole_number("repeats", repeats)))


@torch.inference_mode()
def decode_floors(
    arch: Any, batches: Iterable[int] = (1, 4, 16, 64), tokens: int = 64, repeats: int = 3, device: str = "cpu"
) -> Floors:
    """Time decode steps in BF16 and INT8, and read the memory between them: `Floors`.

    arch: whatever `Architecture.of` takes, without biases and experts, with weights well beyond the processor's cache.
    batches: sequences of a step. tokens: that each has in its cache. repeats: of everything; the fastest counts.
    device: "cpu" or "cuda". Raises ValueError for another model, or a count below 1.
    """
    arch, batches = _plain(Architecture.of(arch)), [whole_number("batch", batch) for batch in batches]
    names = FORMATS if _has_int8(device) else FORMATS[:1]
    models = {name: build_model(arch, "bf16", device, seed=0) for name in names}
    if "int8" in models:
        _read_int8(models["int8"])
    times, rates = {(name, batch): [] for name in models for batch in batches}, []
    for _ in range(whole_number("repeats", repeats)):  # in turns, so that a busy moment meets all of them
        rates.append(read_bandwidth(device, repeats=2))
        for name, batch in times:
            times[name, batch].append(_step(models[name], batch, whole_number("tokens", tokens), device))
    bandwidth = max(rates)
    floors = {name: _floor(arch, name, np.array(batches), tokens, bandwidth) for name in models}
    steps = [
        Step(name, batch, min(seen), float(floors[name][batches.index(batch)])) for (name, batch), seen in times.items()
    ]
    return Floors(steps, bandwidth)


def _floor(arch, weights, batches, tokens, bandwidth):
    reads = step_reads(arch, batches, tokens + 1, weights, modules_to_not_convert=())
    return floor_seconds(reads, bandwidth)


def _step(model, batch, tokens, device):
    """Seconds of one decode step of `batch` sequences; the prompt is not read, for its numbers move no byte."""
    cache = model.new_cache(batch, tokens + 1)
    for tensor in cache.tensors().values():
        tensor.zero_()
    cache.reset(tokens)
    ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    return _seconds(lambda: model(ids, cache=cache, logits="last"), device)


def _seconds(call, device):
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _has_int8(device):
    """Whether this PyTorch multiplies BF16 by INT8 on the device."""
    try:
        ReadInt8(torch.ones(32, 64, dtype=torch.bfloat16, device=device))(torch.ones(1, 64, device=device).bfloat16())
    except (NotImplementedError, RuntimeError):
        return False
    return True


def _read_int8(model):
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(parent, name, ReadInt8(linear.weight))


def _plain(arch):
    if arch.n_routed_experts or any(bias for _, _, bias in arch.linears().values()) or arch.tie_word_embeddings:
        raise ValueError(
            f"arch={arch.name!r} has experts, biases or a tied head, which are not timed here; allowed: a dense model "
            "without them, such as 'llama-2-7b' with few layers"
        )
    return arch
