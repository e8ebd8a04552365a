"""Plots of one pass: parts stacked, instants, timeline, largest tensors, and the way from level to level."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dsmem.plots import axes
from dsmem.plots.sources import footprint_of, records_of, stacks_of, timeline_of, waterfall_of
from dsmem.plots.style import INK, look
from dsmem.units import format_bytes


def plot_stack(
    stacks: Any, *, capacity: Any = None, hide: Any = (), ax: Axes | None = None, title: str | None = None
) -> Axes:
    """One horizontal bar for each of `stacks`: its parts stacked, its total at the end.

    stacks: a run, a footprint, {part: bytes}, or {label: any of these}. Parts below 1.5% of the widest bar in every bar
    are drawn as one, "other"; `ax.dsmem_data` keeps them apart. capacity: a GPU's name, or any form that
    `config.hardware.capacities` takes, drawn as labelled dashed lines. hide: parts that are left out, so that small
    ones can be seen; the axis says so. ValueError: no stacks, or bytes that are negative or not finite.
    """
    stacks, limits = stacks_of(stacks), axes.limits_of(capacity)
    shown, hidden = _shown(axes.by_part("stacks", stacks), hide)
    with axes.drawing(ax, title, height=1.6 + 0.42 * len(stacks)) as ax:
        axes.bars(ax, list(stacks), shown, "memory" + _without(hidden), limits)
    return ax


def plot_instants(fp: Any, *, hide: Any = "weights", ax: Axes | None = None, title: str | None = None) -> Axes:
    """One stacked bar for each instant of a pass without the parts in `hide`; the peak is marked.

    fp: a run, or a footprint of single numbers, not of arrays. hide: names of parts; "weights" stands for all that is
    stored of them. The axis says what is hidden.
    """
    fp = footprint_of(fp)
    shown, hidden = _shown(axes.by_part("fp.instants", fp.instants), hide)
    with axes.drawing(ax, title, height=1.8 + 0.3 * len(fp.instants)) as ax:
        axes.bars(ax, list(fp.instants), shown, "memory" + _without(hidden), {}, notes={fp.peak_instant: " ← peak"})
    return ax


def plot_timeline(
    timeline: Any,
    *,
    hide: Any = ("weight", "buffer"),
    marks: dict | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Live bytes step by step, stacked by category without those in `hide`; the peak is marked and labelled.

    timeline: a run, a ledger, or what `ledger.timeline()` returns. The peak's label counts what is hidden, too.
    marks: {name: step where it begins}, thin dotted lines with the names above. ValueError: no steps.
    """
    timeline = timeline_of(timeline)
    step, parts = np.asarray(timeline.step), timeline.by_category
    if not step.size:
        raise ValueError(f"timeline must hold at least one step, got {timeline.step!r}.")
    at = int(np.searchsorted(step, timeline.peak_step))
    shown = {name: np.asarray(live) for name, live in parts.items() if name not in hide}
    hidden = [name for name in parts if name in hide]
    total = format_bytes(int(timeline.live_bytes[at])) + (" in all" if hidden else "")
    peak = f"peak {total}\nstep {step[at]:,}: {_short(timeline.labels[at])}"
    with axes.drawing(ax, title) as ax:
        top = axes.areas(ax, step, shown, step="post", linewidth=0)  # outlines would blacken thousands of short steps
        ax.step(step, sum(shown.values(), np.zeros(step.size)), where="post", color="#555555", linewidth=0.5)
        axes.number_axis(ax, "step (birth or death of a tensor)", logx=False)
        axes.height_axis(ax, {}, 1.2 * top, "live memory" + (f"\nwithout {', '.join(hidden)}" if hidden else ""))
        _peak(ax, step[at], sum(live[at] for live in shown.values()), peak)
        axes.uprights(ax, marks or {}, "left", axes.MOMENT)
    return ax


