"""The optimizers of torch and bitsandbytes: their states in bytes, master copies, and what is refused."""

import importlib.util
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import dsmem
from dsmem.config.training import Training
from dsmem.memory.ledger import Ledger
from dsmem.model.optimizers import make_optimizer

BY = {"adamw": 8, "sgd": 4, "lion": 4}  # bytes of states for each FP32 parameter


def network(dtype=torch.float32):
    torch.manual_seed(3)
    linear, like = torch.nn.Linear, {"dtype": dtype}
    return torch.nn.Sequential(linear(96, 64, **like), torch.nn.LayerNorm(64, **like), linear(64, 80, **like))


def backward(model):
    x = torch.randn(5, 96, dtype=next(model.parameters()).dtype)
    model(x).float().square().mean().backward()


def trained(training, dtype=torch.float32, steps=2):
    model = network(dtype)
    optimizer = make_optimizer(training, model.named_parameters())
    for _ in range(steps):
        backward(model)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def held(optimizer):
    return {name: sum(t.untyped_storage().nbytes() for t in tensors) for name, tensors in optimizer.states().items()}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", BY)
def test_states_of_an_fp32_parameter(name):
    model, optimizer = trained(name)
    states = held(optimizer)
    assert sum(states.values()) - states.get("step", 0) == BY[name] * count(model)


def test_lion_keeps_half_of_what_adamw_keeps():
    (_, lion), (_, adamw) = trained("lion"), trained("adamw")
    assert 2 * sum(held(lion).values()) == sum(held(adamw).values()) - held(adamw)["step"]


