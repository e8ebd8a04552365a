"""Many ranks: what each keeps of states that are shared out, and of the activations of a layer that is cut.

`data`, `tensor`, `pipeline` count ranks. A share is a ceiling: where ranks do not divide what they share, all are
filled up to the size of the largest. `-(x // -ranks)` is the ceiling of x / ranks, too.
"""


def shard_bytes(rows, width, ranks, bits):
    """One rank's rows of a matrix of `rows` x `width`, filled up to the same number on every rank.

    The embedding of Llama-3 over 12 ranks:

    >>> shard_bytes(128_256, 4096, 12, 16) / (128_256 * 4096 * 2 / 12)
    1.0
    """
    return -(rows // -ranks * width * bits // 8)


def replicated_states_bytes(elements, bits, gradient_bits, state_bits):
    """Parameters, gradients and optimizer states of a model on every rank (ZeRO's baseline, 16 bytes a parameter).

    state_bits: of all that the optimizer keeps for a parameter; Adam in mixed precision: 96 (an FP32 copy, two FP32
    moments). Source, of the next three, too: arXiv 1910.02054, section 5 and table 1. Of 7.5 billion parameters, in GB:

    >>> replicated_states_bytes(7_500_000_000, 16, 16, 96) / 1e9
    120.0
    """
    return -(-elements * (bits + gradient_bits + state_bits) // 8)


def zero1_states_bytes(elements, data, bits, gradient_bits, state_bits):
    """The same with the optimizer's states shared out over `data` ranks.

    >>> zero1_states_bytes(7_500_000_000, 64, 16, 16, 96) / 1e9
    31.40625
    """
    return -(-elements * (bits + gradient_bits) // 8) - (elements // -data * state_bits // 8)


def zero2_states_bytes(elements, data, bits, gradient_bits, state_bits):
    """The same with gradients shared out, too.

    >>> zero2_states_bytes(7_500_000_000, 64, 16, 16, 96) / 1e9
    16.640625
    """
    return -(-elements * bits // 8) - (elements // -data * (gradient_bits + state_bits) // 8)


def zero3_states_bytes(elements, data, bits, gradient_bits, state_bits):
    """The same with all three shared out.

    >>> zero3_states_bytes(7_500_000_000, 64, 16, 16, 96) / 1e9
    1.875
    """
    return -(elements // -data * (bits + gradient_bits + state_bits) // 8)


# --- Activations ------------------------------------------------------------------------------------------------------


def gpt_activation_bytes(batch, seq_len, hidden_size, num_attention_heads):
    """What one GPT block keeps for backward, in 16 bit with dropout and scores in memory: s b h (34 + 5 a s / h).

    Source, of the next five, too: arXiv 2205.05198, sections 4.1 to 5, equations 1 to 6 and table 2. GPT-3 spends 80 of
    114 on attention's scores:

    >>> gpt_activation_bytes(1, 2048, 12_288, 96) / (2048 * 12_288)
    114.0
    """
    return 34 * batch * seq_len * hidden_size + 5 * batch * seq_len**2 * num_attention_heads


def tensor_activation_bytes(batch, seq_len, hidden_size, num_attention_heads, tensor):
    """The same with the block's matrices cut by `tensor` ranks: inputs, norms and dropouts stay whole.

    >>> tensor_activation_bytes(1, 2048, 12_288, 96, 8) / (2048 * 12_288)
    23.0
    """
    return 10 * batch * seq_len * hidden_size - (
        -batch * seq_len * (24 * hidden_size + 5 * seq_len * num_attention_heads) // tensor
    )


def sequence_activation_bytes(batch, seq_len, hidden_size, num_attention_heads, tensor):
    """The same with the tokens shared out where the width is not cut: all of it over `tensor` ranks.

    >>> sequence_activation_bytes(1, 2048, 12_288, 96, 8) / (2048 * 12_288)
    14.25
    """
    return -(-batch * seq_len * (34 * hidden_size + 5 * seq_len * num_attention_heads) // tensor)


def tensor_selective_activation_bytes(batch, seq_len, hidden_size, tensor):
    """Cut by `tensor` ranks, and attention computed again in backward: no scores are kept."""
    return 10 * batch * seq_len * hidden_size + -(-24 * batch * seq_len * hidden_size // tensor)


def sequence_selective_activation_bytes(batch, seq_len, hidden_size, tensor):
    """Cut by `tensor` ranks, tokens shared out, and attention computed again: s b h 34 / t."""
    return -(-34 * batch * seq_len * hidden_size // tensor)


def recomputed_activation_bytes(batch, seq_len, hidden_size):
    """The whole block computed again in backward: its input alone is kept.

    >>> recomputed_activation_bytes(16, 2048, 4096) / 2**30
    0.25
    """
    return 2 * batch * seq_len * hidden_size


def first_stage_activation_bytes(layer_bytes, num_hidden_layers, pipeline, microbatches):
    """What a pipeline's first stage keeps: its layers' activations for each microbatch in flight.

    layer_bytes: of one layer and one microbatch. With 1F1B as many microbatches are in flight as there are stages, so a
    longer pipeline takes nothing off the first stage. Source: arXiv 2205.05198, section 4.2.3.

    >>> first_stage_activation_bytes(100, 96, 8, 8) == first_stage_activation_bytes(100, 96, 1, 1)
    True
    """
    return layer_bytes * -(-num_hidden_layers // pipeline) * microbatches
