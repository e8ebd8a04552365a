"""The kit's predictions beside figures that others measured: one marker for each, and the line where they agree."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib import ticker

from dsmem.plots.axes import GRID, SMALL_TEXT, UNITS, drawing
from dsmem.plots.style import INK, line_looks


def plot_measured(comparison: Any, *, by: str = "kind", band: float = 0.01, ax: Any = None, title: Any = None) -> Any:
    """Error of each prediction against the size of what others measured; zero is the line of perfect prediction.

    comparison: what `runs.measured.compare` returns, or its lines: objects with kind, set, label, measured, predicted
    (bytes) and error; those without a prediction are counted in the label of the x axis. by: "kind" or "set", the
    colour and marker of a figure. band: errors up to this share lie in a shaded band, those beyond it are named.
    Returns the Axes; `ax.dsmem_data` holds (series, measured bytes, predicted bytes). The sources belong into the
    caption: see `sources`. ValueError: another `by`, or no figure with a prediction.
    """
    lines = list(getattr(comparison, "lines", comparison))
    shown = [line for line in lines if line.predicted is not None]
    if by not in ("kind", "set"):
        raise ValueError(f"by={by!r} is not a way to sort figures; allowed: kind, set")
    if not shown:
        raise ValueError(f"comparison must hold at least one figure with a prediction, got {comparison!r}.")
    with drawing(ax, title or _finding(shown, band)) as ax:
        ax.axhspan(-100 * band, 100 * band, facecolor="#e8e8e8", label=f"±{band:.0%}")
        ax.axhline(0, color=INK, linewidth=1.2, label="prediction")
        for group, how in line_looks(getattr(line, by) for line in shown).items():
            _markers(ax, group, how, [line for line in shown if getattr(line, by) == group])
        _axes(ax, shown, len(lines) - len(shown))
        _names(ax, [line for line in shown if abs(line.error) > band])
    return ax


def sources(comparison: Any) -> str:
    """The publications behind a comparison's predicted figures, for a caption: each source once, in order."""
    lines: Iterable = getattr(comparison, "lines", comparison)
    return "; ".join(dict.fromkeys(line.source for line in lines if line.predicted is not None and line.source))


def _markers(ax, group, how, lines):
    how = how | {"linestyle": "none", "markeredgecolor": INK}
    x, errors = [line.measured for line in lines], [100 * line.error for line in lines]
    ax.plot(x, errors, label=f"{group}, measured by others ({len(lines)})", **how)
    ax.dsmem_data += [(group, line.measured, line.predicted) for line in lines]


def _names(ax, lines):
    """Each of these figures named: on the left half to the right of its marker, on the right half above it."""
    for line in lines:
        x = ax.transAxes.inverted().transform(ax.transData.transform((line.measured, 0)))[0]
        beside = {"ha": "left", "va": "center", "xytext": (6, 0)}
        above = {"ha": "center", "va": "bottom", "xytext": (0, 5)}
        where = {"xy": (line.measured, 100 * line.error), "textcoords": "offset points"}
        ax.annotate(line.label, **where, **(beside if x < 0.5 else above), **SMALL_TEXT)


def _axes(ax, shown, absent):
    reach = max(1.5, 130 * max(abs(line.error) for line in shown))
    ax.set_ylim(-reach, reach)
    ax.set_ylabel("error of the prediction (%)")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(ticker.LogLocator(base=16, numticks=8))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(_in_words))
    ax.set_xlabel("measured by others" + (f" ({absent} more are not modelled)" if absent else ""))
    ax.grid(axis="y", **GRID)


def _in_words(nbytes, position=None):
    unit, size = next((pair for pair in UNITS if nbytes >= pair[1]), UNITS[-1])
    return f"{nbytes / size:,g} {unit}"


def _finding(shown, band):
    errors = np.abs([line.error for line in shown])
    return f"{np.sum(errors <= band)} of {len(shown)} figures that others measured are predicted within {band:.0%}"
