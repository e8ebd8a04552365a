"""The memory formulas: numbers in, bytes out; arrays in, curves out; SymPy symbols in, algebra out.

The last few give seconds, and what follows from them: moving a cache against computing it once more.

Every body is plain arithmetic (`+ - * / // **`, and `-(-x // 8)` for a ceiling), so one function serves the
derivation, the evaluation and the plot. Widths come in bits and are divided by 8 last, once per tensor.
A formula sizes one tensor, or a few that always live together; which of them are alive at the same instant is
the business of `footprint`.

Arguments, everywhere: `batch` sequences, `seq_len` new tokens per sequence, `key_len` tokens that attention reads
per sequence (cached and new), widths in elements, `bits` per element.
"""


def tensor_bytes(elements, bits):
    """Elements times their width: bytes of one tensor.

    >>> tensor_bytes(7_615_616_512, 16)
    15231233024
    """
    return -(-elements * bits // 8)


def token_ids_bytes(batch, seq_len):
    """One 64-bit integer per new token."""
    return 8 * batch * seq_len


def hidden_state_bytes(batch, seq_len, hidden_size, bits):
    """One vector of `hidden_size` per token: the residual stream, a normed copy of it, a block's output.

    >>> hidden_state_bytes(16, 2048, 4096, 16) / 2**30
    0.25
    """
    return -(-batch * seq_len * hidden_size * bits // 8)


def query_bytes(batch, seq_len, num_attention_heads, head_dim, bits):
    """Queries (or attention's output) of all heads: `num_attention_heads * head_dim` per token."""
    return -(-batch * seq_len * num_attention_heads * head_dim * bits // 8)


def key_bytes(batch, key_len, num_key_value_heads, head_dim, bits):
    """Keys (or values, which are as large) of all key-value heads: `num_key_value_heads * head_dim` per token."""
    return -(-batch * key_len * num_key_value_heads * head_dim * bits // 8)


def kv_cache_bytes(batch, cache_len, num_hidden_layers, num_key_value_heads, head_dim, bits):
    """Keys and values (the 2) of `cache_len` tokens in every layer. Source: arXiv 2405.04434, table 1.

    >>> kv_cache_bytes(1, 1, 80, 8, 128, 16)
    327680
    """
    return 2 * num_hidden_layers * -(-batch * cache_len * num_key_value_heads * head_dim * bits // 8)


def latent_cache_bytes(batch, cache_len, num_hidden_layers, kv_lora_rank, qk_rope_head_dim, bits):
    """MLA's cache: per token and layer the latent, and the one rotated key that all heads share.

    Source: arXiv 2405.04434, section 2.1 and table 1. Of DeepSeek-R1, one token in BF16:

    >>> latent_cache_bytes(1, 1, 61, 512, 64, 16)
    70272
    """
    return num_hidden_layers * -(-batch * cache_len * (kv_lora_rank + qk_rope_head_dim) * bits // 8)


def expanded_cache_bytes(batch, cache_len, num_hidden_layers, num_attention_heads, qk_head_dim, v_head_dim, bits):
    """MLA's cache as if it were plain attention's: keys (`qk_head_dim` wide) and values of every head.

    >>> expanded_cache_bytes(1, 1, 61, 128, 128 + 64, 128, 16)
    4997120
    """
    return num_hidden_layers * (
        -(-batch * cache_len * num_attention_heads * qk_head_dim * bits // 8)
        + -(-batch * cache_len * num_attention_heads * v_head_dim * bits // 8)
    )


def cache_rows_bytes(batch, cache_len, heads, width, bits):
    """One layer's rows of one kind (keys, values or latents): `heads` rows of `width` per token."""
    return -(-batch * cache_len * heads * width * bits // 8)


def cache_scales_bytes(batch, cache_len, heads):
    """The scales of one layer's INT8 rows of one kind: a float32 per token and head."""
    return 4 * batch * cache_len * heads


def paged_tokens(seq_len, block_size):
    """Tokens that a sequence has room for in whole pages. Source: arXiv 2309.06180, section 4.

    >>> paged_tokens(1000, 16)
    1008
    """
    return -(-seq_len // block_size) * block_size


def attention_scores_bytes(batch, seq_len, key_len, num_attention_heads, bits):
    """One score per head, new token and attended token: the s**2 term. Source: arXiv 2205.05198, section 4.1.

    >>> attention_scores_bytes(16, 2048, 2048, 32, 16) / 2**30
    4.0
    """
    return -(-batch * num_attention_heads * seq_len * key_len * bits // 8)


def causal_mask_bytes(seq_len, key_len):
    """One byte per new token and attended token: which keys lie in the future."""
    return seq_len * key_len


def logsumexp_bytes(batch, seq_len, num_attention_heads):
    """One float32 per head and token: what fused attention keeps instead of the scores. Source: arXiv 2205.14135."""
    return 4 * batch * seq_len * num_attention_heads


def inverse_rms_bytes(batch, seq_len, vectors_per_token):
    """One float32 per normalised vector: what a fused RMSNorm kernel returns beside its output."""
    return 4 * batch * seq_len * vectors_per_token


def rope_tables_bytes(seq_len, head_dim, bits):
    """Cosines over the whole head and sines over half of it, for every new position."""
    return -(-seq_len * head_dim * bits // 8) + -(-seq_len * head_dim * bits // 16)


def rope_frequencies_bytes(head_dim):
    """One float32 per pair of head dimensions (4 bytes for every 2), kept for the life of the model."""
    return 2 * head_dim


def mlp_width_bytes(batch, seq_len, intermediate_size, bits):
    """One vector of `intermediate_size` per token: the gate, its activation, the up projection or their product."""
    return -(-batch * seq_len * intermediate_size * bits // 8)


def router_bias_bytes(n_routed_experts):
    """One float32 per expert, which moves the choice of experts and nothing else (arXiv 2408.15664)."""
    return 4 * n_routed_experts


def routing_bytes(tokens, num_experts_per_tok, n_routed_experts):
    """Where each choice of an expert goes: two 64-bit integers per choice, and a 32-bit one per expert."""
    return 16 * tokens * num_experts_per_tok + 4 * n_routed_experts


def expert_rows_bytes(tokens, num_experts_per_tok, width, bits):
    """A vector of `width` for every expert that every token chose.

    >>> expert_rows_bytes(4096, 8, 7168, 16) / 2**20
    448.0
    """
    return -(-tokens * num_experts_per_tok * width * bits // 8)


def logits_bytes(batch, positions, vocab_size, bits):
    """One number per word of the vocabulary, for each of `positions` tokens of a sequence.

    >>> logits_bytes(4, 1024, 152064, 16) / 2**30
    1.16015625
    """
    return -(-batch * positions * vocab_size * bits // 8)


def int8_linear_bytes(in_features, out_features):
    """A linear layer's weight in INT8, and one float32 scale per output channel.

    >>> int8_linear_bytes(3584, 18944)
    67971072
    """
    return in_features * out_features + 4 * out_features


def fp8_linear_bytes(in_features, out_features):
    """A linear layer's weight in FP8, and one float32 scale per 128 x 128 tile (arXiv 2412.19437, section 3.3).

    >>> fp8_linear_bytes(7168, 2048) - 7168 * 2048 == 4 * 56 * 16
    True
    """
    return in_features * out_features + 4 * -(-in_features // 128) * -(-out_features // 128)


def int4_linear_bytes(in_features, out_features, group_size):
    """A weight in INT4, two in a byte, and a 16-bit scale and zero point for each group of an output channel.

    >>> int4_linear_bytes(3584, 18944, 128) * 8 / (3584 * 18944)
    4.25
    """
    return out_features * (-(-in_features // 2) + 4 * -(-in_features // group_size))


def nf4_linear_bytes(in_features, out_features):
    """A weight in NF4, a float32 per block of 64, and the table of 16 values (QLoRA, arXiv 2305.14314, section 3).

    Blocks run through the rows. As bitsandbytes stores it, so each layer has a table of its own.

    >>> nf4_linear_bytes(3584, 18944) / (3584 * 18944) * 8 < 4.501
    True
    """
    return -(-in_features * out_features // 2) + 4 * -(-in_features * out_features // 64) + 64


def nf4_double_linear_bytes(in_features, out_features):
    """The same with double quantization: 8 bit per block of 64, a float32 per 256 blocks, one offset, two tables.

    bitsandbytes keeps the tables, of 16 and 256 values, for each layer (measured with release 0.50).

    >>> nf4_double_linear_bytes(3584, 18944) / (3584 * 18944) * 8 < 4.128
    True
    """
    return (
        -(-in_features * out_features // 2)
        + -(-in_features * out_features // 64)
        + 4 * -(-in_features * out_features // (64 * 256))
        + 4 * (1 + 16 + 256)
    )


def int8_rows_bytes(rows, width):
    """An input in INT8 for the integer product, its rows filled up to a multiple of 32."""
    return -(-rows // 32) * 32 * width


def int32_product_bytes(rows, out_features):
    """The integer product, 4 bytes an element, of rows filled up to a multiple of 32.

    >>> int32_product_bytes(4096, 18944) / 2**20
    296.0
    """
    return 4 * -(-rows // 32) * 32 * out_features


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
