"""Language models inside a config that holds other parts beside them, such as a vision tower.

With positions of text alone, which are alike in time, height and width, their rotation (mrope) is the plain one.
"""

from typing import Any

from dsmem.config.families.common import Family, decoder
from dsmem.config.families.dense import upper_windows
from dsmem.config.families.mixtures import dense_layers, routed
from dsmem.config.keys import Keys

WHOLE = {"qwen3_vl": "qwen3_vl_text", "qwen3_vl_moe": "qwen3_vl_moe_text", "qwen2_5_vl": "qwen2_5_vl_text"}
"""{model_type of a whole: that of the language model in it}, where the config of that need not say so."""


def language_model(config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of the language model inside `config`, and the names of the parts beside it, such as vision_config.

    A config without a `text_config` is its own, but Qwen2.5-VL's, whose files hold the language model's keys in the
    open beside a `vision_config`.
    """
    family, text = config.get("model_type"), config.get("text_config")
    family = family if isinstance(family, str) else None
    parts = [key for key, value in config.items() if key.endswith("_config") and isinstance(value, dict)]
    apart = tuple(key for key in parts if key not in ("text_config", "quantization_config"))
    if not isinstance(text, dict):
        if family not in WHOLE:
            return config, ()
        return {key: value for key, value in config.items() if key not in apart} | {"model_type": WHOLE[family]}, apart
    # the outer config decides about what both could say
    outer = {key: config[key] for key in ("tie_word_embeddings", "_name_or_path") if key in config}
    if family in WHOLE:
        text = {"model_type": WHOLE[family]} | text
        outer.setdefault("tie_word_embeddings", False)
        if family == "qwen2_5_vl" and text.get("tie_word_embeddings") is True:  # earlier releases wrote it there
            outer["tie_word_embeddings"] = True
    return text | outer, apart


def _qwen3_vl_text(keys: Keys) -> dict[str, Any]:
    bias = keys.flag("attention_bias")
    return decoder(keys) | {"qkv_bias": bias, "o_bias": bias, "qk_norm": True}


def _qwen3_vl_moe_text(keys: Keys) -> dict[str, Any]:
    keys.only("norm_topk_prob", True)
    fields = _qwen3_vl_text(keys) | routed(keys)
    return fields | {"norm_topk_prob": True, "mlp_only_layers": dense_layers(keys)}


def _qwen2_5_vl_text(keys: Keys) -> dict[str, Any]:
    keys.only("head_dim", keys.whole("hidden_size") // keys.whole("num_attention_heads"))
    fields = decoder(keys) | {"qkv_bias": True} | upper_windows(keys)
    if ("rope_type", "mrope") in fields["rope_scaling"]:
        fields["rope_scaling"] = ()
    return fields


_TOKENS = frozenset(f"{kind}_token_id" for kind in ("image", "video", "vision", "vision_start", "vision_end"))

FAMILIES = {
    "qwen3_vl_text": Family(
        _qwen3_vl_text, defaults={"num_key_value_heads": 32, "head_dim": 128, "rope_theta": 500_000.0}
    ),
    "qwen3_vl_moe_text": Family(
        _qwen3_vl_moe_text,
        aliases={"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"},
        defaults={
            "num_key_value_heads": 16,
            "intermediate_size": 5632,
            "tie_word_embeddings": True,
            "rope_theta": 500_000.0,
            "n_routed_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
        },
        foreign=frozenset({"n_routed_experts"}),
    ),
    "qwen2_5_vl_text": Family(
        _qwen2_5_vl_text,
        defaults={
            "num_key_value_heads": 8,
            "intermediate_size": 29_568,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": 4096,
            "max_window_layers": 80,
        },
        harmless=_TOKENS,
    ),
}
