"""What every picture must have: room around the data, limits that are seen, its title, words, one look for a name."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

import dsmem
from dsmem import plots
from dsmem.footprint.fit.verdict import fit
from dsmem.memory.replay import replay
from dsmem.memory.traces import shipped
from dsmem.plots import alt, limits, picture, segments, shapes, style
from dsmem.plots.measured import plot_measured

GIB = 2**30
SEVEN = "deepseek-r1-distill-qwen-7b"
LIMITS = {"small": 12 * GIB, "large": 40 * GIB}
STEPS = [("formula", 15 * GIB, "total"), ("rounding", 2**24, "gap"), ("device", 15 * GIB + 2**24, "total")]
EVENTS = [(1, 2**20, "kv_cache"), (2, 9 * 2**20, "activation"), (2, -9 * 2**20, "activation")]
PARTS = {"weights": 14 * GIB, "kv_cache": 2 * GIB, "logits": GIB}
LINE = SimpleNamespace(kind="peak", set="a", label="7B", measured=GIB, predicted=GIB, error=0.0, source="s")
PHASES = ("peak_forward_mib", "peak_backward_mib")


def record(nbytes, category="activation"):
    made = {"op": "mm", "module": "layers.0", "dtype": "float16", "shape": (4, 4)}
    return SimpleNamespace(nbytes=nbytes, category=category, **made)


def timeline():
    live = {"weight": np.array([8, 8, 8]) * GIB, "activation": np.array([0, 5, 2]) * GIB}
    return SimpleNamespace(
        step=np.arange(3), live_bytes=sum(live.values()), by_category=live, labels=["a", "b", "c"], peak_step=1
    )


def compared(n):
    lines = [SimpleNamespace(name=name, measured=n, predicted=n, error=0.0) for name in PHASES]
    return SimpleNamespace(modelled=lines)


FOOTPRINT = SimpleNamespace(instants={"mlp": PARTS | {"logits": 0}, "lm_head": PARTS}, peak_instant="lm_head")
BARS = {  # with upright limits
    "stack": lambda **kw: plots.plot_stack({"7B": PARTS}, **kw),
    "instants": lambda **kw: plots.plot_instants(FOOTPRINT, **kw),
    "footprint": lambda **kw: plots.plot_footprint(SEVEN, batch=4, **kw),
    "training": lambda **kw: plots.plot_training("qwen2.5-0.5b", seq_len=2048, **kw),
    "ranks": lambda **kw: plots.plot_ranks(SEVEN, weights="fp16", **kw),
    "weights": lambda **kw: plots.plot_weights(SEVEN, **kw),
    "cache": lambda **kw: plots.plot_cache(SEVEN, batch=64, **kw),
    "models": lambda **kw: plots.plot_models({"INT8": {"a": 8 * GIB, "b": GIB}}, **kw),
}
LEVELS = {  # with level limits
    "areas": lambda **kw: plots.plot_areas([1, 2, 4], {"weights": [GIB, GIB, 2 * GIB]}, xlabel="x", **kw),
    "curves": lambda **kw: plots.plot_curves([1, 2, 4], {"a": [GIB, GIB, 2 * GIB]}, xlabel="x", **kw),
    "timeline": lambda **kw: plots.plot_timeline(timeline(), **kw),
    "lengths": lambda **kw: plots.plot_lengths(SEVEN, **kw),
    "reserved": lambda **kw: plots.plot_reserved(replay(EVENTS), **kw),
    "phases": lambda **kw: plots.plot_phases({n: compared(n * GIB) for n in (2, 4)}, **kw),
}
OTHERS = {
    "kept": lambda **kw: plots.plot_kept({"7B": {"norm": GIB, "mlp": 4 * GIB}}, **kw),
    "tensors": lambda **kw: plots.plot_tensors([record(GIB), record(GIB, "weight")], **kw),
    "waterfall": lambda **kw: plots.plot_waterfall(SimpleNamespace(steps=STEPS), **kw),
    "overhead": lambda **kw: plots.plot_overhead({"7B": (100, {"free": 15})}, **kw),
    "margins": lambda **kw: plots.plot_margins({"7B": fit(SEVEN, gpu="T4")}, **kw),
    "fit": lambda **kw: plots.plot_fit(SEVEN, gpu="T4", weights="int8", contexts=(256, 8192), most=16, **kw),
    "verdicts": lambda **kw: plots.plot_verdicts({"a": "wrong", "b": "holds", "c": "holds"}, **kw),
    "levers": lambda **kw: plots.plot_levers(dsmem.levers("qwen2.5-0.5b", batch=4), **kw),
    "seconds": lambda **kw: plots.plot_seconds([1, 2], {"a": [1, 30]}, xlabel="x", **kw),
    "throughput": lambda **kw: plots.plot_throughput({"a": ([1, 2], [5, 9])}, {"b": ([1, 2], [5, 8])}, **kw),
    "rises": lambda **kw: plots.plot_rises({"a": ([8, 16], [3.0, 1.0])}, xlabel="x", **kw),
    "dots": lambda **kw: plots.plot_dots({"int8": [1.0, 2.0]}, xlabel="loss (%)", **kw),
    "errors": lambda **kw: plots.plot_layer_errors({"l": (4, {"per tensor": 0.1})}, ways=["per tensor"], **kw),
    "points": lambda **kw: plots.plot_weights_and_cache({"R1": (2**40, 70_272), "7B": (2**34, 57_344)}, **kw),
    "segments": lambda **kw: plots.plot_segments(replay(EVENTS), **kw),
    "measured": lambda **kw: plot_measured([LINE], **kw),
    "numbers": lambda **kw: plots.plot_numbers([1, 2], {"a": [1, 3]}, xlabel="x", ylabel="y", **kw),
    "years": lambda **kw: plots.plot_years([("R1", "2025-01", 70.3, "MLA")], ylabel="y", **kw),
    "reads": lambda **kw: plots.plot_reads("deepseek-r1", batch=64, **kw),
    "trace": lambda **kw: plots.plot_trace(shipped("cs336-first-step"), **kw),
}
ALL = BARS | LEVELS | OTHERS


@pytest.fixture
def ax():
    return Figure(figsize=(7.5, 4.6), layout="constrained").subplots()


def test_no_plot_function_is_left_out():
    drawn = {f"plot_{name}" for name in ALL} | {"plot_layer_errors", "plot_weights_and_cache"}
    assert {name for name in plots.__all__ if name.startswith("plot_")} <= drawn


@pytest.mark.parametrize("name", ALL)
def test_a_title_of_yours_stands_above_every_picture(name, ax):
    assert ALL[name](ax=ax, title="Yours") is ax
    assert ax.get_title(loc="left") == "Yours"
    assert ax.title.get_text() == ax.get_title(loc="right") == ""


@pytest.mark.parametrize("name", BARS | LEVELS)
def test_limits_are_seen_inside_the_axes_and_named(name, ax):
    (BARS | LEVELS)[name](ax=ax, capacity=LIMITS)
    level = name in LEVELS
    low, high = ax.get_ylim() if level else ax.get_xlim()
    lines = [line for line in ax.lines if line.get_linestyle() == "--" and line.get_visible()]
    lines = [line for line in lines if len(set(line.get_ydata() if level else line.get_xdata())) == 1]
    lines = [
        line for line in lines if line.get_linestyle() == "--" and line.get_linewidth() != 1
    ]  # no moment, no curve
    at = [line.get_ydata()[0] if level else line.get_xdata()[0] for line in lines]
    places = list(ax.dsmem_limits.values())
    assert sorted(set(at) & set(places)) == sorted(places) and len(places) >= 1
    for line in lines:
        assert line.get_linewidth() >= 1 and to_rgba(line.get_color())[3] == 1
        assert line.get_color() == style.INK
    assert all(low < place < high for place in places)
    named = " ".join(text.get_text() for text in ax.texts)
    assert all(label.partition("\n")[0] in named for label in ax.dsmem_limits)


@pytest.mark.parametrize("name", BARS)
@pytest.mark.parametrize("capacity", [None, {"low": 5 * GIB}, LIMITS])
def test_the_axis_ends_beyond_every_bar_and_limit_but_not_far(name, capacity, ax):
    BARS[name](ax=ax, capacity=capacity)
    ends = [bar.get_x() + bar.get_width() for bars in ax.containers for bar in bars]
    paths = [patch.get_path().vertices for patch in ax.patches if patch.get_label()[0] != "_"]
    ends += [corners[:, 0].max() for corners in paths if len(corners) and name in ("footprint", "training", "ranks")]
    ends += list(ax.dsmem_limits.values()) + [n for *_, n in ax.dsmem_data if name == "models"]
    low, high = ax.get_xlim()
    assert max(ends) < high <= (1.4 if name != "models" else 8) * max(ends)
    assert low == 0 or name == "models"


@pytest.mark.parametrize("name", LEVELS)
def test_the_height_ends_beyond_every_curve(name, ax):
    LEVELS[name](ax=ax)
    tops = [n for *_, n in ax.dsmem_data]
    if name == "timeline":
        tops = [5 * GIB]  # without weights
    assert max(tops) < ax.get_ylim()[1]
    assert ax.get_ylim()[1] < 5 * max(tops)


@pytest.mark.parametrize("name", ["timeline", "reserved"])
def test_steps_change_with_their_event_and_not_before(name, ax):
    LEVELS[name](ax=ax)
    steps = [line for line in ax.lines if line.get_drawstyle() != "default"]
    assert [line.get_drawstyle() for line in steps] == ["steps-post"]
    for area in (each for each in ax.collections if isinstance(each, PolyCollection)):
        [path] = area.get_paths()
        heights = {}
        for x, y in path.vertices:
            heights.setdefault(float(x), set()).add(float(y))
        assert len(path.vertices) > 2 * len(heights)  # two heights at each step: where it comes from, where it goes
        assert area.get_linewidth()[0] == 0  # outlines would blacken thousands of short steps


def test_the_band_of_a_rule_and_that_of_an_error_are_where_they_say(ax):
    plots.plot_overhead({"7B": (100, {"free": 15})}, rule=(0.1, 0.2), ax=ax)
    band = next(patch for patch in ax.patches if patch.get_label() == "10% to 20%")
    assert band.get_extents().transformed(ax.transData.inverted()).intervalx.tolist() == pytest.approx([10, 20])
    fresh = Figure(layout="constrained").subplots()
    plot_measured([LINE], band=0.05, ax=fresh)
    band = next(patch for patch in fresh.patches if patch.get_label() == "±5%")
    assert band.get_extents().transformed(fresh.transData.inverted()).intervaly.tolist() == pytest.approx([-5, 5])


def test_segments_have_an_outline_above_their_blocks(ax):
    plots.plot_segments([[(GIB, "kv_cache"), (GIB, "")], [(GIB, "activation")]], ax=ax)
    border = next(patch for patch in ax.patches if not patch.get_fill())
    assert border.get_linewidth() > 1 and border.get_visible()
    assert border.zorder > max(patch.zorder for patch in ax.patches if patch is not border)
    boxes = border.get_path().vertices.reshape(-1, 5, 2)
    assert [(box[0, 0], box[2, 0]) for box in boxes] == [(0, 2 * GIB), (0, GIB)]


def test_many_segments_are_drawn_end_to_end(ax):
    plots.plot_segments([[(2**20, "kv_cache")]] * (segments.MOST_ROWS + 1), ax=ax)
    assert 8 <= ax.get_ylim()[0] + 0.5 <= 16
    assert sum(nbytes for *_, nbytes in ax.dsmem_data) == 41 * 2**20


@pytest.mark.parametrize("name", ALL)
def test_every_legend_entry_is_in_the_picture_and_can_be_seen(name, ax):
    ALL[name](ax=ax)
    ax.figure.draw_without_rendering()
    if ax.get_legend():
        assert all(handle.get_visible() for handle in ax.get_legend().legend_handles)
        assert len({text.get_text() for text in ax.get_legend().get_texts()}) == len(ax.get_legend().get_texts())


def test_parts_that_are_not_there_are_not_in_the_legend(ax):
    plots.plot_weights(SEVEN, ax=ax)  # a dense model
    assert "experts" not in [text.get_text() for text in ax.get_legend().get_texts()]


# --- Numbers and limits -----------------------------------------------------------------------------------------------


def test_a_number_stays_on_its_bars_side_of_a_limit(ax):
    plots.plot_stack({"near": {"weights": 10 * GIB}, "far": {"weights": 2 * GIB}}, capacity={"x": 11 * GIB}, ax=ax)
    near, far = (text for text in ax.texts if text.get_text().endswith(".00 GiB") and "x" not in text.get_text())
    assert (near.get_ha(), far.get_ha()) == ("right", "left")
    ax.figure.draw_without_rendering()
    limit = ax.transData.transform((11 * GIB, 0))[0]
    assert near.get_window_extent().x1 < limit


@pytest.mark.parametrize(
    "nbytes, usable, overhead, words",
    [
        (10, 10, 0, "fits g (10 B) before context and allocator"),
        (11, 10, 0, "does not fit g (10 B) before context and allocator"),
        (10, 10, 1, "does not fit g (10 B) with 1 B kept for context and allocator"),
    ],
)
def test_fits_is_one_rule(nbytes, usable, overhead, words):
    assert limits.fits(nbytes, usable, overhead) == words.startswith("fits")
    assert limits.fit_words(nbytes, {"g": usable}, overhead) == words


def test_overhead_of_a_wrong_kind_is_refused(refuses):
    refuses(lambda: limits.fits(1, 2, -1), "overhead_bytes=-1", "at least 0")


def test_names_of_levels_never_overlap(ax):
    plots.plot_curves(
        [1, 2], {"a": [GIB, GIB]}, xlabel="x", capacity={f"g{n}": (10 + n) * GIB for n in range(4)}, ax=ax
    )
    ax.figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 2 for low, high in zip(boxes, boxes[1:], strict=False))


def test_a_capacity_is_a_gpus_name_anywhere(ax):
    plots.plot_stack({"7B": PARTS}, capacity="T4", ax=ax)
    assert list(ax.dsmem_limits.values()) == [dsmem.GPUS["T4"].usable_bytes]


def test_hidden_weights_move_the_limit_and_the_axis_says_so(ax):
    plots.plot_stack({"7B": PARTS}, hide="weights", capacity={"x": 20 * GIB}, ax=ax)
    assert ax.dsmem_limits == {"x\n6.00 GiB left": 6 * GIB}
    assert ax.get_xlabel() == "memory (GiB)\nwithout weights 14.00 GiB"
    assert sum(n for *_, n in ax.dsmem_data) == 3 * GIB


def test_a_limit_that_no_one_place_has_is_refused(refuses):
    stacks = {"a": PARTS, "b": PARTS | {"weights": GIB}}
    refuses(lambda: plots.plot_stack(stacks, hide="weights", capacity="T4"), "capacity='T4'", "hide", "weights")
    refuses(lambda: plots.plot_stack({"a": {"weights": 1}}, hide="weights"), "hide='weights' hides every part")


# --- Looks ------------------------------------------------------------------------------------------------------------


def test_a_format_looks_the_same_in_every_plot_and_order():
    names = ["fp32", "bf16", "fp16", "int8", "int8_w8a8", "fp8", "int4", "nf4"]
    assert set(names) <= set(style.FORMATS)
    together = style.line_looks(names)
    assert all(style.line_looks([name.upper(), "other"])[name.upper()] == together[name] for name in names)
    assert len({(look["color"], str(look["linestyle"])) for look in together.values()}) == len(names)
    assert len({look["marker"] for look in together.values()}) == len(names)


def test_lines_that_share_a_picture_never_look_alike():
    looks = style.line_looks(["int8", "a", "b", "kv_cache", "c", "fp16"])
    assert len({look["color"] for look in looks.values()}) == len(looks)


@pytest.mark.parametrize("name", ["seconds", "rises", "throughput", "curves", "models"])
def test_colours_do_not_depend_on_where_the_axes_were_made(name, ax):
    ax.set_prop_cycle(color=["#123456"])
    ALL[name](ax=ax)
    assert all(str(line.get_color()).startswith("#") for line in ax.lines)
    assert "#123456" not in [line.get_color() for line in ax.lines]


def test_a_function_is_drawn_where_it_is_and_not_between_five_points(ax):
    plots.plot_curves([1, 4096], {"s": lambda n: n * n}, xlabel="x", ax=ax)
    x, y = ax.lines[0].get_data()
    assert len(x) > 100 and np.array_equal(y, x * x) and x.dtype.kind == "i" and (x[0], x[-1]) == (1, 4096)
    assert np.max(np.diff(np.log2(x[x > 64]))) < 0.2


def test_many_parts_are_summed_by_family_so_that_hues_differ(ax):
    fp = dsmem.inference_footprint(SEVEN, batch=4)
    plots.plot_instants(fp, ax=ax)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(names) <= 8 and {"MLP", "attention", "logits"} <= set(names)
    assert sum(n for _, place, n in ax.dsmem_data if place == "lm_head") == fp.total_bytes - fp.parts["weights"] - 256


# --- Waterfall --------------------------------------------------------------------------------------------------------


def test_small_gaps_are_seen_because_the_axis_starts_near_the_totals_and_says_so(ax):
    OTHERS["waterfall"](ax=ax)
    low, high = ax.get_xlim()
    assert 2**24 > 0.3 * (high - low) and "the axis starts at" in ax.get_xlabel() and "cut" in ax.get_xlabel()
    gap = ax.containers[1][0]
    assert (gap.get_x(), gap.get_width()) == (15 * GIB, 2**24)
    assert [bars[0].get_x() for bars in ax.containers[::2]] == [low, low]


@pytest.mark.parametrize("steps", [STEPS[:1], [("a", 4, "total"), ("b", 3, "gap"), ("c", 7, "total")]])
def test_other_waterfalls_start_at_zero(steps, ax):
    plots.plot_waterfall(SimpleNamespace(steps=steps), ax=ax)
    assert ax.get_xlim()[0] == 0 and "starts" not in ax.get_xlabel()


def test_the_zoom_can_be_refused(ax):
    plots.plot_waterfall(SimpleNamespace(steps=STEPS), zoom=False, ax=ax)
    assert ax.get_xlim()[0] == 0


# --- Words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_picture_can_be_read_aloud(name, ax):
    ALL[name](ax=ax, title="Yours")
    words = alt.alt_text(ax)
    assert words.startswith("Yours. ") and "\n" not in words and len(words) > 30
    assert all(str(series) in words for series, *_ in ax.dsmem_data)
    assert ax.figure._repr_mimebundle_() == ({}, {"image/png": {"alt": words}})


def test_a_room_is_in_the_layout_and_in_no_file(ax):
    plots.axes.room(ax, 1.02, "a long text to come", "left")
    ax.figure.draw_without_rendering()
    with_room = ax.get_position().x1
    assert with_room < 0.9
    moved = picture.Picture.__subclasses__()
    assert {"FootprintPicture", "LengthsPicture", "WeightsPicture", "CachePicture", "SegmentsPicture"} <= {
        kind.__name__ for kind in moved
    }


def test_ends_of_bars_are_in_the_unit_of_the_axis(ax):
    plots.plot_stack({"a": {"weights": 8 * GIB}, "b": {"weights": GIB // 2}, "c": {"weights": 256}}, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["8.00 GiB", "0.500 GiB", "256 B"]


def test_boxes_are_as_high_as_bars():
    corners = shapes.boxes(np.array([0.0]), np.array([5.0]), np.array([2.0])).vertices
    assert corners == pytest.approx(np.array([[0, 1.64], [0, 2.36], [5, 2.36], [5, 1.64], [0, 1.64]]))
