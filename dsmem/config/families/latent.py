"""DeepSeek's decoders, and others with latent attention (MLA): dense layers first, then experts."""

from typing import Any

from dsmem.config.families.common import Family, decoder, experts
from dsmem.config.keys import Keys
from dsmem.units import one_of


def _deepseek_v2(keys):
    keys.only("scoring_func", "softmax")
    if keys.get("norm_topk_prob"):
        raise ValueError(
            "norm_topk_prob=True has two meanings in deepseek_v2, for DeepSeek's code then leaves out "
            "routed_scaling_factor, and transformers' leaves norm_topk_prob out; allowed: false, which moves no byte"
        )
    method = keys.choice("topk_method", ("greedy", "group_limited_greedy"), "greedy")
    groups = {} if method == "group_limited_greedy" else {"n_group": 1, "topk_group": 1}
    bias = {"mlp_bias": keys.flag("mlp_bias"), "rope_interleave": True}
    return {**latent_attention(keys), **experts(keys), **groups, **bias}


def _deepseek_v3(keys):
    keys.only("scoring_func", "sigmoid")
    keys.only("topk_method", "noaux_tc")
    return {
        **latent_attention(keys),
        **experts(keys),
        "scoring_func": "sigmoid",
        "rope_interleave": keys.flag("rope_interleave", True),
        "num_nextn_predict_layers": keys.whole("num_nextn_predict_layers", 1, least=0),
    }


def _minicpm3(keys):
    width = keys.maybe_whole("v_head_dim") or keys.whole("hidden_size") // keys.whole("num_attention_heads")
    return {
        **latent_attention(keys, width),
        "mlp_bias": keys.flag("mlp_bias"),
        "scale_emb": keys.number("scale_emb", 1.0),
        "scale_depth": None if keys.get("scale_depth") is None else keys.number("scale_depth", 1.0),
        "dim_model_base": keys.maybe_whole("dim_model_base"),
    }


def _glm4_moe_lite(keys):
    keys.only("first_k_dense_replace", 1)  # transformers counts one, whatever it says
    return _deepseek_v3(keys) | dense_layers(keys, 1)


def dense_layers(keys: Keys, first: int) -> dict[str, Any]:
    """Which layers are dense: those of `mlp_layer_types`, by default the `first` so many."""
    layers, kinds = keys.whole("num_hidden_layers"), words(keys, "mlp_layer_types", ("dense", "sparse"))
    if kinds is None:
        return {"first_k_dense_replace": first}
    dense = tuple(index for index, kind in enumerate(kinds) if kind == "dense")
    if dense == tuple(range(min(first, layers))):
        return {"first_k_dense_replace": first}
    return {"first_k_dense_replace": 0, "mlp_only_layers": dense}


def words(keys: Keys, key: str, allowed: tuple[str, ...], layers: int | None = None) -> tuple[str, ...] | None:
    """A list of one of the allowed words for each layer, or None where the key is absent or null."""
    value, layers = keys.get(key), layers or keys.whole("num_hidden_layers")
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != layers:
        raise ValueError(f"{key}={value!r} is not a word for each layer; it must be a list of {layers}")
    return tuple(one_of(key, word, allowed, f"read in {keys.family}") for word in value)


def latent_attention(keys: Keys, v_head_dim: int | None = None) -> dict[str, Any]:
    """A decoder's sizes and those of its latents; v_head_dim: where it is not a key that must be there."""
    keys.only("qk_head_dim", keys.whole("qk_nope_head_dim") + keys.whole("qk_rope_head_dim"))
    ranks = {name: keys.whole(name) for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")}
    ranks["v_head_dim"] = v_head_dim or keys.whole("v_head_dim")
    bias = keys.flag("attention_bias")
    ranks["q_lora_rank"] = keys.maybe_whole("q_lora_rank")
    # every head has keys of its own, whatever the config calls key-value heads
    sizes = decoder(keys, head_dim=keys.whole("qk_rope_head_dim"))  # the part of a head that is rotated
    return sizes | ranks | {"qkv_bias": bias, "o_bias": bias, "num_key_value_heads": keys.whole("num_attention_heads")}


_ALIASES = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}

# what transformers' config classes put in place of an absent key, where that is not "as many as heads"
_LATENT = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
V3 = _LATENT | {
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

_LITE_ALIASES = {"num_local_experts": "n_routed_experts", "head_dim": "qk_rope_head_dim"}
_LITE = V3 | {
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1536,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.8,
    "rms_norm_eps": 1e-5,
    "num_nextn_predict_layers": 0,
}

_MINICPM3 = {
    "q_lora_rank": 768,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 256,
}

FAMILIES = {
    "deepseek_v2": Family(
        _deepseek_v2,
        aliases={"num_experts": "n_routed_experts"},
        defaults=_LATENT | {"n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407},
    ),
    "deepseek_v3": Family(_deepseek_v3, _ALIASES, V3),
    "minicpm3": Family(_minicpm3, defaults=_MINICPM3),
    "glm4_moe_lite": Family(_glm4_moe_lite, _LITE_ALIASES, _LITE),
    "kimi_k2": Family(_deepseek_v3, _ALIASES, V3),  # as its publisher says: a DeepSeek-V3 of other sizes
}
