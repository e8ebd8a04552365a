"""Layers that slide: what attention sees, what every cache keeps of it, and how many bytes that is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from decoders import DENSE_SIZES, close, theirs_and_ours, transformers_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

import dsmem
from dsmem import Architecture, Workload, build_model
from dsmem.footprint import cache_bytes
from dsmem.model import checkpoint, eviction, operators

LAYOUTS = ("static", "growing", "paged")
MISTRAL = DENSE_SIZES | {"model_type": "mistral", "head_dim": 16, "sliding_window": 8}
QWEN = DENSE_SIZES | {
    "model_type": "qwen3",
    "head_dim": 16,
    "num_hidden_layers": 4,
    "use_sliding_window": True,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
TOKENS = torch.randint(61, (2, 20), generator=torch.Generator().manual_seed(5))
SIZES = st.integers(1, 5)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_model = pytest.mark.parametrize("config", [MISTRAL, QWEN], ids=["all slide", "some slide"])


def test_a_mistral_caches_its_window_less_one():
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    sizes |= {"intermediate_size": 14_336, "vocab_size": 32_000, "sliding_window": 4096}
    arch = Architecture.from_config({"model_type": "mistral"} | sizes)
    # per token and layer 2 x 8 heads x 128 numbers of 2 bytes, 4,096 bytes; transformers keeps 4,095 tokens
    assert cache_bytes(arch, seq_len=32_768, weights="bf16") == {"kv_cache": 32 * 4095 * 4096}
    assert cache_bytes(arch, phase="decode", seq_len=32_768, weights="bf16", cache="growing") == {
        "kv_cache": 536_739_840
    }
    paged = cache_bytes(arch, seq_len=32_768, weights="bf16", cache="paged")
    assert paged == {"kv_cache": 32 * 4096 * 4096, "slot_mapping": 8 * 4096}
    assert cache_bytes(arch, seq_len=1000, weights="bf16") == {"kv_cache": 32 * 1000 * 4096}
    lengths = np.array([100, 4095, 4096, 32_768])
    assert cache_bytes(arch, seq_len=lengths)["kv_cache"].tolist() == [32 * n * 4096 for n in (100, 4095, 4095, 4095)]


@torch.no_grad()
def test_a_tiny_mistral_from_its_files_says_what_transformers_says(tmp_path):
    theirs = transformers_model(MISTRAL)
    theirs.save_pretrained(tmp_path)
    ours = checkpoint.load_model(tmp_path)
    said = theirs(TOKENS).logits
    for attention in ("fused", "expanded", "eager", "eager_fp32"):
        close(ours(TOKENS, attention=attention), said)
    assert (build_without_window(ours)(TOKENS) - said).abs().max() > 0.1  # what the window changes


def build_without_window(model):
    full = build_model(model.arch.scaled(sliding_window=None), "fp32", "cpu")
    checkpoint.fill_from(full, model.state_dict())
    return full


@each_model
@each_layout
@torch.no_grad()
def test_step_by_step_and_in_chunks_the_logits_are_those_of_transformers(config, layout):
    theirs, ours = theirs_and_ours(config)
    said = theirs(TOKENS).logits
    for attention, pieces in (("fused", 1), ("expanded", (11, 1, 5, 3)), ("eager", 6), ("fused", (3, 9, 8))):
        cache = ours.new_cache(2, 20, layout=layout, block_size=4)
        close(torch.cat([ours(t, cache=cache, attention=attention) for t in TOKENS.split(pieces, 1)], dim=1), said)


@each_model
@each_layout
@torch.no_grad()
def test_a_cache_keeps_what_transformers_keeps(config, layout):
    theirs, ours = theirs_and_ours(config)
    cache, past = ours.new_cache(2, 20, layout=layout, block_size=4), None
    for tokens in TOKENS.split((5, 1, 1, 1, 1, 10, 1), dim=1):
        ours(tokens, cache=cache)
        past = theirs(tokens, past_key_values=past, use_cache=True).past_key_values
        for index, layer in enumerate(past.layers):
            keys, values = cache.read(index, torch.float32)
            close(keys.transpose(1, 2), layer.keys)
            close(values.transpose(1, 2), layer.values)
    if layout == "growing":
        assert cache.nbytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in past.layers)


@each_model
@each_layout
@pytest.mark.parametrize("dtype", ["fp32", "fp8", "int8"])
@torch.no_grad()
def test_a_cache_has_the_bytes_of_the_formula_at_every_step(config, layout, dtype):
    model = build_model(Architecture.from_config(config), "fp32", "cpu")
    cache = model.new_cache(2, 24, dtype, layout, block_size=4)
    work = Workload(2, 24, "decode", 0, "fp32", kv_cache=dtype, cache=layout, block_size=4)
    for cached in range(12):
        assert cache.nbytes == sum(cache_bytes(model.arch, work, cached_tokens=cached).values())
        model(TOKENS[:, :1], cache=cache)


@pytest.mark.parametrize(("dtype", "bound"), [("bf16", 0.02), ("fp8", 0.1), ("int8", 0.02)])
@each_layout
@torch.no_grad()
def test_a_rounded_ring_stays_near_the_exact_one(layout, dtype, bound):
    _, ours = theirs_and_ours(QWEN)
    full, cache = ours(TOKENS), ours.new_cache(2, 20, dtype, layout, block_size=4)
    steps = torch.cat([ours(tokens, cache=cache) for tokens in TOKENS.split((9, 1, 1, 1, 1, 7), dim=1)], dim=1)
    assert (steps - full).norm() / full.norm() < bound


@given(batch=SIZES, new=SIZES, cached=st.integers(0, 9), kv_heads=SIZES, groups=SIZES, window=st.integers(1, 12))
@settings(max_examples=50)
def test_the_fused_operator_sees_the_last_tokens_alone(batch, new, cached, kv_heads, groups, window):
    query = torch.randn(batch, new, kv_heads * groups, 8)
    key, value = torch.randn(2, batch, cached + new, kv_heads, 8)
    out, logsumexp = operators.attention(query, key, value, causal=True, window=window)
    q, k, v = (x.transpose(1, 2) for x in (query, *(x.repeat_interleave(groups, dim=2) for x in (key, value))))
    mask = torch.ones(new, cached + new, dtype=torch.bool).tril(cached).triu(cached - window + 1)
    close(out.transpose(1, 2), F.scaled_dot_product_attention(q, k, v, mask))
    scores = (q @ k.transpose(2, 3) * 8**-0.5).masked_fill(~mask, -torch.inf)
    close(logsumexp, scores.logsumexp(-1))


@pytest.mark.parametrize("cache", LAYOUTS)
@pytest.mark.parametrize("kv_cache", ["bf16", "int8"])
def test_cached_tokens_may_be_an_array(cache, kv_cache):
    arch = Architecture.from_config(QWEN)
    cached = np.array([0, 3, 7, 8, 100])
    work = Workload(2, 12, weights="bf16", kv_cache=kv_cache, cache=cache, attention="eager")
    grid = dsmem.inference_footprint(arch, work, cached_tokens=cached)
    loop = [dsmem.inference_footprint(arch, work, cached_tokens=int(tokens)) for tokens in cached]
    assert grid.total_bytes.tolist() == [one.total_bytes for one in loop]
    assert grid.peak_instant.tolist() == [one.peak_instant for one in loop]


def test_the_instants_of_layers_that_slide_stand_beside_those_that_do_not():
    some, every = (dsmem.inference_footprint(Architecture.from_config(c), seq_len=64).instants for c in (QWEN, MISTRAL))
    assert {"attention", "sliding.attention", "gate_proj"} <= set(some) and "sliding.gate_proj" not in some
    assert "attention" in every and not any(name.startswith("sliding.") for name in every)


@torch.no_grad()
def test_a_prefix_is_kept_as_long_as_no_token_of_it_was_given_up(refuses):
    model = build_model(Architecture.from_config(QWEN), "fp32", "cpu")
    first, second = model.new_cache(2, 20), model.new_cache(2, 20, layout="growing")
    model(TOKENS[:, :7], cache=first)
    second.load(first.tensors())
    close(model(TOKENS[:, 7:9], cache=second), model(TOKENS[:, 7:9], cache=first))
    refuses(first.tensors, "9 tokens", "at most 7")


def test_what_else_gives_tokens_up_is_refused(refuses):
    model = build_model(Architecture.from_config(MISTRAL), "fp32", "cpu")
    refuses(lambda: model.new_cache(2, 20, layout="sink"), "layout='sink'", "static, growing, paged")
    refuses(lambda: eviction.sink_logits(model, TOKENS, 2, 4), "mistral", "slide")


def test_layers_that_are_cut_off_need_no_kind_and_new_ones_do(refuses):
    arch = Architecture.from_config(QWEN)
    assert arch.layer_types == tuple(QWEN["layer_types"])
    assert arch.scaled(num_hidden_layers=1).layer_types == () and arch.scaled(num_hidden_layers=1).slides(0)
    assert arch.scaled(layer_types=("full_attention",) * 4).sliding_window is None
    refuses(lambda: arch.scaled(num_hidden_layers=5), "layer_types", "4 layers", "5")


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("first", [0, 1, 2, 28])
def test_qwens_layers_slide_from_max_window_layers_on(family, first):
    config = DENSE_SIZES | {"model_type": family, "num_hidden_layers": 4}
    config |= {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": first}
    kinds = AutoConfig.for_model(**config).layer_types
    arch = Architecture.from_config(config)
    assert [arch.slides(index) for index in range(4)] == [kind == "sliding_attention" for kind in kinds]
