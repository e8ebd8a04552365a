"""A GPU's trace and our replay of it in one picture."""

import copy

import pytest
from matplotlib.figure import Figure

from dsmem.memory.traces import shipped, trace_bytes
from dsmem.plots import plot_trace

TRACE = shipped("cs336-first-step")


@pytest.fixture
def ax():
    return Figure(layout="constrained").add_subplot()


def test_the_markers_are_the_traces_own_numbers_and_the_lines_ours(ax):
    plot_trace(TRACE, ax=ax)
    requested, reserved = trace_bytes(TRACE)
    rows = {name: [n for series, _, n in ax.dsmem_data if series == name] for name, _, _ in ax.dsmem_data}
    assert rows["reserved, as the GPU's trace says"] == rows["reserved, replayed"] == reserved.tolist()
    assert rows["requested, as the GPU's trace says"] == requested.tolist()
    assert "all 71 events, up to 3.52 GiB reserved" in " ".join(ax.get_title(loc="left").split())


@pytest.mark.parametrize("number", [1, 45])
def test_where_the_two_differ_the_picture_says_so(number, ax):
    changed = copy.deepcopy(TRACE)
    changed["events"][number][1] += 512
    plot_trace(changed, ax=ax)
    assert f"through {number} of 71 events" in " ".join(ax.get_title(loc="left").split())
    assert any(f"differs from event {number}" in text.get_text() for text in ax.texts)


def test_a_trace_without_events_is_refused(ax, refuses):
    refuses(lambda: plot_trace(TRACE | {"events": []}, ax=ax), "trace", "at least one event")
