"""Exercises take right answers, refuse stubs and name usual mistakes; predictions are kept; nothing raises."""

import fractions
import re
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure

from dsmem import check, formulas
from dsmem.check import EXERCISES, Predictions
from dsmem.check.exercise import call
from dsmem.check.predictions import _distance
from dsmem.units import GB, GIB

MISTAKES = [(exercise, mistake) for exercise in EXERCISES.values() for mistake in exercise.mistakes]
every_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=list(EXERCISES))
every_mistake = pytest.mark.parametrize(
    ("exercise", "mistake"), MISTAKES, ids=[f"{exercise.key}: {mistake.name}" for exercise, mistake in MISTAKES]
)
kv_cache_bytes = check.kv_cache_bytes


def wrong(exercise, mistake):
    """The function of a reader who makes the mistake."""
    return lambda **inputs: exercise.mistaken(mistake.slip, inputs)


def answers(exercise, function):
    return [call(function, case) for case in exercise.cases]


def kv(convert=int, times=1):
    """The right function with its result multiplied and converted."""
    return lambda **inputs: convert(times * call(formulas.kv_cache_bytes, inputs))


# --- Exercises


def test_there_are_exercises_and_each_goes_by_its_name():
    assert len(EXERCISES) >= 8
    assert all(getattr(check, key) is exercise and exercise.key == key for key, exercise in EXERCISES.items())


@every_exercise
def test_the_reference_is_right(exercise, capsys):
    assert exercise(exercise.reference).ok
    assert re.fullmatch(rf"✓ {exercise.key}: right in all [3-9] cases\.\n", capsys.readouterr().out)


@pytest.mark.parametrize("formula", [f for name, f in vars(formulas).items() if name in EXERCISES])
def test_the_library_s_own_formula_is_right_as_it_stands(formula):
    assert EXERCISES[formula.__name__].examine(formula).ok


def raise_not_implemented():
    raise NotImplementedError


@every_exercise
@pytest.mark.parametrize("stub", [lambda: ..., raise_not_implemented, ..., lambda: NotImplemented, lambda: 2 * ...])
def test_the_stub_is_not_yet(exercise, stub, capsys):
    assert not exercise(stub).ok
    assert capsys.readouterr().out == f"○ {exercise.key}: not yet. {exercise.task}\n"


@every_mistake
def test_a_usual_mistake_is_named_with_its_hint(exercise, mistake, capsys):
    result = exercise(wrong(exercise, mistake))
    printed = " ".join(capsys.readouterr().out.split())
    assert (result.ok, result.mistake) == (False, mistake.name)
    assert f"The usual mistake: {mistake.name}. {mistake.hint}" in printed
    assert "inputs" in printed and "expected" in printed and "got" in printed


@every_exercise
def test_no_two_answers_of_an_exercise_are_the_same(exercise):
    functions = [exercise.reference, *(wrong(exercise, mistake) for mistake in exercise.mistakes)]
    numbers = [answers(exercise, function) for function in functions]
    for i, one in enumerate(numbers):
        for other in numbers[:i]:
            assert not all(exercise.agree(*pair) for pair in zip(one, other, strict=True))


@every_exercise
def test_texts_are_sentences(exercise):
    for sentence in (exercise.task, *(mistake.hint for mistake in exercise.mistakes)):
        assert re.fullmatch(r"[A-Z]((?!\. ).)*\.", sentence)
    assert len({mistake.name for mistake in exercise.mistakes}) == len(exercise.mistakes)


@every_exercise
def test_every_case_offers_the_same_inputs(exercise):
    assert len({tuple(case) for case in exercise.cases}) == 1
    assert exercise.key in repr(exercise) and all(name in repr(exercise) for name in exercise.cases[0])


def test_a_wrong_answer_where_nothing_is_right_is_shown_as_well(capsys):
    assert not check.padding_bytes(lambda lengths, token_bytes: call(check.padding_bytes.reference, vars()) or 1).ok
    assert "expected  0 bytes" in capsys.readouterr().out


def test_what_is_no_size_is_shown_in_its_own_unit(capsys):
    check.active_params(lambda n_params: n_params)
    assert "expected  37,552,282,624 parameters\n" in capsys.readouterr().out


