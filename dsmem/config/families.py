"""Read a Hugging Face `config.json`: one function per family says how it spells its shape.

A key that is absent takes the value that transformers' config class puts in its place; a family that is not listed is
refused by name, never guessed.
"""

import json
from pathlib import Path
from typing import Any

from dsmem.units import whole_number

_PACKAGE = Path(__file__).parents[1]
DATA = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent / "data"


def read(source: Any) -> dict[str, Any]:
    """The fields of an `Architecture` that `source` describes, as a dict; source and errors: see its `from_config`."""
    name, config = _load(source)
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise ValueError(f"model_type={family!r} is not read; allowed: {', '.join(_FAMILIES)}")
    config = _DEFAULTS.get(family, {}) | config
    return {"name": name, "model_type": family} | _common(config) | _FAMILIES[family](config)


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


def _required(config, field):
    value = config.get(field)
    if value is None:
        raise ValueError(f"{field} is missing from the config; it must be a whole number of at least 1")
    return whole_number(field, value, what="a size")


def _common(config):
    """What every family spells alike."""
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act={config['hidden_act']!r} is not read in this family; allowed: silu")
    hidden, heads = _required(config, "hidden_size"), _required(config, "num_attention_heads")
    head_dim = config.get("qk_rope_head_dim") or config.get("head_dim")  # latent attention: its rotary part
    if head_dim is None:
        if hidden % heads:
            raise ValueError(
                f"hidden_size={hidden} does not divide by num_attention_heads={heads}; "
                "it must, or the config must give head_dim"
            )
        head_dim = hidden // heads
    kv_heads = config.get("num_key_value_heads")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": _required(config, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if kv_heads is None else kv_heads,
        "head_dim": head_dim,
        "intermediate_size": _required(config, "intermediate_size"),
        "vocab_size": _required(config, "vocab_size"),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "rms_norm_eps": float(config.get("rms_norm_eps", 1e-6)),
    } | _rope(config)


def _rope(config):
    """Rotary base and scaling: transformers 5 writes `rope_parameters`, earlier releases two keys side by side."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    # lists become tuples, for an architecture is hashable
    rest = ((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(scaling.items()))
    return {"rope_theta": float(theta), "rope_scaling": () if kind == "default" else (("rope_type", kind), *rest)}


def _llama(config):
    bias = bool(config.get("attention_bias", False))
    return {"qkv_bias": bias, "o_bias": bias, "mlp_bias": bool(config.get("mlp_bias", False))}


def _mistral(config):
    return {"sliding_window": config.get("sliding_window")}


def _qwen2(config):
    # transformers gives every Qwen2 layer a bias on q, k and v, whatever the config says
    return {"qkv_bias": True, "sliding_window": _optional_window(config)}


def _qwen3(config):
    bias = bool(config.get("attention_bias", False))
    return {"qkv_bias": bias, "o_bias": bias, "qk_norm": True, "sliding_window": _optional_window(config)}


def _qwen3_moe(config):
    step, layers = config.get("decoder_sparse_step", 1), _required(config, "num_hidden_layers")
    dense = set(config.get("mlp_only_layers") or ()) | {i for i in range(layers) if (i + 1) % step}
    return {
        **_qwen3(config),
        **_experts(config | {"n_routed_experts": config["num_experts"]}),
        "mlp_only_layers": tuple(sorted(dense)),
    }


def _deepseek_v2(config):
    groups = config.get("topk_method") == "group_limited_greedy"
    return {
        **_latent_attention(config),
        **_experts(config if groups else config | {"n_group": None, "topk_group": None}),
        "mlp_bias": bool(config.get("mlp_bias", False)),
        "rope_interleave": True,
    }


def _deepseek_v3(config):
    return {
        **_latent_attention(config),
        **_experts(config),
        "scoring_func": "sigmoid",
        "rope_interleave": bool(config["rope_interleave"]),
        "num_nextn_predict_layers": config.get("num_nextn_predict_layers", 1),
    }


def _latent_attention(config):
    sizes = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    bias = bool(config.get("attention_bias", False))
    ranks = {name: _required(config, name) for name in sizes} | {"q_lora_rank": config.get("q_lora_rank")}
    # every head has keys of its own, whatever the config calls key-value heads
    return ranks | {"qkv_bias": bias, "o_bias": bias, "num_key_value_heads": _required(config, "num_attention_heads")}


def _experts(config):
    sizes = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
    return {name: _required(config, name) for name in sizes} | {
        "n_shared_experts": config.get("n_shared_experts") or 0,
        "first_k_dense_replace": config.get("first_k_dense_replace", 0),
        "n_group": config.get("n_group") or 1,
        "topk_group": config.get("topk_group") or 1,
        "norm_topk_prob": bool(config.get("norm_topk_prob", False)),
        "routed_scaling_factor": float(config.get("routed_scaling_factor", 1.0)),
    }


def _optional_window(config):
    return config.get("sliding_window") if config.get("use_sliding_window") else None


# what transformers' config classes put in place of an absent key, where that is not "as many as heads"
_LATENT = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
_DEFAULTS = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_moe": {
        "num_key_value_heads": 4,
        "intermediate_size": 6144,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "deepseek_v2": _LATENT | {"n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407},
    "deepseek_v3": _LATENT
    | {
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
    },
}
_FAMILIES = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
}
