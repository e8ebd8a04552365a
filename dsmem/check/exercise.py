"""How an exercise checks a reader's function: by name, without ever raising, with a word on the usual mistake."""

import copy
import dataclasses
import inspect
import math
import numbers
import reprlib
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from dsmem.units import GB, GIB, format_bytes

_ROUNDING = 0.00501  # an answer in GiB may be rounded to two digits
_REMARKS = (  # what it means when all answers are off by one factor, which may depend on the inputs
    ("that counts elements, and each of them takes bits / 8 bytes", lambda inputs: 8 / inputs.get("bits", math.nan)),
    ("exactly 8 times too much: `bits` counts bits, and a byte has 8 of them", lambda inputs: 8),
    ("exactly 8 times too little: is something divided by 8 twice?", lambda inputs: 1 / 8),
    ("exactly twice too much: is something counted twice?", lambda inputs: 2),
    ("exactly half: is a factor of 2 missing?", lambda inputs: 1 / 2),
    ("off by 2**30 / 1e9: GiB and GB are mixed up", lambda inputs: GIB / GB),
    ("off by 1e9 / 2**30: GiB and GB are mixed up", lambda inputs: GB / GIB),
    ("that is in GiB, and the answer is wanted in bytes", lambda inputs: 1 / GIB),
    ("that is in GB, and the answer is wanted in bytes", lambda inputs: 1 / GB),
    ("that is in bytes, and the answer is wanted in GiB", lambda inputs: GIB),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """The verdict: whether the answer is right, what was printed, and the name of the mistake if it is a usual one."""

    ok: bool
    text: str = dataclasses.field(repr=False)
    mistake: str | None = None

    def _ipython_display_(self):
        """Show nothing: the verdict is printed already, and a notebook would repeat it as the cell's value."""


class Mistake(NamedTuple):
    """A usual wrong answer: its name, one sentence that helps, and the slip that leads to it.

    slip: the wrong function; or a dict of the inputs that are replaced in the right one, by a number or by the input
    of another name (`times` multiplies the result).
    """

    name: str
    hint: str
    slip: Callable | dict


@dataclasses.dataclass(frozen=True, repr=False)
class Exercise:
    """A question with its answer: call it with a function and read the verdict.

    task: what to return, one sentence. reference: the right function, the library's own where there is one.
    cases: dicts of inputs by name, the same names in each. unit: "bytes" or a name of things
    counted (exact), or "GiB" (to two digits).

    >>> from dsmem.check import logits_bytes
    >>> _ = logits_bytes(lambda batch, positions, vocab_size, bits: batch * positions * vocab_size * bits // 8)
    ✓ logits_bytes: right in all 4 cases.
    """

    key: str
    task: str
    reference: Callable
    cases: tuple
    mistakes: tuple = ()
    unit: str = "bytes"

    def __repr__(self):
        return f"{self.key}: {self.task} Inputs to choose from: {', '.join(self.cases[0])}."

    def __call__(self, function):
        """Check `function`, print the verdict and return it as a `Result`."""
        result = self.examine(function)
        say(result.text)
        return result

    def examine(self, function):
        """The `Result` for `function`, nothing printed."""
        answers = [_attempt(function, case) for case in self.cases]
        wanted = [call(self.reference, case) for case in self.cases]
        failing = [i for i, pair in enumerate(zip(answers, wanted, strict=True)) if not self.agree(*pair)]
        if not failing:
            return Result(True, f"✓ {self.key}: right in all {len(answers)} cases.")
        first = failing[0]
        if answers[first] is ...:
            return Result(False, f"○ {self.key}: not yet. {self.task}")
        if isinstance(answers[first], str):
            return Result(False, f"✗ {self.key}: {answers[first]}.")
        name, advice = self._mistake(answers, failing) or (None, self._remark(answers, wanted, failing))
        text = self._comparison(function, self.cases[first], wanted[first], answers[first])
        return Result(False, text + _lines(advice), name)

    def agree(self, answer, other):
        """Whether an answer, if it is a number, counts as the same as another."""
        if answer is ... or isinstance(answer, str):
            return False
        return abs(answer - other) <= (_ROUNDING if self.unit == "GiB" else 0)

    def mistaken(self, slip, inputs):
        """The answer that a slip gives."""
        if callable(slip):
            return call(slip, inputs)
        instead = {name: inputs.get(other, other) for name, other in slip.items()}  # a name stands for that input
        return instead.pop("times", 1) * call(self.reference, inputs | instead)

    def _mistake(self, answers, failing):
        """Name and advice of the mistake that gives these answers in all cases, or else in all that fail."""
        for indices in (range(len(answers)), failing):
            for name, hint, slip in self.mistakes:
                if all(self.agree(answers[i], self.mistaken(slip, self.cases[i])) for i in indices):
                    return name, f"The usual mistake: {name}. {hint}"
        return None

    def _remark(self, answers, wanted, failing):
        """What a common factor between answers and truth says, as a sentence, or ""."""
        if any(answers[i] is ... or isinstance(answers[i], str) or wanted[i] == 0 for i in failing):
            return ""  # no answer, or no ratio to 0
        ratios = [(self.cases[i], answers[i] / wanted[i]) for i in failing]
        for sentence, factor in _REMARKS if self.unit in ("bytes", "GiB") else ():
            if all(math.isclose(ratio, factor(inputs), rel_tol=1e-6) for inputs, ratio in ratios):
                return f"A remark: {sentence}."
        if all(math.isclose(ratio, 1, rel_tol=0.01) for _, ratio in ratios):
            return "A remark: it is less than 1% off, so something small is missing, or was rounded on the way."
        return ""

    def _comparison(self, function, inputs, wanted, got):
        arguments = _named(function, inputs)
        shown = [f"{name}={getattr(value, 'name', value)}" for name, value in arguments.items()]
        model = f" (of {inputs['arch'].name})" if "arch" in inputs and "arch" not in arguments else ""
        rows = (
            f"inputs    {', '.join(shown)}{model}",
            f"expected  {self._amount(wanted)}",
            f"got       {self._amount(got)}",
        )
        return f"✗ {self.key}: not right yet, first in this case:" + "".join(map(_lines, rows))

    def _amount(self, value):
        number = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
        if self.unit == "GiB":
            return f"{number} GiB ({round(value * GIB):,} bytes)"
        if self.unit != "bytes":
            return f"{number} {self.unit}"
        return f"{number} bytes" + (f" ({format_bytes(value)})" if abs(value) >= 1024 else "")


def _attempt(function, inputs):
    """The number that `function` answers, `...` where it is still a stub, or else what went wrong, in words."""
    if function is ...:
        return ...
    if not callable(function):
        return f"give the function itself, my_function and not my_function(...); this is {in_words(function)}"
    try:
        unknown = _unknown(function, inputs)
        if unknown:
            return f"the argument {unknown} is not known here; allowed: {', '.join(inputs)}"
        value = call(function, copy.deepcopy(inputs))  # a copy, so that no answer spoils the next case
    except (Exception, SystemExit) as error:
        unfinished = isinstance(error, NotImplementedError) or "ellipsis" in as_text(error)
        return ... if unfinished else f"the function stops with {type(error).__name__}{_message(error)}"
    if value is ... or value is NotImplemented:
        return ...
    number = real_number(value)
    return f"the function returns {in_words(value)}; it must return one number" if number is None else number


def call(function, inputs):
    return function(**_named(function, inputs))


def _named(function, inputs):
    """Those of the `inputs` that the arguments of `function` name."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return inputs
    return {name: inputs[name] for name in parameters if name in inputs}


def _unknown(function, inputs):
    """The first argument that needs a value and names no input, or None."""
    for name, parameter in inspect.signature(function).parameters.items():
        optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name not in inputs and parameter.default is parameter.empty and not optional:
            return name
    return None


def real_number(value):
    """`value` as int or float where it is one number, of Python, NumPy or torch, and a possible size; else None."""
    try:
        value = value.item() if getattr(value, "ndim", None) == 0 else value
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not abs(value) < 1e30:
            return None
        return int(value) if value == int(value) else float(value)
    except Exception:  # what cannot even answer these questions is no number
        return None


def in_words(value):
    """A value that is no usable number, in words."""
    if value is None:
        return "nothing (is there a `return`?)"
    if issubclass(type(value), str):  # isinstance would ask the value itself, which may object
        return f"the text {reprlib.repr(as_text(value))}"
    if issubclass(type(value), numbers.Real) and not issubclass(type(value), bool):
        return "a number that is no size"
    return f"a value of type {type(value).__name__}"


def as_text(thing):
    try:
        return str(thing)
    except Exception:
        return type(thing).__name__


def _message(error):
    """The first line of an error's message, shortened, with a colon before it."""
    line = next(iter(as_text(error).splitlines()), "").strip().rstrip(".")
    return f": {textwrap.shorten(line, 100, placeholder='...')}" if line else ""


def _lines(text):
    """`text` on lines of its own, indented."""
    wrapped = textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent=" " * 12, break_on_hyphens=False)
    return "".join(f"\n{line}" for line in wrapped)


def say(text):
    print(text.encode("utf-8", "replace").decode())  # a string may hold half a surrogate pair, which cannot be printed
