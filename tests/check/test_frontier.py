"""Notebook 09's exercises: the right answers and the common mistakes, written as a reader would write them."""

from exercises import checks_of

RIGHT = {
    "touched_experts": lambda n_routed_experts, num_experts_per_tok, tokens: (
        n_routed_experts - n_routed_experts * ((n_routed_experts - num_experts_per_tok) / n_routed_experts) ** tokens
    ),
    "sparse_weight_bytes": lambda in_features, out_features: in_features * out_features * 2 * 9 / 16,
    "token_bytes": lambda n_active_params, vocab_size, hidden_size, bytes_per_param: (
        (n_active_params - vocab_size * hidden_size + hidden_size) * bytes_per_param
    ),
}

WRONG = {
    "touched_experts": {
        "every choice counted": lambda num_experts_per_tok, tokens: tokens * num_experts_per_tok,
        "one choice a token": lambda n_routed_experts, tokens: (
            n_routed_experts - n_routed_experts * (1 - 1 / n_routed_experts) ** tokens
        ),
        "those that are left out": lambda n_routed_experts, num_experts_per_tok, tokens: (
            n_routed_experts * ((n_routed_experts - num_experts_per_tok) / n_routed_experts) ** tokens
        ),
        "all of them": lambda n_routed_experts: n_routed_experts,
    },
    "sparse_weight_bytes": {
        "places forgotten": lambda in_features, out_features: in_features * out_features,
        "a place for every number": lambda in_features, out_features: in_features * out_features * 1.25,
        "one bit for a place": lambda in_features, out_features: in_features * out_features * (1 + 1 / 16),
        "nothing left out": lambda in_features, out_features: in_features * out_features * 16 / 8,
    },
    "token_bytes": {
        "all parameters": lambda n_params, bytes_per_param: n_params * bytes_per_param,
        "the whole embedding": lambda n_active_params, bytes_per_param: n_active_params * bytes_per_param,
        "no row of the embedding": lambda n_active_params, vocab_size, hidden_size, bytes_per_param: (
            (n_active_params - vocab_size * hidden_size) * bytes_per_param
        ),
        "the head left out as well": lambda n_active_params, vocab_size, hidden_size, bytes_per_param: (
            (n_active_params - 2 * vocab_size * hidden_size + hidden_size) * bytes_per_param
        ),
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)
