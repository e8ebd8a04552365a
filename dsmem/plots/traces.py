"""A real GPU's allocator trace and our replay of it in one picture."""

from typing import Any

import numpy as np

from dsmem.memory.traces import run_trace, trace_bytes
from dsmem.plots import axes, limits
from dsmem.plots import style as looks
from dsmem.units import format_bytes


def plot_trace(trace: dict[str, Any], *, markers: int = 40, ax: Any = None, title: str | None = None) -> Any:
    """What a GPU's trace says after each event, as markers, and our replay of it, as lines; returns the Axes.

    trace: an entry of `memory.traces.shipped()`, or what `memory.snapshots.snapshot_trace` returns. markers: how many
    of each kind there are, at least 1. The GPU says what is reserved and what its tensors ask for; the lines are
    reserved and allocated bytes, the latter with what whole blocks add. Where the two differ, the replay ends and a
    dotted line says so. ValueError: a trace without events.
    """
    if not trace["events"]:
        raise ValueError(f"trace must hold at least one event, got {trace['events']!r}.")
    said = dict(zip(("requested", "reserved"), trace_bytes(trace), strict=True))
    replayed = run_trace(trace)
    step, last = np.arange(len(trace["events"])), len(replayed.reserved_bytes)
    shown = np.unique(np.linspace(0, len(step) - 1, min(markers, len(step))).astype(int))
    with axes.drawing(ax, title or _found(trace, replayed)) as ax:
        for name, color, width in (("allocated", looks.LOOKS["allocated"][0], 1.4), ("reserved", looks.INK, 1.2)):
            ours = getattr(replayed, f"{name}_bytes")
            ax.step(step[:last], ours, where="post", color=color, linewidth=width, label=f"{name}, replayed")
            axes.keep(ax, f"{name}, replayed", step[:last], ours)
        for (name, values), marker in zip(said.items(), ("o", "s"), strict=True):
            label = f"{name}, as the GPU's trace says"
            look = {"markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": looks.INK}
            ax.plot(step[shown], values[shown], marker, label=label, **look)
            axes.keep(ax, label, step, values)
        if replayed.difference:
            limits.uprights(ax, {f"differs from event {replayed.difference.event:,}": last}, "right", axes.MOMENT)
        axes.number_axis(ax, "event of the trace", logx=False)
        axes.height_axis(ax, {}, max(said["reserved"].max(), 1), "memory")
    return ax


def _found(trace, replayed):
    count = len(trace["events"])
    if replayed.difference:
        return f"The replay follows the GPU through {replayed.difference.event:,} of {count:,} events"
    peak = format_bytes(int(replayed.reserved_bytes.max()))
    return f"The replay follows the GPU through all {count:,} events, up to {peak} reserved"
