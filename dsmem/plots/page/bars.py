"""Stored weights, the KV cache and what a step reads in the page: bars whose parts are told by the formulas."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.footprint.growth import cache_kinds
from dsmem.footprint.reads import floor_seconds, step_reads
from dsmem.footprint.stored import KEPT, PARTS, rows_of, weight_parts
from dsmem.plots import cache, reads, weights
from dsmem.plots.knobs import Knob
from dsmem.plots.page.explorer import PageExplorer, Shown, fill, looks_of
from dsmem.plots.page.tables import tabulate
from dsmem.units import format_bytes, one_of

SCALES = "scales of INT8"
CACHE_PARTS = {"kv_cache": "kv_cache", SCALES: "cache_scales"}
WORDS = {
    "weights": {"title": ["{model} in {weights}", "{found}"], "sentence": "{said}{of_memory}", "label": "weights"},
    "cache": {
        "title": ["{model} in {kv_cache}", "it caches {first:b}; MHA {second:b}"],
        "sentence": "{model}, {batch} × {seq_len} tokens in {kv_cache}: {sizes}.",
        "label": "KV cache",
    },
    "reads": {
        "title": [
            "{model} in {weights}, batch {batch}",
            "a step reads {share} of what is resident, {ms} ms at {memory}",
        ],
        "sentence": "{model} in {weights}{experts}, {batch} × {tokens} tokens: {first_gb} GB resident, {second_gb} GB "
        "read in a step, so at most {per_second} tokens a second at the speed of {memory}.",
        "label": "memory",
    },
}
FRAME, BAR = 62, 42  # points: the axes of a picture, one of its bars


class Bars:
    """A picture of bars under knobs. kind: of `WORDS`; rows_of, words_of: as `tables.tabulate` takes them.

    parts: {part: the part whose look it has}. main: the place of the bar whose parts the legend counts.
    plot: `plot(values, capacity, ax)` draws the still picture. along: the knob of the length. speeds: {memory: bytes a
    second} of the knob memory, where bars are read.
    """

    def __init__(
        self, kind: str, knobs: Mapping[str, Knob], parts: Mapping[str, str], main: int, rows_of: Callable,
        words_of: Callable, plot: Callable, cards: Mapping[str, Any], along: str = "seq_len", speeds: Any = None
    ):  # fmt: skip
        self.kind, self.parts, self.main, self.cards, self.along, self.speeds = kind, parts, main, cards, along, speeds
        self.knobs = dict(knobs) | {n: Knob(n, "fixed", (1,)) for n in ("batch", along) if n not in knobs}
        self.rows_of, self.words_of, self.plot = rows_of, words_of, plot

    def explorer(self) -> PageExplorer:
        """The explorer, with the table of all its states."""
        chosen = [knob for name, knob in self.knobs.items() if name not in ("batch", self.along, "gpu", "memory")]
        batch, seq_len = self.knobs["batch"], self.knobs[self.along]
        table = tabulate(chosen, batch, seq_len, self.parts, self.rows_of, self.words_of)
        rows = max((len(state[1]) for state in table["states"]), default=1)
        more = {
            "kind": "bars",
            "main": self.main,
            "families": looks_of(self.parts),
            "usable": [nbytes and str(nbytes) for nbytes in self.cards.values()],
            "heights": [FRAME + BAR * rows] * 2,
            "say": WORDS[self.kind],
            "along": self.along,
        }
        more |= {"speeds": [self.speeds[each] for each in self.knobs["memory"].values]} if self.speeds else {}
        return PageExplorer(list(self.knobs.values()), self.show, self.draw, table | more)

    def show(self, values: Mapping[str, Any]) -> Shown:
        """What the page shows at these values, from the formulas."""
        rows = self.rows_of(values, values["batch"], values[self.along])
        totals = {name: sum(parts.values()) for name, parts in rows.items()}
        first, second = (*totals.values(), *totals.values())[:2]
        main = list(totals)[self.main]
        words = {name: f"{value:,}" if isinstance(value, int) else value for name, value in values.items()}
        words |= self.words_of(values) | {"first": first, "second": second} | self._speed(values, first, second)
        words["sizes"] = "; ".join(f"{name}, {nbytes:,} bytes" for name, nbytes in totals.items())
        words["of_memory"] = "".join(
            f" {totals[main] / usable:,.0%} of the memory of {label}." for label, usable in self._card(values).items()
        )
        title = tuple(fill(text, words) for text in WORDS[self.kind]["title"])
        rows = {name: {part: parts.get(part, 0) for part in self.parts} for name, parts in rows.items()}
        return Shown(title, fill(WORDS[self.kind]["sentence"], words), rows, main, totals[main])

    def _speed(self, values, first, second):
        """How long the second bar takes to read, and its share of the first."""
        if not self.speeds:
            return {}
        seconds = floor_seconds({"": second}, self.speeds[values["memory"]])
        return {
            "share": f"{second / first:.1%}",
            "first_gb": f"{first / 1e9:,.1f}",
            "second_gb": f"{second / 1e9:,.1f}",
            "ms": reads.milliseconds(seconds),
            "per_second": f"{values['batch'] / seconds:,.0f}",
            "memory": reads.speed_name(values["memory"]),
        }

    def draw(self, ax: Any, values: Mapping[str, Any]) -> None:
        """The still picture of these values."""
        self.plot(values, self._card(values), ax)

    def _card(self, values):
        usable = self.cards[values.get("gpu", "none")]
        return {values["gpu"]: usable} if usable else {}


def weights_page(models: Mapping[str, Architecture], knobs: Mapping[str, Knob], cards: Mapping[str, Any]) -> Bars:
    """`explorers.explore_weights` in the page."""

    def parts_of(chosen, weights_format):
        return weight_parts(models[chosen["model"]], weights_format, modules_to_not_convert=KEPT[chosen["kept"]])

    def rows(chosen, batch, seq_len):
        return {each: parts_of(chosen, each) for each in ("bf16", chosen["weights"])}

    def words(chosen):
        arch, found = models[chosen["model"]], parts_of(chosen, chosen["weights"])
        total, whole = sum(found.values()), sum(parts_of(chosen, "bf16").values())
        share = f"{format_bytes(total)}, {total / whole:.1%} of BF16"
        return {"said": weights.sentence_of(arch, chosen["weights"], chosen["kept"], found, {}), "found": share}

    def plot(values, card, ax):
        how = {"weights": values["weights"], "kept": values["kept"], "capacity": card or None}
        weights.plot_weights(models[values["model"]], ax=ax, **how)

    return Bars("weights", knobs, dict.fromkeys(PARTS), -1, rows, words, plot, cards)


def cache_page(models: Mapping[str, Architecture], knobs: Mapping[str, Knob]) -> Bars:
    """`explorers.explore_cache` in the page."""

    def rows(chosen, batch, seq_len):
        arch, kv_cache = models[chosen["model"]], chosen["kv_cache"]
        one_of("kv_cache", kv_cache, cache.FORMATS, "a format of this picture")
        arch.check_positions(seq_len)
        kinds = cache_kinds(arch, chosen["num_key_value_heads"], chosen["mla_cache"])
        pairs = {name: rows_of(arch, each, kv_cache, batch, seq_len) for name, each in kinds.items()}
        return {name: dict(zip(CACHE_PARTS, pair, strict=True)) for name, pair in pairs.items()}

    def plot(values, card, ax):
        fields = {name: value for name, value in values.items() if name != "model"}
        cache.plot_cache(models[values["model"]], ax=ax, **fields)

    return Bars("cache", knobs, CACHE_PARTS, 0, rows, lambda chosen: {}, plot, {"none": None})


def reads_page(models: Mapping[str, Architecture], knobs: Mapping[str, Knob]) -> Bars:
    """`explorers.explore_reads` in the page; what experts read on average is rounded to whole bytes."""

    def arch_of(chosen):
        return reads.with_experts(models[chosen["model"]], chosen["num_experts_per_tok"])

    def rows(chosen, batch, tokens):
        one_of("weights", chosen["weights"], reads.FORMATS, "a format of this picture")
        asked = np.atleast_2d(batch), np.atleast_2d(tokens), chosen["weights"]  # so that one state is told as many are
        both = reads.resident(models[chosen["model"]], *asked), step_reads(arch_of(chosen), *asked)
        bars = [{part: _whole(n, np.ndim(batch) == 0) for part, n in each.items()} for each in both]
        return dict(zip(reads.ROWS, bars, strict=True))

    def plot(values, card, ax):
        fields = {name: value for name, value in values.items() if name != "model"}
        reads.plot_reads(models[values["model"]], ax=ax, **fields)

    speeds = {each: reads.SPEEDS.get(each, each) for each in knobs["memory"].values}
    words = lambda chosen: {"experts": reads.experts_of(arch_of(chosen))}  # noqa: E731
    return Bars("reads", knobs, dict.fromkeys(reads.SHOWN), -1, rows, words, plot, {"none": None}, "tokens", speeds)


def _whole(values, alone):
    """Values as whole numbers; alone: of one state, a plain number."""
    values = np.rint(values).astype(np.int64)
    return values.item() if alone else values
