"""A decoder in training, layer by layer: each function writes on the tape what one of `model` runs."""

import functools
from collections.abc import Callable
from typing import Any

from dsmem import formulas
from dsmem.footprint import taped_experts, taped_gpt, taped_latent
from dsmem.footprint.tape import PASSING, Parameter, View
from dsmem.footprint.trained import Trained


def decoder(p: Trained) -> View:
    """`Decoder.forward` and the loss; what is to run backward stays on the tape."""
    arch, t = p.arch, p.t
    table = p.parameter("embed_tokens", p.bytes(arch.vocab_size * arch.hidden_size), 1 + arch.tie_word_embeddings)
    tables = None if arch.learned_positions else p.tables()
    h = embedding(p, table)
    if arch.learned_positions:
        h = taped_gpt.positions(p, h)
    for index in range(arch.num_hidden_layers):
        t.where = f"layers.{index}."
        run = (
            functools.partial(taped_gpt.block, p, index)
            if arch.gpt_block
            else functools.partial(layer, p, tables, index)
        )
        h = t.again(run, h) if p.training.checkpointing == "full" else run(h)
    t.where = ""
    del tables, run
    h = p.layer_norm("norm", h, "normed") if arch.gpt_block else p.norm("norm", h, "normed", arch.hidden_size)
    logits = p.linear("lm_head", h, "logits", table if arch.tie_word_embeddings else None)
    del h
    return loss(p, logits)


def embedding(p: Trained, table: Parameter) -> View:
    """A row of the table for each token; its gradient is a whole table."""

    def rule(tape, grad, kept):
        return [tape.make(PASSING, table.nbytes)]

    return p.t.apply("embed_tokens", [table], {"residual": p.rows(p.arch.hidden_size)}, rule)


def layer(p: Trained, tables: list, index: int, h: View) -> View:
    """`decoder.Layer.forward`."""
    mix = taped_latent.mix if p.arch.latent else grouped
    h = p.plus("add_attention", h, attention(p, mix, tables, normed(p, "input_layernorm", h)), "residual")
    feed = taped_experts.mixture if p.arch.has_experts(index) else taped_experts.dense
    return p.plus("add_mlp", h, feed(p, normed(p, "post_attention_layernorm", h)), "residual")


def normed(p: Trained, name: str, h: View) -> View:
    """`layers.RMSNorm` of the residual stream."""
    return p.norm(name, h, "normed", p.arch.hidden_size)


def attention(p: Trained, mix: Callable, tables: list, x: View) -> View:
    """`Attention.forward`: its input is there until it is through."""
    return p.linear("o_proj", mix(p, tables, x), "attention_projected")


def grouped(p: Trained, tables: list, x: View) -> View:
    """`attention.Attention.mix`."""
    q, k, v = projected(p, x)
    groups = p.arch.query_width // p.arch.kv_width
    wide = groups > 1 and p.work.attention == "expanded"
    q = by_head(p, "q_norm", q, p.arch.num_attention_heads)
    k = by_head(p, "k_norm", k, p.arch.num_key_value_heads)
    # a sum over heads is laid out head by head, and is copied where it has to be seen token by token
    if wide and not (p.arch.qk_norm and p.arch.qk_norm_type == "per_head") and p.arch.rotary_dim is None:
        k = p.t.seen("split_keys", k)
    v = p.t.seen("split_values", v) if wide else v
    q = turned(p, tables, "rotate", q, "query")
    k = turned(p, tables, "rotate_key", k, "key")
    if wide:
        k = p.resized("widen_keys", k, "key_expanded", k.nbytes * groups)
        v = p.resized("widen_values", v, "value_expanded", v.nbytes * groups)
    return p.attended(q, k, v)


def projected(p: Trained, x: View) -> list[View]:
    """Queries, keys and values, from three matrices or from one."""
    widths = p.arch.query_width, p.arch.kv_width, p.arch.kv_width
    if p.arch.joined_qkv:
        return p.t.parts("split", p.linear("qkv_proj", x, "query_key_value"), map(p.rows, widths))
    return [p.linear(name, x, part) for name, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))]


def by_head(p: Trained, name: str, x: View, heads: int) -> View:
    """`Attention.by_head`."""
    if not p.arch.qk_norm:
        return x
    one = p.arch.qk_norm_type == "per_layer"
    return p.norm(name, x, f"{x.tensor.part}_normed", p.arch.norms()[name], 1 if one else heads)


def turned(p: Trained, tables: list, name: str, x: View, out: str) -> View:
    """`rotary.rotate`, or of a part of each head `rotate_part`, which copies first."""
    if p.arch.rotary_dim is None:
        return p.like(name, x, out, tables, late=True)
    part = x.nbytes // p.arch.head_dim * p.arch.rotary_dim
    return p.like(name, x, out, tables, late=True, rotated_part=part)


def loss(p: Trained, logits: View) -> View:
    """`training.next_token_loss`: logits in float32, and the logarithm of each probability, which is kept."""
    t, elements = p.t, p.tokens * p.arch.vocab_size
    wide = formulas.tensor_bytes(elements, 32)

    def rule(tape, grad, kept):
        return [tape.make("logits_gradient", wide)]

    x = p.cast("float32", logits, "logits_float32", elements, 32, "logits_gradient")
    labels = t.make("labels", formulas.token_ids_bytes(p.work.batch, p.work.seq_len))
    logs = t.apply("log_softmax", [x], {"log_probabilities": wide}, rule, [0], late=True)
    return t.apply("nll_loss", [logs], {"loss": 4, "loss_weight": 4}, rule, [logs, labels, 1], late=True)[0]


def all_of(p: Trained) -> Any:
    """Forward, loss and backward of a step; every instant is on the tape afterwards. Returns the loss."""
    out = decoder(p)
    p.t.note("end of forward")
    seed = p.t.make("loss", 4)
    p.t.backward(out, seed)
    del seed
    p.t.where = ""
    p.t.note("end of backward")
    return out
