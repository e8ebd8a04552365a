"""What a rank holds at rest, beside the even share that linear scaling would leave it."""

from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import capacities
from dsmem.config.sharding import Sharding
from dsmem.config.workload import Workload
from dsmem.footprint.sharded.rest import at_rest, even_share
from dsmem.plots import limits
from dsmem.plots.footprint import FootprintPicture, share
from dsmem.units import format_bytes

RANKS = {  # family: (how its parts' names begin, the part whose look it has)
    "weights": (("weights",), "weights"),
    "gradients": (("gradients",), "gradients"),
    "optimizer states": (("optimizer_states",), "optimizer_states"),
    "KV cache": (("kv_cache", "latent_cache", "indexer_cache", "cache_scales"), "kv_cache"),
}
SHORT = {"DP": "data", "CP": "context", "TP": "tensor", "PP": "pipeline", "EP": "expert"}
ROWS = ("an even share", "first rank", "last rank")


def plot_ranks(
    arch: Any,
    work: Workload | None = None,
    sharding: Any = None,
    *,
    training: Any = None,
    capacity: Any = None,
    ax: Any = None,
    title: str | None = None,
    **fields: Any,
) -> Any:
    """Three stacked bars: an even share of all that is held, and what the first and the last rank hold at rest.

    arch, work, sharding, training, fields: as in `sharded.rest.at_rest`. capacity: as in `plot_footprint`.
    title: defaults to the ranks and the largest bar. Returns the Axes.

    >>> from matplotlib.figure import Figure
    >>> ax = plot_ranks("deepseek-r1", seq_len=65536, weights="fp8", sharding=8, ax=Figure().subplots())
    >>> " ".join(ax.get_title(loc="left").split())
    'deepseek-r1 served, TP 8: 83.58 GiB on one of 8 ranks, even 78.90 GiB'
    """
    picture = RanksPicture(ax, tight=True, rows=max(len(capacities(capacity)), 1))
    picture(Architecture.of(arch), work, Sharding.of(sharding), training, capacity, **fields)
    return picture.done(title)


class RanksPicture(FootprintPicture):
    """The picture of `plot_ranks`."""

    height = 2.9
    families = RANKS
    longest = "an even share"

    def __call__(self, arch, work=None, sharding=None, training=None, capacity=None, overhead_bytes=0, **fields):
        """Show what ranks of `sharding` hold of `arch`; returns in words what there is to see."""
        rows, about = bars_of(arch, work, sharding, training, **fields), words(arch, sharding, training)
        return self.show(rows, about, sharding.ranks, capacity, overhead_bytes)

    def show(self, rows: dict, about: str, ranks: int, capacity: Any, overhead_bytes: int) -> str:
        """The same of bytes that are there."""
        places, totals = limits.limits_of(capacity), totals_of(rows)
        fullest = fullest_of(totals)
        self._frame(list(ROWS), max([*totals.values(), *places.values()]), ())
        self._stack(np.array([list(families.values()) for families in rows.values()], dtype=float))
        self.peak.set(y=ROWS.index(fullest))
        self.peak.set_text(f"← {format_bytes(totals[fullest])}")
        self._show_limits(places)
        self.ax.dsmem_data = [(f, row, n) for row, families in rows.items() for f, n in families.items() if n]
        self._say(about, found_words(totals, ranks, capacity))
        return sentence_of(about, rows, capacity, overhead_bytes)


def bars_of(arch: Any, work: Any, sharding: Sharding, training: Any, **fields: Any) -> dict[str, dict[str, float]]:
    """{bar: {family: bytes}} of the three bars; arguments as in `footprint.rest.at_rest`."""
    asked = {"training": training} | fields
    held = [even_share(arch, work, sharding, **asked)]
    held += [at_rest(arch, work, sharding, rank, **asked) for rank in (0, sharding.ranks - 1)]
    return {row: ranks_by_family(parts) for row, parts in zip(ROWS, held, strict=True)}


def totals_of(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """{bar: bytes}."""
    return {row: sum(families.values()) for row, families in rows.items()}


def fullest_of(totals: dict[str, float]) -> str:
    """The bar of the rank that holds most, the first of equals."""
    return max(ROWS[1:], key=totals.get)


def found_words(totals: dict[str, float], ranks: int, capacity: Any) -> str:
    """What there is to see, for a title."""
    most = totals[fullest_of(totals)]
    shares = "".join(f", {share(most / n)} {label}" for label, n in capacities(capacity).items())
    on = f"one of {ranks:,} ranks" if ranks > 1 else "it"
    return f"{format_bytes(most)} on {on}{shares}, even {format_bytes(round(totals[ROWS[0]]))}"


def words(arch: Architecture, sharding: Sharding, training: Any = None) -> str:
    """The model and its ranks in words, with the field's short names; DPA is attention by sequences.

    >>> words(Architecture.of("gpt2"), Sharding(data=8, zero=3, tensor=2), "adamw")
    'gpt2 trained, DP 8, ZeRO 3, TP 2'
    """
    degrees = {short: getattr(sharding, name) for short, name in SHORT.items()}
    said = [f"{short} {count}" for short, count in degrees.items() if count > 1]
    if sharding.zero and sharding.data > 1:
        said.insert(1, f"ZeRO {sharding.zero}")
    said += ["DPA"] * (sharding.attention == "data")
    return f"{arch.name} {'served' if training is None else 'trained'}, {', '.join(said) or 'one rank'}"


def ranks_by_family(parts: dict[str, Any]) -> dict[str, Any]:
    """{family of `RANKS`: bytes} of {part: bytes}."""
    sums = dict.fromkeys(RANKS, 0)
    for part, nbytes in parts.items():
        family = next(family for family, (begins, _) in RANKS.items() if part.startswith(begins))
        sums[family] = sums[family] + nbytes
    return sums


def sentence_of(about: str, rows: dict[str, dict[str, float]], capacity: Any, overhead_bytes: int) -> str:
    """What the picture shows, for those who cannot see it or want to quote it."""
    totals = totals_of(rows)
    most, even = totals[fullest_of(totals)], totals[ROWS[0]]
    verdict = limits.fit_words(most, capacities(capacity), overhead_bytes)
    bars = "; ".join(
        f"{row} {round(totals[row]):,} bytes ("
        + ", ".join(f"{family} {n / totals[row]:.1%}" for family, n in rows[row].items() if n >= 0.001 * totals[row])
        + ")"
        for row in ROWS
    )
    verdict = f"; it {verdict}" if verdict else ""
    return f"{about}, at rest: {bars}. A rank holds {most / even:.2f} times an even share{verdict}."
