"""Predictions of host memory against processes that really load checkpoints and feed batches."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from dsmem.memory.host import (
    HostRun,
    compare_loaders,
    loading_bytes,
    measure_loading,
    measure_prefetch,
    pinned_bytes,
    prefetch_bytes,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The same 256 MiB of tensors as a pickle and as safetensors."""
    folder = tmp_path_factory.mktemp("checkpoint")
    state = {f"layer.{i}": torch.full((2048, 4096), i, dtype=torch.bfloat16) for i in range(16)}
    torch.save(state, folder / "model.pt")
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("loader", ["pickle", "pickle_mmap", "safetensors"])
def test_loading_peaks_as_predicted(checkpoints, loader):
    name = "model.safetensors" if loader == "safetensors" else "model.pt"
    run = measure_loading(checkpoints / name, loader)
    assert run.predicted_bytes == pytest.approx(loading_bytes(2**28, 2**28), rel=0.001)
    assert run.peak_bytes == pytest.approx(run.predicted_bytes, rel=0.05)


def test_a_mapped_file_is_no_memory_of_the_process(checkpoints):
    plain, mapped = (measure_loading(checkpoints / "model.pt", loader) for loader in ("pickle", "pickle_mmap"))
    assert plain.own_bytes == pytest.approx(2**29, rel=0.05)
    assert mapped.own_bytes == pytest.approx(2**28, rel=0.05)
    assert mapped.file_bytes == pytest.approx(2**28, rel=0.05)


def test_mapped_tensors_that_become_the_model_are_not_read_before_use(checkpoints):
    run = measure_loading(checkpoints / "model.safetensors", "safetensors_assign")
    assert run.peak_bytes < 0.1 * 2**28


def test_a_process_that_does_nothing_has_its_baseline_alone(checkpoints):
    run = measure_loading(checkpoints / "model.pt", "nothing")
    assert isinstance(run, HostRun) and run.baseline_bytes > 50 * 2**20 and run.peak_bytes < 5 * 2**20


def test_loaders_side_by_side_measure_what_each_alone_does():
    runs = compare_loaders(2**26)
    assert list(runs) == ["pickle", "safetensors", "safetensors_assign"]
    assert runs["pickle"].own_bytes == pytest.approx(2**27, rel=0.05)
    assert runs["safetensors"].own_bytes == pytest.approx(2**26, rel=0.05)
    assert runs["safetensors_assign"].peak_bytes < 0.2 * 2**26


def test_a_run_says_predicted_and_measured_and_whose_it_is():
    said = "predicted 128.00 MiB, measured 130.00 MiB: 127.00 MiB its own,  3.00 MiB of the file"
    assert str(HostRun(0, *(n * 2**20 for n in (128, 130, 127, 3)))) == said


def test_a_loader_holds_what_it_prefetches_and_the_batch_in_use():
    assert measure_prefetch(2, 2, 8 * 2**20) == pytest.approx(prefetch_bytes(2, 2, 8 * 2**20), rel=0.05)


def test_pinned_copies_are_rounded_to_powers_of_two():
    assert [pinned_bytes(nbytes) for nbytes in (1, 4096, 4097)] == [1, 4096, 8192]


def test_bad_input_is_refused_in_a_sentence(refuses, tmp_path):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"nothing of the kind")
    refuses(lambda: measure_loading(damaged, "zip"), "loader", "'zip'", "safetensors")
    refuses(lambda: measure_loading(tmp_path / "none.pt"), "path", "none.pt", "must be a checkpoint")
    refuses(lambda: measure_loading(damaged), "path", "damaged.pt", "cannot be loaded")
    refuses(lambda: measure_prefetch(0, 2, 8), "num_workers", "0", "at least 1")
