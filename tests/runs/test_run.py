"""Runs through the front door, and the order in which a GPU's memory is read, held on a stand-in for its functions."""

import collections
import gc

import numpy as np
import pytest
import torch

import dsmem
from dsmem import Workload
from dsmem.memory import cuda
from dsmem.runs import run as runs
from dsmem.runs.watching import watch

TINY = dsmem.Architecture.of("qwen2.5-0.5b").scaled(num_hidden_layers=1, vocab_size=64)
WORKSPACE = 8_519_680
CLEARED = ["collect", "clear workspaces", "empty_cache"]


class StandIn:
    """A GPU's functions that note their calls; a product of 64 x 64 keeps a workspace, one with a bias another."""

    def __init__(self, monkeypatch, workspace=WORKSPACE, lt=0):
        self.calls, self.allocated, self.keeps = [], 1000, {"product": workspace, "product with a bias": lt}
        monkeypatch.setattr(gc, "collect", self.noting("collect"))
        monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", self.noting("clear workspaces"), raising=False)
        for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, self.noting(name))
        answers = {"is_available": True, "current_device": 0, "mem_get_info": (2**40, 2**41), "memory_reserved": 0}
        answers |= {"memory_stats": collections.Counter(), "max_memory_allocated": 5, "max_memory_reserved": 6}
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: self.allocated)
        ones, self.linear = torch.ones, torch.nn.functional.linear
        monkeypatch.setattr(torch, "ones", lambda *shape, device=None, **like: ones(*shape, **like))
        monkeypatch.setattr(torch.nn.functional, "linear", self.product)
        monkeypatch.setattr(cuda, "trace", lambda forward: None)

    def noting(self, name, answer=None):
        return lambda *_, **__: (self.calls.append(name), answer)[1]

    def product(self, x, weight, bias=None):
        if x.shape == (64, 64):
            self.calls.append("product" if bias is None else "product with a bias")
            self.allocated += self.keeps[self.calls[-1]]
        return self.linear(x, weight, bias)


def test_the_workspace_is_taken_before_the_model_and_the_cache_is_emptied_before_each_measurement(monkeypatch):
    gpu, build, bind = StandIn(monkeypatch), runs.build_model, runs.bind

    def building(arch, **options):
        gpu.calls.append("build")
        return build(arch, **options | {"device": "cpu"})

    def binding(model, arch, work, device):
        gpu.calls.append("bind")
        forward = bind(model, arch, work, "cpu")
        return lambda: (gpu.calls.append("forward"), forward())

    monkeypatch.setattr(runs, "build_model", building)
    monkeypatch.setattr(runs, "bind", binding)
    run = dsmem.measure(TINY, batch=1, seq_len=4, weights="fp32", device="cuda")
    before = [*CLEARED, *CLEARED, "product", "product with a bias", "build", "empty_cache", "bind"]
    measured = ["forward", "synchronize", "empty_cache", "reset_peak_memory_stats", "forward", "synchronize"]
    assert gpu.calls[: len(before + measured)] == before + measured
    assert run.device_memory["workspace"] == WORKSPACE and run.device_memory["elsewhere"] == 1000
    assert run.replay.events[0] == (("workspace", 0), WORKSPACE, "workspace")
    assert [change for _, change, label in run.replay.events if label == "workspace"] == [WORKSPACE]


def test_without_a_workspace_given_peaks_takes_it_first(monkeypatch):
    gpu = StandIn(monkeypatch)
    assert cuda.peaks(gpu.noting("forward"))["workspace"] == WORKSPACE
    assert gpu.calls[:6] == [*CLEARED, "product", "product with a bias", "forward"]


def test_a_workspace_that_cublaslt_keeps_is_a_block_of_its_own_in_the_replay(monkeypatch):
    gpu = StandIn(monkeypatch, lt=2**20)
    factor = torch.ones(2, 3)
    memory = cuda.peaks(gpu.noting("forward"))
    assert memory["workspace_blocks"] == [WORKSPACE, 2**20] and memory["workspace"] == WORKSPACE + 2**20
    _, replayed, *_ = watch(lambda: factor * 2, torch.nn.Linear(1, 1), "cuda")
    # cuBLAS's lies in a segment of 20 MiB; the small block, and whatever else is small, in one of 2 MiB
    assert replayed.peak_reserved_bytes == 22 * 2**20


