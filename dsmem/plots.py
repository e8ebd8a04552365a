"""Axes-level plots of memory: bytes in, a picture out, and the Axes returned.

Every `plot_*` draws on the `ax` it is given and touches nothing else. Without one it makes a figure through pyplot,
because that is what a notebook shows by itself, once, when the cell ends; end the cell with `_ = plot_stack(...)` so
that the Axes is not printed as well. Code that keeps a figure (a widget, a loop) passes the Axes of a
`matplotlib.figure.Figure(layout="constrained")`: pyplot is then never loaded, and texts outside the Axes get room.

Memory axes have bytes as coordinates; only their tick labels are in GiB, MiB or KiB. The style lasts while a plot is
drawn, so the global settings stay as they are. A component has one colour and one hatch in every plot: see `looks`.
"""

import contextlib
import textwrap
from collections.abc import Mapping
from functools import partial

import matplotlib
import numpy as np
from matplotlib import style, ticker
from matplotlib.transforms import ScaledTranslation

from dsmem.looks import INK, LINESTYLES, LOOKS, MARKERS, STYLE, look
from dsmem.units import format_bytes

UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))
STEPS = (1, 2, 2.5, 5, 10)  # of ticks
SMALL = 0.015  # of the widest bar: what is thinner cannot be told from its neighbours

CAPACITY = {"color": INK, "linestyle": (0, (6, 3)), "linewidth": 1.1, "zorder": 2.5}
GRID = {"color": "#d8d8d8", "linewidth": 0.7}
_PATCH = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.3}
_SMALL_TEXT = {"fontsize": "small", "zorder": 3, "bbox": _PATCH}
PHASE = {"color": "#666666", "linestyle": (0, (1, 2)), "linewidth": 1, "zorder": 2.5}


# --- The plots --------------------------------------------------------------------------------------------------------


def plot_stack(stacks, *, capacity=None, ax=None, title=None):
    """One horizontal bar for each of `stacks`, {label: {part: bytes}}: its parts stacked, its total at the end.

    Parts below 1.5% of the widest bar in every bar are drawn as one, "other"; `ax.dsmem_data` keeps them apart.
    capacity: {label: bytes} or (label, bytes), drawn as labelled dashed lines.
    ValueError: no stacks, or bytes that are negative or not finite.
    """
    parts, limits = _by_part("stacks", stacks), _capacities(capacity)
    with drawing(ax, title, height=1.6 + 0.42 * len(stacks)) as ax:
        _bars(ax, list(stacks), parts, "memory", limits)
    return ax


def plot_phases(fp, *, hide=("weights", "buffers"), ax=None, title=None):
    """One stacked bar for each instant of a footprint (`fp.phases`) without the parts in `hide`; the peak is marked.

    The axis says what is hidden. The footprint must be one of single numbers, not of arrays.
    """
    parts = _by_part("fp.phases", fp.phases)
    shown = {part: values for part, values in parts.items() if part not in hide}
    hidden = {part: max(values) for part, values in parts.items() if part in hide}
    with drawing(ax, title, height=1.8 + 0.3 * len(fp.phases)) as ax:
        _bars(ax, list(fp.phases), shown, "memory" + _without(hidden), {}, notes={fp.peak_phase: " ← peak"})
    return ax


def plot_areas(x, parts, *, xlabel, capacity=None, logx=False, ax=None, title=None):
    """Stacked areas of `parts`, {part: bytes, an array like x}, against `x`; `xlabel` says what x counts.

    capacity: as in `plot_stack`. logx: powers of two on x; then heights can be compared, but areas cannot.
    """
    x, limits = _sweep(x), _capacities(capacity)
    parts = {part: _bytes(part, values, x.shape) for part, values in parts.items()}
    with drawing(ax, title) as ax:
        top = _areas(ax, x, parts)
        _number_axis(ax, xlabel, logx)
        _height_axis(ax, limits, top, "memory")
    return ax


