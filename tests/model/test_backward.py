"""Gradients of our operators: torch's own of plain code in float64, the same tensors real and fake, nothing besides."""

import pytest
import torch
from gradients import CASES, ENDS, inputs
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

import dsmem
from dsmem.memory.records import BEFORE
from dsmem.model import operators

each_case = pytest.mark.parametrize(("shapes", "ours", "plain"), CASES.values(), ids=CASES)


@each_case
def test_gradients_are_those_of_plain_code(shapes, ours, plain):
    tensors = inputs(shapes)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    out, exact = ours(*tensors), plain(*wide)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-5)
    grad = torch.randn(*out.shape)
    for got, want, tensor in zip(
        torch.autograd.grad(out, tensors, grad), torch.autograd.grad(exact, wide, grad.double()), tensors, strict=True
    ):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
        assert got.is_contiguous() and got.shape == tensor.shape and got.untyped_storage().nbytes() == got.nbytes


def born(ledger):
    """What a block allocated, in order: operator, shape, format, bytes."""
    return [(r.op, r.shape, r.dtype, r.nbytes) for r in ledger.records if r.op != BEFORE]


def step(shapes, ours, dtype):
    """The ledger of a forward pass and of its backward."""
    tensors = inputs(shapes, dtype)
    with dsmem.Ledger() as forward:
        out = ours(*tensors)
    grad = torch.ones_like(out)
    with dsmem.Ledger() as backward:
        out.backward(grad)
    return born(forward), born(backward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_case
def test_fake_and_real_tensors_allocate_alike_and_gradients_alone(shapes, ours, plain, dtype):
    if len(shapes) == 1:
        dtype = torch.float32  # a router's logits
    real = step(shapes, ours, dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert step(shapes, ours, dtype) == real
    assert sorted(shape for _, shape, _, _ in real[1]) == sorted(shapes)
    assert sum(nbytes for *_, nbytes in real[1]) == sum(tensor.nbytes for tensor in inputs(shapes, dtype))


@each_case
def test_a_gradient_to_come_changes_nothing_in_forward(shapes, ours, plain):
    tensors = inputs(shapes)
    with dsmem.Ledger() as trained:
        ours(*tensors)
    with dsmem.Ledger() as frozen, torch.no_grad():
        ours(*tensors)
    assert born(trained) == born(frozen)


KEPT = {
    "rms_norm": [(2, 5, 12), (12,), (2, 5, 1)],
    "layer_norm": [(2, 5, 12), (12,), (2, 5, 1), (2, 5, 1)],
    "grouped_linear": [(12, 6), (4, 5, 6), (4,)],
    "attention with a bias": [(2, 7, 4, 10)] * 4 + [(2, 4, 7), (2, 1, 7, 7)],
    "attention, 7 of 7 tokens, 2 of 6 heads, causal=True, window=None": [
        (2, 7, 6, 10),
        (2, 7, 2, 10),
        (2, 7, 2, 10),
        (2, 7, 6, 10),
        (2, 6, 7),
    ],
    "route, sigmoid, norm=True, biased=True": [(11, 8), (11, 3), (8,)],
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_what_is_said(name):
    shapes, ours, _ = CASES[name]
    kept = []
    with saved_tensors_hooks(lambda tensor: kept.append(tuple(tensor.shape)), lambda _: None):
        ours(*inputs(shapes))
    assert kept == KEPT[name]


@pytest.mark.parametrize("name", ["rms_norm", "layer_norm", "grouped_linear"])
def test_a_frozen_weight_gets_no_gradient(name):
    shapes, ours, _ = CASES[name]
    x, *weights = inputs(shapes)
    kept = []
    with saved_tensors_hooks(lambda tensor: kept.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor):
        out = ours(x, *(weight.detach() for weight in weights))
    grad = torch.ones_like(out)
    with dsmem.Ledger() as ledger:
        out.backward(grad)
    assert [shape for _, shape, _, _ in born(ledger)] == [shapes[0]] and x.grad is not None
    assert (shapes[0] in kept) == (name != "grouped_linear")


def test_an_input_without_gradient_gets_none():
    x, weight = inputs([(12, 6), (4, 5, 6)])
    with dsmem.Ledger() as ledger:
        operators.grouped_linear(x.detach(), weight, ENDS).sum().backward()
    assert x.grad is None and weight.grad is not None
    assert [record.shape for record in ledger.records if record.op == "grouped_linear_backward"] == [(4, 5, 6)]


def test_an_indexer_has_no_gradient():
    q, k, weights = inputs([(1, 3, 2, 4), (1, 3, 4), (1, 3, 2)])
    assert not any(score.requires_grad for score in operators.index_scores(q, k, weights))
