"""Notebook 00's exercises: the right answers and the common mistakes, written as a reader would write them."""

from exercises import checks_of

NOMINAL = {"deepseek-r1-distill-qwen-7b": 7, "llama-2-7b": 7, "deepseek-r1-distill-llama-70b": 70, "qwen2.5-0.5b": 0.5}


def embedding(arch):
    return arch.vocab_size * arch.hidden_size


def untied(arch):
    return 0 if arch.tie_word_embeddings else embedding(arch)


def wider_key_values(arch, bits):
    extra = 2 * arch.num_hidden_layers * (arch.num_attention_heads - arch.num_key_value_heads) * arch.head_dim
    return (arch.n_params + extra * (arch.hidden_size + arch.qkv_bias)) * bits / 8 / 2**30


RIGHT = {
    "matmul_bytes": lambda tokens, in_features, out_features, bits: (
        (tokens * in_features + in_features * out_features + tokens * out_features) * bits // 8
    ),
    "weights_gib": lambda n_params, bits: round(n_params * bits / 8 / 2**30, 2),
}

WRONG = {
    "matmul_bytes": {
        "output forgotten": lambda tokens, in_features, out_features, bits: (
            (tokens + out_features) * in_features * bits / 8
        ),
        "weight forgotten": lambda tokens, in_features, out_features, bits: (
            tokens * (in_features + out_features) * bits / 8
        ),
        "input forgotten": lambda tokens, in_features, out_features, bits: (
            (tokens + in_features) * out_features * bits / 8
        ),
        "one token only": lambda in_features, out_features, bits: (
            (in_features + in_features * out_features + out_features) * bits // 8
        ),
        "`bits` ignored, always 2 bytes": lambda tokens, in_features, out_features: (
            2 * (tokens * in_features + in_features * out_features + tokens * out_features)
        ),
        "`bits // 8` too early": lambda tokens, in_features, out_features, bits: (
            (tokens * in_features + in_features * out_features + tokens * out_features) * (bits // 8)
        ),
    },
    "weights_gib": {
        "GB called GiB": lambda arch, bits: arch.n_params * bits / 8 / 1e9,
        "embedding left out": lambda arch, bits: (arch.n_params - embedding(arch)) * bits / 8 / 2**30,
        "untied head left out": lambda arch, bits: (arch.n_params - untied(arch)) * bits / 8 / 2**30,
        "embedding and head left out": lambda arch, bits: (
            (arch.n_params - embedding(arch) - untied(arch)) * bits / 8 / 2**30
        ),
        "two matrices in the MLP": lambda arch, bits: (
            (arch.n_params - arch.num_hidden_layers * arch.hidden_size * arch.intermediate_size) * bits / 8 / 2**30
        ),
        "tied head counted twice": lambda arch, bits: (
            (arch.n_params + embedding(arch) - untied(arch)) * bits / 8 / 2**30
        ),
        "grouped heads ignored": wider_key_values,
        "the number in the name": lambda arch, bits: NOMINAL[arch.name] * 1e9 * bits / 8 / 2**30,
        "`bits` ignored, always 2 bytes": lambda n_params: 2 * n_params / 2**30,
        "`bits // 8` too early": lambda n_params, bits: n_params * (bits // 8) / 2**30,
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)
