"""What a step reads, plain numbers, and models over the years: what the pictures hold, and their sliders."""

import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem import plots
from dsmem.footprint import weight_bytes
from dsmem.footprint.reads import step_reads
from dsmem.plots.reads import SHOWN

MODELS = ["deepseek-r1", "deepseek-v3.2", "qwen2.5-0.5b", "gpt-oss-20b", "gpt2"]


def axes():
    return Figure(layout="constrained").subplots()


def sums(ax):
    found = {}
    for _, row, nbytes in ax.dsmem_data:
        found[row] = found.get(row, 0) + nbytes
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_bars_are_all_weights_and_what_a_step_reads(name):
    ax = plots.plot_reads(name, batch=4, tokens=512, ax=axes())
    cache = step_reads(dsmem.Architecture.of(name).scaled(index_topk=0, index_n_heads=0, index_head_dim=0), 4, 512)
    shown = sums(ax)
    if name != "deepseek-v3.2":  # whose indexer's keys are cached as well
        assert shown["resident"] == pytest.approx(weight_bytes(name) + cache["kv_cache"])
    assert shown["read in a step"] == pytest.approx(sum(step_reads(name, 4, 512).values()))
    assert {part for part, *_ in ax.dsmem_data} <= set(SHOWN)


def test_an_indexer_reads_less_of_the_cache_than_is_held():
    ax = plots.plot_reads("deepseek-v3.2", tokens=131_072, ax=axes())
    held, read = (nbytes for part, _, nbytes in ax.dsmem_data if part == "kv_cache")
    assert (held, read) == (85_888 * 131_072, 61 * 2 * (576 * 2048 + 128 * 131_072))


def test_the_title_says_share_and_time():
    title = plots.plot_reads("deepseek-r1", weights="fp8", memory=4.8e12, ax=axes()).get_title(loc="left")
    assert "reads 5.6% of what is resident" in " ".join(title.split()) and "4,800 GB/s" in title


def test_every_control_goes_to_each_end():
    explorer = dsmem.explore_reads(MODELS)
    assert explorer.error is None
    for name, widget in explorer.controls.items():
        for option in (widget.options[0][1], widget.options[-1][1]):
            explorer.set(**{name: option})
            assert explorer.error is None, (name, option)
        explorer.set(**{name: widget.options[0][1]})


def test_more_experts_a_token_or_a_larger_batch_read_more():
    explorer = dsmem.explore_reads("deepseek-r1")
    read = []
    for change in ({}, {"batch": 64}, {"num_experts_per_tok": 64}):
        explorer.set(**change)
        read.append(float(explorer.alt.partition(" GB resident, ")[2].partition(" GB")[0].replace(",", "")))
    assert read == sorted(read) and read[1] > 5 * read[0]


def test_numbers_are_drawn_as_they_are():
    ax = plots.plot_numbers(
        [1, 2, 4], {"chance": [2, 3, 5]}, measured={"chance": ([1, 4], [2, 5.1])}, level={"all": 8},
        xlabel="batch", ylabel="experts", ax=axes(),
    )  # fmt: skip
    assert ("chance", 4, 5) in ax.dsmem_data and ("chance, measured", 4, 5.1) in ax.dsmem_data
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["chance", "chance, measured", "all"]


def test_every_model_has_its_name_at_its_month():
    rows = [("one", "2024-01", 3.0, "MHA"), ("two", "2025-07", 300.0, "MLA")]
    ax = plots.plot_years(rows, ylabel="kB a token", ax=axes())
    assert [text.get_text() for text in ax.texts] == ["one", "two"]
    assert [line.get_xdata()[0] for line in ax.lines] == [2024.0, 2025.5]


def test_nothing_to_draw_is_refused(refuses):
    refuses(lambda: plots.plot_years([], ylabel="n", ax=axes()), "rows holds no model")
    refuses(lambda: plots.plot_reads("llama-2-7b", weights="fp7", ax=axes()), "weights='fp7'")
