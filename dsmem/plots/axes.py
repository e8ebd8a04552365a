"""The Axes that every plot draws on: house style, byte ticks, titles, legends, limits; and checks of what is plotted.

Memory axes have bytes as coordinates; only their tick labels are in GiB, MiB or KiB. The style lasts while a plot is
drawn, so the global settings stay as they are.
"""

import contextlib
import textwrap
from functools import partial

import matplotlib
import numpy as np
from matplotlib import style, ticker
from matplotlib.path import Path
from matplotlib.transforms import ScaledTranslation

from dsmem.config.hardware import capacities
from dsmem.plots.style import INK, LOOKS, STYLE, look, place
from dsmem.units import format_bytes

UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))
STEPS = (1, 2, 2.5, 5, 10)  # of ticks
SMALL = 0.015  # of the widest bar: what is thinner cannot be told from its neighbours
CAPACITY = {"color": INK, "linestyle": (0, (6, 3)), "linewidth": 1.1, "zorder": 2.5}
GRID = {"color": "#d8d8d8", "linewidth": 0.7}
PATCH = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.3}
SMALL_TEXT = {"fontsize": "small", "zorder": 3, "bbox": PATCH}
MOMENT = {"color": "#666666", "linestyle": (0, (1, 2)), "linewidth": 1, "zorder": 2.5}


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
        ax.dsmem_unit = "bytes"  # of the numbers in the picture
        yield ax
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=matplotlib.rcParams["xtick.labelsize"])
        finish(ax, title_of(ax) if title is None else title)


def sweep(x):
    x = np.asarray(x)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"x must be a sequence of at least one number, got {x!r}.")
    return x


def checked_bytes(name, values, shape):
    """`values` as an array of the given shape, refused when negative or not finite."""
    values = np.asarray(values)
    if values.shape not in ((), shape) or not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"{name} must be bytes, finite and not negative, of shape {shape}, got {values!r}.")
    return np.broadcast_to(values, shape)


def points(name, x, values):
    x = np.atleast_1d(x)
    return x, checked_bytes(f"measured {name}", np.atleast_1d(values), x.shape)


def by_part(name, stacks):
    """{label: {part: bytes}} turned into {part: bytes of every label}, in order of first appearance."""
    if not stacks:
        raise ValueError(f"{name} must hold at least one stack, got {stacks!r}.")
    for label, stack in stacks.items():
        for part, nbytes in stack.items():
            checked_bytes(f"{part} of {label}", nbytes, ())
    order = dict.fromkeys(part for stack in stacks.values() for part in stack)
    return {part: np.array([stack.get(part, 0) for stack in stacks.values()]) for part in order}


def limit_of(capacity):
    """(label, bytes) of any form of `capacity=` that names one GPU, or None; ValueError for more than one."""
    limits = capacities(capacity)
    if len(limits) > 1:
        raise ValueError(f"capacity={capacity!r} names {len(limits)} GPUs; this picture has room for one")
    return next(iter(limits.items()), None)


def limits_of(capacity):
    """Any form of `capacity=` as {"label, a new line, 14.56 GiB": bytes}."""
    return {f"{label}\n{format_bytes(int(nbytes))}": nbytes for label, nbytes in capacities(capacity).items()}


def merge_small(parts):
    """The parts that can be seen somewhere, the others summed as "other" (one alone keeps its name)."""
    widest = np.max(sum(parts.values())) if parts else 0
    small = [part for part, values in parts.items() if np.max(values) < SMALL * widest or not np.any(values)]
    if len(small) < 2:
        return parts
    small = [part for part in parts if part in (*small, "other")]
    large = {part: values for part, values in parts.items() if part not in small}
    return large | {"other": sum(parts[part] for part in small)}


def bars(ax, labels, parts, axis_label, limits, notes=None):
    """Horizontal stacked bars with their totals at the end."""
    ends = np.zeros(len(labels))
    for part, widths in merge_small(parts).items():
        ax.barh(range(len(labels)), widths, left=ends, height=0.66, label=part, **look(part))
        ends = ends + widths
    for row, (label, end) in enumerate(zip(labels, ends, strict=True)):
        end_label(ax, end, row, format_bytes(int(end)) + (notes or {}).get(label, ""))
    for part, values in parts.items():
        keep(ax, part, labels, values)
    row_axis(ax, labels, max([*ends, *limits.values()]), axis_label)
    uprights(ax, {text.replace("\n", " "): x for text, x in limits.items()}, "right", CAPACITY)


def areas(ax, x, parts, **how):
    """Stacked areas; returns the height of the highest point."""
    base = np.zeros(len(x))
    for part, values in merge_small(parts).items():
        ax.fill_between(x, base, base + values, label=part, **look(part) | how)
        base = base + values
    for part, values in parts.items():
        keep(ax, part, x, values)
    if len(x) > 1:
        ax.set_xlim(x[0], x[-1])
    return max(base)


def line(ax, name, x, values, **how):
    ax.plot(x, values, label=name, **how)
    keep(ax, name, x, values)


def hue(name, order):
    """The colour of a component where the name is one, else the next of the cycle."""
    cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return LOOKS[name][0] if name in LOOKS else cycle[place(name, order) % len(cycle)]


def boxes(left, right, rows):
    """A path of boxes, one on each of `rows`; the last corner of each stands for the way back to the first."""
    x = np.stack([left, left, right, right, left], axis=1)
    y = rows[:, None] + np.array([-0.36, 0.36, 0.36, -0.36, -0.36])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(np.stack([x, y], axis=2).reshape(-1, 2), codes * len(rows))


def keep(ax, series, x, values):
    """Book plotted numbers for the CSV."""
    ax.dsmem_data += [(series, *row) for row in zip(np.asarray(x).tolist(), values.tolist(), strict=True)]


def end_label(ax, end, row, text):
    ax.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", **SMALL_TEXT)


def uprights(ax, places, side, line):
    """Upright lines, {text: x}, each named above the Axes on a row of its own, by a text whose `side` end it meets."""
    leader = {"arrowstyle": "-", "shrinkA": 0, "shrinkB": 0, "relpos": (int(side == "right"), 0), **line}
    where = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "ha": side, "fontsize": "small"}
    # the line that a text would reach over is named further up, so none is crossed
    for row, (x, text) in enumerate(sorted(((x, text) for text, x in places.items()), reverse=side == "left")):
        ax.axvline(x, **line)
        ax.annotate(f" {text} ", (x, 1), (0, 3 + 12 * row), arrowprops=leader, **where)
    ax.dsmem_rows_above = len(places)


def row_axis(ax, labels, reach, axis_label):
    """Rows from top to bottom, bytes from left to right."""
    ax.set_yticks(range(len(labels)), [textwrap.fill(str(label), 20) for label in labels])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlim(0, max(reach, 1) * 1.02)
    ax.grid(axis="x", **GRID)
    byte_axis(ax.xaxis, reach, axis_label)


def height_axis(ax, limits, top, axis_label):
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


def number_axis(ax, label, logx):
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
