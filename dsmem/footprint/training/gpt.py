"""A GPT block in training: `model.gpt`, with its dropouts."""

import functools
from collections.abc import Callable

from dsmem.footprint.training.attending import attended
from dsmem.footprint.training.graph import Summed, View, gives
from dsmem.footprint.training.operators import Shared, Trained


def positions(p: Trained, h: View) -> View:
    """`Decoder.embed` after the tokens' rows: those of their places are added."""
    arch, seq_len = p.arch, p.work.seq_len
    table = p.parameter("embed_positions", (arch.learned_positions + arch.position_offset) * arch.hidden_size)
    size = p.bytes(seq_len * arch.hidden_size)
    ids = p.t.make("position_ids", 8 * seq_len)
    places = p.t.apply("embed_positions", [table], {"position_rows": size}, gives(table.nbytes), [ids])
    del ids
    made = {"residual": h.nbytes}
    return p.t.apply("add_positions", [h, places], made, lambda grad: [grad, Summed(size)])


def block(p: Trained, shared: Shared, index: int, h: View) -> View:
    """`GPTBlock.forward`."""
    h = half(p, "attention", functools.partial(attention, shared, index), "input_layernorm", h)
    return half(p, "mlp", mlp, "post_attention_layernorm", h)


def half(p: Trained, name: str, run: Callable, norm: str, h: View) -> View:
    """The residual stream and what `run` adds to it, from a normed copy; some of that may be dropped."""
    added = p.dropped(f"drop_{name}", run(p, p.layer_norm(norm, h, "normed")), f"{name}_dropped")
    return p.plus(f"add_{name}", h, added, "residual")


def attention(shared: Shared, index: int, p: Trained, x: View) -> View:
    """`GPTAttention.forward`: its input is there until it is through."""
    return p.linear("o_proj", mix(p, shared, index, x), "attention_projected")


def mlp(p: Trained, x: View) -> View:
    """`GPTMLP.forward`, likewise."""
    act = p.activated(p.arch.hidden_act, p.linear("up_proj", x, "up"), "up_activated")
    return p.linear("down_proj", act, "mlp_out")


def mix(p: Trained, shared: Shared, index: int, x: View) -> View:
    """`GPTAttention.mix`."""
    heads, eager = p.arch.num_attention_heads, p.work.attention == "eager"
    if p.arch.joined_qkv:
        joined = p.linear("qkv_proj", x, "query_key_value")
        q, k, v = p.t.parts("unbind", joined, [joined.nbytes // 3] * 3)
        del joined
    else:
        names = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))
        q, k, v = (p.split(p.linear(name, x, part), heads, not eager) for name, part in names)
    if q.learns and p.arch.scales_queries(index):  # else in place
        q = p.like("scale_queries", q, "query_scaled")
    if eager:
        k = p.by_head(k)
        v = p.by_head(v)
        q = p.by_head(q)
    return attended(p, q, k, v, shared.masks.get(False))
