"""Bars, areas, lines and boxes of bytes, and the checks of what they are made of."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.path import Path

from dsmem.plots import axes, limits
from dsmem.plots.families import look

SMALL = 0.015  # of the widest bar: what is thinner cannot be told from its neighbours


# --- Checks -----------------------------------------------------------------------------------------------------------


def sweep(x: Any) -> np.ndarray:
    """`x` as an array of one dimension; ValueError for anything else, or for no numbers."""
    x = np.asarray(x)
    if x.ndim != 1 or not x.size or x.dtype.kind not in "iuf" or not np.all(np.isfinite(x)):
        raise ValueError(f"x must be a sequence of at least one number, got {x!r}.")
    return x


def series(argument: str, values: Any) -> Mapping:
    """`values` if they are named, {label: values}; ValueError if not, and none at all for None."""
    if not isinstance(values, Mapping | None):
        raise ValueError(f"{argument}={values!r} has no names; it must be {{label: values}}")
    return values or {}


def checked_bytes(name: str, values: Any, shape: tuple, what: str = "bytes") -> np.ndarray:
    """`values` as an array of the given shape, refused when negative or not finite. what: they are, for the refusal."""
    values = np.asarray(values)
    numeric = values.dtype.kind in "biuf"
    if not numeric or values.shape not in ((), shape) or not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError(f"{name} must be {what}, finite and not negative, of shape {shape}, got {values!r}.")
    return np.broadcast_to(values, shape)


def points(name: str, x: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Measured (x, bytes) as two arrays of one length."""
    x = np.atleast_1d(x)
    return x, checked_bytes(f"measured {name}", np.atleast_1d(values), x.shape)


def by_part(name: str, stacks: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    """{label: {part: bytes}} turned into {part: bytes of every label}, in order of first appearance."""
    if not stacks:
        raise ValueError(f"{name} must hold at least one stack, got {stacks!r}.")
    for label, stack in stacks.items():
        for part, nbytes in stack.items():
            checked_bytes(f"{part} of {label}", nbytes, ())
    order = dict.fromkeys(part for stack in stacks.values() for part in stack)
    return {part: np.array([stack.get(part, 0) for stack in stacks.values()]) for part in order}


def merge_small(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parts that can be seen somewhere, the others summed as "other" (one alone keeps its name)."""
    widest = np.max(sum(parts.values())) if parts else 0
    small = [part for part, values in parts.items() if np.max(values) < SMALL * widest or not np.any(values)]
    if len(small) < 2:
        return dict(parts)
    small = [part for part in parts if part in (*small, "other")]
    large = {part: values for part, values in parts.items() if part not in small}
    return large | {"other": sum(parts[part] for part in small)}


# --- Shapes -----------------------------------------------------------------------------------------------------------


def bars(ax: Any, labels: list, parts: dict, axis_label: str, places: dict, notes: dict | None = None) -> None:
    """Horizontal stacked bars with their totals at the end, and capacities as upright lines."""
    ends = np.zeros(len(labels))
    for part, widths in merge_small(parts).items():
        ax.barh(range(len(labels)), widths, left=ends, height=0.66, label=part, **look(part))
        ends = ends + widths
    for part, values in parts.items():
        axes.keep(ax, part, labels, values)
    reach = max([*ends, *places.values()])
    axes.row_axis(ax, labels, reach, axis_label)
    ax.dsmem_limits |= places
    limits.uprights(ax, {text.replace("\n", " "): x for text, x in places.items()}, None, limits.CAPACITY)
    for row, (label, end) in enumerate(zip(labels, ends, strict=True)):
        end_label(ax, end, row, axes.in_unit(int(end), reach) + (notes or {}).get(label, ""))


def areas(ax: Any, x: np.ndarray, parts: dict, **how: Any) -> float:
    """Stacked areas; returns the height of the highest point."""
    base = np.zeros(len(x))
    for part, values in merge_small(parts).items():
        ax.fill_between(x, base, base + values, label=part, **look(part) | how)
        base = base + values
    for part, values in parts.items():
        axes.keep(ax, part, x, values)
    if len(x) > 1:
        ax.set_xlim(x[0], x[-1])
    return max(base)


def line(ax: Any, name: str, x: Any, values: Any, **how: Any) -> None:
    """A curve or a row of markers, with its numbers booked."""
    ax.plot(x, values, label=name, **how)
    axes.keep(ax, name, x, values)


def boxes(left: np.ndarray, right: np.ndarray, rows: np.ndarray) -> Path:
    """A path of boxes, one on each of `rows`; the last corner of each stands for the way back to the first."""
    x = np.stack([left, left, right, right, left], axis=1)
    y = rows[:, None] + np.array([-0.36, 0.36, 0.36, -0.36, -0.36])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(np.stack([x, y], axis=2).reshape(-1, 2), codes * len(rows))


def end_label(ax: Any, end: float, row: float, text: str) -> Any:
    """The number at the end of a bar; `axes.finish` sees to it that it stays on the bar's side of a capacity line."""
    note = ax.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", **axes.SMALL_TEXT)
    ax.dsmem_ends.append(note)
    return note
