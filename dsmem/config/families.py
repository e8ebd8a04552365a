"""Read a Hugging Face `config.json`: one function per family says how it spells its shape.

A key that is absent takes the value that transformers' config class puts in its place; an alias of the class's
`attribute_map` is that key. A family that is not listed, a head that is not the language model's, and a key that may
move a byte and is not read are refused by name, never guessed.
"""

import json
from pathlib import Path
from typing import Any

from dsmem.config.keys import Keys
from dsmem.units import whole_number

MOST_LAYERS = 10_000

_PACKAGE = Path(__file__).parents[1]
DATA = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent / "data"


def read(source: Any) -> dict[str, Any]:
    """The fields of an `Architecture` that `source` describes, as a dict; source and errors: see its `from_config`."""
    name, config = _load(source)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ValueError(f"model_type={family!r} is not read; allowed: {', '.join(_FAMILIES)}")
    _check_head(config)
    keys = Keys(config, family, _ALIASES.get(family, {}), _DEFAULTS.get(family, {}))
    fields = {"name": name, "model_type": family} | _common(keys) | _FAMILIES[family](keys)
    keys.finish()
    return fields


def model_names() -> list[str]:
    """Names in `data/models` that `Architecture.from_config` takes, in alphabetical order."""
    return sorted(path.stem for path in (DATA / "models").glob("*.json"))


def _load(source):
    """Name and config dict behind any of the forms that `from_config` takes."""
    if hasattr(source, "to_dict"):
        source = source.to_dict()
    if isinstance(source, dict):
        return str(source.get("_name_or_path") or source.get("model_type") or "model"), source
    if not isinstance(source, (str, Path)):
        raise ValueError(
            f"source={source!r} is not a config; it must be a dict, a path or a known model: {', '.join(model_names())}"
        )
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        name = path.parent.resolve().name if path.name == "config.json" else path.stem
    else:
        name = str(source).rsplit("/", 1)[-1].lower()
        path = DATA / "models" / f"{name}.json"
        if not path.is_file():
            raise ValueError(
                f"source={str(source)!r} is neither a file nor a known model; known: {', '.join(model_names())}"
            )
    return name, _read_json(path)


def _read_json(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"source={str(path)!r} is damaged; it must be a config.json ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"source={str(path)!r} holds a {type(config).__name__}; it must hold a JSON object")
    return config


def _check_head(config):
    """Only a language model's head is read: another one stores and makes other tensors."""
    named = config.get("architectures")
    names = [] if named is None else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"architectures={named!r} is not a list of names; it must be one, or no such key")
    for name in names:
        if not name.endswith("ForCausalLM"):
            raise ValueError(
                f"architectures={name!r} has no language-model head, or another one; allowed: a name that ends in "
                "ForCausalLM (or take the key out to read the decoder with its head)"
            )


