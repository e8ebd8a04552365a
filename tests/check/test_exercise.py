"""What all exercises have in common: verdicts, remarks, hints, and the line to paste."""

import fractions
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import dsmem
from dsmem import check, formulas
from dsmem.check import EXERCISES, kv_cache_bytes, progress
from dsmem.check.answers import call, named
from dsmem.units import GB, GIB

BITS = ["`bits` ignored, always 2 bytes", "`bits // 8` too early"]
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
every_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=list(EXERCISES))


@pytest.fixture(autouse=True)
def fresh():
    """Nothing tried before a test, and nothing left of it after."""
    progress.forget()
    yield
    progress.forget()


def kv(convert=int, times=1):
    """The right function with its result multiplied and converted."""
    return lambda **inputs: convert(times * call(formulas.kv_cache_bytes, inputs))


def test_there_are_exercises_and_each_goes_by_its_name():
    assert len(EXERCISES) >= 8
    assert all(getattr(check, key) is exercise and exercise.key == key for key, exercise in EXERCISES.items())


@every_exercise
def test_the_reference_is_right(exercise, capsys):
    assert exercise(exercise.reference).ok
    assert re.fullmatch(rf"✓ {exercise.key}: right in all [3-9] cases\.\n", capsys.readouterr().out)


@pytest.mark.parametrize("formula", [f for name, f in vars(formulas).items() if name in EXERCISES])
def test_the_librarys_own_formula_is_right_as_it_stands(formula):
    assert EXERCISES[formula.__name__].examine(formula).ok


def raise_not_implemented():
    raise NotImplementedError


@every_exercise
@pytest.mark.parametrize("stub", [lambda: ..., raise_not_implemented, ..., lambda: NotImplemented, lambda: 2 * ...])
def test_the_stub_is_not_yet(exercise, stub, capsys):
    assert not exercise(stub).ok
    assert capsys.readouterr().out == f"○ {exercise.key}: not yet. {exercise.task}\n"


@every_exercise
def test_texts_are_sentences(exercise):
    for sentence in (exercise.task, exercise.nudge, *(mistake.hint for mistake in exercise.mistakes)):
        assert re.fullmatch(r"[A-Z`]((?!\. ).)*[.?]", sentence)
    assert len({mistake.name for mistake in exercise.mistakes}) == len(exercise.mistakes)


@every_exercise
def test_every_case_offers_the_same_inputs(exercise):
    assert len({tuple(case) for case in exercise.cases}) == 1
    assert exercise.key in repr(exercise) and all(name in repr(exercise) for name in exercise.cases[0])


def test_a_wrong_answer_where_nothing_is_right_is_shown_as_well(capsys):
    assert not check.padding_bytes(lambda lengths, token_bytes: call(check.padding_bytes.reference, vars()) or 1).ok
    assert "expected  0 bytes" in capsys.readouterr().out


def test_what_is_not_a_size_is_shown_in_its_own_unit(capsys):
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
        "  A common mistake: heads in place of key-value heads. Only num_key_value_heads heads are cached; several\n"
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


def test_a_factor_that_says_nothing_leads_to_the_hints():
    text = kv_cache_bytes.examine(kv(times=77)).text
    assert "remark" not in text and text.endswith("\n  Stuck? dsmem.check.kv_cache_bytes.hint()")
    assert "?." not in kv_cache_bytes.examine(kv(times=2)).text


@every_exercise
def test_every_input_of_the_right_answer_matters(exercise):
    """One that is a constant, or that another input stands for, gives a wrong answer in some case."""
    cases, reference = exercise.cases, exercise.reference
    for name in named(reference, cases[0]):
        values = [case[name] for case in cases]
        instead = [dict.fromkeys(map(id, cases), values[0])] if len(cases) > 1 else []
        for other in cases[0]:
            others = [case[other] for case in cases]
            if isinstance(others[0], int) and isinstance(values[0], int) and others != values:
                instead.append(dict(zip(map(id, cases), others, strict=True)))
        for value in instead:
            answers = [call(reference, case | {name: value[id(case)]}) for case in cases]
            assert not all(map(exercise.agree, answers, [call(reference, case) for case in cases])), name


@pytest.mark.parametrize("key", [key for key in EXERCISES if "bits" in EXERCISES[key].cases[0]])
def test_where_bits_are_given_both_mistakes_with_them_are_known(key):
    assert {mistake.name for mistake in EXERCISES[key].mistakes} >= set(BITS)


# --- Hints and the line to paste


@every_exercise
def test_hints_nudge_then_give_the_formula_then_the_place(exercise, capsys):
    texts = []
    for _ in range(4):
        assert exercise.hint() is None
        texts.append(capsys.readouterr().out)
    nudge, formula, place, again = texts
    assert nudge == f"Hint 1 for {exercise.key}: {exercise.nudge}\n"
    assert formula.startswith(f"Hint 2 for {exercise.key}, the formula") and "return " in formula
    assert place == again and place.startswith(f"No more hints for {exercise.key}: ")
    assert exercise.notebook in place


@every_exercise
def test_the_formula_of_the_second_hint_is_right(exercise):
    body = textwrap.indent(exercise.formula_text(), "    ")
    space = {}
    exec(f"def answer({', '.join(exercise.cases[0])}):\n{body}", space)
    assert exercise.examine(space["answer"]).ok


@pytest.mark.parametrize("exercise", [e for e in EXERCISES.values() if e.notebook], ids=lambda exercise: exercise.key)
def test_the_notebook_of_the_third_hint_has_the_exercise_and_its_answer(exercise):
    (path,) = NOTEBOOKS.glob(f"{exercise.notebook}_*.ipynb")
    text = path.read_text(encoding="utf-8")
    before, asked, after = text.partition(f"dsmem.check.{exercise.key}(")
    assert asked and "<summary>Answer</summary>" in after


def test_the_summary_is_one_line_and_what_was_solved_stays_solved(capsys):
    check.summary()
    kv_cache_bytes(kv())
    kv_cache_bytes(lambda: 1)
    check.logits_bytes(lambda: 1)
    check.peak_bytes(...)
    kv_cache_bytes.examine(kv())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"dsmem {dsmem.__version__}: no exercise tried yet."
    check.summary()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"dsmem {dsmem.__version__}: 1 of 3 solved  ✓ kv_cache_bytes  ✗ logits_bytes  ○ peak_bytes"


def test_a_notebook_shows_the_verdict_once(capsys):
    shell = InteractiveShell()
    result = kv_cache_bytes.examine(formulas.kv_cache_bytes)
    assert shell.display_formatter.format(result) == ({}, {})
    assert repr(result) == "Result(ok=True, mistake=None)"
    assert capsys.readouterr().out == ""


def test_importing_it_loads_no_torch_and_no_matplotlib():
    code = "import sys, dsmem.check; print({'torch', 'matplotlib', 'sympy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
