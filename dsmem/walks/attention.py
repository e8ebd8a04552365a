"""Attention's half of a layer: grouped heads, latent attention expanded, and latent attention on the latents."""

from dsmem import formulas
from dsmem.units import dtype_bits
from dsmem.walks.base import COPIED, walk_copy, walk_linear
from dsmem.walks.cache import set_grown, walk_read, walk_update, walk_write

INSIDE = ("query", "key", "value", "latents", "kv_expanded", "key_expanded", "value_expanded", "query_absorbed")


def walk_attention(walk, arch, work):
    """`Layer`'s attention half, from the norm to the residual stream."""
    bits = dtype_bits(work.activations)
    hidden = formulas.hidden_state_bytes(work.batch, work.new_tokens, arch.hidden_size, bits)
    walk.alive |= {"residual": hidden, "normed": hidden}
    set_grown(walk, arch, work, arch.num_hidden_layers - 1)
    (walk_latent if arch.latent else walk_grouped)(walk, arch, work)
    walk.drop(*INSIDE)
    walk_linear(walk, arch, work, "o_proj", {"attention_projected": hidden}, attention_out=heads_out(arch, work))
    walk.drop("normed")
    walk.instant("add_attention", attention_projected=hidden, residual_mid=hidden)


def heads_out(arch, work):
    """Bytes of what goes into `o_proj`: all heads' outputs."""
    shape = work.batch, work.new_tokens, arch.num_attention_heads, arch.value_head_dim
    return formulas.query_bytes(*shape, dtype_bits(work.activations))


def walk_grouped(walk, arch, work):
    """`attention.Attention.mix`."""
    tokens, bits = (work.batch, work.new_tokens), dtype_bits(work.activations)
    query = formulas.query_bytes(*tokens, arch.num_attention_heads, arch.head_dim, bits)
    key = formulas.key_bytes(*tokens, arch.num_key_value_heads, arch.head_dim, bits)
    for name, part in (("q_proj", {"query": query}), ("k_proj", {"key": key}), ("v_proj", {"value": key})):
        walk_linear(walk, arch, work, name, part)
        walk.alive |= part
    if arch.qk_norm:
        inverse_rms = formulas.inverse_rms_bytes(*tokens, arch.num_attention_heads)
        walk.instant("q_norm", query_normed=query, inverse_rms=inverse_rms)
    walk.instant("rotate", query_rotated=query)
    if work.cache != "none":
        walk_update(walk, arch, work, "key", "value")
    grouped = arch.num_attention_heads > arch.num_key_value_heads
    if work.attention == "eager" or (work.attention == "expanded" and grouped):
        walk_widening(walk, arch, work)
    if work.attention == "eager":
        walk_eager(walk, arch, work)
    else:
        walk.instant("attention", attention_out=query, logsumexp=_logsumexp(arch, work))


def walk_latent(walk, arch, work):
    """`attention.LatentAttention.mix`."""
    walk_queries(walk, arch, work)
    walk_latents(walk, arch, work)
    latent_cache = work.cache != "none" and work.mla_cache == "latent"
    if latent_cache:
        walk_write(walk, arch, work)
    if work.absorbed(arch):
        walk.drop("latents")
        walk_read(walk, arch, work)
        walk_absorbed(walk, arch, work)
        return walk.drop("latents_read")
    walk_expand(walk, arch, work)
    if work.cache != "none" and not latent_cache:
        walk_update(walk, arch, work, "key", "kv_expanded")
    if work.attention == "eager":
        walk_widening(walk, arch, work)
        walk_eager(walk, arch, work)
    else:
        walk_padded(walk, arch, work)


def walk_queries(walk, arch, work):
    """`LatentAttention.queries`."""
    tokens, bits = (work.batch, work.new_tokens), dtype_bits(work.activations)
    query = formulas.query_bytes(*tokens, arch.num_attention_heads, arch.qk_head_dim, bits)
    if arch.q_lora_rank is None:
        walk_linear(walk, arch, work, "q_proj", {"query": query})
    else:
        latent = formulas.hidden_state_bytes(*tokens, arch.q_lora_rank, bits)
        walk_linear(walk, arch, work, "q_a_proj", {"query_latent": latent})
        inverse_rms = formulas.inverse_rms_bytes(*tokens, 1)
        walk.instant("q_a_layernorm", query_latent=latent, query_latent_normed=latent, inverse_rms=inverse_rms)
        walk_linear(walk, arch, work, "q_b_proj", {"query": query}, query_latent_normed=latent)
    walk.alive |= {"query": query}
    rotated = formulas.query_bytes(*tokens, arch.num_attention_heads, arch.qk_rope_head_dim, bits)
    walk.instant("rotate", query_rotated=rotated)


