"""What fusing saves: the ledger beside PyTorch's profiler, and what happens without a compiler."""

import pytest
import torch

from dsmem.runs import fusion

WIDTH = 4 * 64 * 256  # bytes of one tensor of the middle


@pytest.mark.parametrize(("way", "allocated", "peak"), [("eager", 4, 3), ("in place", 2, 2)])
def test_the_ledger_counts_what_the_profiler_counts(way, allocated, peak):
    model, x = fusion.Middle(64, 256, way), torch.randn(64, 64)
    with torch.no_grad():
        model(x)
        theirs = fusion.profiled_bytes(lambda: model(x))
    assert fusion.ledger_bytes(way) == theirs == (allocated * WIDTH, peak * WIDTH)


def test_both_ways_give_the_same_numbers():
    models = [fusion.Middle(16, 32, way) for way in fusion.WAYS]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(5, 16)
    with torch.no_grad():
        assert torch.equal(models[0](x), models[1](x))


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert fusion.compiler() is None
    assert fusion.compiled_bytes().startswith("Not compiled: torch.compile needs a C++ compiler")


def test_another_way_is_refused(refuses):
    refuses(lambda: fusion.ledger_bytes("fused"), "way='fused' is not a way to run it")
