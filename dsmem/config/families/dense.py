"""Dense decoders with grouped attention: Llama and those built like it."""

from typing import Any

from dsmem.config.families.common import Family, decoder, optional_window
from dsmem.config.keys import Keys


def _llama(keys):
    bias = keys.flag("attention_bias")
    return decoder(keys) | {"qkv_bias": bias, "o_bias": bias, "mlp_bias": keys.flag("mlp_bias")}


def _mistral(keys):
    return decoder(keys) | {"sliding_window": keys.maybe_whole("sliding_window")}


def _qwen2(keys):
    # transformers gives every Qwen2 layer a bias on q, k and v, whatever the config says
    return decoder(keys) | {"qkv_bias": True, "sliding_window": optional_window(keys)}


def qwen3(keys: Keys, all_slide: bool = False) -> dict[str, Any]:
    """Qwen3's attention, of which its mixtures have the same; all_slide: as in `optional_window`."""
    bias, window = keys.flag("attention_bias"), optional_window(keys, all_slide)
    return decoder(keys) | {"qkv_bias": bias, "o_bias": bias, "qk_norm": True, "sliding_window": window}


FAMILIES = {
    "llama": Family(_llama),
    "mistral": Family(_mistral, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": Family(_qwen2, defaults={"num_key_value_heads": 32, "sliding_window": 4096}),
    "qwen3": Family(qwen3, defaults={"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096}),
}
