"""What a plot can be drawn from: a run, a ledger, a footprint, a replay, or the plain numbers that they hold.

Nothing here imports a run: an object is known by what it has.
"""

from collections.abc import Mapping
from typing import Any


def stacks_of(source: Any) -> dict[str, dict[str, Any]]:
    """{label: {part: bytes}} of a run or a footprint (parts at the peak), of {part: bytes}, or of a dict of these."""
    if not isinstance(source, Mapping):
        return {_name(source): _parts(source)}
    if source and all(_is_number(value) for value in source.values()):
        return {"": dict(source)}
    return {str(label): _parts(value) for label, value in source.items()}


def _parts(source):
    if isinstance(source, Mapping):
        return source
    footprint = getattr(source, "footprint", source)
    if hasattr(footprint, "parts"):
        return footprint.parts
    if hasattr(source, "by_category"):
        return source.by_category()
    raise _refused("stacks", source, "a run, a footprint, a ledger, {part: bytes}, or {label: any of these}")


def footprint_of(source: Any) -> Any:
    """The footprint of a run, or a footprint itself."""
    found = getattr(source, "footprint", source)
    if not hasattr(found, "instants"):
        raise _refused("fp", source, "a run or a footprint")
    return found


def timeline_of(source: Any) -> Any:
    """The timeline of a run or a ledger, or a timeline itself."""
    ledger = getattr(source, "ledger", source)
    found = ledger.timeline() if callable(getattr(ledger, "timeline", None)) else ledger
    if not hasattr(found, "live_bytes"):
        raise _refused("timeline", source, "a run, a ledger or its timeline()")
    return found


def records_of(source: Any) -> list:
    """The tensors alive at the peak of a run or a ledger, or a list of records itself."""
    ledger = getattr(source, "ledger", source)
    if callable(getattr(ledger, "at_peak", None)):
        return ledger.at_peak()
    if not isinstance(source, list | tuple):
        raise _refused("records", source, "a run, a ledger, or a list such as ledger.at_peak()")
    return list(source)


def waterfall_of(source: Any) -> Any:
    """The waterfall of a run, or a waterfall itself."""
    found = source.gaps() if callable(getattr(source, "gaps", None)) else source
    if not hasattr(found, "steps"):
        raise _refused("waterfall", source, "a run or what dsmem.explain returns")
    return found


def replay_of(source: Any) -> Any:
    """The replay of a run, or a replay itself."""
    found = getattr(source, "replay", source)
    if not hasattr(found, "reserved_bytes"):
        raise _refused("replayed", source, "a run or what dsmem.replay returns")
    return found


def _name(source):
    arch = getattr(source, "arch", None)
    return getattr(arch, "name", "") or type(source).__name__.lower()


def _is_number(value):
    return not isinstance(value, Mapping | str) and (hasattr(value, "__index__") or isinstance(value, float))


def _refused(argument, source, allowed):
    return ValueError(f"{argument} is a {type(source).__name__}, from which nothing can be drawn; it must be {allowed}")
