"""One cell of a sweep: how it ended, and what is predicted of it."""

import pytest
import torch

import dsmem
from dsmem import Architecture, Workload
from dsmem.memory.allocator import ReplayedOutOfMemory
from dsmem.runs import cells

TINY = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2, vocab_size=1000)

OUTCOMES = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "did not fit"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "did not fit"),
    (torch.AcceleratorError("CUDA error: out of memory"), "did not fit"),
    (MemoryError(), "did not fit"),
    (ReplayedOutOfMemory("no room for 512 bytes"), "did not fit in the replay"),
    (RuntimeError(), "failed: RuntimeError"),
    (RuntimeError("no kernel image is available\nCompile with ..."), "failed: no kernel image is available"),
    (KeyError("lm_head"), "failed: KeyError: 'lm_head'"),
    (
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."),
        "failed: AcceleratorError: CUDA error: an illegal memory access was encountered",
    ),
]


@pytest.mark.parametrize(("error", "outcome"), OUTCOMES)
def test_missing_memory_is_told_from_every_other_error(error, outcome):
    assert cells.outcome(error) == outcome


def test_the_allocators_settings_reach_the_prediction(monkeypatch):
    run = dsmem.measure(TINY, Workload(2, 8))
    said = {"requested": 1, "allocated": 1, "reserved": 1, "used": 1, "workspace": 2**25}
    replayed = dsmem.replay(run.ledger, workspace_bytes=2**25)
    on_gpu = dsmem.runs.Run(**{**vars(run), "device_memory": said, "replay": replayed})
    monkeypatch.setattr(cells, "measure", lambda *_, **__: on_gpu)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    cell = cells.cell("fake", TINY, Workload(2, 8))
    expandable = dsmem.replay(run.ledger, workspace_bytes=2**25, expandable_segments=True)
    assert cell["replay_reserved_bytes"] == expandable.peak_reserved_bytes < replayed.peak_reserved_bytes


def test_a_training_step_that_does_not_fit_says_so_with_its_formula(monkeypatch):
    def no_room(*asked, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cells, "measure", no_room)
    training = dsmem.Training()
    work = training.workload(batch=1, seq_len=8)
    cell = cells.cell("cpu", TINY, work, "dsmem", training)
    assert cell["outcome"] == "did not fit" and cell["training"]["optimizer"] == "adamw"
    assert cell["formula_bytes"] == dsmem.training_footprint(TINY, work, training).total_bytes