def test_the_first_case_that_fails_is_shown_in_bytes_and_words(capsys):
    def my_kv_cache_bytes(batch, cache_len, num_hidden_layers, num_attention_heads, head_dim, bits):
        return 2 * batch * cache_len * num_hidden_layers * num_attention_heads * head_dim * bits // 8

    kv_cache_bytes(my_kv_cache_bytes)
    assert capsys.readouterr().out == (
        "✗ kv_cache_bytes: not right yet, first in this case:\n"
        "  inputs    batch=4, cache_len=1024, num_hidden_layers=28, num_attention_heads=28, head_dim=128, bits=16 (of\n"
        "            deepseek-r1-distill-qwen-7b)\n"
        "  expected  234,881,024 bytes (224.00 MiB)\n"
        "  got       1,644,167,168 bytes (1.53 GiB)\n"
        "  The usual mistake: heads in place of key-value heads. Only num_key_value_heads heads are cached; several\n"
        "            query heads share each of them.\n"
    )


def test_the_weights_of_a_7b_are_14_19_gib():
    text = check.weights_gib.examine(lambda arch, bits: arch.n_params * bits / 8 / GB).text
    assert "arch=deepseek-r1-distill-qwen-7b, bits=16" in text
    assert "expected  14.19 GiB (15,231,233,024 bytes)" in text
    assert "got       15.23 GiB" in text
    assert check.weights_gib.examine(lambda n_params, bits: round(n_params * bits / 8 / GIB, 2)).ok


def test_a_model_may_be_asked_for_whole_or_by_its_fields():
    assert kv_cache_bytes.examine(
        lambda arch, batch, seq_len, bits: 2 * arch.num_hidden_layers * batch * seq_len * arch.kv_width * bits // 8
    ).ok


def test_a_mistake_in_some_cases_only_is_named_too():
    def half_right(batch, bits, **inputs):
        return call(formulas.kv_cache_bytes, inputs | {"batch": 1 if bits == 16 else batch, "bits": bits})

    assert kv_cache_bytes.examine(half_right).mistake == "batch forgotten"


def test_an_answer_cannot_spoil_the_cases():
    def my_peak_bytes(totals):
        largest = max(totals.values())
        totals.clear()
        return largest

    assert check.peak_bytes.examine(my_peak_bytes).ok
    assert check.peak_bytes.examine(my_peak_bytes).ok


@pytest.mark.parametrize("convert", [int, float, np.int64, np.float64, np.array, torch.tensor, fractions.Fraction])
def test_a_number_of_any_library_counts(convert):
    assert kv_cache_bytes.examine(kv(convert)).ok


@pytest.mark.parametrize(
    ("times", "remark"),
    [
        (8, "8 times too much"),
        (fractions.Fraction(1, 8), "8 times too little"),
        (2, "exactly twice"),
        (GIB / GB, "GiB and GB are mixed up"),
        (GB / GIB, "GiB and GB are mixed up"),
        (1 / GIB, "that is in GiB"),
        (1 / GB, "that is in GB"),
        (1.001, "less than 1% off"),
    ],
)
def test_a_telling_factor_is_remarked_upon(times, remark):
    result = kv_cache_bytes.examine(kv(float, times))
    assert (result.ok, result.mistake) == (False, None)
    assert remark in result.text


def test_elements_and_bytes_are_told_apart():
    result = kv_cache_bytes.examine(lambda bits, **inputs: kv()(bits=8, **inputs))
    assert "A remark: that counts elements" in result.text
    assert "A remark: exactly half" in check.logits_bytes.examine(lambda **i: call(formulas.logits_bytes, i) / 2).text
    assert "that is in bytes" in check.weights_gib.examine(lambda n_params, bits: n_params * bits // 8).text


def test_a_factor_that_says_nothing_gets_no_remark():
    assert "remark" not in kv_cache_bytes.examine(kv(times=77)).text


# --- Whatever a reader's function does, the check answers in one sentence


class Odd:
    """An object that minds every question."""

    def __getattribute__(self, name):
        raise RuntimeError("no")

    __repr__ = __str__ = __bool__ = __eq__ = __float__ = __int__ = __call__ = __getattribute__
    __hash__ = None


class OddError(Exception):
    def __str__(self):
        raise RuntimeError("no")


def raising(error):
    def my_function():
        raise error

    return my_function


def endless():
    return endless()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: None, "returns nothing (is there a `return`?)"),
        (lambda: "2 GiB", "returns the text '2 GiB'"),
        (lambda: "x" * 10**6, "returns the text 'xxx"),
        (lambda: "\ud800", r"returns the text '\ud800'"),
        (lambda: True, "returns a value of type bool"),
        (lambda: [1, 2], "returns a value of type list"),
        (lambda: np.arange(3), "returns a value of type ndarray"),
        (lambda: 1j, "returns a value of type complex"),
        (lambda: float("nan"), "returns a number that is no size"),
        (lambda: np.float32("inf"), "returns a number that is no size"),
        (lambda: 10**9999, "returns a number that is no size"),
        (Odd, "returns a value of type Odd"),
        (lambda: 1 / 0, "stops with ZeroDivisionError: division by zero."),
        (raising(OddError()), "stops with OddError: OddError."),
        (raising(ValueError("one\ntwo")), "stops with ValueError: one."),
        (raising(ValueError("half \ud800 a pair")), "stops with ValueError: half ? a pair."),
        (raising(ValueError("long " * 500)), "long long..."),
        (raising(SystemExit(3)), "stops with SystemExit: 3."),
        (endless, "stops with RecursionError"),
        (lambda size: size, "the argument size is not known here; allowed: arch, batch, "),
        (lambda batch, /: batch, "stops with TypeError"),
        (dict, "stops with ValueError"),
        (7.0, "give the function itself"),
        (None, "give the function itself"),
        ("kv_cache", "give the function itself"),
    ],
)
def test_odd_functions_get_one_sentence(function, said, capsys):
    assert not kv_cache_bytes(function).ok
    printed = capsys.readouterr().out
    assert said in printed and printed.count("\n") == 1 and printed.endswith(".\n")


