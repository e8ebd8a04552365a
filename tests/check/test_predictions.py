"""Guesses are noted, compared with the truth and drawn; a cell that runs again changes nothing."""

import pytest
from matplotlib.figure import Figure

from dsmem.check import Predictions
from dsmem.check.predictions import _distance
from dsmem.units import GIB


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
    assert printed(capsys) == [repr(guesses)] == ["No guesses yet."]


@pytest.mark.parametrize(
    ("text", "unit", "noted"),
    [
        ("13 GiB", "GiB", "13 GiB"),
        ("7 gb", "GiB", "7 GB"),
        ("1,024 M", "GiB", "1,024 MiB"),
        (" 3.2 ", "GiB", "3.2 GiB"),
        ("860000 bytes", "KiB", "860,000 bytes"),
        ("40%", "%", "40 %"),
        ("40 %", "% of the cache", "40 % of the cache"),
        ("37 billion", "billion", "37 billion"),
    ],
)
def test_a_guess_may_be_a_text(guesses, capsys, text, unit, noted):
    guesses.predict("a", text, unit)
    assert printed(capsys) == [f"Noted: a, {noted}."]


def test_a_text_counts_in_its_own_unit(guesses, capsys):
    guesses.predict("weights", "13 GB", "GiB")
    guesses.reveal("weights", 13 * 10**9)
    assert printed(capsys)[1] == "weights: 13 GB. You said 13 GB: right."


@pytest.mark.parametrize(("text", "unit"), [("7 GiB", "%"), ("cats", "GiB"), ("3 cats", "GiB"), ("9" * 400, "GiB")])
def test_a_text_that_is_not_a_guess_is_refused(guesses, capsys, text, unit):
    guesses.predict("a", text, unit)
    (line,) = printed(capsys)
    assert line.startswith(f"No guess yet: a. It must be one number of {unit} above 0, and this is the text '")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("three", "the text 'three'"),
        (-1, "the number -1"),
        (0, "the number 0"),
        (float("nan"), "a number that is not a size"),
        ([3], "a value of type list"),
        (True, "a value of type bool"),
    ],
)
def test_an_odd_guess_or_truth_gets_one_sentence(guesses, capsys, number, words):
    guesses.predict("a", number)
    guesses.reveal("b", number)
    first, second = printed(capsys)
    assert first == f"No guess yet: a. It must be one number of GiB above 0, and this is {words}."
    assert second == f"b: the truth must be one number above 0, and this is {words}."


def test_without_a_guess_the_picture_says_so(guesses):
    guesses.predict("a", ...)
    guesses.reveal("a", GIB)
    ax = guesses.plot(Figure(layout="constrained").add_subplot())
    assert ax.get_title(loc="left") == "No guess to compare yet"
    assert [label.get_text() for label in ax.get_yticklabels()] == []


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
