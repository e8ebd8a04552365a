"""Explorers without a browser: every control is driven, the picture follows, and nothing that goes wrong is lost."""

import base64
import io
import re
import subprocess
import sys
import threading

import ipywidgets
import nbconvert
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import dsmem
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.plots import axes, explorers, families, report, widgets
from dsmem.plots import footprint as pictures
from dsmem.units import FLOATS, QUANTIZED

ARCHS = [dsmem.Architecture.from_config(f"deepseek-r1-distill-{name}") for name in ("qwen-7b", "llama-8b")]
GPUS = {"T4": 15_637_086_208, "A100 80 GB": 85_100_000_000}
EXPLORERS = {"footprint": explorers.explore_footprint, "curves": explorers.explore_curves}
PICTURES = {"footprint": pictures.plot_footprint, "curves": pictures.plot_lengths}
# Here attention and MLP decide the peak, so that every control changes bytes.
START = {"batch": 4, "seq_len": 8192, "logits": "last"}
every_explorer = pytest.mark.parametrize("name", EXPLORERS)


def explorer_of(name, **values):
    explorer = EXPLORERS[name](ARCHS, capacity=GPUS)
    explorer.set(**values)
    return explorer


def options(widget):
    """Every value of a selection."""
    return [value for _, value in widget.options]


def words(explorer):
    """The sentence under the picture."""
    return explorer.box.children[2].value


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def toy(fail_at=None):
    """A drawing of one point at (x, 1), which fails at one value."""

    def draw(ax, x, **_):
        ax.set_xlim(0, 10)
        point = ax.plot([x], [1], "o")[0]

        def update(x, **others):
            point.set_xdata([x])
            if x == fail_at:
                raise RuntimeError(f"no <b>{x}</b>\nhere")
            return f"x is {x}"

        return update

    return draw


# --- The explorers of the kit -----------------------------------------------------------------------------------------


@every_explorer
def test_every_option_of_every_control(name):
    explorer = explorer_of(name, **START)
    figure, [ax], size = explorer.figure, explorer.figure.axes, Image.open(io.BytesIO(explorer.png)).size
    for control, widget in explorer.controls.items():
        start, changes = widget.value, 0
        for value in [value for value in options(widget) if value != start] + [start]:
            png, said, numbers = explorer.png, words(explorer), (ax.get_title(loc="left"), ax.dsmem_data)
            explorer.set(**{control: value})
            assert explorer.error is None and explorer.values[control] == value
            # Two formats of one width are the same picture, but never the same words.
            assert (explorer.png != png) == ((ax.get_title(loc="left"), ax.dsmem_data) != numbers)
            assert words(explorer) != said or control == "gpu"
            assert explorer.box.children[1].value == explorer.png
            assert Image.open(io.BytesIO(explorer.png)).size == size
            changes += explorer.png != png
        assert changes >= 2, control
    assert explorer.figure is figure and explorer.figure.axes == [ax]


@every_explorer
def test_the_ends_of_all_controls_together(name):
    explorer = explorer_of(name)
    for end in (0, -1):
        explorer.set(**{control: options(widget)[end] for control, widget in explorer.controls.items()})
        assert explorer.error is None


@every_explorer
def test_a_much_used_picture_is_the_one_drawn_afresh(name):
    used = explorer_of(name)
    for step in (
        {"batch": 512, "seq_len": 131_072, "attention": "eager", "gpu": "none"},
        {"batch": 1, "seq_len": 128, "weights": "int8_w8a8", "model": ARCHS[1].name},
        START | {"attention": "expanded", "gpu": "A100 80 GB"},
    ):
        used.set(**step)
    assert np.array_equal(pixels(used.png), pixels(explorer_of(name, **used.values).png))


@every_explorer
def test_the_kept_layer_changes_no_pixel(name):
    explorer = explorer_of(name, **START)
    explorer.set(batch=8)
    for artist in explorer.figure.axes[0].get_children():
        artist.set_animated(False)
    explorer.figure.canvas.draw()
    assert np.array_equal(pixels(explorer.png), np.asarray(explorer.figure.canvas.buffer_rgba())[..., :3])


