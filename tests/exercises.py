"""What every exercise must hold, for answers that a test writes by hand."""

import itertools

import pytest

from dsmem.check import EXERCISES
from dsmem.check.answers import attempt


def up(a, b):
    """a / b, rounded up."""
    return (a + b - 1) // b


def checks_of(right, wrong):
    """Two tests for functions written by hand: of each mistake, and of each exercise's answers beside one another.

    right: {exercise: function}. wrong: {exercise: {mistake: function}}.
    """

    @pytest.mark.parametrize(("key", "name"), [(key, name) for key, functions in wrong.items() for name in functions])
    def a_mistake(key, name):
        is_refused_and_named(key, name, wrong[key][name])

    @pytest.mark.parametrize("key", right)
    def the_answers(key):
        stand_apart(key, right[key], wrong[key])

    return a_mistake, the_answers


def is_refused_and_named(key, name, function):
    """The function is wrong, and the verdict names the mistake with its advice and shows the case."""
    result = EXERCISES[key].examine(function)
    assert (result.ok, result.mistake) == (False, name)
    advice = next(mistake.hint for mistake in EXERCISES[key].mistakes if mistake.name == name)
    words = " ".join(result.text.split())
    assert f"A common mistake: {name}. {advice}" in words
    assert "inputs" in words and "expected" in words and "got" in words


def stand_apart(key, right, wrong):
    """The right function is taken, every mistake is there, and no two of all these are the same in all cases."""
    exercise = EXERCISES[key]
    assert exercise.examine(right).ok
    assert list(wrong) == [mistake.name for mistake in exercise.mistakes] and len(wrong) >= 2
    answers = [[attempt(f, case, key) for case in exercise.cases] for f in (right, *wrong.values())]
    for one, other in itertools.combinations(answers, 2):
        assert not all(itertools.starmap(exercise.agree, zip(one, other, strict=True)))
