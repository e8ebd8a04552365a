"""Will it fit, as a map: context against requests at once, coloured by the share of memory that is needed."""

from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.patches import Rectangle

from dsmem.config.devices import devices, usable_words
from dsmem.footprint.fit.maps import TOP, fit_map, largest_batches
from dsmem.plots import axes
from dsmem.plots.style import INK, LINESTYLES
from dsmem.units import whole_number

BANDS = {  # share of the memory up to which a band reaches: its colour, each darker than the one before
    0.5: "#eaf2fb",
    0.75: "#cfe0f3",
    0.9: "#a9c8e8",
    1.0: "#7fa8d6",
}
CLOSE = {"facecolor": "#7fa8d6", "edgecolor": "white", "hatch": "...", "linewidth": 0}
OVER = {"facecolor": "#8a8a8a", "edgecolor": "#c9c9c9", "hatch": "///", "linewidth": 0}
SIDE = 120  # cells along each side


def plot_fit(
    arch: Any,
    *,
    gpu: Any = "T4",
    count: int = 1,
    beside: Any = (),
    contexts: tuple[int, int] = (256, 131_072),
    most: int = 256,
    sharding: Any = None,
    ax: Any = None,
    title: str | None = None,
    **fields: Any,
) -> Any:
    """A map of contexts and requests at once, coloured by how much of a GPU's memory they need; returns the Axes.

    arch: whatever `Architecture.of` takes. gpu, count, sharding: as in `dsmem.fit`. beside: more of what `gpu`
    takes, whose limits are drawn as lines. contexts: the shortest and the longest, in tokens, cut at what the model is
    made for; most: requests. fields: of the `Workload`, such as weights; the phase is decode where none is given.
    The line is the exact largest batch at each context; where context and allocator decide, the map is dotted.
    `ax.dsmem_data` holds (device, context, largest batch). Raises ValueError for what is not known or not modelled.
    """
    low, high = (whole_number("contexts", n, what="a number of tokens") for n in contexts)
    fields = {"phase": "decode"} | fields
    found = devices(gpu, count)
    at = fit_map(arch, [max(low, 2)], [1], found, 1, sharding, **fields)
    high = min(high, at.asked.most_context or high)
    if high <= low or whole_number("most", most, what="a count of requests") < 2:
        raise ValueError(f"contexts={contexts!r} with most={most} is no map; each must span more than one number")
    across = np.unique(np.geomspace(low, high, SIDE).astype(np.int64))
    up = np.unique(np.geomspace(1, most, SIDE).astype(np.int64))
    cells = fit_map(arch, across, up, found, 1, sharding, **fields)
    limits = {str(found): largest_batches(cells.asked, found, across)}
    for other in [beside] if isinstance(beside, str) else beside:
        there = fit_map(arch, across[:1], up[:1], other, 1, None, **fields)
        limits[str(there.devices)] = largest_batches(there.asked, there.devices, across)
    with axes.drawing(ax, title or _finding(cells, limits[str(found)]), height=4.2, unit="requests") as ax:
        _bands(ax, cells, limits[str(found)], most)
        for index, (name, line) in enumerate(limits.items()):
            _limit(ax, name, across, line, most, index)
        _scales(ax, across, most)
    return ax


def _bands(ax, cells, limit, most):
    share = cells.needed_bytes / cells.usable_bytes
    levels = [0, *BANDS]
    ax.contourf(cells.contexts, cells.batches, share, levels, colors=list(BANDS.values()), zorder=1)
    loose = np.clip(largest_batches(cells.asked, cells.devices, cells.contexts, least=True), 0.5, most)
    tight = np.clip(limit, 0.5, most)
    ax.fill_between(cells.contexts, tight, loose, step="post", zorder=1.5, **CLOSE)
    ax.fill_between(cells.contexts, loose, most, step="post", zorder=1.5, **OVER)
    names = {f"needs up to {share:.0%}": {"facecolor": color, "edgecolor": INK} for share, color in BANDS.items()}
    names |= {"may fit: context and allocator decide": CLOSE, "does not fit": OVER}
    for name, look in names.items():
        ax.add_patch(Rectangle((cells.contexts[0], 1), 0, 0, label=name, **look))  # for the legend alone


def _limit(ax, name, across, line, most, index):
    """The largest batch at each context, as a line with its device's name."""
    axes.keep(ax, name, across, line)
    inside = (line >= 1) & (line <= most)
    if not inside.any():
        return
    look = {"color": INK, "linestyle": LINESTYLES[index % len(LINESTYLES)], "linewidth": 1.8 if index == 0 else 1.2}
    ax.plot(across[inside], line[inside], drawstyle="steps-post", zorder=3, label=f"limit of {name}", **look)


def _scales(ax, across, most):
    axes.number_axis(ax, "context: tokens of each request, cached and new", logx=True)
    ax.set(xlim=(across[0], across[-1]), ylim=(1, most))
    ax.set_yscale("log", base=2)
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.yaxis.set_major_locator(ticker.LogLocator(base=2, numticks=9))
    ax.yaxis.set_major_formatter("{x:,.10g}")
    ax.set_ylabel("requests at once")


def _finding(cells, limit):
    first, last = (int(cells.contexts[index]) for index in (0, -1))
    asked, where = cells.asked, f"{cells.devices} ({usable_words(cells.devices)})"
    many, few = (("any number of" if n >= TOP else f"{n:,}" if n else "none") for n in (int(limit[0]), int(limit[-1])))
    return f"{asked.name} in {asked.weights_words} on {where}: {many} requests of {first:,} tokens, {few} of {last:,}"
