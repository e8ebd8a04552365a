"""Pictures of the KV cache: what a model caches against what other kinds of attention would, and times by length.

`plot_cache` draws once and returns the Axes; `explore_cache` puts the same picture under sliders. `plot_seconds` draws
times, as the other plots draw bytes.
"""

import numpy as np

from dsmem import formulas, looks, plots
from dsmem.units import dtype_bits, format_bytes

FORMATS = ("bf16", "fp8", "int8", "fp32")
LONGEST_NAME = "as built: 128 KV heads "


def cache_bytes(rows, layers, batch, seq_len, kv_cache):
    """(rows, scales) in bytes of a cache of `rows`, {name: (heads, width)} as from `Architecture.cache_rows`.

    >>> cache_bytes({"latents": (1, 576)}, 61, 1, 1, "bf16")
    (70272, 0)
    """
    bits = dtype_bits(kv_cache, "kv_cache")
    stored = [formulas.cache_rows_bytes(batch, seq_len, *shape, bits) for shape in rows.values()]
    scales = [formulas.cache_scales_bytes(batch, seq_len, heads) for heads, _ in rows.values()]
    return layers * sum(stored), layers * sum(scales) * (kv_cache == "int8")


def cache_kinds(arch, num_key_value_heads, mla_cache="latent"):
    """What `arch` caches of a token in a layer, beside three others of its shape: {name: {rows: (heads, width)}}.

    num_key_value_heads: of the grouped attention (GQA); more than the model has heads count as all.
    """
    heads, width = arch.num_attention_heads, arch.value_head_dim
    grouped = min(num_key_value_heads, heads)
    built = f"as built: MLA, {mla_cache}" if arch.latent else f"as built: {arch.num_key_value_heads} KV heads"
    kinds = {f"MHA: all {heads} heads": heads, f"GQA: {grouped} KV heads": grouped, "MQA: one KV head": 1}
    others = {name: {"keys": (count, width), "values": (count, width)} for name, count in kinds.items()}
    return {built: arch.cache_rows(mla_cache)} | others


def plot_cache(arch, *, batch=1, seq_len=4096, num_key_value_heads=8, kv_cache="bf16", mla_cache="latent", ax=None):
    """One bar for the cache of `arch`, and one each for MHA, GQA and MQA with its heads and layers; returns the Axes.

    kv_cache: a format of `FORMATS`; "int8" has scales. mla_cache: "latent" or "expanded".
    """
    picture = CachePicture(ax)
    picture(arch, batch, seq_len, num_key_value_heads, kv_cache, mla_cache)
    return picture.ax


class CachePicture:
    """The picture of `plot_cache`; call it to move its bars."""

    def __init__(self, ax=None):
        with plots.drawing(ax, None, height=3.4) as self.ax:
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
            self.ax.grid(axis="x", **plots.GRID)
            plots.byte_axis(self.ax.xaxis, 2**30, "KV cache")
        self.reach = self.names = None

    def __call__(self, arch, batch, seq_len, num_key_value_heads, kv_cache, mla_cache):
        """Show these bars; returns in words what there is to see."""
        kinds = cache_kinds(arch, num_key_value_heads, mla_cache)
        pairs = [cache_bytes(rows, arch.num_hidden_layers, batch, seq_len, kv_cache) for rows in kinds.values()]
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
        power = 2 ** (int(1.2 * needed) - 1).bit_length()
        reach = power * 3 // 4 if 1.2 * needed <= power * 3 / 4 else power
        if names != self.names:
            self.names = names
            self.ax.set_yticks(range(4), names)
        if reach != self.reach:
            self.reach = reach
            self.ax.set_xlim(0, reach)
            plots.byte_axis(self.ax.xaxis, reach, "KV cache")


