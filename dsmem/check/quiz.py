"""A quiz of twenty questions, to be taken before and after the series; it says what it found, and nothing is raised."""

import html
from typing import Any

from dsmem.check.answers import as_text, in_words, say
from dsmem.check.questions import QUESTIONS, Question

LETTERS = "abcd"


class Quiz:
    """The questions as a notebook shows them; call it with one letter for each, a dot where you do not know.

    questions: what is asked. Calling never raises: what is no set of answers is said in a sentence.

    >>> quiz = Quiz()
    >>> quiz("before", "bca" + "." * 17)
    dsmem quiz, before: 3 of 20 right, 0 wrong, 17 open  bca.................
    """

    def __init__(self, questions: tuple[Question, ...] = QUESTIONS):
        self.questions = questions

    def __call__(self, when: str, answers: Any) -> None:
        """Print one line to paste: when it was taken, how many are right, and the letters.

        when: "before" or "after", or any word of yours. answers: a text such as "b.ca...", or a list of letters;
        spaces do not count. Which are right is not said: `explain` does, once you have been through the series.
        """
        given = self._read(answers)
        if given is None:
            return
        right = sum(letter == q.right for letter, q in zip(given, self.questions, strict=True))
        left = given.count(".")
        counts = f"{right} of {len(given)} right, {len(given) - right - left} wrong, {left} open"
        say(f"dsmem quiz, {as_text(when)}: {counts}  {given}")

    def explain(self, answers: Any) -> None:
        """Print each question that was missed: the answer, why, and the notebook that derives it."""
        given = self._read(answers)
        if given is None:
            return
        missed = [n for n, q in enumerate(self.questions) if given[n] != q.right]
        for number in missed:
            q = self.questions[number]
            say(
                f"{number + 1}. {q.text} {q.right}) {q.options[LETTERS.index(q.right)]}. {q.why} Notebook {q.notebook}."
            )
        if not missed:
            say("All right. Nothing is left to explain.")

    def _read(self, answers):
        """Answers as one text of letters and dots, or None once it was said what is wrong with them."""
        text = "".join(map(str, answers)) if isinstance(answers, list | tuple) else answers
        if not isinstance(text, str):
            say(f"The answers must be a text such as {'.' * len(self.questions)!r}; this is {in_words(answers)}.")
            return None
        text = "".join(text.lower().split())
        unknown = sorted({letter for letter in text if letter not in LETTERS + "."})
        if unknown or len(text) != len(self.questions):
            what = f"{unknown[0]!r} is no answer" if unknown else f"these are {len(text)}"
            say(f"Give {len(self.questions)} answers, each a, b, c or d, or a dot for one left open; {what}.")
            return None
        return text

    def __repr__(self) -> str:
        return "\n\n".join(
            "\n".join([f"{number}. {q.text}", *(f"   {a}) {o}" for a, o in zip(LETTERS, q.options, strict=True))])
            for number, q in enumerate(self.questions, 1)
        )

    def _repr_html_(self) -> str:
        items = "".join(
            f"<li style='margin-bottom:.6em'>{html.escape(q.text)}<br>"
            + " &nbsp; ".join(f"<b>{a})</b> {html.escape(o)}" for a, o in zip(LETTERS, q.options, strict=True))
            + "</li>"
            for q in self.questions
        )
        return f"<ol style='text-align:left'>{items}</ol>"


quiz = Quiz()
"""The quiz of the series."""
