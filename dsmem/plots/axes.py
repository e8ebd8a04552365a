"""The Axes that every plot draws on: house style, byte ticks, titles and legends.

Memory axes have bytes as coordinates; only their tick labels are in GiB, MiB or KiB. The style lasts while a plot is
drawn, so the global settings stay as they are.
"""

import contextlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style, ticker
from matplotlib.container import BarContainer
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation

from dsmem.plots import alt
from dsmem.plots.limits import levels
from dsmem.plots.style import STYLE
from dsmem.units import as_text, format_bytes

UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))
STEPS = (1, 2, 2.5, 5, 10)  # of ticks
GRID = {"color": "#d8d8d8", "linewidth": 0.7}
PATCH = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.3}
SMALL_TEXT = {"fontsize": "small", "zorder": 3, "bbox": PATCH}
MOMENT = {"color": "#666666", "linestyle": (0, (1, 2)), "linewidth": 1, "zorder": 2.5}


def _new_axes(height):
    import matplotlib.pyplot as plt  # not above: it picks a backend, and a widget must never load it

    return plt.subplots(figsize=(7.5, height), layout="constrained")[1]


@contextlib.contextmanager
def drawing(ax: Any, title: str | None, height: float = 3.8, unit: str = "bytes") -> Iterator[Any]:
    """The Axes to draw on, in the house style; title and legend follow when the drawing is done.

    ax: None for a new figure through pyplot, `height` inches high. title: None keeps the one that the Axes has.
    unit: what the numbers in `ax.dsmem_data` are; it becomes the header of their column in a report.

        with plots.axes.drawing(None, "Found", unit="seconds") as ax:
            _ = ax.plot([1, 2], [3, 4], label="mine")
    """
    # outside the context, whose end would undo the interactive mode that a notebook's pyplot switches on when it starts
    title = title if title is None else as_text("title", title)
    if not (ax is None or hasattr(ax, "set_prop_cycle")):
        raise ValueError(f"ax={ax!r} is not a picture; it must be a Matplotlib Axes, or None for a new one")
    ax = _new_axes(height) if ax is None else ax
    with style.context(STYLE):
        ax.set_prop_cycle(None)  # the style's colours, also for an Axes that was made before
        ax.dsmem_data = []  # rows (series, x, number): what is in the picture, for `save_report`
        ax.dsmem_unit = unit
        ax.dsmem_limits = {}  # {label: bytes} of the capacity lines
        ax.dsmem_rows_above = 0  # lines of text between the Axes and its title
        ax.dsmem_ends = []  # the numbers at the ends of bars
        ax.dsmem_legend, ax.dsmem_renamed = [], {}
        ax.dsmem_whole_legend = False  # whether the legend also lists what is not in the picture at the moment
        yield ax
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=matplotlib.rcParams["xtick.labelsize"])
        finish(ax, title_of(ax) if title is None else title)
        alt.attach(ax.get_figure(root=True))


def keep(ax: Any, series: str, x: Iterable, values: Any) -> None:
    """Book plotted numbers for the CSV."""
    ax.dsmem_data += [(series, *row) for row in zip(np.asarray(x).tolist(), np.asarray(values).tolist(), strict=True)]


# --- Scales -----------------------------------------------------------------------------------------------------------


def row_axis(ax: Any, labels: list, reach: float, axis_label: str, start: float = 0) -> None:
    """Rows from top to bottom, bytes from left to right, from `start` to a little more than `reach`."""
    ax.set_yticks(range(len(labels)), [textwrap.fill(str(label), 20) for label in labels])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlim(start, start + max(reach - start, 1) * 1.02)
    ax.grid(axis="x", **GRID)
    byte_axis(ax.xaxis, reach, axis_label)


def height_axis(ax: Any, places: Mapping[str, float], top: float, axis_label: str) -> None:
    """Bytes upwards from zero, with capacities as dashed lines that are named at the right."""
    reach = max([top, *places.values(), 1])
    ax.grid(axis="y", **GRID)
    ax.set_ylim(0, reach * 1.04)
    byte_axis(ax.yaxis, reach, axis_label)
    levels(ax, places)
    ax.dsmem_limits |= places


def number_axis(ax: Any, label: str, logx: bool) -> None:
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


def byte_axis(axis: Any, reach: float, label: str) -> None:
    """Ticks that are round in the largest unit that fits, over data in bytes; lines after the first follow the unit."""
    unit, size = unit_of(reach)
    axis.set_major_locator(_ByteLocator(size))
    axis.set_major_formatter(ticker.FuncFormatter(partial(_tick, size)))
    first, newline, more = label.partition("\n")
    axis.set_label_text(f"{first} ({unit}){newline}{more}")


def unit_of(reach: float) -> tuple[str, int]:
    """The largest unit that `reach` bytes fill, and its bytes."""
    return next((pair for pair in UNITS if reach >= pair[1]), UNITS[-1])


