"""A pass over equal layers of which a few ran, written out as if all had run: event by event, no byte estimated.

Three repetitions run. Where the second and the third did the very same, every further one would have done so too.
"""

import dataclasses
from collections.abc import Sequence

from dsmem.memory.ledger import Ledger
from dsmem.memory.records import BEFORE, Record


class NotEqualError(ValueError):
    """Two repetitions did not do the same, so what did not run cannot be written out."""


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Layers that repeat: from number `first` on, every `period` of them are the same again, to the last.

    path: the name of their list, "model.layers". layers: how many there are.
    """

    path: str
    layers: int
    first: int
    period: int

    @property
    def kept(self) -> int:
        """How many layers run: three repetitions, and as far into the next as the last layer stands."""
        return self.first + 3 * self.period + (self.layers - self.first) % self.period

    @property
    def copies(self) -> int:
        """How many repetitions are written out beside those that run."""
        return (self.layers - self.kept) // self.period


def unfolded(ledger: Ledger, repeats: Repeats, starts: Sequence[int], owners: dict[Record, int]) -> Ledger:
    """The ledger of the pass through all layers, from that of a pass through `repeats.kept` of them.

    ledger: closed. starts: the births and deaths until each layer that ran began, and until what follows the last one
    began; those of what existed before not counted.
    owners: {record: number of its layer} of what existed before: weights, buffers, cached tokens.
    Raises NotEqualError where the repetitions differ.
    """
    stretch = _Stretch(ledger.events, repeats, starts, owners)
    stretch.check()
    events = [*stretch.before(), *stretch.through(), *stretch.after()]
    stretch.renumber()
    return Ledger.of(events, ledger.device)


class _Stretch:
    """The part of a pass that repeats. Repetitions are numbered 0, 1, 2; the second is copied."""

    def __init__(self, events, repeats, starts, owners):
        self.repeats, self.owners = repeats, owners
        self.old = [record for record, sign in events if sign > 0 and record.op == BEFORE]
        self.events = [(record, sign) for record, sign in events if not (sign > 0 and record.op == BEFORE)]
        self.cuts = starts[repeats.first :: repeats.period][:4]
        self.died = {record: step for step, (record, sign) in enumerate(self.events) if sign < 0}
        self.owned = [self._owned(turn) for turn in range(3)]
        self.births = [[record for record, sign in self.turn(turn) if sign > 0] for turn in range(3)]
        # {record: (repetition, its number among those that existed before)}, and among those that it bore
        self.old_place, self.place = map(_places, (self.owned, self.births))
        self.copied = [{} for _ in range(repeats.copies + 1)]

    def turn(self, number):
        """The events of one repetition."""
        return self.events[self.cuts[number] : self.cuts[number + 1]]

    def check(self):
        """Raise NotEqualError unless the second and third repetition did the same, and left the same behind."""
        looks = [[self._look(record, turn) for record in self.owned[turn]] for turn in (1, 2)]
        did = [[self._said(*event, turn) for event in self.turn(turn)] for turn in (1, 2)]
        ends = [[self._end(record) for record in self.births[turn]] for turn in (1, 2)]
        kept = all(last == "after" or one == last for one, last in zip(*ends, strict=False))
        strangers = [record for record in self.old if record not in self.owners]
        if looks[0] != looks[1] or did[0] != did[1] or not kept or any(r.category is None for r in strangers):
            raise NotEqualError(f"the layers of {self.repeats.path} look alike and do not run alike")

    def renumber(self):
        """The layers from the third repetition on stand as much later as there are copies before them."""
        last, by = self.repeats.first + 2 * self.repeats.period, self.repeats.copies * self.repeats.period
        for record, sign in self.events:
            if sign > 0:
                record.module = moved(record.module, self.repeats.path, by, last)

    def before(self):
        """Births of what existed before; that of the copies stands after that of the second repetition."""
        events, run, own = [], [], set(self.owned[1])
        for record in [*self.old, None]:
            if record in own:
                run.append(record)
                continue
            events += [(self._copy(one, number), 1) for number in range(len(self.copied)) for one in run]
            events += [(record, 1)] if record else []
            run = []
        return events

    def through(self):
        """All events up to the end of the third repetition."""
        yield from self.events[: self.cuts[2]]
        for number in range(1, len(self.copied)):
            yield from ((self._inside(*event, number), event[1]) for event in self.turn(1))
        for record, sign in self.turn(2):
            last = len(self.copied) - 1 if sign < 0 and self._repetition(record) == 1 else 0
            yield self._copy(record, last), sign

    def after(self):
        """What follows; where tensors of the second repetition die, those of the copies die beside them."""
        waiting = []  # from a death in the second repetition on, until one in another
        for record, sign in self.events[self.cuts[3] :]:
            turn = self._repetition(record) if sign < 0 else None
            if turn not in (1, None):
                yield from self._with_copies(waiting)
                waiting = []
            if turn == 1 or waiting:
                waiting.append((record, sign))
            else:
                yield record, sign
        yield from self._with_copies(waiting)

    def _with_copies(self, waiting):
        """Events after the stretch, with the copies' deaths before or after those in the second repetition."""
        run = [record for record, sign in waiting if sign < 0 and self._repetition(record) == 1]
        if not run:
            return waiting
        copies = [[(self._copy(one, number), -1) for one in run] for number in range(1, len(self.copied))]
        last = max(step for step, (record, _) in enumerate(waiting) if record is run[-1]) + 1
        if self.died.get(self._twin(run[0]), 0) < self.died[run[0]]:  # a list may let go of its last first
            return [event for copy in reversed(copies) for event in copy] + waiting
        return waiting[:last] + [event for copy in copies for event in copy] + waiting[last:]

    def _owned(self, turn):
        start = self.repeats.first + turn * self.repeats.period
        return [record for record in self.old if start <= self.owners.get(record, -1) < start + self.repeats.period]

    def _repetition(self, record):
        """The number of the repetition that a record was born in or belongs to, None for none."""
        return (self.place.get(record) or self.old_place.get(record, (None,)))[0]

    def _look(self, record, turn):
        module = moved(record.module, self.repeats.path, -turn * self.repeats.period)
        number = self.owners.get(record, 0) - turn * self.repeats.period if record in self.owners else None
        same = record.nbytes, record.op, record.shape, record.dtype, record.device, record.category
        return (module, number, *same)

    def _said(self, record, sign, turn):
        """What an event does, in words that are the same in every repetition that does the same."""
        if sign > 0:
            return "birth", self._look(record, turn)
        if record in self.place:
            back, place = self.place[record]
            # counted from the end, for the first repetition may have begun with what only the first layer meets
            return "death", turn - back, len(self.births[back]) - place
        own, place = self.old_place.get(record, (None, None))
        return "death", place if own == turn else id(record)

    def _end(self, record):
        step = self.died.get(record)
        return "never" if step is None else "after" if step >= self.cuts[3] else "within"

    def _inside(self, record, sign, number):
        """The record that copy `number` of the second repetition bears or buries where that one did `record`."""
        back, place = self.place.get(record, (1, 0))
        if sign < 0 and back == 0:
            return self._copy(self.births[1][place - len(self.births[0])], number - 1)
        return self._copy(record, number)

    def _twin(self, record):
        """The third repetition's record that is this one of the second."""
        if record in self.place:
            return self.births[2][self.place[record][1]]
        return self.owned[2][self.old_place[record][1]]

    def _copy(self, record, number):
        """A record of the second repetition as copy `number` has it; 0 is the record itself."""
        if number == 0:
            return record
        if record not in self.copied[number]:
            module = moved(record.module, self.repeats.path, number * self.repeats.period)
            self.copied[number][record] = dataclasses.replace(record, module=module)
        return self.copied[number][record]


def _places(turns):
    return {record: (turn, place) for turn, records in enumerate(turns) for place, record in enumerate(records)}


def moved(module: str, path: str, by: int, least: int = 0) -> str:
    """The name of a module with the number of its layer raised, if it is at least `least`; other names as they are.

    >>> moved("model.layers.3.mlp", "model.layers", 2), moved("model.norm", "model.layers", 2)
    ('model.layers.5.mlp', 'model.norm')
    """
    number, _, rest = module.removeprefix(f"{path}.").partition(".")
    if not module.startswith(f"{path}.") or not number.isdecimal() or int(number) < least:
        return module
    return ".".join(filter(None, [path, str(int(number) + by), rest]))
