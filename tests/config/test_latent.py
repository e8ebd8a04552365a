"""Latent attention without an indexer: counts that transformers gives on the meta device, and how layers are named."""

import pytest

from dsmem import Architecture

# as their publishers' config.json say, less what moves no byte
FLASH = {
    "model_type": "glm4_moe_lite",
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "num_attention_heads": 20,
    "num_hidden_layers": 47,
    "vocab_size": 154880,
}
MINICPM3 = {
    "model_type": "minicpm3",
    "hidden_size": 2560,
    "intermediate_size": 6400,
    "num_attention_heads": 40,
    "num_hidden_layers": 62,
    "vocab_size": 73448,
}


@pytest.mark.parametrize(("config", "n_params"), [(FLASH, 29_943_390_976), (MINICPM3, 4_073_875_968)])
def test_parameters_are_those_of_transformers_on_the_meta_device(config, n_params):
    assert Architecture.from_config(config).n_params == n_params


@pytest.mark.parametrize("dense", [(0,), (0, 1), (), (2,)])
def test_which_layers_are_dense_is_read_from_the_list(dense):
    kinds = ["dense" if index in dense else "sparse" for index in range(47)]
    arch = Architecture.from_config(FLASH | {"mlp_layer_types": kinds, "num_local_experts": 64})
    assert arch.expert_layers == [index for index in range(47) if index not in dense]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (FLASH | {"first_k_dense_replace": 3}, ("first_k_dense_replace=3", "glm4_moe_lite", "1")),
        (FLASH | {"mlp_layer_types": ["dense"]}, ("mlp_layer_types", "list of 47")),
        (MINICPM3 | {"scale_emb": None}, ("scale_emb=None",)),
        (MINICPM3 | {"scale_depth": -1}, ("scale_depth=-1",)),
        (MINICPM3 | {"dim_model_base": 0}, ("dim_model_base=0",)),
    ],
)
def test_what_is_not_read_is_refused_in_a_sentence(config, words, refuses):
    refuses(lambda: Architecture.from_config(config), *words)
