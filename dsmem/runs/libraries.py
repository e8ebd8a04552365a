"""The usual quantization libraries beside our own schemes: one real decoder layer in torchao and bitsandbytes.

A model is one layer many times, with embedding, head and last norm in 16 bit, as bitsandbytes and transformers leave
them. Where a library is not installed its rows are left out, and `missing_libraries()` says so. Sizes hold on every
device. Temporaries and times are those of a CPU: a GPU runs other kernels, and bitsandbytes' CPU path makes a 16-bit
copy where its GPU path multiplies INT8. `library_layers` makes the layers.
"""

import copy
import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import torch

from dsmem.config.architecture import Architecture
from dsmem.memory.ledger import Ledger
from dsmem.runs.library_layers import layer_formats, module_bytes, one_layer, quantized, quiet
from dsmem.table import Table
from dsmem.units import format_bytes, one_of, whole_number


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to store a layer.

    layer_bytes, model_bytes: stored. temporary_bytes: alive beside the layer at the peak of a pass, as a ledger sees
    it: what bitsandbytes' own operators make inside is not in it. error: norm of the difference to float64 over the
    norm, of what the layer adds to its input. seconds: the fastest pass.
    """

    name: str
    layer_bytes: int
    model_bytes: int
    temporary_bytes: int
    error: float
    seconds: float | None = None

    @property
    def peak_bytes(self) -> int:
        """The layer and what is alive beside it at the peak of a pass."""
        return self.layer_bytes + self.temporary_bytes


def compare_libraries(
    arch: Any,
    batch: int = 1,
    seq_len: int = 64,
    names: Iterable[str] | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> list[Row]:
    """A `Row` for each way to store one decoder layer of `arch`, run in BF16 on this machine's CPU.

    arch: whatever `Architecture.of` takes. batch, seq_len: sequences and tokens of a pass. names: some of
    `layer_formats()`; defaults to all. repeats: passes of each that are timed. seed: of weights and input. Takes about
    four seconds a row for a layer of 50 million weights. Raises ValueError for a name that is unknown or whose library
    is missing, or for a count below 1.
    """
    arch, batch, seq_len = Architecture.of(arch), whole_number("batch", batch), whole_number("seq_len", seq_len)
    repeats, allowed = whole_number("repeats", repeats), layer_formats()
    chosen = [
        one_of("name", name, allowed, "a format that can be made here")
        for name in (allowed if names is None else names)
    ]
    layer, step = one_layer(arch, "bf16", seq_len, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, seq_len, arch.hidden_size, generator=generator).bfloat16()
    wide = step if step.cos is None else dataclasses.replace(step, cos=step.cos.double(), sin=step.sin.double())
    exact = _added(copy.deepcopy(layer).double(), x.double(), wide)
    layers = [quantized(layer, name, arch, seed) for name in chosen]
    rows = [_row(name, arch, made, x, step, exact) for name, made in zip(chosen, layers, strict=True)]
    # in turns, so that a busy moment of the machine meets all of them
    rounds = [[_seconds(made, x, step) for made in layers] for _ in range(repeats)]
    fastest = [min(times) for times in zip(*rounds, strict=True)]
    return [dataclasses.replace(row, seconds=each) for row, each in zip(rows, fastest, strict=True)]


def whole_model_bytes(arch: Any, layer_bytes: int) -> int:
    """Stored bytes of a whole model from those of one layer: embeddings, last norm and head stay in 16 bit.

    arch: whatever `Architecture.of` takes; every layer counts as `layer_bytes`, so it must be dense.
    """
    arch = Architecture.of(arch)
    census = arch.census()
    others = sum(census[part] for part in ("embed_tokens", "embed_positions", "norm", "lm_head") if part in census)
    return arch.num_hidden_layers * layer_bytes + 2 * others


def library_table(rows: Iterable[Row]) -> Table:
    """The rows of `compare_libraries` as a `Table`; times are left out, for they differ from machine to machine."""
    columns = {"": None, "layer": format_bytes, "model": format_bytes, "peak adds": format_bytes, "error": ".2%"}
    cells = [(row.name, row.layer_bytes, row.model_bytes, row.temporary_bytes, row.error) for row in rows]
    return Table(columns, cells, widths=(25, 12, 12, 12, 9))


def time_table(prompt: list[Row], token: list[Row]) -> Table:
    """Times of a prompt and of one token, as multiples of the first row's: a `Table`.

    prompt, token: what two `compare_libraries` of the same names gave.
    floor: the bytes of the layer over those of the first row. If reading the weights once were all that takes time, the
    time of one token would be that multiple.
    """
    cells = [
        (
            long.name,
            long.seconds / prompt[0].seconds,
            short.seconds / token[0].seconds,
            short.layer_bytes / token[0].layer_bytes,
        )
        for long, short in zip(prompt, token, strict=True)
    ]
    columns = {"": None, "prompt": ".2f", "token": ".2f", "its floor": ".2f"}
    return Table(columns, cells, widths=(25, 10, 10, 12))


@torch.no_grad()
def _added(layer, x, step):
    """What the layer adds to its input."""
    return layer(x, step) - x


@torch.no_grad()
def _row(name, arch, layer, x, step, exact):
    # before any pass: at its first one bitsandbytes repacks NF4 for the CPU at hand, scales in another format
    size = module_bytes(layer)
    with quiet():
        out = layer(x, step)
        error = float((out.double() - x.double() - exact).norm() / exact.norm())
        del out
        with Ledger(layer) as ledger:
            layer(x, step)
    beside = ledger.peak_bytes - module_bytes(layer)
    return Row(name, size, whole_model_bytes(arch, size), beside, error)


@torch.no_grad()
def _seconds(layer, x, step):
    with quiet():
        start = time.perf_counter()
        layer(x, step)
        return time.perf_counter() - start
