"""The two pictures that the sliders move, drawn from the formulas: a pass instant by instant, and its peak by length.

`plot_footprint` and `plot_lengths` draw once and return the Axes. `FootprintPicture` and `LengthsPicture` stay and are
called again to move what they drew. Parts are summed by `FAMILIES`, so that colours and legend never change.
"""

import dataclasses
import functools
import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch

from dsmem.config.architecture import Architecture
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.plots import axes
from dsmem.plots import style as looks
from dsmem.units import format_bytes

WORKLOAD_FIELDS = tuple(field.name for field in dataclasses.fields(Workload))

FAMILIES = {  # family: (how its parts' names begin, the part whose look it has); the first that fits counts
    "weights": (("weights", "weight_scales"), "weights"),
    "KV cache": (("kv_cache", "latent_cache", "cache_", "slot_mapping"), "kv_cache"),
    "residual stream": (("residual", "normed"), "residual"),
    "attention": (
        ("query", "key", "value", "kv_expanded", "latent", "scores", "attention", "logsumexp", "causal_mask")
        + ("inverse_rms", "rows_", "row_", "scales_gathered", "converted"),
        "scores",
    ),
    "MLP": (("gate", "up", "mlp", "expert", "shared", "rout"), "gated"),
    "working copies": (("weight_copy", "weight_unpacked", "input_", "int32", "float32"), "temporary"),
    "logits": (("logits",), "logits"),
    "other": (("",), "buffers"),
}
DASHES = (*looks.LINESTYLES, (0, (9, 2, 1, 2)), (0, (1, 3)))
LENGTHS = np.unique(np.round(2 ** np.arange(7, 17.01, 0.25)).astype(np.int64))


def plot_footprint(arch: Any, *, capacity: Any = None, ax: Axes | None = None, **workload: Any) -> Axes:
    """One stacked bar for each instant of a pass; the peak is the longest. Returns the Axes.

    arch: whatever `Architecture.of` takes. workload: the fields of `Workload`. capacity: one GPU, in any form that
    `config.hardware.capacities` takes, a dashed line.
    An INT8 layer's two instants share a row, which shows the larger.
    """
    picture = FootprintPicture(ax)
    picture(Architecture.of(arch), axes.limit_of(capacity), workload)
    return picture.ax


def plot_lengths(arch: Any, *, capacity: Any = None, ax: Axes | None = None, **workload: Any) -> Axes:
    """The peak and its parts against the sequence length, 128 to 131,072 tokens; returns the Axes.

    Both axes are logarithmic: a constant is flat, and what grows with the length's square is twice as steep as what
    grows with the length. A part that is not alive at the peak has no line there. seq_len is marked.
    Arguments as in `plot_footprint`.
    """
    picture = LengthsPicture(ax)
    picture(Architecture.of(arch), axes.limit_of(capacity), {"seq_len": 1024} | workload)
    return picture.ax


def by_family(parts):
    """{family: bytes} of all `FAMILIES`, from {part: bytes}.

    >>> {family: nbytes for family, nbytes in by_family({"gate": 3, "up": 4, "logits": 5}).items() if nbytes}
    {'MLP': 7, 'logits': 5}
    """
    sums = dict.fromkeys(FAMILIES, 0)
    for part, nbytes in parts.items():
        sums[_family(part)] = sums[_family(part)] + nbytes
    return sums


def _look(family):
    return looks.look(FAMILIES[family][1])


@functools.cache
def _family(part):
    return next(family for family, (begins, _) in FAMILIES.items() if part.startswith(begins))


class _Picture:
    """Draws on `ax` (None: a new figure through pyplot); call it to move what it drew."""

    def __init__(self, ax=None):
        with axes.drawing(ax, None, height=4.6) as self.ax:
            self.title = self.ax.set_title("Peak", loc="left")
            self._draw(self.ax)
        self.ax.get_legend().set_zorder(0)  # it lies beside the Axes: an explorer need not draw it with all that moves

    def __call__(self, arch, capacity, workload):
        """Show `Workload(**workload)`; capacity: None or (label, bytes). Returns in words what there is to see."""
        work = Workload(**workload)
        fp = inference_footprint(arch, work)
        fits = f", {'fits' if fp.total_bytes <= capacity[1] else 'does not fit'} {capacity[0]}" if capacity else ""
        self.title.set_text(f"Peak {format_bytes(fp.total_bytes)} at {fp.peak_instant}{fits}")
        for artist in (self.limit, self.limit_name):
            artist.set_visible(capacity is not None)
        self._move(fp, capacity, arch, workload)
        return _sentence(arch, work, fp)


