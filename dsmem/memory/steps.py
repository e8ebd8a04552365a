"""A training step of a few layers written out for many that are alike: the births and deaths of every tensor.

Layers run forward in order and backward in reverse, each after its own forward once more (checkpointing). What a middle
layer does to tensors is the same in each; who made a tensor is told by layers in between.
"""

from collections.abc import Iterator

from dsmem.memory.ledger import Ledger
from dsmem.memory.records import BEFORE, Record

KEPT = 4
"""Layers that must run: the first, two alike, which are held against each other, and the last."""

Event = tuple[tuple, int, str]
"""(key of a tensor, its bytes or, at its death, less them, who made it), as `memory.replay.replay` takes it."""


class StepEvents:
    """Births and deaths of a training step of `layers` layers, from a ledger of `KEPT`.

    ledger: closed, with marks "forward", "forward 0" to "forward 3", "backward", "again 3" to "again 0" and "optimizer
    step". owners: {record of what was there before: its layer}. Raises ValueError where the middle layers differ.
    before: what there is before the step. step: its forward and backward. turn: the number of the first event of
    backward in it.
    """

    def __init__(self, ledger: Ledger, owners: dict[Record, int], layers: int):
        self._events, self._owners, self._copies = ledger.events, owners, layers - KEPT + 1
        marks = ledger.marks
        bounds = {("F", i): (marks[f"forward {i}"], marks[f"forward {i + 1}"]) for i in range(KEPT - 1)}
        bounds["F", KEPT - 1] = marks[f"forward {KEPT - 1}"], marks[f"again {KEPT - 1}"]
        bounds |= {("B", i): (marks[f"again {i}"], marks[f"again {i - 1}"]) for i in range(KEPT - 1, 0, -1)}
        bounds["B", 0] = marks["again 0"], marks["optimizer step"]
        self._start, self._bounds = marks["forward 0"], bounds
        for way in "FB":
            if self._look(way, 1) != self._look(way, 2):
                raise ValueError(
                    "layers 1 and 2 of the ledger are not alike; they must be, for the rest to be like them"
                )
        self._born = {}
        for (way, layer), (start, end) in {("", 0): (0, self._start), **bounds}.items():
            here = enumerate(self._events[start:end])
            self._born |= {record: (way, layer, place) for place, (record, sign) in here if sign > 0}
        self.before = list(self._before())
        self.step = list(self._step(layers))
        last = bounds["F", KEPT - 1]
        self.turn = len(self.step) - sum(end - start for (way, i), (start, end) in self._all(layers) if way == "B")
        self.turn -= last[1] - marks["backward"]

    def _look(self, way, layer):
        start, end = self._bounds[way, layer]
        return [(record.nbytes, record.op, sign) for record, sign in self._events[start:end]]

    def _before(self) -> Iterator[tuple[str, Event]]:
        """(category, birth) of all that is there before the step; counters of one number are not on a GPU."""
        for place, (record, _) in enumerate(self._events[: self._start]):
            if record.op == BEFORE and record.shape:
                for copy in range(self._copies if self._owners.get(record) == 1 else 1):
                    yield record.category, (("", copy, place), record.nbytes, BEFORE)

    def _all(self, layers):
        """((way, layer that is copied), its bounds) of every stretch of the step after its start."""
        like = [0, *[1] * self._copies, *range(2, KEPT)]
        order = [("F", i) for i in range(layers)] + [("B", i) for i in reversed(range(layers))]
        return [((way, layer), self._bounds[way, like[layer]]) for way, layer in order]

    def _step(self, layers) -> Iterator[Event]:
        start = [(record, sign) for record, sign in self._events[: self._start] if record.op != BEFORE]
        yield from (self._event(record, sign, 0, 0) for record, sign in start)
        for (_, layer), (first, end) in self._all(layers):
            here = self._here(first)
            for record, sign in self._events[first:end]:
                yield self._event(record, sign, here, layer - here)

    def _here(self, first):
        return next(layer for (_, layer), (start, _) in self._bounds.items() if start == first)

    def _event(self, record, sign, here, shift):
        """The event of a copy, `shift` layers behind layer `here` that ran; what no layer made is one for all.

        Neighbours' tensors are the neighbours' of the copy; what is from further off is from the first or last layers.
        """
        way, layer, place = self._born[record]
        if abs(layer - here) > 1:
            shift = self._copies - 1 if layer > here else 0
        return (way, layer + shift if way else 0, place), sign * record.nbytes, f"{record.module} {record.op}"
