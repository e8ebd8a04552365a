"""The indexer of DeepSeek Sparse Attention: its queries, its cached keys, its scores in float32, and its choice.

These are the instants of our code, which computes what transformers' reference computes. GPU kernels write less: the
scores come out of one kernel (no head's scores stand in memory), and the choice stays a list of indices.
"""

from dsmem import formulas
from dsmem.footprint import cache
from dsmem.footprint.walk import Pass

ALIGNED = 16  # keys: the bias has whole steps of so many, as GPU kernels read it


def choose(p: Pass) -> None:
    """`indexer.Indexer.forward`: afterwards the part "index_bias" is alive, and nothing else of it."""
    scores(p)
    chosen = p.work.batch * p.work.new_tokens * p.arch.chosen_keys(p.work.key_len)
    p.instant("choose_keys", chosen_scores=4 * chosen, chosen_keys=8 * chosen)
    p.drop("index_scores")
    p.make("index_bias", chosen_keys=8 * chosen, index_bias=bias_bytes(p))
    p.drop("chosen_keys")


def between(p: Pass, taken: bool, handed_on: bool) -> None:
    """Enter half a layer; it may find a choice that was `taken` over, and it may be `handed_on` to the next layer."""
    p.prefix = "shared." * taken + "handed_on." * handed_on
    if taken:
        p.alive |= {"index_bias": bias_bytes(p)}


def bias_bytes(p: Pass) -> int:
    """Bytes of what is added to attention's scores: one number per new token and key, for all heads."""
    padded = -(-p.work.key_len // ALIGNED) * ALIGNED
    return formulas.attention_scores_bytes(p.work.batch, p.work.new_tokens, padded, 1, p.bits)


def scores(p):
    """`Indexer.scores`."""
    p.linear("indexer.wq_b", "index_query")
    rotated = p.new(formulas.query_bytes, p.arch.index_n_heads, p.arch.qk_rope_head_dim)
    p.instant("indexer.rotate", index_query_rotated=rotated)
    p.linear("indexer.wk", "index_key")
    statistics = formulas.layer_norm_statistics_bytes(p.work.batch, p.work.new_tokens)
    p.instant("indexer.k_norm", index_key_normed=p.alive["index_key"], norm_statistics=statistics)
    p.instant("indexer.rotate_key", index_key_rotated=p.new(formulas.hidden_state_bytes, p.arch.qk_rope_head_dim))
    if p.work.cache != "none":
        kinds = p.arch.indexer_rows()
        cache.write(p, kinds)
        cache.read(p, kinds=kinds)
        p.drop("index_key")
    weights(p)
    (by_head if p.work.eager else fused)(p)
    p.drop("index_query", "index_key", "indexer_keys_read", "index_weights")


def weights(p):
    """Each head's weight for each token, widened to float32."""
    narrow, wide = p.new(formulas.hidden_state_bytes, p.arch.index_n_heads), float32(p, p.arch.index_n_heads)
    p.make("indexer.weights_proj", index_weights=narrow)
    if p.bits < 32:
        p.instant("widen_index_weights", index_weights_wide=wide)
    p.alive |= {"index_weights": wide}


def fused(p):
    """`operators.index_scores`: one head's scores at a time, beside their sum."""
    one = total(p)
    copies = {}
    if p.bits < 32:
        copies = {"index_query_wide": float32(p, p.arch.index_head_dim), "index_keys_wide": keys_wide(p)}
    p.instant("index_scores", index_scores=one, head_scores=one, **copies)
    p.alive |= {"index_scores": one}


def by_head(p):
    """All heads' scores at once, then their weighted sum."""
    every, copies = p.arch.index_n_heads * total(p), {}
    if p.bits < 32:
        query = float32(p, p.arch.index_n_heads * p.arch.index_head_dim)
        copies = {"index_query_wide": query, "index_keys_wide": keys_wide(p)}
    p.instant("index_scores by head", head_scores=every, **copies)
    p.instant("index_scores", head_scores=every, index_scores=total(p))
    p.alive |= {"index_scores": total(p)}


def total(p):
    """Bytes of one score for each new token and key, in float32."""
    return formulas.attention_scores_bytes(p.work.batch, p.work.new_tokens, p.work.key_len, 1, 32)


def float32(p, width):
    return formulas.hidden_state_bytes(p.work.batch, p.work.new_tokens, width, 32)


def keys_wide(p):
    return formulas.hidden_state_bytes(p.work.batch, p.work.key_len, p.arch.index_head_dim, 32)
