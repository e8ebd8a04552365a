"""Claims by verdict, levers by what they save: every one is there, and its numbers are those of the table."""

import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem import plots
from dsmem.table import Table


@pytest.fixture
def ax():
    return Figure(figsize=(7.5, 4), layout="constrained").subplots()


def test_every_claim_stands_in_the_row_of_its_verdict(ax):
    plots.plot_verdicts({"a": "wrong", "b": "holds", "c": "holds"}, ax=ax)
    places = {text.get_text().strip(): round(text.get_position()[1]) for text in ax.texts}
    assert places == {"b": 0, "c": 0, "a": 1}  # the larger row first
    assert ax.get_title(loc="left") == "Of 3 claims 2 hold, 1 wrong"


def test_every_lever_is_as_long_as_its_share(ax):
    table = dsmem.levers("qwen2.5-0.5b", batch=4, seq_len=512)
    plots.plot_levers(table, top=3, ax=ax)
    widths = sorted((bar.get_width() for bars in ax.containers for bar in bars), reverse=True)
    assert widths == pytest.approx([100 * share for share in table.column("share")[:3]])
    assert sorted(number for _, _, number in ax.dsmem_data) == sorted(table.column("saved")[:3])


def test_nothing_to_draw_is_said(refuses, ax):
    refuses(lambda: plots.plot_verdicts({}, ax=ax), "verdicts is empty")
    refuses(lambda: plots.plot_levers(Table({"lever": None}, []), ax=ax), "levers has no row")
