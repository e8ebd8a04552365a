"""Will it fit: a model and its work against devices, what is spare, what grows, how far it may grow, what would help.

The peak is the footprint's; what the GPU holds beside it is `config.overhead`'s, at its most. Nothing is a flat share.
"""

import functools
from typing import Any

from dsmem.config.devices import Devices, devices, usable_words
from dsmem.config.overhead import fits, overhead, unknown
from dsmem.config.workload import Workload
from dsmem.footprint.fit.answer import Answer
from dsmem.footprint.fit.remedies import Change, changes
from dsmem.footprint.fit.solve import largest
from dsmem.footprint.fit.spread import asked_on, attention_note
from dsmem.table import Table
from dsmem.units import format_bytes, whole_number


def fit(
    arch: Any,
    work: Workload | None = None,
    gpu: Any = "T4",
    count: int = 1,
    sharding: Any = None,
    training: Any = None,
    **fields: Any,
) -> "Fit":
    """The `Fit` of a model and a workload on devices, by the formulas alone.

    arch: whatever `Architecture.of` takes. work: a `Workload`, or its fields as keywords; weights may also be a format
    whose stored size alone is known ("awq", "gptq", "nf4", "mxfp4", "q8_0", "q4_k_m" ...). gpu: whatever
    `config.devices.devices` takes. count: how many of it; more than one without `sharding` are tensor parallel.
    sharding: a `Sharding`. training: as in `Training.of`, of a step in place of a pass. Where no weights are asked for,
    they have the format that the model is published in; where no attention is, it is what PyTorch has there: see
    `attention_kernel`. Raises ValueError, one sentence, for what is not known or not modelled. `dsmem.fit` also answers
    for models without formulas and for checkpoints.

    >>> print(fit("qwen2.5-0.5b", gpu="T4"))
    qwen2.5-0.5b in fp16 fits T4 ...
    """
    found = devices(gpu, count)
    asked = asked_on(found, arch, work, training, sharding, **fields)
    for name in ("batch", "seq_len", "cached_tokens"):
        whole_number(name, getattr(asked.work, name), least=0, what="one number, and one workload is asked at a time")
    return Fit(asked, found)


