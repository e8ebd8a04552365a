"""Pictures of the cache: what they show is what the footprint says, and every control moves them."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import dsmem
from dsmem.footprint.growth import cache_growth, cache_kinds
from dsmem.plots import cache as cache_pictures
from dsmem.plots.cache import FORMATS, plot_cache
from dsmem.plots.curves import plot_rises, plot_seconds
from dsmem.plots.explorers import explore_cache

NAMES = ("deepseek-r1", "qwen2.5-72b", "llama-2-7b")
ARCHS = [dsmem.Architecture.from_config(name) for name in NAMES]
CHOOSING = ARCHS[0].scaled(index_n_heads=64, index_head_dim=128, index_topk=2048)  # as DeepSeek-V3.2


def axes():
    return Figure(layout="constrained").add_subplot()


@pytest.mark.parametrize("kv_cache", FORMATS)
@pytest.mark.parametrize("mla_cache", ["latent", "expanded"])
@pytest.mark.parametrize("arch", [*ARCHS, CHOOSING], ids=[*NAMES, "deepseek-v3.2"])
def test_the_first_bar_is_the_cache_in_the_footprint(arch, mla_cache, kv_cache):
    ax = plot_cache(arch, batch=3, seq_len=100, kv_cache=kv_cache, mla_cache=mla_cache, ax=axes())
    work = dsmem.Workload(3, 100, weights="bf16", kv_cache=kv_cache, mla_cache=mla_cache)
    parts = dsmem.inference_footprint(arch, work).parts
    held = sum(parts.get(part, 0) for part in ("kv_cache", "latent_cache", "indexer_cache", "cache_scales"))
    assert ax.dsmem_data[0][2] == held
    assert sum(bars[0].get_width() for bars in ax.containers) == held


def test_the_other_bars_are_those_of_deepseek_v2s_table():
    kinds = cache_kinds(ARCHS[0], 8)
    elements = [sum(heads * width for heads, width in rows.values()) for rows in kinds.values()]
    assert elements == [512 + 64, 2 * 128 * 128, 2 * 8 * 128, 2 * 128]  # arXiv 2405.04434, table 1


def test_every_control_moves_the_picture_and_no_value_breaks_it():
    explorer = explore_cache(ARCHS)
    for name, widget in explorer.controls.items():
        start, pictures = explorer.values[name], set()
        for _, value in widget.options:
            explorer.set(**{name: value})
            assert explorer.error is None
            pictures.add(explorer.png)
        assert len(pictures) == len(widget.options), name
        explorer.set(**{name: start})


def test_the_sentence_has_the_bytes():
    explorer = explore_cache(ARCHS, seq_len=1)
    assert "as built: MLA, latent, 70,272 bytes" in explorer.box.children[2].value
    explorer.set(mla_cache="expanded")
    assert "as built: MLA, expanded, 4,997,120 bytes" in explorer.box.children[2].value


def test_an_explored_picture_is_the_one_drawn_at_once():
    explorer = explore_cache(ARCHS)
    explorer.set(model="qwen2.5-72b", kv_cache="int8", num_key_value_heads=2)
    ax = plot_cache(ARCHS[1], kv_cache="int8", num_key_value_heads=2, ax=axes())
    assert explorer.figure.axes[0].dsmem_data == ax.dsmem_data


def test_an_unknown_format_is_refused(refuses):
    refuses(lambda: plot_cache(ARCHS[0], kv_cache="fp3", ax=axes()), "kv_cache", "'fp3'")


def test_times_are_drawn_and_booked():
    ax = plot_seconds(
        [1, 2], {"a": [1.0, 2.0], "b": 3.0}, measured={"a": (2, 2.5)}, xlabel="tokens", ax=axes(), title="x"
    )
    assert ax.dsmem_data == [("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0), ("b", 2, 3.0), ("a, measured", 2, 2.5)]
    assert ax.lines[0].get_color() == ax.lines[2].get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "a, measured"]
    assert np.allclose(ax.lines[1].get_ydata(), 3)


def test_importing_it_loads_no_widgets():
    assert "explore" not in vars(cache_pictures)


@pytest.mark.parametrize("kv_cache", ["fp32", "int8"])
@pytest.mark.parametrize("arch", ARCHS, ids=NAMES)
def test_growth_is_what_the_ledger_sees_of_caches_at_work(arch, kv_cache):
    arch = arch.scaled(num_hidden_layers=3, vocab_size=64, first_k_dense_replace=9)
    model, curves = dsmem.build_model(arch, "fp32", "fake"), cache_growth(arch, np.array([9, 10]), 20, kv_cache, 4)
    tokens = torch.zeros(1, 10, dtype=torch.long)
    for layout in ("static", "growing"):
        cache = model.new_cache(1, 20, kv_cache, layout)
        model(tokens[:, :9], cache=cache)
        assert cache.nbytes == curves[layout][0]
        with dsmem.Ledger(model) as ledger:
            model(tokens[:, 9:].clone(), cache=cache)
        assert cache.nbytes == curves[layout][1]
        if layout == "growing":
            assert ledger.timeline().by_category["kv_cache"].max() == curves["growing, while copied"][1]
    assert curves["paged, pages in use"].tolist() == [12 * curves["growing"][0] // 9] * 2


def test_rises_are_drawn_with_their_marks():
    ax = plot_rises({"a": ([8, 16], [3.0, 1.0])}, marks={"here": 12}, xlabel="tokens", ax=axes(), title="x")
    assert ax.dsmem_data == [("a", 8, 3.0), ("a", 16, 1.0)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "here"]
