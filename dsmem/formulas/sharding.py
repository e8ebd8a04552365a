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


def zero1_states_bytes(elements, data, bits, gradient_bits, state_bits):
    """Parameters, gradients and optimizer states with the optimizer's shared out over `data` ranks: ZeRO's stage 1.

    On one rank `training_states_bytes`. state_bits: of all that the optimizer keeps for a parameter; Adam in mixed
    precision: 96 (an FP32 copy, two FP32 moments). Source, of the next two, too: arXiv 1910.02054, section 5 and table
    1. Of 7.5 billion parameters on 64 ranks, in GB:

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


def tensor_activation_bytes(batch, seq_len, hidden_size, num_attention_heads, tensor):
    """`block_saved_bytes` in 16 bit where `tensor` ranks cut the matrices: inputs, norms and dropouts stay whole.

    Source, of all that follows: arXiv 2205.05198, sections 4 and 5, table 2. GPT-3's block keeps 114, in bytes for each
    token and number of its width:

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


def first_stage_activation_bytes(layer_bytes, num_hidden_layers, pipeline, microbatches):
    """What a pipeline's first stage keeps: its layers' activations for each microbatch in flight.

    layer_bytes: of one layer and one microbatch. With 1F1B as many microbatches are in flight as there are stages, so a
    longer pipeline takes nothing off the first stage. Source: arXiv 2205.05198, section 4.2.3.

    >>> first_stage_activation_bytes(100, 96, 8, 8) == first_stage_activation_bytes(100, 96, 1, 1)
    True
    """
    return layer_bytes * -(-num_hidden_layers // pipeline) * microbatches
