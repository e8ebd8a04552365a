"""A decoder in training, layer by layer: each function writes on the tape what one of `model` runs."""

import functools
from collections.abc import Callable
from typing import Any

from dsmem import formulas
from dsmem.footprint.training import attending, chunks, experts, gpt, latent
from dsmem.footprint.training.graph import Fresh, Parameter, View, gives
from dsmem.footprint.training.operators import Shared, Trained


def decoder(p: Trained) -> View:
    """`Decoder.forward` and the loss; what is to run backward stays on the tape."""
    arch, t = p.arch, p.t
    uses = chunks.uses(p)
    table = p.parameter("embed_tokens", arch.vocab_size * arch.hidden_size, 1 + uses * arch.tie_word_embeddings)
    shared = p.shared()
    h = embedding(p, table)
    if arch.learned_positions:
        h = gpt.positions(p, h)
    for index in p.folded.ends:
        with p.folded.layer(index):
            t.where = f"layers.{index}."
            run = functools.partial(gpt.block if arch.gpt_block else layer, p, shared, index)
            h = t.again(run, h) if p.training.checkpointing == "full" else run(h)
    t.where = ""
    h = p.layer_norm("norm", h, "normed") if arch.gpt_block else p.norm("norm", h, "normed", arch.hidden_size)
    if p.training.loss_chunk is not None:
        del shared, run
        head = table if arch.tie_word_embeddings else p.parameter("lm_head", arch.vocab_size * arch.hidden_size, uses)
        return chunks.loss(p, h, head)
    logits = p.linear("lm_head", h, "logits", table if arch.tie_word_embeddings else None)
    del h, shared, run
    return loss(p, logits)


def embedding(p: Trained, table: Parameter) -> View:
    """A row of the table for each token; its gradient is a whole table."""
    return p.t.apply("embed_tokens", [table], {"residual": p.rows(p.arch.hidden_size)}, gives(table.nbytes))


def layer(p: Trained, shared: Shared, index: int, h: View) -> View:
    """`decoder.Layer.forward`."""
    mix = functools.partial(latent.mix if p.arch.latent else grouped, p, shared, p.arch.slides(index))
    h = p.plus("add_attention", h, attention(p, mix, normed(p, "input_layernorm", h)), "residual")
    feed = experts.mixture if p.arch.has_experts(index) else experts.dense
    return p.plus("add_mlp", h, feed(p, normed(p, "post_attention_layernorm", h)), "residual")


def normed(p: Trained, name: str, h: View) -> View:
    """`layers.RMSNorm` of the residual stream."""
    return p.norm(name, h, "normed", p.arch.hidden_size)


def attention(p: Trained, mix: Callable, x: View) -> View:
    """`Attention.forward`: its input is there until it is through."""
    return p.linear("o_proj", mix(x), "attention_projected")


def grouped(p: Trained, shared: Shared, slides: bool, x: View) -> View:
    """`attention.Attention.mix`."""
    q, k, v = projected(p, x)
    heads, kv_heads = p.arch.num_attention_heads, p.arch.num_key_value_heads
    eager, groups = p.work.attention == "eager", p.arch.query_width // p.arch.kv_width
    wide = eager or (groups > 1 and p.work.attention == "expanded")
    ordered = p.arch.rotary_dim is not None or (p.arch.qk_norm and p.arch.qk_norm_type == "per_head")
    q = p.split(normed_heads(p, "q_norm", q, heads), heads, ordered or not eager)
    k = p.split(normed_heads(p, "k_norm", k, kv_heads), kv_heads, ordered or not wide)
    v = p.split(v, kv_heads, not wide)
    q = turned(p, shared.angles, "rotate", q, "query")
    k = turned(p, shared.angles, "rotate_key", k, "key")
    if wide:
        k = p.by_head(k, groups)
        v = p.by_head(v, groups)
    if eager:
        q = p.by_head(q)
    else:
        q, k, v = p.autocasted(q, k, v)
    return attending.attended(p, q, k, v, shared.masks.get(slides))


def projected(p: Trained, x: View) -> list[View]:
    """Queries, keys and values, from three matrices or from one."""
    widths = p.arch.query_width, p.arch.kv_width, p.arch.kv_width
    if p.arch.joined_qkv:
        joined = p.linear("qkv_proj", x, "query_key_value")
        return p.t.parts("split", joined, [p.rows(width, joined.bits) for width in widths])
    return [p.linear(name, x, part) for name, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))]


def normed_heads(p: Trained, name: str, x: View, heads: int) -> View:
    """`Attention.by_head`."""
    if not p.arch.qk_norm:
        return x
    one = p.arch.qk_norm_type == "per_layer"
    return p.norm(name, x, f"{x.tensor.part}_normed", p.arch.norms()[name], 1 if one else heads)


def turned(p: Trained, angles: list, name: str, x: View, out: str) -> View:
    """`rotary.rotate`, or of a part of each head `rotate_part`, which copies first."""
    if p.arch.rotary_dim is None:
        return p.rotated(name, x, out, angles)
    return p.rotated_part(name, x, out, angles, p.arch.rotary_dim, p.arch.head_dim)


def loss(p: Trained, logits: View) -> View:
    """`training.next_token_loss`: logits in float32, and the logarithm of each probability, which is kept."""
    t, wide = p.t, p.rows(p.arch.vocab_size, 32)

    def rule(grad):
        return [Fresh(wide, "logits_gradient")]

    x = p.cast("float32", logits, "logits_float32", 32, "logits_gradient")
    labels = t.make("labels", formulas.token_ids_bytes(p.work.batch, p.work.seq_len))
    logs = t.apply("log_softmax", [x], {"log_probabilities": wide}, rule, [0], late=True)
    return t.apply("nll_loss", [logs], {"loss": 4, "loss_weight": 4}, rule, [logs, labels, 1], late=True)[0]


def all_of(p: Trained) -> Any:
    """Forward, loss and backward of a step; every instant is on the tape afterwards. Returns the loss."""
    out = decoder(p)
    p.folded.let_casts_go()
    p.t.note("end of forward")
    seed = p.t.make("loss", 4)
    p.t.backward(out, seed)
    del seed
    p.t.where = ""
    p.t.note("end of backward")
    return out
