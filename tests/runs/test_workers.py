"""A process for cells: it answers, and is replaced when it dies, hangs, crashes or loses its GPU."""

import os

import pytest
import standins

from dsmem.runs.workers import Worker, WorkerLost, only


@pytest.fixture(scope="module")
def worker():
    with Worker("cpu") as worker:
        yield worker


def test_one_process_answers_call_after_call(worker):
    number = worker.ask(standins.number)
    assert number == worker.ask(standins.number) != os.getpid()


def test_an_error_leaves_the_process_as_it_is(worker, refuses):
    number = worker.ask(standins.number)
    refuses(lambda: worker.ask(standins.fail, ValueError, "batch=0 is not a count"), "batch=0")
    with pytest.raises(RuntimeError, match="KeyError: 'lm_head'"):
        worker.ask(standins.fail, KeyError, "lm_head")
    assert worker.ask(standins.number) == number


@pytest.mark.parametrize(
    ("call", "seconds", "words"),
    [((standins.die, 7), None, "exit code 7"), ((standins.sleep, 60), 1.5, "longer than 2 s")],
    ids=["dies", "hangs"],
)
def test_a_process_that_is_lost_is_replaced(worker, call, seconds, words):
    number = worker.ask(standins.number)
    with pytest.raises(WorkerLost, match=words):
        worker.ask(*call, seconds=seconds)
    assert worker.ask(standins.number) != number


def test_a_process_that_lost_its_gpu_still_answers_and_is_replaced(worker):
    number = worker.ask(standins.number)
    assert worker.ask(standins.unsound) == number != worker.ask(standins.number)


def test_a_process_ends_with_its_block():
    with Worker("cpu") as worker:
        number = worker.ask(standins.number)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.parametrize(("visible", "then"), [(None, "1"), ("4,6", "6"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_numbered_gpu_is_the_only_one_that_new_processes_see(visible, then, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with only("cuda:1") as device:
        assert (device, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", then)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_devices_without_a_number_change_nothing(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    for device in ("cuda", "cpu", "fake"):
        with only(device) as same:
            assert (same, os.environ["CUDA_VISIBLE_DEVICES"]) == (device, "3")


@pytest.mark.parametrize(
    ("device", "before", "within"), [("cuda", None, "1"), ("cuda:0", "0", "0"), ("cpu", None, None)]
)
def test_processes_on_a_gpu_keep_their_workspace_unless_told_otherwise(device, before, within, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("TORCH_CUBLAS_WORKSPACE_CACHE", raising=False)
    if before:
        monkeypatch.setenv("TORCH_CUBLAS_WORKSPACE_CACHE", before)
    with only(device):
        assert os.environ.get("TORCH_CUBLAS_WORKSPACE_CACHE") == within
    assert os.environ.get("TORCH_CUBLAS_WORKSPACE_CACHE") == before


@pytest.mark.parametrize("device", ["cuda:1", "cuda:x", "cpu:1", "cuda:-1"])
def test_a_gpu_that_is_not_seen_is_refused(device, monkeypatch, refuses):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    refuses(lambda: only(device).__enter__(), "device", device, "cuda:1")
