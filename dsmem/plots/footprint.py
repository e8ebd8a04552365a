"""The two pictures that the sliders move, drawn from the formulas: a pass instant by instant, and its peak by length.

`plot_footprint` and `plot_lengths` draw once and return the Axes; `explorers` puts the same pictures under sliders.
Parts are summed by `families.FAMILIES`, so that colours and legend never change.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.patches import PathPatch

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import capacities
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.plots import axes, limits, shapes, sources
from dsmem.plots import style as looks
from dsmem.plots.families import FAMILIES, by_family, look
from dsmem.plots.picture import Picture
from dsmem.units import format_bytes

DASHES = (*looks.LINESTYLES, (0, (9, 2, 1, 2)), (0, (1, 3)))
LENGTHS = np.unique(np.round(2 ** np.arange(7, 17.01, 0.25)).astype(np.int64))


def plot_footprint(
    arch: Any,
    work: Workload | None = None,
    *,
    capacity: Any = None,
    overhead_bytes: int = 0,
    hide: str | Iterable[str] = (),
    ax: Any = None,
    title: str | None = None,
    **fields: Any,
) -> Any:
    """One stacked bar for each instant of a pass; the peak is the longest. Returns the Axes.

    arch: whatever `Architecture.of` takes. work: a `Workload`, or its `fields` as keywords. capacity: whatever
    `config.hardware.capacities` takes, dashed lines. overhead_bytes: what "fits" keeps free of a capacity.
    hide: families to leave out, "weights" above all, so that the rest can be seen; the axis says so.
    title: defaults to the model and its peak. An INT8 layer's two instants share a row, which shows the larger.

    >>> from matplotlib.figure import Figure
    >>> ax = plot_footprint("qwen2.5-0.5b", batch=4, capacity="T4", ax=Figure().subplots())
    >>> " ".join(ax.get_title(loc="left").split())
    'qwen2.5-0.5b in fp16: peak 2.13 GiB at lm_head, 15% of T4'
    """
    picture = FootprintPicture(ax, tight=True, rows=max(len(capacities(capacity)), 1))
    picture(Architecture.of(arch), Workload.of(work, **fields), capacity, overhead_bytes, hide)
    return picture.done(title)


def plot_lengths(
    arch: Any,
    work: Workload | None = None,
    *,
    capacity: Any = None,
    overhead_bytes: int = 0,
    ax: Any = None,
    title: str | None = None,
    **fields: Any,
) -> Any:
    """The peak and its parts against the sequence length, 128 to 131,072 tokens; returns the Axes.

    Both axes are logarithmic: a constant is flat, and what grows with the length's square is twice as steep as what
    grows with the length. A part that is not alive at the peak has no line there. seq_len is marked.
    Arguments as in `plot_footprint`.
    """
    picture = LengthsPicture(ax, tight=True)
    picture(Architecture.of(arch), Workload.of(work, **fields), capacity, overhead_bytes)
    return picture.done(title)


class FootprintPicture(Picture):
    """The picture of `plot_footprint`."""

    step = 4
    families = FAMILIES
    options = ("hide", "overhead_bytes")  # beside the workload
    longest = "queries_by_head"  # name of a row

    def _draw(self, ax):
        self.bars = [_bar(ax, family) for family in self.families]
        self.peak = ax.text(1.02, 0, "", transform=ax.get_yaxis_transform(), va="center", fontweight="bold")
        axes.room(ax, 1.02, "← 8,888.88 GiB", "left", fontweight="bold")
        axes.room(ax, -0.02, self.longest, "right")
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", **axes.GRID)
        self.rows = self.label = None
        self._stretch(1, "memory")

    def __call__(self, arch, work, capacity=None, overhead_bytes=0, hide=()):
        """Show the instants of `work` on `arch`; returns in words what there is to see."""
        fp = inference_footprint(arch, work)
        apart = sources.hidden(hide, FAMILIES)
        rows = {row: by_family(fp.instants[instant]) for row, instant in _rows(fp).items()}
        hidden = sum(by_family(fp.parts)[family] for family in apart)
        rows = {row: {f: 0 if f in apart else n for f, n in families.items()} for row, families in rows.items()}
        places = limits.limits_of(capacity, hidden)
        self._frame(list(rows), max([fp.total_bytes - hidden, *places.values()]), apart)
        self._stack(np.array([list(families.values()) for families in rows.values()], dtype=float))
        self.peak.set(y=self.rows.index(fp.peak_instant.split()[0]))
        self.peak.set_text(f"← {axes.in_unit(fp.total_bytes - hidden, self.reach)}")
        self._show_limits(places)
        self.ax.dsmem_data = [(family, row, n) for row, families in rows.items() for family, n in families.items() if n]
        self._say(*title_of(arch, work, fp, capacity))
        shown = f"; shown without {', '.join(apart)}" if apart else ""
        return sentence_of(arch, work, fp, capacity, overhead_bytes, shown)

    def _frame(self, rows, needed, apart):
        """Rows and x limits; the limit is a power of four, so that it seldom changes while bars grow."""
        if rows != self.rows:
            self.rows = rows
            self.ax.set_yticks(range(len(rows)), rows)
            self.ax.set_ylim(len(rows) - 0.5, -0.5)
        label = "memory" + (f" without {', '.join(apart)}" if apart else "")
        if label != self.label:
            self.label, self.reach = label, None  # the axis is labelled with its reach
        self._stretch(needed, label)

    def _stack(self, widths):
        """widths: bytes by row and family."""
        ends = widths.cumsum(axis=1)
        for bar, end, width in zip(self.bars, ends.T, widths.T, strict=True):
            seen = np.flatnonzero(width > self.reach / 1000)  # less than a pixel would only show its outline
            bar.set_path(shapes.boxes((end - width)[seen], end[seen], seen))


class LengthsPicture(Picture):
    """The picture of `plot_lengths`."""

    level = True
    options = ("overhead_bytes",)

    def _draw(self, ax):
        self.lines = [_curve(ax, *pair) for pair in zip(FAMILIES, DASHES, strict=True)]
        self.total = ax.plot([], [], color=looks.INK, linewidth=2.4, label="total")[0]
        self.at = ax.axvline(LENGTHS[0], **axes.MOMENT)
        self.dots = ax.plot([], [], "o", color=looks.INK, markersize=4.5, markeredgecolor="white")[0]
        axes.room(ax, 1.01, "RTX PRO 6000", "left", fontsize="small")
        _log_axes(ax)
        self.power = None

    def __call__(self, arch, work, capacity=None, overhead_bytes=0):
        """Show the peak of `work` on `arch` at every length; returns in words what there is to see."""
        lengths = LENGTHS
        fp, curve = inference_footprint(arch, work), inference_footprint(arch, work.changed(seq_len=lengths))
        families = {name: np.broadcast_to(nbytes, lengths.shape) for name, nbytes in by_family(curve.parts).items()}
        changes = curve.peak_instant[1:] != curve.peak_instant[:-1]  # another instant wins from here on
        breaks = np.flatnonzero(changes) + 1
        for line, nbytes in zip(self.lines, families.values(), strict=True):
            heights = np.where(nbytes > 0, nbytes, np.nan)
            line.set_data(np.insert(lengths, breaks, lengths[breaks]), np.insert(heights, breaks, np.nan))
        self.total.set_data(lengths, curve.total_bytes)
        places = limits.limits_of(capacity)
        self._scale(max([curve.total_bytes.max(), *places.values()]))
        self._mark(work.seq_len, [*by_family(fp.parts).values(), fp.total_bytes])
        self._show_limits(places)
        self._book(lengths, families | {"total": curve.total_bytes})
        self._say(*title_of(arch, work, fp, capacity))
        return sentence_of(arch, work, fp, capacity, overhead_bytes)

    def _scale(self, top):
        """The axis ends above what is shown, at a factor of 16 if the picture moves, so that it seldom changes."""
        power = math.ceil(math.log2(top) + 0.3) if self.tight else 4 * math.ceil((math.log2(top) + 0.3) / 4)
        if power != self.power:
            self.power = power
            _byte_scale(self.ax, power)

    def _mark(self, seq_len, heights):
        self.at.set_xdata([seq_len, seq_len])
        heights = [nbytes for nbytes in heights if nbytes]
        self.dots.set_data([seq_len] * len(heights), heights)

    def _book(self, lengths, curves):
        self.ax.dsmem_data = []
        for name, nbytes in curves.items():
            if np.any(nbytes):
                axes.keep(self.ax, name, lengths, nbytes)


def _rows(fp):
    """{row: instant}: instants of one operator ("up_proj quantize", "up_proj") share a row, which shows the largest."""
    rows = {}
    for instant, total in fp.totals.items():
        row = instant.split()[0]
        if row not in rows or total > fp.totals[rows[row]]:
            rows[row] = instant
    return rows


def _bar(ax, family):
    """All bars of a family as one patch: a hatch costs a millisecond for each patch that has it."""
    return ax.add_patch(PathPatch(shapes.boxes(np.zeros(0), np.zeros(0), np.zeros(0)), label=family, **look(family)))


def _curve(ax, family, dashes):
    return ax.plot([], [], color=look(family)["facecolor"], linestyle=dashes, label=family)[0]


def _log_axes(ax):
    """Tokens from 128 to 131,072, always the same, and bytes on a logarithmic scale."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set(xlim=(2**7, 2**17), xlabel="sequence length (tokens)", ylabel="memory at the peak")
    # a tick for every power of two, a number for every third, so that they fit a paper's column
    ax.set_xticks(2 ** np.arange(7, 18), ["" if (k - 7) % 3 else f"{2**k:,}" for k in range(7, 18)])
    _byte_scale(ax, 44)
    ax.grid(**axes.GRID)


