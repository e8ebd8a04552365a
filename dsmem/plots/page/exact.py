"""Byte counts for every state of a page, written small and without loss: as terms of batch and length where they are.

A page gets whole numbers as text, in hexadecimal; nothing is rounded on the way, whatever their size.
"""

from collections.abc import Iterable

import numpy as np

ODD = (3, 5, 7, 11, 24, 100, 129, 1000, 1537, 4095, 5000, 12_345, 40_000, 100_001)
"""Between the stops of a slider: what is said to hold for every number is tried on these, too."""


class Functions:
    """Functions of batch and length, each kept once; a function is called by its place in `texts`.

    Five forms, the first letter says which; numbers are hexadecimal, a missing one is 0:
    "=" terms of 1, b, s, b s, s**2, b s**2 that also hold for the numbers between the stops of both sliders;
    "~" the same for every batch, but at the stops of the length alone; "/" pairs (1, b) for each of these stops, for
    every batch; "|" pairs (1, s) for each stop of the batch, at the stops of the length; "#" a number for each stop of
    both.

    >>> functions = Functions([1, 2, 4], [128, 256])
    >>> batch, seq_len = functions.grid
    >>> functions.add(4 * batch * seq_len), functions.add(7), functions.add(batch * seq_len**2 + 2), functions.texts
    (0, 1, 2, ['=,,,4', '=7', '=2,,,,,1'])
    """

    def __init__(self, batches: Iterable[int], lengths: Iterable[int]):
        self.stops = np.array(list(batches)), np.array(list(lengths))
        self.texts, self._places, self._known = [], {}, {}
        self.batches, self.lengths = (_more(stops) for stops in self.stops)
        self.seen = range(len(self.stops[1]))

    def limit(self, seen: Iterable[int] | None = None) -> None:
        """From here on, only these stops of the length can be reached; None: all of them."""
        self.seen = list(range(len(self.stops[1])) if seen is None else seen)
        stops = self.stops[1][self.seen]
        self.lengths = _more(stops)

    @property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Batches along the second axis and lengths along the first, ready for a `Workload`."""
        return self.batches[None, :], self.lengths[:, None]

    def add(self, values: "int | np.ndarray") -> int:
        """The place of the function that has these values on `grid`."""
        values = np.asarray(values, dtype=np.int64)
        key = int(values) if values.ndim == 0 else (values.shape, values.tobytes(), tuple(self.seen))
        if key not in self._known:
            text = f"={_hex([key])}" if values.ndim == 0 else self._text(np.broadcast_to(values, self._shape()))
            self._known[key] = self._place(text)
        return self._known[key]

    def _place(self, text):
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]

    def _shape(self):
        return len(self.lengths), len(self.batches)

    def _text(self, values):
        """The smallest form that holds everywhere on the grid."""
        rows = np.isin(self.lengths, self.stops[1][self.seen])
        for mark, seen in (("=", slice(None)), ("~", rows)):
            line = _line(self.batches, values[seen])
            terms = [_parabola(self.lengths[seen], each) for each in line or [()]]
            if all(terms):
                return mark + _terms(*terms)
        if line:
            return "/" + self._padded(np.stack(line, axis=1))
        stops = values[rows][:, np.isin(self.batches, self.stops[0])]
        terms = [_parabola(self.lengths[rows], each) for each in stops.T]
        if all(each and each[2] == 0 for each in terms):
            return "|" + _hex([term for fixed, each, _ in terms for term in (fixed, each)])
        return "#" + self._padded(stops)

    def _padded(self, rows):
        """Rows for every stop of the length, 0 at those that cannot be reached."""
        whole = np.zeros((len(self.stops[1]), rows.shape[1]), dtype=np.int64)
        whole[self.seen] = rows
        return _hex(whole.ravel().tolist())


def _more(stops):
    """The stops of a slider, and some numbers between the first and the last."""
    return np.unique([*stops, *(n for n in ODD if stops.min() < n < stops.max())]).astype(np.int64)


def _line(batches, values):
    """(what does not depend on the batch, what each sequence adds), by length; None where the values are no line."""
    if len(batches) == 1:
        return values[:, 0], np.zeros_like(values[:, 0])
    each, rest = np.divmod(values[:, 1] - values[:, 0], batches[1] - batches[0])
    fixed = values[:, 0] - each * batches[0]
    line = fixed[:, None] + each[:, None] * batches[None, :]
    return (fixed, each) if not rest.any() and np.array_equal(line, values) else None


def _parabola(lengths, values):
    """Whole (a, b, c) with a + b s + c s**2 at every length; None where there are none."""
    if not len(values):
        return None
    s, v = [int(n) for n in lengths], [int(n) for n in values]
    if len(s) == 1:
        return v[0], 0, 0
    i, j, k = 0, len(s) // 2, len(s) - 1
    # divided differences; the third point is the second where there are but two
    first = (v[k] - v[i], s[k] - s[i])
    c, rest = (0, 0) if len(s) == 2 else divmod(*_second(s, v, i, j, k))
    b, more = divmod(first[0] - c * first[1] * (s[i] + s[k]), first[1])
    a = v[i] - b * s[i] - c * s[i] ** 2
    holds = not rest and not more and all(a + b * x + c * x * x == y for x, y in zip(s, v, strict=True))
    return (a, b, c) if holds else None


def _second(s, v, i, j, k):
    """Numerator and denominator of the second divided difference."""
    over = (v[k] - v[j]) * (s[j] - s[i]) - (v[j] - v[i]) * (s[k] - s[j])
    return over, (s[k] - s[j]) * (s[j] - s[i]) * (s[k] - s[i])


def _terms(fixed, each):
    """Two parabolas in the order of the terms: 1, b, s, b s, s**2, b s**2."""
    return _hex([term for pair in zip(fixed, each, strict=True) for term in pair])


def _hex(numbers):
    """Numbers as text, nothing for 0, and no commas after the last of them."""
    return ",".join(f"{n:x}" if n else "" for n in numbers).rstrip(",")
