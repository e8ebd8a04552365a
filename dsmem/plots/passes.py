"""A pass in the page: what each state shows, by the formulas in Python, and by the table in the page's script."""

from collections.abc import Mapping
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.plots import footprint, limits, memory, sources
from dsmem.plots.families import FAMILIES, by_family
from dsmem.plots.knobs import Knob
from dsmem.plots.page import PageExplorer, Shown, fill, looks_of
from dsmem.plots.tables import tabulate

SEEN = ("gpu", "overhead_bytes", "hide", "every_instant")  # they choose what is shown, and change no byte
TITLE = ["{model} in {weights}", "peak {peak:b} at {instant}{of}"]
WORDS = {
    "pass": {
        "title": TITLE,
        "sentence": "{model}, {phase} of {batch} × {seq_len} tokens, {weights}, {attention} attention, {logits} "
        "logits: {peak:n} bytes at {instant} ({shares}){verdict}{shown}.",
    },
    "fit": {
        "title": ["{model} in {weights} {answer}", TITLE[1]],
        "sentence": "{model}, {phase} of {batch} × {seq_len} tokens, weights in {weights}, activations in "
        "{activations}, KV cache in {kv_cache}, {attention} attention, {logits} logits, {verdict}. "
        "The peak is {peak:n} bytes at {instant} ({shares}){shown}.",
        "fits": "fits {gpu} ({size:b}) with {spare:b} to spare",
        "lacks": "does not fit {gpu} ({size:b}): {spare:b} are missing",
        "kept": ", {free:b} kept free",
        "sequences": "the largest batch of this length is {most:n}{more}",
        "tokens": "the longest context of this batch is {most:n} tokens{more}",
        "more": " or more",
        "none": "needs {peak:b}",
    },
}
ROW, ROWS = 23, (150, 62)  # points: a row, one bar with its axes, the axes beside rows


