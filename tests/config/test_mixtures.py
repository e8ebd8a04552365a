"""Mixtures of experts as they are published: their counts, the parameters that a token passes through, their caches."""

import pytest

from dsmem import Architecture
from dsmem.footprint.stored import cache_bytes

MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32_000,
    "sliding_window": None,
}
QWEN2_57B = {
    "model_type": "qwen2_moe",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18_944,
    "moe_intermediate_size": 2560,
    "shared_expert_intermediate_size": 20_480,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "vocab_size": 151_936,
    "norm_topk_prob": False,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
MINIMAX = {
    "model_type": "minimax_m2",
    "hidden_size": 3072,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 1536,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
    "vocab_size": 200_064,
    "rotary_dim": 64,
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "use_mtp": True,
    "num_mtp_modules": 3,
    "mtp_transformer_layers": 1,
}
GLM_AIR = {
    "model_type": "glm4_moe",
    "hidden_size": 4096,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 10_944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "attention_bias": True,
    "use_qk_norm": False,
    "partial_rotary_factor": 0.5,
    "vocab_size": 151_552,
    "num_nextn_predict_layers": 1,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "intermediate_size": 2880,
    "vocab_size": 201_088,
}
PUBLISHED = {  # all parameters, those of one token, bytes that a token takes in a cache of 16 bit
    "mixtral": (MIXTRAL, 46_702_792_704, 12_879_925_248, 131_072),
    "minimax_m2": (MINIMAX, 228_689_748_992, 11_030_537_216, 253_952),
    "glm4_moe": (GLM_AIR, 106_852_245_504, 13_424_123_904, 188_416),
    "gpt_oss": (GPT_OSS, 116_829_156_672, 5_711_982_912, 73_728),
    "qwen2_moe": (QWEN2_57B, 57_408_658_944, 14_249_270_784, 57_344),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_mixture_has_its_published_counts_and_its_cache(name):
    config, n_params, n_active, per_token = PUBLISHED[name]
    arch = Architecture.from_config(config)
    assert (arch.n_params, arch.n_active_params) == (n_params, n_active)
    assert cache_bytes(arch, seq_len=1, weights="bf16") == {"kv_cache": per_token}


@pytest.mark.parametrize(("last", "slides"), [(0, False), (1, True), (28, True)])
def test_every_second_layer_of_a_qwen2_mixture_may_slide(last, slides):
    config = QWEN2_57B | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": last}
    assert Architecture.from_config(config).sliding_window == (64 if slides else None)
