"""Attention's half of a layer: grouped heads, latent attention expanded, and latent attention on the latents."""

from collections.abc import Callable

import numpy as np

from dsmem import formulas
from dsmem.footprint import cache, indexer
from dsmem.footprint.walk import COPIED, Pass

INSIDE = (
    "query_key_value",
    "query",
    "key",
    "value",
    "latents",
    "kv_expanded",
    "key_expanded",
    "value_expanded",
    "query_absorbed",
)


def attention(p: Pass, index: int, mix: Callable | None = None) -> None:
    """`Layer`'s attention half, from the norm to the residual stream.

    index: the layer's place, from 0. mix: what is not in this file, up to `o_proj`.
    """
    p.alive |= {"residual": p.hidden(), "normed": p.hidden()}
    cache.set_grown(p, index)
    (mix or (latent if p.arch.latent else grouped))(p)
    p.drop(*INSIDE)
    if not p.arch.hands_on_index(index):
        p.drop("index_bias")
    p.alive |= {"attention_out": heads_out(p)}
    p.linear("o_proj", "attention_projected")
    p.reduced("attention_projected")
    p.drop("normed", "attention_out")
    if p.arch.gemma_block:
        p.normed_output("post_attention_layernorm")
    p.instant("add_attention", residual_mid=p.hidden())
    p.drop("attention_projected")


def heads_out(p):
    """Bytes of what goes into `o_proj`: all heads' outputs."""
    return p.new(formulas.query_bytes, p.arch.num_attention_heads, p.arch.value_head_dim)


def grouped(p):
    """`attention.Attention.mix`."""
    heads = p.arch.num_attention_heads
    query = p.new(formulas.query_bytes, heads, p.arch.head_dim)
    if p.arch.joined_qkv:
        joined(p)
    else:
        apart(p)
    # the one tensor lives as long as a part of it does, and queries that are rotated in part are such a part
    whole = ("query_key_value",) if p.arch.rotary_dim is None else ()
    if p.work.cache != "none":
        cache.update(p, "key", "value", *whole)
    if p.work.eager or (p.work.attention == "expanded" and heads > p.arch.num_key_value_heads):
        widen(p)
        p.drop(*whole)
    if p.work.eager:
        eager(p)
    else:
        p.instant("attention", attention_out=query, logsumexp=logsumexp(p))


def joined(p):
    """Queries, keys and values as parts of one tensor; rotated whole, queries and keys become tensors of their own."""
    heads, kv_heads, width = p.arch.num_attention_heads, p.arch.num_key_value_heads, p.arch.head_dim
    p.linear("qkv_proj", "query_key_value")
    if p.arch.rotary_dim is None:
        p.make("rotate", query=p.new(formulas.query_bytes, heads, width))
        p.make("rotate_key", key=p.new(formulas.key_bytes, kv_heads, width))
    else:
        p.instant("rotate", query_rotated=p.new(formulas.query_bytes, heads, p.arch.rotary_dim))


def apart(p):
    """Queries, keys and values, each made by a matrix of its own."""
    for name, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        p.linear(name, part)
    query, heads = p.alive["query"], p.arch.num_attention_heads
    if p.arch.qk_norm:
        norms = 1 if p.arch.qk_norm_type == "per_layer" else heads
        inverse_rms = formulas.inverse_rms_bytes(p.work.batch, p.work.new_tokens, norms)
        p.instant("q_norm", query_normed=query, inverse_rms=inverse_rms)
    p.instant("rotate", query_rotated=p.new(formulas.query_bytes, heads, p.arch.rotated_dim))


def latent(p):
    """`attention.LatentAttention.mix`."""
    queries(p)
    latents(p)
    in_latents = p.work.cache != "none" and p.work.mla_cache == "latent"
    if in_latents:
        cache.write(p)
    if p.work.absorbed(p.arch):
        p.drop("latents")
        cache.read(p)
        absorbed(p)
        return p.drop("latents_read")
    if in_latents:
        reread(p)
    expand(p, p.work.key_len if in_latents else p.work.new_tokens)
    if p.work.cache != "none" and not in_latents:
        cache.update(p, "key", "kv_expanded")
    if p.work.eager:
        widen(p)
        eager(p)
    else:
        padded(p)


def queries(p):
    """`LatentAttention.queries`."""
    if p.arch.q_lora_rank is None:
        p.linear("q_proj", "query")
    else:
        p.linear("q_a_proj", "query_latent")
        inverse_rms = formulas.inverse_rms_bytes(p.work.batch, p.work.new_tokens, 1)
        p.instant("q_a_layernorm", query_latent_normed=p.alive["query_latent"], inverse_rms=inverse_rms)
        p.alive |= {"query_latent_normed": p.alive.pop("query_latent")}
        if p.arch.indexed and "index_bias" not in p.alive:
            indexer.choose(p)
        p.linear("q_b_proj", "query")
        p.drop("query_latent_normed")
    rotated = p.new(formulas.query_bytes, p.arch.num_attention_heads, p.arch.qk_rope_head_dim)
    p.instant("rotate", query_rotated=rotated)


