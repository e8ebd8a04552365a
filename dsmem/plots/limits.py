"""Capacities in plots: what `capacity=` means, what "fits" means, and the dashed lines."""

from collections.abc import Iterable, Mapping
from typing import Any

from dsmem.config.hardware import capacities
from dsmem.config.overhead import fits
from dsmem.plots.style import INK
from dsmem.units import format_bytes

CAPACITY = {"color": INK, "linestyle": (0, (6, 3)), "linewidth": 1.1, "zorder": 2.5}
APART = 0.11  # of the height of the Axes: what the names of two level lines take


def limits_of(capacity: Any, hidden_bytes: int = 0) -> dict[str, int]:
    """{"T4, a new line, 14.57 GiB": bytes} of any `capacity` that `config.hardware.capacities` takes.

    hidden_bytes: what a plot leaves out; the line then stands where the rest reaches the capacity, and says so. A
    capacity that is not larger than what is hidden has no line.

    >>> limits_of(("mine", 2**30))
    {'mine\\n1.00 GiB': 1073741824}
    """
    left = {label: nbytes - int(hidden_bytes) for label, nbytes in capacities(capacity).items()}
    return {f"{label}\n{format_bytes(n)}{' left' * bool(hidden_bytes)}": n for label, n in left.items() if n > 0}


def fit_words(nbytes: int, capacity: Mapping[str, int], overhead_bytes: int = 0) -> str:
    """In words whether a peak fits each capacity, and before what that is; nothing without a capacity.

    >>> fit_words(2**29, {"mine": 2**30})
    'fits mine (1.00 GiB) before context and allocator'
    """
    kept = f"with {format_bytes(overhead_bytes)} kept for" if overhead_bytes else "before"
    verdicts = [
        f"{'fits' if fits(nbytes, usable, overhead_bytes) else 'does not fit'} {label} ({format_bytes(usable)})"
        for label, usable in capacity.items()
    ]
    return f"{', '.join(verdicts)} {kept} context and allocator" if verdicts else ""


def uprights(ax: Any, places: Mapping[str, float], side: str | None, line: dict) -> list:
    """Upright lines, {text: x}, each named above the Axes on a row of its own; returns the artists.

    side: the end of the text that meets its line, "left" or "right"; with None, each text reaches towards the middle of
    the Axes, whose limits must be set before. Every row takes 12 points: `finish` keeps them free under the title.
    """
    middle = sum(ax.get_xlim()) / 2
    ends = {text: side or ("right" if x > middle else "left") for text, x in places.items()}
    # a line that a text would reach over is named further down, so none is crossed
    order = sorted((x, text) for text, x in places.items() if ends[text] == "right")
    order += sorted(((x, text) for text, x in places.items() if ends[text] == "left"), reverse=True)
    where = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "fontsize": "small"}
    artists = []
    for row, (x, text) in enumerate(order):
        leader = {"arrowstyle": "-", "shrinkA": 0, "shrinkB": 0, "relpos": (int(ends[text] == "right"), 0), **line}
        artists.append(ax.axvline(x, **line))
        place = {"xytext": (0, 3 + 12 * row), "ha": ends[text], "arrowprops": leader}
        artists.append(ax.annotate(f" {text} ", (x, 1), **place, **where))
    ax.dsmem_rows_above = max(len(places), ax.dsmem_rows_above)
    return artists


def levels(ax: Any, limits: Mapping[str, float]) -> list:
    """Level lines, {text: y}, named at the right, names apart from each other; returns the artists.

    The limits of y must be set before.
    """
    artists = [ax.axhline(nbytes, **CAPACITY) for nbytes in limits.values()]
    heights = [float(ax.transAxes.inverted().transform(ax.transData.transform((1, y)))[1]) for y in limits.values()]
    where = {"transform": ax.transAxes, "va": "center", "fontsize": "small", "linespacing": 1.1}
    for (text, nbytes), height, place in zip(limits.items(), heights, _apart(heights), strict=True):
        pushed = abs(place - height) > 0.005  # one that was not stays with its line, also when the limits change
        how = where if pushed else where | {"transform": ax.get_yaxis_transform()}
        artists.append(ax.text(1.01, place if pushed else nbytes, text, **how))
    return artists


def _apart(heights: Iterable[float]) -> list[float]:
    """Places as near to these heights as names that must not overlap can stand."""
    heights, places, last = list(heights), {}, float("-inf")
    for index in sorted(range(len(heights)), key=heights.__getitem__):
        last = max(heights[index], last + APART)
        places[index] = last
    return [places[index] for index in range(len(heights))]