def plot_curves(x, curves, *, xlabel, measured=None, capacity=None, logx=True, ax=None, title=None):
    """Predictions as lines, {label: bytes, an array like x}; measurements as markers, {label: (x, bytes)}.

    A measurement takes the colour of the curve of its name. capacity: as in `plot_stack`. logx: powers of two on x.
    """
    x, limits = _sweep(x), _capacities(capacity)
    curves = {name: _bytes(name, values, x.shape) for name, values in curves.items()}
    points = {name: _points(name, *pair) for name, pair in (measured or {}).items()}
    order = list(dict.fromkeys([*curves, *points]))
    with drawing(ax, title) as ax:
        for name, values in curves.items():
            _line(ax, name, x, values, color=_hue(name, order), linestyle=LINESTYLES[order.index(name) % 6])
        for name, pair in points.items():
            marker = {"marker": MARKERS[order.index(name) % 6], "markeredgecolor": INK, "zorder": 3}
            _line(ax, f"{name}, measured", *pair, color=_hue(name, order), linestyle="none", **marker)
        _number_axis(ax, xlabel, logx)
        _height_axis(ax, limits, max((row[2] for row in ax.dsmem_data), default=0), "memory")
    return ax


def plot_timeline(timeline, *, hide=("weight", "buffer"), phases=None, ax=None, title=None):
    """Live bytes step by step, stacked by category without those in `hide`; the peak is marked and labelled.

    timeline: step, live_bytes, by_category, labels and peak_step, as in `ledger.timeline()`. The peak's label counts
    what is hidden, too. phases: {name: step where it begins}, thin dotted lines with the names above.
    """
    step, parts = np.asarray(timeline.step), timeline.by_category
    if not step.size:
        raise ValueError(f"timeline must hold at least one step, got {timeline.step!r}.")
    at = int(np.searchsorted(step, timeline.peak_step))
    shown = {name: np.asarray(live) for name, live in parts.items() if name not in hide}
    hidden = [name for name in parts if name in hide]
    total = format_bytes(int(timeline.live_bytes[at])) + (" in all" if hidden else "")
    peak = f"peak {total}\nstep {step[at]:,}: {_short(timeline.labels[at])}"
    with drawing(ax, title) as ax:
        top = _areas(ax, step, shown, step="post", linewidth=0)  # outlines would blacken thousands of short steps
        ax.step(step, sum(shown.values(), np.zeros(step.size)), where="post", color="#555555", linewidth=0.5)
        _number_axis(ax, "step (birth or death of a tensor)", logx=False)
        _height_axis(ax, {}, 1.2 * top, "live memory" + (f"\nwithout {', '.join(hidden)}" if hidden else ""))
        _peak(ax, step[at], sum(live[at] for live in shown.values()), peak)
        uprights(ax, phases or {}, "left", PHASE)
    return ax


def plot_tensors(records, *, top=12, ax=None, title=None):
    """The `top` largest of `records`, one bar each, named "module · op · shape dtype"; the rest is one bar.

    records: objects with nbytes, category, op, module, shape and dtype, such as `ledger.at_peak()`.
    ValueError: no records, or a `top` below one.
    """
    if not records or top < 1:
        raise ValueError(f"records and top must be at least one, got {len(records)} records and top={top}.")
    records = sorted(records, key=lambda record: -record.nbytes)
    bars = [(record.category, _describe(record), record.nbytes) for record in records[:top]]
    if records[top:]:
        bars.append(("other", f"… {len(records) - top:,} more", sum(record.nbytes for record in records[top:])))
    with drawing(ax, title, height=1.6 + 0.42 * len(bars)) as ax:
        for row, (category, name, nbytes) in enumerate(bars):
            seen = category in [bar[0] for bar in bars[:row]]
            ax.barh(row + 0.2, nbytes, height=0.42, label="_" if seen else category, **look(category))
            ax.text(0, row - 0.04, f" {name}", va="bottom", fontsize="small", in_layout=False)
            _end_label(ax, nbytes, row + 0.2, format_bytes(nbytes))
        _row_axis(ax, [""] * len(bars), max(nbytes for *_, nbytes in bars), "memory")
        ax.grid(visible=False)  # it would run through the names
        ax.dsmem_data += bars
    return ax


