"""What a plot can be drawn from: a run, its parts, or a dict of them; all give the same picture."""

import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem import plots

RUN = dsmem.measure(dsmem.Architecture.of("qwen2.5-0.5b").scaled(num_hidden_layers=2), batch=2, seq_len=64)


def drawn(plot, *sources, **options):
    return plot(*sources, ax=Figure(layout="constrained").subplots(), **options).dsmem_data


@pytest.mark.parametrize(
    ("plot", "sources"),
    [
        (plots.plot_instants, (RUN, RUN.footprint)),
        (plots.plot_timeline, (RUN, RUN.ledger, RUN.ledger.timeline())),
        (plots.plot_tensors, (RUN, RUN.ledger, RUN.ledger.at_peak())),
        (plots.plot_waterfall, (RUN, dsmem.explain(RUN))),
        (plots.plot_segments, (RUN, RUN.replay, RUN.replay.segments())),
        (plots.plot_reserved, (RUN, RUN.replay)),
        (lambda s, **kw: plots.plot_stack({"a": s}, **kw), (RUN, RUN.footprint, RUN.footprint.parts)),
    ],
)
def test_a_run_and_what_it_holds_give_one_picture(plot, sources):
    first, *others = (drawn(plot, source) for source in sources)
    assert first and all(other == first for other in others)


@pytest.mark.parametrize("method", ["plot_instants", "plot_timeline", "plot_tensors", "plot_gaps"])
def test_a_run_draws_itself(method):
    assert (
        getattr(RUN, method)(ax=Figure(layout="constrained").subplots(), title="Mine").get_title(loc="left") == "Mine"
    )


@pytest.mark.parametrize(
    "plot",
    [plots.plot_stack, plots.plot_instants, plots.plot_timeline, plots.plot_tensors, plots.plot_waterfall]
    + [plots.plot_reserved, plots.plot_segments],
)
def test_what_nothing_can_be_drawn_from_is_refused_by_its_kind(plot, refuses):
    refuses(lambda: plot(7, ax=Figure().subplots()), "int", "must be a run")


def test_hidden_weights_take_what_is_stored_of_them_along():
    ax = plots.plot_stack({"run": RUN}, hide="weights", ax=Figure(layout="constrained").subplots())
    assert {part for part, *_ in ax.dsmem_data}.isdisjoint({"weights", "buffers"})
    assert "without weights" in ax.get_xlabel()


def test_a_gpu_by_name_is_a_limit():
    ax = plots.plot_stack(RUN, capacity="T4", ax=Figure(layout="constrained").subplots())
    assert any("T4 14.57 GiB" in text.get_text() for text in ax.texts)
    assert ax.get_xlim()[1] > dsmem.GPUS["T4"].usable_bytes


def test_small_gaps_are_seen_on_an_axis_that_begins_near_the_totals():
    ax = RUN.plot_gaps(ax=Figure(layout="constrained").subplots())
    low, high = ax.get_xlim()
    gaps = [abs(nbytes) for _, nbytes, kind in RUN.gaps().steps if kind == "gap" and nbytes]
    assert low > 0 and max(gaps) > 0.1 * (high - low) and "axis from" in ax.get_xlabel()


def test_a_curve_given_as_a_function_is_the_formula_everywhere():
    ax = Figure(layout="constrained").subplots()
    plots.plot_curves([1, 1000], {"square": lambda x: x**2}, xlabel="x", ax=ax)
    line = ax.lines[0]
    assert len(line.get_xdata()) > 50 and (line.get_ydata() == line.get_xdata() ** 2).all()


def test_a_format_keeps_its_look_in_whatever_order_it_comes():
    looks = []
    for names in (("fp16", "int8"), ("int8", "bf16", "fp16")):
        ax = Figure(layout="constrained").subplots()
        plots.plot_curves([1, 2], {name: [1, 2] for name in names}, xlabel="x", ax=ax)
        looks.append({line.get_label(): (line.get_color(), line.get_linestyle()) for line in ax.lines})
    assert looks[0].items() <= looks[1].items()
