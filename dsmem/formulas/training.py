"""What training holds beside a forward pass: states of the optimizer, gradients, and what is kept for backward.

A GPT block here is the one of arXiv 2205.05198: LayerNorm, attention of `num_attention_heads` heads, an MLP four times
as wide with GELU, and dropout three times. Dropout keeps a mask of one byte a number, whatever the format.
"""


def optimizer_states_bytes(n_params, moments, bits):
    """Running averages of the optimizer, `moments` of them for each parameter: AdamW 2, Lion and SGD with momentum 1.

    >>> optimizer_states_bytes(7_615_616_512, 2, 32) / 1e9  # AdamW of a 7B model, in FP32
    60.924932096
    """
    return -(-n_params * moments * bits // 8)


def optimizer_states_8bit_bytes(elements, moments):
    """The same of one tensor in 8 bit: a byte each, and a float32 for every 256 (arXiv 2110.02861; bitsandbytes 0.50).

    Left out: two tables of 256 float32 that all tensors share; tensors below 4,096 elements stay in FP32.

    >>> optimizer_states_8bit_bytes(3584 * 18944, 2) / (3584 * 18944)
    2.03125
    """
    return moments * (elements + 4 * -(-elements // 256))


def training_states_bytes(n_params, weight_bits, gradient_bits, master_bits, moment_bits):
    """All that grows with the parameters alone: weights, gradients, a master copy (0 bits for none) and two moments.

    >>> training_states_bytes(7_500_000_000, 16, 16, 32, 32) / 1e9  # ZeRO, arXiv 1910.02054: 16 bytes a parameter
    120.0
    """
    return -(-n_params * (weight_bits + gradient_bits + master_bits + 2 * moment_bits) // 8)


def attention_saved_bytes(batch, seq_len, hidden_size, bits):
    """Kept by a GPT block's attention beside its scores: the input, queries, keys, values, what the heads give; a mask.

    >>> attention_saved_bytes(1, 1, 1, 16)
    11
    """
    return -(-batch * seq_len * hidden_size * (5 * bits + 8) // 8)


def scores_saved_bytes(batch, seq_len, num_attention_heads, bits):
    """Kept of attention's scores: the softmax, the same after dropout, and its mask. A fused kernel keeps none of it.

    >>> scores_saved_bytes(16, 2048, 32, 16) / 2**30
    10.0
    """
    return -(-batch * num_attention_heads * seq_len**2 * (2 * bits + 8) // 8)


def mlp_saved_bytes(batch, seq_len, hidden_size, bits):
    """Kept by a GPT block's MLP: its input, and four times as wide what enters GELU and what leaves it; a mask.

    >>> mlp_saved_bytes(1, 1, 1, 16)
    19
    """
    return -(-batch * seq_len * hidden_size * (9 * bits + 8) // 8)


def norms_saved_bytes(batch, seq_len, hidden_size, bits):
    """Kept by a block's two norms: what enters each.

    >>> norms_saved_bytes(1, 1, 1, 16)
    4
    """
    return -(-batch * seq_len * hidden_size * 2 * bits // 8)


def block_saved_bytes(batch, seq_len, hidden_size, num_attention_heads, bits):
    """Kept for backward by one GPT block: in 16 bit s b h (34 + 5 a s / h). Source: arXiv 2205.05198, section 4.1.

    The sum of attention, scores, MLP and norms above. Left out: means and deviations of the norms.

    >>> block_saved_bytes(16, 2048, 4096, 32, 16) / 2**30
    14.25
    """
    return -(-batch * seq_len * (hidden_size * (16 * bits + 16) + num_attention_heads * seq_len * (2 * bits + 8)) // 8)


def fused_block_saved_bytes(batch, seq_len, hidden_size, num_attention_heads, bits):
    """The same with a fused attention kernel: no scores, and one float32 a head and token (arXiv 2205.14135).

    >>> fused_block_saved_bytes(16, 2048, 4096, 32, 16) / 2**30
    4.25390625
    """
    return -(-batch * seq_len * (hidden_size * (16 * bits + 16) + 32 * num_attention_heads) // 8)


def checkpoints_bytes(batch, seq_len, hidden_size, num_hidden_layers, bits):
    """Kept where each layer runs again in backward: the layers' inputs. In 16 bit 2 s b h a layer (arXiv 2205.05198).

    Left out: what the one layer that runs again keeps meanwhile.

    >>> checkpoints_bytes(16, 2048, 4096, 32, 16) / 2**30
    8.0
    """
    return -(-batch * seq_len * hidden_size * num_hidden_layers * bits // 8)


def segments_bytes(num_hidden_layers, segments, input_bytes, layer_bytes):
    """Kept where layers run again in `segments` stretches: their inputs, and all that one stretch's layers keep.

    Least for about sqrt(num_hidden_layers * layer_bytes / input_bytes) of them. Source: arXiv 1604.06174, section 4.

    >>> [segments_bytes(100, segments, 1, 1) for segments in (5, 10, 20)]
    [25, 20, 25]
    """
    return segments * input_bytes + -(-num_hidden_layers // segments) * layer_bytes


def lora_params(rank, in_features, out_features):
    """Numbers in the two thin matrices beside one linear layer, r (n_in + n_out). Source: arXiv 2106.09685.

    >>> 96 * 2 * lora_params(8, 12288, 12288)  # queries and values of GPT-3's 96 layers: 37.7M in its table 4
    37748736
    """
    return rank * (in_features + out_features)
