"""What was tried since Python started: one line that a reader can paste, and how many hints each exercise has given."""

from dsmem import __version__
from dsmem.check.answers import say

SOLVED, WRONG, STUB = "✓", "✗", "○"

_marks: dict[str, str] = {}
_hints: dict[str, int] = {}


def note(key: str, mark: str) -> None:
    """Keep the mark of an exercise; one that was solved stays solved."""
    if _marks.get(key) != SOLVED:
        _marks[key] = mark


def next_hint(key: str) -> int:
    """How many hints of an exercise were given before this one."""
    given = _hints.get(key, 0)
    _hints[key] = given + 1
    return given


def forget() -> None:
    """Start anew: nothing tried, no hint given."""
    _marks.clear()
    _hints.clear()


def summary() -> None:
    """Print one line to paste: every exercise tried since Python started, ✓ solved, ✗ wrong or ○ not written yet.

    >>> forget()
    >>> note("kv_cache_bytes", SOLVED)
    >>> summary()  # doctest: +ELLIPSIS
    dsmem ...: 1 of 1 solved  ✓ kv_cache_bytes
    """
    if not _marks:
        say(f"dsmem {__version__}: no exercise tried yet.")
        return
    solved = sum(mark == SOLVED for mark in _marks.values())
    tried = "  ".join(f"{mark} {key}" for key, mark in _marks.items())
    say(f"dsmem {__version__}: {solved} of {len(_marks)} solved  {tried}")