def explore_cache(archs, **controls):
    """`plot_cache` under sliders, for a list of `Architecture`s; `controls` as in `widgets.explore` replace these."""
    from dsmem.widgets import explore  # not above: it loads ipywidgets

    models = {arch.name: arch for arch in archs}
    specs = {
        "model": list(models),
        "batch": (1, 256, 1),
        "seq_len": (128, 131_072, 4096),
        "num_key_value_heads": [8, 1, 2, 4, 16, 32, 64, 128],
        "kv_cache": list(FORMATS),
        "mla_cache": ["latent", "expanded"],
    }

    def draw(ax, **values):
        picture = CachePicture(ax)

        def update(model, **values):
            return picture(models[model], **values)

        update(**values)
        return update

    return explore(draw, figsize=(7.5, 3.6), **specs | controls)


def growth(arch, lengths, room, kv_cache="bf16", block_size=16):
    """Bytes of one sequence's cache at `lengths` tokens, an array: {layout: array}, as `plots.plot_curves` takes it.

    "growing, while copied": the worst moment of a step, in the last layer, with one tensor's old rows beside its new.
    room: tokens that the static cache is made for; block_size: tokens of a page.
    """
    rows, layers = arch.cache_rows(), arch.num_hidden_layers
    sizes = [size for kind in rows.items() for size in cache_bytes(dict([kind]), 1, 1, 1, kv_cache)]
    token = layers * sum(sizes)
    # tensors are joined one after the other, so those still to come lack the new token's row
    beside = [(lengths - 1) * size - sum(sizes[index + 1 :]) for index, size in enumerate(sizes)]
    return {
        "static": np.full(len(lengths), room * token),
        "growing": lengths * token,
        "growing, while copied": lengths * token + np.max(beside, axis=0),
        "paged, pages in use": formulas.paged_tokens(lengths, block_size) * token,
    }


def plot_seconds(x, curves, *, xlabel, measured=None, ax=None, title=None):
    """Times as lines, {label: seconds, an array like x}, both axes logarithmic; measured: {label: (x, seconds)}.

    A measurement takes the colour of the curve of its name.
    """
    x, order = np.asarray(x), list(dict.fromkeys([*curves, *(measured or {})]))
    with plots.drawing(ax, title) as ax:
        for name, seconds in curves.items():
            seconds = np.broadcast_to(seconds, x.shape)
            style = looks.LINESTYLES[order.index(name) % len(looks.LINESTYLES)]
            ax.plot(x, seconds, label=name, color=f"C{order.index(name)}", linestyle=style)
            plots.keep(ax, name, x, seconds)
        for name, (at, seconds) in (measured or {}).items():
            look = {"color": f"C{order.index(name)}", "markeredgecolor": looks.INK, "zorder": 3}
            ax.plot(at, seconds, looks.MARKERS[order.index(name) % 6], label=f"{name}, measured", **look)
            plots.keep(ax, f"{name}, measured", np.atleast_1d(at), np.atleast_1d(seconds))
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.xaxis.set_major_formatter("{x:,.10g}")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set(xlabel=xlabel, ylabel="seconds")
        ax.grid(**plots.GRID)
    return ax


def plot_rises(curves, *, xlabel, marks=None, ax=None, title=None):
    """What a smaller cache costs, in % of perplexity: {label: (tokens kept, %)} as lines; marks: {label: tokens}."""
    with plots.drawing(ax, title) as ax:
        for number, (name, (kept, rises)) in enumerate(curves.items()):
            look = {"color": f"C{number}", "marker": looks.MARKERS[number], "markeredgecolor": looks.INK}
            ax.plot(kept, rises, label=name, **look)
            plots.keep(ax, name, kept, np.asarray(rises, dtype=float))
        for name, tokens in (marks or {}).items():
            ax.axvline(tokens, label=name, **plots.CAPACITY)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:,.10g}")
        ax.set(xlabel=xlabel, ylabel="perplexity (% more)")
        ax.grid(axis="y", **plots.GRID)
    return ax
