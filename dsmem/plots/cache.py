"""Pictures of the KV cache: what a model caches against what other kinds of attention would, and times by length.

`plot_cache` draws once and returns the Axes; `explore_cache` puts the same picture under sliders. `plot_seconds` draws
times, as the other plots draw bytes.
"""

from dsmem.config.architecture import Architecture
from dsmem.footprint.stored import cache_kinds, model_rows
from dsmem.plots import axes
from dsmem.plots import style as looks
from dsmem.units import format_bytes

FORMATS = ("bf16", "fp8", "int8", "fp32")
LONGEST_NAME = "as built: 128 KV heads "


def plot_cache(arch, *, batch=1, seq_len=4096, num_key_value_heads=8, kv_cache="bf16", mla_cache="latent", ax=None):
    """One bar for the cache of `arch`, and one each for MHA, GQA and MQA with its heads and layers; returns the Axes.

    kv_cache: a format of `FORMATS`; "int8" has scales. mla_cache: "latent" or "expanded".
    """
    picture = CachePicture(ax)
    picture(Architecture.of(arch), batch, seq_len, num_key_value_heads, kv_cache, mla_cache)
    return picture.ax


class CachePicture:
    """The picture of `plot_cache`; call it to move its bars."""

    def __init__(self, ax=None):
        with axes.drawing(ax, None, height=3.4) as self.ax:
            self.title = self.ax.set_title("Cache", loc="left")
            self.parts = {
                part: self.ax.barh(range(4), [0] * 4, height=0.62, label=part.replace("_", " "), **looks.look(part))
                for part in ("kv_cache", "cache_scales")
            }
            self.parts["cache_scales"].set_label("scales of INT8")
            self.ends = [self.ax.text(0, row, "", va="center", fontsize="small") for row in range(4)]
            self.ax.set_yticks(range(4), [""] * 4)
            # unseen, so that a layout made for one set of names has room for the longest
            self.ax.text(-0.01, 0.5, LONGEST_NAME, ha="right", alpha=0, transform=self.ax.transAxes)
            self.ax.set(xlim=(0, 1), ylim=(3.5, -0.5))
            self.ax.tick_params(axis="y", length=0)
            self.ax.grid(axis="x", **axes.GRID)
            axes.byte_axis(self.ax.xaxis, 2**30, "KV cache")
        self.reach = self.names = None

    def __call__(self, arch, batch, seq_len, num_key_value_heads, kv_cache, mla_cache):
        """Show these bars; returns in words what there is to see."""
        kinds = cache_kinds(arch, num_key_value_heads, mla_cache)
        pairs = [model_rows(rows, arch.num_hidden_layers, kv_cache, batch, seq_len) for rows in kinds.values()]
        totals = {name: sum(pair) for name, pair in zip(kinds, pairs, strict=True)}
        self._frame(list(kinds), max(totals.values()))
        for row, (stored, scales) in enumerate(pairs):
            self.parts["kv_cache"][row].set_width(stored)
            self.parts["cache_scales"][row].set(x=stored, width=scales)
            self.ends[row].set(x=stored + scales, text=f" {format_bytes(stored + scales)}")
        built, full, grouped, _ = totals.values()
        more = f"{full / built:.3g} × that" if full != built else "as much"
        self.title.set_text(f"{arch.name} caches {format_bytes(built)}; MHA {more}")
        self.ax.dsmem_data = [(name, name, nbytes) for name, nbytes in totals.items()]
        sizes = "; ".join(f"{name}, {nbytes:,} bytes" for name, nbytes in totals.items())
        return f"{batch:,} × {seq_len:,} tokens in {kv_cache}: {sizes}."

    def _frame(self, names, needed):
        """Names, and an axis that ends at one of few numbers, so that it stands still while bars grow a little."""
        reach = 4 ** (((int(1.2 * needed) - 1).bit_length() + 1) // 2)
        if names != self.names:
            self.names = names
            self.ax.set_yticks(range(4), names)
        if reach != self.reach:
            self.reach = reach
            self.ax.set_xlim(0, reach)
            axes.byte_axis(self.ax.xaxis, reach, "KV cache")