def walk_latents(walk, arch, work):
    """`LatentAttention.latents`."""
    tokens, bits = (work.batch, work.new_tokens), dtype_bits(work.activations)
    rows = formulas.hidden_state_bytes(*tokens, arch.latent_width, bits)
    walk_linear(walk, arch, work, "kv_a_proj_with_mqa", {"latents": rows})
    walk.alive |= {"latents": rows}
    latent = formulas.hidden_state_bytes(*tokens, arch.kv_lora_rank, bits)
    inverse_rms = formulas.inverse_rms_bytes(*tokens, 1)
    walk.instant("kv_a_layernorm", latent_copy=latent, latent_normed=latent, inverse_rms=inverse_rms)
    walk.instant("rotate_key", key_rotated=formulas.hidden_state_bytes(*tokens, arch.qk_rope_head_dim, bits))


def walk_expand(walk, arch, work):
    """`LatentAttention.expand`: keys get a tensor of their own, values stay where `kv_b_proj` wrote both."""
    shape, bits = (work.batch, work.new_tokens, arch.num_attention_heads), dtype_bits(work.activations)
    both = formulas.key_bytes(*shape, arch.qk_nope_head_dim + arch.v_head_dim, bits)
    walk_linear(walk, arch, work, "kv_b_proj", {"kv_expanded": both})
    walk.alive |= {"kv_expanded": both}
    walk.make("keys", key=formulas.key_bytes(*shape, arch.qk_head_dim, bits))
    walk.drop("latents")


def walk_padded(walk, arch, work):
    """Fused attention with values narrower than keys: they are padded first, and the output is cut back."""
    bits, out = dtype_bits(work.activations), heads_out(arch, work)
    kernel = {"logsumexp": _logsumexp(arch, work)}
    if arch.v_head_dim == arch.qk_head_dim:
        return walk.instant("attention", attention_out=out, **kernel)
    padded = formulas.key_bytes(work.batch, work.key_len, arch.num_attention_heads, arch.qk_head_dim, bits)
    walk.make("pad_values", value_padded=padded)
    walk.drop("value", "kv_expanded")
    wide = formulas.query_bytes(work.batch, work.new_tokens, arch.num_attention_heads, arch.qk_head_dim, bits)
    walk.instant("attention", attention_padded=wide, **kernel)
    walk.instant("trim_heads", attention_padded=wide, attention_out=out)
    walk.drop("value_padded")


def walk_absorbed(walk, arch, work):
    """`LatentAttention.absorb`: one new token against the latents."""
    heads, bits = arch.num_attention_heads, dtype_bits(work.activations)
    in_latents = formulas.query_bytes(work.batch, 1, heads, arch.kv_lora_rank, bits)
    query = formulas.query_bytes(work.batch, 1, heads, arch.latent_width, bits)
    scores = formulas.attention_scores_bytes(work.batch, 1, work.key_len, heads, bits)
    scheme, (n_in, n_out, _) = work.scheme(arch, "kv_b_proj"), arch.linears()["kv_b_proj"]
    if scheme in (*COPIED, "int8_w8a8"):
        walk.alive |= walk_copy(walk, scheme, "absorb", n_in, n_out, bits)
    walk.instant("absorb_queries", query_in_latents=in_latents, query_absorbed=query)
    walk.alive |= {"query_absorbed": query}
    walk.instant("scores", scores=scores)
    walk.instant("softmax", scores=scores, attention_weights=scores)
    walk.instant("mix_latents", attention_weights=scores, latents_mixed=in_latents)
    out = heads_out(arch, work)
    walk.instant("absorb_output", latents_mixed=in_latents, attention_by_head=out, attention_out=out)
    walk.drop("weight_copy")


def walk_widening(walk, arch, work):
    """Keys, then values, copied head by head for all heads, where the kernel cannot share them."""
    shape, bits = (work.batch, work.key_len, arch.num_attention_heads), dtype_bits(work.activations)
    walk.make("widen_keys", key_expanded=formulas.query_bytes(*shape, arch.qk_head_dim, bits))
    walk.drop("key")
    walk.make("widen_values", value_expanded=formulas.query_bytes(*shape, arch.value_head_dim, bits))
    walk.drop("value", "kv_expanded")


def walk_eager(walk, arch, work):
    """Scores in memory, and again as the softmax's result; queries and outputs change between two layouts."""
    shape, bits = (work.batch, work.new_tokens), dtype_bits(work.activations)
    query = formulas.query_bytes(*shape, arch.num_attention_heads, arch.qk_head_dim, bits)
    scores = formulas.attention_scores_bytes(*shape, work.key_len, arch.num_attention_heads, bits)
    walk.instant("queries_by_head", query_by_head=query)
    walk.instant("scores", scores=scores)
    walk.instant("softmax", scores=scores, attention_weights=scores)
    out = heads_out(arch, work)
    walk.instant("merge_heads", attention_weights=scores, attention_by_head=out, attention_out=out)


def _logsumexp(arch, work):
    return formulas.logsumexp_bytes(work.batch, work.new_tokens, arch.num_attention_heads)
