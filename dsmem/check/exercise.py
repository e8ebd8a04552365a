"""How an exercise checks a reader's function: by name, without ever raising, with a word on the common mistake."""

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from dsmem.check import progress
from dsmem.check.answers import STUB, Failure, attempt, call, is_number, named, say, shown
from dsmem.units import GB, GIB, format_bytes

_ROUNDED = ("GiB", "experts on average")
_ROUNDING = 0.00501  # an answer in one of these may be rounded to two digits
_REMARKS = (  # what it means when all answers are off by one factor, which may depend on the inputs
    ("that counts elements, and each of them takes bits / 8 bytes.", lambda inputs: 8 / inputs.get("bits", math.nan)),
    ("exactly 8 times too much: `bits` counts bits, and a byte has 8 of them.", lambda inputs: 8),
    ("exactly 8 times too little: is something divided by 8 twice?", lambda inputs: 1 / 8),
    ("exactly twice too much: is something counted twice?", lambda inputs: 2),
    ("exactly half: is a factor of 2 missing?", lambda inputs: 1 / 2),
    ("off by 2**30 / 1e9: GiB and GB are mixed up.", lambda inputs: GIB / GB),
    ("off by 1e9 / 2**30: GiB and GB are mixed up.", lambda inputs: GB / GIB),
    ("that is in GiB, and the answer must be in bytes.", lambda inputs: 1 / GIB),
    ("that is in GB, and the answer must be in bytes.", lambda inputs: 1 / GB),
    ("that is in bytes, and the answer must be in GiB.", lambda inputs: GIB),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """The verdict: whether the answer is right, the printed text, and the name of the mistake if it is a common one."""

    ok: bool
    text: str = dataclasses.field(repr=False)
    mistake: str | None = None

    def _ipython_display_(self):
        """Show nothing: the verdict is printed already, and a notebook would repeat it as the cell's value."""


class Mistake(NamedTuple):
    """A common wrong answer: its name, one sentence that helps, and the slip that leads to it.

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
    cases: dicts of inputs by name, the same names in each. nudge: the first hint, one sentence.
    mistakes: the common ones. unit: "bytes" or a name of things counted (exact); "GiB" or "experts on average" (to two
    digits).
    formula: the second hint; defaults to the body of the reference. notebook: the number of the one that holds the
    folded answer, "" if none does.

    >>> from dsmem.check import logits_bytes
    >>> _ = logits_bytes(lambda batch, positions, vocab_size, bits: batch * positions * vocab_size * bits // 8)
    ✓ logits_bytes: right in all 4 cases.
    """

    key: str
    task: str
    reference: Callable
    cases: tuple[dict, ...]
    nudge: str
    mistakes: tuple[Mistake, ...] = ()
    unit: str = "bytes"
    formula: str = ""
    notebook: str = ""

    def __repr__(self) -> str:
        return (
            f"{self.key}: {self.task} Inputs to choose from: {', '.join(self.cases[0])}.\n"
            f"Check a function with dsmem.check.{self.key}(my_function); stuck? dsmem.check.{self.key}.hint()"
        )

    def __call__(self, function: Any) -> Result:
        """Check `function`, print the verdict and return it as a `Result`. Never raises."""
        result = self.examine(function)
        progress.note(self.key, progress.SOLVED if result.ok else result.text[0])
        say(result.text)
        return result

    def hint(self) -> None:
        """Print a hint: at first a nudge, then the formula, then where the answer is folded.

        >>> from dsmem.check import logits_bytes, progress
        >>> progress.forget()
        >>> for _ in range(2):
        ...     logits_bytes.hint()
        Hint 1 for logits_bytes: Every position gets one number for each word of the vocabulary.
        Hint 2 for logits_bytes, the formula (-(-a // b) divides and rounds up):
            return -(-batch * positions * vocab_size * bits // 8)
        """
        given = progress.next_hint(self.key)
        if given == 0:
            say(f"Hint 1 for {self.key}: {self.nudge}")
        elif given == 1:
            formula = self.formula_text()
            ceiling = " (-(-a // b) divides and rounds up)" if "-(-" in formula else ""
            say(f"Hint 2 for {self.key}, the formula{ceiling}:\n{textwrap.indent(formula, '    ')}")
        elif self.notebook:
            say(f"No more hints for {self.key}: the answer is folded under the exercise in notebook {self.notebook}.")
        else:
            say(f"No more hints for {self.key}: hint 2 is the whole answer, as the body of your function.")

    def formula_text(self) -> str:
        """The right answer as the lines of a function's body, the last of them a `return`."""
        if self.formula:
            return self.formula
        source = textwrap.dedent(inspect.getsource(self.reference))
        function = ast.parse(source).body[0]
        first = function.body[1 if ast.get_docstring(function) else 0]
        return textwrap.dedent("\n".join(source.splitlines()[first.lineno - 1 :]))

    def examine(self, function: Any) -> Result:
        """The `Result` for `function`, without a printed word."""
        answers = [attempt(function, case, self.key) for case in self.cases]
        wanted = [call(self.reference, case) for case in self.cases]
        failing = [i for i, pair in enumerate(zip(answers, wanted, strict=True)) if not self.agree(*pair)]
        if not failing:
            return Result(True, f"{progress.SOLVED} {self.key}: right in all {len(answers)} cases.")
        answer = answers[failing[0]]
        if answer is STUB:
            return Result(False, f"{progress.STUB} {self.key}: not yet. {self.task}")
        if isinstance(answer, Failure):
            rows = "".join(map(_lines, answer.details))
            return Result(False, f"{progress.WRONG} {self.key}: {answer.reason}.{rows}")
        name, advice = self._mistake(answers, failing) or (None, self._remark(answers, wanted, failing))
        text = self._comparison(function, self.cases[failing[0]], wanted[failing[0]], answer)
        return Result(False, text + _lines(advice), name)

    def agree(self, answer: Any, other: float) -> bool:
        """Whether an answer of `attempt` is a number, and the same as another number as far as the unit asks."""
        return is_number(answer) and abs(answer - other) <= (_ROUNDING if self.unit in _ROUNDED else 0)

    def mistaken(self, slip: Callable | dict, inputs: dict) -> float:
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
                    return name, f"A common mistake: {name}. {hint}"
        return None

    def _remark(self, answers, wanted, failing):
        """What a common factor between answers and truth says, as a sentence; or else where to get a hint."""
        stuck = f"Stuck? dsmem.check.{self.key}.hint()"
        if not all(is_number(answers[i]) and wanted[i] for i in failing):
            return stuck  # no answer, or no ratio to 0
        ratios = [(self.cases[i], answers[i] / wanted[i]) for i in failing]
        for sentence, factor in _REMARKS if self.unit in ("bytes", "GiB") else ():
            if all(math.isclose(ratio, factor(inputs), rel_tol=1e-6) for inputs, ratio in ratios):
                return f"A remark: {sentence}"
        if all(math.isclose(ratio, 1, rel_tol=0.01) for _, ratio in ratios):
            return "A remark: it is less than 1% off, so something small is missing, or was rounded on the way."
        return stuck

    def _comparison(self, function, inputs, wanted, got):
        arguments = named(function, inputs)
        model = f" (of {inputs['arch'].name})" if "arch" in inputs and "arch" not in arguments else ""
        rows = (
            f"inputs    {shown(arguments)}{model}",
            f"expected  {self._amount(wanted)}",
            f"got       {self._amount(got)}",
        )
        return f"{progress.WRONG} {self.key}: not right yet, first in this case:" + "".join(map(_lines, rows))

    def _amount(self, value):
        number = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
        if self.unit == "GiB":
            return f"{number} GiB ({round(value * GIB):,} bytes)"
        if self.unit != "bytes":
            return f"{number} {self.unit}"
        return f"{number} bytes" + (f" ({format_bytes(value)})" if abs(value) >= 1024 else "")


def _lines(text):
    """`text` on lines of its own, indented."""
    wrapped = textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent=" " * 12, break_on_hyphens=False)
    return "".join(f"\n{line}" for line in wrapped)
