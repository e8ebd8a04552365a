"""Small configs of many families, as their config.json would spell them, for transformers' own code."""

BASE = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 120,
    "pad_token_id": 0,
    "dtype": "bfloat16",
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10}
LATENT |= {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT |= {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 8}
INDEXED = LATENT | {"index_head_dim": 16, "index_n_heads": 4, "index_topk": 4}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8}
VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
SIGLIP = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def small(model_type, *parts, layers=3, **changes):
    """A dict of `BASE` with `parts` and `changes` over it; a key that is None there is left out."""
    merged = BASE | {"model_type": model_type, "num_hidden_layers": layers}
    for part in (*parts, changes):
        merged |= part
    return {key: value for key, value in merged.items() if value is not None}


def configs(layers=3):
    """{model_type: config} of that many layers, a multiple of 3: what alternates does so in threes."""

    def one(model_type, *parts, **changes):
        return small(model_type, *parts, layers=layers, **changes)

    linear = LINEAR | {"layer_types": ["linear_attention", "linear_attention", "full_attention"] * (layers // 3)}
    sliding = {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * (layers // 3),
    }
    per_layer = {"vocab_size_per_layer_input": 120, "hidden_size_per_layer_input": 8, "global_head_dim": 16}
    chunked = {"num_local_experts": 4, "intermediate_size_mlp": 96, "interleave_moe_layer_step": 1}
    chunked |= {"attention_chunk_size": 8, "no_rope_layers": [1, 1, 0] * (layers // 3)}
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": layers, "n_head": 4, "n_positions": 64, "vocab_size": 120}
    opt = dict.fromkeys(("num_key_value_heads", "head_dim", "intermediate_size"))
    dense_first = {"mlp_layer_types": ["dense"] + ["sparse"] * (layers - 1)}
    found = [
        one("mixtral", num_local_experts=8, num_experts_per_tok=2),
        one("phi3", head_dim=None),
        one("falcon", head_dim=None, num_key_value_heads=None, multi_query=True, new_decoder_architecture=False),
        one("opt", opt, ffn_dim=96, word_embed_proj_dim=64, max_position_embeddings=64),
        gpt2,
        one("gemma2", sliding),
        one("qwen2_moe", EXPERTS, shared_expert_intermediate_size=32),
        one("qwen3_next", EXPERTS, linear, shared_expert_intermediate_size=32),
        one("gpt_oss", sliding, num_local_experts=8, num_experts_per_tok=2),
        one("minimax_m2", num_local_experts=8, num_experts_per_tok=2, rotary_dim=8),
        one("glm4_moe", EXPERTS, num_experts=None, n_routed_experts=8, n_shared_experts=1, n_group=1, topk_group=1),
        one("deepseek_v3", LATENT),
        one("deepseek_v32", INDEXED),
        one("glm_moe_dsa", INDEXED, dense_first),
        one("nemotron_h", MAMBA, hybrid_override_pattern="M-*" * (layers // 3)),
        one("llama4_text", chunked),
        {"model_type": "qwen3_5", "text_config": one("qwen3_5_text", linear), "vision_config": VISION},
        {"model_type": "qwen3_vl", "text_config": one("qwen3_vl_text"), "vision_config": VISION},
        {
            "model_type": "gemma4",
            "text_config": one("gemma4_text", sliding, per_layer),
            "vision_config": SIGLIP | {"head_dim": 16, "num_key_value_heads": 2},
        },
        {"model_type": "gemma3", "text_config": one("gemma3_text", sliding), "vision_config": SIGLIP},
    ]
    return {config["model_type"]: config for config in found}


SMALL = configs()
"""One config of each family with three layers, by its model_type."""

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
"""A Llama that trains in a moment."""

TINY_LATENT = TINY | {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 40,
    "num_nextn_predict_layers": 0,
}
"""The same with latent attention, and experts in its second layer."""
