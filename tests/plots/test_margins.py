"""Answers beside each other: every byte of a bar is the answer's, and a bar crosses the line where it does not fit."""

import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem.plots import plot_margins
from dsmem.units import format_bytes

ANSWERS = {
    "fits": dsmem.fit("deepseek-r1-distill-qwen-7b", gpu="RTX 4090", batch=4),
    "does not": dsmem.fit("deepseek-r1-distill-qwen-7b", gpu="T4", batch=4),
    "shared out": dsmem.fit("llama-1-65b", gpu="p4d.24xlarge", seq_len=2048),
    "a step": dsmem.fit("qwen2.5-1.5b", gpu="T4", training=True, seq_len=2048),
}


@pytest.fixture(scope="module")
def ax():
    return plot_margins(ANSWERS, ax=Figure(layout="constrained").add_subplot())


def test_the_parts_of_a_bar_are_what_is_needed(ax):
    for label, answer in ANSWERS.items():
        assert sum(nbytes for _, other, nbytes in ax.dsmem_data if other == label) == answer.needed_bytes


def test_a_bar_ends_beyond_the_line_where_its_answer_does_not_fit(ax):
    for row, answer in enumerate(ANSWERS.values()):
        end = max(bars[row].get_x() + bars[row].get_width() for bars in ax.containers)
        assert end == pytest.approx(100 * answer.needed_bytes / answer.usable_bytes)
        assert (end <= 100) == answer.fits
        word = "spare" if answer.fits else "missing"
        assert ax.texts[row].get_text() == f"{format_bytes(abs(answer.spare_bytes))} {word}"


def test_the_title_counts_those_that_fit_unless_one_is_given(ax):
    assert ax.get_title(loc="left") == "2 of 4 fit"


@pytest.mark.parametrize("answers", [{}, [], None, ANSWERS["fits"]])
def test_no_answers_are_refused_in_one_sentence(answers, refuses):
    refuses(lambda: plot_margins(answers), "answers")
