"""Mixtures of experts with grouped attention."""

from typing import Any

from dsmem.config.families.common import Family, decoder, experts, rope, rotary_dim, windows
from dsmem.config.families.dense import qwen3
from dsmem.config.keys import Keys
from dsmem.units import whole_number


def routed(keys: Keys, width: str = "moe_intermediate_size") -> dict[str, Any]:
    """The sizes of the experts, of which each token passes through a few; width: what the family calls their width."""
    sizes = {name: keys.whole(name) for name in ("n_routed_experts", "num_experts_per_tok")}
    return sizes | {"moe_intermediate_size": keys.whole(width)}


def dense_layers(keys: Keys) -> tuple[int, ...]:
    """`mlp_only_layers` as Qwen's mixtures spell it: by name, and all that decoder_sparse_step leaves dense."""
    step, layers = keys.whole("decoder_sparse_step", 1), keys.whole("num_hidden_layers")
    named = keys.get("mlp_only_layers")
    named = [] if named is None else named
    if not isinstance(named, list):
        raise ValueError(f"mlp_only_layers={named!r} is not a list of layers; it must be a list of whole numbers")
    dense = {whole_number("mlp_only_layers", index, 0, "a layer") for index in named}
    if step > 1:
        dense |= {index for index in range(layers) if (index + 1) % step}
    return tuple(sorted(dense))


def _mixtral(keys):
    # every layer is a mixture, and the weights of a token's experts always sum to 1
    return decoder(keys) | routed(keys, "intermediate_size") | {"norm_topk_prob": True} | windows(keys)


def _minimax_m2(keys):
    for key, value in _MINIMAX.items():
        keys.only(key, value)
    kinds = keys.get("attn_type_list")
    if kinds is not None and not (isinstance(kinds, list) and all(kind == 1 for kind in kinds)):
        raise ValueError(f"attn_type_list={kinds!r} is not read in minimax_m2; each entry must be 1, full attention")
    fields, part = decoder(keys) | routed(keys, "intermediate_size"), keys.maybe_whole("rotary_dim")
    head_dim = fields["head_dim"]
    part = rotary_dim(keys, head_dim, 1.0 if part is None else part / head_dim)
    norm = {"qk_norm": True, "qk_norm_type": "per_layer"}
    return fields | norm | {"rotary_dim": part, "scoring_func": "sigmoid", "norm_topk_prob": True}


# what its code does, whatever the config says
_MINIMAX = {
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
}


def _gpt_oss(keys):
    bias = keys.flag("attention_bias", True)
    for name in ("num_key_value_heads", "head_dim"):
        keys.whole(name)  # a null does not follow from other sizes in this family
    if keys.get("layer_types") is None:
        keys.whole("sliding_window")  # every second layer has one
    fields = decoder(keys) | routed(keys, "intermediate_size") | windows(keys, lambda index: index % 2 == 0)
    keys.only("experts_per_token", fields["num_experts_per_tok"])  # OpenAI's own word, which transformers does not read
    if keys.get("rope_parameters") is None and not keys.get("rope_scaling"):
        fields |= {"rope_scaling": rope(Keys({"rope_parameters": _OSS_ROPE}, keys.family, {}, {}))["rope_scaling"]}
    fields |= {"qkv_bias": bias, "o_bias": bias, "attention_sinks": True, "expert_bias": True, "norm_topk_prob": True}
    return fields | {name: keys.number(name, usual) for name, usual in (("swiglu_limit", 7.0), ("swiglu_alpha", 1.702))}


_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
_OSS_ROPE |= {"original_max_position_embeddings": 4096}


def _glm4_moe(keys):
    keys.only("scoring_func", "sigmoid")
    keys.only("topk_method", "noaux_tc")
    fields = decoder(keys) | experts(keys) | {"qkv_bias": keys.flag("attention_bias"), "scoring_func": "sigmoid"}
    further = keys.whole("num_nextn_predict_layers", 1, least=0)
    fields |= {"qk_norm": keys.flag("use_qk_norm"), "num_nextn_predict_layers": further}
    return fields | {"rotary_dim": rotary_dim(keys, fields["head_dim"], 0.5)}


def _qwen2_moe(keys):
    fields = decoder(keys) | routed(keys) | {"qkv_bias": keys.flag("qkv_bias", True)}
    fields["shared_expert_intermediate_size"] = keys.whole("shared_expert_intermediate_size")
    keys.whole("num_key_value_heads")  # a null is not "as many as heads" in this family
    fields |= _alternate_windows(keys)
    return fields | {"norm_topk_prob": keys.flag("norm_topk_prob"), "mlp_only_layers": dense_layers(keys)}


def _alternate_windows(keys):
    """Every second layer slides, of those before max_window_layers."""
    first = keys.whole("max_window_layers", 28, least=0)
    return windows(keys, lambda index: index % 2 == 0 and index < first, keys.flag("use_sliding_window"))


def _qwen3_moe(keys):
    norm, dense = keys.flag("norm_topk_prob"), dense_layers(keys)
    keys.whole("num_key_value_heads")  # a null is not "as many as heads" in this family
    keys.whole("head_dim", 2)  # absent it follows from the heads; a null does not
    return qwen3(keys, all_slide=True) | routed(keys) | {"norm_topk_prob": norm, "mlp_only_layers": dense}


_EXPERTS = {"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"}
_NOT_THEIRS = frozenset({"n_routed_experts"})

FAMILIES = {
    "mixtral": Family(
        _mixtral,
        _EXPERTS,
        {
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
        },
        foreign=_NOT_THEIRS,
    ),
    "minimax_m2": Family(
        _minimax_m2,
        _EXPERTS,
        {
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 1536,
            "rope_theta": 5e6,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
        },
        # modules that predict further tokens are not among the published files
        harmless=frozenset(
            "use_mtp mtp_transformer_layers num_mtp_modules shared_moe_mode mlp_intermediate_size "
            "layernorm_full_attention_beta layernorm_linear_attention_beta layernorm_mlp_beta max_model_len".split()
        ),
        foreign=_NOT_THEIRS,
    ),
    "gpt_oss": Family(
        _gpt_oss,
        _EXPERTS,
        {
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 2880,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150_000.0,
            "sliding_window": 128,
            "n_routed_experts": 128,
            "num_experts_per_tok": 4,
        },
        harmless=frozenset({"initial_context_length"}),  # OpenAI's own word for what the scaling says
        foreign=_NOT_THEIRS,
    ),
    "glm4_moe": Family(
        _glm4_moe,
        {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
        {
            "num_key_value_heads": 8,
            "intermediate_size": 10_944,
            "rms_norm_eps": 1e-5,
            "moe_intermediate_size": 1408,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
        },
    ),
    "qwen2_moe": Family(
        _qwen2_moe,
        {"num_experts": "n_routed_experts"},
        {
            "num_key_value_heads": 16,
            "intermediate_size": 5632,
            "n_routed_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "sliding_window": 4096,
        },
        foreign=_NOT_THEIRS,
    ),
    "qwen3_moe": Family(
        _qwen3_moe,
        _EXPERTS,
        defaults={
            "num_key_value_heads": 4,
            "intermediate_size": 6144,
            "n_routed_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "sliding_window": 4096,
        },
        foreign=_NOT_THEIRS,
    ),
}
