"""Dots and markers: what rounding costs, layer by layer or run by run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker

from dsmem.plots import axes
from dsmem.plots.style import INK, MARKERS

COLORS = ("#bd1f01", "#3f90da", "#ffa90e", "#832db6", "#a96b59")
SIZES = (90, 42, 16)  # of markers drawn one over the other: equal values stay visible, the small ones on top


def plot_layer_errors(
    errors: Mapping,
    *,
    ways: Sequence[str] = ("per tensor", "per token", "mixed"),
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """One column of markers for each layer: its outlier to the right, the error in per cent upwards; returns the Axes.

    errors: what `model.quantize.errors.layer_errors` returns, {layer: (outlier, {way: error})}. ways: which of the ways
    to share scales to show, the first with the largest markers. title: above the picture. Both axes are logarithmic.
    """
    with axes.drawing(ax, title, unit="% error") as ax:
        outliers = [outlier for outlier, _ in errors.values()]
        for number, (way, color, marker) in enumerate(zip(ways, COLORS, MARKERS, strict=False)):
            percent = [100 * of_layer[way] for _, of_layer in errors.values()]
            size = SIZES[min(number, len(SIZES) - 1)]
            ax.scatter(outliers, percent, size, color, marker=marker, label=way, edgecolors=INK, linewidths=0.5)
            ax.dsmem_data += [(way, *row) for row in zip(outliers, percent, strict=True)]
        ax.set(xscale="log", yscale="log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(ticker.NullLocator())
        ax.set_xlabel("largest number of the layer's input, in multiples of its root mean square")
        ax.set_ylabel("error of the product (%)")
        ax.grid(**axes.GRID)
    return ax


def plot_dots(groups: Mapping, *, xlabel: str, ax: Any = None, title: str | None = None) -> Any:
    """One row for each of `groups`: a dot for each number, and a stroke and its value at their mean; returns the Axes.

    groups: {label: numbers}. xlabel: what they are, with the unit; it is also their name in a report's CSV.
    title: above the picture. Raises ValueError for no groups, or a group without numbers.

    >>> from matplotlib.figure import Figure
    >>> plot_dots({"int8": [0.1, 0.3]}, xlabel="loss (%)", ax=Figure().subplots()).dsmem_data
    [('int8', 0, 0.1), ('int8', 0, 0.3)]
    """
    if not groups or not all(np.size(numbers) for numbers in groups.values()):
        raise ValueError(f"groups={groups!r} has nothing to show; it must hold at least one number for each label")
    with axes.drawing(ax, title, height=1.4 + 0.42 * len(groups), unit=xlabel) as ax:
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
        ax.grid(axis="x", **axes.GRID)
    return ax
