"""Figures that others published, each with its words and its source: `data/frontier.json`."""

import dataclasses
import functools
import json
from collections.abc import Iterable
from typing import Any

from dsmem.config.source import DATA
from dsmem.table import Table
from dsmem.units import one_of


@dataclasses.dataclass(frozen=True)
class Quote:
    """One published figure.

    says: the words of the source. kind: who says so: "maker", "press", "standard", "measured", "stated" (without a
    measurement) or "simulated".
    """

    name: str
    value: float
    unit: str
    says: str
    kind: str
    source: str

    def __str__(self) -> str:
        return f'{self.name}: {self.value:,.4g} {self.unit} ("{self.says}"; {self.kind}; {self.source})'


def quoted(name: str) -> float:
    """The value of a published figure, in the unit that `quotes` shows. Raises ValueError for an unknown name.

    >>> quoted("HBM3E, a stack")
    1200000000000.0
    """
    return _quotes()[one_of("name", name, _quotes(), "a figure that is quoted")].value


def quotes(names: Iterable[str] | None = None) -> Table:
    """Published figures as a `Table`, with the words and the source of each. names: some of them; defaults to all.

    >>> print(str(quotes(["CXL 2.0, a lane"])).splitlines()[1].split("  ")[0])
    CXL 2.0, a lane
    """
    rows = [_quotes()[one_of("name", name, _quotes(), "a figure that is quoted")] for name in names or _quotes()]
    columns = {"figure": None, "value": ",.4g", "unit": None, "who says so": None, "source": None}
    return Table(columns, [(each.name, each.value, each.unit, each.kind, each.source) for each in rows])


def published(topic: str) -> Any:
    """The rows about one topic: "huffman", "decode", "disk", "models" or "linear", as `data/frontier.json` has them.

    >>> len(published("huffman")["rows"])
    6
    """
    topics = [name for name in _data() if name not in ("what", "quotes")]
    return _data()[one_of("topic", topic, topics, "a topic of published figures")]


@functools.cache
def _data():
    return json.loads((DATA / "frontier.json").read_text(encoding="utf-8"))


@functools.cache
def _quotes():
    return {row["name"]: Quote(**row) for row in _data()["quotes"]}
