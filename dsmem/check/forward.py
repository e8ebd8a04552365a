"""Exercises of notebook 02: what is in memory during a forward pass."""

from dsmem import formulas
from dsmem.check.cases import MODELS, NO_BATCH, model_case
from dsmem.check.exercise import Exercise, Mistake, call
from dsmem.footprint.instants import Footprint

hidden_state_bytes = Exercise(
    "hidden_state_bytes",
    "Return the bytes of one hidden state: a vector of `hidden_size` for every token of the batch.",
    formulas.hidden_state_bytes,
    MODELS,
    (
        NO_BATCH,
        Mistake("one token only", "A prefill holds all seq_len tokens at once.", {"seq_len": 1}),
        Mistake("one for every layer", "It dies when the next layer's is made.", {"times": "num_hidden_layers"}),
    ),
)


logits_bytes = Exercise(
    "logits_bytes",
    "Return the bytes of the logits of all positions.",
    formulas.logits_bytes,
    MODELS,
    (
        Mistake(
            "hidden_size in place of vocab_size", "There is one logit for every word.", {"vocab_size": "hidden_size"}
        ),
        NO_BATCH,
        Mistake("last position only", "Asked for is every position, not only the last.", {"positions": 1}),
        Mistake("always float32", "Logits come in the format of the pass, until somebody copies them.", {"bits": 32}),
    ),
)


attention_scores_bytes = Exercise(
    "attention_scores_bytes",
    "Return the bytes of one layer's attention scores: one number per head, token and attended token.",
    formulas.attention_scores_bytes,
    MODELS,
    (
        Mistake("seq_len once", "Every token looks at every token, so the length counts squared.", {"key_len": 1}),
        Mistake(
            "key-value heads in place of heads",
            "Every query head has scores of its own, even where heads share their keys.",
            {"num_attention_heads": "num_key_value_heads"},
        ),
        Mistake(
            "hidden_size in place of heads",
            "A score is one number per head: head_dim is summed over.",
            {"num_attention_heads": "hidden_size"},
        ),
        NO_BATCH,
    ),
)


def _mlp_product_bytes(batch, seq_len, intermediate_size, bits):
    return 3 * formulas.mlp_width_bytes(batch, seq_len, intermediate_size, bits)


mlp_product_bytes = Exercise(
    "mlp_product_bytes",
    "Return the bytes of the wide MLP tensors alive while the activated gate is multiplied by up.",
    _mlp_product_bytes,
    MODELS,
    (
        Mistake("one wide tensor", "The two factors of the product are alive as well.", {"times": 1 / 3}),
        Mistake("two wide tensors", "The product is a third tensor beside its two factors.", {"times": 2 / 3}),
        Mistake("four wide tensors", "The gate is gone once it is activated.", {"times": 4 / 3}),
        Mistake(
            "4 * hidden_size in place of intermediate_size",
            "Four times as wide was the rule of older models; these name their width.",
            lambda batch, seq_len, hidden_size, bits: _mlp_product_bytes(batch, seq_len, 4 * hidden_size, bits),
        ),
        NO_BATCH,
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


def _sum_of_largest_parts(instants):
    parts = {part for instant in instants.values() for part in instant}
    return sum(max(instant.get(part, 0) for instant in instants.values()) for part in parts)


peak_bytes = Exercise(
    "peak_bytes",
    "Return the peak of a pass from the bytes alive at each of its instants.",
    lambda instants: Footprint(instants).total_bytes,
    (
        _instants("deepseek-r1-distill-qwen-7b", 4, 1024),
        _instants("llama-2-7b", 1, 4096),
        _instants("llama-1-65b", 8, 256),
    ),
    (
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
        Mistake("last instant", "The most may have come before.", lambda totals: list(totals.values())[-1]),
    ),
)
