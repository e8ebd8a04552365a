"""Tensors of a pass: what one token, one head or one expert adds to each of them."""


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


def layer_norm_statistics_bytes(batch, seq_len):
    """A float32 mean and a float32 inverse standard deviation per token: what LayerNorm returns beside its output."""
    return 8 * batch * seq_len


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


def int8_rows_bytes(rows, width):
    """An input in INT8 for the integer product, its rows filled up to a multiple of 32."""
    return -(-rows // 32) * 32 * width


def int32_product_bytes(rows, out_features):
    """The integer product, 4 bytes an element, of rows filled up to a multiple of 32.

    >>> int32_product_bytes(4096, 18944) / 2**20
    296.0
    """
    return 4 * -(-rows // 32) * 32 * out_features


def block_bytes(elements, block_elements, bytes_per_block):
    """Bytes of numbers in blocks of `block_elements`, each block `bytes_per_block` with its scales.

    >>> block_bytes(4096, 32, 34)
    4352
    """
    return -(-elements // block_elements) * bytes_per_block
