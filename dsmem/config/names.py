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
WORDS = {"gpt2": _GPT2, "opt": _OPT}
"""{model_type: {a word of the kit's name of a tensor: the family's word}}."""

PREFIXES = {"gpt2": "", "opt": "model.decoder."}
"""What stands before a tensor's name in a published file, "model." elsewhere; the head has no prefix."""

TURNED = ("gpt2",)
"""Families whose linear layers lie as (in_features, out_features), the head apart: transformers' Conv1D."""


def published_name(model_type: str, name: str) -> str:
    """The name in a published file of the tensor, or part, that the kit's decoder calls `name`.

    >>> published_name("gpt2", "layers.3.mlp.down_proj.weight"), published_name("llama", "norm.weight")
    ('h.3.mlp.c_proj.weight', 'model.norm.weight')
    """
    words = WORDS.get(model_type, {})
    spelled = ".".join(filter(None, (words.get(word, word) for word in name.split("."))))
    return spelled if name.startswith("lm_head") else PREFIXES.get(model_type, "model.") + spelled