def test_a_workspace_that_does_not_stay_is_an_error(monkeypatch):
    StandIn(monkeypatch, workspace=0)
    with pytest.raises(RuntimeError, match="kept 0 bytes.*TORCH_CUBLAS_WORKSPACE_CACHE"):
        cuda.workspace_bytes()


@pytest.mark.parametrize("device", ["fake", torch.device("cpu")])
def test_devices_formats_and_attention_are_taken_in_every_spelling(device):
    run = dsmem.measure(TINY, seq_len=4, weights=torch.float16, attention="auto", device=device)
    assert (run.device, run.work.weights, run.work.attention) == (str(device), "fp16", "fused")


def test_one_workload_is_run_at_a_time(refuses):
    refuses(lambda: dsmem.measure("qwen2.5-0.5b", batch=[1, 2]), "batch", "one workload", "whole number")


@pytest.mark.parametrize("code", ["dsmem", "transformers"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused_whoevers_code_runs(code, refuses):
    refuses(lambda: dsmem.measure("qwen2.5-0.5b", device="cuda", code=code), "device='cuda'", "'cpu', 'fake'")


def test_tokens_per_second_wants_one_model_and_a_clock(refuses):
    works = [Workload(1, 8), Workload(2, 8, weights="bf16")]
    refuses(lambda: runs.tokens_per_second("qwen2.5-0.5b", works, "cpu"), "works", "weights", "bf16", "fp16")
    refuses(lambda: runs.tokens_per_second("qwen2.5-0.5b", [], "cpu"), "works")
    refuses(lambda: runs.tokens_per_second("qwen2.5-0.5b", works[:1], "fake"), "device='fake'", "'cpu', 'cuda'")


def test_a_machine_shows_itself_in_a_few_lines_and_as_a_table():
    machine = dsmem.here()
    assert repr(machine).startswith(machine.name) and len(repr(machine).splitlines()) == 5
    assert machine._repr_html_().startswith("<table>") and "attention kernel" in str(machine.table())


@pytest.mark.parametrize("device", ["fake", "cpu"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_run_is_told_at_three_levels_without_a_gpu(device, phase):
    run = dsmem.measure(TINY, Workload(2, 8, phase), device=device)
    assert run.footprint.total_bytes == run.ledger.peak_bytes <= run.replay.peak_allocated_bytes
    assert (run.arch, run.device, run.device_memory) == (TINY, device, None)
    assert (run.seconds is None) == (device == "fake")


def test_measuring_twice_gives_the_same_bytes():
    one, two = (dsmem.measure(TINY, Workload(2, 8), device="cpu") for _ in range(2))
    assert one.ledger.timeline().live_bytes.tolist() == two.ledger.timeline().live_bytes.tolist()


@pytest.mark.parametrize("argument", ["batch", "seq_len"])
def test_a_workload_of_arrays_cannot_be_measured(argument, refuses):
    refuses(lambda: dsmem.measure(TINY, Workload(**{argument: np.array([1, 2])})), argument, "array", "whole number")


def test_an_unknown_device_cannot_be_measured(refuses):
    refuses(lambda: dsmem.measure(TINY, Workload(1, 8), device="gpu"), "device", "'gpu'", "'cuda', 'cpu', 'fake'")


def test_tokens_a_second_come_one_for_each_workload_and_from_one_model(refuses):
    rates = runs.tokens_per_second(TINY, [Workload(b, 8, "decode", weights="bf16") for b in (1, 4)], "cpu")
    assert rates.shape == (2,) and rates.min() > 0
    mixed = [Workload(1, 8, "decode", weights=weights) for weights in ("bf16", "fp32")]
    refuses(lambda: runs.tokens_per_second(TINY, mixed, "cpu"), "works", "'bf16'", "one kind")
