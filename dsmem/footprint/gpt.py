"""A GPT block instant by instant, `model.gpt`: learned positions before it, and the norm after the last one."""

from typing import Any

from dsmem import formulas
from dsmem.footprint import cache
from dsmem.footprint.attention import attention, eager, logsumexp, widen
from dsmem.footprint.walk import Pass


def embedding(p: Pass) -> None:
    """`Decoder.embed`: the rows of the tokens and of their places, then the sum, which is the residual stream."""
    places = p.work.new_tokens
    rows = formulas.hidden_state_bytes(1, places, p.arch.hidden_size, p.bits)
    p.instant(
        "embed_positions", residual=p.hidden(), position_ids=formulas.token_ids_bytes(1, places), position_rows=rows
    )
    p.instant("add_positions", residual=p.hidden(), position_rows=rows, residual_out=p.hidden())


def block(p: Pass) -> None:
    """`GPTBlock.forward` of the last layer, whose input Python still holds at the end."""
    p.alive |= {"residual": p.hidden()}
    norm(p, "input_layernorm", p.hidden())
    attention(p, p.arch.num_hidden_layers - 1, mix)
    p.alive |= {"residual_mid": p.hidden()}
    norm(p, "post_attention_layernorm", p.hidden())
    p.linear("up_proj", "up")
    p.instant(p.arch.hidden_act, up_activated=p.alive["up"])
    p.alive |= {"up_activated": p.alive.pop("up")}
    p.linear("down_proj", "mlp_out")
    p.reduced("mlp_out")
    p.drop("normed", "up_activated")
    p.instant("add_mlp", residual_out=p.hidden())
    p.drop("residual_mid", "mlp_out")


def norm(p: Pass, name: str, out: Any, positions: Any = None) -> None:
    """`LayerNorm.forward`: its output, `normed`, stays, its mean and standard deviation go. out: bytes of the output.

    positions: normed vectors of a sequence; defaults to all new ones.
    """
    positions = p.work.new_tokens if positions is None else positions
    p.alive |= {"normed": out}
    p.instant(name, norm_statistics=formulas.layer_norm_statistics_bytes(p.work.batch, positions))


def final_norm(p: Pass) -> None:
    """The norm before the head, of all positions or of the last."""
    positions = p.work.new_tokens if p.work.logits == "all" else 1
    out = formulas.hidden_state_bytes(p.work.batch, positions, p.arch.hidden_size, p.bits)
    p.alive |= {"residual": out}
    norm(p, "norm", out, positions)
    p.drop("residual")


def mix(p):
    """`GPTAttention.mix`."""
    if p.arch.joined_qkv:
        p.linear("qkv_proj", "query_key_value")
    else:
        for name, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            p.linear(name, part)
    if p.work.cache != "none":
        cache.update(p, "key", "value")
    if p.work.eager:
        widen(p)
        eager(p)
    else:
        out = p.new(formulas.query_bytes, p.arch.num_attention_heads, p.arch.head_dim)
        p.instant("attention", attention_out=out, logsumexp=logsumexp(p))
