"""Configs that hold a language model beside other parts: which keys count, and the sizes that are published."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from dsmem import Architecture
from dsmem.footprint.stored import cache_bytes

TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
}
VISION = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
VL_8B = {
    "model_type": "qwen3_vl_text",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12_288,
    "vocab_size": 151_936,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
}
VL_30B = VL_8B | {
    "model_type": "qwen3_vl_moe_text",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
}


def parts_of(config):
    """Parameters of the whole that transformers builds of a config, and of its language model with the head."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return sum(counts.values()), sum(count for name, count in counts.items() if ".visual." not in name)


@pytest.mark.parametrize(
    ("model_type", "text", "whole", "language", "per_token"),
    [
        ("qwen3_vl", VL_8B, 8_767_123_696, 8_190_735_360, 147_456),
        ("qwen3_vl_moe", VL_30B, 31_070_754_032, 30_532_122_624, 98_304),
    ],
)
def test_the_language_model_is_counted_and_the_vision_part_is_not(model_type, text, whole, language, per_token):
    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": text["hidden_size"]}
    config = {"model_type": model_type, "text_config": text, "vision_config": vision}
    arch = Architecture.from_config(config | {"architectures": ["Qwen3VLForConditionalGeneration"]})
    assert parts_of(config) == (whole, language)
    assert (arch.n_params, arch.apart) == (language, ("vision_config",))
    assert cache_bytes(arch, seq_len=1, weights="bf16") == {"kv_cache": per_token}
    assert arch.rope_scaling == ()  # where all three positions of a token are one, mrope is the plain rotation


@pytest.mark.parametrize("model_type", ["qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl"])
@pytest.mark.parametrize("within", [None, True, False])
@pytest.mark.parametrize("outside", [None, True, False])
def test_the_head_is_tied_where_transformers_ties_it(model_type, within, outside):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24} if "moe" in model_type else {}
    text = TEXT | experts | ({} if within is None else {"tie_word_embeddings": within})
    config = {"model_type": model_type, "text_config": text, "vision_config": VISION}
    config |= {} if outside is None else {"tie_word_embeddings": outside}
    assert Architecture.from_config(config).n_params == parts_of(config)[1]


def test_qwen2_5_vl_holds_its_language_model_in_the_open():
    config = TEXT | {"model_type": "qwen2_5_vl", "vision_config": VISION, "vision_start_token_id": 5}
    config |= {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "use_sliding_window": False}
    arch = Architecture.from_config(config)
    assert (arch.model_type, arch.apart) == ("qwen2_5_vl_text", ("vision_config",))
    assert arch.n_params == parts_of(config)[1]
    assert arch.rope_scaling == ()


def test_what_the_language_model_does_not_take_up_is_refused(refuses):
    inside = {"model_type": "qwen2_5_vl", "text_config": TEXT | {"head_dim": 32}}
    refuses(lambda: Architecture.from_config(inside), "head_dim=32", "16")
    moe = TEXT | {"norm_topk_prob": False, "num_experts": 4}
    refuses(
        lambda: Architecture.from_config({"model_type": "qwen3_vl_moe", "text_config": moe}), "norm_topk_prob=False"
    )