def _byte_scale(ax, power):
    """Bytes from 16 MiB to 2**power, a number for every fourth power of two."""
    units = {20: "MiB", 30: "GiB", 40: "TiB", 50: "PiB"}
    ticks = range(24, power + 1, 4)
    ax.set_yticks([2.0**k for k in ticks], [f"{2 ** (k % 10)} {units[k // 10 * 10]}" for k in ticks])
    ax.set_ylim(2**24, 2**power)
    ax.minorticks_off()


def title_of(arch, work, fp, capacity):
    """The model, and its peak as a share of each capacity; a title promises nothing about what fits."""
    shares = "".join(f", {share(fp.total_bytes / usable)} {label}" for label, usable in capacities(capacity).items())
    return f"{arch.name} in {work.weights}", f"peak {format_bytes(fp.total_bytes)} at {fp.peak_instant}{shares}"


def share(ratio: float) -> str:
    """A share in per cent, or as a multiple where it would have more than three digits."""
    return f"{ratio:.0%} of" if ratio < 9.995 else f"{ratio:,.0f} times"


def sentence_of(arch, work, fp, capacity, overhead_bytes, shown=""):
    """What the picture shows, for those who cannot see it or want to quote it."""
    shares = shares_of(fp)
    verdict = limits.fit_words(fp.total_bytes, capacities(capacity), overhead_bytes)
    return (
        f"{arch.name}, {work.phase} of {work.batch:,} × {work.seq_len:,} tokens, {work.weights}, {work.attention} "
        f"attention, {work.logits} logits: {fp.total_bytes:,} bytes at {fp.peak_instant} ({shares})"
        f"{'; it ' if verdict else ''}{verdict}{shown}."
    )


def shares_of(fp: Any) -> str:
    """The families of parts at the peak in words, the largest first, those below a thousandth left out."""
    families = sorted(by_family(fp.parts).items(), key=lambda pair: -pair[1])
    return ", ".join(f"{family} {n / fp.total_bytes:.1%}" for family, n in families if n >= 0.001 * fp.total_bytes)
