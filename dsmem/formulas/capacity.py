"""The capacity equation, solved: what is left after the fixed bytes, shared out among sequences or tokens."""


def most_sequences(usable_bytes, fixed_bytes, sequence_bytes):
    """How many sequences a memory holds, where each takes `sequence_bytes` (its cache) beside what is fixed (weights).

    DeepSeek-R1-Distill-Qwen-7B in INT8 on a T4, 4,096 tokens of cache for each:

    >>> most_sequences(15_642_329_088, 8_711_506_944, 4096 * 57_344)
    29
    """
    return (usable_bytes - fixed_bytes) // sequence_bytes


def longest_context_tokens(usable_bytes, fixed_bytes, batch, bytes_per_token):
    """How many tokens each of `batch` sequences may have, where each takes `bytes_per_token` beside what is fixed.

    >>> longest_context_tokens(15_642_329_088, 8_711_506_944, 4, 57_344)
    30215
    """
    return (usable_bytes - fixed_bytes) // (batch * bytes_per_token)
