"""Phases of a ledger, counted by hand; gradients and optimizer states known by who holds them."""

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from dsmem.memory.ledger import Ledger


def test_phases_counted_by_hand():
    with Ledger() as ledger:
        old = torch.zeros(250)  # 1,000 bytes
        ledger.mark("first")
        one = old * 2  # 2,000
        two = one * 2  # 3,000
        del one  # 2,000
        ledger.mark("second")
        three = torch.zeros(100)  # 2,400
        del two, three
        ledger.mark("third")
    assert ledger.phases == {"first": 3000, "second": 2400, "third": 1000}
    assert ledger.at_marks == {"first": 1000, "second": 2000, "third": 1000}
    assert [record.nbytes for record in ledger.at_peak("second")] == [1000, 1000, 400]
    assert sum(ledger.by_category("first").values()) == 3000 and old.numel() == 250


def test_what_is_touched_late_moves_the_marks_along():
    before = torch.zeros(250)
    with Ledger() as ledger:
        one = torch.zeros(100)
        ledger.mark("later")
        total = one.sum() + before.sum()
    assert ledger.at_marks == {"later": 1400} and total == 0
    assert ledger.timeline().live_bytes[ledger.marks["later"] - 1] == 1400


@pytest.mark.parametrize("foreach", [True, False])
def test_a_step_peaks_where_torchs_tracker_says_and_its_tensors_are_known(foreach):
    model, x = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32)), torch.randn(16, 64)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=foreach)
    params = sum(p.nbytes for p in model.parameters())

    def step(mark=lambda phase: None):
        mark("forward")
        loss = model(x).square().sum()
        mark("backward")
        loss.backward()
        mark("optimizer step")
        optimizer.step()
        optimizer.zero_grad()

    step()
    tracker = MemTracker()
    tracker.track_external(model, optimizer, x)
    with tracker:
        step()
    with Ledger(model) as ledger:
        ledger.book([list(state.values()) for state in optimizer.state.values()], "optimizer")
        step(ledger.mark)
    assert ledger.peak_bytes == tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    held = ledger.by_category("optimizer step")
    assert (held["weight"], held["gradient"], held["optimizer"]) == (params, params, 2 * params + 4 * 4)
    # the first layer's output is kept by ReLU in its own, the second's by the square; x is the input
    assert ledger.by_category("forward")["activation"] >= 16 * 128 * 4 + 16 * 32 * 4


def test_what_is_no_phase_or_category_is_refused(refuses):
    with Ledger() as ledger:
        ledger.mark("forward")
        refuses(lambda: ledger.mark("forward"), "phase='forward'", "once")
        refuses(lambda: ledger.book([], "moments"), "category='moments'", "optimizer")
        refuses(lambda: ledger.phases, "still at work")
    refuses(lambda: ledger.by_category("backward"), "phase='backward'", "forward")
