"""Models of families without a formula, in transformers' code: which class runs, its parts, and what is refused."""

import pytest
import torch
from small_configs import SMALL, VISION, small
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import dsmem
from dsmem import Architecture
from dsmem.config.families import FAMILIES
from dsmem.config.written import config_of
from dsmem.model import hub, library

V32 = {
    "model_type": "deepseek_v32",
    "architectures": ["DeepseekV32ForCausalLM"],
    "num_hidden_layers": 61,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 2048,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
}
QWEN3_VL_8B = {
    "model_type": "qwen3_vl",
    "text_config": {
        "model_type": "qwen3_vl_text",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "vision_config": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096},
}
MIXTRAL = {"model_type": "mixtral", "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8}


@pytest.mark.parametrize(
    ("config", "count"), [(V32, 671_877_929_216), (QWEN3_VL_8B, 8_767_123_696), (MIXTRAL, 46_702_792_704)]
)
def test_published_models_have_their_published_size(config, count):
    assert library.read(config).n_params == count


@pytest.mark.parametrize("name", SMALL)
def test_parts_sum_to_the_parameters_that_transformers_itself_counts(name):
    model = library.read(SMALL[name])
    auto = AutoModelForImageTextToText if name == "qwen3_vl" else AutoModelForCausalLM
    with torch.device("meta"):
        theirs = auto.from_config(library.read(SMALL[name]).config, dtype=torch.bfloat16)
    assert type(theirs) is model.model_class
    assert model.n_params == sum(model.parts.values()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_written(family):
    """Of the smallest config that the family reads; what a family cannot say would be a wrong model in silence."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4}
    sizes |= {"intermediate_size": 96, "vocab_size": 61}
    if "moe_intermediate_size" in FAMILIES[family].defaults:
        sizes |= {"moe_intermediate_size": 40, "num_experts_per_tok": 2}
    arch = Architecture.from_config(SMALL.get(family) or {"model_type": family} | sizes)
    assert Architecture.from_config(config_of(arch)) == arch
    assert library.read(arch).n_params == arch.n_params


def test_the_vision_part_is_counted_by_name_inside_the_model_or_beside_it():
    within, beside = (library.read(SMALL[name]) for name in ("qwen3_vl", "qwen3_5"))
    assert set(within.parts) == {"visual", "language_model", "lm_head"} and within.apart == {}
    assert set(beside.parts) == {"embed_tokens", "layers", "norm", "lm_head"} and set(beside.apart) == {"visual"}
    assert "visual" in str(beside) and "apart" in repr(beside.table())


def test_kimi_k2_is_run_as_the_deepseek_that_its_publisher_says_it_is():
    latent = SMALL["deepseek_v3"]
    assert library.read(latent | {"model_type": "kimi_k2"}).parts == library.read(latent).parts
    whole = {"model_type": "kimi_k25", "text_config": latent, "vision_config": {"hidden_size": 32}}
    model = library.read(whole)
    assert model.parts == library.read(latent).parts and "vision_tower" in model.apart


def test_architectures_decide_about_the_head():
    plain = small("mixtral", num_local_experts=8)
    headless = library.read(plain | {"architectures": ["MixtralModel"]})
    assert headless.n_params == library.read(plain).n_params - 120 * 64
    assert headless.model_class.__name__ == "MixtralModel"


def test_the_format_and_the_quantization_that_a_config_names():
    stored = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    model = library.read(small("mixtral", quantization_config=stored, dtype="float16"))
    assert (model.floats, model.quantized) == ("fp16", "fp8")
    inner = {"model_type": "qwen3_vl", "text_config": small("qwen3_vl_text", quantization_config=stored)}
    assert library.read(inner | {"vision_config": VISION}).quantized == "fp8"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "nemotron-nas", "auto_map": {"AutoModel": "x.Y"}}, ("'nemotron-nas'", "auto_map", "dsmem")),
        ({"model_type": "minimax_m3"}, ("'minimax_m3'", "near: ", "minimax_m3_vl", "dsmem.checkpoint")),
        ({"model_type": None}, ("model_type=None",)),
        ({"hidden_size": 64}, ("model_type=None",)),
        (small("step3p7"), ("hidden_size=64", "text_config")),
        ({"model_type": "clip"}, ("'clip'", "no language model")),
        (small("mixtral", hidden_size="wide"), ("mixtral", "hidden_size")),
        (small("mixtral") | {"num_attention_heads": None}, ("mixtral",)),
    ],
)
def test_what_the_release_does_not_build_is_refused_in_a_sentence(config, words, refuses):
    refuses(lambda: library.read(config).n_params, *words)


def test_without_transformers_the_sentence_says_how_to_install_it(monkeypatch, refuses):
    monkeypatch.setattr(hub, "has_transformers", lambda: False)
    refuses(lambda: library.read("llama-2-7b"), "'llama'", "pip install transformers")
    refuses(lambda: dsmem.measure({"model_type": "bloom"}), "'bloom'", "not read")
