"""Seconds and rates: what moving bytes and computing costs, and where the two cost the same."""


def fetch_seconds(nbytes, bandwidth_bytes_per_s, latency_s):
    """Time to move `nbytes` over a link: its latency once, then its bandwidth. A link of 10 Gb/s moves 1.25e9 bytes/s.

    >>> round(fetch_seconds(4096 * 524_288, 10e9 / 8, 0), 1)
    1.7
    """
    return latency_s + nbytes / bandwidth_bytes_per_s


def prefill_seconds(n_active_params, tokens, flops_per_s):
    """Time to compute the cache of `tokens`: a multiplication and an addition (the 2) per parameter and token.

    n_active_params: those that every token is multiplied with, so without the embedding (looked up) and without the
    head (wanted for the last token alone). flops_per_s: what the GPU reaches, about half of what it is sold as.
    Source: arXiv 2001.08361, section 2.1. Left out: `attention_seconds`, which grows with the square of the length.

    >>> round(prefill_seconds(6_525_621_760, 4096, 0.5 * 312e12), 2)
    0.34
    """
    return 2 * n_active_params * tokens / flops_per_s


def attention_seconds(seq_len, num_hidden_layers, num_attention_heads, head_dim, flops_per_s):
    """Time for scores and weighted sums of a whole prompt, each pair of tokens once: 2 s**2 operations a dimension."""
    return 2 * seq_len**2 / flops_per_s * num_hidden_layers * num_attention_heads * head_dim


def break_even_bytes_per_s(bytes_per_token, n_active_params, flops_per_s):
    """The bandwidth above which a long enough prefix is fetched sooner than computed; below it, no prefix ever is.

    >>> round(8 * break_even_bytes_per_s(524_288, 6_476_271_616, 0.5 * 312e12) / 1e9)  # Llama-2-7B, in Gb/s
    51
    """
    return bytes_per_token / (2 * n_active_params / flops_per_s)


def break_even_tokens(bytes_per_token, n_active_params, bandwidth_bytes_per_s, latency_s, flops_per_s):
    """The prefix length at which fetching and computing take the same time; any longer prefix is worth fetching.

    `fetch_seconds` equals `prefill_seconds`, solved for the tokens. A negative answer says that fetching never wins:
    the bandwidth is below `break_even_bytes_per_s` (at exactly that one, the denominator is 0).
    """
    return latency_s / (2 * n_active_params / flops_per_s - bytes_per_token / bandwidth_bytes_per_s)


def decode_tokens_per_s(batch, weight_bytes, cache_bytes, bandwidth_bytes_per_s):
    """Tokens a second that memory traffic allows: a step reads the weights once and the cache of each sequence.

    weight_bytes: read by a step. cache_bytes: of one sequence. bandwidth_bytes_per_s: of the GPU's memory.
    Left out: computing, which is the limit once a batch is large.

    >>> decode_tokens_per_s(batch=1, weight_bytes=15_000_000_000, cache_bytes=0, bandwidth_bytes_per_s=300e9)
    20.0
    """
    return batch * bandwidth_bytes_per_s / (weight_bytes + batch * cache_bytes)
