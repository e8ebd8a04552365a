"""The states of a page as data: what each choice of the knobs shows, everything that is alike written once."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dsmem.plots.knobs import Knob
from dsmem.plots.page.exact import Functions


def tabulate(
    knobs: Iterable[Knob],
    batch: Knob,
    seq_len: Knob,
    families: Iterable[str],
    rows_of: Callable[..., dict],
    words_of: Callable[[dict], dict],
    like: Callable[[dict], Any] | None = None,
) -> dict:
    """The table of all values of `knobs`, for the page's script to read.

    rows_of: `rows_of(chosen, batch, seq_len)` gives {row: {family: bytes}} of one choice, {name: value}, where batch
    and seq_len are arrays that broadcast; a ValueError of it is kept, and shown in place of a picture. words_of: the
    words of a choice, {name: text}. like: `like(chosen)` is the same for choices that show the same; each of them is
    different if not given.

    order: names of the knobs; index: for each choice, the last knob running fastest, the place of its state, or -1 - n
    for the n-th of `errors`; said: the place of its words, where they are not all alike. A state is [functions,
    instants, known]: of each family the function that all of its instants share, or -1; known: 2 where the terms hold
    between the stops of both sliders, 1 where they hold for every batch, else 0. Where lengths are out of reach, their
    places follow, and those of their errors. An instant is [its name, family, function, family, function ...].
    functions: see `exact.Functions`.
    """
    table, knobs = Table(batch, seq_len, list(families)), list(knobs)
    names = [knob.name for knob in knobs]
    choices = [dict(zip(names, each, strict=True)) for each in itertools.product(*(knob.values for knob in knobs))]
    kinds = [like(chosen) if like else place for place, chosen in enumerate(choices)]
    firsts = {kind: chosen for kind, chosen in zip(reversed(kinds), reversed(choices), strict=True)}
    found = {kind: table.add(chosen, rows_of) for kind, chosen in reversed(firsts.items())}
    index = [found[kind] for kind in kinds]
    said = [
        _place(table.words, tuple(words_of(chosen).items())) if place >= 0 else 0
        for chosen, place in zip(choices, index, strict=True)
    ]
    return {
        "order": names,
        "index": index,
        **({"said": said} if any(said) else {}),
        "words": [dict(words) for words in table.words],
        "states": list(table.states),
        "instants": list(table.instants),
        "names": list(table.names),
        "errors": list(table.errors),
        "functions": ";".join(table.functions.texts),
    }


class Table:
    """What `tabulate` collects: each pool is {thing: its place}."""

    def __init__(self, batch: Knob, seq_len: Knob, families: list[str]):
        self.functions, self.families, self.lengths = Functions(batch.values, seq_len.values), families, seq_len.values
        self.states, self.instants, self.names, self.errors, self.words = {}, {}, {}, {}, {}

    def add(self, chosen: dict, rows_of: Callable[..., dict]) -> int:
        """The place of the state that `chosen` leads to, or what stands for its error."""
        self.functions.limit()
        try:
            return _place(self.states, self._state(rows_of(chosen, *self.functions.grid)))
        except ValueError as error:
            said, ends = " ".join(str(error).split()), (self.lengths[0], self.lengths[-1])
            if all(_error(rows_of, chosen, length) == said for length in ends):  # in words that name no length
                return -1 - _place(self.errors, said)
            return self._partly(chosen, rows_of)

    def _partly(self, chosen, rows_of):
        """The state of those lengths alone that can be, with what is said of the others."""
        errors = dict.fromkeys(range(len(self.lengths)))
        for place in reversed(errors):  # most often it is the longest that cannot be, and they alone
            errors[place] = _error(rows_of, chosen, self.lengths[place])
            if errors[place] is None:
                break
        try:
            return self._without(errors, chosen, rows_of)
        except ValueError:
            every = {place: _error(rows_of, chosen, length) for place, length in enumerate(self.lengths)}
            return self._without(every, chosen, rows_of)

    def _without(self, errors, chosen, rows_of):
        """The same where it is known which lengths cannot be: {place: error or None}."""
        lacking = [place for place, error in errors.items() if error]
        if not lacking:  # each can be, and all of them together cannot
            rows_of(chosen, *self.functions.grid)
        said = tuple(_place(self.errors, errors[place]) for place in lacking)
        if len(lacking) == len(self.lengths):
            return -1 - said[0] if len(set(said)) == 1 else _place(self.states, ((), (), 0, tuple(lacking), said))
        self.functions.limit(place for place in range(len(self.lengths)) if place not in lacking)
        return _place(self.states, (*self._state(rows_of(chosen, *self.functions.grid)), tuple(lacking), said))

    def _state(self, rows: Mapping[str, Mapping[str, Any]]):
        places = {row: [self.functions.add(parts.get(f, 0)) for f in self.families] for row, parts in rows.items()}
        common = tuple(each[0] if len(set(each)) == 1 else -1 for each in zip(*places.values(), strict=True))
        apart = [family for family, place in enumerate(common) if place < 0]
        instants = []
        for row, found in places.items():
            pairs = [(family, found[family]) for family in apart]
            instants.append(_place(self.instants, (_place(self.names, row), *itertools.chain(*pairs))))
        return common, tuple(instants), self._known(set(itertools.chain(*places.values())))

    def _known(self, places):
        texts = [self.functions.texts[place] for place in places]
        if all(text[0] == "=" and "-" not in text for text in texts):
            return 2
        return int(all(text[0] not in "|#" for text in texts))


def _error(rows_of, chosen, length):
    """What is said of a length that cannot be."""
    try:
        rows_of(chosen, 1, length)
    except ValueError as error:
        return " ".join(str(error).split())


def _place(pool, thing):
    return pool.setdefault(thing, len(pool))
