"""The census against published counts and transformers on the meta device; configs that are refused."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from dsmem import Architecture, model_names
from dsmem.config.source import DATA
from dsmem.model import library

# The published counts: elements of each checkpoint; GPT-3's paper says 175.0 billion, and what its shape adds up to.
PUBLISHED = {
    "deepseek-r1": 671_026_404_352,
    "deepseek-r1-distill-llama-70b": 70_553_706_496,
    "deepseek-r1-distill-llama-8b": 8_030_261_248,
    "deepseek-r1-distill-qwen-1.5b": 1_777_088_000,
    "deepseek-r1-distill-qwen-14b": 14_770_033_664,
    "deepseek-r1-distill-qwen-32b": 32_763_876_352,
    "deepseek-r1-distill-qwen-7b": 7_615_616_512,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3.2": 671_877_929_216,
    "glm-5.1": 743_911_199_232,
    "gpt-oss-20b": 20_914_757_184,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "gpt3-175b": 174_604_259_328,
    "kimi-k2-instruct": 1_026_408_209_408,
    "llama-1-65b": 65_285_660_672,
    "llama-2-13b": 13_015_864_320,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-405b": 405_853_388_800,
    "minimax-m2.5": 228_689_748_992,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b-v0.1": 46_702_792_704,
    "opt-6.7b": 6_658_473_984,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-72b": 72_706_203_648,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
}
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
EXPERT_FAMILIES = ("deepseek_v2", "deepseek_v3", "mixtral", "qwen2_moe", "qwen3_moe")


def config_object(config):
    """transformers' config object of a `config.json` dict."""
    family = library.RUN_AS.get(config["model_type"], config["model_type"])
    return AutoConfig.for_model(**config | {"model_type": family})


