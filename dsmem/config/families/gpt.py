"""GPT-2 and OPT: LayerNorm with a bias, learned positions, an MLP without a gate, a head tied to the embedding."""

from typing import Any

from dsmem.config.families.common import Family, UnknownFamily, layer_count
from dsmem.config.gpt_block import GPT_ACTIVATIONS
from dsmem.config.keys import Keys


def block(keys: Keys) -> dict[str, Any]:
    """What both spell alike."""
    hidden, heads = keys.whole("hidden_size"), keys.whole("num_attention_heads")
    if hidden % heads:
        raise ValueError(f"hidden_size={hidden} does not divide by num_attention_heads={heads}; it must")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layer_count(keys),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "vocab_size": keys.whole("vocab_size"),
        "tie_word_embeddings": keys.flag("tie_word_embeddings"),
        "learned_positions": keys.whole("max_position_embeddings"),
    }


def _plain(keys, name, usual):
    """Refuse a kind of the family that is not read here, and that transformers' code may still run."""
    value = keys.get(name, usual)
    if value != usual and not (value is None and not usual):  # a null is a switch that is off
        raise UnknownFamily(
            f"{name}={value!r} is not read in {keys.family}; allowed: {usual!r} (dsmem.measure runs others in "
            "transformers' code, where that is installed)"
        )


def _biases(has_them):
    return dict.fromkeys(("qkv_bias", "o_bias", "mlp_bias"), has_them)


def _gpt2(keys):
    _plain(keys, "add_cross_attention", False)
    _plain(keys, "reorder_and_upcast_attn", False)  # its scores would be float32
    sizes = block(keys)
    return sizes | {
        "intermediate_size": keys.maybe_whole("n_inner") or 4 * sizes["hidden_size"],
        "hidden_act": keys.choice("activation_function", GPT_ACTIVATIONS, "gelu_new"),
        "layer_norm_epsilon": keys.number("layer_norm_epsilon", 1e-5),
        "joined_qkv": True,
        "scale_attn_weights": keys.flag("scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": keys.flag("scale_attn_by_inverse_layer_idx"),
        **_biases(True),
    }


def _opt(keys):
    sizes = block(keys)
    _plain(keys, "word_embed_proj_dim", sizes["hidden_size"])  # opt-350m has another
    _plain(keys, "do_layer_norm_before", True)
    _plain(keys, "_remove_final_layer_norm", False)
    _plain(keys, "layer_norm_elementwise_affine", True)
    return sizes | {
        "intermediate_size": keys.whole("ffn_dim"),
        "hidden_act": keys.choice("activation_function", GPT_ACTIVATIONS, "relu"),
        "layer_norm_epsilon": 1e-5,  # torch's own; the config has no word for it
        "position_offset": 2,  # the rows that padding once had
        **_biases(keys.flag("enable_bias", True)),
    }


_GPT2_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
_SUMMARY = "summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout"

FAMILIES = {
    "gpt2": Family(
        _gpt2,
        aliases=_GPT2_NAMES,
        defaults={"tie_word_embeddings": True, "max_position_embeddings": 1024},
        harmless=frozenset(f"{_SUMMARY} n_ctx attn_pdrop".split()),
    ),
    "opt": Family(
        _opt,
        defaults={"tie_word_embeddings": True, "max_position_embeddings": 2048},
        harmless=frozenset("dropout activation_dropout layerdrop init_std learned_embeddings".split()),
    ),
}
