"""Exercises of notebook 02: what is in memory during a forward pass."""

from dsmem import formulas
from dsmem.check.answers import call
from dsmem.check.cases import MODELS, NO_BATCH, bits_mistakes, model_case
from dsmem.check.exercise import Exercise, Mistake

hidden_state_bytes = Exercise(
    "hidden_state_bytes",
    "Return the bytes of one hidden state: a vector of `hidden_size` for every token of the batch.",
    formulas.hidden_state_bytes,
    MODELS,
    nudge="How many tokens does the batch have in all?",
    mistakes=(
        NO_BATCH,
        Mistake("one token only", "A prefill holds all seq_len tokens at once.", {"seq_len": 1}),
        Mistake(
            "one for every layer",
            "A layer's hidden state is freed when the next layer has made its own.",
            {"times": "num_hidden_layers"},
        ),
        *bits_mistakes(formulas.hidden_state_bytes),
    ),
)


logits_bytes = Exercise(
    "logits_bytes",
    "Return the bytes of the logits of all positions.",
    formulas.logits_bytes,
    MODELS,
    nudge="Every position gets one number for each word of the vocabulary.",
    mistakes=(
        Mistake(
            "hidden_size in place of vocab_size",
            "There is one logit for every word of the vocabulary.",
            {"vocab_size": "hidden_size"},
        ),
        NO_BATCH,
        Mistake("last position only", "The task is about every position, not only the last.", {"positions": 1}),
        Mistake(
            "always float32",
            "Logits come in the format of the pass, unless they are converted afterwards.",
            {"bits": 32},
        ),
        *bits_mistakes(formulas.logits_bytes),
    ),
)


attention_scores_bytes = Exercise(
    "attention_scores_bytes",
    "Return the bytes of one layer's attention scores: one number per head, token and attended token.",
    formulas.attention_scores_bytes,
    MODELS,
    nudge="Draw the scores of one head as a square: what stands along each of its sides?",
    mistakes=(
        Mistake("seq_len only once", "Every token looks at every token, so the length counts squared.", {"key_len": 1}),
        Mistake(
            "key-value heads in place of heads",
            "Every query head has scores of its own, even where heads share their keys.",
            {"num_attention_heads": "num_key_value_heads"},
        ),
        Mistake(
            "hidden_size in place of heads",
            "A score is one number per head, because head_dim is summed over.",
            {"num_attention_heads": "hidden_size"},
        ),
        Mistake("heads forgotten", "Every query head has scores of its own.", {"num_attention_heads": 1}),
        Mistake(
            "half of the square, for the mask",
            "Scores of future tokens are masked, but they take their place all the same.",
            {"times": 1 / 2},
        ),
        NO_BATCH,
        *bits_mistakes(formulas.attention_scores_bytes),
    ),
)


def _mlp_product_bytes(batch, seq_len, intermediate_size, bits):
    return 3 * (batch * seq_len * intermediate_size * bits // 8)


mlp_product_bytes = Exercise(
    "mlp_product_bytes",
    "Return the bytes of the wide MLP tensors alive while the activated gate is multiplied by up.",
    _mlp_product_bytes,
    MODELS,
    nudge="Count the tensors of width intermediate_size: those that are read at this instant, and the one being made.",
    mistakes=(
        Mistake("one wide tensor", "The two factors of the product are alive as well.", {"times": 1 / 3}),
        Mistake("two wide tensors", "The product is a third tensor beside its two factors.", {"times": 2 / 3}),
        Mistake("four wide tensors", "The gate is gone once it is activated.", {"times": 4 / 3}),
        Mistake(
            "4 * hidden_size in place of intermediate_size",
            "Older models are four times as wide as their hidden size, but these name their width.",
            lambda batch, seq_len, hidden_size, bits: _mlp_product_bytes(batch, seq_len, 4 * hidden_size, bits),
        ),
        NO_BATCH,
        *bits_mistakes(_mlp_product_bytes),
    ),
)


def _instants(model, batch, seq_len):
    """Three instants of a pass in 16 bit with their largest tensors (`instants`), and summed up (`totals`)."""
    case = model_case(model, batch, seq_len, 16)
    held = {"weights": formulas.tensor_bytes(case["n_params"], 16)}
    instants = {
        "attention": held | {"scores": call(formulas.attention_scores_bytes, case)},
        "mlp": held | dict.fromkeys(("gate", "up", "gated"), call(formulas.mlp_width_bytes, case)),
        "head": held | {"logits": call(formulas.logits_bytes, case)},
    }
    return {"totals": {instant: sum(parts.values()) for instant, parts in instants.items()}, "instants": instants}


def _peak_bytes(instants):
    return max(sum(parts.values()) for parts in instants.values())


def _sum_of_largest_parts(instants):
    parts = {part for instant in instants.values() for part in instant}
    return sum(max(instant.get(part, 0) for instant in instants.values()) for part in parts)


peak_bytes = Exercise(
    "peak_bytes",
    "Return the peak of a pass from the bytes alive at each of its instants.",
    _peak_bytes,
    (
        _instants("deepseek-r1-distill-qwen-7b", 4, 1024),
        _instants("llama-2-7b", 1, 4096),
        _instants("llama-1-65b", 8, 256),
    ),
    nudge="Which tensors are alive together, and at which instant do they take the most?",
    mistakes=(
        Mistake(
            "sum in place of the largest",
            "Instants follow each other, and the same memory serves them all.",
            lambda totals: sum(totals.values()),
        ),
        Mistake(
            "sum of the largest parts",
            "They are never alive together: add up within an instant first, then take the largest.",
            _sum_of_largest_parts,
        ),
        Mistake(
            "the largest tensor alone",
            "All tensors of an instant are alive together, so add them up.",
            lambda instants: max(max(parts.values()) for parts in instants.values()),
        ),
        Mistake(
            "weights left out",
            "They are alive at every instant, so they are part of the peak.",
            lambda instants: max(sum(parts.values()) - parts["weights"] for parts in instants.values()),
        ),
        Mistake("first instant", "More may be alive later.", lambda totals: next(iter(totals.values()))),
        Mistake("last instant", "More may have been alive earlier.", lambda totals: list(totals.values())[-1]),
    ),
    notebook="02",
)