def transformers_census(config):
    """Parameters by part ("q_proj", "norm", ...) of the model that transformers builds, without allocating it."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    census = Counter()
    for name, parameter in model.named_parameters():
        census[part_name(name)] += parameter.numel()
    return dict(census)


GPT_NAMES = {  # GPT-2's, then OPT's
    "wte": "embed_tokens",
    "wpe": "embed_positions",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "ln_f": "norm",
    "attn.c_attn": "qkv_proj",
    "attn.c_proj": "o_proj",
    "mlp.c_fc": "up_proj",
    "mlp.c_proj": "down_proj",
    "self_attn_layer_norm": "input_layernorm",
    "decoder.final_layer_norm": "norm",
    "final_layer_norm": "post_attention_layernorm",
    "out_proj": "o_proj",
    "fc1": "up_proj",
    "fc2": "down_proj",
}


def part_name(name):
    """Our name of a parameter of transformers: the last word, with the kind of expert before it."""
    known = next((ours for theirs, ours in GPT_NAMES.items() if f".{theirs}." in f".{name}"), None)
    if known:
        return known
    parent, _, last = name.removesuffix(".weight").removesuffix(".bias").removesuffix("_bias").rpartition(".")
    kind = parent.rpartition(".")[2]
    kind = {"shared_expert": "shared_experts"}.get(kind, kind)
    return f"{kind}.{last}" if kind in ("experts", "shared_experts", "indexer") else {"gate": "router"}.get(last, last)


def test_every_shipped_model_has_a_published_count():
    assert model_names() == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_model_has_its_published_count(name):
    assert Architecture.from_config(name).n_params == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_config_has_the_census_of_transformers(name):
    config = json.loads((DATA / "models" / f"{name}.json").read_text(encoding="utf-8"))
    assert Architecture.from_config(name).census() == transformers_census(config_object(config))


@st.composite
def configs(draw):
    """A small `config.json` of any family, optional keys left out at times, as in published files."""
    kv_heads, groups, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 8)), 2 * draw(st.integers(1, 12))
    heads, family = kv_heads * groups, draw(st.sampled_from(FAMILIES))
    explicit = draw(st.booleans())
    options = {"tie_word_embeddings": draw(st.booleans())}
    if explicit:
        options["head_dim"] = head_dim
    if family in ("llama", "qwen3"):
        options["attention_bias"] = draw(st.booleans())
    if family == "llama":
        options["mlp_bias"] = draw(st.booleans())
    return options | {
        "model_type": family,
        # transformers wants whole multiples of the heads even where head_dim is explicit
        "hidden_size": heads * (draw(st.integers(1, 12)) if explicit else head_dim),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": draw(st.integers(1, 128)),
        "vocab_size": draw(st.integers(3, 300)),
    }


@st.composite
def expert_configs(draw):
    """A small `config.json` with experts, of any family that has them."""
    family, heads, groups = draw(st.sampled_from(EXPERT_FAMILIES)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    latent = {
        "q_lora_rank": draw(st.none() | st.integers(1, 24)),
        "kv_lora_rank": draw(st.integers(1, 24)),
        "qk_nope_head_dim": draw(st.integers(1, 12)),
        "qk_rope_head_dim": 2 * draw(st.integers(1, 6)),
        "v_head_dim": draw(st.integers(1, 7)) // 7 + 1,
        "n_routed_experts": 4 * groups,
        "n_shared_experts": draw(st.integers(1, 2)),
        "first_k_dense_replace": draw(st.integers(0, 3)),
        "n_group": groups,
        "topk_group": groups,
    }
    layers = draw(st.integers(1, 6))
    dense, step = sorted(draw(st.sets(st.integers(0, layers - 1)))), draw(st.integers(1, 4))
    chosen = {"num_experts": 4 * groups, "head_dim": 2 * draw(st.integers(1, 8))}
    width = {"moe_intermediate_size": draw(st.integers(1, 64))}
    qwen3 = chosen | width | {"decoder_sparse_step": step, "mlp_only_layers": dense}
    shared = {"shared_expert_intermediate_size": draw(st.integers(1, 64)), "qkv_bias": draw(st.booleans())}
    own = {"mixtral": chosen, "qwen2_moe": qwen3 | shared, "qwen3_moe": qwen3}
    return {
        "model_type": family,
        "hidden_size": heads * draw(st.integers(1, 12)) * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": draw(st.integers(1, 64)),
        "num_experts_per_tok": draw(st.integers(1, 4)),
        "vocab_size": draw(st.integers(3, 300)),
        **own.get(family, latent | width),
    }


@given(expert_configs())
@settings(max_examples=60)
def test_a_random_config_with_experts_has_the_census_of_transformers(config):
    assert Architecture.from_config(config).census() == transformers_census(config_object(config))


@pytest.mark.parametrize(
    ("name", "with_embedding", "without"),
    [("deepseek-r1", 37.55e9, 36.63e9), ("deepseek-v2-lite", 2.66e9, 2.45e9)],
)
def test_active_parameters_are_the_published_ones(name, with_embedding, without):
    arch = Architecture.from_config(name)
    active = arch.n_active_params
    assert active == pytest.approx(with_embedding, rel=2e-3)
    assert active - arch.census()["embed_tokens"] == pytest.approx(without, rel=2e-3)


@given(configs())
@settings(max_examples=100)
def test_a_random_config_has_the_census_of_transformers(config):
    assert Architecture.from_config(config).census() == transformers_census(config_object(config))


@given(configs())
@settings(max_examples=30)
def test_a_config_object_reads_like_its_dict(config):
    from_object = Architecture.from_config(config_object(config))
    assert from_object == Architecture.from_config(config).scaled(
        name=from_object.name, sliding_window=from_object.sliding_window, layer_types=from_object.layer_types
    )


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_qwens_window_counts_only_where_it_is_switched_on(family):
    config = {"model_type": family, **SMALL, "sliding_window": 32}
    for changes in ({"use_sliding_window": False}, {"use_sliding_window": True}, {"max_window_layers": 0}):
        slides = "sliding_attention" in config_object(config | changes).layer_types
        assert Architecture.from_config(config | changes).sliding_window == (32 if slides else None)
    on = config | {"use_sliding_window": True, "max_window_layers": 1}
    assert Architecture.from_config(on).sliding_window == 32
    assert "sliding_attention" in config_object(on).layer_types


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": None},
    ],
)
def test_the_rotary_base_is_read_in_old_and_new_spelling(rope):
    arch = Architecture.from_config({"model_type": "llama", **SMALL, **rope})
    assert (arch.rope_theta, arch.rope_scaling) == (5e5, ())


def test_scaled_positions_read_the_same_from_dict_and_config_object():
    scaling = {"rope_type": "linear", "factor": 4.0}
    config = {"model_type": "llama", **SMALL, "rope_theta": 5e5, "rope_scaling": scaling}
    assert Architecture.from_config(config).rope_scaling == (("rope_type", "linear"), ("factor", 4.0))
    assert Architecture.from_config(config_object(config)).rope_scaling == (("rope_type", "linear"), ("factor", 4.0))


def test_an_architecture_is_hashable_whatever_its_rope_scaling_holds():
    scaling = {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0, 1.1], "long_factor": [1.0, 2.0]}
    assert hash(Architecture.from_config({"model_type": "llama", **SMALL, "rope_scaling": scaling}))


def test_a_config_reads_the_same_as_dict_file_and_folder(tmp_path):
    config = {"model_type": "llama", **SMALL}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    expected = Architecture.from_config(config)
    for source in (path, str(path), tmp_path):
        assert Architecture.from_config(source).scaled(name=expected.name) == expected


def test_a_config_is_named_after_its_folder_or_its_file(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    for name in ("config.json", "another.json"):
        (folder / name).write_text(json.dumps({"model_type": "llama", **SMALL}), encoding="utf-8")
    named = {source: Architecture.from_config(source).name for source in (folder, *sorted(folder.iterdir()))}
    assert list(named.values()) == ["my-model", "another", "my-model"]
    assert Architecture.from_config({"model_type": "llama", **SMALL, "_name_or_path": "me/mine"}).name == "me/mine"
    assert Architecture.from_config({"model_type": "llama", **SMALL}).name == "llama"


def test_a_model_goes_by_its_hub_name_too():
    short = Architecture.from_config("deepseek-r1-distill-llama-70b")
    assert Architecture.from_config("deepseek-ai/DeepSeek-R1-Distill-Llama-70B") == short


def test_every_active_parameter_of_a_dense_model_is_a_parameter():
    arch = Architecture.from_config("llama-2-7b")
    assert arch.n_active_params == arch.n_params


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, ("model_type", "'bert'", *FAMILIES)),
        ({"model_type": None}, ("model_type", "None", *FAMILIES)),
        ({"hidden_size": None}, ("hidden_size", "missing", "at least 1")),
        ({"vocab_size": 0}, ("vocab_size", "0", "at least 1")),
        ({"num_hidden_layers": -2}, ("num_hidden_layers", "-2", "at least 1")),
        ({"intermediate_size": 96.0}, ("intermediate_size", "96.0", "whole number")),
        ({"num_attention_heads": "4"}, ("num_attention_heads", "'4'", "whole number")),
        ({"num_attention_heads": True}, ("num_attention_heads", "True", "whole number")),
        ({"num_key_value_heads": 3}, ("num_key_value_heads", "3", "num_attention_heads", "4", "multiple")),
        ({"hidden_size": 63}, ("hidden_size", "63", "num_attention_heads", "4", "head_dim")),
        ({"head_dim": 15}, ("head_dim", "15", "even")),
        ({"hidden_act": "gelu"}, ("hidden_act", "'gelu'", "silu")),
        ({"head_dim": -16}, ("head_dim", "-16", "at least 1")),
        ({"head_dim": 0}, ("head_dim", "0", "at least 1")),
        ({"num_key_value_heads": -2}, ("num_key_value_heads", "-2", "at least 1")),
        ({"num_key_value_heads": 0}, ("num_key_value_heads", "0", "at least 1")),
    ],
)
def test_an_impossible_config_is_refused(change, words, refuses):
    refuses(lambda: Architecture.from_config({"model_type": "llama", **SMALL, **change}), *words)


@pytest.mark.parametrize("field", [field for field in SMALL if field != "num_key_value_heads"])
def test_a_config_without_a_size_is_refused(field, refuses):
    config = {name: value for name, value in ({"model_type": "llama"} | SMALL).items() if name != field}
    refuses(lambda: Architecture.from_config(config), field, "missing", "at least 1")


def test_an_unknown_model_is_refused_with_the_known_ones(refuses):
    refuses(lambda: Architecture.from_config("deepseek-r2"), "source", "'deepseek-r2'", *PUBLISHED)


@pytest.mark.parametrize("source", [42, None, ["llama-2-7b"]])
def test_a_source_of_another_kind_is_refused(source, refuses):
    refuses(lambda: Architecture.from_config(source), "source", repr(source), "llama-2-7b")


@pytest.mark.parametrize("content", [b'{"model_type": "lla', b"\xff\xfe\x00", b"", b"[1, 2]", b"3"])
def test_a_damaged_file_is_refused_by_path(content, tmp_path, refuses):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    refuses(lambda: Architecture.from_config(path), "source", str(path), "must")
