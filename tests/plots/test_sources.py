"""A plot draws from a run, a ledger, a footprint or a replay as from the numbers inside."""

import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem import plots
from dsmem.plots import sources

ARCH = dsmem.Architecture.of("qwen2.5-0.5b").scaled(num_hidden_layers=2)


@pytest.fixture(scope="module")
def run():
    return dsmem.measure(ARCH, batch=2, seq_len=64)


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def booked(draw, *arguments, **options):
    return draw(*arguments, ax=Figure(layout="constrained").subplots(), **options).dsmem_data


def test_a_stack_of_anything(run):
    parts = run.footprint.parts
    plain = booked(plots.plot_stack, {"a": parts})
    assert booked(plots.plot_stack, {"a": run}) == booked(plots.plot_stack, {"a": run.footprint}) == plain
    assert [row[2] for row in booked(plots.plot_stack, run)] == list(parts.values())
    assert [row[2] for row in booked(plots.plot_stack, parts)] == list(parts.values())
    ledger = booked(plots.plot_stack, {"a": run.ledger})
    assert sum(row[2] for row in ledger) == run.ledger.peak_bytes and "weights" in dict.fromkeys(
        row[0] for row in ledger
    )
    assert sum(row[2] for row in booked(plots.plot_stack, run.replay)) == run.replay.peak_reserved_bytes


def test_a_run_without_a_formula_is_drawn_from_its_ledger(run):
    class Measured:
        footprint, ledger, arch = None, run.ledger, ARCH

    assert booked(plots.plot_stack, {"a": Measured()}) == booked(plots.plot_stack, {"a": run.ledger})


def test_each_plot_takes_a_run(run):
    for draw, inside in {
        plots.plot_instants: run.footprint,
        plots.plot_timeline: run.ledger,
        plots.plot_tensors: run.ledger,
        plots.plot_waterfall: run.gaps(),
        plots.plot_segments: run.replay,
        plots.plot_reserved: run.replay,
    }.items():
        assert booked(draw, run) == booked(draw, inside) != []
    assert booked(plots.plot_timeline, run) == booked(plots.plot_timeline, run.ledger.timeline())
    assert booked(plots.plot_tensors, run) == booked(plots.plot_tensors, run.ledger.at_peak())
    assert booked(plots.plot_reserved, run.ledger) == booked(plots.plot_reserved, run.replay)


def test_categories_are_hidden_by_the_names_of_parts(run):
    rows = booked(plots.plot_tensors, run, hide=("weights", "kv_cache"))
    assert {row[0] for row in rows}.isdisjoint({"weight", "kv_cache"})


def test_a_picture_of_a_run_names_the_model(run, ax):
    plots.plot_instants(run, ax=ax)
    assert ax.get_title(loc="left").startswith(f"{ARCH.name}, fp16: peak")


@pytest.mark.parametrize(
    "draw", ["stack", "instants", "timeline", "tensors", "waterfall", "segments", "reserved"], ids=str
)
@pytest.mark.parametrize("wrong", [7, "deepseek-r1", object()], ids=["number", "name", "object"])
def test_anything_else_is_refused_in_a_sentence(draw, wrong, refuses):
    refuses(lambda: getattr(plots, f"plot_{draw}")(wrong), type(wrong).__name__, "must be a run")


@pytest.mark.parametrize(
    "hide, left",
    [
        (None, ["weight", "weights_fp8", "weight_scales", "weight_copy", "buffer", "logits"]),
        ("weights", ["weight_copy", "logits"]),
        ("buffer", ["weight", "weights_fp8", "weight_scales", "weight_copy", "logits"]),
        (["logits", "nothing"], ["weight", "weights_fp8", "weight_scales", "weight_copy", "buffer"]),
    ],
)
def test_what_is_hidden(hide, left):
    parts = ["weight", "weights_fp8", "weight_scales", "weight_copy", "buffer", "logits"]
    assert [part for part in parts if part not in sources.hidden(hide, parts)] == left


@pytest.mark.parametrize("method", ["plot_instants", "plot_timeline", "plot_tensors", "plot_gaps"])
def test_a_run_draws_itself(method, run, ax):
    assert getattr(run, method)(ax=ax, title="Mine").get_title(loc="left") == "Mine"


def test_hidden_weights_take_what_is_stored_of_them_along(run, ax):
    plots.plot_stack({"run": run}, hide="weights", ax=ax)
    assert {part for part, *_ in ax.dsmem_data}.isdisjoint({"weights", "buffers"})
    assert "without weights" in ax.get_xlabel()
