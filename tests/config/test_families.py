"""Every default of every family is that of transformers' config class: no key, the same shape."""

import dataclasses

import pytest
from transformers import AutoConfig

from dsmem import Architecture
from dsmem.config.families import FAMILIES as READ
from dsmem.config.families.multimodal import WHOLE
from dsmem.config.windows import FULL, SLIDING

FAMILIES = [family for family in READ if family != "kimi_k2"]  # of which transformers has no class
NEEDED = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "model_type"}
SPELLED = {  # what a family's files call a size, where they do so otherwise
    "gpt2": {name: alias for alias, name in READ["gpt2"].aliases.items()} | {"intermediate_size": "n_inner"},
    "opt": {"intermediate_size": "ffn_dim"},
}
# what the kit calls otherwise, or makes of several keys
DERIVED = {
    "max_position_embeddings",  # of a config that does not say it, it is not guessed
    "name",
    "model_type",
    "head",
    "num_labels",
    "score_bias",
    "qkv_bias",
    "o_bias",
    "qk_norm",
    "gemma_block",
    "rope_local_base_freq",
    "rope_theta",
    "rope_scaling",
    "sliding_window",
    "layer_types",
    "indexer_types",
}
# where the class has no value, or its own width does not divide by the heads
ASKED = {"deepseek_v2": {"num_experts_per_tok": 6}, "glm4_moe": {"head_dim": 128}}
each_family = pytest.mark.parametrize("family", FAMILIES)


def default_config(family):
    """The config class's own values, as a `config.json` would hold them."""
    return AutoConfig.for_model(family, **ASKED.get(family, {}))


def needed(family):
    """The sizes that a config must have, in its own words."""
    return {SPELLED.get(family, {}).get(name, name) for name in NEEDED}


@each_family
def test_each_field_is_the_config_classs_own_where_only_the_sizes_are_given(family):
    theirs = default_config(family)
    sizes = {name: value for name, value in theirs.to_dict().items() if name in needed(family)}
    arch = Architecture.from_config(sizes | ASKED.get(family, {}))
    spelled = {name: alias for alias, name in READ[family].aliases.items()}
    checked = []
    for field in dataclasses.fields(Architecture):
        value = getattr(theirs, field.name, getattr(theirs, spelled.get(field.name, field.name), None))
        # latent attention: the rotated part alone, and keys of every head; groups that are not used count as one
        latent = arch.latent and field.name in ("head_dim", "num_key_value_heads")
        if field.name in DERIVED or latent or value is None:
            continue
        own = getattr(arch, field.name)
        assert own == (tuple(value) if isinstance(value, list) else value), field.name
        checked.append(field.name)
    assert "num_hidden_layers" in checked
    # what only exists inside a whole has no word about a head
    assert "tie_word_embeddings" in checked or (family in WHOLE.values() and not arch.tie_word_embeddings)
    assert "rms_norm_eps" in checked or arch.learned_positions == theirs.max_position_embeddings
    rope = getattr(theirs, "rope_parameters", None) or {}
    assert arch.learned_positions or arch.rope_theta == rope.get("full_attention", rope)["rope_theta"]
    assert arch.rope_local_base_freq == rope.get("sliding_attention", {}).get("rope_theta")
    keys = [key for key in ("attention_bias", "enable_bias", "qkv_bias") if hasattr(theirs, key)]
    biased = getattr(theirs, keys[0]) if keys else family.startswith("qwen2") or arch.gpt_block
    assert arch.qkv_bias == biased
    assert arch.sliding_window == (getattr(theirs, "sliding_window", None) or None)
    kinds = getattr(theirs, "layer_types", [SLIDING if arch.sliding_window else FULL] * arch.num_hidden_layers)
    assert [arch.slides(index) for index in range(arch.num_hidden_layers)] == [kind == SLIDING for kind in kinds]


@each_family
def test_any_key_may_be_absent_where_its_value_is_the_classs_own(family):
    full = default_config(family).to_dict()
    whole = Architecture.from_config(full)
    refused = set()
    for key in full:
        rest = {name: value for name, value in full.items() if name != key}
        try:
            assert Architecture.from_config(rest) == whole, key
        except ValueError as error:
            assert "missing" in str(error) or key in ("model_type", *ASKED.get(family, {}))
            refused.add(key)
    sizes, width = needed(family), SPELLED.get(family, {}).get("intermediate_size", "intermediate_size")
    assert refused <= sizes | {"num_experts_per_tok", *ASKED.get(family, {})} and sizes - {width} <= refused


@each_family
def test_widths_that_follow_from_others_do_so_as_in_transformers(family):
    words = SPELLED.get(family, {})
    changes = {words.get(name, name): size for name, size in (("hidden_size", 1024), ("num_attention_heads", 64))}
    config = default_config(family).to_dict()
    config = {name: value for name, value in config.items() if name in needed(family) | {"num_experts_per_tok"}}
    config |= changes | {"model_type": family}
    theirs, arch = AutoConfig.for_model(**config), Architecture.from_config(config)
    if not arch.latent:
        assert arch.num_key_value_heads == getattr(theirs, "num_key_value_heads", theirs.num_attention_heads)
        assert arch.head_dim == (getattr(theirs, "head_dim", None) or 1024 // 64)


def test_a_window_that_is_null_is_no_window():
    config = default_config("mistral").to_dict()
    assert Architecture.from_config(config).sliding_window == 4096
    assert Architecture.from_config(config | {"sliding_window": None}).sliding_window is None


def test_kimi_k2_takes_the_defaults_of_deepseek_v3():
    sizes = {name: value for name, value in default_config("deepseek_v3").to_dict().items() if name in NEEDED}
    ours, v3 = (Architecture.from_config(sizes | {"model_type": family}) for family in ("kimi_k2", "deepseek_v3"))
    assert ours.scaled(name="", model_type="") == v3.scaled(name="", model_type="")


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("dense", [(), (0,), (1, 4), (3, 5)])
def test_every_so_many_layers_are_experts_as_in_transformers(step, dense):
    import torch
    from transformers import AutoModelForCausalLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 7, "num_attention_heads": 1, "head_dim": 8, "vocab_size": 5}
    sizes |= {"intermediate_size": 3, "moe_intermediate_size": 2, "num_experts": 3, "num_experts_per_tok": 1}
    sizes |= {"num_key_value_heads": 1, "decoder_sparse_step": step, "mlp_only_layers": list(dense)}
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **sizes))
    sparse = [index for index, layer in enumerate(theirs.model.layers) if hasattr(layer.mlp, "experts")]
    assert Architecture.from_config({"model_type": "qwen3_moe"} | sizes).expert_layers == sparse


PHI = {"model_type": "phi3", "num_attention_heads": 32, "hidden_size": 3072, "num_hidden_layers": 32}
PHI_3_MINI = PHI | {"num_key_value_heads": 32, "intermediate_size": 8192, "vocab_size": 32_064, "sliding_window": 2047}
PHI_4 = PHI | {"num_attention_heads": 40, "hidden_size": 5120, "num_hidden_layers": 40, "num_key_value_heads": 10}
PHI_4 |= {"intermediate_size": 17_920, "vocab_size": 100_352}


@pytest.mark.parametrize(("config", "published"), [(PHI_3_MINI, 3_821_079_552), (PHI_4, 14_659_507_200)])
def test_phi_has_as_many_parameters_as_published(config, published):
    assert Architecture.from_config(config).n_params == published