@pytest.mark.parametrize("weights", ["fp16", "int8_w8a8"])
@pytest.mark.parametrize("attention", ["fused", "eager"])
def test_bars_are_as_long_as_the_footprint_says(weights, attention):
    work = {"batch": 8, "seq_len": 4096, "weights": weights, "attention": attention}
    picture = pictures.FootprintPicture(Figure(layout="constrained").subplots())
    picture(ARCHS[0], Workload(**work))
    fp = inference_footprint(ARCHS[0], Workload(**work))
    drawn = [corner for bar in picture.bars for corner in bar.get_path().vertices]
    assert 0 <= fp.total_bytes - max(x for x, _ in drawn) < picture.reach / 1000
    sums = families.by_family(fp.parts)
    row = picture.rows.index(fp.peak_instant.split()[0])
    for bar, nbytes in zip(picture.bars, sums.values(), strict=True):
        x = [x for x, y in bar.get_path().vertices if round(y) == row]
        assert (max(x) - min(x) if x else 0) == (nbytes if nbytes > picture.reach / 1000 else 0)
    in_row = [n for family, place, n in picture.ax.dsmem_data if place == picture.rows[row]]
    assert sum(in_row) == fp.total_bytes == sum(sums.values())


def test_curves_hold_the_footprint():
    work = {"batch": 2, "seq_len": 4096, "attention": "eager"}
    picture = pictures.LengthsPicture(Figure(layout="constrained").subplots())
    picture(ARCHS[0], Workload(**work))
    fp = inference_footprint(ARCHS[0], Workload(**work))
    for line, nbytes in zip(picture.lines, families.by_family(fp.parts).values(), strict=True):
        [height] = line.get_ydata()[(line.get_xdata() == 4096) & ~np.isnan(line.get_ydata())] if nbytes else [0]
        assert height == nbytes
    assert picture.total.get_ydata()[list(picture.total.get_xdata()).index(4096)] == fp.total_bytes
    assert max(picture.dots.get_ydata()) == fp.total_bytes


@every_explorer
def test_texts_stay_inside_the_picture(name):
    explorer = explorer_of(name, **START)
    for values in (
        {"batch": 512, "seq_len": 131_072, "weights": "int8_w8a8", "attention": "expanded", "gpu": "A100 80 GB"},
        {"attention": "eager", "weights": "fp32"},
        {"batch": 1, "seq_len": 128, "gpu": "none"},
    ):
        explorer.set(**values)
        ax, width = explorer.figure.axes[0], explorer.figure.bbox.width
        for text in [*ax.texts, ax._left_title, *ax.get_yticklabels(), *ax.get_legend().get_texts()]:
            box = text.get_window_extent()
            assert not text.get_text() or not text.get_visible() or (box.x0 >= 0 and box.x1 <= width), text


@every_explorer
def test_the_static_twin_is_the_same_picture(name):
    explorer = explorer_of(name, **START)
    ax = Figure(figsize=(7.5, 4.6), dpi=100, layout="constrained").subplots()
    state = {key: value for key, value in explorer.values.items() if key not in ("model", "gpu")}
    assert PICTURES[name](ARCHS[0], capacity=("T4", GPUS["T4"]), ax=ax, **state) is ax
    assert ax.dsmem_data == explorer.figure.axes[0].dsmem_data
    assert axes.title_of(ax) == axes.title_of(explorer.figure.axes[0])


@every_explorer
def test_controls_of_any_field(name):
    explorer = EXPLORERS[name](ARCHS[0], phase=["prefill", "decode"], kv_cache=["fp16", "fp32"], logits="last")
    assert {"model", "logits", "gpu"}.isdisjoint(explorer.controls)
    explorer.set(phase="decode", kv_cache="fp32")
    assert explorer.error is None and "decode of 4 × 1,024 tokens" in words(explorer)


def test_every_format_of_weights_has_its_option():
    assert set(explorers.CONTROLS["weights"]) == {*FLOATS, *QUANTIZED}