def plot_tensors(
    records: Any, *, top: int = 12, hide: Any = (), ax: Axes | None = None, title: str | None = None
) -> Axes:
    """The `top` largest tensors, one bar each, named "module · op · shape dtype"; the rest is one bar.

    records: a run or a ledger, of which those alive at the peak are drawn, or a list such as `ledger.at_peak()`.
    hide: categories that are left out, such as "weight". ValueError: no records, or a `top` below one.
    """
    records = [record for record in records_of(records) if record.category not in _names(hide)]
    if not records or top < 1:
        raise ValueError(f"records and top must be at least one, got {len(records)} records and top={top}.")
    records = sorted(records, key=lambda record: -record.nbytes)
    bars = [(record.category, _describe(record), record.nbytes) for record in records[:top]]
    if records[top:]:
        bars.append(("other", f"… {len(records) - top:,} more", sum(record.nbytes for record in records[top:])))
    with axes.drawing(ax, title, height=1.6 + 0.42 * len(bars)) as ax:
        for row, (category, name, nbytes) in enumerate(bars):
            seen = category in [bar[0] for bar in bars[:row]]
            ax.barh(row + 0.2, nbytes, height=0.42, label="_" if seen else category, **look(category))
            ax.text(0, row - 0.04, f" {name}", va="bottom", fontsize="small", in_layout=False)
            axes.end_label(ax, nbytes, row + 0.2, format_bytes(nbytes))
        axes.row_axis(ax, [""] * len(bars), max(nbytes for *_, nbytes in bars), "memory")
        ax.grid(visible=False)  # it would run through the names
        ax.dsmem_data += bars
    return ax


