"""A step of training in the page: forward and backward from one table, what an optimizer adds from another."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.training import BITSANDBYTES, Training
from dsmem.footprint.training.step import optimizer_step, training_footprint
from dsmem.plots import sources, training
from dsmem.plots.families import TRAINING, by_family
from dsmem.plots.knobs import Knob
from dsmem.plots.page.explorer import PageExplorer, Shown, looks_of
from dsmem.plots.page.tables import tabulate
from dsmem.units import FLOATS

SEEN = ("gpu", "overhead_bytes", "hide")  # they choose what is shown, and change no byte
STEPPING = ("optimizer", "optimizer_kernel", "moments")  # they change nothing of forward and backward but what is kept
ONE_KERNEL = ("none", "sgd", *BITSANDBYTES)  # they make nothing, whichever kernel steps
INSIDE = ("gradients", "step_in_backward", "loss_chunk")  # they would
STEP = "optimizer step"
WORDS = {
    "title": ["{model}, {trained}{more}", "peak {peak:b} in {in}{of}"],
    "sentence": "{model}, a step of {batch} × {seq_len} tokens, {trained}{more}, {attention} attention: the peak is in "
    "{in}, {peak:n} bytes ({shares}); {others}{verdict}{shown}.",
}
HEIGHT = 190  # pixels: three bars with their axes


class Steps:
    """Steps of training `models` under `knobs`, against the memory of `cards`: {label: bytes or None}."""

    def __init__(self, models: Mapping[str, Architecture], cards: Mapping[str, Any], knobs: list[Knob]):
        self.models, self.cards, self.knobs = models, cards, {knob.name: knob for knob in knobs}
        if found := next((name for name in INSIDE if name in self.knobs), None):
            raise ValueError(f"{found} changes backward itself, which has no page; leave page=True out, or {found}")

    def explorer(self) -> PageExplorer:
        """The explorer, with the tables of all its states."""
        batch, seq_len = self.knobs["batch"], self.knobs["seq_len"]
        chosen = [knob for name, knob in self.knobs.items() if name not in (*SEEN, "batch", "seq_len")]
        passes = [knob for knob in chosen if knob.name not in STEPPING]
        steps = [knob for knob in chosen if knob.name not in ("checkpointing", "attention")]
        table = tabulate(passes, batch, seq_len, TRAINING, self.rows_of, self.more_of, self.like)
        one = Knob("", "fixed", (1,))
        added = tabulate(steps, one, one, TRAINING, self.step_of, self.trained_of, self.like_step)
        more = {
            "kind": "training",
            "added": added,
            "families": looks_of({family: part for family, (_, part) in TRAINING.items()}),
            "usable": [nbytes and str(nbytes) for nbytes in self.cards.values()],
            "hides": [sources.hidden(_hide(value), TRAINING) for value in self._values("hide", "nothing")],
            "free": [str(n) for n in self._values("overhead_bytes", 0)],
            "heights": [HEIGHT] * 2,
            "in": training.IN,
            "say": WORDS,
        }
        return PageExplorer(list(self.knobs.values()), self.show, self.draw, table | more)

    def _values(self, name, default):
        return self.knobs[name].values if name in self.knobs else [default]

    def _asked(self, chosen, **sizes):
        """(architecture, `Training`, fields of the workload) of a choice."""
        given = {name: value for name, value in (dict(chosen) | sizes).items() if name not in SEEN}
        arch = self.models[given.pop("model")]
        own = {name: given.pop(name) for name in list(given) if name in Training.__dataclass_fields__}
        return arch, training.training_of(own), given

    def like(self, chosen: Mapping[str, Any]) -> tuple:
        """The same for choices with the same forward and backward: a master copy is the optimizer's alone."""
        own = dict(chosen)
        if not own.get("lora_rank") and own.get("weights") not in (None, *FLOATS):
            return "refused", own["weights"]
        if own.get("precision") == "master":
            own["precision"] = "pure"
        return tuple(own.items())

    def like_step(self, chosen: Mapping[str, Any]) -> tuple:
        """The same for choices whose optimizer keeps and makes the same: adapters are FP32, whatever they adapt."""
        own = dict(chosen)
        if own.get("lora_rank"):
            own |= dict.fromkeys({"precision", "weights"} & set(own))
        if own.get("optimizer") in ONE_KERNEL:
            own["optimizer_kernel"] = None
        return tuple(own.items())

    def rows_of(self, chosen: Mapping[str, Any], batch: Any, seq_len: Any) -> dict[str, dict]:
        """{row: {family: bytes}} of forward and of backward, those that are the largest somewhere, and what is left."""
        arch, own, work = self._asked(dict(chosen) | {"optimizer": "none", "optimizer_kernel": "foreach"})
        alone = np.ravel(batch) == 1
        apart = work.get("attention") == "eager" and alone.any() and not alone.all()  # torch copies what several have
        batches = [np.ravel(batch)[which][None, :] for which in (alone, ~alone)] if apart else [batch]
        fps = [training_footprint(arch, training=own, **work | {"batch": n, "seq_len": seq_len}) for n in batches]
        told = [fp.can_be_largest for fp in fps]
        widths = [np.size(n) for n in batches]
        rows = {}
        for phase in ("forward", "backward"):
            most = {
                name for each, n in zip(told, batches, strict=True) for name in self._largest(each[phase], n, seq_len)
            }
            names = dict.fromkeys(name for each in told for name in each[phase] if name in most)  # in their order
            parts = [_joined([each[phase].get(name, {}) for each in told], widths) for name in names]
            rows |= {f"{phase} {n}" if n else phase: by_family(each, TRAINING) for n, each in enumerate(parts)}
        left = [list(each["backward"].values())[-1] for each in told]
        return rows | {STEP: by_family(_joined(left, widths), TRAINING)}

    def _largest(self, parts, batch, seq_len):
        """Names of the instants that are the largest at some stop of both sliders."""
        totals = [sum(each.values()) for each in parts.values()]
        first = np.stack(np.broadcast_arrays(*totals, batch * seq_len)[:-1]).argmax(axis=0)
        if np.ndim(first):
            stops = [np.isin(n, self.knobs[name].values) for n, name in ((seq_len, "seq_len"), (batch, "batch"))]
            first = first[np.broadcast_to(stops[0] & stops[1], first.shape)]
        return [list(parts)[place] for place in np.unique(first)]

    def step_of(self, chosen: Mapping[str, Any], batch: Any, seq_len: Any) -> dict[str, dict]:
        """{phase: {family: bytes}} that the optimizer adds: what it keeps, and what it makes at most in its step."""
        arch, own, work = self._asked(chosen)
        states, few = optimizer_step(arch, own.workload(None, **work), own)
        kept = by_family(states, TRAINING)
        rows = {"forward": kept, "backward": kept}
        if few:
            rows[STEP] = by_family(states | max(few.values(), key=lambda parts: sum(parts.values())), TRAINING)
        return rows

    def trained_of(self, chosen: Mapping[str, Any]) -> dict[str, str]:
        """The optimizer and the precision in words."""
        _, own, work = self._asked(chosen)
        return {"trained": ", ".join(own.words(own.workload(None, **work)).split(", ")[:2])}

    def more_of(self, chosen: Mapping[str, Any]) -> dict[str, str]:
        """What `Training.words` says beyond these two."""
        _, own, work = self._asked(chosen)
        return {"more": "".join(f", {each}" for each in own.words(own.workload(None, **work)).split(", ")[2:])}

    def show(self, values: Mapping[str, Any]) -> Shown:
        """What the page shows at these values, from the formulas."""
        arch, own, work = self._asked(values)
        fp, card = training_footprint(arch, training=own, **work), self._card(values)
        rows, apart = training.rows_of(fp), sources.hidden(_hide(values.get("hide")), TRAINING)
        totals = {phase: sum(families.values()) for phase, families in rows.items()}
        sentence = training.sentence_of(fp, rows, card, values.get("overhead_bytes", 0), apart)
        return Shown(training.title_of(fp, totals, card), sentence, rows, fp.peak_phase, fp.total_bytes)

    def draw(self, ax: Any, values: Mapping[str, Any]) -> None:
        """The still picture of these values."""
        arch, own, work = self._asked(values)
        how = {"capacity": self._card(values), "hide": _hide(values.get("hide"))}
        training.plot_training(arch, training=own, **how, ax=ax, **work)

    def _card(self, values):
        """The GPU that is chosen, as `capacity=` takes it."""
        usable = self.cards[values["gpu"]]
        return {values["gpu"]: usable} if usable else {}


def _joined(told, widths):
    """{part: bytes} of one instant from those of several groups of batches, so many in each."""
    if len(told) == 1:
        return told[0]
    names = dict.fromkeys(name for parts in told for name in parts)
    return {name: _beside([parts.get(name, 0) for parts in told], widths) for name in names}


def _beside(values, widths):
    rows = max(np.shape(each)[0] if np.ndim(each) else 1 for each in values)
    return np.concatenate([np.broadcast_to(n, (rows, width)) for n, width in zip(values, widths, strict=True)], axis=1)


def _hide(value):
    return {None: (), "nothing": (), "weights and states": training.PARAMETERS}.get(value, value)