class Pass:
    """Passes of `models` under `knobs`, against the memory of `cards`: {label: bytes or None}.

    kind: "fit", one bar and an answer; "pass", the instants and the sentence of `plot_footprint`.
    """

    def __init__(self, kind: str, models: Mapping[str, Architecture], cards: Mapping[str, Any], knobs: list[Knob]):
        self.kind, self.models, self.cards, self.knobs = kind, models, cards, {knob.name: knob for knob in knobs}

    def explorer(self) -> PageExplorer:
        """The explorer, with the table of all its states."""
        fixed = [knob for name, knob in self.knobs.items() if name not in (*SEEN, "batch", "seq_len")]
        table = tabulate(fixed, self.knobs["batch"], self.knobs["seq_len"], FAMILIES, self.rows_of, self.words_of)
        rows = max((len({_row(table, place) for place in each[1]}) for each in table["states"]), default=1)
        more = {
            "kind": self.kind,
            "families": looks_of(),
            "usable": [nbytes and str(nbytes) for nbytes in self.cards.values()],
            "hides": [sources.hidden(_hide(value), FAMILIES) for value in self._values("hide")],
            "heights": [ROWS[0], ROWS[1] + ROW * rows],
            "say": WORDS[self.kind],
        }
        self.table = table
        return PageExplorer(list(self.knobs.values()), self.show, self.draw, table | more)

    def _values(self, name):
        return self.knobs[name].values if name in self.knobs else ["nothing"]

    def _asked(self, chosen, **sizes):
        fields = {name: value for name, value in chosen.items() if name in Workload.__dataclass_fields__}
        arch = self.models[chosen["model"]]
        return arch, Workload(**fields | sizes).on(arch)

    def rows_of(self, chosen: Mapping[str, Any], batch: Any, seq_len: Any) -> dict[str, dict]:
        """{instant: {family: bytes}} of one choice."""
        fp = inference_footprint(*self._asked(chosen, batch=batch, seq_len=seq_len))
        return {instant: by_family(parts) for instant, parts in fp.instants.items()}

    def words_of(self, chosen: Mapping[str, Any]) -> dict[str, str]:
        """The formats that a choice comes to."""
        arch, work = self._asked(chosen)
        return {"weights": work.weights, "activations": work.activations, "kv_cache": work.kv_cache}

    def show(self, values: Mapping[str, Any]) -> Shown:
        """What the page shows at these values, from the formulas."""
        arch, work = self._asked(values)
        fp, card, hide = inference_footprint(arch, work), self._card(values), _hide(values.get("hide"))
        free, apart = values.get("overhead_bytes", 0), sources.hidden(hide, FAMILIES)
        title = footprint.title_of(arch, work, fp, card)
        shown = f"; shown without {', '.join(apart)}" if apart else ""
        if self.kind == "pass":
            sentence = footprint.sentence_of(arch, work, fp, card, free, shown)
        else:
            words = dict(values) | self.words_of(values) | {"peak": fp.total_bytes, "instant": fp.peak_instant}
            words |= {"batch": f"{work.batch:,}", "seq_len": f"{work.seq_len:,}", "shown": shown}
            words |= {"shares": footprint.shares_of(fp)} | self._verdict(values, words, free)
            sentence = fill(WORDS["fit"]["sentence"], words)
            title = f"{title[0]} {words['answer']}", title[1]
        rows = {instant: by_family(parts) for instant, parts in fp.instants.items()}
        return Shown(title, sentence, rows, fp.peak_instant, fp.total_bytes)

    def _card(self, values):
        """The GPU that is chosen, as `capacity=` takes it."""
        usable = self.cards[values["gpu"]]
        return usable and {values["gpu"]: usable}

    def _verdict(self, values, words, free):
        """{"answer", "verdict": words}: whether it fits, what is spare or missing; how far batch and length may go."""
        say, usable = WORDS["fit"], self.cards[values["gpu"]]
        if usable is None:
            return dict.fromkeys(("answer", "verdict"), fill(say["none"], words))
        fits = limits.fits(words["peak"], usable, free)
        words = words | {
            "gpu": values["gpu"],
            "size": usable,
            "spare": abs(usable - free - words["peak"]),
            "free": free,
        }
        answer = fill(say["fits" if fits else "lacks"], words) + (fill(say["kept"], words) if free else "")
        reaches = {"sequences": ("batch", 1), "tokens": ("seq_len", 2)}
        known = {text: name for text, (name, least) in reaches.items() if self._known(values) >= least}
        most = {text: self._most(values, name, usable - free) for text, name in known.items()}
        ends = [fill(say[text], words | {"most": n, "more": more}) for text, (n, more) in most.items() if n]
        return {"answer": answer, "verdict": answer + (f"; {', '.join(ends)}" if ends else "")}

    def _known(self, values):
        place = 0
        for name in self.table["order"]:
            place = place * len(self.knobs[name].values) + self.knobs[name].values.index(values[name])
        return self.table["states"][self.table["index"][place]][2]

    def _most(self, values, name, room):
        """The largest batch or length up to the slider's end with a peak within `room`, and words for "or more"."""
        last = max(n for n in self.knobs[name].values if self._peak(values, name, n) is not None)
        low, high = 0, last + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._peak(values, name, middle) <= room else (low, middle)
        return low, WORDS["fit"]["more"] if low == last else ""

    def _peak(self, values, name, number):
        try:
            return inference_footprint(*self._asked(values | {name: number})).total_bytes
        except ValueError:
            return None

    def draw(self, ax: Any, values: Mapping[str, Any]) -> None:
        """The still picture of these values."""
        arch, work = self._asked(values)
        card, hide = self._card(values), _hide(values.get("hide"))
        if self.kind == "pass" or values.get("every_instant"):
            footprint.plot_footprint(arch, work, capacity=card, hide=hide, ax=ax)
            return
        fp = inference_footprint(arch, work)
        title = ": ".join(footprint.title_of(arch, work, fp, card))
        memory.plot_stack({fp.peak_instant: by_family(fp.parts)}, capacity=card, hide=hide, ax=ax, title=title)


def _hide(value):
    return () if value in (None, "nothing") else value


def _row(table, place):
    return table["names"][table["instants"][place][0]].split()[0]