def in_unit(nbytes: float, reach: float) -> str:
    """Bytes in the unit of an axis that ends at `reach`; in a smaller one where that would show no digit.

    >>> in_unit(2**29, 2**33), in_unit(28 * 2**20, 2**33), in_unit(256, 2**33)
    ('0.500 GiB', '0.0273 GiB', '256 B')
    """
    unit, size = unit_of(reach)
    value = abs(nbytes) / size
    if unit == "bytes" or value < 0.01:
        return format_bytes(nbytes)
    digits = 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{nbytes / size:,.{digits}f} {unit}"


def _tick(size, nbytes, position=None):
    return f"{nbytes / size:,g}"


class _ByteLocator(ticker.MaxNLocator):
    """Ticks at round multiples of `size` bytes."""

    def __init__(self, size):
        self.size = size
        super().__init__("auto", steps=STEPS)

    def tick_values(self, vmin, vmax):
        return super().tick_values(vmin / self.size, vmax / self.size) * self.size


class Room(Text):
    """Keeps room in the layout for the longest text to come, and draws nothing: no file has it."""

    def draw(self, renderer):
        self.stale = False


def room(ax: Any, x: float, text: str, align: str, **font: Any) -> None:
    """Room beside the Axes for `text`, at half of its height."""
    ax.add_artist(Room(x, 0.5, text, transform=ax.transAxes, ha=align, zorder=0, clip_on=False, **font))


# --- Title and legend -------------------------------------------------------------------------------------------------


def finish(ax: Any, title: str) -> None:
    """Title above and legend below, as wide as the Axes and its labels turn out to be."""
    fig, legend = ax.get_figure(root=True), ax.get_legend()
    ax.set_title("", loc="left")
    if legend:
        ax.dsmem_renamed |= _renamed(ax.dsmem_legend, legend)
        legend.remove()
    fig.draw_without_rendering()
    settle_ends(ax)
    box = ax.get_tightbbox(for_layout_only=True)
    em = matplotlib.rcParams["font.size"] * fig.dpi / 72
    lines = textwrap.fill(" ".join(title.split()), max(int((box.x1 - ax.bbox.x0) / em / 0.66), 20))  # bold: 0.66 em
    ax.set_title(lines, loc="left", pad=8 + 13 * ax.dsmem_rows_above)
    _legend_below(ax, fig, box)


def title_of(ax: Any) -> str:
    """The title on one line."""
    return " ".join(ax.get_title(loc="left").split())


def _legend_below(ax, fig, box):
    """The legend under the x label in as many columns as fit, from the left of the Axes or as far left as it must."""
    entries = list(zip(*ax.get_legend_handles_labels(), strict=True))
    entries = [entry for entry in entries if ax.dsmem_whole_legend or _is_seen(entry[0])]
    handles, ax.dsmem_legend = [handle for handle, _ in entries], [label for _, label in entries]
    words = [ax.dsmem_renamed.get(label, label) for label in ax.dsmem_legend]
    most = int(box.width / fig.dpi * 72 / (6 * matplotlib.rcParams["font.size"])) + 1  # an entry takes 6 em or more
    drop = ax.bbox.y0 - ax.xaxis.get_tightbbox().y0 + 0.06 * fig.dpi
    for columns in range(min(len(handles), most), 0, -1):
        legend = ax.legend(handles, words, ncols=columns, loc="upper left", borderaxespad=0)
        width = legend.get_window_extent().width
        if width <= box.width or columns == 1:
            shift = min(0, box.x1 - ax.bbox.x0 - width)
            move = ScaledTranslation(shift / fig.dpi, -drop / fig.dpi, fig.dpi_scale_trans)
            legend.set_bbox_to_anchor((0, 0), ax.transAxes + move)
            for handle in legend.legend_handles:  # copied from the first bar, which may be one that is not there
                handle.set_visible(True)
            break


def _renamed(labels, legend):
    """{label: text} of the entries that somebody gave another text."""
    texts = [text.get_text() for text in legend.get_texts()]
    if len(texts) != len(labels):
        return {}
    return {label: text for label, text in zip(labels, texts, strict=True) if label != text}


def _is_seen(handle):
    """Is there anything of this legend entry in the picture?"""
    if isinstance(handle, BarContainer):
        return any(bar.get_visible() and bar.get_width() and bar.get_height() for bar in handle.patches)
    if isinstance(handle, Line2D):
        return handle.get_visible() and bool(np.isfinite(handle.get_xydata()).all(axis=1).any())
    if isinstance(handle, PathPatch):
        return handle.get_visible() and len(handle.get_path().vertices) > 0
    return handle.get_visible()


def settle_ends(ax: Any) -> None:
    """Each number stands after its bar; inside it where a capacity line would otherwise cut it off from the bar."""
    for text in ax.dsmem_ends:
        end = text.xy[0]
        at, width = ax.transData.transform((end, 0))[0], text.get_window_extent().width * 1.15
        first = ax.transData.transform((ax.get_xlim()[0], 0))[0]
        lines = [ax.transData.transform((limit, 0))[0] for limit in ax.dsmem_limits.values()]
        inside = any(at <= line <= at + width for line in lines) and at - first > width
        text.set_ha("right" if inside else "left")
        text.xyann = (-4, 0) if inside else (4, 0)
        text.set_bbox(PATCH | {"alpha": 1, "pad": 1.5} if inside else PATCH)  # a hatch would run through the digits