def test_a_reader_can_still_interrupt():
    with pytest.raises(KeyboardInterrupt):
        kv_cache_bytes(raising(KeyboardInterrupt()))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.decimals()
    | st.fractions()
    | st.datetimes()
    | st.builds(Odd)
    | st.builds(np.float16, st.floats(width=16))
    | st.builds(np.array, st.lists(st.integers(0, 9))),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children) | st.tuples(children),
    max_leaves=4,
)
ERRORS = st.sampled_from(
    [ValueError, TypeError, KeyError, OSError, SystemExit, MemoryError, UnicodeError, StopIteration]
)


@settings(deadline=None)
@given(exercise=st.sampled_from(list(EXERCISES.values())), value=VALUES)
def test_no_value_makes_it_raise(exercise, value):
    assert not exercise(lambda: value).ok
    assert not exercise(value).ok


@settings(deadline=None)
@given(values=st.lists(VALUES, min_size=4, max_size=4))
def test_no_mixture_of_values_makes_it_raise(values):
    remaining = iter(values)
    assert not kv_cache_bytes(lambda: next(remaining)).ok


@settings(deadline=None)
@given(error=ERRORS, text=st.text(st.characters(exclude_categories=())))
def test_no_error_makes_it_raise(error, text):
    assert not kv_cache_bytes(raising(error(text))).ok


@settings(deadline=None)
@given(number=st.integers(-(2**80), 2**80) | st.floats())
def test_no_other_number_is_right(number):
    assert not kv_cache_bytes.examine(lambda: number).ok


def test_a_notebook_shows_the_verdict_once(capsys):
    shell = InteractiveShell()
    result = kv_cache_bytes.examine(formulas.kv_cache_bytes)
    assert shell.display_formatter.format(result) == ({}, {})
    assert repr(result) == "Result(ok=True, mistake=None)"
    assert capsys.readouterr().out == ""


# --- Predictions


@pytest.fixture
def guesses():
    return Predictions()


def printed(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_guess_is_noted_and_compared(guesses, capsys):
    guesses.predict("peak", 3.2, "GiB")
    guesses.reveal("peak", 16_741_608_704)
    assert printed(capsys) == ["Noted: peak, 3.2 GiB.", "peak: 15.59 GiB. You said 3.2 GiB: 4.9 times too low."]


@pytest.mark.parametrize("number", [..., None])
def test_no_guess_is_fine(guesses, capsys, number):
    guesses.predict("peak", number, "MiB")
    guesses.reveal("peak", 3 * 2**20)
    guesses.reveal("never asked", GIB)
    assert printed(capsys) == [
        "No guess yet: peak. Put a number of MiB in place of the dots.",
        "peak: 3 MiB. No guess.",
        "never asked: 1 GiB. No guess.",
    ]


@pytest.mark.parametrize(
    ("unit", "shown"), [("gib", "1 GiB"), ("G", "1 GiB"), ("GB", "1.074 GB"), ("byte", "1,073,741,824 bytes")]
)
def test_the_truth_comes_in_the_unit_of_the_guess(guesses, capsys, unit, shown):
    guesses.predict("x", 1, unit)
    guesses.reveal("x", GIB)
    assert printed(capsys)[1].startswith(f"x: {shown}. You said 1 ")


def test_a_unit_that_is_not_of_bytes_is_taken_as_it_is(guesses, capsys):
    guesses.predict("context", 9000, "tokens")
    guesses.reveal("context", 3000)
    assert printed(capsys)[1] == "context: 3,000 tokens. You said 9,000 tokens: 3.0 times too high."


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1, "right"),
        (1.004, "right"),
        (0.93, "7% too low"),
        (1.4, "40% too high"),
        (2, "2.0 times too high"),
        (1 / 30, "30 times too low"),
        (1e-9, "more than a million times too low"),
    ],
)
def test_distance_in_plain_words(ratio, words):
    assert _distance(ratio) == words


