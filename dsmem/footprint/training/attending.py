"""Attention in training, once there are queries, keys and values: `operators.attention`, `layers.eager_attention`."""

import functools

import numpy as np

from dsmem import formulas
from dsmem.footprint.training.graph import Tensor, View, gives
from dsmem.footprint.training.operators import Trained


def attended(p: Trained, q: View, k: View, v: View, mask: Tensor | None) -> View:
    """Attention as the workload asks for it; with selective checkpointing it runs again in backward."""
    run = functools.partial(eager, p, mask) if p.work.attention == "eager" else functools.partial(fused, p)
    return p.t.again(run, q, k, v) if p.training.checkpointing == "selective" else run(q, k, v)


def eager(p: Trained, mask: Tensor, q: View, k: View, v: View) -> View:
    """`layers.eager_attention` of queries, keys and values that lie head by head.

    Left out: a GPU's softmax makes one more tensor of the scores' size in backward.
    """
    arch = p.arch
    out = p.rows(arch.num_attention_heads * arch.value_head_dim, p.bits)
    scores = scored(p, mask, q, k)
    weights = softmax(p, scores)
    del scores
    weights = p.dropped("drop_weights", weights, "attention_weights")
    rule = gives(weights.nbytes, v.nbytes)
    mixed = p.t.apply("mix_values", [weights, v], {"attention_mixed": out}, rule, [(weights, 1), (v, 0)])
    if arch.num_attention_heads > 1 and np.all(np.asarray(p.work.batch) > 1):
        mixed = p.t.seen("heads_together", mixed)
    return p.copied("merge_heads", mixed, "attention_out")


def scored(p: Trained, mask: Tensor, q: View, k: View) -> View:
    """Of every query and key, scaled, and hidden where a key lies in the future."""
    k = p.lowered(k, "scores.key")
    q = p.lowered(q, "scores.query")
    size = p.bytes(p.tokens * p.work.seq_len * p.arch.num_attention_heads, p.bits)
    scores = p.t.apply("scores", [q, k], {"scores": size}, gives(q.nbytes, k.nbytes), [(q, 1), (k, 0)])
    return p.t.inside("hide_future", p.t.inside("scale", scores), [mask])


def softmax(p: Trained, scores: View) -> View:
    """`softmax.softmax`: keeps its result; under torch.autocast that is FP32, and rounded after."""
    if not p.autocast:
        return p.like("softmax", scores, "attention_weights", [0], late=True)
    wide = scores.nbytes * 32 // scores.bits
    if p.work.activations == "fp16":  # one kernel reads FP16 and writes FP32
        made = {"attention_weights_float32": wide}
        weights = p.t.apply("softmax", [scores], made, gives(scores.nbytes), [0], late=True, bits=32)
    else:
        weights = p.cast("scores.float32", scores, "scores_float32", 32)
        weights = p.like("softmax", weights, "attention_weights_float32", [0], late=True)
    return p.cast("round_weights", weights, "attention_weights", scores.bits)


def fused(p: Trained, q: View, k: View, v: View) -> View:
    """`operators.attention`: keeps queries, keys, values, what it gives and one float32 a row."""
    rows = formulas.logsumexp_bytes(p.work.batch, p.work.seq_len, p.arch.num_attention_heads)
    rule = gives(q.nbytes, k.nbytes, v.nbytes, always=True)
    made = {"attention_out": q.nbytes, "logsumexp": rows}
    return p.t.apply("attention", [q, k, v], made, rule, [q, k, v, 0, 1], late=True)[0]
