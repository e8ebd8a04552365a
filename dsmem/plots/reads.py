"""What must be resident against what one decode step reads, part by part: `plot_reads`, and the same under sliders."""

from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import GPUS
from dsmem.config.schemes import SCHEMES
from dsmem.footprint.reads import floor_seconds, step_reads
from dsmem.footprint.stored import PARTS, weight_part, weights_by_layer
from dsmem.plots import axes, shapes
from dsmem.plots.picture import Picture
from dsmem.plots.style import look

ROWS = ("resident", "read in a step")
SHOWN = ("embed_tokens", "attention", "mlp", "experts", "shared_experts", "other", "lm_head", "kv_cache")
FORMATS = ("bf16", *(name for name in SCHEMES if name not in ("int8_w8a8", "nf4", "nf4_double")))
SPEEDS = {name: gpu.bandwidth_bytes_per_s for name, gpu in GPUS.items()}


def plot_reads(
    arch: Any,
    *,
    num_experts_per_tok: int | None = None,
    batch: int = 1,
    tokens: int = 4096,
    weights: str = "bf16",
    memory: Any = "H200",
    ax: Any = None,
    title: str | None = None,
) -> Any:
    """Two bars: all that must be resident, and what a decode step reads of it; returns the Axes.

    arch: whatever `Architecture.of` takes. num_experts_per_tok: in place of the model's own, where it has experts.
    batch: sequences. tokens: that each looks back at. weights: a format that `step_reads` takes. memory: the name of a
    GPU, or bytes a second. title: defaults to the model and the floor of a step's time.

    >>> from matplotlib.figure import Figure
    >>> ax = plot_reads("deepseek-r1", weights="fp8", ax=Figure().subplots())
    >>> round(sum(nbytes for _, row, nbytes in ax.dsmem_data if row == "read in a step") / 1e9, 1)
    38.0
    """
    picture = ReadsPicture(ax, tight=True, rows=0)
    picture(Architecture.of(arch), num_experts_per_tok, batch, tokens, weights, memory)
    return picture.done(title)


class ReadsPicture(Picture):
    """The picture of `plot_reads`; call it to move its bars."""

    height = 3.2

    def _draw(self, ax):
        assert set(SHOWN) >= set(PARTS) - {"weight_scales"}
        self.bars = {part: ax.barh((0, 1), (0, 0), height=0.6, label=part, **look(part)) for part in SHOWN}
        self.ends = [shapes.end_label(ax, 0, row, "") for row in (0, 1)]
        ax.set_yticks((0, 1), ROWS)
        ax.set_ylim(1.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", **axes.GRID)
        self._stretch(2**34, "memory")

    def __call__(self, arch, num_experts_per_tok, batch, tokens, weights, memory):
        """Show a model under a load; arguments as in `plot_reads`. Returns in words what there is to see."""
        arch = with_experts(arch, num_experts_per_tok)
        read = step_reads(arch, batch, tokens, weights)
        rows = resident(arch, batch, tokens, weights), read
        totals = [sum(parts.values()) for parts in rows]
        self._stretch(1.2 * max(totals), "memory")
        self.ax.dsmem_data = [
            (part, name, float(nbytes))
            for name, parts in zip(ROWS, rows, strict=True)
            for part, nbytes in parts.items()
        ]
        for row, parts in enumerate(rows):
            self._stack(row, parts)
            self.ends[row].xy = (totals[row], row)
            self.ends[row].set_text(axes.in_unit(int(totals[row]), self.reach))
        seconds = floor_seconds(read, SPEEDS.get(memory, memory))
        where = speed_name(memory)
        self._say(
            f"{arch.name} in {weights}, batch {batch:,}",
            f"a step reads {totals[1] / totals[0]:.1%} of what is resident, {milliseconds(seconds)} ms at {where}",
        )
        return _sentence(arch, batch, tokens, weights, totals, seconds, where)

    def _stack(self, row, parts):
        start = 0
        for part, pair in self.bars.items():
            width = float(parts.get(part, 0))
            pair[row].set(x=start, width=width, visible=width > 0)
            start += width


def resident(arch: Architecture, batch: Any, tokens: Any, weights: str) -> dict[str, Any]:
    """{part: bytes} of all weights, scales with their part, and of the cache; arguments as in `plot_reads`."""
    sums = {}
    for name, sizes in weights_by_layer(arch, weights).items():
        part = weight_part(arch, name)
        sums[part] = sums.get(part, 0) + sum(sizes)
    return sums | {"kv_cache": step_reads(_dense(arch), batch, tokens)["kv_cache"]}


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, in three figures or all before the point.

    >>> milliseconds(0.00791), milliseconds(0.0123), milliseconds(4.1941)
    ('7.91', '12.3', '4,194')
    """
    return f"{1000 * seconds:,.{2 if 1000 * seconds < 10 else 1 if 1000 * seconds < 100 else 0}f}"


def speed_name(memory: Any) -> str:
    """What a memory is called: its GPU, or its bytes a second in words."""
    return memory if isinstance(memory, str) else f"{memory / 1e9:,.4g} GB/s"


def _dense(arch):
    """The same model, whose attention reads all that it caches, so that the cache counts as it is held."""
    return arch if not arch.indexed else arch.scaled(index_topk=2**40)


def with_experts(arch: Architecture, count: int | None) -> Architecture:
    """The same model with `count` experts a token, or as many as its groups let a token reach; None: its own."""
    if not arch.n_routed_experts or count is None:
        return arch
    reach = arch.n_routed_experts // arch.n_group * min(arch.topk_group, arch.n_group)
    return arch.scaled(num_experts_per_tok=min(count, reach))


def experts_of(arch: Architecture) -> str:
    """How many experts a token has, in words; nothing for a model without."""
    return f", {arch.num_experts_per_tok} of {arch.n_routed_experts} experts a token" if arch.n_routed_experts else ""


def _sentence(arch, batch, tokens, weights, totals, seconds, where):
    return (
        f"{arch.name} in {weights}{experts_of(arch)}, {batch:,} × {tokens:,} tokens: {totals[0] / 1e9:,.1f} GB "
        f"resident, {totals[1] / 1e9:,.1f} GB read in a step, so at most {batch / seconds:,.0f} tokens a second at the "
        f"speed of {where}."
    )