def test_running_cells_again_replaces_and_never_repeats(guesses, capsys):
    for number in (1, 1, 2):
        guesses.predict("a", number)
    for _ in range(2):
        guesses.reveal("a", 2 * GIB)
    guesses.predict("a", 2)  # the same as before: nothing to mark
    printed(capsys)
    guesses.summary()
    assert printed(capsys) == ["a: 2 GiB. You said 2 GiB: right."]


def test_a_guess_changed_after_the_truth_is_marked(guesses, capsys):
    guesses.predict("a", 1)
    guesses.predict("b", 1)
    guesses.reveal("a", 2 * GIB)
    guesses.predict("a", 2)
    printed(capsys)
    guesses.summary()
    assert printed(capsys) == [
        "a: 2 GiB. You said 2 GiB: right (changed afterwards).",
        "b: truth not shown yet. You said 1 GiB.",
    ]
    guesses.reveal("a", 2 * GIB)
    assert printed(capsys) == ["a: 2 GiB. You said 2 GiB: right (changed afterwards)."]
    guesses.predict("a", 1)  # back to what was said before the truth
    assert printed(capsys) == ["Noted: a, 1 GiB."]


def test_an_empty_summary_says_so(guesses, capsys):
    guesses.summary()
    assert printed(capsys) == ["No guesses yet."]


@pytest.mark.parametrize("number", ["3.2", -1, 0, float("nan"), [3], True])
def test_an_odd_guess_or_truth_gets_one_sentence(guesses, capsys, number):
    guesses.predict("a", number)
    guesses.reveal("b", number)
    first, second = printed(capsys)
    assert first.startswith("No guess yet: a. It must be one number above 0, and this is ")
    assert second.startswith("b: the truth must be one number above 0, and this is ")


@settings(deadline=None, max_examples=50)
@given(title=VALUES, number=VALUES, unit=VALUES, truth=VALUES)
def test_no_guess_makes_it_raise(title, number, unit, truth):
    guesses = Predictions()
    for _ in range(2):
        guesses.predict(title, number, unit)
        guesses.reveal(title, truth)
    guesses.predict(title, 3, unit)
    guesses.summary()


def test_the_picture_has_a_dot_for_each_guess_and_a_line_at_right(guesses):
    for title, number in (("a", 1), ("costs $5 or $6", 30), ("skipped", None), ("changed", 4)):
        guesses.predict(title, number)
        guesses.reveal(title, 3 * GIB)
    guesses.predict("changed", 3)
    ax = guesses.plot(Figure(layout="constrained").add_subplot())
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx([1 / 3, 10, 1])
    assert [dot.get_markerfacecolor() for dot in dots][2] == "white"
    assert [line.get_xdata() for line in ax.lines if line not in dots] == [[1, 1]]
    assert ax.get_title(loc="left") == "1 of 3 guesses within a factor of 2"
    assert [label.get_text() for label in ax.get_yticklabels()][1] == "costs \\$5 or \\$6\n10 times too high"
    assert ("guess", "a", GIB) in ax.dsmem_data and ("truth", "a", 3 * GIB) in ax.dsmem_data


@pytest.mark.parametrize(
    ("number", "truth"), [(None, 1), (1, 1), (1e-20, 1), (1e29, 5e-324), (5e-324, 1), (5e-324, 1e29)]
)
def test_the_picture_takes_none_and_far_off_guesses(guesses, number, truth):
    guesses.predict("a", number)
    guesses.reveal("a", truth)
    figure = Figure(layout="constrained")
    ax = guesses.plot(figure.add_subplot())
    figure.draw_without_rendering()
    low, high = ax.get_xlim()
    assert low < 1 < high
    assert all(low < float(line.get_xdata()[0]) < high for line in ax.lines)


def test_importing_it_loads_no_torch_and_no_matplotlib():
    code = "import sys, dsmem.check; print({'torch', 'matplotlib', 'sympy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
