"""GPT-2 and OPT beside transformers': steps through a cache, what is cached, names and shapes of tensors, positions."""

import pytest
import torch
from decoders import CONFIGS, TOKENS, close, theirs_and_ours, transformers_model
from torch import nn

import dsmem
from dsmem import Architecture, build_model, find_tensor
from dsmem.config.gpt_block import GPT_ACTIVATIONS
from dsmem.footprint import gguf_bytes, published_bytes, published_tensors
from dsmem.model import checkpoint, operators
from dsmem.model.gpt import ACTIVATIONS

GPT = {name: config for name, config in CONFIGS.items() if config["model_type"] in ("gpt2", "opt")}
each_gpt = pytest.mark.parametrize("config", GPT.values(), ids=GPT)


# (width, layers, heads), and the parameters that the hub counts
GPT2_SIZES = {(768, 12, 12): 124_439_808, (1024, 24, 16): 354_823_168, (1600, 48, 25): 1_557_611_200}
OPT_SIZES = {(768, 12, 12): 125_239_296, (4096, 32, 32): 6_658_473_984, (12_288, 96, 96): 174_604_468_224}


def test_the_published_sizes_have_their_counts():
    for (width, layers, heads), count in GPT2_SIZES.items():
        sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "vocab_size": 50_257}
        assert (
            Architecture.from_config({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]} | sizes).n_params
            == count
        )
    for (width, layers, heads), count in OPT_SIZES.items():
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": 50_272}
        assert Architecture.from_config({"model_type": "opt", "ffn_dim": 4 * width} | sizes).n_params == count


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("gpt2", {"add_cross_attention": True}, ("add_cross_attention=True", "gpt2")),
        ("gpt2", {"reorder_and_upcast_attn": True}, ("reorder_and_upcast_attn=True",)),
        ("gpt2", {"activation_function": "swish"}, ("activation_function='swish'", "gelu_new")),
        ("gpt2", {"n_head": 5}, ("hidden_size=48", "num_attention_heads=5")),
        ("gpt2", {"intermediate_size": 7}, ("intermediate_size=7",)),  # transformers would not read it
        ("gpt2", {"architectures": ["GPT2DoubleHeadsModel"]}, ("GPT2DoubleHeadsModel",)),
        ("opt", {"word_embed_proj_dim": 24}, ("word_embed_proj_dim=24", "48")),
        ("opt", {"do_layer_norm_before": False}, ("do_layer_norm_before=False",)),
        ("opt", {"_remove_final_layer_norm": True}, ("_remove_final_layer_norm=True",)),
        ("opt", {"layer_norm_elementwise_affine": False}, ("layer_norm_elementwise_affine=False",)),
        ("opt", {"max_position_embeddings": None}, ("max_position_embeddings",)),
    ],
)
def test_a_variant_that_is_not_run_is_refused_by_name(family, change, words, refuses):
    refuses(lambda: Architecture.from_config(GPT[family] | change), *words)


def test_opt_350m_runs_in_transformers_code():
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 50_272}
    kind = {"ffn_dim": 4096, "word_embed_proj_dim": 512, "do_layer_norm_before": False}
    run = dsmem.measure({"model_type": "opt"} | sizes | kind, seq_len=128, weights="fp16")
    assert run.code == "transformers" and run.footprint is None
    assert run.ledger.by_category()["weight"] == 2 * 331_196_416  # as the hub counts


@each_gpt
@pytest.mark.parametrize("attention", ["fused", "eager", "eager_fp32"])
@torch.no_grad()
def test_steps_through_a_cache_give_the_logits_of_transformers(config, attention):
    theirs, ours = theirs_and_ours(config)
    want = theirs(TOKENS).logits
    for layout in ("static", "growing", "paged"):
        cache = ours.new_cache(2, 11, layout=layout)
        parts = [ours(chunk, cache=cache, attention=attention) for chunk in TOKENS.split([6, 1, 3, 1], dim=1)]
        close(torch.cat(parts, dim=1), want)


@pytest.mark.parametrize("name", ["gpt2", "opt"])
@torch.no_grad()
def test_the_cache_holds_what_transformers_caches(name):
    theirs, ours = theirs_and_ours(GPT[name])
    cache = ours.new_cache(2, 11)
    ours(TOKENS, cache=cache)
    layers = theirs(TOKENS, use_cache=True).past_key_values.layers
    for index, layer in enumerate(layers):
        for mine, kept in zip(cache.read(index, torch.float32), (layer.keys, layer.values), strict=True):
            close(mine.transpose(1, 2), kept)
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert dsmem.footprint.cache_bytes(ours.arch, batch=2, seq_len=11, weights="fp32") == {"kv_cache": cached}


@each_gpt
def test_a_published_file_has_the_tensors_of_transformers(config):
    shapes = {name: tuple(tensor.shape) for name, tensor in transformers_model(config).state_dict().items()}
    if config.get("tie_word_embeddings", True):
        shapes.pop("lm_head.weight")
    found = published_tensors(config, "bf16")
    assert {name: shape for name, (shape, _) in found.items()} == {
        name.removeprefix("transformer."): shape for name, shape in shapes.items()
    }