def latents(p):
    """`LatentAttention.latents`."""
    p.linear("kv_a_proj_with_mqa", "latents")
    normed = p.new(formulas.hidden_state_bytes, p.arch.kv_lora_rank)
    inverse_rms = formulas.inverse_rms_bytes(p.work.batch, p.work.new_tokens, 1)
    p.instant("kv_a_layernorm", latent_copy=normed, latent_normed=normed, inverse_rms=inverse_rms)
    p.instant("rotate_key", key_rotated=p.new(formulas.hidden_state_bytes, p.arch.qk_rope_head_dim))


def reread(p):
    """After cached tokens, the latents to expand are those of all tokens, and come out of the cache."""
    if np.any(p.work.cached_tokens):
        p.alive["latents"] = p.alive["latents"] * (p.work.cached_tokens == 0)
        cache.read(p, p.work.cached_tokens > 0)


def expand(p, tokens):
    """`LatentAttention.expand`: keys get a tensor of their own, values stay where `kv_b_proj` wrote both."""
    p.linear("kv_b_proj", "kv_expanded", tokens)
    heads, width = p.arch.num_attention_heads, p.arch.qk_head_dim
    p.make("keys", key=formulas.key_bytes(p.work.batch, tokens, heads, width, p.bits))
    p.drop("latents", "latents_read")


def padded(p):
    """Fused attention with values narrower than keys: they are padded first, and the output is cut back."""
    heads, width = p.arch.num_attention_heads, p.arch.qk_head_dim
    if p.arch.v_head_dim == width:
        return p.instant("attention", attention_out=heads_out(p), logsumexp=logsumexp(p))
    p.make("pad_values", value_padded=p.seen(formulas.key_bytes, heads, width))
    p.drop("value", "kv_expanded")
    wide = p.new(formulas.query_bytes, heads, width)
    p.instant("attention", attention_padded=wide, logsumexp=logsumexp(p))
    p.instant("trim_heads", attention_padded=wide, attention_out=heads_out(p))
    p.drop("value_padded")


def absorbed(p):
    """`LatentAttention.absorb`: one new token against the latents."""
    heads = p.arch.num_attention_heads
    scheme, (n_in, n_out, _) = p.work.scheme(p.arch, "kv_b_proj"), p.arch.linears()["kv_b_proj"]
    if scheme in (*COPIED, "int8_w8a8"):
        p.alive |= p.copy("absorb", scheme, n_in, n_out)
    in_latents = p.new(formulas.query_bytes, heads, p.arch.kv_lora_rank)
    query = p.new(formulas.query_bytes, heads, p.arch.latent_width)
    p.instant("absorb_queries", query_in_latents=in_latents, query_absorbed=query)
    p.alive |= {"query_absorbed": query}
    scores = p.new(formulas.attention_scores_bytes, p.work.key_len, heads)
    p.instant("scores", scores=scores)
    softmax(p, scores)
    p.instant("mix_latents", attention_weights=scores, latents_mixed=in_latents)
    out = heads_out(p)
    p.instant("absorb_output", latents_mixed=in_latents, attention_by_head=out, attention_out=out)
    p.drop("weight_copy")


def widen(p):
    """Keys, then values, copied head by head for all heads, where the kernel cannot share them."""
    heads = p.arch.num_attention_heads
    p.make("widen_keys", key_expanded=p.seen(formulas.query_bytes, heads, p.arch.qk_head_dim))
    p.drop("key")
    p.make("widen_values", value_expanded=p.seen(formulas.query_bytes, heads, p.arch.value_head_dim))
    p.drop("value", "kv_expanded")


def eager(p):
    """Scores in memory, and again as the softmax's result; queries and outputs change between two layouts."""
    heads = p.arch.num_attention_heads
    scores = p.new(formulas.attention_scores_bytes, p.key_len, heads)
    query = p.new(formulas.query_bytes, heads, p.arch.qk_head_dim)
    p.instant("queries_by_head", query_by_head=query)
    p.drop("query_key_value")
    p.alive |= {"query": query}
    p.instant("scores", scores=scores)
    if p.arch.attention_sinks:
        joined = p.new(formulas.attention_scores_bytes, p.key_len + 1, heads)
        p.instant("join_sinks", scores=scores, scores_and_sinks=joined)
        scores = joined
    softmax(p, scores)
    out = heads_out(p)
    p.instant("merge_heads", attention_weights=scores, attention_by_head=out, attention_out=out)


def softmax(p, scores):
    """`softmax.softmax`: in float32 its result is rounded back, and of BF16 scores a float32 copy is made before it."""
    if p.work.attention != "eager_fp32" or p.bits == 32:
        return p.instant("softmax", scores=scores, attention_weights=scores)
    wide = scores * 32 // p.bits
    # a GPU's kernel reads FP16 scores as they are, but no BF16 ones
    copy = {"scores_wide": wide} if p.work.activations == "bf16" else {}
    p.instant("softmax", scores=scores, attention_weights_wide=wide, **copy)
    p.instant("round_weights", scores=scores, attention_weights_wide=wide, attention_weights=scores)


def logsumexp(p):
    return formulas.logsumexp_bytes(p.work.batch, p.work.new_tokens, p.arch.num_attention_heads)
