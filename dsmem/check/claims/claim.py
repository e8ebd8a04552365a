"""What a claim of the article is made of here: its words, our verdict, and evidence that says where it comes from."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dsmem.config.quoted import quoted, quotes
from dsmem.table import Table
from dsmem.units import gb, gib, one_of

SEVEN = "deepseek-r1-distill-qwen-7b"
"""The one 7B of the R1 family, for what the article calls DeepSeek-R1-7B."""

VERDICTS = ("holds", "holds under conditions", "wrong", "no source", "projection")
KINDS = ("computed", "measured", "cited")
_SCALES = {"GiB": gib, "GB": gb, "%": lambda value: 100 * value, "ms": lambda value: 1e3 * value}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One figure for or against a claim.

    what: what it is of. kind: "computed" by a call now, "measured" by us or by others, "cited" from a publication.
    value: the figure, in bytes, as a share, in seconds or as a plain number; or a call that computes it. unit: what it
    is shown in: "GiB" and "GB" of bytes, "%" of a share, "ms" of seconds, anything else as it is. source: a paper, a
    file of measurements, or the notebook that measures it; "" where `value` is a call.
    """

    what: str
    kind: str
    value: Any
    unit: str
    source: str = ""

    def __post_init__(self):
        one_of("kind", self.kind, KINDS)

    @property
    def number(self) -> float:
        """The figure in `unit`; computed anew at each look where it is a call."""
        value = self.value() if callable(self.value) else self.value
        return _SCALES.get(self.unit, lambda plain: plain)(value)

    @property
    def figure(self) -> str:
        """The figure in words, such as "14.19 GiB"."""
        number = self.number
        text = f"{number:,.0f}" if number >= 1000 or number == int(number) else f"{number:.4g}"
        return f"{text}{'' if self.unit in ('%', '×') else ' '}{self.unit}".rstrip()

    def __str__(self) -> str:
        return f"{self.what}: {self.figure}" + (f" ({self.source})" if self.source else "")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the article. letter: its name here. says: the article, in short. verdict: one of `VERDICTS`.

    because: what is right, in a sentence. notebook: where it is derived, its number. evidence: the figures.
    """

    letter: str
    says: str
    verdict: str
    because: str
    notebook: str
    evidence: tuple[Evidence, ...]

    def __post_init__(self):
        one_of("verdict", self.verdict, VERDICTS)

    @property
    def kinds(self) -> str:
        """The kinds of its evidence, in the order of `KINDS`."""
        return ", ".join(kind for kind in KINDS if any(kind == each.kind for each in self.evidence))

    @property
    def right(self) -> str:
        """What is right: the sentence, and every figure."""
        return f"{self.because} {'; '.join(f'{each.what}: {each.figure}' for each in self.evidence)}."

    def table(self) -> Table:
        """Its evidence, a row a figure."""
        rows = [(each.what, each.figure, each.kind, each.source) for each in self.evidence]
        title = f"({self.letter}) The article: {self.says}. {self.verdict.capitalize()}: {self.because}"
        return Table({"of": None, "figure": None, "kind": None, "source": None}, rows, title)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def computed(what: str, call: Callable[[], float], unit: str) -> Evidence:
    """A figure that `call` computes, whenever it is looked at."""
    return Evidence(what, "computed", call, unit)


def measured(what: str, value: Any, unit: str, source: str) -> Evidence:
    """A figure that was measured; `source` says by whom and where."""
    return Evidence(what, "measured", value, unit, source)


def quote(what: str, name: str, unit: str) -> Evidence:
    """A published figure of `data/frontier.json`, by its name there."""
    return Evidence(what, "cited", quoted(name), unit, quotes([name]).column("source")[0])


def cited(what: str, value: float, unit: str, source: str) -> Evidence:
    """A figure as a publication prints it."""
    return Evidence(what, "cited", value, unit, source)
