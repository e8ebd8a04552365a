"""Notebook 02's exercises: the right answers and the common mistakes, written as a reader would write them."""

from exercises import checks_of


def largest_of_each(instants):
    largest = {}
    for parts in instants.values():
        for part, nbytes in parts.items():
            largest[part] = max(largest.get(part, 0), nbytes)
    return sum(largest.values())


RIGHT = {
    "hidden_state_bytes": lambda batch, seq_len, hidden_size, bits: batch * seq_len * hidden_size * bits // 8,
    "logits_bytes": lambda batch, positions, vocab_size, bits: batch * positions * vocab_size * bits // 8,
    "attention_scores_bytes": lambda batch, num_attention_heads, seq_len, key_len, bits: (
        batch * num_attention_heads * seq_len * key_len * bits // 8
    ),
    "mlp_product_bytes": lambda batch, seq_len, intermediate_size, bits: (
        3 * batch * seq_len * intermediate_size * bits / 8
    ),
    "peak_bytes": lambda totals: max(totals.values()),
}

WRONG = {
    "hidden_state_bytes": {
        "batch forgotten": lambda seq_len, hidden_size, bits: seq_len * hidden_size * bits // 8,
        "one token only": lambda batch, hidden_size, bits: batch * hidden_size * bits // 8,
        "one for every layer": lambda batch, seq_len, hidden_size, num_hidden_layers, bits: (
            batch * seq_len * hidden_size * num_hidden_layers * bits // 8
        ),
        "`bits` ignored, always 2 bytes": lambda batch, seq_len, hidden_size: 2 * batch * seq_len * hidden_size,
        "`bits // 8` too early": lambda batch, seq_len, hidden_size, bits: batch * seq_len * hidden_size * (bits // 8),
    },
    "logits_bytes": {
        "hidden_size in place of vocab_size": lambda batch, seq_len, hidden_size, bits: (
            batch * seq_len * hidden_size * bits // 8
        ),
        "batch forgotten": lambda positions, vocab_size, bits: positions * vocab_size * bits // 8,
        "last position only": lambda batch, vocab_size, bits: batch * vocab_size * bits // 8,
        "always float32": lambda batch, positions, vocab_size: 4 * batch * positions * vocab_size,
        "`bits` ignored, always 2 bytes": lambda batch, positions, vocab_size: 2 * batch * positions * vocab_size,
        "`bits // 8` too early": lambda batch, positions, vocab_size, bits: (
            batch * positions * vocab_size * (bits // 8)
        ),
    },
    "attention_scores_bytes": {
        "seq_len only once": lambda batch, num_attention_heads, seq_len, bits: (
            batch * num_attention_heads * seq_len * bits // 8
        ),
        "key-value heads in place of heads": lambda batch, num_key_value_heads, seq_len, bits: (
            batch * num_key_value_heads * seq_len**2 * bits / 8
        ),
        "hidden_size in place of heads": lambda batch, hidden_size, seq_len, bits: (
            batch * hidden_size * seq_len**2 * bits // 8
        ),
        "heads forgotten": lambda batch, seq_len, key_len, bits: -(-batch * seq_len * key_len * bits // 8),
        "half of the square, for the mask": lambda batch, num_attention_heads, seq_len, bits: (
            batch * num_attention_heads * seq_len**2 / 2 * bits / 8
        ),
        "batch forgotten": lambda num_attention_heads, seq_len, bits: num_attention_heads * seq_len**2 * bits // 8,
        "`bits` ignored, always 2 bytes": lambda batch, num_attention_heads, seq_len: (
            2 * batch * num_attention_heads * seq_len**2
        ),
        "`bits // 8` too early": lambda batch, num_attention_heads, seq_len, bits: (
            batch * num_attention_heads * seq_len**2 * (bits // 8)
        ),
    },
    "mlp_product_bytes": {
        "one wide tensor": lambda batch, seq_len, intermediate_size, bits: (
            batch * seq_len * intermediate_size * bits // 8
        ),
        "two wide tensors": lambda batch, seq_len, intermediate_size, bits: (
            2 * batch * seq_len * intermediate_size * bits // 8
        ),
        "four wide tensors": lambda batch, seq_len, intermediate_size, bits: (
            4 * batch * seq_len * intermediate_size * bits // 8
        ),
        "4 * hidden_size in place of intermediate_size": lambda batch, seq_len, hidden_size, bits: (
            3 * batch * seq_len * 4 * hidden_size * bits // 8
        ),
        "batch forgotten": lambda seq_len, intermediate_size, bits: 3 * seq_len * intermediate_size * bits // 8,
        "`bits` ignored, always 2 bytes": lambda batch, seq_len, intermediate_size: (
            6 * batch * seq_len * intermediate_size
        ),
        "`bits // 8` too early": lambda batch, seq_len, intermediate_size, bits: (
            3 * batch * seq_len * intermediate_size * (bits // 8)
        ),
    },
    "peak_bytes": {
        "sum in place of the largest": lambda instants: sum(sum(parts.values()) for parts in instants.values()),
        "sum of the largest parts": largest_of_each,
        "the largest tensor alone": lambda instants: max(n for parts in instants.values() for n in parts.values()),
        "weights left out": lambda instants: max(
            sum(n for part, n in parts.items() if part != "weights") for parts in instants.values()
        ),
        "first instant": lambda totals: list(totals.values())[0],
        "last instant": lambda totals: totals["head"],
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)
