"""Configs as people bring them: other spellings, other heads, nulls and nonsense are read right, or refused by name."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

import dsmem
from dsmem import Architecture
from dsmem.config.families import FAMILIES as READ
from dsmem.model.library import RUN_AS

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 128,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 12}
V3 = SMALL | EXPERTS | LATENT | {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_nextn_predict_layers": 1}
V2 = SMALL | EXPERTS | LATENT | {"n_routed_experts": 8}
INDEX = {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 5}
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 32, "n_inner": 96, "vocab_size": 128}
OPT = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 96, "vocab_size": 128}
CONFIGS = {
    "llama": SMALL | {"attention_bias": True},
    "mistral": SMALL | {"head_dim": 16},
    "qwen2": SMALL | {"tie_word_embeddings": True},
    "qwen3": SMALL | {"head_dim": 32},
    "phi3": SMALL | {"partial_rotary_factor": 0.75, "num_key_value_heads": 2, "pad_token_id": 0},
    "mixtral": SMALL | {"num_experts_per_tok": 2, "num_local_experts": 8, "head_dim": 32},
    "minimax_m2": SMALL | {"num_experts_per_tok": 2, "num_local_experts": 8, "head_dim": 32, "rotary_dim": 16},
    "gpt_oss": SMALL | {"num_experts_per_tok": 2, "num_local_experts": 8, "head_dim": 32, "num_key_value_heads": 2},
    "glm4_moe": SMALL | EXPERTS | {"n_routed_experts": 8, "num_nextn_predict_layers": 1, "use_qk_norm": True},
    "qwen2_moe": SMALL | EXPERTS | {"num_experts": 8, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
    "qwen3_moe": SMALL | EXPERTS | {"head_dim": 16, "num_experts": 8, "decoder_sparse_step": 2},
    "qwen3_vl_text": SMALL | {"head_dim": 32},
    "qwen3_vl_moe_text": SMALL | EXPERTS | {"head_dim": 32, "num_experts": 8, "tie_word_embeddings": False},
    "qwen2_5_vl_text": SMALL,
    "gemma2": SMALL | {"head_dim": 32},
    "gemma3_text": SMALL | {"head_dim": 32, "attention_bias": True},
    "deepseek_v2": V2,
    "deepseek_v3": V3,
    "deepseek_v32": V3 | INDEX,
    "minicpm3": SMALL | LATENT | {"scale_depth": 1.7, "dim_model_base": 32},
    "glm4_moe_lite": {key: value for key, value in V3.items() if key != "num_nextn_predict_layers"},
    "glm_moe_dsa": V3 | INDEX | {"index_topk_freq": 2, "mlp_bias": True},
    "gpt2": GPT2,
    "opt": OPT | {"word_embed_proj_dim": 64, "enable_bias": False},
}


def on_meta(config):
    """Parameters of the model that transformers builds of a config."""
    import torch

    with torch.device("meta"):
        # a language model that has no class but inside a whole is counted as the one that it is with text alone
        family = RUN_AS.get(config["model_type"], config["model_type"])
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config | {"model_type": family}))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", CONFIGS)
def test_every_alias_of_the_config_class_is_read(family):
    config = {"model_type": family} | CONFIGS[family]
    known = Architecture.from_config(config)
    for alias, name in AutoConfig.for_model(family).attribute_map.items():
        spelled = {alias if key == name else name if key == alias else key: value for key, value in config.items()}
        assert Architecture.from_config(spelled | {"_name_or_path": family}) == known, alias


@pytest.mark.parametrize("family", CONFIGS)
def test_a_name_of_the_kit_that_the_family_does_not_have_is_no_key(family, refuses):
    theirs, read = AutoConfig.for_model(family), READ[family]
    assert {name for name in read.aliases.values() if not hasattr(theirs, name)} == read.foreign
    for name in read.foreign:
        config = {"model_type": family, name: 3} | CONFIGS[family]
        spelled = [alias for alias, known in read.aliases.items() if known == name]
        refuses(lambda config=config: Architecture.from_config(config), f"{name}=3", family, *spelled)


@pytest.mark.parametrize("family", CONFIGS)
def test_what_transformers_writes_of_a_config_is_read_alike(family):
    config = {"model_type": family} | CONFIGS[family]
    written = AutoConfig.for_model(**config).to_dict()
    known, found = Architecture.from_config(config), Architecture.from_config(written)
    assert found.scaled(name="", rope_theta=1.0) == known.scaled(name="", rope_theta=1.0)
    assert known.n_params == on_meta(config)


def test_qwens_coder_spelled_as_transformers_5_does():
    config = {
        "model_type": "qwen3_moe",
        "hidden_size": 6144,
        "num_hidden_layers": 62,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 8192,
        "moe_intermediate_size": 2560,
        "num_local_experts": 160,
        "num_experts_per_tok": 8,
        "vocab_size": 151_936,
    }
    assert Architecture.from_config(config).n_params == 480_154_875_392  # published as 480B


def test_a_v3_without_further_tokens_spelled_as_transformers_does():
    config = {"model_type": "deepseek_v3"} | {k: v for k, v in V3.items() if k != "num_nextn_predict_layers"}
    assert Architecture.from_config(config).num_nextn_predict_layers == 1  # the class's own
    assert Architecture.from_config(config | {"num_mtp_layers": 0}).num_nextn_predict_layers == 0
    assert AutoConfig.for_model(**config | {"num_mtp_layers": 0}).num_nextn_predict_layers == 0


def test_a_qwen_of_which_no_layer_slides_has_no_window():
    config = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16} | SMALL
    arch = Architecture.from_config(config | {"max_window_layers": SMALL["num_hidden_layers"]})
    assert arch.sliding_window is None
    assert set(AutoConfig.for_model(**config | {"max_window_layers": 3}).layer_types) == {"full_attention"}


def test_kimi_k2_is_a_deepseek_v3_of_other_sizes():
    config = {
        "model_type": "kimi_k2",
        "hidden_size": 7168,
        "num_hidden_layers": 61,
        "num_attention_heads": 64,
        "intermediate_size": 18_432,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 384,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "vocab_size": 163_840,
        "num_nextn_predict_layers": 0,
    }
    arch = Architecture.from_config(config)
    assert arch.n_params == 1_026_408_209_408
    assert dsmem.footprint.cache_bytes(arch, seq_len=1, weights="bf16") == {"latent_cache": 70_272}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["MistralModel"]}, ("architectures", "'MistralModel'")),
        ({"architectures": ["LlamaForCausalLMEagle3"]}, ("architectures",)),
        ({"architectures": "LlamaForCausalLM"}, ("architectures", "list")),
        ({"draft_vocab_size": 32_000}, ("draft_vocab_size=32000", "llama")),
        ({"attention_chunk_size": 8192}, ("attention_chunk_size=8192", "may change memory")),
        ({"rms_norm_eps": None}, ("rms_norm_eps=None",)),
        ({"rms_norm_eps": 0}, ("rms_norm_eps=0", "above 0")),
        ({"rms_norm_eps": float("nan")}, ("rms_norm_eps=nan", "finite")),
        ({"rope_theta": -1}, ("rope_theta=-1",)),
        ({"rope_theta": float("inf")}, ("rope_theta=inf",)),
        ({"rope_scaling": 4}, ("rope_scaling=4", "JSON object")),
        ({"rope_scaling": {"rope_type": 7}}, ("rope_type=7", "name of a scaling")),
        ({"rope_parameters": {"rope_type": "linear"}}, ("rope_type='linear'", "factor")),
        ({"rope_parameters": {"rope_theta": "high"}}, ("rope_theta='high'",)),
        ({"rms_norm_eps": 10**400}, ("rms_norm_eps=1000", "finite")),
        ({"hidden_size": 2**31}, ("hidden_size=2147483648", "more than any model has")),
        ({"hidden_act": None}, ("hidden_act=None", "silu")),
        ({"tie_word_embeddings": "yes"}, ("tie_word_embeddings='yes'", "true or false")),
        ({"num_key_value_heads": -2}, ("num_key_value_heads=-2",)),
        ({"head_dim": -16}, ("head_dim=-16",)),
        ({"model_type": ["llama"]}, ("model_type=['llama']",)),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(change, words, refuses):
    refuses(lambda: Architecture.from_config({"model_type": "llama"} | SMALL | change), *words)


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("deepseek_v3", {"qk_rope_head_dim": 9}, ("qk_rope_head_dim=9", "even")),
        ("deepseek_v2", {"norm_topk_prob": True}, ("norm_topk_prob=True", "two meanings", "false")),
        ("deepseek_v3", {"num_mtp_layers": 0}, ("num_mtp_layers=0", "num_nextn_predict_layers=1")),
        ("deepseek_v3", {"routed_scaling_factor": None}, ("routed_scaling_factor=None",)),
        ("deepseek_v3", {"first_k_dense_replace": None}, ("first_k_dense_replace",)),
        ("deepseek_v3", {"num_nextn_predict_layers": None}, ("num_nextn_predict_layers=None",)),
        ("deepseek_v3", {"n_shared_experts": "8"}, ("n_shared_experts='8'",)),
        ("deepseek_v3", {"moe_layer_freq": 2}, ("moe_layer_freq=2",)),
        ("deepseek_v3", {"scoring_func": "softmax"}, ("scoring_func='softmax'",)),
        ("deepseek_v3", {"scoring_func": None}, ("scoring_func=None",)),
        ("gpt2", {"add_cross_attention": True}, ("add_cross_attention=True",)),
        ("mixtral", {"num_experts": 4}, ("num_experts=4", "num_local_experts=8", "must agree")),
        ("mixtral", {"n_shared_experts": 2}, ("n_shared_experts=2", "may change memory")),
        ("qwen3_moe", {"num_key_value_heads": None}, ("num_key_value_heads",)),
        ("gpt_oss", {"experts_per_token": 3}, ("experts_per_token=3", "allowed: 2")),
        ("gpt_oss", {"swiglu_limit": 0}, ("swiglu_limit=0", "above 0")),
        ("gpt_oss", {"swiglu_alpha": None}, ("swiglu_alpha=None", "finite")),
        ("gpt_oss", {"sliding_window": None}, ("sliding_window",)),
        ("gpt_oss", {"head_dim": None}, ("head_dim",)),
        ("gpt_oss", {"mlp_bias": True}, ("mlp_bias=True", "may change memory")),
        ("qwen3_moe", {"decoder_sparse_step": 0}, ("decoder_sparse_step=0",)),
        ("qwen3_moe", {"mlp_only_layers": 3}, ("mlp_only_layers=3", "list")),
    ],
)
def test_a_field_of_the_experts_that_cannot_be_read_is_refused(family, change, words, refuses):
    refuses(lambda: Architecture.from_config({"model_type": family} | CONFIGS[family] | change), *words)


def test_a_null_is_a_switch_that_is_off_and_the_largest_size_is_still_one():
    known = Architecture.from_config({"model_type": "gpt2"} | CONFIGS["gpt2"])
    assert Architecture.from_config({"model_type": "gpt2", "add_cross_attention": None} | CONFIGS["gpt2"]) == known
    largest = Architecture.from_config({"model_type": "llama"} | SMALL | {"vocab_size": 2**31 - 1})
    assert largest.vocab_size == 2**31 - 1


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("mistral", {"sliding_window": 1}, ("sliding_window=1", "at least 2")),
        ("mistral", {"layer_types": ["full_attention"] * 3}, ("layer_types", "sliding_window", "mistral")),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, ("layer_types", "sliding_window", "None")),
        ("qwen3", {"layer_types": ["full_attention"]}, ("layer_types", "3 layers")),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, ("layer_types", "linear_attention", "allowed", "full")),
        ("qwen3", {"layer_types": [["full_attention"]] * 3}, ("layer_types", "3 layers")),
        ("qwen3", {"layer_types": 3}, ("layer_types=3",)),
    ],
)
def test_a_window_that_cannot_be_read_is_refused(family, change, words, refuses):
    refuses(lambda: Architecture.from_config({"model_type": family} | SMALL | change), *words)


def test_every_family_that_is_read_has_a_case_here():
    assert set(CONFIGS) | {"kimi_k2"} == set(READ)
