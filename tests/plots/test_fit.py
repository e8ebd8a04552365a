"""The map of what fits: exact limits, bands in order of darkness, and cells that agree with single answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import dsmem
from dsmem.footprint.fit.maps import fit_map, largest_batches
from dsmem.footprint.fit.verdict import fit
from dsmem.plots import fit as maps
from dsmem.plots import plot_fit

MODEL = "deepseek-r1-distill-qwen-7b"


@pytest.fixture
def ax():
    return Figure(layout="constrained").add_subplot()


@given(
    st.sampled_from(("int8", "fp16", "awq", "q4_k_m")),
    st.sampled_from(("decode", "prefill")),
    st.lists(st.integers(2, 40_000), min_size=1, max_size=4),
    st.lists(st.integers(1, 300), min_size=1, max_size=3),
    st.sampled_from(("T4", "2 x RTX 3090")),
)
@settings(max_examples=25)
def test_a_cell_is_a_single_answer(weights, phase, contexts, batches, gpu):
    fields = {"weights": weights, "phase": phase, "logits": "last"}
    cells = fit_map(MODEL, contexts, batches, gpu, **fields)
    assert cells.fits.shape == (len(batches), len(contexts))
    row, column = len(batches) - 1, len(contexts) - 1
    answer = fit(MODEL, gpu=gpu, batch=batches[-1], seq_len=contexts[-1], **fields)
    assert cells.needed_bytes[row, column] == answer.needed_bytes
    assert (cells.fits[row, column], cells.close[row, column]) == (answer.fits, answer.close)
    assert largest_batches(cells.asked, cells.devices, contexts)[column] == answer.largest_batch


def test_a_large_map_is_made_in_blocks():
    contexts, batches = np.arange(100, 1100), np.arange(1, 301)
    cells = fit_map(MODEL, contexts, batches, "T4", weights="int8", phase="decode")
    assert cells.needed_bytes.shape == (300, 1000) and (np.diff(cells.needed_bytes, axis=1) >= 0).all()
    assert (np.diff(cells.needed_bytes, axis=0) >= 0).all() and (cells.least_bytes <= cells.needed_bytes).all()
    assert "300,000 cells" in repr(cells)


def test_the_limits_in_the_picture_are_the_solvers(ax):
    assert plot_fit(MODEL, gpu="T4", beside=["RTX 4090"], weights="int8", most=64, ax=ax) is ax
    rows = {(name, context): batch for name, context, batch in ax.dsmem_data}
    for name, context in list(rows)[::40]:
        answer = fit(MODEL, gpu=name, weights="int8", phase="decode", seq_len=context)
        assert rows[name, context] == answer.largest_batch
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"limit of T4", "limit of RTX 4090", "does not fit", "needs up to 50%"} <= set(labels)
    assert "on T4 (14.57 GiB)" in " ".join(ax.get_title(loc="left").split())


def test_bands_are_told_apart_in_grey_and_what_does_not_fit_is_hatched():
    grey = [sum(np.array(to_rgb(color)) * (0.299, 0.587, 0.114)) for color in maps.BANDS.values()]
    grey.append(sum(np.array(to_rgb(maps.OVER["facecolor"])) * (0.299, 0.587, 0.114)))
    assert (np.diff(grey) < -0.05).all() and maps.OVER["hatch"] and maps.CLOSE["hatch"]


def test_the_map_ends_where_the_model_does_and_several_devices_have_one(ax):
    plot_fit("llama-1-65b", gpu="p4d.24xlarge", ax=ax, most=16)
    assert max(context for _, context, _ in ax.dsmem_data) == 2048
    assert {name for name, *_ in ax.dsmem_data} == {"p4d.24xlarge (8 × A100 40 GB)"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ax: plot_fit(MODEL, gpu="T5", ax=ax), ("T5",)),
        (lambda ax: plot_fit(MODEL, contexts=(512, 512), ax=ax), ("contexts=(512, 512)",)),
        (lambda ax: plot_fit(MODEL, most=1, ax=ax), ("most=1",)),
        (lambda ax: plot_fit(MODEL, ax="here"), ("ax='here'",)),
        (lambda ax: fit_map(MODEL, [0], [1]), ("contexts",)),
        (lambda ax: fit_map(MODEL, [1.5], [1]), ("contexts",)),
        (lambda ax: fit_map(MODEL, [8], [-1]), ("batches",)),
    ],
)
def test_nonsense_is_one_sentence(call, words, ax, refuses):
    refuses(lambda: call(ax), *words)


def test_the_front_door_has_it():
    assert "plot_fit" in dir(dsmem.plots)
