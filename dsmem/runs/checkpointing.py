"""What checkpointing saves and what it costs: steps of one model at several depths, compared within one run."""

from collections.abc import Iterable
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.training import Training
from dsmem.runs.run import Run, measure
from dsmem.table import Table
from dsmem.units import format_bytes, whole_number

MODES = ("none", "selective", "full")


def kept_bytes(run: Run) -> int:
    """What forward hands on to backward, in bytes: alive at the end of forward and not before it."""
    at = run.ledger.at_marks
    return at["backward"] - at["forward"]


def compare_checkpointing(
    arch: Any,
    depths: Iterable[int] = (2, 4, 8),
    device: Any = "cpu",
    training: Any = True,
    modes: Iterable[str] = MODES,
    **options: Any,
) -> Table:
    """A `Table`: for each depth and mode the bytes kept for backward, the seconds of a step, and both as ratios.

    arch: whatever `Architecture.of` takes; its layers are cut or repeated to each of `depths`. device, training,
    options: as in `measure`; on fake tensors there are no seconds. modes: of `Training.checkpointing`, the first being
    what the others are compared with. Ratios of time compare medians of one machine within one run.

    >>> table = compare_checkpointing("qwen2.5-0.5b", depths=[2], device="fake", seq_len=64)
    >>> table.column("checkpointing")
    ['none', 'selective', 'full']
    """
    arch, training, rows = Architecture.of(arch), Training.of(training), []
    for depth in depths:
        whole_number("depths", depth)
        runs = [
            measure(
                arch.scaled(num_hidden_layers=depth),
                device=device,
                training=Training.of(training, checkpointing=mode),
                **options,
            )
            for mode in modes
        ]
        kept = [kept_bytes(run) for run in runs]
        seconds = [sum(run.step_seconds.values()) if run.step_seconds else None for run in runs]
        for run, nbytes, time in zip(runs, kept, seconds, strict=True):
            ratio = None if time is None else time / seconds[0]
            peak = run.ledger.peak_bytes
            rows.append((depth, run.training.checkpointing, nbytes, nbytes / kept[0], peak, time, ratio))
    columns = {"layers": None, "checkpointing": None, "kept for backward": format_bytes, "share": ".1%"}
    columns |= {"peak": format_bytes, "seconds": ".3f", "time": ".2f"}
    return Table(columns, rows)