def test_8_bit_states_are_a_byte_and_small_tensors_stay_in_32_bit():
    model, optimizer = trained("adamw8bit")
    large = [p.numel() for p in model.parameters() if p.numel() >= 4096]
    small = [p.numel() for p in model.parameters() if p.numel() < 4096]
    states = held(optimizer)
    assert len(large) == 2 and len(small) == 4
    assert states["state1"] == sum(large) + 4 * sum(small)
    assert states["absmax1"] == 4 * sum(-(-n // 256) for n in large)
    assert states["qmap1"] == states["qmap2"] == 1024


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "muon", "lion", "adamw8bit", "lion8bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fake_parameters_have_the_states_of_real_ones(name, dtype):
    _, real = trained(name, dtype)
    with FakeTensorMode():
        model = network(dtype)
    fake = make_optimizer(name, model.named_parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(2):
        fake.step()
    assert held(fake) == held(real)


def test_the_kernels_step_alike():
    weights = [list(trained({"optimizer_kernel": kind})[0].parameters()) for kind in ("foreach", "loop", "fused")]
    for loop, foreach, fused in zip(*weights, strict=True):
        torch.testing.assert_close(loop, foreach)
        torch.testing.assert_close(loop, fused)


@pytest.mark.parametrize("gradients", [None, "fp32"])
def test_a_master_copy_moves_by_less_than_16_bit_can_tell(gradients):
    training = Training(precision="master", gradients=gradients)
    model, optimizer = trained(training, torch.bfloat16)
    masters = optimizer.states()["master weights"]
    assert all(master.dtype == torch.float32 for master in masters)
    for parameter, master in zip(model.parameters(), masters, strict=True):
        assert torch.equal(parameter, master.bfloat16())
    assert any(
        not torch.equal(parameter.float(), master)
        for parameter, master in zip(model.parameters(), masters, strict=True)
    )
    assert sum(held(optimizer).values()) - held(optimizer)["step"] == 12 * count(model)


def test_master_steps_are_those_of_an_fp32_model_with_the_same_gradients():
    model, reference = network(torch.bfloat16), network(torch.bfloat16).float()
    optimizer = make_optimizer({"precision": "master"}, model.named_parameters())
    torchs = torch.optim.AdamW(reference.parameters(), foreach=False)
    for _ in range(3):
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            ours.grad = torch.randn_like(ours)
            theirs.grad = ours.grad.float()
        optimizer.step(), torchs.step()
    for master, theirs in zip(optimizer.stepped, reference.parameters(), strict=True):
        torch.testing.assert_close(master, theirs)


def test_gradients_in_fp32_leave_no_narrow_ones():
    model = network(torch.bfloat16)
    optimizer = make_optimizer({"precision": "master", "gradients": "fp32"}, model.named_parameters())
    backward(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert sum(master.grad.nbytes for master in optimizer.stepped) == 4 * count(model)
    optimizer.zero_grad()
    assert all(master.grad is None for master in optimizer.stepped)


@pytest.mark.parametrize("gradients", [None, "fp32"])
def test_each_master_is_stepped_once_a_step(gradients):
    model = network(torch.bfloat16)
    optimizer = make_optimizer({"precision": "master", "gradients": gradients}, model.named_parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {float(count) for count in optimizer.states()["step"]} == {1.0}


def test_a_step_with_narrow_moments_makes_no_new_ones():
    model, optimizer = trained({"moments": "bf16", "optimizer_kernel": "loop"})
    backward(model)
    with Ledger() as ledger:
        optimizer.step()
    born = [record for record in ledger.records if record.op != "(before)"]
    assert {record.dtype for record in born} == {"float32"}
    before = sum(record.nbytes for record in ledger.records if record.op == "(before)")
    assert ledger.peak_bytes - before == 2 * 4 * max(parameter.numel() for parameter in model.parameters())


def test_moments_in_16_bit_are_half_and_step_as_adamw_does():
    training = Training(precision="master", moments="bf16", optimizer_kernel="loop")
    model, optimizer = trained(training, torch.bfloat16)
    assert held(optimizer) == {
        "master weights": 4 * count(model),
        "exp_avg": 2 * count(model),
        "exp_avg_sq": 2 * count(model),
    }
    reference, _ = trained({"precision": "master"}, torch.bfloat16)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0.02)


def test_muon_takes_the_matrices_of_the_layers_alone():
    model = dsmem.build_model("qwen2.5-0.5b", weights="bf16", device="fake").requires_grad_(True)
    optimizer = make_optimizer("muon", model.named_parameters())
    muon, adamw = (group["params"] for group in optimizer.param_groups)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {named[id(p)].split(".")[-2] for p in muon} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert "embed_tokens.weight" in {named[id(p)] for p in adamw}
    assert len(muon) + len(adamw) == len(named)


def test_what_is_frozen_is_left_alone():
    model = network()
    model[0].weight.requires_grad_(False)
    assert len(make_optimizer("adamw", model.named_parameters()).parameters) == 5
    assert make_optimizer("none", model.parameters()) is None


@pytest.mark.parametrize(
    ("training", "dtype", "words"),
    [
        ({"optimizer": "muon", "optimizer_kernel": "fused"}, "float32", ["optimizer_kernel", "muon", "foreach, loop"]),
        ({"optimizer": "adafactor", "optimizer_kernel": "fused"}, "float32", ["optimizer_kernel", "adafactor"]),
        ({"precision": "master"}, "float32", ["precision", "FP32", "pure"]),
        ({"precision": "master", "gradients": "fp16"}, "bfloat16", ["gradients", "'fp16'", "bf16, fp32"]),
        ({"precision": "master", "moments": "bf16"}, "bfloat16", ["moments", "foreach", "loop"]),
        ({"moments": "fp32", "optimizer_kernel": "loop"}, "bfloat16", ["moments", "'fp32'", "loop"]),
        ({"optimizer": "lion", "moments": "bf16"}, "bfloat16", ["moments", "lion"]),
    ],
)
def test_what_no_optimizer_does_is_refused_by_name(training, dtype, words, refuses):
    refuses(lambda: make_optimizer(training, network(getattr(torch, dtype)).named_parameters()), *words)


def test_muon_wants_names(refuses):
    refuses(lambda: make_optimizer("muon", network().parameters()), "parameters", "named_parameters")


def test_without_bitsandbytes_the_way_on_is_named(refuses, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    refuses(lambda: make_optimizer("lion", network().parameters()), "'lion'", "pip install bitsandbytes")
