"""Two gradients that meet are added in place, watched or not, unless somebody else holds the first."""

import contextlib

import pytest
import torch

from dsmem.memory.ledger import Ledger


class Copied(torch.autograd.Function):
    """A copy, whose gradient is a copy too; it notes where that lies, and may keep it."""

    @staticmethod
    def forward(ctx, x, places, kept):
        ctx.places, ctx.kept = places, kept
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        out = grad.clone()
        ctx.places.append(out.data_ptr())
        if ctx.kept is not None:
            ctx.kept.append(out)
        return out, None, None


def sum_of_two(watching, kept=None):
    """Where the first of two gradients lay, and where their sum lies; and the sum's values."""
    places, sums = [], []
    with watching as ledger:
        x = torch.ones(64, requires_grad=True)
        doubled = x * 2
        doubled.register_hook(lambda grad: sums.append((grad.data_ptr(), grad.sum().item())))
        (Copied.apply(doubled, places, kept) + Copied.apply(doubled, places, kept)).sum().backward()
    return places[0], *sums[0], ledger


@pytest.mark.parametrize("kept", [False, True])
def test_a_ledger_changes_nothing_about_where_gradients_are_added(kept):
    for watching in (contextlib.nullcontext(), Ledger()):
        first, place, total, ledger = sum_of_two(watching, [] if kept else None)
        assert total == 128 and (place == first) is not kept
        # of 256 bytes: x's two ways forward make one `add`, and a sum that is not in place makes another
        if ledger is not None:
            assert sum(record.op == "add" for record in ledger.records) == 1 + kept
