"""Pictures of stored weights: one model's parts in any format under sliders, many models on a logarithmic axis.

The bytes are those of `footprint.stored.weight_parts`, whose parts are called as `style` calls them, so that each has
its colour.
"""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib import ticker

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import capacities
from dsmem.config.schemes import SCHEMES
from dsmem.footprint.stored import KEPT, PARTS, weight_parts
from dsmem.plots import axes, limits, shapes
from dsmem.plots.picture import Picture
from dsmem.plots.style import INK, LOOKS, line_looks, look
from dsmem.units import format_bytes, one_of

# --- Many models ------------------------------------------------------------------------------------------------------


def plot_models(
    formats: Mapping[str, Mapping[str, int]], *, capacity: Any = None, ax: Any = None, title: str | None = None
) -> Any:
    """One row for each model, one marker for each format, on a logarithmic byte axis; returns the Axes.

    formats: {format: {model: bytes}}; a number format looks alike in every plot. capacity: whatever
    `config.hardware.capacities` takes, dashed lines named above the Axes. title: above the picture.
    Raises ValueError for no formats.
    """
    models = list(dict.fromkeys(model for found in formats.values() for model in found))
    if not models:
        raise ValueError(f"formats must hold the bytes of at least one model, got {formats!r}")
    places, looks = limits.limits_of(capacity), line_looks(formats)
    with axes.drawing(ax, title, height=1.7 + 0.42 * len(models)) as ax:
        for name, found in formats.items():
            rows = [models.index(model) for model in found]
            how = looks[name] | {"linestyle": "none", "markeredgecolor": INK, "markersize": 7, "zorder": 3}
            ax.plot(list(found.values()), rows, label=name, **how)
            axes.keep(ax, name, list(found), list(found.values()))
        ax.set_yticks(range(len(models)), models)
        ax.set_ylim(len(models) - 0.5, -0.5)
        everything = [*(n for found in formats.values() for n in found.values()), *places.values()]
        _log_bytes(ax, min(everything), max(everything))
        ax.dsmem_limits |= places
        limits.uprights(ax, {text.replace("\n", " "): n for text, n in places.items()}, "right", limits.CAPACITY)
    return ax


def plot_weights_and_cache(models: Mapping[str, tuple], *, ax: Any = None, title: str | None = None) -> Any:
    """Each model as a point: bytes of its weights to the right, bytes of KV cache per token upwards, both logarithmic.

    models: {name: (weight bytes, cache bytes per token)}. title: above the picture. Returns the Axes.
    Raises ValueError for no models.
    """
    if not models:
        raise ValueError(f"models must hold at least one model, got {models!r}")
    with axes.drawing(ax, title, height=4.4) as ax:
        for name, (weights, cache) in models.items():
            ax.plot(weights, cache, "o", color=LOOKS["kv_cache"][0], markeredgecolor=INK, markersize=8)
            left = 8 * weights > max(each for each, _ in models.values())  # there is no room to the right
            move, side = ((-8, 0), "right") if left else ((8, 0), "left")
            where = {"textcoords": "offset points", "ha": side, "va": "center", "fontsize": "small"}
            ax.annotate(name, (weights, cache), move, **where)
            ax.dsmem_data += [("weights", name, weights), ("cache per token", name, cache)]
        across, up = zip(*models.values(), strict=True)
        _log_bytes(ax, min(across), max(across))
        ax.set_xlabel("weights")
        ax.set_yscale("log", base=2)
        low, high = math.floor(math.log2(min(up))) - 1, math.ceil(math.log2(max(up))) + 1
        ax.set_yticks([2.0**k for k in range(low, high + 1, 2)], [_round(2**k) for k in range(low, high + 1, 2)])
        ax.set(ylim=(2.0**low, 2.0**high), ylabel="KV cache of one token")
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
    arch: Any, *, weights: str = "int8", kept: str = "head", capacity: Any = None, ax: Any = None, title: Any = None
) -> Any:
    """Two bars, BF16 and a format of your choice, part by part; returns the Axes.

    arch: whatever `Architecture.of` takes. weights: a format that `weight_parts` takes. kept: one of `KEPT`.
    capacity: as in `plot_stack`. title: defaults to the model and its bytes.
    Raises ValueError for another format, or another `kept`.
    """
    one_of("kept", kept, KEPT, "a choice of what stays in 16 bit")
    picture = WeightsPicture(ax, tight=True, rows=len(capacities(capacity)))
    picture(Architecture.of(arch), weights, kept, capacity)
    return picture.done(title)


class WeightsPicture(Picture):
    """The picture of `plot_weights`; call it to move its bars."""

    height = 3.2

    def _draw(self, ax):
        self.bars = {part: ax.barh((0, 1), (0, 0), height=0.6, label=part, **look(part)) for part in PARTS}
        self.ends = [shapes.end_label(ax, 0, row, "") for row in (0, 1)]
        ax.set_ylim(1.5, -0.5)
        axes.room(ax, -0.02, "nf4_double", "right")
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", **axes.GRID)
        self._stretch(2**34, "weights")

    def __call__(self, arch, weights, kept, capacity=None):
        """Show `weight_parts`; capacity: as in `plot_weights`. Returns in words what there is to see."""
        bars = [weight_parts(arch, each, modules_to_not_convert=KEPT[kept]) for each in ("bf16", weights)]
        totals, places = [sum(parts.values()) for parts in bars], limits.limits_of(capacity)
        self._stretch(1.2 * max([*totals, *places.values()]), "weights")
        self.ax.set_yticks((0, 1), ("bf16", weights))
        self.ax.dsmem_data = []
        for row, (label, parts) in enumerate(zip(("bf16", weights), bars, strict=True)):
            self._stack(row, parts)
            self.ends[row].xy = (totals[row], row)
            self.ends[row].set_text(axes.in_unit(totals[row], self.reach))
            self.ax.dsmem_data += [(part, label, nbytes) for part, nbytes in parts.items()]
        self._show_limits(places)
        self._say(f"{arch.name} in {weights}", f"{format_bytes(totals[1])}, {totals[1] / totals[0]:.1%} of BF16")
        return sentence_of(arch, weights, kept, bars[1], capacities(capacity))

    def _stack(self, row, parts):
        start = 0
        for part, pair in self.bars.items():
            width = parts.get(part, 0)
            pair[row].set(x=start, width=width, visible=width > 0)
            start += width


def sentence_of(arch, weights, kept, parts, capacity):
    total = sum(parts.values())
    tied = ", its head is the embedding and stays" if arch.tie_word_embeddings and "lm_head" not in KEPT[kept] else ""
    stays = f", {kept} in 16 bit{tied}" if weights in SCHEMES else ""
    shares = "".join(f" {total / usable:,.0%} of the memory of {label}." for label, usable in capacity.items())
    return (
        f"{arch.name} in {weights}{stays}: {total:,} bytes, {8 * total / arch.n_params:.2f} bits a parameter.{shares}"
    )
