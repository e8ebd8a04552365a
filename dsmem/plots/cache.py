"""Pictures of the KV cache: what a model caches against what other kinds of attention would.

`plot_cache` draws once and returns the Axes; `explorers` puts the same picture under sliders.
"""

from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import capacities
from dsmem.footprint.growth import cache_kinds
from dsmem.footprint.stored import rows_of
from dsmem.plots import axes, limits, shapes
from dsmem.plots.picture import Picture
from dsmem.plots.style import look
from dsmem.units import one_of

FORMATS = ("bf16", "fp8", "int8", "fp32")
LONGEST_NAME = "as built: 128 KV heads "


def plot_cache(
    arch: Any,
    *,
    batch: int = 1,
    seq_len: int = 4096,
    num_key_value_heads: int = 8,
    kv_cache: str = "bf16",
    mla_cache: str = "latent",
    capacity: Any = None,
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """One bar for the cache of `arch`, and one each for MHA, GQA and MQA with its heads and layers; returns the Axes.

    arch: whatever `Architecture.of` takes. batch, seq_len: sequences and tokens of each. num_key_value_heads: those of
    GQA. kv_cache: a format of `FORMATS`; "int8" has scales. mla_cache: "latent" or "expanded". capacity: as in
    `plot_stack`. title: defaults to the model and what it caches. Raises ValueError for an unknown format.

    >>> from matplotlib.figure import Figure
    >>> plot_cache("deepseek-r1", seq_len=1, ax=Figure().subplots()).dsmem_data[0]
    ('as built: MLA, latent', 'as built: MLA, latent', 70272)
    """
    picture = CachePicture(ax, tight=True, rows=len(capacities(capacity)))
    picture(Architecture.of(arch), batch, seq_len, num_key_value_heads, kv_cache, mla_cache, capacity)
    return picture.done(title)


class CachePicture(Picture):
    """The picture of `plot_cache`; call it to move its bars."""

    height = 3.4
    step = 4  # bars move twice before the axis does

    def _draw(self, ax):
        self.parts = {
            part: ax.barh(range(4), [0] * 4, height=0.62, label=label, **look(part))
            for part, label in {"kv_cache": "kv_cache", "cache_scales": "scales of INT8"}.items()
        }
        self.ends = [shapes.end_label(ax, 0, row, "") for row in range(4)]
        ax.set_yticks(range(4), [""] * 4)
        axes.room(ax, -0.01, LONGEST_NAME, "right")
        axes.room(ax, 1, "88", "center")  # half of the last tick's number
        ax.set(ylim=(3.5, -0.5))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", **axes.GRID)
        self.names = None
        self._stretch(2**30, "KV cache")

    def __call__(self, arch, batch, seq_len, num_key_value_heads, kv_cache, mla_cache, capacity=None):
        """Show these bars; returns in words what there is to see."""
        one_of("kv_cache", kv_cache, FORMATS, "a format of this picture")
        arch.check_positions(seq_len)
        kinds = cache_kinds(arch, num_key_value_heads, mla_cache)
        pairs = [rows_of(arch, rows, kv_cache, batch, seq_len) for rows in kinds.values()]
        totals = {name: sum(pair) for name, pair in zip(kinds, pairs, strict=True)}
        places = limits.limits_of(capacity)
        self._frame(list(kinds), 1.2 * max([*totals.values(), *places.values()]))
        for row, (stored, scales) in enumerate(pairs):
            self.parts["kv_cache"][row].set_width(stored)
            self.parts["cache_scales"][row].set(x=stored, width=scales)
            self.ends[row].xy = (stored + scales, row)
            self.ends[row].set_text(axes.in_unit(stored + scales, self.reach))
        self._show_limits(places)
        self.ax.dsmem_data = [(name, name, nbytes) for name, nbytes in totals.items()]
        built, full, *_ = totals.values()
        more = f"{full / built:.3g} × that" if full != built else "as much"
        self._say(f"{arch.name} in {kv_cache}", f"it caches {axes.in_unit(built, self.reach)}; MHA {more}")
        sizes = "; ".join(f"{name}, {nbytes:,} bytes" for name, nbytes in totals.items())
        return f"{arch.name}, {batch:,} × {seq_len:,} tokens in {kv_cache}: {sizes}."

    def _frame(self, names, needed):
        if names != self.names:
            self.names = names
            self.ax.set_yticks(range(4), names)
        self._stretch(needed, "KV cache")