def test_every_part_has_a_family():
    for name in dsmem.model_names():
        arch = dsmem.Architecture.from_config(name)
        for weights in explorers.CONTROLS["weights"]:
            for attention in explorers.CONTROLS["attention"]:
                fp = inference_footprint(arch, Workload(weights=weights, attention=attention))
                parts = {part for parts in fp.instants.values() for part in parts}
                others = {part for part in parts if families.family_of(part) == "other"}
                assert others <= {"buffers", "token_ids", "rope_tables"}


def test_a_report_of_an_explorer(tmp_path):
    explorer = explorer_of("footprint")
    paths = report.save_report(explorer.figure.axes[0], "explored", folder=tmp_path, formats=("png", "pdf"))
    assert all(path.stat().st_size for path in paths)
    before = explorer.png
    explorer.set(batch=8)
    explorer.set(batch=4)
    assert explorer.png == before


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"arch": []}, r"arch=\[\] names no model; it must be a model or a list of them"),
        ({"arch": "r2"}, "source='r2' is neither a file nor a known model; .*"),
        ({"capacity": 5}, "capacity=5 is not a capacity; .*"),
        ({"batches": (1, 2)}, "field='batches' is not a field of Workload; allowed: batch, seq_len, phase, .*"),
    ],
)
def test_what_an_explorer_cannot_show(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        explorers.explore_footprint(**{"arch": ARCHS} | arguments)


# --- explore ----------------------------------------------------------------------------------------------------------


def test_each_spec_makes_its_control():
    ready = ipywidgets.FloatSlider(min=0, max=1, value=0.5)
    specs = {"x": (2, 16, 8), "y": (1, 4), "n": [1, 3], "kind": ["a", "b"], "on": True, "k": range(0, 9, 2)}
    explorer = widgets.explore(toy(), **specs, ready=ready, fixed="text", none=None)
    kinds = {name: type(widget).__name__ for name, widget in explorer.controls.items()}
    sliders = dict.fromkeys(("x", "y", "n"), "SelectionSlider")
    others = {"kind": "Dropdown", "on": "Checkbox", "k": "IntSlider", "ready": "FloatSlider"}
    assert kinds == sliders | others
    first = {"x": 8, "y": 1, "n": 1, "kind": "a", "on": True, "k": 0, "ready": 0.5, "fixed": "text", "none": None}
    assert explorer.values == first
    assert options(explorer.controls["x"]) == [2, 4, 8, 16]
    assert repr(explorer).startswith("Explorer(x=8, y=1,")


@pytest.mark.parametrize(
    "spec", [(1, 3), (4, 2), (1, 8, 16), (2,), (0, 4), [], range(3, 3), range(9, 0, -1), {1: 2}, len]
)
def test_no_other_spec_makes_a_control(spec):
    with pytest.raises(ValueError, match=r"^x=.* makes no control; allowed: [^\n]*$"):
        widgets.explore(toy(), x=spec)


def test_labels_have_units_and_room():
    explorer = explorer_of("footprint")
    assert explorer.controls["batch"].description == "batch (sequences)"
    assert explorer.controls["seq_len"].description == "length (tokens)"
    for widget in explorer.controls.values():
        assert widget.style.description_width == "130px" and len(widget.description) <= 17


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"y": 1}, "y=1 has no control; allowed: x, k, on, ready"),
        ({"x": 3}, "x=3 is not a value of this control; allowed: 1, 2, 4, 8"),
        ({"x": 2, "k": 3}, "k=3 is not a value of this control; allowed: 0, 2, 4, 6, 8"),
        ({"x": 2, "on": "yes"}, "on='yes' is not a value of this control; allowed: False, True"),
        ({"x": 2, "ready": "deep"}, "ready='deep' is not a value of this control; allowed: .*"),
    ],
)
def test_set_refuses_in_one_sentence_and_moves_nothing(values, sentence):
    ready = ipywidgets.FloatSlider(min=0, max=1, value=0.5)
    explorer = widgets.explore(toy(), x=(1, 8, 4), k=range(0, 9, 2), on=False, ready=ready)
    before, png = explorer.values, explorer.png
    with pytest.raises(ValueError) as caught:
        explorer.set(**values)
    assert "\n" not in str(caught.value)
    assert str(caught.value) == sentence or str(caught.value).startswith(sentence.removesuffix(".*"))
    assert explorer.values == before and explorer.png == png


