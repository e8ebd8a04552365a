"""Plots of one pass: parts stacked, instants, timeline, largest tensors, and the way from level to level."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dsmem.plots import axes, families, limits, shapes, sources
from dsmem.plots.style import INK, look
from dsmem.units import format_bytes

MANY = 8  # parts: more than these cannot be told apart
ZOOM = 0.25  # of the largest total: gaps below this share are drawn on an axis that starts near the totals


def plot_stack(
    stacks: Any, *, capacity: Any = None, hide: str | Iterable[str] = (), ax: Any = None, title: str | None = None
) -> Any:
    """One horizontal bar for each of `stacks`: its parts stacked, its total at the end; returns the Axes.

    stacks: {label: {part: bytes}}; or a Run or Footprint (its parts at the peak), a Ledger (its categories at the
    peak), a Replay (tensors, rounding, free bytes), {part: bytes}, or {label: any of these}.
    capacity: whatever `config.hardware.capacities` takes, drawn as labelled dashed lines: "T4", {"mine": "24 GiB"}.
    hide: the parts to leave out, "weights" in every format, so that small parts can be seen; the axis says so. A
    capacity line stands where the rest reaches it, which must be the same place for all bars. title: above the picture.
    Parts below 1.5% of the widest bar in every bar are drawn as one, "other"; `ax.dsmem_data` keeps them apart.
    Raises ValueError for no stacks, or bytes that are negative or not finite.

    >>> from matplotlib.figure import Figure
    >>> ax = plot_stack({"FP16": {"weights": 2**34}, "INT8": {"weights": 2**33}}, ax=Figure().subplots())
    >>> ax.dsmem_data
    [('weights', 'FP16', 17179869184), ('weights', 'INT8', 8589934592)]
    """
    stacks = sources.stacks_of(stacks)
    parts = shapes.by_part("stacks", stacks)
    shown, apart = _split(parts, hide)
    places = _limits(capacity, apart)
    with axes.drawing(ax, title, height=1.6 + 0.42 * len(stacks)) as ax:
        shapes.bars(ax, list(stacks), shown, "memory" + _without(apart), places)
    return ax


def plot_instants(
    fp: Any,
    *,
    hide: str | Iterable[str] = "weights",
    capacity: Any = None,
    by: str = "auto",
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """One stacked bar for each instant of a pass, without the parts in `hide`; the peak is marked. Returns the Axes.

    fp: a Run or a Footprint of single numbers, not of arrays. hide: as in `plot_stack`; the axis says what is hidden.
    capacity: as in `plot_stack`; a line stands where what is shown reaches it. by: "part", "family" (parts summed as
    in `families.FAMILIES`), or "auto": parts where up to eight can be seen. title: defaults to the peak.
    Raises ValueError for what has no instants, or for another `by`.
    """
    source, fp = fp, sources.footprint_of(fp)
    shown, apart = _split(shapes.by_part("fp.instants", fp.instants), hide)
    if by not in ("auto", "part", "family"):
        raise ValueError(f"by={by!r} is not a way to sum parts; allowed: auto, part, family")
    if by == "family" or (by == "auto" and len(shapes.merge_small(shown)) > MANY):
        shown = {name: values for name, values in families.by_family(shown).items() if np.any(values)}
    places = _limits(capacity, apart)
    peak = f"peak {format_bytes(int(sum(fp.instants[fp.peak_instant].values())))} at {fp.peak_instant}"
    title = sources.titled(source, peak) if title is None else title
    with axes.drawing(ax, title, height=1.8 + 0.3 * len(fp.instants)) as ax:
        note = {fp.peak_instant: " ← peak"}
        shapes.bars(ax, list(fp.instants), shown, "memory" + _without(apart), places, note)
    return ax


def plot_timeline(
    timeline: Any,
    *,
    hide: str | Iterable[str] = "weights",
    marks: Mapping[str, int] | None = None,
    capacity: Any = None,
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """Live bytes step by step, stacked by category without those in `hide`; the peak is marked. Returns the Axes.

    timeline: a Run, a Ledger, or what `ledger.timeline()` returns: step, live_bytes, by_category, labels, peak_step.
    hide: as in `plot_stack`; the peak's label says what is shown and what there is in all. marks: {name: step where it
    begins}, thin dotted lines with the names above. capacity: as in `plot_instants`. title: above the picture.
    Raises ValueError for what has no timeline, or one without steps.
    """
    timeline = sources.timeline_of(timeline)
    step, parts = np.asarray(timeline.step), timeline.by_category
    if not step.size:
        raise ValueError(f"timeline must hold at least one step, got {timeline.step!r}.")
    at = int(np.searchsorted(step, timeline.peak_step))
    apart = sources.hidden(hide, parts)
    shown = {name: np.asarray(live) for name, live in parts.items() if name not in apart}
    height, whole = sum(int(live[at]) for live in shown.values()), int(timeline.live_bytes[at])
    places = limits.limits_of(capacity, whole - height)
    with axes.drawing(ax, title) as ax:
        top = shapes.areas(ax, step, shown, step="post", linewidth=0)  # outlines would blacken thousands of short steps
        ax.step(step, sum(shown.values(), np.zeros(step.size)), where="post", color="#555555", linewidth=0.5)
        axes.number_axis(ax, "step (birth or death of a tensor)", logx=False)
        axes.height_axis(ax, places, 1.2 * top, "live memory" + (f"\nwithout {', '.join(apart)}" if apart else ""))
        size = f"{format_bytes(height)} shown, {format_bytes(whole)} in all" if apart else format_bytes(whole)
        _peak(ax, step[at], height, f"peak: {size}\nstep {step[at]:,}: {_short(timeline.labels[at])}")
        limits.uprights(ax, marks or {}, "left", axes.MOMENT)
    return ax


def plot_tensors(
    records: Any, *, top: int = 12, hide: str | Iterable[str] = (), ax: Any = None, title: str | None = None
) -> Any:
    """The `top` largest tensors, one bar each, named "module · op · shape dtype"; the rest is one bar.

    records: a Run, a Ledger, or `ledger.at_peak()`: objects with nbytes, category, op, module, shape and dtype.
    hide: the categories to leave out, such as ("weights", "kv_cache"). title: above the picture. Returns the Axes.
    Raises ValueError for no records, none that are left, or a `top` below one.
    """
    found = sources.records_of(records)
    apart = sources.hidden(hide, dict.fromkeys(record.category for record in found))
    found = sorted((record for record in found if record.category not in apart), key=lambda record: -record.nbytes)
    if not found or top < 1:
        raise ValueError(f"records and top must be at least one, got {len(found)} records and top={top}.")
    bars = [(record.category, _describe(record), record.nbytes) for record in found[:top]]
    if found[top:]:
        bars.append(("other", f"… {len(found) - top:,} more", sum(record.nbytes for record in found[top:])))
    with axes.drawing(ax, title, height=1.6 + 0.42 * len(bars)) as ax:
        reach = max(nbytes for *_, nbytes in bars)
        axes.row_axis(ax, [""] * len(bars), reach, "memory" + (f"\nwithout {', '.join(apart)}" if apart else ""))
        for row, (category, name, nbytes) in enumerate(bars):
            seen = category in [bar[0] for bar in bars[:row]]
            ax.barh(row + 0.2, nbytes, height=0.42, label="_" if seen else category, **look(category))
            ax.text(0, row - 0.04, f" {name}", va="bottom", fontsize="small", in_layout=False)
            shapes.end_label(ax, nbytes, row + 0.2, axes.in_unit(nbytes, reach))
        ax.grid(visible=False)  # it would run through the names
        ax.dsmem_data += bars
    return ax


def plot_waterfall(waterfall: Any, *, zoom: bool | None = None, ax: Any = None, title: str | None = None) -> Any:
    """From level to level: each total a bar, each gap a bar from where the one before ended; returns the Axes.

    waterfall: a Run, what `explain` returns, or an object with `steps` of (name, bytes, "total" or a signed "gap").
    zoom: whether the axis starts near the totals, which are then cut and marked so; defaults to yes where all gaps are
    small beside them, for on an axis from 0 these could not be seen. title: above the picture.
    Raises ValueError for what has no steps, or a step of another kind.
    """
    steps, ends = list(sources.waterfall_of(waterfall).steps), [0]
    if not steps or not {kind for *_, kind in steps} <= {"total", "gap"}:
        raise ValueError(f"waterfall.steps must be (name, bytes, 'total' or 'gap'), at least one, got {steps!r}.")
    spans = []
    for _, nbytes, kind in steps:
        start = 0 if kind == "total" else ends[-1]
        ends.append(start + nbytes)
        spans.append((start, ends[-1], kind == "total"))
    origin = _origin(spans, zoom)
    with axes.drawing(ax, title, height=1.6 + 0.36 * len(steps)) as ax:
        axes.row_axis(ax, [name for name, *_ in steps], max(ends), _from(origin), start=origin)
        for row, span in enumerate(spans):
            _step(ax, row, *span, origin=origin, last=row == len(steps) - 1)
        ax.dsmem_data += [(kind, name, nbytes) for name, nbytes, kind in steps]
    return ax


def _split(parts, hide):
    """The parts to show, and those to hide."""
    apart = {part: parts[part] for part in sources.hidden(hide, parts)}
    if len(apart) == len(parts):
        raise ValueError(f"hide={hide!r} hides every part; it must leave some of {', '.join(parts)}")
    return {part: values for part, values in parts.items() if part not in apart}, apart


def _without(hidden):
    """What an axis leaves out, in words, with its bytes."""
    names = [
        f"{part} {'up to ' * bool(np.ptp(values))}{format_bytes(int(max(values)))}"
        for part, values in hidden.items()
        if np.any(values)
    ]
    return f"\nwithout {', '.join(names)}" if names else ""


def _limits(capacity, hidden):
    """The capacities less what is hidden, where that is the same in every bar."""
    totals = sum(hidden.values()) if hidden else np.zeros(1)
    if capacity is not None and np.ptp(totals):
        raise ValueError(
            f"capacity={capacity!r} has no one place where hide leaves out different bytes in each bar "
            f"({', '.join(hidden)}); it must be None there"
        )
    return limits.limits_of(capacity, int(max(totals)))


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


def _origin(spans, zoom):
    """Where the axis starts: at 0, or below the lowest end of a bar, where the gaps are small beside the totals."""
    corners = [end for _, end, _ in spans] + [start for start, _, total in spans if not total]
    low, high = min(corners), max(corners)
    small = 0 < high - low < ZOOM * high
    if not (small if zoom is None else zoom) or low <= 0 or high == low:
        return 0
    return int(max(low - 0.6 * (high - low), 0))


def _from(origin):
    return "memory" + (f"\nthe axis starts at {format_bytes(origin)}: totals are cut, gaps are whole" if origin else "")


def _step(ax, row, start, end, total, origin, last):
    """One bar of a waterfall with the link to the next; a gap too small for a bar still shows as a stroke."""
    color, hatch = ("#c9ced3", "") if total else ("#ffa90e", "///") if end >= start else ("#92dadd", "...")
    left = origin if total else start
    ax.barh(row, end - left, left=left, height=0.6, facecolor=color, edgecolor=INK, hatch=hatch, linewidth=0.5)
    if total and origin:
        _cut(ax, row)
    if not last:
        ax.plot([end, end], [row, row + 1], color="#777777", linewidth=0.8)
    if not total:
        ax.plot([end, end], [row - 0.36, row + 0.36], color=INK, linewidth=2)
    sign = "+" if not total and end > start else ""
    shapes.end_label(ax, max(start, end), row, sign + format_bytes(int(end if total else end - start)))


def _cut(ax, row):
    """Two slanted strokes through a bar that goes on to the left."""
    for x in (0.02, 0.032):
        how = {"color": "white", "linewidth": 2.5, "transform": ax.get_yaxis_transform(), "solid_capstyle": "butt"}
        ax.plot([x - 0.006, x + 0.006], [row + 0.34, row - 0.34], **how)


def _peak(ax, x, y, text):
    """A labelled point; the label stands above it, on the side where there is room."""
    ax.plot(x, y, "o", color=INK, markeredgecolor="white", zorder=4, clip_on=False)
    left, right = ax.get_xlim()
    side = ("left", "center", "right")[min(int(3 * (x - left) / (right - left)), 2)]
    ax.annotate(text, (x, y), (0, 6), textcoords="offset points", ha=side, **axes.SMALL_TEXT)
