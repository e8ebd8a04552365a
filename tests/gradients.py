"""Our operators beside plain code of the same meaning, and inputs for both."""

import itertools

import torch

from dsmem.model import capped, operators


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


def inputs(shapes, dtype=torch.float32, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