def test_it_draws_only_when_a_value_changes():
    drawn = []

    def draw(ax, **values):
        return lambda **values: drawn.append(values)

    explorer = widgets.explore(draw, x=(1, 8), y=(1, 8))
    explorer.set(x=1)
    assert len(drawn) == 1
    explorer.set(x=2, y=4)
    assert drawn[1:] == [{"x": 2, "y": 4}]


def test_an_error_is_reported_and_nothing_is_lost():
    explorer = widgets.explore(toy(fail_at=2), x=(1, 8))
    good = explorer.png
    explorer.set(x=2)
    assert explorer.error == "no <b>2</b> here" and explorer.png == good and explorer.values == {"x": 2}
    assert 'role="alert"' in words(explorer) and "no &lt;b&gt;2&lt;/b&gt; here" in words(explorer)
    explorer.set(x=1)
    assert explorer.error is None and explorer.png == good and "x is 1" in words(explorer)
    explorer.set(x=2)
    explorer.set(x=4)
    assert explorer.error is None and explorer.png != good


def test_an_error_of_the_first_drawing_is_raised():
    with pytest.raises(ValueError, match="^draw must return the function that moves its artists, got None$"):
        widgets.explore(lambda ax, x: None, x=(1, 2))
    with pytest.raises(RuntimeError, match="^no <b>1</b>"):
        widgets.explore(toy(fail_at=1), x=(1, 2))


@pytest.mark.parametrize(
    "beside", [lambda ax: ax.twinx().plot([0, 10], [0, 1]), lambda ax: ax.figure.text(0.5, 0.5, "t")]
)
def test_what_else_is_in_the_figure_is_drawn_in_its_place(beside):
    def draw(ax, x):
        beside(ax)
        return toy()(ax, x)

    explorer = widgets.explore(draw, x=(1, 8))
    explorer.set(x=8)
    explorer.figure.canvas.draw()
    assert np.array_equal(pixels(explorer.png), np.asarray(explorer.figure.canvas.buffer_rgba())[..., :3])


def test_artists_may_come_and_go():
    def draw(ax, x):
        ax.set(xlim=(0, 10), ylim=(0, 10))

        def update(x):
            for text in list(ax.texts):
                text.remove()
            ax.text(x, 5, f"{x}")

        return update

    explorer = widgets.explore(draw, x=(1, 8))
    first = explorer.png
    explorer.set(x=8)
    assert explorer.png != first
    explorer.set(x=1)
    assert explorer.png == first


def test_a_figure_that_somebody_changed_and_drew_is_up_to_date():
    explorer = widgets.explore(toy(), x=(1, 8))
    explorer.figure.axes[0].set_facecolor("grey")
    explorer.figure.savefig(io.BytesIO(), dpi=50)
    explorer.set(x=8)
    changed = pixels(explorer.png)
    explorer.figure.axes[0].set_facecolor("white")
    explorer.set(x=4)
    explorer.set(x=8)
    assert changed.shape == pixels(explorer.png).shape and not np.array_equal(changed, pixels(explorer.png))


# --- As a front end does it -------------------------------------------------------------------------------------------


@every_explorer
def test_the_last_of_a_quick_burst_wins(name):
    explorer = explorer_of(name)
    slider = explorer.controls["batch"]
    for index in [*range(10), 3]:
        slider.set_state({"index": index})  # what a message from the page comes to
    assert explorer.values["batch"] == 8
    assert explorer.png == explorer_of(name, batch=8).png