class FootprintPicture(_Picture):
    """The picture of `plot_footprint`."""

    def _draw(self, ax):
        self.bars = [_bar(ax, family) for family in FAMILIES]
        self.peak = ax.text(1.02, 0, "", transform=ax.get_yaxis_transform(), va="center", fontweight="bold")
        self.limit = ax.axvline(0, **axes.CAPACITY)
        self.limit_name = ax.text(0, 1.02, "", transform=ax.get_xaxis_transform(), fontsize="small")
        ax.dsmem_rows_above = 1  # for that name
        _room(ax, 1.02, "← 8,888.88 GiB", "left", fontweight="bold")
        _room(ax, -0.02, "queries_by_head", "right")
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", **axes.GRID)
        self.rows = self.reach = None
        self._frame(["lm_head"], 1)

    def _move(self, fp, capacity, arch, workload):
        rows = {row: by_family(fp.instants[instant]) for row, instant in _rows(fp).items()}
        self._frame(list(rows), max(fp.total_bytes, capacity[1] if capacity else 0))
        self._stack(np.array([list(families.values()) for families in rows.values()], dtype=float))
        self.peak.set(text=f"← {format_bytes(fp.total_bytes)}", y=self.rows.index(fp.peak_instant.split()[0]))
        self.ax.dsmem_data = [(family, row, n) for row, families in rows.items() for family, n in families.items() if n]
        if capacity:
            label, nbytes = capacity
            self.limit.set_xdata([nbytes, nbytes])
            align = "right" if nbytes > self.reach / 2 else "left"
            self.limit_name.set(x=nbytes, text=f"{label} {format_bytes(nbytes)}", ha=align)

    def _frame(self, rows, needed):
        """Rows and x limits; the limit is a power of four, so that it seldom changes while bars grow."""
        reach = 4 ** math.ceil((int(needed) - 1).bit_length() / 2)
        if rows != self.rows:
            self.rows = rows
            self.ax.set_yticks(range(len(rows)), rows)
            self.ax.set_ylim(len(rows) - 0.5, -0.5)
        if reach != self.reach:
            self.reach = reach
            self.ax.set_xlim(0, reach)
            axes.byte_axis(self.ax.xaxis, reach, "memory")

    def _stack(self, widths):
        """widths: bytes by row and family."""
        ends = widths.cumsum(axis=1)
        for bar, end, width in zip(self.bars, ends.T, widths.T, strict=True):
            seen = np.flatnonzero(width > self.reach / 1000)  # less than a pixel would only show its outline
            bar.set_path(axes.boxes((end - width)[seen], end[seen], seen))


class LengthsPicture(_Picture):
    """The picture of `plot_lengths`."""

    def _draw(self, ax):
        self.lines = [_curve(ax, *pair) for pair in zip(FAMILIES, DASHES, strict=True)]
        self.total = ax.plot([], [], color=looks.INK, linewidth=2.4, label="total")[0]
        self.at = ax.axvline(LENGTHS[0], **axes.MOMENT)
        self.dots = ax.plot([], [], "o", color=looks.INK, markersize=4.5, markeredgecolor="white")[0]
        self.limit = ax.axhline(1, **axes.CAPACITY)
        beside = ax.get_yaxis_transform()
        self.limit_name = ax.text(1.01, 1, "", transform=beside, va="center", fontsize="small")
        _room(ax, 1.01, "RTX PRO 6000", "left", fontsize="small")
        _log_axes(ax)

    def _move(self, fp, capacity, arch, workload):
        lengths = LENGTHS[LENGTHS <= (arch.sliding_window or LENGTHS[-1])]
        curve = inference_footprint(arch, Workload(**workload | {"seq_len": lengths}))
        families = {name: np.broadcast_to(nbytes, lengths.shape) for name, nbytes in by_family(curve.parts).items()}
        breaks = (
            np.flatnonzero(curve.peak_instant[1:] != curve.peak_instant[:-1]) + 1
        )  # another instant wins from here on
        for line, nbytes in zip(self.lines, families.values(), strict=True):
            heights = np.where(nbytes > 0, nbytes, np.nan)
            line.set_data(np.insert(lengths, breaks, lengths[breaks]), np.insert(heights, breaks, np.nan))
        self.total.set_data(lengths, curve.total_bytes)
        power = 44 if curve.total_bytes.max() <= 2**44 else 52
        if self.ax.get_ylim()[1] != 2**power:
            _byte_scale(self.ax, power)
        self._mark(workload["seq_len"], [*by_family(fp.parts).values(), fp.total_bytes])
        self._book(lengths, families | {"total": curve.total_bytes})
        if capacity:
            label, nbytes = capacity
            self.limit.set_ydata([nbytes, nbytes])
            self.limit_name.set(y=nbytes, text=f"{textwrap.fill(label, 12)}\n{format_bytes(nbytes)}")

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
    return ax.add_patch(PathPatch(axes.boxes(np.zeros(0), np.zeros(0), np.zeros(0)), label=family, **_look(family)))


def _curve(ax, family, dashes):
    return ax.plot([], [], color=_look(family)["facecolor"], linestyle=dashes, label=family)[0]


def _room(ax, x, text, align, **font):
    """Keeps room beside the Axes for the longest text to come: it is laid out, but cannot be seen."""
    ax.text(x, 0.5, text, transform=ax.transAxes, ha=align, alpha=0, zorder=0, **font)


def _log_axes(ax):
    """Tokens from 128 to 131,072, always the same, and bytes from 16 MiB to 16 TiB."""
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


def _sentence(arch, work, fp):
    """What the picture shows, for those who cannot see it or want to quote it."""
    families = sorted(by_family(fp.parts).items(), key=lambda pair: -pair[1])
    shares = ", ".join(f"{family} {n / fp.total_bytes:.1%}" for family, n in families if n >= 0.001 * fp.total_bytes)
    return (
        f"{arch.name}, {work.phase} of {work.batch:,} × {work.seq_len:,} tokens, {work.weights}, {work.attention} "
        f"attention, {work.logits} logits: {fp.total_bytes:,} bytes at {fp.peak_instant} ({shares})."
    )
