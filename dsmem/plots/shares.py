"""What a pass needs beyond its weights, in shares of them."""

from collections.abc import Mapping
from typing import Any

from dsmem.plots import axes
from dsmem.plots.style import look


def plot_overhead(
    bars: Mapping[str, tuple], *, rule: tuple[float, float] = (0.1, 0.2), ax: Any = None, title: str | None = None
) -> Any:
    """One bar for each of `bars`, in % of the weights; returns the Axes.

    bars: {label: (bytes of the weights, {part: bytes beyond them})}. rule: a band from one share to another, shaded and
    named. title: defaults to how many bars end in that band. Raises ValueError for no bars, or no weights.
    """
    if not bars or any(weights <= 0 for weights, _ in bars.values()):
        raise ValueError(f"bars must hold at least one bar, with weights of more than 0 bytes, got {bars!r}.")
    totals = [sum(parts.values()) / weights for weights, parts in bars.values()]
    with axes.drawing(ax, title or _found(totals, rule), height=1.7 + 0.42 * len(bars)) as ax:
        ax.axvspan(*(100 * share for share in rule), facecolor="#dddddd", label=f"{rule[0]:.0%} to {rule[1]:.0%}")
        for part in dict.fromkeys(part for _, parts in bars.values() for part in parts):
            _shares(ax, part, bars)
        for row, total in enumerate(totals):
            ax.annotate(f"{total:.0%}", (100 * total, row), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(bars)), list(bars))
        ax.set_ylim(len(bars) - 0.5, -0.5)
        ax.set_xlim(0, 112 * max(*totals, rule[1]))
        ax.set_xlabel("beyond the weights (% of the weights)")
        ax.grid(axis="x", **axes.GRID)
    return ax


def _found(totals, rule):
    inside = sum(rule[0] <= total <= rule[1] for total in totals)
    span = f"From {min(totals):.0%} to {max(totals):.0%} of the weights"
    return f"{span}: {inside or 'none'} of {len(totals)} between {rule[0]:.0%} and {rule[1]:.0%}"


def _shares(ax, part, bars):
    """One part of all bars, each where the parts before it end."""
    starts, widths = [], []
    for weights, parts in bars.values():
        names = list(parts)
        before = names[: names.index(part)] if part in parts else []
        starts.append(100 * sum(parts[name] for name in before) / weights)
        widths.append(100 * parts.get(part, 0) / weights)
    ax.barh(range(len(bars)), widths, left=starts, height=0.66, label=part, **look(part))
    ax.dsmem_data += [(part, label, parts.get(part, 0)) for label, (_, parts) in bars.items()]
