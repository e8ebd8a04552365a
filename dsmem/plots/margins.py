"""Answers of `fit` beside each other: what each needs, part by part, in shares of its own device's memory."""

import textwrap
from collections.abc import Mapping
from typing import Any

from dsmem.plots import axes
from dsmem.plots.families import FAMILIES, TRAINING, by_family, look
from dsmem.plots.style import INK
from dsmem.units import format_bytes

BESIDE = "beside_tensors"  # context, workspaces and segments, at their most


def plot_margins(answers: Mapping[str, Any], *, ax: Any = None, title: str | None = None) -> Any:
    """One stacked bar for each answer, in % of its device's usable memory, and the margin in bytes; returns the Axes.

    answers: {label: `Fit`}, whatever the devices; of several, the fullest is drawn. The dashed line is a full device.
    What lies beside the tensors is drawn at its most. title: defaults to how many fit. `ax.dsmem_data` holds (part,
    label, bytes). Raises ValueError for no answers.

    >>> from matplotlib.figure import Figure
    >>> from dsmem.footprint.fit.verdict import fit
    >>> answers = {"7B on a T4": fit("deepseek-r1-distill-qwen-7b", gpu="T4", weights="int8")}
    >>> plot_margins(answers, ax=Figure().subplots()).get_title(loc="left")
    '1 of 1 fits'
    """
    if not isinstance(answers, Mapping) or not answers:
        raise ValueError(
            f"answers is {type(answers).__name__} {str(answers)[:40]!r}; it must be {{label: Fit}} of at least one"
        )
    with axes.drawing(ax, title or _found(answers), height=1.8 + 0.5 * len(answers)) as ax:
        reach = _bars(ax, answers)
        for row, answer in enumerate(answers.values()):
            words = f"{format_bytes(abs(answer.spare_bytes))} {'spare' if answer.fits else 'missing'}"
            ax.annotate(
                words, (max(100, reach), row), (6, 0), textcoords="offset points", va="center", fontsize="small"
            )
        ax.axvline(100, color=INK, linestyle=(0, (6, 3)), linewidth=1.1, label="all that one device has")
        ax.dsmem_limits |= {"all that one device has": 100}
        ax.set_yticks(range(len(answers)), [textwrap.fill(str(label), 24) for label in answers])
        ax.tick_params(axis="y", length=0)
        ax.set(ylim=(len(answers) - 0.5, -0.5), xlim=(0, 1.25 * max(100, reach)))
        ax.set_xlabel("needed (% of the usable memory of one device)")
        ax.grid(axis="x", **axes.GRID)
    return ax


def _bars(ax, answers):
    """The parts of all bars, one family after the other; returns where the longest ends."""
    parts = {label: _families(answer) for label, answer in answers.items()}
    names = dict.fromkeys(name for found in parts.values() for name, nbytes in found.items() if nbytes)
    usable = [answer.usable_bytes for answer in answers.values()]
    ends = [0.0] * len(answers)
    for name in sorted(names, key=[*dict.fromkeys([*TRAINING, *FAMILIES]), BESIDE].index):
        sizes = [found.get(name, 0) for found in parts.values()]
        widths = [100 * nbytes / whole for nbytes, whole in zip(sizes, usable, strict=True)]
        label = name.replace("_", " ")
        ax.barh(range(len(answers)), widths, left=ends, height=0.66, label=label, **look(name))
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
        axes.keep(ax, name, list(answers), sizes)
    return max(ends)


def _families(answer):
    families = TRAINING if answer.asked.training else FAMILIES
    beside = sum(most for _, most in answer.overhead.values())
    return by_family(answer.parts, families) | {BESIDE: beside}


def _found(answers):
    fitting = sum(answer.fits for answer in answers.values())
    return f"{fitting} of {len(answers)} {'fits' if fitting == 1 else 'fit'}"
