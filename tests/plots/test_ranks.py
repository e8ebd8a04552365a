"""Bars of ranks: as long as what ranks hold, beside the even share; every control moves them."""

import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem.footprint.sharded.rest import at_rest
from dsmem.plots import explorers
from dsmem.plots.ranks import ROWS, RanksPicture, plot_ranks

MODELS = ["qwen3-30b-a3b", "llama-1-65b"]
SPREAD = {"data": 4, "zero": 1, "tensor": 2}


def drawn(ax, row):
    return sum(n for _, place, n in ax.dsmem_data if place == row)


@pytest.mark.parametrize("training", [None, "adamw"])
def test_bars_are_as_long_as_what_ranks_hold(training):
    spread = SPREAD if training else {"tensor": 2, "pipeline": 3}
    ax = plot_ranks("llama-1-65b", sharding=spread, training=training, weights="bf16", ax=Figure().subplots())
    last = dsmem.Sharding.of(spread).ranks - 1
    for row, rank in zip(ROWS[1:], (0, last), strict=True):
        held = at_rest("llama-1-65b", sharding=spread, rank=rank, training=training, weights="bf16")
        assert drawn(ax, row) == sum(held.values())
    assert drawn(ax, ROWS[0]) <= max(drawn(ax, row) for row in ROWS[1:])


def test_the_title_names_ranks_and_the_share_of_a_card():
    ax = plot_ranks("deepseek-r1", sharding=8, weights="fp8", capacity="H200", ax=Figure().subplots())
    title = " ".join(ax.get_title(loc="left").split())
    assert "TP 8:" in title and "one of 8 ranks" in title and "of H200" in title and "even 78." in title


def test_every_option_of_every_control_moves_the_picture():
    explorer = explorers.explore_ranks(MODELS, capacity=["H200", "A100 80 GB"], expert=[1, 4])
    explorer.set(data=4, zero=1)
    for control, widget in explorer.controls.items():
        start = widget.value
        if control in ("batch", "seq_len", "attention", "weights"):  # of serving alone
            explorer.set(use="serving", zero=0, tensor=4)
        options = [getattr(value, "value", value) for value in explorer._allowed[control] or ()]
        seen = {explorer.alt}
        for value in [value for value in options if value != start][:1] + options[-1:]:
            explorer.set(**{control: value})
            seen.add(explorer.alt if explorer.error is None else explorer.error)
        assert len(seen) > 1, control
        explorer.set(**{control: start})
        explorer.set(use="training", zero=1, tensor=1)


def test_what_cannot_be_cut_so_leaves_the_picture():
    explorer = explorers.explore_ranks("llama-1-65b")
    before = explorer.png
    explorer.set(expert=4)
    assert "expert=4" in explorer.error and explorer.png == before
    explorer.set(expert=1, tensor=8)
    assert explorer.error is None and "TP 8" in explorer.alt


def test_what_is_no_field_is_refused(refuses):
    refuses(lambda: explorers.explore_ranks("gpt2", experts=[1, 2]), "field='experts'", "expert")


def test_a_picture_that_is_used_again_is_the_one_drawn_afresh():
    arch, pictures = dsmem.Architecture.of("llama-1-65b"), []
    for degrees in ([8, 2], [2]):
        pictures.append(RanksPicture(Figure(layout="constrained").subplots()))
        for tensor in degrees:
            pictures[-1](arch, None, dsmem.Sharding(tensor=tensor), None, weights="bf16")
    assert pictures[0].ax.dsmem_data == pictures[1].ax.dsmem_data
