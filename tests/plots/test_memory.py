"""The plots: what is drawn is what came in, and nothing outside the Axes changes. No display is needed."""

import csv
import pickle
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import matplotlib
import nbformat
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nbclient import NotebookClient

from dsmem import plots
from dsmem.plots import axes, report, shapes
from dsmem.plots import style as looks

MIB, GIB = 2**20, 2**30
WEIGHTS = 15_231_233_024
T4 = 15_637_086_208
PARTS = {
    "weights": WEIGHTS,
    "buffers": 256,
    "token_ids": 32_768,
    "kv_cache": 224 * MIB,
    "rope_tables": 393_216,
    "normed": 29_360_128,
    "logits": 1_245_708_288,
}
LENGTHS = 2 ** np.arange(7, 16)


def timeline():
    live = {"weight": [8, 8, 8, 8], "activation": [0, 4, 6, 1], "temporary": [0, 3, 0, 0]}
    by_category = {name: np.array(values) * MIB for name, values in live.items()}
    total = sum(by_category.values())
    labels = ["(before)", "aten.mm.default", "aten.add.Tensor", ""]
    step = np.arange(4)
    return SimpleNamespace(step=step, live_bytes=total, by_category=by_category, labels=labels, peak_step=1)


def records(count=20):
    made = {"category": "activation", "op": "mm", "module": "model.layers.0.mlp.gate_proj", "dtype": "torch.float16"}
    return [SimpleNamespace(nbytes=(i + 1) * MIB, shape=(4, 1024, 128 * (i + 1)), **made) for i in range(count)]


FOOTPRINT = SimpleNamespace(
    instants={"attention": PARTS | {"logits": 0, "query": 28 * MIB}, "lm_head": PARTS}, peak_instant="lm_head"
)
STEPS = [
    ("formula", 15 * GIB, "total"),
    ("rounding", 256, "gap"),
    ("freed", -GIB, "gap"),
    ("device", 14 * GIB, "total"),
]
WATERFALL = SimpleNamespace(steps=STEPS)
KV = {"kv_cache": LENGTHS * 57_344, "weights": WEIGHTS}

DRAW = {
    "stack": lambda **kw: plots.plot_stack({"7B": PARTS, "short": {"weights": WEIGHTS}}, capacity=("T4", T4), **kw),
    "instants": lambda **kw: plots.plot_instants(FOOTPRINT, **kw),
    "areas": lambda **kw: plots.plot_areas(LENGTHS, KV, xlabel="tokens", capacity={"T4": T4}, **kw),
    "curves": lambda **kw: plots.plot_curves(
        LENGTHS, KV, xlabel="tokens", measured={"kv_cache": ([512], [512 * 57_344])}, capacity={"T4": T4}, **kw
    ),
    "timeline": lambda **kw: plots.plot_timeline(timeline(), marks={"layer 0": 1}, **kw),
    "tensors": lambda **kw: plots.plot_tensors(records(), **kw),
    "waterfall": lambda **kw: plots.plot_waterfall(WATERFALL, **kw),
}


@pytest.fixture
def ax():
    return Figure(figsize=(6.4, 4), layout="constrained").subplots()


def texts(ax):
    return [text.get_text().strip() for text in ax.texts]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def drawn(ax):
    """{label: total width} of stacked bars."""
    return {bars.get_label(): sum(bar.get_width() for bar in bars) for bars in ax.containers}


def pixels(ax):
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())


@pytest.mark.parametrize("name", DRAW)
def test_every_plot_returns_the_given_axes_and_leaves_the_settings_alone(name, ax):
    before = dict(matplotlib.rcParams)
    assert DRAW[name](ax=ax, title="What was found") is ax
    assert dict(matplotlib.rcParams) == before
    assert ax.get_title(loc="left") == "What was found"
    assert ax.dsmem_data


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("width", [6.4, 11])
def test_no_text_is_cut_off(name, width):
    ax = Figure(figsize=(width, 5), layout="constrained").subplots()
    DRAW[name](ax=ax, title="A finding that takes more than a few words, and so more than one line of a small figure")
    ax.figure.draw_without_rendering()
    figure = ax.figure.bbox
    for box in (ax.get_tightbbox(), *(text.get_window_extent() for text in ax.texts)):
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.x1 + 1 and box.y1 <= figure.y1 + 1


@pytest.mark.parametrize("name", DRAW)
def test_every_memory_axis_has_a_unit(name, ax):
    DRAW[name](ax=ax)
    assert any(f"({unit})" in ax.get_xlabel() + ax.get_ylabel() for unit, _ in axes.UNITS)


