"""Curves and dots: bytes, seconds, rates and errors against a number that is swept."""

from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from dsmem.plots import axes
from dsmem.plots.style import INK, LINESTYLES, MARKERS, place

COLORS = ("#bd1f01", "#3f90da", "#ffa90e", "#832db6", "#a96b59")


def plot_areas(
    x: Any,
    parts: dict[str, Any],
    *,
    xlabel: str,
    capacity: Any = None,
    logx: bool = False,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Stacked areas of `parts`, {part: bytes, an array like x}, against `x`; `xlabel` says what x counts.

    capacity: as in `plot_stack`. logx: powers of two on x; then heights can be compared, but areas cannot.
    """
    x, limits = axes.sweep(x), axes.limits_of(capacity)
    parts = {part: axes.checked_bytes(part, values, x.shape) for part, values in parts.items()}
    with axes.drawing(ax, title) as ax:
        top = axes.areas(ax, x, parts)
        axes.number_axis(ax, xlabel, logx)
        axes.height_axis(ax, limits, top, "memory")
    return ax


def plot_curves(
    x: Any,
    curves: dict[str, Any],
    *,
    xlabel: str,
    measured: dict[str, tuple] | None = None,
    capacity: Any = None,
    logx: bool = True,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Predictions as lines and measurements as markers, against `x`; `xlabel` says what x counts.

    curves: {label: bytes, an array like x, or a function of such an array}; a function is evaluated at many places
    between the first and the last x, so that its line is the formula and not a join of a few points.
    measured: {label: (x, bytes)}; a measurement takes the looks of the curve of its name. capacity: as in `plot_stack`.
    logx: powers of two on x.
    """
    x, limits = axes.sweep(x), axes.limits_of(capacity)
    lines = {name: _evaluated(name, values, x, logx) for name, values in curves.items()}
    points = {name: axes.points(name, *pair) for name, pair in (measured or {}).items()}
    order = list(dict.fromkeys([*lines, *points]))
    with axes.drawing(ax, title) as ax:
        for name, pair in lines.items():
            axes.line(ax, name, *pair, color=axes.hue(name, order), linestyle=LINESTYLES[place(name, order) % 6])
        for name, pair in points.items():
            marker = {"marker": MARKERS[place(name, order) % 6], "markeredgecolor": INK, "zorder": 3}
            axes.line(ax, f"{name}, measured", *pair, color=axes.hue(name, order), linestyle="none", **marker)
        axes.number_axis(ax, xlabel, logx)
        axes.height_axis(ax, limits, max((row[2] for row in ax.dsmem_data), default=0), "memory")
    return ax


def _evaluated(name, values, x, logx):
    """(x, bytes) of a curve: as given, or of a function at whole numbers between the first and the last x."""
    if callable(values):
        spaced = np.geomspace if logx else np.linspace
        x = np.unique(np.round(spaced(x[0], x[-1], 200)).astype(np.int64))
        values = values(x)
    return x, axes.checked_bytes(name, values, x.shape)


def plot_seconds(x, curves, *, xlabel, measured=None, ax=None, title=None):
    """Times as lines, {label: seconds, an array like x}, both axes logarithmic; measured: {label: (x, seconds)}.

    A measurement takes the colour of the curve of its name.
    """
    x, order = np.asarray(x), list(dict.fromkeys([*curves, *(measured or {})]))
    with axes.drawing(ax, title) as ax:
        for name, seconds in curves.items():
            seconds = np.broadcast_to(seconds, x.shape)
            style = LINESTYLES[place(name, order) % 6]
            ax.plot(x, seconds, label=name, color=axes.hue(name, order), linestyle=style)
            axes.keep(ax, name, x, seconds)
        for name, (at, seconds) in (measured or {}).items():
            look = {"color": axes.hue(name, order), "markeredgecolor": INK, "zorder": 3}
            ax.plot(at, seconds, MARKERS[place(name, order) % 6], label=f"{name}, measured", **look)
            axes.keep(ax, f"{name}, measured", np.atleast_1d(at), np.atleast_1d(seconds))
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.xaxis.set_major_formatter("{x:,.10g}")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set(xlabel=xlabel, ylabel="seconds")
        ax.dsmem_unit = "seconds"
        ax.grid(**axes.GRID)
    return ax


def plot_throughput(predicted, measured, *, ax=None, title=None):
    """Tokens a second in multiples of the first batch, against the batch: predicted as lines, measured as markers.

    predicted, measured: {label: (batches, tokens a second)}. Both axes double at each step. Returns the Axes.
    """
    with axes.drawing(ax, title or "Tokens a second against the batch") as ax:
        for series, how in ((predicted, "-"), (measured, "o")):
            for label, (batches, rates) in series.items():
                ax.plot(batches, np.asarray(rates) / rates[0], how, label=label)
                axes.keep(ax, label, batches, np.asarray(rates) / rates[0])
        axes.number_axis(ax, "batch", logx=True)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:g}×")
        ax.set_ylabel("tokens a second, times batch 1")
        ax.dsmem_unit = "times batch 1"
        ax.grid(axis="y", **axes.GRID)
    return ax


