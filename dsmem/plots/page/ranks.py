"""What ranks hold at rest in the page: the first and the last rank by the formulas, and an even share of the whole."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.footprint.sharded.rest import at_rest
from dsmem.plots import ranks
from dsmem.plots.knobs import Knob
from dsmem.plots.page.explorer import PageExplorer, Shown, looks_of
from dsmem.plots.page.tables import tabulate

SEEN = ("gpu", "overhead_bytes")  # they choose what is shown, and change no byte
WORDS = {
    "title": ["{about}", "{peak:b} on {on}{of}, even {even:b}"],
    "sentence": "{about}, at rest: {bars}. A rank holds {times} times an even share{verdict}.",
    "label": "at rest",
}
HEIGHT = 190  # pixels: three bars with their axes


class Ranks:
    """What ranks of `models` hold at rest under `knobs`, against the memory of `cards`: {label: bytes or None}."""

    def __init__(self, models: Mapping[str, Architecture], cards: Mapping[str, Any], knobs: list[Knob]):
        self.models, self.cards, self.knobs = models, cards, {knob.name: knob for knob in knobs}
        self._wholes = {}

    def explorer(self) -> PageExplorer:
        """The explorer, with the table of all its states."""
        chosen = [knob for name, knob in self.knobs.items() if name not in (*SEEN, "batch", "seq_len")]
        batch, seq_len = self.knobs["batch"], self.knobs["seq_len"]
        table = tabulate(chosen, batch, seq_len, ranks.RANKS, self.rows_of, lambda chosen: {}, self.like)
        free = self.knobs["overhead_bytes"].values if "overhead_bytes" in self.knobs else [0]
        more = {
            "kind": "ranks",
            "families": looks_of({family: part for family, (_, part) in ranks.RANKS.items()}),
            "copied": [family == "KV cache" for family in ranks.RANKS],  # each replica has its own
            "usable": [nbytes and str(nbytes) for nbytes in self.cards.values()],
            "free": [str(n) for n in free],
            "heights": [HEIGHT] * 2,
            "short": ranks.SHORT,
            "bars": ranks.ROWS,
            "say": WORDS,
        }
        return PageExplorer(list(self.knobs.values()), self.show, self.draw, table | more)

    def like(self, chosen: Mapping[str, Any]) -> tuple:
        """The same for choices that show the same: training has its own formats, serving no precision of states.

        One tensor rank has all heads, however attention is shared out; serving may refuse one way and not the other.
        """
        left_out = {"weights"} if chosen["use"] == "training" else {"precision"}
        alone = chosen["tensor"] == 1 and chosen.get("vocab_multiple", 1) == 1 and chosen["use"] == "training"
        left_out |= {"attention"} if alone else set()
        return tuple(None if name in left_out else value for name, value in chosen.items())

    def _asked(self, chosen, **sizes):
        """(architecture, sharding, training, fields of the workload) of a choice."""
        given = {name: value for name, value in (dict(chosen) | sizes).items() if name not in SEEN}
        arch, use, precision = (given.pop(name) for name in ("model", "use", "precision"))
        work = {name: given.pop(name) for name in ("batch", "seq_len", "weights")}
        training = Training(precision=precision) if use == "training" else None
        work |= {"weights": "bf16", "batch": 1, "seq_len": 1} if training else {}  # weights and states have no tokens
        return self.models[arch], Sharding(**given), training, work

    def rows_of(self, chosen: Mapping[str, Any], batch: Any, seq_len: Any) -> dict[str, dict]:
        """{bar: {family: bytes}} of one choice; the first bar is of the whole model, on one rank."""
        arch, spread, training, work = self._asked(chosen, batch=batch, seq_len=seq_len)
        rows = [self._whole(arch, training, work), at_rest(arch, None, spread, 0, training, **work)]
        alike = spread.pipeline == 1 and not spread.zero  # every rank holds as much as the first
        rows.append(rows[1] if alike else at_rest(arch, None, spread, spread.ranks - 1, training, **work))
        return {row: ranks.ranks_by_family(parts) for row, parts in zip(ranks.ROWS, rows, strict=True)}

    def _whole(self, arch, training, work):
        """What one rank alone holds."""
        key = arch.name, training, tuple(np.asarray(value).tobytes() for value in work.values())
        if key not in self._wholes:
            self._wholes[key] = at_rest(arch, None, None, 0, training, **work)
        return self._wholes[key]

    def show(self, values: Mapping[str, Any]) -> Shown:
        """What the page shows at these values, from the formulas."""
        arch, spread, training, work = self._asked(values)
        about, card = ranks.words(arch, spread, training), self._card(values)
        rows = ranks.bars_of(arch, None, spread, training, **work)
        totals = ranks.totals_of(rows)
        fullest = ranks.fullest_of(totals)
        title = about, ranks.found_words(totals, spread.ranks, card)
        sentence = ranks.sentence_of(about, rows, card, values.get("overhead_bytes", 0))
        whole = {row: {family: round(n) for family, n in families.items()} for row, families in rows.items()}
        return Shown(title, sentence, whole, fullest, totals[fullest])

    def draw(self, ax: Any, values: Mapping[str, Any]) -> None:
        """The still picture of these values."""
        arch, spread, training, work = self._asked(values)
        ranks.plot_ranks(arch, None, spread, training=training, capacity=self._card(values), ax=ax, **work)

    def _card(self, values):
        """The GPU that is chosen, as `capacity=` takes it."""
        usable = self.cards[values["gpu"]]
        return {values["gpu"]: usable} if usable else {}
