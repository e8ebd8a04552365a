"""Notebook 01's exercises: the right answers and the common mistakes, written as a reader would write them."""

from exercises import checks_of, up


def active(n_params, num_expert_layers, n_routed_experts, num_experts_per_tok, hidden_size, moe_intermediate_size):
    return n_params - 3 * hidden_size * moe_intermediate_size * num_expert_layers * (
        n_routed_experts - num_experts_per_tok
    )


def two_matrices(
    n_params, num_expert_layers, n_routed_experts, num_experts_per_tok, hidden_size, moe_intermediate_size
):
    return n_params - 2 * hidden_size * moe_intermediate_size * num_expert_layers * (
        n_routed_experts - num_experts_per_tok
    )


def in_every_layer(
    n_params, num_hidden_layers, n_routed_experts, num_experts_per_tok, hidden_size, moe_intermediate_size
):
    return n_params - 3 * hidden_size * moe_intermediate_size * num_hidden_layers * (
        n_routed_experts - num_experts_per_tok
    )


def in_one_layer(n_params, n_routed_experts, num_experts_per_tok, hidden_size, moe_intermediate_size):
    return n_params - 3 * hidden_size * moe_intermediate_size * (n_routed_experts - num_experts_per_tok)


def none_of_them(n_params, num_expert_layers, n_routed_experts, hidden_size, moe_intermediate_size):
    return n_params - 3 * hidden_size * moe_intermediate_size * num_expert_layers * n_routed_experts


RIGHT = {
    "attention_params": lambda hidden_size, num_attention_heads, num_key_value_heads, head_dim: (
        head_dim * (hidden_size + 1) * (num_attention_heads + 2 * num_key_value_heads)
        + head_dim * num_attention_heads * hidden_size
    ),
    "fp8_linear_bytes": lambda in_features, out_features: (
        in_features * out_features + 4 * up(in_features, 128) * up(out_features, 128)
    ),
    "active_params": active,
}

WRONG = {
    "attention_params": {
        "bias forgotten": lambda hidden_size, num_attention_heads, num_key_value_heads, head_dim: (
            hidden_size * head_dim * (2 * num_attention_heads + 2 * num_key_value_heads)
        ),
        "grouped heads ignored": lambda hidden_size, num_attention_heads, head_dim: (
            (4 * hidden_size + 3) * num_attention_heads * head_dim
        ),
        "output projection forgotten": lambda hidden_size, num_attention_heads, num_key_value_heads, head_dim: (
            (hidden_size + 1) * (num_attention_heads + 2 * num_key_value_heads) * head_dim
        ),
        "bias on the output as well": lambda hidden_size, num_attention_heads, num_key_value_heads, head_dim: (
            (hidden_size + 1) * (num_attention_heads + 2 * num_key_value_heads) * head_dim
            + (num_attention_heads * head_dim + 1) * hidden_size
        ),
        "keys without values": lambda hidden_size, num_attention_heads, num_key_value_heads, head_dim: (
            (hidden_size + 1) * (num_attention_heads + num_key_value_heads) * head_dim
            + num_attention_heads * head_dim * hidden_size
        ),
        "hidden_size in place of all heads": lambda hidden_size, num_key_value_heads, head_dim: (
            2 * hidden_size**2 + hidden_size + 2 * (hidden_size + 1) * num_key_value_heads * head_dim
        ),
    },
    "fp8_linear_bytes": {
        "scales forgotten": lambda in_features, out_features: in_features * out_features,
        "partial tiles not counted": lambda in_features, out_features: (
            in_features * out_features + in_features // 128 * (out_features // 128) * 4
        ),
        "rounded up only once": lambda in_features, out_features: (
            in_features * out_features + 4 * up(in_features * out_features, 16384)
        ),
        "scales of one byte": lambda in_features, out_features: (
            in_features * out_features + up(in_features, 128) * up(out_features, 128)
        ),
        "a scale per row": lambda in_features, out_features: (in_features + 4) * out_features,
    },
    "active_params": {
        "all of them": lambda n_params: n_params,
        "two matrices in an expert": two_matrices,
        "experts in every layer": in_every_layer,
        "one layer only": in_one_layer,
        "no routed expert at all": none_of_them,
        "the experts' share of everything": lambda n_params, n_routed_experts, num_experts_per_tok: (
            n_params * num_experts_per_tok // n_routed_experts
        ),
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)