def plot_waterfall(waterfall, *, ax=None, title=None):
    """`waterfall.steps`, (name, bytes, kind): a "total" starts at zero, a signed "gap" where the bar before ended."""
    steps, ends = list(waterfall.steps), [0]
    if not steps or not {kind for *_, kind in steps} <= {"total", "gap"}:
        raise ValueError(f"waterfall.steps must be (name, bytes, 'total' or 'gap'), at least one, got {steps!r}.")
    with drawing(ax, title, height=1.6 + 0.36 * len(steps)) as ax:
        for row, (_, nbytes, kind) in enumerate(steps):
            start = 0 if kind == "total" else ends[-1]
            ends.append(start + nbytes)
            _step(ax, row, start, ends[-1], total=kind == "total", last=row == len(steps) - 1)
        _row_axis(ax, [name for name, *_ in steps], max(ends), "memory")
        ax.dsmem_data += [(kind, name, nbytes) for name, nbytes, kind in steps]
    return ax


# --- Input ------------------------------------------------------------------------------------------------------------


def _sweep(x):
    x = np.asarray(x)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"x must be a sequence of at least one number, got {x!r}.")
    return x


def _bytes(name, values, shape):
    """`values` as an array of the given shape, refused when negative or not finite."""
    values = np.asarray(values)
    if values.shape not in ((), shape) or not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"{name} must be bytes, finite and not negative, of shape {shape}, got {values!r}.")
    return np.broadcast_to(values, shape)


def _points(name, x, values):
    x = np.atleast_1d(x)
    return x, _bytes(f"measured {name}", np.atleast_1d(values), x.shape)


def _by_part(name, stacks):
    """{label: {part: bytes}} turned into {part: bytes of every label}, in order of first appearance."""
    if not stacks:
        raise ValueError(f"{name} must hold at least one stack, got {stacks!r}.")
    for label, stack in stacks.items():
        for part, nbytes in stack.items():
            _bytes(f"{part} of {label}", nbytes, ())
    order = dict.fromkeys(part for stack in stacks.values() for part in stack)
    return {part: np.array([stack.get(part, 0) for stack in stacks.values()]) for part in order}


def _capacities(capacity):
    """None, (label, bytes) or {label: bytes} as {"label, a new line, 14.56 GiB": bytes}."""
    if isinstance(capacity, tuple) and len(capacity) == 2:
        capacity = dict([capacity])
    if not isinstance(capacity, Mapping | None):
        raise ValueError(f"capacity must be (label, bytes) or {{label: bytes}}, got {capacity!r}.")
    return {f"{label}\n{format_bytes(int(nbytes))}": nbytes for label, nbytes in (capacity or {}).items()}


def _merge_small(parts):
    """The parts that can be seen somewhere, the others summed as "other" (one alone keeps its name)."""
    widest = np.max(sum(parts.values())) if parts else 0
    small = [part for part, values in parts.items() if np.max(values) < SMALL * widest or not np.any(values)]
    if len(small) < 2:
        return parts
    small = [part for part in parts if part in (*small, "other")]
    large = {part: values for part, values in parts.items() if part not in small}
    return large | {"other": sum(parts[part] for part in small)}


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


# --- Drawing ----------------------------------------------------------------------------------------------------------


def _new_axes(height):
    import matplotlib.pyplot as plt  # not above: it picks a backend, and a widget must never load it

    return plt.subplots(figsize=(7.5, height), layout="constrained")[1]


@contextlib.contextmanager
def drawing(ax, title, height=3.8):
    """The Axes to draw on, in the house style; title and legend follow when the drawing is done."""
    # outside the context, whose end would undo the interactive mode that a notebook's pyplot switches on when it starts
    ax = _new_axes(height) if ax is None else ax
    with style.context(STYLE):
        ax.dsmem_data = []  # rows (series, x, bytes): the numbers in the picture, for `save_report`
        ax.dsmem_rows_above = 0  # lines of text between the Axes and its title
        yield ax
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=matplotlib.rcParams["xtick.labelsize"])
        finish(ax, title_of(ax) if title is None else title)


