"""A step of training watched by a ledger, and held to its formula height by height."""

import itertools

from dsmem.footprint.training.step import training_footprint
from dsmem.memory.ledger import Ledger
from dsmem.runs.training_run import our_step


def stepped(arch, work, training, device="fake"):
    """The closed ledger of one step of our decoder."""
    step = our_step(arch, work, training, device)
    with Ledger(step.module) as ledger:
        step.observer = ledger
        step.run()
    return ledger


def heights(ledger):
    """Live bytes wherever something dies right after a birth, from the first operator of the layers on.

    Not those between the turns in which a mixture adds up its choices: the largest turn is an instant, the others not.
    """
    live = list(itertools.accumulate(sign * record.nbytes for record, sign in ledger.events))
    start = next(n for n, (record, _) in enumerate(ledger.events) if record.op == "embedding")
    found = []
    for number in range(start, len(live)):
        record, sign = ledger.events[number]
        dies_next = number + 1 == len(live) or ledger.events[number + 1][1] < 0
        turn = (
            record.op in ("tensor", "lift_fresh")
            or record.op == "mul"
            and record.module == ""
            and len(record.shape) == 2
        )
        if sign > 0 and dies_next and not turn:
            found.append((f"{record.op} {record.module} {record.shape}", live[number]))
    return found


def in_order(wanted, found):
    """The first of `wanted`, (name, bytes), that is not among the bytes `found` after its predecessor; else None."""
    place = 0
    for name, nbytes in wanted:
        start = max(place - 1, 0)  # two of the same bytes may be one
        if nbytes not in found[start:]:
            return f"{name}: {nbytes:,} is not there after number {start}"
        place = found.index(nbytes, start) + 1
    return None


def check(arch, work, training, device="fake"):
    """Both ways: a height of the ledger is an instant of the formula, and a height of the formula one of the ledger."""
    ledger, fp = stepped(arch, work, training, device), training_footprint(arch, work, training)
    instants = list(fp.totals.items())
    assert in_order(heights(ledger), [total for _, total in instants]) is None
    after = [total for _, total in instants[1:]]
    tops = [each for each, following in zip(instants, [*after, 0], strict=True) if each[1] > following]
    assert in_order(tops, ledger.timeline().live_bytes.tolist()) is None
    assert fp.total_bytes == ledger.peak_bytes
    assert fp.phases == {name: ledger.phases[name] for name in fp.phases}
