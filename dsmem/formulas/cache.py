"""The KV cache: keys and values, latents, scales and pages."""


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


def cache_blocks_bytes(batch, cache_len, heads, width, block_elements, bytes_per_block):
    """One layer's rows of one kind in a format of blocks, as llama.cpp keeps them: whole blocks for every token.

    DeepSeek-R1's latents of one token in q8_0, 34 bytes for 32 numbers:

    >>> cache_blocks_bytes(1, 1, 1, 512 + 64, 32, 34)
    612
    """
    return batch * cache_len * -(-heads * width // block_elements) * bytes_per_block


def fp8_latent_row_bytes(kv_lora_rank, qk_rope_head_dim):
    """A token's latent row in one layer as FlashMLA reads FP8: a float32 per 128 numbers, the rotated part in BF16.

    vLLM calls it "fp8_ds_mla". Source: FlashMLA's README, "FP8 KV cache".

    >>> fp8_latent_row_bytes(512, 64)
    656
    """
    return kv_lora_rank + 4 * -(-kv_lora_rank // 128) + 2 * qk_rope_head_dim


def aligned_rows_bytes(batch, cache_len, heads, row_bytes, row_alignment):
    """One layer's rows of one kind, each filled up to a multiple of `row_alignment` bytes.

    >>> aligned_rows_bytes(1, 1, 1, 1152, 256)
    1280
    """
    return batch * cache_len * heads * -(-row_bytes // row_alignment) * row_alignment


def transposed_latents_bytes(batch, cache_len, num_hidden_layers, kv_lora_rank, bits):
    """A second, transposed copy of MLA's latents, which llama.cpp once kept beside the first to multiply faster.

    >>> transposed_latents_bytes(1, 163_840, 61, 512, 16) / 2**20
    9760.0
    """
    return num_hidden_layers * -(-batch * cache_len * kv_lora_rank * bits // 8)


def linear_state_bytes(batch, num_hidden_layers, heads, qk_head_dim, v_head_dim, bits):
    """What linear attention keeps in place of a cache: a matrix per head and layer, however many tokens it has read.

    heads: each with keys of `qk_head_dim` and values of `v_head_dim`. num_hidden_layers: those that are linear. Left
    out: the last few inputs of the convolution before it. Source: arXiv 2412.06464, section 3.1.

    >>> linear_state_bytes(1, 48, 48, 128, 128, 32) / 2**20
    144.0
    """
    return num_hidden_layers * -(-batch * heads * qk_head_dim * v_head_dim * bits // 8)
