"""Weights part by part in any format, and their pictures: one model's bars under sliders, many models on a log axis.

Unlike `footprint.weight_bytes`, which knows the formats that run here, this one knows every format of `schemes`, and
says where the bytes are. A model's parts are called as `looks` calls them, so that each has its colour.
"""

import math
from typing import Any

import numpy as np
from matplotlib import rcParams, ticker
from matplotlib.axes import Axes

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import capacities
from dsmem.config.schemes import SCHEMES
from dsmem.footprint.stored import KEPT, PARTS, weight_parts
from dsmem.plots import axes
from dsmem.plots import style as looks
from dsmem.units import format_bytes

# --- Many models ------------------------------------------------------------------------------------------------------


def plot_models(
    formats: dict[str, dict[str, int]], *, capacity: Any = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """One row for each model, one marker for each format, on a logarithmic byte axis; returns the Axes.

    formats: {format: {model: bytes}}. capacity: GPUs in any form that `config.hardware.capacities` takes, dashed lines
    named above the Axes.
    """
    capacity = capacities(capacity)
    models = list(dict.fromkeys(model for found in formats.values() for model in found))
    with axes.drawing(ax, title, height=1.7 + 0.42 * len(models)) as ax:
        for number, (name, found) in enumerate(formats.items()):
            rows = [models.index(model) for model in found]
            style = {"marker": looks.MARKERS[number % 6], "markersize": 7, "markeredgecolor": looks.INK}
            color = rcParams["axes.prop_cycle"].by_key()["color"][number % 10]
            ax.plot(list(found.values()), rows, linestyle="none", label=name, color=color, zorder=3, **style)
            axes.keep(ax, name, list(found), np.array(list(found.values())))
        ax.set_yticks(range(len(models)), models)
        ax.set_ylim(len(models) - 0.5, -0.5)
        everything = [*(n for found in formats.values() for n in found.values()), *capacity.values()]
        _log_bytes(ax, min(everything), max(everything))
        limits = {f"{label} {format_bytes(nbytes)}": nbytes for label, nbytes in capacity.items()}
        axes.uprights(ax, limits, "right", axes.CAPACITY)
    return ax


def plot_weights_and_cache(
    models: dict[str, tuple[int, int]], *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Each model as a point: bytes of its weights to the right, bytes of KV cache per token upwards, both logarithmic.

    models: {name: (weight bytes, cache bytes per token)}. Returns the Axes.
    """
    with axes.drawing(ax, title, height=4.4) as ax:
        for name, (weights, cache) in models.items():
            ax.plot(weights, cache, "o", color=looks.LOOKS["kv_cache"][0], markeredgecolor=looks.INK, markersize=8)
            left = weights > 2**39  # there is no room to the right
            move, side = ((-8, 0), "right") if left else ((8, 0), "left")
            ax.annotate(
                name, (weights, cache), move, textcoords="offset points", ha=side, va="center", fontsize="small"
            )
            ax.dsmem_data += [("weights", name, weights), ("cache per token", name, cache)]
        _log_bytes(ax, 2**30, 2**41)
        ax.set_xlabel("weights")
        ax.set_yscale("log", base=2)
        ax.set_yticks([2.0**k for k in range(14, 23, 2)], [_round(2**k) for k in range(14, 23, 2)])
        ax.set(ylim=(2**14, 2**22), ylabel="KV cache of one token")
        ax.minorticks_off()
        ax.grid(**axes.GRID)
    return ax


def _log_bytes(ax, low, high):
    """Bytes to the right, a tick at every fourth factor of two, room on both sides."""
    ax.set_xscale("log", base=2)
    first, last = math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 1
    ticks = [k for k in range(first, last + 1) if k % 2 == 0]
    ax.set_xticks([2.0**k for k in ticks], [_round(2**k) for k in ticks])
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set(xlim=(2.0**first, 2.0**last), xlabel="weights (each step is four times as much)")
    ax.grid(axis="x", **axes.GRID)


def _round(nbytes):
    return format_bytes(nbytes).replace(".00", "")


# --- One model under sliders ------------------------------------------------------------------------------------------


def plot_weights(
    arch: Any, *, weights: str = "int8", kept: str = "head", capacity: Any = None, ax: Axes | None = None
) -> Axes:
    """Two bars, BF16 and a format of your choice, part by part; returns the Axes.

    arch: whatever `Architecture.of` takes. kept: one of `footprint.stored.KEPT`. capacity: one GPU, in any form that
    `config.hardware.capacities` takes, a dashed line.
    """
    picture = WeightsPicture(ax)
    picture(Architecture.of(arch), weights, kept, axes.limit_of(capacity))
    return picture.ax


class WeightsPicture:
    """The picture of `plot_weights`: draws on `ax` (None: a new figure); call it to move what it drew."""

    def __init__(self, ax=None):
        with axes.drawing(ax, None, height=3.2) as self.ax:
            ax = self.ax
            self.title = ax.set_title("Weights", loc="left")
            self.bars = {part: ax.barh((0, 1), (0, 0), height=0.6, label=part, **looks.look(part)) for part in PARTS}
            self.ends = [ax.text(0, row, "", va="center", fontsize="small") for row in (0, 1)]
            self.limit = ax.axvline(0, **axes.CAPACITY)
            self.limit_name = ax.text(0, 1.02, "", transform=ax.get_xaxis_transform(), fontsize="small")
            ax.dsmem_rows_above = 1  # for that name
            ax.set_ylim(1.5, -0.5)
            ax.text(-0.02, 0.5, "nf4_double", transform=ax.transAxes, ha="right", alpha=0)  # room for the longest name
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="x", **axes.GRID)
            self._reach(2**34)
        ax.get_legend().set_zorder(0)  # it lies beside the Axes: an explorer need not draw it with all that moves

    def __call__(self, arch, weights, kept, capacity=None):
        """Show `weight_parts`; capacity: None or (label, bytes). Returns in words what there is to see."""
        bars = [weight_parts(arch, each, modules_to_not_convert=KEPT[kept]) for each in ("bf16", weights)]
        totals = [sum(parts.values()) for parts in bars]
        self._reach(1.2 * max([*totals, capacity[1] if capacity else 0]))
        self.ax.set_yticks((0, 1), ("bf16", weights))
        self.ax.dsmem_data = []
        for row, (label, parts) in enumerate(zip(("bf16", weights), bars, strict=True)):
            self._stack(row, parts)
            self.ends[row].set(x=totals[row], text=f" {format_bytes(totals[row])}")
            self.ax.dsmem_data += [(part, label, nbytes) for part, nbytes in parts.items()]
        for artist in (self.limit, self.limit_name):
            artist.set_visible(capacity is not None)
        if capacity:
            self._mark(*capacity)
        self.title.set_text(f"{format_bytes(totals[1])}, {totals[1] / totals[0]:.1%} of BF16")
        return _sentence(arch, weights, kept, bars[1], capacity)

    def _stack(self, row, parts):
        start = 0
        for part, pair in self.bars.items():
            width = parts.get(part, 0)
            pair[row].set(x=start, width=width, visible=width > 0)
            start += width

    def _reach(self, needed):
        """The limit is a power of two, so that it seldom changes."""
        reach = 2 ** math.ceil(math.log2(needed))
        self.ax.set_xlim(0, reach)
        axes.byte_axis(self.ax.xaxis, reach, "weights")

    def _mark(self, label, nbytes):
        self.limit.set_xdata([nbytes, nbytes])
        side = "right" if nbytes > self.ax.get_xlim()[1] / 2 else "left"
        self.limit_name.set(x=nbytes, text=f"{label} {format_bytes(nbytes)}", ha=side)


def _sentence(arch, weights, kept, parts, capacity):
    total = sum(parts.values())
    tied = ", its head is the embedding and stays" if arch.tie_word_embeddings and "lm_head" not in KEPT[kept] else ""
    stays = f", {kept} in 16 bit{tied}" if weights in SCHEMES else ""
    card = f" {total / capacity[1]:,.0%} of the memory of {capacity[0]}." if capacity else ""
    return f"{arch.name} in {weights}{stays}: {total:,} bytes, {8 * total / arch.n_params:.2f} bits a parameter.{card}"
