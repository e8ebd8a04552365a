"""Pictures of weights: what they show is what is stored, and they follow every menu."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem.config.schemes import SCHEMES
from dsmem.footprint.stored import KEPT, weight_parts
from dsmem.plots import weights as weighing
from dsmem.plots.explorers import explore_weights

ARCHS = {name: dsmem.Architecture.from_config(name) for name in dsmem.model_names()}
SEVEN, R1 = ARCHS["deepseek-r1-distill-qwen-7b"], ARCHS["deepseek-r1"]
GPUS = {"T4": 15_642_329_088, "8 × H200": 8 * 150_109_945_856}


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def bars(ax):
    """{(part, row): (left, width)} of the bars that can be seen."""
    return {
        (container.get_label(), row): (patch.get_x(), patch.get_width())
        for container in ax.containers
        for row, patch in enumerate(container)
        if patch.get_visible()
    }


def test_the_bars_are_the_parts_and_follow_each_other():
    ax = weighing.plot_weights(SEVEN, weights="int8", ax=Figure(layout="constrained").subplots())
    for row, weights in enumerate(("bf16", "int8")):
        parts = weight_parts(SEVEN, weights)
        drawn = {part: span for (part, at), span in bars(ax).items() if at == row}
        assert {part: width for part, (_, width) in drawn.items()} == parts
        assert [left for left, _ in drawn.values()] == [0, *np.cumsum(list(parts.values()))[:-1]]
    assert " ".join(ax.get_title(loc="left").split()) == f"{SEVEN.name} in int8: 8.11 GiB, 57.2% of BF16"
    assert ("mlp", "int8", 5_703_204_864) in ax.dsmem_data


def test_every_menu_to_each_option():
    explorer = explore_weights([SEVEN, R1, ARCHS["qwen2.5-0.5b"]], GPUS)
    for model in explorer.controls["model"].options:
        explorer.set(model=model[1])
        for control, widget in explorer.controls.items():
            start = widget.value
            for _, value in widget.options:
                explorer.set(**{control: value})
                assert explorer.error is None and explorer.values[control] == value
                words, arch = explorer.box.children[2].value, ARCHS[explorer.values["model"]]
                kept = KEPT[explorer.values["kept"]]
                total = sum(weight_parts(arch, explorer.values["weights"], modules_to_not_convert=kept).values())
                assert f"{total:,} bytes" in words
                ax = explorer.figure.axes[0]
                assert ax.get_xlim()[1] > total
                assert all(label.get_window_extent().x0 >= 0 for label in ax.get_yticklabels())  # none is cut off
            explorer.set(**{control: start})


def test_a_much_used_picture_is_the_one_drawn_afresh():
    used, fresh = (explore_weights([SEVEN, R1], GPUS) for _ in range(2))
    used.set(model=R1.name, weights="nf4", kept="nothing more", gpu="8 × H200")
    used.set(**fresh.values)
    assert used.png == fresh.png


def test_a_tied_head_stays_and_the_words_say_so():
    explorer = explore_weights([ARCHS["qwen2.5-0.5b"]], GPUS)
    explorer.set(kept="nothing more")
    assert "its head is the embedding and stays" in explorer.box.children[2].value


def test_every_model_is_a_row_and_every_format_a_marker(ax):
    formats = {each: {name: sum(weight_parts(ARCHS[name], each).values()) for name in ARCHS} for each in SCHEMES}
    weighing.plot_models(formats, capacity=GPUS, ax=ax, title="All")
    points = {line.get_label(): line for line in ax.lines if line.get_label() in SCHEMES}
    assert {name: list(line.get_xdata()) for name, line in points.items()} == {
        name: list(found.values()) for name, found in formats.items()
    }
    assert [text.get_text() for text in ax.get_yticklabels()] == list(ARCHS)
    low, high = ax.get_xlim()
    assert all(low < n < high for found in formats.values() for n in found.values())


def test_weights_and_cache_are_a_point_for_each_model(ax):
    weighing.plot_weights_and_cache(
        {"R1": (2 * R1.n_params, 70_272), "7B": (2 * SEVEN.n_params, 57_344)}, ax=ax, title="x"
    )
    assert [text.get_text() for text in ax.texts] == ["R1", "7B"]
    assert ("cache per token", "R1", 70_272) in ax.dsmem_data