class Fit(Answer):
    """Whether something fits, and by how much; `str` is the sentence, `table()` its bytes.

    asked: what was asked, at its depth. devices: the `Devices`. peak_bytes: of one device's tensors. overhead: {part:
    (least, most) bytes} beside them. needed_bytes: the peak and the most of the overhead. fits: whether they are at
    most the usable bytes of one device. spare_bytes: what is left, below 0 what is missing.
    """

    def __init__(self, asked: Any, found: Devices):
        self.asked, self.devices = asked, found
        self.parts = asked.parts()
        self.peak_bytes = sum(self.parts.values())
        self.overhead = self._overhead(asked)
        self.needed_bytes = self.peak_bytes + sum(most for _, most in self.overhead.values())
        self.usable_bytes = found.usable_bytes
        self.spare_bytes = self.usable_bytes - self.needed_bytes
        self.fits = bool(fits(self.needed_bytes, self.usable_bytes))

    def _overhead(self, asked):
        return overhead(self.devices, asked.segment_bytes(), threads=2 if asked.training else 1)

    def _spare(self, asked):
        return self.usable_bytes - asked.total() - sum(most for _, most in self._overhead(asked).values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from what one may expect, a sentence each."""
        return (*self.asked.notes, *filter(None, [attention_note(self.asked, self.devices), unknown(self.devices)]))

    @property
    def close(self) -> bool:
        """Whether the overhead decides: what is needed fits at the least of it, and not at the most."""
        least = self.peak_bytes + sum(low for low, _ in self.overhead.values())
        return not self.fits and bool(fits(least, self.usable_bytes))

    @functools.cached_property
    def largest_batch(self) -> int | None:
        """The most sequences of this length that fit; 0 if not one does, None where memory sets no limit."""
        return largest(lambda batch: self._spare(self.asked.with_batch(batch)), bound=self.asked.bound)

    @functools.cached_property
    def longest_context(self) -> int | None:
        """The most tokens a sequence, cached and new, with which this many sequences fit; 0 if not the fewest do.

        At most what the model is made for, where its config says that: see `context_limit`. None: no limit.
        """
        asked = self.asked
        ends = asked.least_context, asked.most_context, asked.bound
        return largest(lambda n: self._spare(asked.with_context(n)), *ends)

    @property
    def context_limit(self) -> str:
        """What limits the longest context: "memory", "model" (its config's max_position_embeddings), or "nothing"."""
        if self.longest_context is None:
            return "nothing"
        return "model" if self.longest_context == self.asked.most_context else "memory"

    @functools.cached_property
    def grows(self) -> dict[str, int]:
        """{"token", "sequence": bytes} by which the peak of one device grows with a token or a sequence more."""
        asked = self.asked
        more = {"token": asked.with_context(asked.context + 1), "sequence": asked.with_batch(asked.work.batch + 1)}
        grown = {}
        for what, larger in more.items():
            try:
                grown[what] = larger.total() - self.peak_bytes
            except ValueError:  # past the table of learned positions
                grown[what] = 0
        return grown

    @functools.cached_property
    def changes(self) -> list[Change]:
        """What one may change, the cheapest first, each with the `Fit` that the footprint then gives."""
        return list(changes(self))

    @functools.cached_property
    def change(self) -> Change | None:
        """The cheapest change with which it fits, None where it fits already or none is known."""
        return None if self.fits else next((change for change in changes(self) if change.answer.fits), None)

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        asked, usable = self.asked, f"{self.devices} ({usable_words(self.devices)})"
        what = f"{asked.name} in {asked.weights_words}" + "," * ("," in asked.weights_words)
        what = f"a training step of {what}" if asked.training else what
        beside = sum(most for _, most in self.overhead.values())
        extra = f", up to {format_bytes(beside)} of them beside its tensors" if beside else ""
        size = f"{self._work_words()} {self._needs()} {format_bytes(self.needed_bytes)}{extra}"
        if self.fits:
            return f"{what} fits {usable}: {size}; {format_bytes(self.spare_bytes)} spare, {self._room_words()}"
        verdict = "may not fit" if self.close else "does not fit"
        short = f"{format_bytes(-self.spare_bytes)} too much" + " at the most" * self.close
        return f"{what} {verdict} {usable}: {size}, {short}; {self._way_out()}"

    def _needs(self):
        sharding = getattr(self.asked, "sharding", None)
        return "need" if sharding is None else f"{_sharding_words(sharding)} need on the fullest GPU"

    def _work_words(self):
        work = self.asked.work
        if work.phase == "decode":
            room = f" in a cache for {work.cache_len:,}" * (work.cache != "growing" and work.cache_len > work.key_len)
            return f"{work.batch:,} × a token after {work.cached_tokens:,}{room}"
        cached = f" after {work.cached_tokens:,}" if work.cached_tokens else ""
        return f"{work.batch:,} × {work.seq_len:,} tokens{cached}"

    def _room_words(self):
        if self.asked.depth != "formula":
            return "how far batch and context reach takes more runs of seconds: see largest_batch and longest_context"
        most, longest = self.largest_batch, self.longest_context
        batch = "any batch" if most is None else f"up to {most:,} such sequence{'s' * (most > 1)}"
        sharding = getattr(self.asked, "sharding", None)
        batch += " a replica" * (sharding is not None and sharding.data > 1)
        if longest is None:
            return f"{batch}, or any context"
        model = ", all that the model is made for" if self.context_limit == "model" else ""
        return f"{batch}, or up to {longest:,} tokens each{model}"

    def _way_out(self):
        if self.asked.depth != "formula":
            return "what would help takes more runs of seconds: see change"
        if self.change is None:
            return "no change that is known here makes it fit"
        host = f", {format_bytes(self.change.host_bytes)} there" if self.change.host_bytes else ""
        return f"it fits with {self.change.words}{host}"

    def table(self) -> Table:
        """The bytes of one device, part by part; the overhead at its most, its least beside it."""
        rows = [(part, nbytes, nbytes, "") for part, nbytes in self.parts.items()]
        for part, (low, high) in self.overhead.items():
            rows.append((part, high, high, "" if low == high else f"at most; at least {format_bytes(low)}"))
        rows += [("needed", self.needed_bytes, self.needed_bytes, ""), ("usable", *[self.usable_bytes] * 2, "")]
        rows.append(("spare" if self.fits else "missing", *[abs(self.spare_bytes)] * 2, ""))
        return Table({"part": None, "bytes": ",", "size": format_bytes, "": None}, rows, self.sentence)

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain numbers and texts, for JSON."""
        work = self.asked.work
        return self._weighed() | {
            "kv_cache": work.kv_cache,
            "attention": work.attention,
            "batch": work.batch,
            "context": self.asked.context,
            "training": bool(self.asked.training),
            "close": self.close,
            "largest_batch": self.largest_batch,
            "longest_context": self.longest_context,
            "context_limit": self.context_limit,
            "grows": self.grows,
            "change": self.change.words if self.change else None,
        }

    def _weighed(self):
        """The part of `to_dict` that an answer at every depth has."""
        names = ("fits", "peak_bytes", "parts", "needed_bytes", "usable_bytes", "spare_bytes", "sentence")
        return {
            "model": self.asked.name,
            "depth": self.asked.depth,
            "device": str(self.devices),
            "count": self.devices.count,
            "weights": self.asked.weights_words,
            "overhead": {part: list(pair) for part, pair in self.overhead.items()},
            "notes": list(self.notes),
        } | {name: getattr(self, name) for name in names}


def _sharding_words(sharding):
    """How the devices share the work: "tensor=8"."""
    degrees = {name: getattr(sharding, name) for name in ("data", "zero", "tensor", "pipeline", "expert", "context")}
    return "with " + ", ".join(f"{name}={degree}" for name, degree in degrees.items() if degree > (name != "zero"))
