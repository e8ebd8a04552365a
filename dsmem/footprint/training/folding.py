"""Layers that are alike run once at each end of their stretch; those between are counted, and told when asked for.

Each of them leaves as many bytes behind as its neighbour, in forward and in backward. So within a stretch an instant's
bytes are a straight line in the number of the layer, and the largest stands at an end.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from dsmem.config.architecture import Architecture
from dsmem.footprint.training.tape import Tape, some


class Line(NamedTuple):
    """Instants of a layer that ran, to be told again for each of `layers`, in this order.

    start, end: their places among all. path: what stands before its number in their names. layer: its number. growth:
    {part: bytes} that each further layer adds.
    """

    start: int
    end: int
    path: str
    layer: int
    layers: range
    growth: dict[str, Any]


class Folded:
    """The layers of a decoder on a tape, or whatever else repeats: which run, and what is known of the others.

    alike: {number of a layer: whatever is the same for layers that do the same}, in order. path: stands before the
    number in the names of instants. others: what repeats beside it on this tape, and is told with it.
    """

    def __init__(self, tape: Tape, alike: dict[int, Any], path: str = "layers", others: "Folded | None" = None):
        self.tape, self.path, self.lines = tape, path, others.lines if others else []
        self.stretches = list(stretches(alike))

    @property
    def ends(self) -> list[int]:
        """Numbers of the layers that run."""
        return sorted({index for stretch in self.stretches for index in stretch})

    @contextlib.contextmanager
    def layer(self, index: int) -> Iterator[None]:
        """Inside, layer `index` runs; before and after it those that do not are counted."""
        t = self.tape
        first, last = next(pair for pair in self.stretches if pair[0] <= index <= pair[1])
        between, forward = range(first + 1, last), index == first
        if not between:
            yield
        elif forward:
            begin = self._place()
            yield
            self._count(begin, first, between)
        else:
            begin = []
            t.operators.append(lambda: self._count(*begin, last, between[::-1]))  # backward, it comes second
            yield
            t.operators.append(lambda: begin.append(self._place()))

    def let_casts_go(self) -> None:
        """The end of torch.autocast: what it held of weights is gone, of layers that did not run as well."""
        for first, last in self.stretches:
            before = dict(self.tape.alive)
            self.tape.casts = [(where, cast) for where, cast in self.tape.casts if where != f"layers.{first}."]
            for part in before:
                gone = before[part] - self.tape.alive.get(part, 0)
                self.tape.count(part, -max(last - first - 1, 0) * gone)
        self.tape.casts = []

    def instants(self, most: int | None = None) -> dict[str, dict[str, Any]]:
        """{instant: {part: bytes}} of all layers, in the order of the step.

        most: of the layers that did not run, so many at each end of a stretch alone; defaults to all.
        """
        listed, found, at = list(self.tape.instants.items()), [], 0
        for line in sorted(self.lines):
            found += listed[at : line.end]
            told, at = listed[line.start : line.end], line.end
            counted = list(enumerate(line.layers, start=1))
            if most is not None and len(counted) > 2 * most:
                counted = counted[:most] + counted[-most:]
            for number, layer in counted:
                found += [(_renamed(name, line, layer), _grown(parts, line.growth, number)) for name, parts in told]
        return dict(found + listed[at:])

    def _place(self):
        return len(self.tape.instants), dict(self.tape.alive)

    def _count(self, begin, layer, layers):
        """What a layer has left behind since it began, all of `layers` leave behind as well."""
        (start, before), (end, after) = begin, self._place()
        growth = {part: nbytes - before.get(part, 0) for part, nbytes in after.items()}
        growth = {part: nbytes for part, nbytes in growth.items() if some(nbytes)}
        for part, nbytes in growth.items():
            self.tape.count(part, len(layers) * nbytes)
        self.lines.append(Line(start, end, self.path, layer, layers, growth))


def kinds(arch: Architecture, trained: int = 0) -> dict[int, Any]:
    """What tells a layer from its neighbours in training: {number: ...}.

    The first and the first that slides are like no other, for what all layers share lives until they have run backward.
    Nor is layer `trained`, the first that has something to train: those before it keep nothing.
    """
    first = {0, trained, *arch.layers_that(True)[:1], *arch.layers_that(False)[:1]}

    def kind(index):
        return index if index in first else (arch.has_experts(index), arch.scales_queries(index), index < trained)

    return {index: kind(index) for index in range(arch.num_hidden_layers)}


def stretches(alike: dict[int, Any]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of layers that are alike.

    >>> list(stretches({0: 0, 1: "dense", 2: "dense", 3: "experts"}))
    [(0, 0), (1, 2), (3, 3)]
    """
    for _, run in itertools.groupby(alike, alike.get):
        run = list(run)
        yield run[0], run[-1]


def _renamed(name, line, other):
    return name.replace(f"{line.path}.{line.layer}.", f"{line.path}.{other}.", 1)


def _grown(parts, growth, times):
    grown = {part: parts.get(part, 0) + times * growth.get(part, 0) for part in parts | growth}
    return {part: nbytes for part, nbytes in grown.items() if some(nbytes)}
