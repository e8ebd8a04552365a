"""Exercises of notebook 09: experts that a batch touches, what 2:4 stores, what one token reads."""

from dsmem import formulas
from dsmem.check.cases import LAYERS
from dsmem.check.exercise import Exercise, Mistake
from dsmem.config.architecture import Architecture


def _batch(experts, top_k, tokens):
    return {"n_routed_experts": experts, "num_experts_per_tok": top_k, "tokens": tokens}


touched_experts = Exercise(
    "touched_experts",
    "Return how many experts of a layer at least one of `tokens` chooses on average, if all are equally likely.",
    formulas.touched_experts,
    (_batch(256, 8, 1), _batch(256, 8, 64), _batch(8, 2, 3), _batch(64, 6, 16)),
    nudge="With which probability does one token leave a given expert out, and with which do all of them?",
    mistakes=(
        Mistake(
            "every choice counted",
            "Two tokens may choose the same expert, which is read once.",
            lambda n_routed_experts, num_experts_per_tok, tokens: num_experts_per_tok * tokens,
        ),
        Mistake(
            "one choice a token",
            "A token chooses num_experts_per_tok of them, so it leaves one out with probability 1 - k/E.",
            lambda n_routed_experts, tokens: n_routed_experts * (1 - (1 - 1 / n_routed_experts) ** tokens),
        ),
        Mistake(
            "those that are left out",
            "That is how many nobody chooses; the others are wanted.",
            lambda n_routed_experts, num_experts_per_tok, tokens: (
                n_routed_experts * (1 - num_experts_per_tok / n_routed_experts) ** tokens
            ),
        ),
        Mistake(
            "all of them",
            "A small batch leaves experts out.",
            lambda n_routed_experts: n_routed_experts,
        ),
    ),
    unit="experts on average",
    notebook="09",
)


def _sparse(in_features, out_features):
    kept = in_features * out_features // 2
    return kept * 16 // 8 + kept * 2 // 8


sparse_weight_bytes = Exercise(
    "sparse_weight_bytes",
    "Return the bytes of a 16-bit weight of which 2 in every 4 numbers are kept, each with 2 bits for its place.",
    _sparse,
    tuple({name: case[name] for name in ("in_features", "out_features")} for case in LAYERS),
    nudge="Take four numbers: how many bits are kept of them, and how many bits of places?",
    mistakes=(
        Mistake(
            "places forgotten",
            "Nobody could say where the kept numbers stood.",
            lambda in_features, out_features: in_features * out_features,
        ),
        Mistake(
            "a place for every number",
            "Only the numbers that are kept have a place.",
            lambda in_features, out_features: in_features * out_features * 20 // 16,
        ),
        Mistake(
            "one bit for a place",
            "Four places take two bits to tell apart.",
            lambda in_features, out_features: in_features * out_features * 17 // 16,
        ),
        Mistake(
            "nothing left out",
            "Half of the numbers are not stored.",
            lambda in_features, out_features: 2 * in_features * out_features,
        ),
    ),
    notebook="09",
)


def _token_case(model, bytes_per_param):
    arch = Architecture.of(model)
    shapes = {name: getattr(arch, name) for name in ("n_params", "n_active_params", "vocab_size", "hidden_size")}
    return shapes | {"bytes_per_param": bytes_per_param}


def _token_bytes(n_active_params, vocab_size, hidden_size, bytes_per_param):
    return (n_active_params - (vocab_size - 1) * hidden_size) * bytes_per_param


token_bytes = Exercise(
    "token_bytes",
    "Return the bytes of weights that one token reads (batch 1), of a model whose head is not its embedding.",
    _token_bytes,
    (_token_case("deepseek-r1", 1), _token_case("deepseek-r1", 2), _token_case("llama-2-7b", 2)),
    nudge="Which parameters does a token pass through, and how much of the embedding does it look at?",
    mistakes=(
        Mistake(
            "all parameters",
            "A token passes through a few experts only: see n_active_params.",
            lambda n_params, bytes_per_param: n_params * bytes_per_param,
        ),
        Mistake(
            "the whole embedding",
            "Of the embedding a token needs one row.",
            lambda n_active_params, bytes_per_param: n_active_params * bytes_per_param,
        ),
        Mistake(
            "no row of the embedding",
            "One row is read, the one of the token.",
            lambda n_active_params, vocab_size, hidden_size, bytes_per_param: (
                (n_active_params - vocab_size * hidden_size) * bytes_per_param
            ),
        ),
        Mistake(
            "the head left out as well",
            "The head is multiplied with for every token.",
            lambda n_active_params, vocab_size, hidden_size, bytes_per_param: (
                (n_active_params - (2 * vocab_size - 1) * hidden_size) * bytes_per_param
            ),
        ),
    ),
    notebook="09",
)
