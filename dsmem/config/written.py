"""Write an `Architecture` as a `config.json` dict: what a reader of such files, transformers too, builds it from."""

import dataclasses
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.families import FAMILIES
from dsmem.config.windows import FULL, SLIDING

# no config spells these so
_OURS = (
    "name",
    "apart",
    "stored",
    "qkv_bias",
    "o_bias",
    "qk_norm",
    "qk_norm_type",
    "attention_sinks",
    "expert_bias",
    "gemma_block",
    "rotary_dim",
    "joined_qkv",
    "joined_gate_up",
    "rope_scaling",
    "head",
    "num_labels",
    "score_bias",
)
_ALWAYS = ("tie_word_embeddings", "num_nextn_predict_layers")  # whatever a class puts in place of an absent key


# {key of a config: the field that it says}
_GPT = {"model_type": "model_type", "vocab_size": "vocab_size", "tie_word_embeddings": "tie_word_embeddings"}
_GPT |= {"max_position_embeddings": "learned_positions", "activation_function": "hidden_act"}
_GPT |= {name: name for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
_SCALES = ("layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx")
_GPT2 = _GPT | {"n_inner": "intermediate_size"} | {name: name for name in _SCALES}
_OPT = _GPT | {"ffn_dim": "intermediate_size", "enable_bias": "qkv_bias"}


def config_of(arch: Architecture) -> dict[str, Any]:
    """The `config.json` dict of `arch`; `Architecture.from_config` reads the same architecture from it.

    Parts beside the language model, and how weights are stored, are left out. Raises ValueError for fields that no
    config of its family can say.

    >>> arch = Architecture.from_config("llama-2-7b").scaled(intermediate_size=5504)
    >>> Architecture.from_config(config_of(arch)) == arch
    True
    """
    if arch.gpt_block:
        config = _gpt(arch) | _head(arch)
    else:
        config = _plain_fields(arch) | _rope(arch) | _head(arch) | _FAMILY_KEYS.get(arch.model_type, _dense)(arch)
    arch = arch.scaled(apart=(), stored="")
    try:
        read = Architecture.from_config(config)
    except ValueError as error:
        raise ValueError(f"arch={arch.name!r} is not written as a {arch.model_type} config: {error}") from None
    for field in dataclasses.fields(arch):
        if (value := getattr(arch, field.name)) != getattr(read, field.name):
            raise ValueError(
                f"{field.name}={value!r} is not something that a {arch.model_type} config can say; "
                f"it must be {getattr(read, field.name)!r} in that family"
            )
    return config


def _plain_fields(arch):
    """The fields that a config has under their own name, or under the first other spelling of the family."""
    family = FAMILIES[arch.model_type]
    spelled = {name: key for key, name in reversed(family.aliases.items())}
    config = {"_name_or_path": arch.name}
    for field in dataclasses.fields(arch):
        value = getattr(arch, field.name)
        needed = value != field.default or field.name in family.defaults or field.name in _ALWAYS
        if needed and field.name not in _OURS:
            config[spelled.get(field.name, field.name)] = list(value) if isinstance(value, tuple) else value
    return config


def _rope(arch):
    """Rotary scaling as earlier releases spell it, which all of them read."""
    if not arch.rope_scaling:
        return {}
    scaling = dict(arch.rope_scaling)
    return {"rope_scaling": {key: list(v) if isinstance(v, tuple) else v for key, v in scaling.items()}}


def _head(arch):
    """The class that `architectures` would name, where what stands on the decoder is not a language model's head."""
    if arch.head == "lm_head":
        return {}
    family = arch.model_type.title().replace("_", "")
    if arch.head == "none":
        return {"architectures": [f"{family}Model"]}
    # the class for tokens has a bias, and the one for sequences none
    kind = "ForTokenClassification" if arch.score_bias else "ForSequenceClassification"
    return {"architectures": [family + kind], "id2label": {str(i): f"LABEL_{i}" for i in range(arch.num_labels)}}


def _dense(arch):
    return {"attention_bias": arch.qkv_bias}


def _windowed(arch):
    """Qwen's: a switch says whether layers slide, and a number which of them."""
    own = {"qwen2": {}, "qwen2_5_vl_text": {}, "qwen2_moe": {"qkv_bias": arch.qkv_bias}}
    bias = own.get(arch.model_type, _dense(arch))
    if arch.sliding_window is None:
        return bias
    return bias | {"use_sliding_window": True, "max_window_layers": 0, "layer_types": _kinds(arch)}


def _kinds(arch):
    """Which layers slide, by name."""
    return [SLIDING if arch.slides(index) else FULL for index in range(arch.num_hidden_layers)]


def _gemma(arch):
    return _dense(arch) | {"layer_types": _kinds(arch)}


def _mistral(arch):
    return {"sliding_window": arch.sliding_window}


def _mixtral(arch):
    # all layers are mixtures, so the one width is that of an expert, and a choice is always normed
    return {"intermediate_size": arch.moe_intermediate_size, "moe_intermediate_size": None, "norm_topk_prob": None}


def _minimax_m2(arch):
    return _mixtral(arch) | {"rotary_dim": arch.rotary_dim}


def _gpt_oss(arch):
    # without a word its class stretches the angles
    plain = {} if arch.rope_scaling else {"rope_parameters": {"rope_type": "default", "rope_theta": arch.rope_theta}}
    return _dense(arch) | _mixtral(arch) | {"layer_types": _kinds(arch)} | plain


def _phi3(arch):
    partial = arch.rotated_dim / arch.head_dim
    # its own padding token is beyond a vocabulary that was made smaller
    return _mistral(arch) | {"partial_rotary_factor": partial, "pad_token_id": None}


def _glm4_moe(arch):
    partial = arch.rotated_dim / arch.head_dim
    return _dense(arch) | {"use_qk_norm": arch.qk_norm, "partial_rotary_factor": partial}


def _deepseek_v2(arch):
    grouped = {"topk_method": "group_limited_greedy", "n_group": arch.n_group, "topk_group": arch.topk_group}
    # its heads are always rotated in neighbouring pairs, and its config has no word for that
    return _dense(arch) | {"rope_interleave": None} | (grouped if arch.n_group > 1 else {"topk_method": "greedy"})


def _gpt(arch):
    """GPT-2 and OPT, each of which spells its sizes in its own way."""
    fields = _GPT2 if arch.model_type == "gpt2" else _OPT
    return {"_name_or_path": arch.name} | {key: getattr(arch, field) for key, field in fields.items()}


_FAMILY_KEYS = {
    "mistral": _mistral,
    "gemma2": _gemma,
    "gemma3_text": _gemma,
    "mixtral": _mixtral,
    "minimax_m2": _minimax_m2,
    "gpt_oss": _gpt_oss,
    "phi3": _phi3,
    "glm4_moe": _glm4_moe,
    "qwen2": _windowed,
    "qwen2_moe": _windowed,
    "qwen2_5_vl_text": _windowed,
    "qwen3": _windowed,
    "qwen3_moe": _windowed,
    "deepseek_v2": _deepseek_v2,
}
