"""Small models of the DeepSeek and Qwen3 families, ours beside transformers' with the same weights."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dsmem import Architecture, build_model
from dsmem.model import checkpoint

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "moe_intermediate_size": 40,
    "vocab_size": 61,
    "num_experts_per_tok": 3,
}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 12, "n_shared_experts": 2}
LATENT |= {"n_routed_experts": 8, "first_k_dense_replace": 1}
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
    "qwen3_moe": {"model_type": "qwen3_moe", "head_dim": 16, "num_experts": 8, "norm_topk_prob": True},
    "qwen3_moe, some dense": {"model_type": "qwen3_moe", "head_dim": 16, "num_experts": 8, "mlp_only_layers": [1]},
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
TOKENS = torch.randint(61, (2, 11), generator=torch.Generator().manual_seed(5))


def theirs_and_ours(config):
    """transformers' model with random weights, norms and router biases included, and ours with the same, in float32."""
    config = SIZES | config | {"num_nextn_predict_layers": 0}
    torch.manual_seed(7)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            tensor.add_((0.05 if "experts" in name else 0.2) * torch.randn_like(tensor))
    ours = build_model(Architecture.from_config(config), weights="fp32", device="cpu")
    checkpoint.fill_from(ours, theirs.state_dict())
    return theirs, ours


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
