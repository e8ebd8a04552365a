"""Shapes that cannot be: every size, count and pair of an architecture is refused by its name."""

import pytest
from decoders import CONFIGS

from dsmem import Architecture
from dsmem.config.architecture import _COUNTS, _POSITIVE

GROUPED, LATENT = (Architecture.from_config(CONFIGS[name]) for name in ("qwen3_moe", "v3"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts_per_tok": 9}, ("num_experts_per_tok=9", "at most 4")),
        ({"n_group": 3}, ("n_group=3", "n_routed_experts=8")),
        ({"v_head_dim": 64}, ("v_head_dim=64", "at most 20")),
        ({"qk_rope_head_dim": 7}, ("7", "even")),
        ({"kv_lora_rank": 0}, ("kv_lora_rank", "at least 1")),
    ],
)
def test_an_impossible_config_with_latents_and_experts_is_refused(change, words, refuses):
    refuses(lambda: Architecture.from_config(CONFIGS["v3"] | change), *words)


@pytest.mark.parametrize("value", [0, -2, 1.5, "8", True, None])
@pytest.mark.parametrize(
    ("arch", "field"),
    [(GROUPED, field) for field in _POSITIVE]
    + [(LATENT, field) for field in ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")]
    + [(LATENT, field) for field in ("v_head_dim", "num_experts_per_tok", "moe_intermediate_size")]
    + [(LATENT, field) for field in ("n_group", "topk_group")],
)
def test_a_size_that_cannot_be_is_refused_by_its_name(arch, field, value, refuses):
    if value is None and field in ("kv_lora_rank", "q_lora_rank"):
        return  # an architecture without that latent
    refuses(lambda: arch.scaled(**{field: value}), f"{field}={value!r}", "at least 1")


@pytest.mark.parametrize("value", [-1, 1.5, "8", True, None])
@pytest.mark.parametrize("field", _COUNTS)
def test_a_count_that_cannot_be_is_refused_by_its_name(field, value, refuses):
    for arch in (GROUPED, LATENT):
        refuses(lambda arch=arch: arch.scaled(**{field: value}), f"{field}={value!r}", "at least 0")


@pytest.mark.parametrize(
    ("arch", "change", "words"),
    [
        (GROUPED, {"num_key_value_heads": 3}, ("num_attention_heads=4", "num_key_value_heads=3", "multiple")),
        (GROUPED, {"num_key_value_heads": 8}, ("num_attention_heads=4", "num_key_value_heads=8", "multiple")),
        (GROUPED, {"head_dim": 15}, ("head_dim=15", "even")),
        (LATENT, {"head_dim": 16}, ("head_dim=16", "qk_rope_head_dim=8")),
        (LATENT, {"qk_rope_head_dim": 16}, ("head_dim=8", "qk_rope_head_dim=16")),
        (LATENT, {"num_key_value_heads": 2}, ("num_key_value_heads=2", "num_attention_heads=4")),
        (LATENT, {"topk_group": 1}, ("num_experts_per_tok=3", "at most 2")),
        (LATENT, {"hidden": 3}, ("field='hidden'", "hidden_size")),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(arch, change, words, refuses):
    refuses(lambda: arch.scaled(**change), *words)


def test_gemmas_layers_rotate_whole_heads(refuses):
    arch = Architecture.from_config("llama-2-7b")
    for field in ({"rotary_dim": 64}, {"joined_gate_up": True}, {"n_routed_experts": 8}):
        ((name, value),) = field.items()
        refuses(lambda field=field: arch.scaled(gemma_block=True, **field), f"{name}={value}", "gemma_block")
