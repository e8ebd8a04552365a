"""Gradients of our operators: torch's own of plain code in float64, the same tensors real and fake, nothing besides."""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

import dsmem
from dsmem.memory.records import BEFORE
from dsmem.model import capped, operators


def random(*shape, **like):
    return torch.randn(*shape, **like)


def root_mean_square(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def attention(q, k, v, causal, window, softcap=None, bias=None):
    """(batch, seq_len, heads, head_dim), scores in memory."""
    groups, new, seen = q.shape[2] // k.shape[2], q.shape[1], k.shape[1]
    k, v = (tensor.repeat_interleave(groups, dim=2) for tensor in (k, v))
    scores = torch.einsum("bshd,bthd->bhst", q, k) / q.shape[-1] ** 0.5
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    age = torch.arange(seen - new, seen)[:, None] - torch.arange(seen)
    if causal:
        scores = scores.masked_fill((age < 0) | (age >= (window or seen)), -torch.inf)
    return torch.einsum("bhst,bthd->bshd", (scores if bias is None else scores + bias).softmax(-1), v)


def chosen_weights(logits, bias, scoring_func, norm_topk_prob):
    """Weights of the three experts that score best, times 1.5."""
    scores = logits.sigmoid() if scoring_func == "sigmoid" else logits.softmax(-1)
    weights = scores.gather(1, (scores if bias is None else scores + bias).topk(3).indices)
    return 1.5 * (weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights)


def per_expert(x, weight, ends):
    edges = [0, *ends.tolist()]
    return torch.cat([x[a:b] @ matrix.t() for a, b, matrix in zip(edges, edges[1:], weight, strict=False)])


ENDS = torch.tensor([3, 3, 7, 12], dtype=torch.int32)
BIAS = torch.zeros(2, 1, 7, 16)[..., :7].masked_fill_(torch.ones(7, 7).triu(2).bool(), -torch.inf)
CASES = {
    "rms_norm": ([(2, 5, 12), (12,)], lambda x, w: operators.rms_norm(x, w, 1e-5)[0], root_mean_square),
    "layer_norm": (
        [(2, 5, 12), (12,), (12,)],
        lambda x, w, b: operators.layer_norm(x, w, b, 1e-5)[0],
        lambda x, w, b: torch.nn.functional.layer_norm(x, w.shape, w, b, 1e-5),
    ),
    "grouped_linear": (
        [(12, 6), (4, 5, 6)],
        lambda x, w: operators.grouped_linear(x, w, ENDS),
        lambda x, w: per_expert(x, w, ENDS),
    ),
    "attention with a bias": (
        [(2, 7, 4, 10)] * 3,
        lambda q, k, v: operators.attention(q, k, v, False, BIAS.to(q.dtype))[0],
        lambda q, k, v: attention(q, k, v, False, None, bias=BIAS),
    ),
}
for new, seen, heads, kv_heads, causal, window in [
    (7, 7, 4, 4, True, None),
    (7, 7, 6, 2, True, None),
    (5, 9, 4, 1, True, None),
    (7, 7, 4, 4, False, None),
    (7, 7, 4, 2, True, 3),
    (5, 9, 4, 4, True, 4),
    (7, 7, 4, 2, True, 20),
]:
    shapes = [(2, new, heads, 10), (2, seen, kv_heads, 10), (2, seen, kv_heads, 10)]
    name = f"{new} of {seen} tokens, {kv_heads} of {heads} heads, {causal=}, {window=}"
    CASES["attention, " + name] = (
        shapes,
        lambda *qkv, rules=(causal, window): operators.attention(*qkv, rules[0], window=rules[1])[0],
        lambda *qkv, rules=(causal, window): attention(*qkv, *rules),
    )
    CASES["capped attention, " + name] = (
        shapes,
        lambda *qkv, rules=(causal, window): capped.attention(*qkv, *rules, 1.5)[0],
        lambda *qkv, rules=(causal, window): attention(*qkv, *rules, 1.5),
    )
for scoring_func, norm, biased in itertools.product(("sigmoid", "softmax"), (True, False), (True, False)):
    offsets = torch.linspace(-0.5, 0.5, 8) if biased else None
    CASES[f"route, {scoring_func}, {norm=}, {biased=}"] = (
        [(11, 8)],
        lambda x, rules=(offsets, scoring_func, norm): operators.route(x, rules[0], 3, 1, 1, *rules[1:], 1.5)[0],
        lambda x, rules=(offsets, scoring_func, norm): chosen_weights(x, *rules),
    )
each_case = pytest.mark.parametrize(("shapes", "ours", "plain"), CASES.values(), ids=CASES)


def inputs(shapes, dtype=torch.float32, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


@each_case
def test_gradients_are_those_of_plain_code(shapes, ours, plain):
    tensors = inputs(shapes)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    out, exact = ours(*tensors), plain(*wide)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-5)
    grad = random(*out.shape)
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
