"""Claims by their verdicts, and levers by what they save."""

from collections.abc import Mapping
from typing import Any

from dsmem.footprint.fit.levers import KINDS
from dsmem.plots import axes
from dsmem.plots.style import INK
from dsmem.units import format_bytes

_FACES = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#b9ac70", "#e76300")
_HATCHES = ("///", "...", "\\\\\\", "xxx", "---", "|||", "ooo")


def plot_verdicts(verdicts: Mapping[str, str], *, ax: Any = None, title: str | None = None) -> Any:
    """A row for each verdict, and in it the claims that have it, each as its letter in a box; returns the Axes.

    verdicts: {letter: verdict}. title: defaults to how many have the first one. Raises ValueError for none.
    """
    if not verdicts:
        raise ValueError("verdicts is empty; it must hold a verdict for each claim")
    kinds = list(dict.fromkeys(verdicts.values()))
    kinds.sort(key=lambda kind: -sum(kind == other for other in verdicts.values()))
    rows = {kind: [letter for letter, other in verdicts.items() if other == kind] for kind in kinds}
    counts = ", ".join(f"{len(rows[kind])} {kind.replace('holds', 'hold')}" for kind in kinds)
    with axes.drawing(ax, title or f"Of {len(verdicts)} claims {counts}", height=1.2 + 0.6 * len(kinds)) as ax:
        for row, (kind, letters) in enumerate(rows.items()):
            face = _FACES[row % len(_FACES)]
            for place, letter in enumerate(letters):
                box = {"boxstyle": "square,pad=0.35", "facecolor": "white", "edgecolor": face, "linewidth": 2.2}
                ax.text(place + 0.5, row, f"{letter:^2}", ha="center", va="center", family="monospace", bbox=box)
            ax.dsmem_data += [(kind, letter, 1) for letter in letters]
        ax.dsmem_unit = "claims"
        ax.set_yticks(range(len(rows)), [f"{kind}\n{len(letters)}" for kind, letters in rows.items()])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlim(0, max(map(len, rows.values())))
        ax.set_xticks([])
        ax.set_xlabel("claims, each by its letter")
        ax.spines["bottom"].set_visible(False)
    return ax


def plot_levers(levers: Any, *, top: int = 8, ax: Any = None, title: str | None = None) -> Any:
    """A bar for each lever: what it saves of the peak, in %, with the bytes beside it; returns the Axes.

    levers: the table that `dsmem.levers` gives. top: bars at most. title: defaults to the largest one. The kind of a
    lever is its colour and hatch. Raises ValueError for a table without a row.
    """
    rows = list(levers)[:top]
    if not rows:
        raise ValueError("levers has no row: nothing here saves anything")
    kinds = list(dict.fromkeys(kind for _, kind, *_ in rows))
    found = title or f"{rows[0][0]} saves most: {rows[0][4]:.0%}"
    with axes.drawing(ax, found, height=1.6 + 0.42 * len(rows)) as ax:
        for kind in kinds:
            number = KINDS.index(kind)  # one look for a kind in every picture
            mine = [(place, row) for place, row in enumerate(rows) if row[1] == kind]
            shares = [100 * row[4] for _, row in mine]
            look = {"facecolor": _FACES[number % len(_FACES)], "hatch": _HATCHES[number % len(_HATCHES)]}
            ax.barh([place for place, _ in mine], shares, height=0.66, edgecolor=INK, linewidth=0.5, label=kind, **look)
            ax.dsmem_data += [(kind, row[0], row[3]) for _, row in mine]
        for place, (_, _, _, saved, share) in enumerate(rows):
            ax.annotate(format_bytes(saved), (100 * share, place), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(rows)), [row[0] for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlim(0, 122 * max(row[4] for row in rows))
        ax.set_xlabel("saved of the peak (%)")
        ax.grid(axis="x", **axes.GRID)
    return ax