@every_explorer
def test_two_threads_leave_the_newest_picture(name):
    explorer = explorer_of(name)

    def press(control, indices):
        for index in indices:
            explorer.controls[control].set_state({"index": index})

    threads = [
        threading.Thread(target=press, args=("batch", [*range(10), 5])),
        threading.Thread(target=press, args=("seq_len", [*range(11), 2])),
    ]
    for thread in threads:
        thread.start()
    explorer.set(weights="int8")
    for thread in threads:
        thread.join(60)
    assert explorer.error is None
    assert explorer.values | {"batch": 32, "seq_len": 512, "weights": "int8"} == explorer.values
    assert explorer.png == explorer_of(name, batch=32, seq_len=512, weights="int8").png


def test_it_shows_its_controls_and_without_a_kernel_its_picture():
    explorer = widgets.explore(toy(), x=(1, 8))
    bundle = explorer._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.box.model_id
    found = re.search(r'<img [^>]*alt="x is 1" src="data:image/png;base64,([^"]*)"', bundle["text/html"])
    assert np.array_equal(pixels(base64.b64decode(found[1])), pixels(explorer.png))


def test_exported_html_has_the_picture():
    cell = nbformat.v4.new_code_cell("x")
    data = widgets.explore(toy(), x=(1, 8))._repr_mimebundle_()
    cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
    page, _ = nbconvert.HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert 'alt="x is 1"' in page and "VBox" not in page


def test_a_picture_has_a_name_for_those_who_cannot_see_it():
    explorer = widgets.explore(toy(), x=(1, 8))
    assert explorer.alt == "x is 1" and ">x is 1<" in words(explorer)
    explorer.set(x=8)
    assert explorer.alt == "x is 8" and ">x is 8<" in words(explorer)


def test_a_picture_without_a_sentence_is_described_to_screen_readers_alone():
    def draw(ax):
        ax.set_title("a finding", loc="left")
        ax.dsmem_data = []
        return lambda: None

    explorer = widgets.explore(draw)
    assert "a finding" in words(explorer) and "clip-path" in words(explorer)


def test_no_part_has_a_tooltip():
    """JupyterLab shows nothing in place of an Image that has one ("Could not create a view", ipywidgets 8.1.9)."""
    explorer = explorer_of("footprint")
    assert [getattr(part, "tooltip", None) for part in explorer.box.children] == [None] * 3


def test_models_and_gpus_are_named_in_any_form():
    explorer = explorers.explore_footprint(["llama-2-7b", "deepseek-r1"], capacity=["T4", "8 x H200"])
    assert [label for label, _ in explorer.controls["gpu"].options] == ["T4", "8 × H200", "none"]
    assert [label for label, _ in explorer.controls["model"].options] == ["llama-2-7b", "deepseek-r1"]


def test_menus_in_place_of_sliders():
    explorer = widgets.explore(toy(), menus=True, x=(1, 8), y=[3, 2], on=True)
    assert [type(widget).__name__ for widget in explorer.controls.values()] == ["Dropdown", "Dropdown", "Checkbox"]
    assert options(explorer.controls["y"]) == [2, 3] and explorer.values["y"] == 3


# --- What an import costs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, absent",
    [
        ("import dsmem", ["ipywidgets", "matplotlib", "IPython"]),
        ("import dsmem; dsmem.plots.footprint", ["ipywidgets", "IPython", "torch", "matplotlib.pyplot"]),
        (
            "import dsmem; a = dsmem.Architecture.from_config('llama-2-7b'); dsmem.explore_curves(a).set(batch=2)",
            ["torch", "matplotlib.pyplot"],
        ),
    ],
)
def test_an_import_costs_no_more_than_it_needs(code, absent):
    check = f"{code}; import sys; print(*sorted(set({absent}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""


def test_the_largest_pass_that_the_sliders_reach_stays_in_the_picture():
    explorer = explorers.explore_curves(dsmem.Architecture.from_config("deepseek-r1-distill-qwen-7b"))
    top = explorer.figure.axes[0].get_ylim()[1]
    explorer.set(batch=512, seq_len=131_072, attention="eager")
    curve = next(line for line in explorer.figure.axes[0].lines if line.get_label() == "total")
    assert max(curve.get_ydata()) < explorer.figure.axes[0].get_ylim()[1]
    explorer.set(batch=1, seq_len=1024, attention="fused")
    assert explorer.figure.axes[0].get_ylim()[1] == top
