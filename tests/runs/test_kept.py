"""What a step's forward keeps, in our code and in transformers', beside the formula and what is known of it."""

import pytest

import dsmem
from dsmem.footprint.training.step import training_footprint
from dsmem.runs.kept import kept_for_backward

SEVEN = dsmem.Architecture.of("mistral-7b-v0.3").scaled(num_hidden_layers=3)
WIDE = SEVEN.intermediate_size / SEVEN.hidden_size  # 3.5 copies
SHARED = SEVEN.num_key_value_heads / SEVEN.num_attention_heads  # a quarter


def copies(kept):
    (name,) = (layer for layer in kept.layers if layer.endswith("layers.1"))
    return kept.layers[name] / kept.copy_bytes


def test_a_layer_keeps_twenty_copies_and_a_half_and_transformers_norms_four_more():
    # inputs of two norms and what they give, queries, what the heads give, keys and values; four as wide as the MLP
    ours = copies(kept_for_backward(SEVEN, seq_len=1024))
    assert ours == pytest.approx(6 + 2 * SHARED + 4 * WIDE, abs=0.02)
    theirs = copies(kept_for_backward(SEVEN, seq_len=1024, code="transformers"))
    assert theirs - ours == pytest.approx(4, abs=0.01)  # both norms keep their input in float32 beside its product


def test_with_full_checkpointing_a_layer_keeps_its_input():
    assert copies(kept_for_backward(SEVEN, seq_len=64, training={"checkpointing": "full"})) == 1


@pytest.mark.parametrize("attention", ["fused", "eager"])
def test_it_is_what_the_formula_has_at_the_end_of_forward(attention):
    kept = kept_for_backward(SEVEN, batch=2, seq_len=64, attention=attention)
    fp = training_footprint(SEVEN, batch=2, seq_len=64, attention=attention)
    end = fp.instants["end of forward"]
    always = ("weights", "buffers", "token_ids", "optimizer_states", "step_counts", "loss")
    assert kept.total_bytes == pytest.approx(sum(n for part, n in end.items() if part not in always), rel=0.01)


def test_another_code_is_refused(refuses):
    refuses(lambda: kept_for_backward(SEVEN, code="vllm"), "code='vllm'", "transformers")
