"""The quiz: its right answers are right by the library, and no answer raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsmem
from dsmem import formulas
from dsmem.check.questions import QUESTIONS
from dsmem.check.quiz import Quiz
from dsmem.footprint.stored import cache_bytes, weight_bytes

SEVEN = "deepseek-r1-distill-qwen-7b"
RIGHT = "".join(question.right for question in QUESTIONS)


def test_twenty_questions_of_four_answers_each():
    assert len(QUESTIONS) == 20
    for question in QUESTIONS:
        assert len(set(question.options)) == 4 and question.right in "abcd" and question.why.endswith(".")
    assert 3 <= min(map(RIGHT.count, "abcd"))
    assert [question.notebook for question in QUESTIONS[-3:]] == ["07", "08", "09"]


def option(number):
    question = QUESTIONS[number - 1]
    return question.options["abcd".index(question.right)]


def test_right_answers_are_computed():
    weights = weight_bytes(SEVEN)
    assert option(1) == f"{weights / 2**30:.1f} GiB"
    assert round(weight_bytes(SEVEN, "int8") / 2**30, 1) == 8.1
    fp = dsmem.inference_footprint(SEVEN, batch=4, seq_len=1024)
    assert fp.peak_instant == "lm_head" and option(4) == "at the head"
    deep, shallow = (dsmem.Architecture.of(SEVEN).scaled(num_hidden_layers=n) for n in (4, 2))
    works = [dsmem.inference_footprint(arch, seq_len=512).working_bytes for arch in (deep, shallow)]
    assert works[0] == works[1] and option(6) == "it stays"
    r1, llama = (sum(cache_bytes(name, seq_len=1).values()) for name in ("deepseek-r1", "llama-2-7b"))
    assert (r1, llama) == (70_272, 524_288) and round(llama / r1) == 7
    assert dsmem.replay([(1, 1000, "")]).peak_reserved_bytes == 2 * 2**20 and option(12) == "2 MiB"
    assert formulas.optimizer_states_bytes(1, 2, 32) == int(option(14))
    lora = weights + formulas.training_states_bytes(7_615_616, 16, 16, 32, 32)
    assert option(17) == f"{lora / 1e9:.1f} GB"
    h100, r1 = dsmem.GPUS["H100"].usable_bytes, weight_bytes("deepseek-r1", "fp8")
    assert r1 < 8 * h100 < 1.02 * r1 and "useful cache does not" in option(19)
    assert option(20) == f"{weights / 4.8e12 * 1e3:.1f} ms"


def test_fused_working_memory_is_proportional_to_the_length():
    work = [dsmem.inference_footprint(SEVEN, seq_len=n, logits="last").working_bytes for n in (8192, 16384)]
    assert work[1] / work[0] == pytest.approx(2, rel=0.01) and option(5) == "in proportion"


def test_it_counts_and_explains(capsys):
    quiz = Quiz()
    quiz("after", RIGHT.upper())
    quiz.explain(RIGHT)
    wrong = ("a" if RIGHT[0] != "a" else "b") + RIGHT[1:]
    quiz.explain(list(wrong))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"dsmem quiz, after: 20 of 20 right, 0 wrong, 0 open  {RIGHT}"
    assert lines[1].startswith("All right") and lines[2].startswith("1. ") and QUESTIONS[0].why in lines[2]
    assert len(lines) == 3


def test_it_shows_the_questions_and_not_the_answers():
    shown = repr(Quiz()) + Quiz()._repr_html_()
    assert all(question.options[3] in shown for question in QUESTIONS)
    assert not any(question.why in shown for question in QUESTIONS)


@given(st.one_of(st.none(), st.integers(), st.text(max_size=30), st.lists(st.integers(), max_size=25), st.binary()))
def test_nothing_is_ever_raised(answers):
    Quiz()("before", answers)
    Quiz().explain(answers)
