"""What a family's files call the parts of a decoder, where they say otherwise than the kit (and most families) does."""

_GPT2 = {
    "layers": "h",
    "embed_tokens": "wte",
    "embed_positions": "wpe",
    "input_layernorm": "ln_1",
    "self_attn": "attn",
    "qkv_proj": "c_attn",
    "o_proj": "c_proj",
    "post_attention_layernorm": "ln_2",
    "up_proj": "c_fc",
    "down_proj": "c_proj",
    "norm": "ln_f",
}
_OPT = {
    "input_layernorm": "self_attn_layer_norm",
    "o_proj": "out_proj",
    "post_attention_layernorm": "final_layer_norm",
    "mlp": "",  # its matrices stand in the layer itself
    "up_proj": "fc1",
    "down_proj": "fc2",
    "norm": "final_layer_norm",
}
_MIXTRAL = {"mlp": "block_sparse_moe", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_QWEN2_MOE = {"shared_experts": "shared_expert"}
_GPT_OSS = {"gate": "router"}
WORDS = {"gpt2": _GPT2, "opt": _OPT, "mixtral": _MIXTRAL, "minimax_m2": _MIXTRAL, "qwen2_moe": _QWEN2_MOE}
WORDS |= {"gpt_oss": _GPT_OSS}
"""{model_type: {a word of the kit's name of a tensor: the family's word}}."""

PREFIXES = {
    "gpt2": "",
    "opt": "model.decoder.",
    "qwen3_vl_text": "model.language_model.",
    "qwen3_vl_moe_text": "model.language_model.",
}
"""What stands before a tensor's name in a published file, "model." elsewhere; the head has no prefix."""

BESIDE = ("visual.",)
"""How the names of tensors begin that belong to the parts beside a language model."""

TURNED = ("gpt2",)
"""Families whose linear layers lie as (in_features, out_features), the head apart: transformers' Conv1D."""

OUTSIDE = ("minimax_m2",)
"""Families whose router's bias lies beside the router, not in it."""

STACKED = ("qwen3_vl_moe_text", "gpt_oss")
"""Families whose files hold the experts of a layer as one tensor, (experts, in_features, out_features)."""

TURNED_STACKS = ("gpt_oss",)
"""Those of them that lie so in transformers, too, where a square matrix does not show it."""


def published_name(model_type: str, name: str) -> str:
    """The name in a published file of the tensor, or part, that the kit's decoder calls `name`.

    >>> published_name("gpt2", "layers.3.mlp.down_proj.weight"), published_name("llama", "norm.weight")
    ('h.3.mlp.c_proj.weight', 'model.norm.weight')
    """
    if model_type in OUTSIDE:
        name = name.replace(".gate.e_score", ".e_score")
    words = WORDS.get(model_type, {})
    spelled = ".".join(filter(None, (words.get(word, word) for word in name.split("."))))
    return spelled if name.startswith(("lm_head", "score")) else PREFIXES.get(model_type, "model.") + spelled


def kit_name(model_type: str, name: str) -> str:
    """The kit's name of a tensor that a file, or transformers, calls `name`; see `has_one_meaning`.

    name: without the part before the decoder's own. A name that is the kit's stays as it is.

    >>> kit_name("mixtral", "layers.0.block_sparse_moe.experts.3.w2.weight")
    'layers.0.mlp.experts.3.down_proj.weight'
    """
    ours = {theirs: word for word, theirs in WORDS.get(model_type, {}).items()}
    spelled = ".".join(ours.get(word, word) for word in name.split("."))
    return spelled.replace(".mlp.e_score", ".mlp.gate.e_score") if model_type in OUTSIDE else spelled


def has_one_meaning(model_type: str) -> bool:
    """Whether each word of the family stands for one of the kit's, so that `kit_name` knows it by itself."""
    words = WORDS.get(model_type, {})
    return len(set(words.values())) == len(words)