def plot_waterfall(waterfall: Any, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """From level to level: a "total" starts at zero, a signed "gap" where the bar before ended.

    waterfall: a run, or what `dsmem.explain` returns. Where all gaps are small against the totals, the axis begins near
    them and says so. ValueError: no steps.
    """
    waterfall = waterfall_of(waterfall)
    steps, ends = list(waterfall.steps), [0]
    if not steps or not {kind for *_, kind in steps} <= {"total", "gap"}:
        raise ValueError(f"waterfall.steps must be (name, bytes, 'total' or 'gap'), at least one, got {steps!r}.")
    with axes.drawing(ax, title, height=1.6 + 0.36 * len(steps)) as ax:
        for row, (_, nbytes, kind) in enumerate(steps):
            start = 0 if kind == "total" else ends[-1]
            ends.append(start + nbytes)
            _step(ax, row, start, ends[-1], total=kind == "total", last=row == len(steps) - 1)
        axes.row_axis(ax, [name for name, *_ in steps], max(ends), "memory")
        _zoom(ax, steps, ends)
        ax.dsmem_data += [(kind, name, nbytes) for name, nbytes, kind in steps]
    return ax


def _zoom(ax, steps, ends):
    """Begin the axis near the totals where the gaps would be slivers at its end."""
    gaps, totals = ([n for _, n, kind in steps if kind == wanted] for wanted in ("gap", "total"))
    spread = max(ends[1:]) - min(ends[1:])
    if gaps and totals and 0 < spread < 0.12 * max(ends):
        start = max(min(ends[1:]) - 1.5 * spread, 0)
        ax.set_xlim(start, max(ends) + 0.35 * spread)
        axes.byte_axis(ax.xaxis, max(ends), f"memory, axis from {format_bytes(int(start))}")


def _names(hide):
    return (hide,) if isinstance(hide, str) else tuple(hide or ())


def _shown(parts, hide):
    """The parts to draw, and {part: bytes} of those that are hidden; "weights" takes what is stored of them along."""
    names = _names(hide)
    if "weights" in names:
        names += tuple(part for part in parts if part.startswith("weights_") or part in ("weight_scales", "buffers"))
    shown = {part: values for part, values in parts.items() if part not in names}
    return shown, {part: max(values) for part, values in parts.items() if part in names}


def _without(hidden):
    """What an axis leaves out, in words, with its bytes."""
    names = ", ".join(f"{part} {format_bytes(int(nbytes))}" for part, nbytes in hidden.items() if nbytes)
    return f"\nwithout {names}" if names else ""


def _describe(record):
    """The words "module · op · shape dtype" in about 48 characters: the op cut at its end, the module at its start."""
    shape = "×".join(f"{size:,}" for size in record.shape) or "scalar"
    op, kind = _short(record.op), f"{shape} {str(record.dtype).removeprefix('torch.')}"
    op = op if len(op) <= 18 else op[:17] + "…"
    room = max(48 - len(op) - len(kind), 8)
    module = record.module if len(record.module) <= room else "…" + record.module[1 - room :]
    return " · ".join(text for text in (module, op, kind) if text)


def _short(op):
    return op.removeprefix("aten.").removesuffix(".default")


def _step(ax, row, start, end, total, last):
    """One bar of a waterfall with the link to the next; a gap too small for a bar still shows as a stroke."""
    color, hatch = ("#c9ced3", "") if total else ("#ffa90e", "///") if end >= start else ("#92dadd", "...")
    ax.barh(row, end - start, left=start, height=0.6, facecolor=color, edgecolor=INK, hatch=hatch, linewidth=0.5)
    if not last:
        ax.plot([end, end], [row, row + 1], color="#777777", linewidth=0.8)
    if not total:
        ax.plot([end, end], [row - 0.36, row + 0.36], color=INK, linewidth=2)
    sign = "+" if not total and end > start else ""
    axes.end_label(ax, max(start, end), row, sign + format_bytes(int(end if total else end - start)))


def _peak(ax, x, y, text):
    """A labelled point; the label stands above it, on the side where there is room."""
    ax.plot(x, y, "o", color=INK, markeredgecolor="white", zorder=4, clip_on=False)
    left, right = ax.get_xlim()
    side = ("left", "center", "right")[min(int(3 * (x - left) / (right - left)), 2)]
    ax.annotate(text, (x, y), (0, 6), textcoords="offset points", ha=side, **axes.SMALL_TEXT)


def plot_overhead(bars, *, rule=(0.1, 0.2), ax=None, title=None):
    """One bar for each of `bars`, {label: (bytes of the weights, {part: bytes beyond them})}, in % of the weights.

    rule: a band from one share to another, shaded and named. Returns the Axes. ValueError: no bars, or no weights.
    """
    if not bars or any(weights <= 0 for weights, _ in bars.values()):
        raise ValueError(f"bars must hold at least one bar, with weights of more than 0 bytes, got {bars!r}.")
    totals = [sum(parts.values()) / weights for weights, parts in bars.values()]
    shown = title or f"From {min(totals):.0%} to {max(totals):.0%} of the weights: a rule of one share fits few"
    with axes.drawing(ax, shown, height=1.7 + 0.42 * len(bars)) as ax:
        ax.axvspan(*(100 * share for share in rule), facecolor="#dddddd", label=f"{rule[0]:.0%} to {rule[1]:.0%}")
        for part in dict.fromkeys(part for _, parts in bars.values() for part in parts):
            _shares(ax, part, bars)
        for row, total in enumerate(totals):
            ax.annotate(f"{total:.0%}", (100 * total, row), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(bars)), list(bars))
        ax.set_ylim(len(bars) - 0.5, -0.5)
        ax.set_xlim(0, 112 * max(*totals, rule[1]))
        ax.set_xlabel("beyond the weights (% of the weights)")
        ax.grid(axis="x", **axes.GRID)
    return ax


def _shares(ax, part, bars):
    """One part of all bars, each where the parts before it end."""
    starts, widths = [], []
    for weights, parts in bars.values():
        names = list(parts)
        before = names[: names.index(part)] if part in parts else []
        starts.append(100 * sum(parts[name] for name in before) / weights)
        widths.append(100 * parts.get(part, 0) / weights)
    ax.barh(range(len(bars)), widths, left=starts, height=0.66, label=part, **look(part))
    ax.dsmem_data += [(part, label, parts.get(part, 0)) for label, (_, parts) in bars.items()]
