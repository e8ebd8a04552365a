"""A prompt in chunks, or after a cached prefix: the logits are those of one whole prefill, ours and transformers'."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from decoders import CONFIGS, TOKENS, close, each_config, theirs_and_ours
from hypothesis import given, settings
from hypothesis import strategies as st

import dsmem
from dsmem import Workload, build_model
from dsmem.model import operators

LAYOUTS = {"static": "fused", "growing": "expanded", "paged": "eager"}
SIZES = st.integers(1, 5)


@each_config
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_chunks_give_the_logits_of_one_whole_prefill(config, layout):
    _, ours = theirs_and_ours(config)
    full = ours(TOKENS)
    for mla_cache in ("latent", "expanded") if ours.arch.latent else ("latent",):
        cache = ours.new_cache(2, 16, layout=layout, mla_cache=mla_cache)
        chunks = TOKENS.split((4, 1, 4, 2), dim=1)
        close(torch.cat([ours(chunk, cache=cache, attention=LAYOUTS[layout]) for chunk in chunks], dim=1), full)
        assert cache.length == TOKENS.shape[1]


@each_config
@torch.no_grad()
def test_a_chunk_after_a_cached_prefix_is_transformers_own(config):
    theirs, ours = theirs_and_ours(config)
    cache, past = ours.new_cache(2, 11), None
    for chunk in TOKENS.split((5, 6), dim=1):
        said = theirs(chunk, past_key_values=past, use_cache=True)
        close(ours(chunk, cache=cache), said.logits)
        past = said.past_key_values


@given(batch=SIZES, new=SIZES, cached=st.integers(0, 9), kv_heads=SIZES, groups=SIZES, width=SIZES)
@settings(max_examples=50)
def test_the_fused_operator_takes_its_tokens_for_the_last_of_the_keys(batch, new, cached, kv_heads, groups, width):
    query = torch.randn(batch, new, kv_heads * groups, width)
    key, value = torch.randn(2, batch, cached + new, kv_heads, width)
    out, logsumexp = operators.attention(query, key, value, causal=True)
    q, k, v = (x.transpose(1, 2) for x in (query, *(x.repeat_interleave(groups, dim=2) for x in (key, value))))
    mask = torch.ones(new, cached + new, dtype=torch.bool).tril(cached)
    close(out.transpose(1, 2), F.scaled_dot_product_attention(q, k, v, mask))
    scores = (q @ k.transpose(2, 3) * width**-0.5).masked_fill(~mask, -torch.inf)
    close(logsumexp, scores.logsumexp(-1))


@torch.no_grad()
def test_only_a_cache_that_keeps_all_tokens_takes_chunks(refuses):
    model = build_model(theirs_and_ours(CONFIGS["llama"])[1].arch, "fp32", "cpu")
    cache = model.new_cache(2, 16, layout="sink")
    model(TOKENS[:, :4], cache=cache)
    refuses(lambda: model(TOKENS[:, 4:6], cache=cache), "tokens", "2 per sequence", "gives tokens up")


def test_a_chunk_expands_the_latents_of_all_tokens_and_computes_its_own_alone():
    work = Workload(1, 2048, cached_tokens=30_720, weights="bf16")
    first, last = (dsmem.inference_footprint("deepseek-r1", work, cached_tokens=n) for n in (0, 30_720))
    assert (work.new_tokens, work.key_len, work.cache_len) == (2048, 32_768, 32_768)
    # arXiv 2412.19437, section 4.2: 128 heads of 128 plain key dimensions and 128 of values
    assert last.instants["kv_b_proj"]["kv_expanded"] == 32_768 * 128 * (128 + 128) * 2
    assert last.instants["lm_head"]["logits"] == first.instants["lm_head"]["logits"] == 2048 * 129_280 * 2
    assert last.parts["latent_cache"] == 32_768 * 70_272


@pytest.mark.parametrize("name", ["deepseek-r1", "deepseek-r1-distill-qwen-7b"])
@pytest.mark.parametrize("kv_cache", ["bf16", "fp8", "int8"])
@pytest.mark.parametrize("cache", ["static", "growing", "paged"])
def test_cached_tokens_of_a_prefill_may_be_an_array_with_zeros_in_it(name, kv_cache, cache):
    cached = np.array([0, 1, 5000, 0, 70_000])
    work = Workload(2, 512, weights="bf16", kv_cache=kv_cache, cache=cache)
    grid = dsmem.inference_footprint(name, work, cached_tokens=cached)
    loop = [dsmem.inference_footprint(name, work, cached_tokens=int(tokens)) for tokens in cached]
    assert grid.total_bytes.tolist() == [one.total_bytes for one in loop]
    assert grid.peak_instant.tolist() == [one.peak_instant for one in loop]
