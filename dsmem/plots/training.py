"""A step of training: its three largest instants as bars, what a layer keeps for backward, and what others measured."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import capacities
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.training.step import TrainingFootprint, training_footprint
from dsmem.plots import axes, limits, sources
from dsmem.plots.curves import plot_curves
from dsmem.plots.families import TRAINING, by_family
from dsmem.plots.footprint import FootprintPicture, share
from dsmem.plots.memory import plot_stack
from dsmem.units import format_bytes

PARAMETERS = ("weights", "master copy", "optimizer states")
"""The families that grow with the parameters alone and are there all the time."""


def training_of(own: dict[str, Any]) -> Training:
    """The `Training` that controls say: a lora_rank of 0 is none, and adapters, in FP32, have no master copy."""
    own = own | ({"lora_rank": own["lora_rank"] or None} if "lora_rank" in own else {})
    return Training(
        **own | ({"precision": "pure"} if own.get("lora_rank") and own.get("precision") == "master" else {})
    )


IN = {"optimizer step": "the optimizer step"}
KEPT = {"norm": "norm", "self_attn": "attention_out", "mlp": "mlp"}  # in the name of a layer's module: the part


def plot_training(
    arch: Any,
    work: Workload | None = None,
    training: Any = None,
    *,
    capacity: Any = None,
    overhead_bytes: int = 0,
    hide: str | Iterable[str] = (),
    ax: Any = None,
    title: str | None = None,
    **fields: Any,
) -> Any:
    """One stacked bar for each phase of a training step, at its largest instant; the longest is the peak.

    arch, work, training, fields: as in `training_footprint`. capacity, overhead_bytes, hide: as in `plot_footprint`;
    the families are those of `families.TRAINING`. title: defaults to the model and its peak. Returns the Axes.

    >>> from matplotlib.figure import Figure
    >>> ax = plot_training("qwen2.5-0.5b", seq_len=1024, capacity="T4", ax=Figure().subplots())
    >>> " ".join(ax.get_title(loc="left").split())
    'qwen2.5-0.5b, adamw (foreach), all in bf16: peak 5.65 GiB in backward, 39% of T4'
    """
    fp = training_footprint(arch, work, training, **fields)
    picture = TrainingPicture(ax, tight=True, rows=max(len(capacities(capacity)), 1))
    picture.show(fp, capacity, overhead_bytes, hide)
    return picture.done(title)


class TrainingPicture(FootprintPicture):
    """The picture of `plot_training`."""

    height = 3.2
    families = TRAINING
    longest = "optimizer step"

    def __call__(
        self, arch: Architecture, work: Workload, training: Training, capacity=None, overhead_bytes=0, hide=()
    ):
        """Show a step of training `arch`; returns in words what there is to see."""
        return self.show(training_footprint(arch, work, training), capacity, overhead_bytes, hide)

    def show(self, fp: TrainingFootprint, capacity: Any, overhead_bytes: int, hide: str | Iterable[str]) -> str:
        """The same of a footprint that is there."""
        apart, rows = sources.hidden(hide, TRAINING), rows_of(fp)
        totals = {phase: sum(families.values()) for phase, families in rows.items()}
        peak = max(totals, key=totals.get)
        hidden = sum(rows[peak][family] for family in apart)
        shown = {row: {f: 0 if f in apart else n for f, n in families.items()} for row, families in rows.items()}
        places = limits.limits_of(capacity, hidden)
        longest = max(sum(families.values()) for families in shown.values())
        self._frame(list(shown), max([longest, *places.values()]), apart)
        self._stack(np.array([list(families.values()) for families in shown.values()], dtype=float))
        self.peak.set(y=self.rows.index(peak))
        self.peak.set_text(f"← {axes.in_unit(totals[peak] - hidden, self.reach)}")
        self._show_limits(places)
        self.ax.dsmem_data = [(f, row, n) for row, families in shown.items() for f, n in families.items() if n]
        self._say(*title_of(fp, totals, capacity))
        return sentence_of(fp, rows, capacity, overhead_bytes, apart)


def rows_of(fp: TrainingFootprint) -> dict[str, dict[str, int]]:
    """{phase: {family of `families.TRAINING`: bytes}} at the largest instant of each phase."""
    return {phase: by_family(fp.at(phase), TRAINING) for phase in fp.phases}


def title_of(fp: TrainingFootprint, totals: dict[str, int], capacity: Any) -> tuple[str, str]:
    """What is shown, and what there is to see."""
    peak = max(totals, key=totals.get)
    shares = "".join(f", {share(totals[peak] / n)} {label}" for label, n in capacities(capacity).items())
    found = f"peak {format_bytes(totals[peak])} in {IN.get(peak, peak)}{shares}"
    return f"{fp.arch.name}, {fp.training.words(fp.work)}", found


def sentence_of(fp: TrainingFootprint, rows: dict, capacity: Any, overhead_bytes: int, apart: list[str]) -> str:
    """What the picture shows, for those who cannot see it or want to quote it."""
    totals = {phase: sum(families.values()) for phase, families in rows.items()}
    work, peak = fp.work, max(totals, key=totals.get)
    verdict = limits.fit_words(totals[peak], capacities(capacity), overhead_bytes)
    order = sorted(rows[peak].items(), key=lambda pair: -pair[1])
    parts = ", ".join(f"{family} {n / totals[peak]:.1%}" for family, n in order if n >= 0.001 * totals[peak])
    others = ", ".join(f"{phase} {format_bytes(n)}" for phase, n in totals.items() if phase != peak)
    return (
        f"{fp.arch.name}, a step of {work.batch:,} × {work.seq_len:,} tokens, {fp.training.words(work)}, "
        f"{work.attention} attention: the peak is in {IN.get(peak, peak)}, {totals[peak]:,} bytes ({parts}); {others}"
        f"{'; it ' if verdict else ''}{verdict}{'; shown without ' * bool(apart)}{', '.join(apart)}."
    )


# --- What backward needs, and what others measured --------------------------------------------------------------------


def plot_kept(layers: Mapping, *, ax: Any = None, title: str | None = None) -> Any:
    """One stacked bar for what one layer keeps for backward: norms, attention and MLP; returns the Axes.

    layers: {label: what `runs.kept_for_backward` returns, or {part: bytes}}; of the former the second layer is drawn,
    for the first may keep what only the model's input needs. ax, title: as in `plot_stack`.
    Raises ValueError for fewer than two layers.
    """
    bars = {label: kept if isinstance(kept, Mapping) else _of_layer(label, kept) for label, kept in layers.items()}
    return plot_stack(bars, ax=ax, title=title)


def _of_layer(label, kept):
    """{part: bytes} of the second layer; a module that is no part has its own name."""
    names = [name for name in kept.layers if name.endswith("layers.1")]
    if len(names) != 1:
        raise ValueError(
            f"layers[{label!r}] holds {sorted(kept.layers)}; it must hold one model's layers, at least two"
        )
    sums = {}
    for saved in kept.of_layer(names[0]).tensors:
        inside = saved.module.removeprefix(names[0]).strip(".")
        part = next((part for name, part in KEPT.items() if name in inside), inside or "residual")
        sums[part] = sums.get(part, 0) + saved.nbytes
    return sums


def plot_phases(compared: Mapping, *, capacity: Any = None, ax: Any = None, title: str | None = None) -> Any:
    """The peaks of forward and backward against the batch: predicted as lines, measured by others as markers.

    compared: {batch: what `runs.measured.compare` returns for one run}. capacity: as in `plot_stack`. title: defaults
    to the largest error. Returns the Axes. Raises ValueError where a run has no prediction of both peaks.
    """
    found = {phase: [_peak(batch, run, phase) for batch, run in compared.items()] for phase in ("forward", "backward")}
    worst = max((abs(peak.error) for peaks in found.values() for peak in peaks), default=0)
    return plot_curves(
        list(compared),
        {phase: [peak.predicted for peak in peaks] for phase, peaks in found.items()},
        measured={phase: (list(compared), [peak.measured for peak in peaks]) for phase, peaks in found.items()},
        xlabel="batch",
        capacity=capacity,
        logx=False,
        ax=ax,
        title=title or f"Peaks that others measured, predicted within {worst:.1%}",
    )


def _peak(batch, run, phase):
    for line in run.modelled:
        if line.name == f"peak_{phase}_mib":
            return line
    raise ValueError(f"compared[{batch!r}] has no predicted peak of {phase}; it must be the comparison of one such run")