def _bars(ax, labels, parts, axis_label, limits, notes=None):
    """Horizontal stacked bars with their totals at the end."""
    ends = np.zeros(len(labels))
    for part, widths in _merge_small(parts).items():
        ax.barh(range(len(labels)), widths, left=ends, height=0.66, label=part, **look(part))
        ends = ends + widths
    for row, (label, end) in enumerate(zip(labels, ends, strict=True)):
        _end_label(ax, end, row, format_bytes(int(end)) + (notes or {}).get(label, ""))
    for part, values in parts.items():
        keep(ax, part, labels, values)
    _row_axis(ax, labels, max([*ends, *limits.values()]), axis_label)
    uprights(ax, {text.replace("\n", " "): x for text, x in limits.items()}, "right", CAPACITY)


def _areas(ax, x, parts, **how):
    """Stacked areas; returns the height of the highest point."""
    base = np.zeros(len(x))
    for part, values in _merge_small(parts).items():
        ax.fill_between(x, base, base + values, label=part, **look(part) | how)
        base = base + values
    for part, values in parts.items():
        keep(ax, part, x, values)
    if len(x) > 1:
        ax.set_xlim(x[0], x[-1])
    return max(base)


def _line(ax, name, x, values, **how):
    ax.plot(x, values, label=name, **how)
    keep(ax, name, x, values)


def _hue(name, order):
    """The colour of a component where the name is one, else the next of the cycle."""
    cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return LOOKS[name][0] if name in LOOKS else cycle[order.index(name) % len(cycle)]


def keep(ax, series, x, values):
    """Book plotted numbers for the CSV."""
    ax.dsmem_data += [(series, *row) for row in zip(np.asarray(x).tolist(), values.tolist(), strict=True)]


def _step(ax, row, start, end, total, last):
    """One bar of a waterfall with the link to the next; a gap too small for a bar still shows as a stroke."""
    color, hatch = ("#c9ced3", "") if total else ("#ffa90e", "///") if end >= start else ("#92dadd", "...")
    ax.barh(row, end - start, left=start, height=0.6, facecolor=color, edgecolor=INK, hatch=hatch, linewidth=0.5)
    if not last:
        ax.plot([end, end], [row, row + 1], color="#777777", linewidth=0.8)
    if not total:
        ax.plot([end, end], [row - 0.36, row + 0.36], color=INK, linewidth=2)
    sign = "+" if not total and end > start else ""
    _end_label(ax, max(start, end), row, sign + format_bytes(int(end if total else end - start)))


def _end_label(ax, end, row, text):
    ax.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", **_SMALL_TEXT)


def uprights(ax, places, side, line):
    """Upright lines, {text: x}, each named above the Axes on a row of its own, by a text whose `side` end it meets."""
    leader = {"arrowstyle": "-", "shrinkA": 0, "shrinkB": 0, "relpos": (int(side == "right"), 0), **line}
    where = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "ha": side, "fontsize": "small"}
    # the line that a text would reach over is named further up, so none is crossed
    for row, (x, text) in enumerate(sorted(((x, text) for text, x in places.items()), reverse=side == "left")):
        ax.axvline(x, **line)
        ax.annotate(f" {text} ", (x, 1), (0, 3 + 12 * row), arrowprops=leader, **where)
    ax.dsmem_rows_above = len(places)


def _peak(ax, x, y, text):
    """A labelled point; the label stands above it, on the side where there is room."""
    ax.plot(x, y, "o", color=INK, markeredgecolor="white", zorder=4, clip_on=False)
    left, right = ax.get_xlim()
    side = ("left", "center", "right")[min(int(3 * (x - left) / (right - left)), 2)]
    ax.annotate(text, (x, y), (0, 6), textcoords="offset points", ha=side, **_SMALL_TEXT)


# --- Axes and legend ----------------------------------------------------------------------------------------------


