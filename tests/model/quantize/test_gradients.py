"""Gradients pass through rounded weights to the input, and no copy of a weight is kept for them."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from dsmem import Architecture, Ledger, build_model
from dsmem.model.quantize import LAYERS, QuantizedStack

each_scheme = pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
ENDS = torch.tensor([3, 3, 7, 12], dtype=torch.int32)


def filled(module, shape, *place):
    torch.manual_seed(2)
    for index in range(place[0]) if place else [None]:
        module.set_weight(*([] if index is None else [index]), torch.randn(shape) / 8)
    return module


@each_scheme
def test_a_linear_layers_gradient_is_that_of_the_copy(scheme):
    layer = filled(LAYERS[scheme](64, 32, bias=True, dtype=torch.float32, device="cpu"), (32, 64))
    x = torch.randn(2, 5, 64, requires_grad=True)
    kept = []
    with saved_tensors_hooks(kept.append, lambda packed: packed):
        out = layer(x)
    grad = torch.randn_like(out)
    (ours,) = torch.autograd.grad(out, x, grad)
    (plain,) = torch.autograd.grad(F.linear(x, layer.weight_copy(x.dtype), layer.bias), x, grad)
    torch.testing.assert_close(ours, plain)
    assert kept == []


@each_scheme
def test_so_is_that_of_a_stack_and_fake_ones_allocate_alike(scheme):
    shape = (4, 32, 64)
    stack = filled(QuantizedStack(scheme, *shape, dtype=torch.float32, device="cpu"), shape[1:], 4)
    x = torch.randn(12, 64, requires_grad=True)
    out = stack(x, ENDS)
    (ours,) = torch.autograd.grad(out, x, torch.ones_like(out))
    want = torch.zeros(12, 64)
    for expert, (start, end) in enumerate([(0, 3), (3, 3), (3, 7), (7, 12)]):
        alone = torch.tensor([0] * expert + [64] * (4 - expert), dtype=torch.int32)
        want[start:end] = stack(torch.eye(64), alone).sum(1)
    torch.testing.assert_close(ours, want)


@each_scheme
def test_adapters_learn_beside_frozen_experts(scheme):
    config = {"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 61, "num_experts": 4, "num_experts_per_tok": 2}
    arch = Architecture.from_config(config | {"moe_intermediate_size": 32, "intermediate_size": 64})
    events = {}
    for device in ("cpu", "fake"):
        model = build_model(arch, scheme, device, activations="bf16")
        model.embed_tokens.weight.requires_grad_(True)
        tokens, mode = torch.ones(2, 11, dtype=torch.long), contextlib.nullcontext()
        if device == "fake":
            mode, tokens = model.fake_mode, model.fake_mode.from_tensor(tokens)
        with mode, Ledger(model) as ledger:
            out = model(tokens)
            out.backward(torch.ones_like(out))
        assert model.embed_tokens.weight.grad is not None
        events[device] = [(sign, r.op, r.shape, r.dtype) for r, sign in ledger.events]
    assert events["cpu"] == events["fake"]


def test_an_input_that_is_rounded_has_no_gradient_and_is_refused():
    layer = LAYERS["int8_w8a8"](64, 32, bias=False, dtype=torch.float32, device="cpu")
    with pytest.raises(ValueError, match="int8_w8a8"):
        layer(torch.randn(2, 64, requires_grad=True))
