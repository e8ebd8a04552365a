"""Dense decoders with grouped attention: Llama and those built like it."""

from typing import Any

from dsmem.config.families.common import Family, decoder, windows
from dsmem.config.keys import Keys


def _llama(keys):
    bias = keys.flag("attention_bias")
    return decoder(keys) | {"qkv_bias": bias, "o_bias": bias, "mlp_bias": keys.flag("mlp_bias")}


def _mistral(keys):
    return decoder(keys) | windows(keys)


def _qwen2(keys):
    # transformers gives every Qwen2 layer a bias on q, k and v, whatever the config says
    return decoder(keys) | {"qkv_bias": True} | upper_windows(keys)


def qwen3(keys: Keys, all_slide: bool = False) -> dict[str, Any]:
    """Qwen3's attention, of which its mixtures have the same; all_slide: as in `upper_windows`."""
    bias = keys.flag("attention_bias")
    return decoder(keys) | {"qkv_bias": bias, "o_bias": bias, "qk_norm": True} | upper_windows(keys, all_slide)


def upper_windows(keys: Keys, all_slide: bool = False) -> dict[str, Any]:
    """Qwen's windows: of the layers from max_window_layers on, where use_sliding_window switches them on.

    all_slide: whether every layer slides where any does, whatever max_window_layers says, as in Qwen3's mixtures.
    """
    first = keys.whole("max_window_layers", 28, least=0)
    return windows(keys, None if all_slide else lambda index: index >= first, keys.flag("use_sliding_window"))


FAMILIES = {
    "llama": Family(_llama),
    "mistral": Family(_mistral, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": Family(_qwen2, defaults={"num_key_value_heads": 32, "sliding_window": 4096}),
    "qwen3": Family(qwen3, defaults={"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096}),
}