@pytest.mark.parametrize("name", DRAW)
def test_the_legend_lies_below_the_data_and_the_axis(name, ax):
    DRAW[name](ax=ax)
    ax.figure.draw_without_rendering()
    if ax.get_legend():
        assert ax.get_legend().get_window_extent().y1 <= ax.xaxis.get_tightbbox().y0


def test_stack_draws_every_byte(ax):
    DRAW["stack"](ax=ax)
    bars = drawn(ax)
    assert bars["weights"] == 2 * WEIGHTS
    assert sum(bars.values()) == sum(PARTS.values()) + WEIGHTS
    assert "15.59 GiB" in texts(ax) and "14.19 GiB" in texts(ax)


def test_small_parts_become_other_and_the_total_stays(ax):
    DRAW["stack"](ax=ax)
    small = sum(PARTS[name] for name in ("buffers", "token_ids", "rope_tables", "normed", "kv_cache"))
    assert PARTS["kv_cache"] < shapes.SMALL * sum(PARTS.values())
    assert legend(ax) == ["weights", "logits", "other"]
    assert drawn(ax)["other"] == small
    assert ("buffers", "7B", 256) in ax.dsmem_data


def test_a_single_small_part_keeps_its_name_and_an_other_that_came_in_is_kept(ax):
    plots.plot_stack({"a": {"weights": GIB, "buffers": 1}}, ax=ax)
    assert legend(ax) == ["weights", "buffers"]
    ax.clear()
    plots.plot_stack({"a": {"other": GIB, "weights": GIB, "buffers": 1, "input": 2}}, ax=ax)
    assert drawn(ax) == {"weights": GIB, "other": GIB + 3}


def test_capacity_is_a_labelled_dashed_line(ax):
    plots.plot_stack({"7B": PARTS}, capacity={"T4": T4, "RTX 4090": 25_250_627_584}, ax=ax)
    lines = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in lines] == [T4, 25_250_627_584]
    assert {"T4 14.56 GiB", "RTX 4090 23.52 GiB"} <= set(texts(ax))


