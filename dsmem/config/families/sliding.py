"""Gemma 2 and 3: layers that slide among layers that do not, four norms a layer, capped scores, two rotary bases."""

from typing import Any

from dsmem.config.families.common import Family, decoder, rope, windows
from dsmem.config.keys import Keys

GELU = "gelu_pytorch_tanh"


def _gemma(keys: Keys, pattern: int) -> dict[str, Any]:
    """What both spell alike; pattern: of so many layers the last does not slide."""
    bias = keys.flag("attention_bias")
    keys.only("use_bidirectional_attention", False)
    keys.whole("num_key_value_heads")  # a null is not "as many as heads" in this family
    keys.whole("head_dim", 2)
    fields = decoder(keys, act=("hidden_activation", GELU)) | windows(keys, lambda index: (index + 1) % pattern != 0)
    fields |= {"hidden_act": GELU, "gemma_block": True, "qkv_bias": bias, "o_bias": bias}
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    fields |= {name: None if keys.get(name) is None else keys.number(name, 1.0) for name in caps}
    return fields | {"query_pre_attn_scalar": keys.whole("query_pre_attn_scalar", 256)}


def _gemma2(keys):
    return _gemma(keys, pattern=2)


def _gemma3(keys):
    found = keys.get("rope_parameters")
    local = keys.number("rope_local_base_freq", 10_000.0)
    if found is not None and (not isinstance(found, dict) or not set(found) <= {"full_attention", "sliding_attention"}):
        raise ValueError(
            f"rope_parameters={found!r} is not read in {keys.family}; it must be an object of full_attention and "
            "sliding_attention, or null"
        )
    turned = {kind: _turned(keys, found, kind) for kind in ("full_attention", "sliding_attention")} if found else {}
    full = rope(turned["full_attention"]) if turned else {}
    if turned:
        own = rope(turned["sliding_attention"])
        if own["rope_scaling"]:
            raise ValueError(
                f"rope_parameters={found!r} scales the layers that slide, which is not read; allowed: default"
            )
        local = own["rope_theta"]
    fields = _gemma(keys, keys.whole("sliding_window_pattern", 6))
    return fields | full | {"qk_norm": True, "rope_local_base_freq": local}


def _turned(keys, found, kind):
    """The rotary keys of one kind of layers, as if they were the only ones."""
    usual = {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 10_000.0)}[kind]
    own = {"rope_parameters": found.get(kind) or {}, "rope_theta": keys.number(*usual)}
    return Keys(own, keys.family, {}, {})


_GEMMA = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}

FAMILIES = {
    "gemma2": Family(
        _gemma2,
        {},
        _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        harmless=frozenset({"hidden_act"}),  # which the class does not read
    ),
    "gemma3_text": Family(
        _gemma3,
        {},
        _GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "rope_theta": 1e6},
        harmless=frozenset({"hidden_act"}),
    ),
}
