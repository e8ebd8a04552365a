"""Mixtures of experts with grouped attention."""

from dsmem.config.families.common import Family, experts
from dsmem.config.families.dense import qwen3
from dsmem.config.keys import Keys
from dsmem.units import whole_number


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


def _qwen3_moe(keys):
    return qwen3(keys, all_slide=True) | experts(keys) | {"mlp_only_layers": dense_layers(keys)}


FAMILIES = {
    "qwen3_moe": Family(
        _qwen3_moe,
        aliases={"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"},
        defaults={
            "num_key_value_heads": 4,
            "intermediate_size": 6144,
            "n_routed_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "sliding_window": 4096,
        },
    ),
}
