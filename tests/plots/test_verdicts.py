"""Claims by verdict, levers by what they save: every one is there, and its numbers are those of the table."""

import pytest
from matplotlib import style
from matplotlib.figure import Figure

import dsmem
from dsmem import plots
from dsmem.footprint.fit.levers import KINDS
from dsmem.plots.report import PAPER, _for_paper
from dsmem.plots.style import STYLE
from dsmem.table import Table


@pytest.fixture
def ax():
    return Figure(figsize=(7.5, 4), layout="constrained").subplots()


def test_every_claim_stands_in_the_row_of_its_verdict(ax):
    plots.plot_verdicts({"a": "wrong", "b": "holds", "c": "holds"}, ax=ax)
    places = {text.get_text().strip(): round(text.get_position()[1]) for text in ax.texts}
    assert places == {"b": 0, "c": 0, "a": 1}  # the larger row first
    assert ax.get_title(loc="left") == "Of 3 claims 2 hold, 1 wrong"


def test_letters_of_claims_stand_inside_their_boxes_in_a_column():
    """Twelve boxes in a row, some with two letters, at 3.5 inches and 8 points."""
    ax = Figure(figsize=(7.5, 3), layout="constrained").subplots()
    plots.plot_verdicts(dict.fromkeys("b e j p r t u y z aa ad ae".split(), "holds under conditions"), ax=ax)
    with style.context([*STYLE, PAPER]):
        copy = _for_paper(ax.figure, 3.5, {})
        copy.draw_without_rendering()
        (paper,) = copy.axes
        for text, box in zip(paper.texts, paper.patches, strict=True):
            inner, letters = box.get_window_extent(), text.get_window_extent()
            assert inner.x0 < letters.x0 and letters.x1 < inner.x1


def test_every_lever_is_as_long_as_its_share(ax):
    table = dsmem.levers("qwen2.5-0.5b", batch=4, seq_len=512)
    plots.plot_levers(table, top=3, ax=ax)
    widths = sorted((bar.get_width() for bars in ax.containers for bar in bars), reverse=True)
    assert widths == pytest.approx([100 * share for share in table.column("share")[:3]])
    assert sorted(number for _, _, number in ax.dsmem_data) == sorted(table.column("saved")[:3])


def test_every_kind_of_lever_has_a_look_of_its_own(ax):
    rows = [(f"lever {kind}", kind, 1, 2, 0.1) for kind in KINDS]
    plots.plot_levers(Table(dict.fromkeys(("lever", "kind", "left", "saved", "share")), rows), ax=ax)
    bars = [bar for bars in ax.containers for bar in bars]
    assert len({bar.get_facecolor() for bar in bars}) == len({bar.get_hatch() for bar in bars}) == len(KINDS)


def test_nothing_to_draw_is_said(refuses, ax):
    refuses(lambda: plots.plot_verdicts({}, ax=ax), "verdicts is empty")
    refuses(lambda: plots.plot_levers(Table({"lever": None}, []), ax=ax), "levers has no row")
