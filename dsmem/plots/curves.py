"""Curves and areas: bytes, seconds and rates against a number that is swept."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsmem.plots import axes, limits, shapes
from dsmem.plots.style import INK, line_looks

DENSE = 200  # points of a curve that is given as a function


def plot_areas(
    x: Any, parts: Mapping, *, xlabel: str, capacity: Any = None, logx: bool = False, ax: Any = None, title: Any = None
) -> Any:
    """Stacked areas of `parts` against `x`; returns the Axes.

    x: numbers. parts: {part: bytes, an array like x}. xlabel: what x counts. capacity: as in `plot_stack`.
    logx: powers of two on x; then heights can be compared, but areas cannot. title: above the picture.
    Raises ValueError for bytes that are negative, not finite or of another shape.
    """
    x, places = shapes.sweep(x), limits.limits_of(capacity)
    parts = {
        part: shapes.checked_bytes(part, values, x.shape) for part, values in shapes.series("parts", parts).items()
    }
    with axes.drawing(ax, title) as ax:
        top = shapes.areas(ax, x, parts)
        axes.number_axis(ax, xlabel, logx)
        axes.height_axis(ax, places, top, "memory")
    return ax


def plot_curves(
    x: Any,
    curves: Mapping,
    *,
    xlabel: str,
    measured: Mapping | None = None,
    capacity: Any = None,
    logx: bool = True,
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """Predictions as lines, measurements as markers, in bytes; returns the Axes.

    x: numbers, of which the first and the last say how far the lines go. curves: {label: bytes, an array like x}, or
    {label: function}, which is evaluated at about 200 numbers (whole ones, if those of x are), so that the line is the
    prediction everywhere, and not a chord between a few points. measured: {label: (x, bytes)}; it takes the colour of
    the curve of its name. Number formats look alike in every plot. xlabel: what x counts. capacity: as in `plot_stack`.
    logx: powers of two on x. title: above the picture.
    Raises ValueError for bytes that are negative, not finite or of another shape.

    >>> from matplotlib.figure import Figure
    >>> ax = plot_curves([1, 1024], {"cache": lambda n: 57344 * n}, xlabel="tokens", ax=Figure().subplots())
    >>> len(ax.dsmem_data) > 100, ax.dsmem_data[-1]
    (True, ('cache', 1024, 58720256))
    """
    x, places = shapes.sweep(x), limits.limits_of(capacity)
    curves = {name: _curve(name, x, values, logx) for name, values in shapes.series("curves", curves).items()}
    points = {name: shapes.points(name, *pair) for name, pair in shapes.series("measured", measured).items()}
    looks = line_looks([*curves, *points])
    with axes.drawing(ax, title) as ax:
        for name, pair in curves.items():
            shapes.line(ax, name, *pair, **looks[name] | {"marker": ""})
        for name, pair in points.items():
            shapes.line(ax, f"{name}, measured", *pair, **_markers(looks[name]))
        axes.number_axis(ax, xlabel, logx)
        axes.height_axis(ax, places, max((row[2] for row in ax.dsmem_data), default=0), "memory")
    return ax


def plot_seconds(
    x: Any, curves: Mapping, *, xlabel: str, measured: Mapping | None = None, ax: Any = None, title: str | None = None
) -> Any:
    """Times as lines, measurements as markers, both axes logarithmic; returns the Axes.

    curves: {label: seconds, an array like x or one number}. measured: {label: (x, seconds)}; it takes the colour of the
    curve of its name. xlabel: what x counts. title: above the picture.
    Raises ValueError for seconds that are negative, not finite or of another shape.
    """
    x, measured = shapes.sweep(x), shapes.series("measured", measured)
    curves = {
        name: shapes.checked_bytes(name, values, x.shape, "seconds")
        for name, values in shapes.series("curves", curves).items()
    }
    looks = line_looks([*curves, *measured])
    with axes.drawing(ax, title, unit="seconds") as ax:
        for name, seconds in curves.items():
            shapes.line(ax, name, x, seconds, **looks[name] | {"marker": ""})
        for name, (at, seconds) in measured.items():
            shapes.line(ax, f"{name}, measured", np.atleast_1d(at), np.atleast_1d(seconds), **_markers(looks[name]))
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.xaxis.set_major_formatter("{x:,.10g}")
        ax.yaxis.set_major_formatter("{x:g}")
        low, high = ax.get_ylim()
        if high < 20 * low:  # else the numbers between the powers of ten have no room
            ax.yaxis.set_minor_formatter("{x:g}")
        ax.set(xlabel=xlabel, ylabel="seconds")
        ax.grid(**axes.GRID)
    return ax


def plot_throughput(predicted: Mapping, measured: Mapping, *, ax: Any = None, title: str | None = None) -> Any:
    """Tokens a second in multiples of the first batch, against the batch, both axes logarithmic; returns the Axes.

    predicted, measured: {label: (batches, tokens a second)}, drawn as lines and as markers. title: above the picture.
    """
    looks = line_looks([*shapes.series("predicted", predicted), *shapes.series("measured", measured)])
    with axes.drawing(ax, title or "Tokens a second against the batch", unit="times the first batch") as ax:
        for series, how in ((predicted, lambda look: look | {"marker": ""}), (measured, _markers)):
            for label, (batches, rates) in series.items():
                shapes.line(ax, label, batches, np.asarray(rates) / rates[0], **how(looks[label]))
        axes.number_axis(ax, "batch", logx=True)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:g}×")
        ax.set_ylabel("tokens a second, times batch 1")
        ax.grid(axis="y", **axes.GRID)
    return ax


def plot_rises(
    curves: Mapping, *, xlabel: str, marks: Mapping | None = None, ax: Any = None, title: str | None = None
) -> Any:
    """What a smaller cache costs, in % of perplexity; returns the Axes.

    curves: {label: (tokens kept, %)}, lines with markers. marks: {label: tokens}, dashed upright lines.
    xlabel: what is counted to the right. title: above the picture.
    """
    looks = line_looks(shapes.series("curves", curves))
    with axes.drawing(ax, title, unit="% more perplexity") as ax:
        for name, (kept, rises) in curves.items():
            shapes.line(ax, name, kept, np.asarray(rises, dtype=float), **looks[name] | {"markeredgecolor": INK})
        for name, tokens in (marks or {}).items():
            ax.axvline(tokens, label=name, **limits.CAPACITY)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:,.10g}")
        ax.set(xlabel=xlabel, ylabel="perplexity (% more)")
        ax.grid(axis="y", **axes.GRID)
    return ax


def _curve(name, x, values, logx):
    """(x, bytes) of one curve: as given, or a function at numbers close enough for a smooth line."""
    if callable(values):
        x = _dense(x, logx)
        values = values(x)
    return x, shapes.checked_bytes(name, values, x.shape)


def _dense(x, logx):
    """Numbers from the least to the most of `x`, with all of `x` among them."""
    low, high = x.min(), x.max()
    between = np.geomspace(low, high, DENSE) if logx and low > 0 else np.linspace(low, high, DENSE)
    return np.unique(np.concatenate([x, np.round(between).astype(x.dtype) if x.dtype.kind in "iu" else between]))


def _markers(look):
    return look | {"linestyle": "none", "markeredgecolor": INK, "zorder": 3}
