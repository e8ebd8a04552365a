"""Folded passes against the same passes through all layers, event by event; and what is not folded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_configs import configs

from dsmem import Workload, measure
from dsmem.memory.unfold import Repeats
from dsmem.model import folding, library
from dsmem.runs.folded import fold

LONG = configs(15)
GLM_5 = {
    "model_type": "glm_moe_dsa",
    "num_hidden_layers": 78,
    "hidden_size": 6144,
    "intermediate_size": 12288,
    "moe_intermediate_size": 2048,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "vocab_size": 154880,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "index_n_heads": 32,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
}


def both(config, work):
    """The run folded and the run of all layers."""
    return (measure(config, work, code="transformers", fold=fold) for fold in (True, False))


def stream(ledger):
    """Every birth and death of more than a number, in order."""
    events = [(r.op, r.module, r.shape, r.dtype, r.category, sign * r.nbytes) for r, sign in ledger.events]
    return [event for event in events if abs(event[-1]) > 8]


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v32", "gemma2", "qwen3_5"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_folded_pass_is_the_pass_of_all_layers(name, phase):
    folded, whole = both(LONG[name], Workload(1, 20, phase, weights="bf16"))
    assert any("of 15 layers ran" in note for note in folded.notes)
    assert not any("layers ran" in note for note in whole.notes)
    assert stream(folded.ledger) == stream(whole.ledger)
    assert folded.ledger.peak_bytes == whole.ledger.peak_bytes
    assert folded.ledger.by_category() == whole.ledger.by_category()
    assert folded.replay.peak_reserved_bytes == whole.replay.peak_reserved_bytes
    assert folded.cache == whole.cache


@settings(max_examples=4)
@given(st.integers(9, 11), st.integers(0, 3), st.integers(1, 9), st.sampled_from(["prefill", "decode"]))
def test_any_number_of_layers_behind_any_number_of_dense_ones(layers, dense, tokens, phase):
    config = LONG["deepseek_v3"] | {"num_hidden_layers": layers, "first_k_dense_replace": dense}
    folded, whole = both(config, Workload(2, tokens, phase, weights="fp32"))
    assert stream(folded.ledger) == stream(whole.ledger) and folded.cache == whole.cache


def test_glm_5_at_its_real_size():
    run = measure(GLM_5, seq_len=512, weights="bf16", code="transformers")
    assert run.ledger.by_category()["weight"] == 2 * 743_911_199_232
    assert sum(run.cache.values()) == 512 * 109_824


# What is not folded


def module(config):
    with torch.device("meta"):
        return library.build(library.read(config), "bf16", "sdpa")


def test_layers_that_all_differ_are_not_folded():
    types = ["full_attention" if index in (1, 2, 4, 8) else "sliding_attention" for index in range(15)]
    config = LONG["gemma2"] | {"layer_types": types}
    built = module(config)
    assert fold(built) is None and len(built.model.layers) == 15
    run = measure(config, seq_len=8, code="transformers")
    assert any(note.startswith("All 15 layers ran") for note in run.notes)


@pytest.mark.parametrize(
    ("name", "changes", "repeats"),
    [
        ("mixtral", {}, (0, 1)),
        ("deepseek_v3", {"first_k_dense_replace": 2}, (2, 1)),
        ("gemma2", {}, (0, 3)),
        ("gemma2", {"layer_types": ["full_attention"] * 3 + ["sliding_attention", "full_attention"] * 6}, (2, 2)),
    ],
)
def test_the_repetition_is_found(name, changes, repeats):
    built = module(LONG[name] | changes)
    assert folding.repetition(built, folding.decoder_layers(built)[1]) == repeats


def test_layers_that_look_alike_and_do_not_run_alike_run_all(monkeypatch):
    """A layer that looks at its own number to decide what to do: nothing that it is made of says so."""
    from transformers.models.mixtral.modeling_mixtral import MixtralDecoderLayer

    forward = MixtralDecoderLayer.forward

    def odd(self, hidden_states, *args, **kwargs):
        extra = hidden_states.float() if self.self_attn.layer_idx == 2 else None
        return forward(self, hidden_states, *args, **kwargs) if extra is None else hidden_states + extra.bfloat16()

    monkeypatch.setattr(MixtralDecoderLayer, "forward", odd)
    folded, whole = both(LONG["mixtral"], Workload(1, 20, weights="bf16"))
    assert not any("layers ran" in note for note in folded.notes)
    assert stream(folded.ledger) == stream(whole.ledger)


def test_the_numbers_of_a_repetition():
    repeats = Repeats("model.layers", layers=62, first=2, period=6)
    assert (repeats.kept, repeats.copies) == (2 + 18 + 0, 7)
