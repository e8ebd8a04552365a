"""A pass in the page: what each state shows, by the formulas in Python, and by the table in the page's script."""

from collections.abc import Mapping
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Sharding
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.plots import footprint, limits, memory, sources
from dsmem.plots.families import FAMILIES, by_family
from dsmem.plots.knobs import Knob
from dsmem.plots.page import beside
from dsmem.plots.page.explorer import PageExplorer, Shown, fill, looks_of
from dsmem.plots.page.tables import tabulate

SPREAD = ("count", "sharding")
SEEN = ("gpu", "overhead_bytes", "hide", "every_instant")  # they choose what is shown, and change no byte
TITLE = ["{model} in {weights}", "peak {peak:b} at {instant}{of}"]
WORDS = {
    "pass": {
        "title": TITLE,
        "sentence": "{model}, {phase} of {batch} × {seq_len} tokens, {weights}, {attention} attention, {logits} "
        "logits: {peak:n} bytes at {instant} ({shares}){verdict}{shown}.",
    },
    "curves": {
        "title": TITLE,
        "sentence": "{model}, {phase} of {batch} × {seq_len} tokens, {weights}, {attention} attention, {logits} "
        "logits: {peak:n} bytes at {instant} ({shares}){verdict}.",
    },
    "fit": {
        "title": ["{model} in {weights} {answer}", "peak {peak:b}{each} at {instant}{of}"],
        "sentence": "{model}, {phase} of {batch} × {seq_len} tokens, weights in {weights}, activations in "
        "{activations}, KV cache in {kv_cache}, {attention} attention, {logits} logits, {verdict}. "
        "The peak is {peak:n} bytes{each} at {instant} ({shares}){shown}.",
        "fits": "fits {several}{gpu} ({size:b}{each}) with {spare:b} to spare",
        "lacks": "does not fit {several}{gpu} ({size:b}{each}): {spare:b} are missing",
        "counted": ", counting up to {beside:b} beside its tensors",
        "kept": ", {beside:b} kept free",
        "sequences": "the largest batch of this length is {most:n}{more}",
        "tokens": "the longest context of this batch is {most:n} tokens{more}",
        "more": " or more",
        "none": "needs {peak:b}",
    },
}
BESIDE = "beside_tensors"
ONE = {"several": "", "each": "", "one": ""}
ROW, ROWS, CURVES = 23, (150, 62), 330  # pixels: a row, one bar with its axes, the axes beside rows, curves


