"""Lines of plain numbers against a number that is swept, and models over the years."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib import ticker

from dsmem.plots import axes, shapes
from dsmem.plots.style import INK, MARKERS, line_looks


def plot_numbers(
    x: Any,
    curves: Mapping,
    *,
    xlabel: str,
    ylabel: str,
    measured: Mapping | None = None,
    level: Mapping | None = None,
    logy: bool = False,
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """Predictions as lines, measurements as markers, of anything but bytes; returns the Axes.

    x: numbers. curves: {label: numbers like x}. measured: {label: (x, numbers)}; it takes the colour of the curve of
    its name. level: {label: number}, dashed level lines. xlabel, ylabel: what they are, with the unit. The axis of x is
    in powers of two; logy: that of y as well. title: above the picture.

    >>> from matplotlib.figure import Figure
    >>> plot_numbers([1, 2], {"a": [3, 4]}, xlabel="n", ylabel="m", ax=Figure().subplots()).dsmem_data
    [('a', 1, 3), ('a', 2, 4)]
    """
    x, measured = shapes.sweep(x), shapes.series("measured", measured)
    looks = line_looks([*shapes.series("curves", curves), *measured])
    with axes.drawing(ax, title, unit=ylabel) as ax:
        for name, values in curves.items():
            values = shapes.checked_bytes(name, values, x.shape, "numbers")
            shapes.line(ax, name, x, values, **looks[name] | {"marker": ""})
        for name, (at, values) in measured.items():
            how = looks[name] | {"linestyle": "none", "markeredgecolor": INK, "zorder": 3}
            shapes.line(ax, f"{name}, measured", np.atleast_1d(at), np.atleast_1d(values), **how)
        for name, height in (level or {}).items():
            ax.axhline(height, color=INK, linestyle=(0, (6, 3)), linewidth=1.1, label=name)
        axes.number_axis(ax, xlabel, logx=True)
        if logy:
            ax.set_yscale("log", base=2)
            ax.yaxis.set_major_formatter("{x:,.10g}")
        else:
            ax.set_ylim(bottom=0)
        ax.set_ylabel(ylabel)
        ax.grid(**axes.GRID)
    return ax


def plot_years(rows: Iterable, *, ylabel: str, ax: Any = None, title: str | None = None) -> Any:
    """One marker for each model, its month to the right and a number upwards, which is logarithmic; returns the Axes.

    rows: (name, "2025-01", number, kind), one for each; a kind has one colour and one marker. ylabel: what the number
    is, with the unit. title: above the picture. Raises ValueError for no rows.

    >>> from matplotlib.figure import Figure
    >>> plot_years([("R1", "2025-01", 7.0, "MLA")], ylabel="n", ax=Figure().subplots()).dsmem_data
    [('MLA', 'R1', 7.0)]
    """
    rows = list(rows)
    if not rows:
        raise ValueError("rows holds no model; it must hold (name, month, number, kind) for at least one")
    kinds = list(dict.fromkeys(kind for *_, kind in rows))
    looks = line_looks(kinds)
    with axes.drawing(ax, title, height=4.4, unit=ylabel) as ax:
        for place, kind in enumerate(kinds):
            shown = [row for row in rows if row[3] == kind]
            look = {"color": looks[kind]["color"], "marker": MARKERS[place % len(MARKERS)]}
            x, y = [_year(month) for _, month, _, _ in shown], [number for _, _, number, _ in shown]
            ax.plot(x, y, linestyle="none", markeredgecolor=INK, markersize=8, label=kind, **look)
            ax.dsmem_data += [(kind, name, float(number)) for name, _, number, _ in shown]
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:,.10g}")
        ax.yaxis.set_minor_locator(ticker.NullLocator())
        _names(ax, rows)
        years = [_year(month) for _, month, _, _ in rows]
        ax.set_xticks(range(int(min(years)), int(max(years)) + 2))
        ax.set_xlim(min(years) - 0.25, max(years) + 0.6)
        ax.set(xlabel="month of the report", ylabel=ylabel)
        ax.margins(y=0.12)
        ax.grid(**axes.GRID)
    return ax


def _names(ax, rows):
    """Each model's name above its marker, or below where two are close."""
    before = None
    for name, month, number, _ in sorted(rows, key=lambda row: row[1]):
        close = before and _year(month) - before[0] < 0.35 and abs(np.log10(number / before[1])) < 0.2
        below = bool(close and not before[2])
        shift = {"xytext": (0, -8 if below else 8), "va": "top" if below else "bottom"}
        ax.annotate(name, (_year(month), number), textcoords="offset points", ha="center", fontsize="small", **shift)
        before = _year(month), number, below


def _year(month):
    """The month as a number of years: the first of January is the year itself.

    >>> _year("2025-07")
    2025.5
    """
    year, month = map(int, month.split("-"))
    return year + (month - 1) / 12
