"""Whatever a reader's function does, the check answers in words and never raises."""

import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from dsmem.check import EXERCISES, Predictions, kv_cache_bytes


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
        (lambda: float("nan"), "returns a number that is not a size; it must return one number"),
        (lambda: np.float32("inf"), "returns a number that is not a size"),
        (lambda: 10**9999, "returns a number that is not a size"),
        (Odd, "returns a value of type Odd"),
        (lambda size: size, "argument='size' is not an input of this exercise; allowed: arch, batch, "),
        (7.0, "pass the function itself, dsmem.check.kv_cache_bytes(my_function), not what it returns; this is"),
        (860_000, "this is the number 860,000."),
        (None, "pass the function itself"),
        ("kv_cache", "this is the text 'kv_cache'."),
    ],
)
def test_what_is_not_a_number_gets_one_sentence(function, said, capsys):
    assert not kv_cache_bytes(function).ok
    printed = capsys.readouterr().out
    assert said in printed and printed.count("\n") == 1 and printed.endswith(".\n")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: 1 / 0, "stops with ZeroDivisionError: division by zero"),
        (raising(OddError()), "stops with OddError: OddError"),
        (raising(ValueError("one\ntwo")), "stops with ValueError: one"),
        (raising(ValueError("half \ud800 a pair")), "stops with ValueError: half ? a pair"),
        (raising(ValueError("long " * 500)), "long long..."),
        (raising(SystemExit(3)), "stops with SystemExit: 3"),
        (endless, "stops with RecursionError"),
        (lambda batch, /: batch, "stops with TypeError"),
        (dict, "stops with ValueError"),
    ],
)
def test_a_function_that_stops_gets_a_sentence_and_no_trace(function, said, capsys):
    assert not kv_cache_bytes(function).ok
    first, *more = capsys.readouterr().out.splitlines()
    assert said in first and first.endswith(".")
    assert len(more) <= 2 and not any("Traceback" in line for line in more)


def divide(number):
    return number / 0


def test_an_error_comes_with_the_inputs_and_the_readers_own_line(capsys):
    def my_kv_cache_bytes(batch, bits):
        width = divide(batch) if batch == 1 else "2" + bits
        return width

    kv_cache_bytes(my_kv_cache_bytes)
    sentence, inputs, line = capsys.readouterr().out.splitlines()
    assert "the function stops with TypeError: can only concatenate" in sentence
    assert inputs == "  inputs    batch=4, bits=16"
    assert re.fullmatch(r"  line \d+ +width = divide\(batch\) if batch == 1 else \"2\" \+ bits", line)


def test_the_line_shown_is_the_readers_and_not_the_librarys(capsys):
    def my_kv_cache_bytes(arch):
        return arch.scaled(head_dim=0).kv_width

    kv_cache_bytes(my_kv_cache_bytes)
    printed = capsys.readouterr().out
    assert "inputs    arch=deepseek-r1-distill-qwen-7b\n" in printed
    assert "return arch.scaled(head_dim=0).kv_width\n" in printed


def test_the_inputs_are_those_of_the_case_that_fails(capsys):
    kv_cache_bytes(
        lambda arch, batch, cache_len, bits: (
            2 * arch.num_hidden_layers * batch * cache_len * arch.kv_width * bits // 8 if bits == 16 else {}[bits]
        )
    )
    assert "inputs    arch=deepseek-r1-distill-llama-70b, batch=2, cache_len=300, bits=32" in capsys.readouterr().out


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


@settings(deadline=None, max_examples=50)
@given(title=VALUES, number=VALUES, unit=VALUES, truth=VALUES)
def test_no_guess_makes_it_raise(title, number, unit, truth):
    guesses = Predictions()
    for _ in range(2):
        guesses.predict(title, number, unit)
        guesses.reveal(title, truth)
    guesses.predict(title, 3, unit)
    guesses.summary()