class Pass:
    """Passes of `models` under `knobs`, against the memory of `cards`: {label: bytes or None}.

    kind: "fit", one bar and an answer; "pass", the instants and the sentence of `plot_footprint`;
    "curves", those of `plot_lengths`.
    """

    def __init__(self, kind: str, models: Mapping[str, Architecture], cards: Mapping[str, Any], knobs: list[Knob]):
        self.kind, self.models, self.cards, self.knobs = kind, models, cards, {knob.name: knob for knob in knobs}

    def explorer(self) -> PageExplorer:
        """The explorer, with the table of all its states."""
        fixed = [knob for name, knob in self.knobs.items() if name not in (*SEEN, "batch", "seq_len")]
        lengths = self.knobs["seq_len"]
        if self.kind == "curves":
            lengths = Knob("seq_len", "fixed", tuple(sorted({*lengths.values, *footprint.LENGTHS.tolist()})))
        table = tabulate(fixed, self.knobs["batch"], lengths, FAMILIES, self.rows_of, self.words_of)
        rows = max((len({_row(table, place) for place in each[1]}) for each in table["states"]), default=1)
        more = {
            "kind": self.kind,
            "families": looks_of(dict.fromkeys(FAMILIES) | ({"beside tensors": BESIDE} if self.kind == "fit" else {})),
            "usable": [nbytes and str(nbytes) for nbytes in self.cards.values()],
            "hides": [sources.hidden(_hide(value), FAMILIES) for value in self._values("hide")],
            "free": [None if n is None else str(n) for n in self._values("overhead_bytes")],
            "heights": [CURVES] * 2 if self.kind == "curves" else [ROWS[0], ROWS[1] + ROW * rows],
            "say": WORDS[self.kind],
        }
        more |= {"lengths": list(lengths.values)} if self.kind == "curves" else {}
        more |= beside.facts(self.cards) if self.kind == "fit" else {}
        self.table = table
        return PageExplorer(list(self.knobs.values()), self.show, self.draw, table | more)

    def _values(self, name):
        return self.knobs[name].values if name in self.knobs else ["nothing"]

    def _asked(self, chosen, **sizes):
        fields = {name: value for name, value in chosen.items() if name in Workload.__dataclass_fields__}
        arch = self.models[chosen["model"]]
        return arch, Workload(**fields | sizes).on(arch), _sharding(chosen)

    def rows_of(self, chosen: Mapping[str, Any], batch: Any, seq_len: Any) -> dict[str, dict]:
        """{instant: {family: bytes}} of one choice."""
        fp = inference_footprint(*self._asked(chosen, batch=batch, seq_len=seq_len))
        return {instant: by_family(parts) for instant, parts in fp.instants.items()}

    def words_of(self, chosen: Mapping[str, Any]) -> dict[str, str]:
        """The formats that a choice comes to, and words for several GPUs."""
        arch, work, sharding = self._asked(chosen)
        ranks = sharding.ranks if sharding else 1
        several = {"several": f"{ranks} × ", "each": " each", "one": "one "} if ranks > 1 else ONE
        formats = {"weights": work.weights, "activations": work.activations, "kv_cache": work.kv_cache}
        if self.kind != "fit":
            return formats | several
        segments = beside.rule(arch, work, sharding, chosen.get("cached_tokens"))
        return formats | several | beside.lacking(arch, work) | {"segments": segments}

    def show(self, values: Mapping[str, Any]) -> Shown:
        """What the page shows at these values, from the formulas."""
        arch, work, sharding = self._asked(values)
        fp, card = inference_footprint(arch, work, sharding), self._card(values)
        hide = _hide(values.get("hide"))
        free, apart = values["overhead_bytes"], sources.hidden(hide, FAMILIES)
        title = footprint.title_of(arch, work, fp, card)
        shown = f"; shown without {', '.join(apart)}" if apart else ""
        if self.kind != "fit":
            sentence = footprint.sentence_of(arch, work, fp, card, free, shown)
        else:
            words = dict(values) | self.words_of(values) | {"peak": fp.total_bytes, "instant": fp.peak_instant}
            words |= {"batch": f"{work.batch:,}", "seq_len": f"{work.seq_len:,}", "shown": shown}
            words |= {"shares": footprint.shares_of(fp)} | self._verdict(values, words, free)
            sentence = fill(WORDS["fit"]["sentence"], words)
            words["of"] = "".join(f", {footprint.share(fp.total_bytes / n)} {words['one']}{g}" for g, n in card.items())
            title = tuple(fill(text, words) for text in WORDS["fit"]["title"])
        rows = {instant: by_family(parts) for instant, parts in fp.instants.items()}
        return Shown(title, sentence, rows, fp.peak_instant, fp.total_bytes)

    def _card(self, values):
        """The GPU that is chosen, as `capacity=` takes it."""
        usable = self.cards[values["gpu"]]
        return {values["gpu"]: usable} if usable else {}

    def _verdict(self, values, words, free):
        """{"answer", "verdict": words}: whether it fits, what is spare or missing; how far batch and length may go."""
        say, usable = WORDS["fit"], self.cards[values["gpu"]]
        if usable is None:
            return dict.fromkeys(("answer", "verdict"), fill(say["none"], words))
        kept = self._beside(values)
        fits = limits.fits(words["peak"], usable, kept)
        spare = abs(usable - kept - words["peak"])
        words = words | {"gpu": values["gpu"], "size": usable, "spare": spare, "beside": kept}
        answer = fill(say["fits" if fits else "lacks"], words)
        reaches = {"sequences": ("batch", 1), "tokens": ("seq_len", 2)}
        known = {text: name for text, (name, least) in reaches.items() if self._known(values) >= least}
        most = {text: self._most(values, name, usable) for text, name in known.items()}
        ends = [fill(say[text], words | {"most": n, "more": more}) for text, (n, more) in most.items() if n]
        about = fill(say["counted"], words) if free is None else fill(say["kept"], words) if free else ""
        lacks = words.get(beside.generation(values["gpu"], usable), "")
        return {"answer": answer, "verdict": answer + about + (f"; {', '.join(ends)}" if ends else "") + lacks}

    def _beside(self, values):
        """Bytes that the GPU holds beside tensors, at most, or those that are asked to be kept free."""
        if values["overhead_bytes"] is not None:
            return values["overhead_bytes"]
        return beside.most(values["gpu"], self.cards[values["gpu"]], *self._asked(values))

    def _known(self, values):
        place = 0
        for name in self.table["order"]:
            place = place * len(self.knobs[name].values) + self.knobs[name].values.index(values[name])
        return self.table["states"][self.table["index"][place]][2]

    def _most(self, values, name, room):
        """The largest batch or length up to the slider's end that still fits, and words for "or more"."""
        last = max(n for n in self.knobs[name].values if self._needed(values, name, n) is not None)
        low, high = 0, last + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._needed(values, name, middle) <= room else (low, middle)
        return low, WORDS["fit"]["more"] if low == last else ""

    def _needed(self, values, name, number):
        values = values | {name: number}
        try:
            return inference_footprint(*self._asked(values)).total_bytes + self._beside(values)
        except ValueError:
            return None

    def draw(self, ax: Any, values: Mapping[str, Any]) -> None:
        """The still picture of these values."""
        arch, work, sharding = self._asked(values)
        card, hide = self._card(values), _hide(values.get("hide"))
        if self.kind == "curves":
            footprint.plot_lengths(arch, work, capacity=card, ax=ax)
            return
        if self.kind == "pass":
            footprint.plot_footprint(arch, work, capacity=card, hide=hide, ax=ax)
            return
        fp, title = inference_footprint(arch, work, sharding), "; ".join(self.show(values).title)
        if values.get("every_instant"):
            memory.plot_instants(fp, capacity=card, hide=hide, by="family", ax=ax, title=title)
            return
        parts = by_family(fp.parts) | ({BESIDE: self._beside(values)} if card else {})
        memory.plot_stack({fp.peak_instant: parts}, capacity=card, hide=hide, ax=ax, title=title)


def _sharding(chosen):
    """The `Sharding` of a choice, of `count` tensor ranks where it says no other; None for one device."""
    found = Sharding.of(chosen.get("sharding") or chosen.get("count", 1))
    return found if found.ranks > 1 else None


def _hide(value):
    return () if value in (None, "nothing") else value


def _row(table, place):
    return table["names"][table["instants"][place][0]].split()[0]