def _row_axis(ax, labels, reach, axis_label):
    """Rows from top to bottom, bytes from left to right."""
    ax.set_yticks(range(len(labels)), [textwrap.fill(str(label), 20) for label in labels])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlim(0, max(reach, 1) * 1.02)
    ax.grid(axis="x", **GRID)
    byte_axis(ax.xaxis, reach, axis_label)


def _height_axis(ax, limits, top, axis_label):
    """Bytes upwards from zero, with capacities as dashed lines that are named at the right."""
    reach = max([top, *limits.values(), 1])
    for text, nbytes in limits.items():
        ax.axhline(nbytes, **CAPACITY)
        near = any(0 < other - nbytes < 0.12 * reach for other in limits.values())  # that one is named upwards, so
        where = {"transform": ax.get_yaxis_transform(), "va": "top" if near else "bottom", "fontsize": "small"}
        ax.text(1.01, nbytes, text, **where)
    ax.grid(axis="y", **GRID)
    ax.set_ylim(0, reach * 1.04)
    byte_axis(ax.yaxis, reach, axis_label)


def _number_axis(ax, label, logx):
    """The x axis of a sweep: thousands with commas, and powers of two where it is logarithmic."""
    ticks = 5 if ax.dataLim.x1 >= 10_000 else 8  # long numbers need room
    if logx:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.xaxis.set_major_locator(
        ticker.LogLocator(base=2, numticks=ticks) if logx else ticker.MaxNLocator(ticks, steps=STEPS)
    )
    ax.xaxis.set_major_formatter("{x:,.10g}")
    ax.set_xlabel(label)


def byte_axis(axis, reach, label):
    """Ticks that are round in the largest unit that fits, over data in bytes."""
    unit, size = next((pair for pair in UNITS if reach >= pair[1]), UNITS[-1])
    axis.set_major_locator(_ByteLocator(size))
    axis.set_major_formatter(ticker.FuncFormatter(partial(_in_unit, size)))
    first, newline, more = label.partition("\n")
    axis.set_label_text(f"{first} ({unit}){newline}{more}")


def _in_unit(size, nbytes, position=None):
    return f"{nbytes / size:,g}"


class _ByteLocator(ticker.MaxNLocator):
    """Ticks at round multiples of `size` bytes."""

    def __init__(self, size):
        self.size = size
        super().__init__("auto", steps=STEPS)

    def tick_values(self, vmin, vmax):
        return super().tick_values(vmin / self.size, vmax / self.size) * self.size


def finish(ax, title):
    """Title above and legend below, as wide as the Axes and its labels turn out to be."""
    fig, legend = ax.get_figure(root=True), ax.get_legend()
    ax.set_title("", loc="left")
    if legend:
        legend.remove()
    fig.draw_without_rendering()
    box = ax.get_tightbbox(for_layout_only=True)
    em = matplotlib.rcParams["font.size"] * fig.dpi / 72
    lines = textwrap.fill(" ".join(title.split()), max(int((box.x1 - ax.bbox.x0) / em / 0.66), 20))  # bold: 0.66 em
    ax.set_title(lines, loc="left", pad=8 + 13 * ax.dsmem_rows_above)
    _legend_below(ax, fig, box)


def _legend_below(ax, fig, box):
    """The legend under the x label in as many columns as fit, from the left of the Axes or as far left as it must."""
    handles, labels = ax.get_legend_handles_labels()
    most = int(box.width / fig.dpi * 72 / (6 * matplotlib.rcParams["font.size"])) + 1  # an entry takes 6 em or more
    drop = ax.bbox.y0 - ax.xaxis.get_tightbbox().y0 + 0.06 * fig.dpi
    for columns in range(min(len(handles), most), 0, -1):
        legend = ax.legend(handles, labels, ncols=columns, loc="upper left", borderaxespad=0)
        width = legend.get_window_extent().width
        if width <= box.width or columns == 1:
            shift = min(0, box.x1 - ax.bbox.x0 - width)
            move = ScaledTranslation(shift / fig.dpi, -drop / fig.dpi, fig.dpi_scale_trans)
            legend.set_bbox_to_anchor((0, 0), ax.transAxes + move)
            break


def title_of(ax):
    return " ".join(ax.get_title(loc="left").split())
