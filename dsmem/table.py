"""A small table: rows of values, shown as aligned text at a prompt and as HTML in a notebook."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number
from typing import Any


class Table:
    """Rows under named columns.

    columns: {name: how its values are written}: a format spec (",", ".1%"), a function of the value, or None for plain
    text. rows: tuples, one value for each column; they are kept as they came in `rows`. title: a line above.
    widths: the least width of each column as text; numbers are aligned to the right.
    header: whether the names of the columns are shown. room: {name: width in em} of columns of running text: in a
    notebook they are at least so wide, and a long word in them may break.

    >>> Table({"part": None, "bytes": ","}, [("weights", 15_231_233_024), ("logits", 1_245_708_288)])
    part              bytes
    weights  15,231,233,024
    logits    1,245,708,288
    """

    def __init__(
        self,
        columns: dict[str, str | Callable | None],
        rows: Iterable[Sequence],
        title: str = "",
        widths: Sequence[int] = (),
        header: bool = True,
        room: Mapping[str, int] | None = None,
    ):
        self.columns, self.rows, self.title, self.header = list(columns), [tuple(row) for row in rows], title, header
        self._formats, self._widths, self._room = list(columns.values()), widths, room or {}

    def column(self, name: str) -> list:
        """The values of one column, as they came. Raises ValueError for a column that is not there."""
        if name not in self.columns:
            raise ValueError(f"name={name!r} is not a column of this table; allowed: {', '.join(self.columns)}")
        return [row[self.columns.index(name)] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __repr__(self) -> str:
        lines = [self.columns] * self.header + [self._words(row) for row in self.rows]
        widths = [max(map(len, cells), default=0) for cells in zip(*lines, strict=True)]
        if self._widths:
            widths = [max(pair) for pair in zip(widths, self._widths, strict=True)]
        gap = "" if self._widths else "  "
        pads = [str.rjust if right else str.ljust for right in self._numeric()]
        text = [
            gap.join(pad(cell, width) for pad, cell, width in zip(pads, line, widths, strict=True)) for line in lines
        ]
        return "\n".join([self.title] * bool(self.title) + [line.rstrip() for line in text])

    def _repr_html_(self) -> str:
        head = f"<thead>{self._html_row(self.columns, 'th')}</thead>" if self.header else ""
        body = "".join(self._html_row(self._words(row), "td") for row in self.rows)
        caption = f"<caption style='text-align:left'>{html.escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}{head}<tbody>{body}</tbody></table>"

    def _html_row(self, words: Sequence[str], tag: str) -> str:
        styles = [f"text-align:{'right' if right else 'left'}" for right in self._numeric()]
        for name, width in self._room.items():
            styles[self.columns.index(name)] += f";min-width:{width}em;overflow-wrap:anywhere"
        cells = zip(styles, words, strict=True)
        return "<tr>" + "".join(f"<{tag} style='{s}'>{html.escape(w)}</{tag}>" for s, w in cells) + "</tr>"

    def _words(self, row: Sequence) -> list[str]:
        return [_written(value, how) for value, how in zip(row, self._formats, strict=True)]

    def _numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(isinstance(row[i], Number) for row in self.rows) for i in range(len(self.columns))]


def _written(value: Any, how: str | Callable | None) -> str:
    if value is None:
        return ""
    if how is None or isinstance(value, str):
        return str(value)
    return how(value) if callable(how) else format(value, how)