def _common(keys):
    """What every family spells alike."""
    keys.only("hidden_act", "silu")
    hidden, heads = keys.whole("hidden_size"), keys.whole("num_attention_heads")
    head_dim = keys.maybe_whole("head_dim")
    if keys.family in _LATENT_FAMILIES:
        head_dim = keys.whole("qk_rope_head_dim")  # of latent attention the rotary part
    elif head_dim is None:
        if hidden % heads:
            raise ValueError(
                f"hidden_size={hidden} does not divide by num_attention_heads={heads}; "
                "it must, or the config must give head_dim"
            )
        head_dim = hidden // heads
    return {
        "hidden_size": hidden,
        "num_hidden_layers": _layers(keys),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.maybe_whole("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "intermediate_size": keys.whole("intermediate_size"),
        "vocab_size": keys.whole("vocab_size"),
        "tie_word_embeddings": keys.flag("tie_word_embeddings"),
        "rms_norm_eps": keys.number("rms_norm_eps", 1e-6),
    } | _rope(keys)


def _layers(keys):
    """The number of layers; each is looked at one by one, so a number that no model has is refused first."""
    layers = keys.whole("num_hidden_layers")
    if layers > MOST_LAYERS:
        raise ValueError(f"num_hidden_layers={layers} is more than any model has; allowed: at most {MOST_LAYERS}")
    return layers


def _rope(keys):
    """Rotary base and scaling: transformers 5 writes `rope_parameters`, earlier releases two keys side by side."""
    found = {key: keys.get(key) for key in ("rope_parameters", "rope_scaling")}
    for key, value in found.items():
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{key}={value!r} is not a scaling; it must be a JSON object or null")
    scaling = dict(found["rope_parameters"] or found["rope_scaling"] or {})
    theta, own = keys.number("rope_theta", 10_000.0), scaling.pop("rope_theta", None)
    if own is not None:
        theta = Keys({"rope_theta": own}, keys.family, {}, {}).number("rope_theta", theta)
    kinds = [scaling.pop(key, None) for key in ("rope_type", "type")]
    kind = next((kind for kind in kinds if kind), "default")
    # lists become tuples, for an architecture is hashable
    rest = ((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(scaling.items()))
    return {"rope_theta": theta, "rope_scaling": () if kind == "default" else (("rope_type", kind), *rest)}


def _llama(keys):
    bias = keys.flag("attention_bias")
    return {"qkv_bias": bias, "o_bias": bias, "mlp_bias": keys.flag("mlp_bias")}


def _mistral(keys):
    return {"sliding_window": keys.maybe_whole("sliding_window")}


def _qwen2(keys):
    # transformers gives every Qwen2 layer a bias on q, k and v, whatever the config says
    return {"qkv_bias": True, "sliding_window": _optional_window(keys)}


def _qwen3(keys):
    bias, moe = keys.flag("attention_bias"), keys.family == "qwen3_moe"
    return {"qkv_bias": bias, "o_bias": bias, "qk_norm": True, "sliding_window": _optional_window(keys, moe)}


def _qwen3_moe(keys):
    step, layers = keys.whole("decoder_sparse_step", 1), keys.whole("num_hidden_layers")
    named = keys.get("mlp_only_layers")
    named = [] if named is None else named
    if not isinstance(named, list):
        raise ValueError(f"mlp_only_layers={named!r} is not a list of layers; it must be a list of whole numbers")
    dense = {whole_number("mlp_only_layers", index, 0, "a layer") for index in named}
    if step > 1:
        dense |= {index for index in range(layers) if (index + 1) % step}
    return {**_qwen3(keys), **_experts(keys), "mlp_only_layers": tuple(sorted(dense))}


def _deepseek_v2(keys):
    keys.only("scoring_func", "softmax")
    method = keys.choice("topk_method", ("greedy", "group_limited_greedy"), "greedy")
    groups = {} if method == "group_limited_greedy" else {"n_group": 1, "topk_group": 1}
    bias = {"mlp_bias": keys.flag("mlp_bias"), "rope_interleave": True}
    return {**_latent_attention(keys), **_experts(keys), **groups, **bias}


def _deepseek_v3(keys):
    keys.only("scoring_func", "sigmoid")
    keys.only("topk_method", "noaux_tc")
    return {
        **_latent_attention(keys),
        **_experts(keys),
        "scoring_func": "sigmoid",
        "rope_interleave": keys.flag("rope_interleave", True),
        "num_nextn_predict_layers": keys.whole("num_nextn_predict_layers", 1, least=0),
    }


def _latent_attention(keys):
    keys.only("qk_head_dim", keys.whole("qk_nope_head_dim") + keys.whole("qk_rope_head_dim"))
    ranks = {name: keys.whole(name) for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
    bias = keys.flag("attention_bias")
    ranks["q_lora_rank"] = keys.maybe_whole("q_lora_rank")
    # every head has keys of its own, whatever the config calls key-value heads
    return ranks | {"qkv_bias": bias, "o_bias": bias, "num_key_value_heads": keys.whole("num_attention_heads")}


def _experts(keys):
    keys.only("moe_layer_freq", 1)
    sizes = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
    return {name: keys.whole(name) for name in sizes} | {
        "n_shared_experts": keys.maybe_whole("n_shared_experts") or 0,
        "first_k_dense_replace": keys.whole("first_k_dense_replace", 0, least=0),
        "n_group": keys.maybe_whole("n_group") or 1,
        "topk_group": keys.maybe_whole("topk_group") or 1,
        "norm_topk_prob": keys.flag("norm_topk_prob"),
        "routed_scaling_factor": keys.number("routed_scaling_factor", 1.0),
    }


def _optional_window(keys, all_layers=False):
    """The window of the layers that slide, None where none does; a pass no longer than it is the same in all layers.

    all_layers: whether every layer slides where any does, whatever max_window_layers says.
    """
    window, layers = keys.maybe_whole("sliding_window"), keys.whole("num_hidden_layers")
    first, kinds = keys.whole("max_window_layers", 28, least=0), keys.get("layer_types")
    slides = keys.flag("use_sliding_window") and (all_layers or first < layers)
    if kinds is not None:
        slides = slides and "sliding_attention" in kinds
    return window if slides else None


_LATENT_FAMILIES = ("deepseek_v2", "deepseek_v3", "kimi_k2")

# the `attribute_map` of the config classes, turned to the names that this kit uses
_MTP = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}
_ALIASES = {
    "qwen3_moe": {"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"},
    "deepseek_v2": {"num_experts": "n_routed_experts"},
    "deepseek_v3": _MTP,
    "kimi_k2": _MTP,
}

# what transformers' config classes put in place of an absent key, where that is not "as many as heads"
_LATENT = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
_V3 = _LATENT | {
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rope_interleave": True,
}
_DEFAULTS = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096},
    "qwen3_moe": {
        "num_key_value_heads": 4,
        "intermediate_size": 6144,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "sliding_window": 4096,
    },
    "deepseek_v2": _LATENT | {"n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407},
    "deepseek_v3": _V3,
    "kimi_k2": _V3,  # as its publisher says: a DeepSeek-V3 of other sizes
}
_FAMILIES = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "kimi_k2": _deepseek_v3,
}