def plot_rises(curves, *, xlabel, marks=None, ax=None, title=None):
    """What a smaller cache costs, in % of perplexity: {label: (tokens kept, %)} as lines; marks: {label: tokens}."""
    with axes.drawing(ax, title) as ax:
        for number, (name, (kept, rises)) in enumerate(curves.items()):
            look = {"color": axes.hue(name, list(curves)), "marker": MARKERS[number], "markeredgecolor": INK}
            ax.plot(kept, rises, label=name, **look)
            axes.keep(ax, name, kept, np.asarray(rises, dtype=float))
        for name, tokens in (marks or {}).items():
            ax.axvline(tokens, label=name, **axes.CAPACITY)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:,.10g}")
        ax.set(xlabel=xlabel, ylabel="perplexity (% more)")
        ax.dsmem_unit = "% more perplexity"
        ax.grid(axis="y", **axes.GRID)
    return ax


def plot_layer_errors(errors, *, ways=("per tensor", "per token", "mixed"), ax=None, title=None):
    """One column of markers for each layer of `layer_errors`: its outlier to the right, the error in per cent upwards.

    ways: which of the ways to share scales to show. Both axes are logarithmic.
    """
    with axes.drawing(ax, title) as ax:
        outliers = [outlier for outlier, _ in errors.values()]
        for way, color, marker in zip(ways, COLORS, MARKERS, strict=False):
            percent = [100 * of_layer[way] for _, of_layer in errors.values()]
            ax.scatter(outliers, percent, 28, color, marker=marker, label=way, edgecolors=INK, linewidths=0.5)
            ax.dsmem_data += [(way, *row) for row in zip(outliers, percent, strict=True)]
        ax.set(xscale="log", yscale="log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(ticker.NullLocator())
        ax.set_xlabel("largest number of the layer's input, in multiples of its root mean square")
        ax.set_ylabel("error of the product (%)")
        ax.dsmem_unit = "error in %"
        ax.grid(**axes.GRID)
        ax.legend()
    return ax


def plot_dots(groups, *, xlabel, ax=None, title=None):
    """One row for each of `groups`, {label: numbers}: a dot for each number, and a stroke and its value at their mean.

    ValueError: no groups, or a group without numbers.
    """
    if not groups or not all(np.size(numbers) for numbers in groups.values()):
        raise ValueError(f"groups={groups!r} has nothing to show; it must hold at least one number for each label")
    with axes.drawing(ax, title, height=1.4 + 0.42 * len(groups)) as ax:
        for row, (label, numbers) in enumerate(groups.items()):
            numbers, mean = np.atleast_1d(numbers), np.mean(numbers)
            ax.plot(numbers, np.full(len(numbers), row), "o", color=COLORS[1], markeredgecolor=INK, alpha=0.8)
            ax.plot([mean, mean], [row - 0.3, row + 0.3], color=INK, linewidth=2)
            text = f"{round(mean, 2) + 0.0:.2f}"  # never -0.00
            ax.annotate(text, (max(numbers), row), (10, 0), textcoords="offset points", va="center")
            ax.dsmem_data += [(label, row, float(number)) for number in numbers]
        ax.set_yticks(range(len(groups)), list(groups))
        ax.set_ylim(len(groups) - 0.5, -0.5)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.margins(x=0.12)
        ax.set_xlabel(xlabel)
        ax.dsmem_unit = xlabel
        ax.grid(axis="x", **axes.GRID)
    return ax
