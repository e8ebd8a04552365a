"""What a plot draws from: the parts, the timeline, the tensors or the segments of whatever it is given.

A run, a footprint, a ledger and a replay are known by what they have, for this room may not import theirs.
"""

from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any

from dsmem.memory.replay import replay

STORED = ("weights", "weight_scales", "buffer")  # how the names of these parts begin
PLURALS = {"weight": "weights", "buffer": "buffers"}  # a ledger's categories that a footprint calls otherwise


def stacks_of(source: Any) -> dict[str, dict[str, Any]]:
    """{label: {part: bytes}} of one thing or of {label: thing}.

    source: a Run or a Footprint (the parts at its peak), a Ledger (its categories at the peak), a Replay (tensors,
    rounding and free bytes at the reserved peak), {part: bytes}, or a dict of any of these. Raises ValueError for
    anything else.

    >>> stacks_of({"a": {"weights": 8}, "b": {"weights": 4, "logits": 1}})["b"]
    {'weights': 4, 'logits': 1}
    """
    if not isinstance(source, Mapping):
        return {name_of(source): _parts(source)}
    if source and all(isinstance(nbytes, Number) for nbytes in source.values()):
        return {"": dict(source)}
    return {label: _parts(each) for label, each in source.items()}


def footprint_of(source: Any) -> Any:
    """The footprint of a Run, or the Footprint itself."""
    footprint = getattr(source, "footprint", source)
    return _with("fp", "a run with a footprint, or a footprint", source, footprint, "instants", "peak_instant")


def timeline_of(source: Any) -> Any:
    """The timeline of a Run or of a Ledger, or the timeline itself."""
    ledger = getattr(source, "ledger", source)
    timeline = ledger.timeline() if callable(getattr(ledger, "timeline", None)) else ledger
    return _with(
        "timeline", "a run, a ledger or its timeline()", source, timeline, "live_bytes", "by_category", "peak_step"
    )


def records_of(source: Any) -> list:
    """The tensors alive at the peak of a Run or of a Ledger, or the records themselves."""
    ledger = getattr(source, "ledger", source)
    records = ledger.at_peak() if callable(getattr(ledger, "at_peak", None)) else ledger
    if isinstance(records, Iterable) and not isinstance(records, str | Mapping):
        records = list(records)
        if all(hasattr(record, "nbytes") and hasattr(record, "category") for record in records):
            return records
    raise _refusal("records", "a run, a ledger, or a list such as ledger.at_peak()", source)


def replay_of(source: Any) -> Any:
    """The replay of a Run, the Replay itself, or a Ledger replayed."""
    found = getattr(source, "replay", source)
    found = replay(found) if callable(getattr(found, "at_peak", None)) else found
    return _with(
        "replayed",
        "a run, a ledger, or what dsmem.replay returns",
        source,
        found,
        "reserved_bytes",
        "allocated_bytes",
        "events",
    )


def waterfall_of(source: Any) -> Any:
    """The gaps of a Run, or the Waterfall itself."""
    found = source.gaps() if callable(getattr(source, "gaps", None)) else source
    return _with("waterfall", "a run or what dsmem.explain returns", source, found, "steps")


def name_of(source: Any) -> str:
    """The model and the format of its weights, where `source` knows them, else nothing."""
    if not hasattr(source, "arch"):
        source = getattr(source, "footprint", source)
    arch, work = getattr(source, "arch", None), getattr(source, "work", None)
    return f"{arch.name}, {work.weights}" if arch is not None and work is not None else getattr(arch, "name", "")


def titled(source: Any, words: str) -> str:
    """`words` after the name of what they are about, where it has one."""
    name = name_of(source)
    return f"{name}: {words}" if name else words[:1].upper() + words[1:]


def hidden(hide: str | Iterable[str] | None, parts: Iterable[str]) -> list[str]:
    """Those of `parts` that `hide` names: None, one name, or several.

    "weights" stands for all that is stored of a model: the weights in every format, their scales, and the buffers.

    >>> hidden("weights", ["weights_int8", "weight_scales", "weight_copy", "buffers", "logits"])
    ['weights_int8', 'weight_scales', 'buffers']
    """
    names = set([hide] if isinstance(hide, str) else hide or ())
    return [
        part
        for part in parts
        if part in names or ("weights" in names and (part == "weight" or part.startswith(STORED)))
    ]


def _parts(source):
    if isinstance(source, Mapping):
        return dict(source)
    source = getattr(source, "footprint", None) or getattr(source, "ledger", source)
    if hasattr(source, "instants"):
        return source.parts
    if callable(getattr(source, "by_category", None)):
        return {
            {"weight": "weights", "buffer": "buffers"}.get(name, name): n for name, n in source.by_category().items()
        }
    if hasattr(source, "reserved_bytes"):
        return _reserved(source)
    allowed = "a run, a footprint, a ledger, a replay, {part: bytes}, or {label: any of these}"
    raise _refusal("stacks", allowed, source)


def _reserved(replayed):
    """What the segments hold at the reserved peak."""
    if not len(replayed.events):
        return {}
    at = int(replayed.reserved_bytes.argmax())
    requested, allocated, reserved = (
        int(getattr(replayed, f"{name}_bytes")[at]) for name in ("requested", "allocated", "reserved")
    )
    return {"tensor": requested, "rounding": allocated - requested, "free": reserved - allocated}


def _with(argument, allowed, source, found, *names):
    """`found` if it has all these attributes."""
    if not all(hasattr(found, name) for name in names):
        raise _refusal(argument, allowed, source)
    return found


def _refusal(argument, allowed, source):
    return ValueError(f"{argument} is a {type(source).__name__}, from which nothing can be drawn; it must be {allowed}")
