"""Attention to chosen keys: counts that transformers gives on the meta device, and every way to say who chooses."""

import pytest
from transformers import AutoConfig

from dsmem import Architecture

# as their publishers' config.json say, less what moves no byte
V32 = {
    "model_type": "deepseek_v32",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "vocab_size": 129280,
}
GLM5 = {
    "model_type": "glm_moe_dsa",
    "head_dim": 64,
    "hidden_size": 6144,
    "intermediate_size": 12288,
    "indexer_rope_interleave": True,
    "num_attention_heads": 64,
    "num_hidden_layers": 78,
    "rope_parameters": {"rope_theta": 1_000_000, "rope_type": "default"},
    "vocab_size": 154880,
}
SHARING = {"index_topk_freq": 4, "index_skip_topk_offset": 3, "head_dim": 192, "index_share_for_mtp_iteration": True}
SMALL = {"model_type": "glm_moe_dsa", "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
SMALL |= {"num_hidden_layers": 9, "vocab_size": 5, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}


@pytest.mark.parametrize(
    ("config", "n_params"),
    [
        (V32, 671_877_929_216),
        (GLM5, 743_911_199_232),
        (GLM5 | {"indexer_types": ["full"] * 78, "layer_types": ["deepseek_sparse_attention"] * 78}, 743_911_199_232),
        (GLM5 | SHARING, 743_377_000_704),  # GLM-5.2
    ],
)
def test_parameters_are_those_of_transformers_on_the_meta_device(config, n_params):
    assert Architecture.from_config(config).n_params == n_params


@pytest.mark.parametrize(
    "spelled",
    [
        {},
        {"index_topk_freq": 3},
        {"index_topk_freq": 4, "index_skip_topk_offset": 3},
        {"index_topk_freq": 2, "index_skip_topk_offset": 0},
        {"index_topk_freq": 2, "index_topk_pattern": "FFSSSFSSF"},
        {"index_topk_pattern": ["full", *["shared"] * 8]},
        {"indexer_types": ["full", "shared"] * 4 + ["full"], "index_topk_pattern": "FFFFFFFFF"},
    ],
)
def test_who_shares_an_index_is_read_as_the_config_class_reads_it(spelled):
    theirs = AutoConfig.for_model(**SMALL, **spelled).indexer_types
    if theirs[0] == "shared":
        pytest.raises(ValueError, Architecture.from_config, SMALL | spelled)
        return
    arch = Architecture.from_config(SMALL | spelled)
    assert arch.indexer_layers == [index for index, kind in enumerate(theirs) if kind == "full"]


@pytest.mark.parametrize("kinds", [["dense"] * 2 + ["sparse"] * 7, ["dense", "sparse", "dense"] + ["sparse"] * 6])
def test_which_layers_are_dense_is_read_from_the_list(kinds):
    sizes = {"n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 2}
    arch = Architecture.from_config(SMALL | sizes | {"mlp_layer_types": kinds})
    assert arch.expert_layers == [index for index, kind in enumerate(kinds) if kind == "sparse"]
    assert arch.has_experts(1) == (kinds[1] == "sparse")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"] * 9}, "layer_types='full_attention' is not read in glm_moe_dsa"),
        ({"indexer_types": ["full"] * 8}, "indexer_types=.* is not a word for each layer; it must be a list of 9"),
        ({"index_topk_pattern": "FXFFFFFFF"}, "index_topk_pattern='X' is not read in glm_moe_dsa; allowed: full, sha"),
        ({"indexer_types": ["shared"] * 9}, "indexer_types begins with 'shared'"),
        ({"indexer_rope_interleave": False}, "indexer_rope_interleave=False is not read in glm_moe_dsa"),
        ({"q_lora_rank": None}, "q_lora_rank is missing from the config"),
        ({"index_head_dim": 8}, "index_head_dim=8 is less than its rotated part; it must be at least qk_rope_head_dim"),
        ({"scoring_func": "softmax"}, "scoring_func='softmax' is not read"),
        ({"index_topk": 0}, "index_topk=0 is not a size"),
    ],
)
def test_what_is_not_read_is_refused_in_a_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_config(SMALL | changes)
