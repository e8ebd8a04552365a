"""A reader's guesses, noted before a run and shown beside the truth after it."""

import dataclasses
import string
import textwrap
from typing import Any

from dsmem.check.answers import as_text, in_words, real_number, say
from dsmem.units import BYTE_UNITS, parse_bytes

_SHORT = {"b": "bytes", "byte": "bytes", "k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}
_UNITS = {name.lower(): name for name in BYTE_UNITS} | _SHORT


@dataclasses.dataclass
class _Guess:
    """What a reader said (None: nothing), in `unit`, and the truth once it is shown, in bytes where `unit` is one."""

    title: str
    number: float | None = None
    unit: str = "GiB"
    truth: float | None = None
    at_reveal: tuple = ()  # number and unit when the truth was first shown

    @property
    def size(self) -> int:
        """Bytes in the unit, or 1 in a unit that is not one of bytes."""
        return BYTE_UNITS.get(self.unit, 1)

    @property
    def ratio(self) -> float | None:
        """The guess as a multiple of the truth, None where one of them is missing."""
        return self.number * self.size / self.truth if self.number and self.truth else None

    @property
    def late(self) -> str:
        """A remark on a guess that changed after the truth was shown, or ""."""
        return " (changed afterwards)" if self.at_reveal not in ((), (self.number, self.unit)) else ""

    def __str__(self) -> str:
        truth = "truth not shown yet" if self.truth is None else self.amount(self.truth / self.size)
        said = f"You said {self.amount(self.number)}" if self.number else "No guess"
        distance = f": {_distance(self.ratio)}" if self.ratio else ""
        return f"{self.title}: {truth}. {said}{distance}{self.late}."

    def amount(self, value: float) -> str:
        """A number with the unit, as "3.2 GiB"."""
        return f"{value:,.0f} {self.unit}" if value >= 1000 else f"{value:.4g} {self.unit}"


class Predictions:
    """A reader's guesses, each noted before the truth is shown, and in the end all of them beside it. Never raises.

    >>> guesses = Predictions()
    >>> guesses.predict("weights", "13 GiB")
    Noted: weights, 13 GiB.
    >>> guesses.reveal("weights", 15_231_233_024)
    weights: 14.19 GiB. You said 13 GiB: 8% too low.
    >>> guesses.reveal("logits", 1_245_708_288)
    logits: 1.16 GiB. No guess.
    """

    def __init__(self):
        self._guesses = {}

    def __repr__(self) -> str:
        return "\n".join(map(str, self._guesses.values())) or "No guesses yet."

    def predict(self, title: str, number: Any, unit: str = "GiB") -> None:
        """Note a guess above 0; `...` or None is no guess. The same title again replaces the guess.

        number: in `unit`, or a text with a unit of its own ("13 GiB", "40%"). unit: "bytes", "KiB" to "TiB", "kB" to
        "TB"; anything else ("tokens") is a unit that the truth comes in, too. Prints what was noted. Never raises.
        """
        title, unit = as_text(title), as_text(unit)
        amount, unit = _read(number, _UNITS.get(unit.lower(), unit))
        old = self._guesses.get(title) or _Guess(title)
        guess = dataclasses.replace(old, number=amount if amount and amount > 0 else None, unit=unit)
        self._guesses[title] = guess
        if guess.number:
            say(f"Noted: {title}, {guess.amount(guess.number)}{guess.late}.")
        elif number is None or number is ...:
            say(f"No guess yet: {title}. Put a number of {unit} in place of the dots.")
        else:
            say(f"No guess yet: {title}. It must be one number of {unit} above 0, and this is {in_words(number)}.")

    def reveal(self, title: str, truth: float) -> None:
        """Print the truth beside the guess, if there is one. Never raises.

        truth: in bytes, if the guess is in any unit of bytes or there is none; otherwise in the unit of the guess.
        """
        guess = self._guesses.setdefault(as_text(title), _Guess(as_text(title)))
        amount = real_number(truth)
        if not amount or amount < 0:
            say(f"{guess.title}: the truth must be one number above 0, and this is {in_words(truth)}.")
            return
        guess.truth = amount
        guess.at_reveal = guess.at_reveal or (guess.number, guess.unit)
        say(str(guess))

    def summary(self) -> None:
        """Print all guesses and truths, a line each."""
        say(repr(self))

    def plot(self, ax: Any = None) -> Any:
        """Each guess as a dot, at the multiple of the truth that it was, on a log axis; returns the Axes."""
        from dsmem.plots import axes  # not above: it loads Matplotlib

        shown = [guess for guess in self._guesses.values() if guess.ratio]
        near = sum(1 / 2 <= guess.ratio <= 2 for guess in shown)
        title = f"{near} of {len(shown)} guesses within a factor of 2" if shown else "No guess to compare yet"
        with axes.drawing(ax, title, height=1.4 + 0.55 * len(shown)) as ax:
            _draw_guesses(ax, shown)
            ax.dsmem_data += [("guess", guess.title, guess.number * guess.size) for guess in shown]
            ax.dsmem_data += [("truth", guess.title, guess.truth) for guess in shown]
        return ax


def _draw_guesses(ax, shown):
    """One row for each guess, the first on top, and the line on which a right guess lies."""
    from dsmem.plots.style import DARK, INK

    places = [min(max(guess.ratio, 1e-6), 1e6) for guess in shown]
    far = max([2, *places, *(1 / place for place in places)])
    steps = [step for step in ((2, 5, 10) if far < 20 else (10, 100, 1000, 10**6)) if step <= far]
    ax.set_xscale("log")
    ax.set_xlim(1 / far / 1.5, far * 1.5)
    ax.set_xticks([1 / step for step in steps] + [1] + steps)
    ax.set_xticklabels([f"1/{step:,}" for step in steps] + ["right"] + [f"{step:,}×" for step in steps])
    ax.minorticks_off()
    ax.set_xlabel("guess / truth")
    ax.axvline(1, color=INK, linewidth=1.2, zorder=2)
    ax.hlines(range(len(shown)), 1, places, color=DARK[0], linewidth=1)
    for row, (place, guess) in enumerate(zip(places, shown, strict=True)):
        ax.plot(place, row, "o", color=DARK[0], markerfacecolor="white" if guess.late else DARK[0], zorder=3)
    names = [f"{textwrap.fill(guess.title + guess.late, 32)}\n{_distance(guess.ratio)}" for guess in shown]
    ax.set_yticks(range(len(shown)), [name.replace("$", r"\$") for name in names])
    ax.set_ylim(max(len(shown), 1) - 0.5, -0.5)


def _read(number, unit):
    """A guess as (amount or None, its unit), from a number or from a text that may name its own unit."""
    if not issubclass(type(number), str):
        return real_number(number), unit
    text = as_text(number).strip()
    amount = text.rstrip(string.ascii_letters + "% ")
    own = text.removeprefix(amount).strip()
    try:
        if unit in BYTE_UNITS and own.lower() in _UNITS:
            own = _UNITS[own.lower()]
            return real_number(parse_bytes(f"{amount} {own}") / BYTE_UNITS[own]), own
        return real_number(float(amount.replace(",", ""))) if own in ("", unit, *unit.split()[:1]) else None, unit
    except (ValueError, OverflowError):  # no number, or one that is far too large
        return None, unit


def _distance(ratio):
    """How far a guess is from the truth, in words.

    >>> _distance(1.001), _distance(0.92), _distance(14)
    ('right', '8% too low', '14 times too high')
    """
    side, factor = ("low", 1 / ratio) if ratio < 1 else ("high", ratio)
    if abs(ratio - 1) < 0.005:
        return "right"
    if factor < 1.5:
        return f"{abs(ratio - 1):.0%} too {side}"
    if factor >= 1e6:
        return f"more than a million times too {side}"
    return f"{factor:.1f} times too {side}" if factor < 9.95 else f"{factor:,.0f} times too {side}"
