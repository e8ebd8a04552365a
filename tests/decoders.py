"""Small models of every family that is read, ours beside transformers' with the same weights."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from dsmem import Architecture, build_model
from dsmem.model import checkpoint

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 61,
    "num_experts_per_tok": 3,
}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 12, "n_shared_experts": 2}
LATENT |= {"n_routed_experts": 8, "first_k_dense_replace": 1, "moe_intermediate_size": 40}
GLM = {"head_dim": 16, "n_routed_experts": 8, "n_shared_experts": 2, "moe_intermediate_size": 40}
GLM |= {"num_nextn_predict_layers": 0}
QWEN_MOE = {"head_dim": 16, "num_experts": 8, "moe_intermediate_size": 40}
# as many heads as make a score of exactly 0 rare: among equals the choice goes by the number of keys
INDEX = {"index_n_heads": 8, "index_head_dim": 20, "index_topk": 4}
MINICPM = {name: LATENT[name] for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")}
MINICPM |= {"num_key_value_heads": 6}
OSS = {"model_type": "gpt_oss", "head_dim": 16, "num_key_value_heads": 2, "num_local_experts": 8, "sliding_window": 4}
OSS |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}  # without a word its class stretches them
CONFIGS = {
    "v3": {"model_type": "deepseek_v3", "q_lora_rank": 24, "n_group": 4, "topk_group": 2, **LATENT},
    "v3, pairs side by side": {
        "model_type": "deepseek_v3",
        "rope_interleave": False,
        "n_group": 1,
        "topk_group": 1,
        **LATENT,
    },
    "v3, no query latent": {"model_type": "deepseek_v3", "q_lora_rank": None, "n_group": 2, "topk_group": 1, **LATENT},
    "v2": {"model_type": "deepseek_v2", "q_lora_rank": 24, **LATENT},
    "v2, groups": {
        "model_type": "deepseek_v2",
        "q_lora_rank": None,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 1.5,
        **LATENT,
    },
    "v2 with biases": {
        "model_type": "deepseek_v2",
        "attention_bias": True,
        "mlp_bias": True,
        "q_lora_rank": 24,
        **LATENT,
    },
    "v3 with biases": {
        "model_type": "deepseek_v3",
        "attention_bias": True,
        "q_lora_rank": 24,
        "n_group": 4,
        "topk_group": 2,
        **LATENT,
    },
    "v3.2": {"model_type": "deepseek_v32", "q_lora_rank": 24, "n_group": 4, "topk_group": 2, **INDEX, **LATENT},
    "v3.2, fewer tokens than keys to choose": {
        "model_type": "deepseek_v32",
        "q_lora_rank": 24,
        "n_group": 1,
        "topk_group": 1,
        "attention_bias": True,
        **INDEX,
        "index_topk": 50,
        **LATENT,
    },
    "glm-4.7 flash": {"model_type": "glm4_moe_lite", "q_lora_rank": 24, **LATENT},
    "glm-5.2": {
        "model_type": "glm_moe_dsa",
        "q_lora_rank": 24,
        **INDEX,
        "indexer_types": ["full", "shared", "shared"],
        **LATENT,
    },
    "glm-5": {"model_type": "glm_moe_dsa", "q_lora_rank": 24, "mlp_bias": True, **INDEX, **LATENT},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 8, "num_key_value_heads": 2},
    "minimax_m2": {
        "model_type": "minimax_m2",
        "head_dim": 16,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "rotary_dim": 8,
    },
    "minimax_m2, all rotated": {"model_type": "minimax_m2", "head_dim": 10, "num_local_experts": 8},
    "gpt_oss": {**OSS, "swiglu_limit": 0.5},
    "gpt_oss, square experts, all slide, no biases of attention": {
        **OSS,
        "intermediate_size": 64,
        "layer_types": ["sliding_attention"] * 3,
        "attention_bias": False,
    },
    "gpt_oss, experts twice as narrow": {**OSS, "intermediate_size": 32, "swiglu_alpha": 0.7, "num_key_value_heads": 4},
    "glm4_moe": {"model_type": "glm4_moe", "num_key_value_heads": 2, **GLM},
    "glm4_moe with norms and biases": {
        "model_type": "glm4_moe",
        "use_qk_norm": True,
        "attention_bias": True,
        "partial_rotary_factor": 0.25,
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 1.5,
        **GLM,
    },
    "qwen2_moe": {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 72, **QWEN_MOE},
    "qwen2_moe, some dense, no biases": {
        "model_type": "qwen2_moe",
        "qkv_bias": False,
        "norm_topk_prob": True,
        "shared_expert_intermediate_size": 24,
        "mlp_only_layers": [1],
        **QWEN_MOE,
    },
    "qwen3_moe": {"model_type": "qwen3_moe", "norm_topk_prob": True, **QWEN_MOE},
    "qwen3_moe that slides": {"model_type": "qwen3_moe", "use_sliding_window": True, "sliding_window": 4, **QWEN_MOE},
    "mixtral that slides": {"model_type": "mixtral", "num_local_experts": 8, "sliding_window": 4},
    "qwen3_moe, some dense": {"model_type": "qwen3_moe", "mlp_only_layers": [1], **QWEN_MOE},
    "qwen3_moe, every second": {"model_type": "qwen3_moe", "decoder_sparse_step": 2, **QWEN_MOE},
}
DENSE_SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
IDS = {"pad_token_id": 0, "eos_token_id": 2}  # Phi-3's own are beyond a small vocabulary
DENSE_CONFIGS = {
    "minicpm3": {"model_type": "minicpm3", "q_lora_rank": 24, "dim_model_base": 40, **MINICPM},
    "minicpm3, no query latent": {
        "model_type": "minicpm3",
        "q_lora_rank": None,
        "mlp_bias": True,
        "scale_depth": None,
        "dim_model_base": None,
        **MINICPM,
    },
    "llama": {"model_type": "llama"},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama, all heads apart": {"model_type": "llama", "num_key_value_heads": 6},
    "llama, one key head": {"model_type": "llama", "num_key_value_heads": 1},
    "llama, tied, another base": {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 500_000.0},
    "mistral": {"model_type": "mistral", "head_dim": 12, "sliding_window": None},
    "mistral that slides": {"model_type": "mistral", "head_dim": 12, "sliding_window": 4},
    "phi3": {"model_type": "phi3", **IDS},
    "phi3, rotated in part": {"model_type": "phi3", "num_key_value_heads": 6, "partial_rotary_factor": 0.5, **IDS},
    "qwen2": {"model_type": "qwen2"},
    "qwen2, its upper layers slide": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen2, tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3, its lower layers slide": {
        "model_type": "qwen3",
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3 with biases": {"model_type": "qwen3", "head_dim": 10, "attention_bias": True},
}
GPT_SIZES = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 32, "vocab_size": 61}
OPT_SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 80, "vocab_size": 61}
OPT_SIZES |= {"word_embed_proj_dim": 48, "max_position_embeddings": 32}
GPT_CONFIGS = {
    "gpt2": {"model_type": "gpt2", **GPT_SIZES},
    "gpt2, head apart": {"model_type": "gpt2", "tie_word_embeddings": False, **GPT_SIZES},
    "gpt2, narrow": {"model_type": "gpt2", "n_inner": 40, "activation_function": "gelu", **GPT_SIZES},
    "gpt2, scores not divided": {"model_type": "gpt2", "scale_attn_weights": False, **GPT_SIZES},
    "gpt2, scores by layer": {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True, **GPT_SIZES},
    "opt": {"model_type": "opt", **OPT_SIZES},
    "opt, no biases": {"model_type": "opt", "enable_bias": False, "activation_function": "gelu", **OPT_SIZES},
}
CONFIGS = {name: SIZES | config for name, config in CONFIGS.items()}
CONFIGS |= {name: DENSE_SIZES | config for name, config in DENSE_CONFIGS.items()}
CONFIGS |= GPT_CONFIGS
GEMMA_SIZES = {name: size for name, size in SIZES.items() if "expert" not in name and "moe" not in name}
GEMMA_SIZES |= {"head_dim": 16, "num_key_value_heads": 2, "num_hidden_layers": 4, "sliding_window": 4}
CONFIGS |= {
    "gemma2": {"model_type": "gemma2", "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0, **GEMMA_SIZES},
    "gemma2, nothing capped": {
        "model_type": "gemma2",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": True,
        **GEMMA_SIZES,
    },
    "gemma3": {"model_type": "gemma3_text", "sliding_window_pattern": 3, "query_pre_attn_scalar": 16, **GEMMA_SIZES},
}
TEXT_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
VISION = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 48}
VISION |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
SECTIONS = {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
WHOLES = {
    "qwen3_vl": ("qwen3_vl", {"model_type": "qwen3_vl_text", "head_dim": 16}, {"tie_word_embeddings": True}),
    "qwen3_vl, with biases": ("qwen3_vl", {"model_type": "qwen3_vl_text", "head_dim": 10, "attention_bias": True}, {}),
    "qwen3_vl_moe": ("qwen3_vl_moe", {"model_type": "qwen3_vl_moe_text", **TEXT_EXPERTS}, {}),
    "qwen2_5_vl": ("qwen2_5_vl", {"model_type": "qwen2_5_vl_text", **SECTIONS}, {}),
}
CONFIGS |= {
    name: {"model_type": whole, "text_config": DENSE_SIZES | text, "vision_config": VISION, **outer}
    for name, (whole, text, outer) in WHOLES.items()
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
TOKENS = torch.randint(61, (2, 11), generator=torch.Generator().manual_seed(5))


def transformers_model(config, dtype=torch.float32):
    """transformers' model with random weights, norms and router biases included."""
    torch.manual_seed(7)
    auto = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    model = auto.from_config(AutoConfig.for_model(**config), dtype=dtype).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.add_((0.05 if "experts" in name else 0.2) * torch.randn_like(tensor))
    return model


def theirs_and_ours(config, weights="fp32", **options):
    """transformers' model in float32, and ours of the same weights, rounded as `build_model` is told."""
    config = config | {"num_nextn_predict_layers": 0} if "kv_lora_rank" in config else config
    theirs = transformers_model(config)
    ours = build_model(Architecture.from_config(config), weights=weights, device="cpu", **options)
    checkpoint.fill_from(ours, theirs.state_dict())
    return theirs, ours


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
