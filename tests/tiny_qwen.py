"""A Qwen2 of three layers: its config, ours of it, and transformers' model of it."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dsmem import Architecture

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
ARCH = Architecture.from_config(CONFIG)


def transformers_model(attention="sdpa"):
    config = AutoConfig.for_model(**CONFIG)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float16, attn_implementation=attention).eval()
