"""The gaps between the levels of a run add up; what a pass needs beyond its weights, in parts and in pictures."""

import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem.plots import plot_overhead
from dsmem.runs import gaps as overhead_module
from dsmem.runs.gaps import CONTEXT_BYTES, overhead

ARCH = dsmem.Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2)


@pytest.fixture(scope="module")
def run():
    return dsmem.measure(ARCH, dsmem.Workload(2, 64), device="fake")


def test_weights_and_parts_are_the_reserved_peak_and_what_is_given(run):
    parts = overhead(run, workspace_bytes=100, context_bytes=7)
    kept = sum(run.ledger.by_category().get(name, 0) for name in ("weight", "buffer"))
    assert kept + sum(parts.values()) == run.replay.peak_reserved_bytes + 107
    assert parts["kv_cache"] == run.footprint.parts["kv_cache"]
    assert (parts["workspace"], parts["context"]) == (100, 7)


def test_what_is_not_there_is_left_out(run):
    assert not {"workspace", "context"} & overhead(run).keys()


def test_every_published_constant_names_its_source():
    assert all(name.startswith("published, ") and ": " in name for name in CONTEXT_BYTES)
    assert CONTEXT_BYTES["published, lazy loading: A100, torch 2.1 (0.47 GiB)"] == int(0.47 * 2**30)
    assert CONTEXT_BYTES["published, eager loading: A100, torch 1.13 (0.90 GiB)"] == int(0.90 * 2**30)


def test_bars_are_shares_of_the_weights():
    ax = Figure(layout="constrained").subplots()
    plot_overhead({"a": (100, {"kv_cache": 10, "free": 5}), "b": (200, {"free": 120})}, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["15%", "60%"]
    assert ax.get_title(loc="left").replace("\n", " ").startswith("From 15% to 60% of the weights")
    assert ("free", "b", 120) in ax.dsmem_data and ("kv_cache", "b", 0) in ax.dsmem_data
    widths = {bar.get_label(): [patch.get_width() for patch in bar] for bar in ax.containers}
    assert widths == {"kv_cache": [10, 0], "free": [5, 60]}


@pytest.mark.parametrize("bars", [{}, {"a": (0, {"free": 1})}])
def test_bars_without_weights_are_refused(bars, refuses):
    refuses(lambda: plot_overhead(bars), "bars", "weights")


def test_the_table_of_published_constants_gives_each_a_line():
    lines = str(overhead_module.published()).splitlines()
    assert len(lines) == len(CONTEXT_BYTES) + 2 and all("published, " in line for line in lines)
    assert lines[0].split()[:3] == ["context", "140.88", "MiB"] and lines[-1].split()[:3] == [
        "workspace",
        "32.00",
        "MiB",
    ]


def closes(waterfall):
    """Each total is the one before it plus the gaps between them."""
    level = None
    for _, nbytes, kind in waterfall.steps:
        if kind == "gap":
            level += nbytes
        else:
            assert level in (None, nbytes)
            level = nbytes
    return True


@pytest.mark.parametrize("device", ["fake", "cpu"])
@pytest.mark.parametrize("attention", ["fused", "eager"])
def test_the_gaps_of_an_explanation_close(device, attention):
    waterfall = dsmem.explain(dsmem.measure(ARCH, dsmem.Workload(2, 8, attention=attention), device=device))
    assert closes(waterfall)
    assert [name for name, _, kind in waterfall.steps if kind == "total"][:2] == ["formula", "ledger"]
    assert dict((name, nbytes) for name, nbytes, _ in waterfall.steps)["not in the formula"] == 0


def test_an_explanation_with_a_gpus_word_closes_too():
    run = dsmem.measure(ARCH, dsmem.Workload(2, 8))
    peak = run.replay.peak_allocated_bytes
    said = {"requested": peak, "allocated": peak + 9, "reserved": peak + 100, "used": peak + 1000, "workspace": 7}
    waterfall = dsmem.explain(dsmem.runs.Run(**{**vars(run), "device_memory": said}))
    assert closes(waterfall)
    assert [nbytes for name, nbytes, kind in waterfall.steps if kind == "total"][-3:] == [
        said["allocated"],
        said["reserved"],
        said["used"],
    ]


def test_tensors_from_before_the_run_are_no_kernel_scratch():
    run = dsmem.measure(ARCH, dsmem.Workload(2, 8))
    peak = run.replay.peak_allocated_bytes
    said = {"requested": peak, "allocated": peak + 50, "reserved": peak + 100, "used": peak + 1000, "workspace": 0}
    steps = dsmem.explain(dsmem.runs.Run(**{**vars(run), "device_memory": said | {"elsewhere": 50}})).steps
    gaps = {name: nbytes for name, nbytes, _ in steps}
    assert (gaps["tensors from before this run"], gaps["kernel scratch that no tensor holds"]) == (50, 0)


def test_an_explanation_prints_a_line_for_each_step():
    waterfall = dsmem.explain(dsmem.measure(ARCH, dsmem.Workload(2, 8)))
    lines = repr(waterfall).splitlines()
    assert len(lines) == len(waterfall.steps)
    assert all(
        name in line and f"{nbytes:,} B" in line for (name, nbytes, _), line in zip(waterfall.steps, lines, strict=True)
    )