def test_the_published_file_of_gpt2_holds_its_masks_too():
    nbytes = published_bytes(published_tensors("gpt2", "fp32"))
    assert 0 < 548_105_171 - nbytes < 15_000  # the file on the hub, less its header
    ours, state = build_model(GPT["gpt2"], "fp32", "cpu"), transformers_model(GPT["gpt2"]).state_dict()
    checkpoint.fill_from(ours, state | {"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32)})


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_a_tensor_missing_or_left_over_is_named(name, refuses):
    ours, state = build_model(GPT[name], "fp32", "cpu"), transformers_model(GPT[name]).state_dict()
    refuses(lambda: checkpoint.fill_from(ours, state | {"extra.weight": torch.ones(1)}), "extra.weight")
    key = next(key for key in state if "ln_1" in key or "self_attn_layer_norm" in key)
    refuses(lambda: checkpoint.fill_from(ours, {k: t for k, t in state.items() if k != key}), "input_layernorm")


def test_the_norm_is_torchs_and_its_small_outputs_are_float32():
    x, (weight, bias) = torch.randn(2, 5, 24), torch.randn(2, 24)
    out, mean, inverse = operators.layer_norm(x, weight, bias, 1e-5)
    close(out, nn.functional.layer_norm(x, [24], weight, bias, 1e-5))
    half = operators.layer_norm(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), 1e-5)
    assert [tensor.dtype for tensor in half] == [torch.bfloat16, torch.float32, torch.float32]
    assert mean.shape == inverse.shape == (2, 5, 1)


def test_every_activation_that_is_read_is_run():
    assert set(ACTIVATIONS) == set(GPT_ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_transformers(name):
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 99)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_more_tokens_than_positions_are_refused(refuses):
    model = build_model(GPT["opt"], "fp32", "cpu")
    cache = model.new_cache(1, 40)
    model(torch.zeros(1, 32, dtype=torch.long), cache=cache)
    for call in (
        lambda: model(torch.zeros(1, 1, dtype=torch.long), cache=cache),
        lambda: model(torch.zeros(1, 33, dtype=torch.long)),
        lambda: dsmem.inference_footprint(model.arch, seq_len=33),
        lambda: dsmem.measure(model.arch, seq_len=33, phase="decode"),
        lambda: dsmem.footprint.cache_bytes(model.arch, seq_len=33),
        lambda: dsmem.serving.grow_cache(model.arch, 1, 32, 1),
    ):
        refuses(call, "seq_len=33", "learned_positions=32", "opt")
    assert dsmem.inference_footprint(model.arch, seq_len=32).total_bytes


def test_what_is_not_known_of_a_gpt_block_is_refused(refuses):
    arch = Architecture.of("gpt2")
    refuses(lambda: arch.scaled(qk_norm=True), "qk_norm=True", "layer_norm_epsilon")
    refuses(lambda: arch.scaled(num_key_value_heads=4), "num_key_value_heads=4", "12")
    refuses(lambda: arch.scaled(learned_positions=0), "learned_positions=0")
    refuses(lambda: arch.scaled(hidden_act="silu"), "hidden_act='silu'", "gelu_new")
    seven = Architecture.of("llama-2-7b")
    refuses(lambda: seven.scaled(learned_positions=64), "learned_positions=64", "layer_norm_epsilon", "llama-2-7b")
    refuses(lambda: seven.scaled(hidden_act="gelu"), "hidden_act='gelu'", "'silu'")
    refuses(lambda: seven.scaled(joined_qkv=True, qk_norm=True), "joined_qkv=True", "qk_norm", "False")
    refuses(lambda: arch.scaled(joined_gate_up=True), "joined_gate_up=True", "layer_norm_epsilon")
    refuses(lambda: gguf_bytes(arch, "f16"), "gpt2", "learned positions")
    refuses(lambda: published_tensors(arch, "fp8"), "fp8", "gpt2")


def test_its_own_tensors_are_found():
    whats = [c.what for c in find_tensor(3 * 768 * 1024 * 2, "gpt2").candidates]
    assert any("queries, keys and values of a layer, joined" in what for what in whats)
    assert any("embed_positions" in c.what for c in find_tensor(768 * 1024 * 4, "gpt2").candidates)


def test_a_layer_is_stored_by_the_libraries_too_and_its_model_adds_up():
    from dsmem.runs.libraries import compare_libraries

    arch = Architecture.of("gpt2").scaled(num_hidden_layers=2, vocab_size=300)
    plain, int8 = compare_libraries(arch, names=["bf16", "int8"], seq_len=8, repeats=1)
    assert plain.model_bytes == 2 * arch.n_params
    assert int8.model_bytes == dsmem.footprint.weight_bytes(arch, "int8", activations="bf16")