@pytest.mark.parametrize("name", ["areas", "curves"])
def test_capacity_of_a_sweep_is_a_level_line(name, ax):
    DRAW[name](ax=ax)
    assert T4 in [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert "T4\n14.56 GiB" in texts(ax)
    assert ax.get_ylim()[1] > T4


def test_instants_say_what_is_hidden_and_which_instant_wins(ax):
    DRAW["instants"](ax=ax)
    assert "without weights 14.19 GiB, buffers 256 B" in ax.get_xlabel()
    assert texts(ax)[1] == "1.41 GiB ← peak" and "peak" not in texts(ax)[0]
    assert "weights" not in legend(ax)
    assert sum(drawn(ax).values()) == sum(nbytes for _, _, nbytes in ax.dsmem_data)


def test_areas_stack_up_to_the_sum(ax):
    DRAW["areas"](ax=ax)
    top = max(path.vertices[:, 1].max() for area in ax.collections for path in area.get_paths())
    assert top == WEIGHTS + LENGTHS[-1] * 57_344
    assert legend(ax) == ["kv_cache", "weights"]


def test_curves_show_predictions_as_lines_and_measurements_as_markers(ax):
    DRAW["curves"](ax=ax)
    line, weights, points = (next(line for line in ax.lines if line.get_label() == name) for name in legend(ax))
    assert legend(ax) == ["kv_cache", "weights", "kv_cache, measured"]
    assert list(line.get_ydata()) == list(LENGTHS * 57_344)
    assert line.get_linestyle() != weights.get_linestyle()
    assert points.get_linestyle() == "None" and points.get_marker() == "o"
    assert points.get_color() == line.get_color()


def test_curves_have_ticks_at_powers_of_two(ax):
    DRAW["curves"](ax=ax)
    ax.figure.draw_without_rendering()
    ticks = [int(tick) for tick in ax.get_xticks() if LENGTHS[0] <= tick <= LENGTHS[-1]]
    assert len(ticks) >= 3 and all(tick & (tick - 1) == 0 for tick in ticks)
    assert {f"{tick:,}" for tick in ticks} <= {label.get_text() for label in ax.get_xticklabels()}


def test_timeline_marks_the_peak_and_counts_the_hidden_weights(ax):
    DRAW["timeline"](ax=ax)
    assert "peak: 7.00 MiB shown, 15.00 MiB in all\nstep 1: mm" in texts(ax)
    assert "layer 0" in texts(ax)
    assert "without weight" in ax.get_ylabel()
    marker = next(line for line in ax.lines if line.get_marker() == "o")
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (1, 7 * MIB)


def test_tensors_name_the_largest_and_sum_up_the_rest(ax):
    plots.plot_tensors(records(20), top=5, ax=ax)
    assert sum(bar.get_width() for bar in ax.patches) == sum(record.nbytes for record in records(20))
    assert texts(ax)[0].endswith("gate_proj · mm · 4×1,024×2,560 float16")
    assert "… 15 more" in texts(ax)
    assert legend(ax) == ["activation", "other"]


def test_waterfall_floats_its_gaps_and_shows_the_tiny_ones(ax):
    DRAW["waterfall"](ax=ax)
    left, width = zip(*((bars[0].get_x(), bars[0].get_width()) for bars in ax.containers), strict=True)
    assert (left[1], width[1]) == (15 * GIB, 256)
    assert (left[2], width[2]) == (15 * GIB + 256, -GIB)
    assert texts(ax) == ["15.00 GiB", "+256 B", "-1.00 GiB", "14.00 GiB"]
    strokes = [line for line in ax.lines if line.get_linewidth() == 2]
    assert [line.get_xdata()[0] for line in strokes] == [15 * GIB + 256, 14 * GIB + 256]


def test_a_component_looks_the_same_everywhere_and_unlike_the_others():
    assert looks.look("weight") == looks.look("weights")
    assert looks.look("never heard of") == looks.look("never heard of")
    names = ["weight", "buffer", "kv_cache", "input", "activation", "temporary", "gradient", "optimizer_state"]
    assert len({looks.look(name)["hatch"] for name in names}) == len(names)
    for color, parts in looks.FAMILIES.items():
        appearances = [looks.LOOKS[part.split(":")[0].split("=")[0]] for part in parts.split()]
        assert len(set(appearances)) == len(appearances) and {look[0] for look in appearances} == {color}


def test_a_tick_is_round_in_its_unit(ax):
    plots.plot_stack({"7B": PARTS}, ax=ax)
    ax.figure.draw_without_rendering()
    assert ax.get_xlabel() == "memory (GiB)"
    assert all(tick % (GIB // 2) == 0 for tick in ax.get_xticks())
    assert ax.get_xticklabels()[1].get_text() == f"{ax.get_xticks()[1] / GIB:g}"


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: plots.plot_stack({}), "stacks must hold at least one"),
        (lambda: plots.plot_stack({"a": {"weights": -1}}), "weights of a must be bytes"),
        (lambda: plots.plot_stack({"a": {"weights": float("nan")}}), "weights of a must be bytes"),
        (lambda: plots.plot_stack({"a": {"weights": 1}}, capacity=5), "capacity=5 is not a capacity"),
        (lambda: plots.plot_areas([1, 2], {"weights": [1, 2, 3]}, xlabel="x"), "weights must be bytes"),
        (lambda: plots.plot_areas([], {"weights": []}, xlabel="x"), "x must be a sequence"),
        (lambda: plots.plot_curves([1], {}, measured={"kv": ([1], [-1])}, xlabel="x"), "measured kv must be"),
        (lambda: plots.plot_tensors([]), "records and top"),
        (lambda: plots.plot_waterfall(SimpleNamespace(steps=[("a", 1, "sum")])), "waterfall.steps must be"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_a_figure_exists(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert str(error.value).count(". ") == 0
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


@pytest.mark.parametrize("name", DRAW)
def test_report_files_and_the_numbers_beside_them(name, ax, tmp_path):
    DRAW[name](ax=ax, title="What was found, in so many words that a column needs more lines for them")
    paths = report.save_report(ax, "figure.1", folder=tmp_path / "new", parameters={"batch": 4})
    assert [path.name for path in paths] == [f"figure.1.{kind}" for kind in ("pdf", "svg", "png", "csv")]
    assert all(path.stat().st_size > 100 for path in paths)
    with paths[-1].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    booked, limits = ([row for row in rows if (row["series"] == "capacity") == limit] for limit in (False, True))
    assert sum(int(row["bytes"]) for row in booked) == sum(row[2] for row in ax.dsmem_data)
    assert [(row["x"], int(row["bytes"])) for row in limits] == [("T4", T4)] * (name in ("stack", "areas", "curves"))
    assert {row["panel"] for row in rows} == {" ".join(ax.get_title(loc="left").split())}


def test_report_has_a_papers_width_and_its_parameters(ax, tmp_path):
    from PIL import Image

    DRAW["stack"](ax=ax, title="Found")
    for width, inches in (("column", 3.5), ("full", 7.16), (5, 5)):
        pdf, svg, png, _ = report.save_report(ax, "a", width=width, folder=tmp_path, parameters={"batch": 4})
        with Image.open(png) as image:
            assert abs(image.width - 300 * inches) <= 1
            assert image.info["Title"] == "Found" and "batch=4" in image.info["Keywords"]
            assert "dsmem" in image.info["Software"]
        assert b"/Title (Found)" in pdf.read_bytes() and b"batch=4" in pdf.read_bytes()
        assert b"/FontFile2" in pdf.read_bytes() and b"/Type3" not in pdf.read_bytes()
        assert "batch=4" in svg.read_text(encoding="utf-8") and ">kv_cache<" not in svg.read_text(encoding="utf-8")
        assert ">weights<" in svg.read_text(encoding="utf-8")


def test_report_is_the_same_file_for_the_same_plot(ax, tmp_path):
    DRAW["areas"](ax=ax)
    first = [path.read_bytes() for path in report.save_report(ax, "a", folder=tmp_path)]
    assert first == [path.read_bytes() for path in report.save_report(ax, "a", folder=tmp_path)]


@pytest.mark.parametrize("name", DRAW)
def test_report_leaves_the_figure_as_it_was(name, ax, tmp_path):
    DRAW[name](ax=ax, title="Found")
    pixels(ax)
    ax.figure.set_layout_engine("none")  # constrained layout moves the Axes by a last bit in later drawings
    size, before = tuple(ax.figure.get_size_inches()), pixels(ax)
    canvas, settings = ax.figure.canvas, dict(matplotlib.rcParams)
    report.save_report(ax, "a", folder=tmp_path, formats=["png"])
    assert ax.figure.canvas is canvas and tuple(ax.figure.get_size_inches()) == size
    assert pixels(ax) == before and dict(matplotlib.rcParams) == settings


def test_report_keeps_what_was_added_afterwards(ax, tmp_path):
    DRAW["stack"](ax=ax)
    ax.text(GIB, 0, "added by hand")
    svg, _ = report.save_report(ax, "a", folder=tmp_path, formats=["svg"])
    assert "added by hand" in svg.read_text(encoding="utf-8")


def test_report_of_two_panels_keeps_both(tmp_path):
    left, right = Figure(figsize=(9, 4), layout="constrained").subplots(1, 2)
    DRAW["stack"](ax=left, title="Left")
    DRAW["curves"](ax=right, title="Right")
    *_, table = report.save_report(left, "a", width="full", folder=tmp_path)
    assert {line.split(",")[0] for line in table.read_text(encoding="utf-8").splitlines()[1:]} == {"Left", "Right"}


@pytest.mark.parametrize(
    "options, words",
    [
        ({"width": "poster"}, "width must be"),
        ({"width": -1}, "width must be"),
        ({"formats": ["jpg"]}, "formats must be"),
    ],
)
def test_report_refuses_what_it_cannot_do(options, words, ax, tmp_path):
    DRAW["stack"](ax=ax)
    with pytest.raises(ValueError, match=words):
        report.save_report(ax, "a", folder=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_report_refuses_axes_that_dsmem_did_not_draw(ax, tmp_path):
    with pytest.raises(ValueError, match="ax must be an Axes that one of dsmem's plot functions returned"):
        report.save_report(ax, "a", folder=tmp_path)


def test_a_figure_with_a_plot_survives_pickling(ax):
    DRAW["curves"](ax=ax)
    assert pickle.loads(pickle.dumps(ax.figure)).axes[0].dsmem_data == ax.dsmem_data


def test_pyplot_is_loaded_only_for_a_plot_without_axes():
    code = """
import sys
from matplotlib.figure import Figure
from dsmem import plots
from dsmem.plots import style as looks
from dsmem.plots import report
plots.plot_stack({"a": {"weights": 1}}, ax=Figure().subplots())
assert "matplotlib.pyplot" not in sys.modules
ax = plots.plot_stack({"a": {"weights": 1}})
import matplotlib.pyplot as plt
assert plt.get_fignums() == [1] and plt.figure(1) is ax.figure
report.save_report(ax, "a", folder=sys.argv[1])
assert plt.get_fignums() == [1]
"""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-c", code, folder]
        subprocess.run(run, check=True, env={"MPLBACKEND": "agg", "MPLCONFIGDIR": folder, "PATH": ""})


def test_a_notebook_shows_each_plot_once_from_the_first_cell_of_a_fresh_kernel_on():
    draw = "plots.plot_stack({'a': {'weights': 1}})"
    cells = [f"from dsmem import plots\n_ = {draw}", f"ax = {draw}", f"import matplotlib.pyplot as plt\n_ = {draw}"]
    cells += ["_ = plt.plot([1, 2])", f"ax = {draw}\n_ = ax.set_title('changed')", "1 + 1"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [["image/png" in output.get("data", {}) for output in cell.outputs] for cell in notebook.cells]
    assert shown == [[True]] * 5 + [[False]]
