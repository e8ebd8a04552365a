"""Published figures: each has its words and a source, and the value stands in the words or follows from them."""

import re

import pytest

from dsmem.config.quoted import published, quoted, quotes
from dsmem.config.source import model_names


def test_every_figure_has_words_and_a_source():
    for name in quotes().column("figure"):
        assert quoted(name) > 0
    assert all(re.search(r"https?://|arXiv \d{4}\.\d{4,5}", source) for source in quotes().column("source"))
    assert set(quotes().column("who says so")) == {"maker", "press", "standard", "measured", "stated", "simulated"}


def test_a_stack_is_its_pins_times_their_rate():
    assert quoted("HBM3E, a pin") * quoted("HBM3E, pins of a stack") / 8 == pytest.approx(
        quoted("HBM3E, a stack"), rel=0.02
    )


def test_the_published_ratios_follow_from_the_published_sizes():
    for row in published("huffman")["rows"]:
        assert row["df11"] / row["bf16"] == pytest.approx(row["ratio"], abs=0.006)


def test_the_timeline_is_in_order_and_every_model_is_known():
    rows = published("models")["rows"]
    assert [row["released"] for row in rows] == sorted(row["released"] for row in rows)
    assert {row["name"] for row in rows} <= set(model_names())
    for row in rows:  # the month is that of the report's number
        year, month = re.search(r"arXiv (\d\d)(\d\d)\.", row["report"]).groups()
        assert row["released"] == f"20{year}-{month}"


def test_the_reads_of_a_disk_are_whole_experts():
    for row in published("disk"):
        assert row["read_bytes"] in (None, row["reads"] * row["expert_bytes"])


def test_what_nobody_published_is_refused(refuses):
    refuses(lambda: quoted("warp"), "name='warp' is not a figure that is quoted")
    refuses(lambda: published("warp"), "topic='warp' is not a topic")
