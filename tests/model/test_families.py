"""Every family computes what transformers computes, from its weights: logits, caches, and what a cache holds."""

import pytest
import torch
import transformers
from decoders import CONFIGS, TOKENS, close, each_config, theirs_and_ours
from transformers import AutoModelForCausalLM

from dsmem import Architecture, build_model
from dsmem.config.families import FAMILIES
from dsmem.model import checkpoint, small

RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])
PIECES = torch.tensor(list(small.small_text()[: 2 * 64])).view(2, 64)


def test_every_family_that_is_read_is_among_the_decoders():
    theirs = set(FAMILIES) - {"kimi_k2"}  # of which transformers has no code: a DeepSeek-V3 of other sizes
    assert {config.get("text_config", config)["model_type"] for config in CONFIGS.values()} == theirs


@each_config
@pytest.mark.parametrize("attention", ["fused", "expanded", "eager", "eager_fp32"])
@torch.no_grad()
def test_logits_are_those_of_transformers(config, attention):
    theirs, ours = theirs_and_ours(config)
    close(ours(TOKENS, attention=attention), theirs(TOKENS).logits)


@each_config
def test_the_model_holds_as_many_parameters_as_the_census_counts(config):
    arch = Architecture.from_config(config)
    assert sum(p.numel() for p in build_model(arch, "fp16", "fake").parameters()) == arch.n_params


@torch.no_grad()
def test_the_cache_holds_the_keys_and_values_of_transformers_own():
    theirs, ours = theirs_and_ours(CONFIGS["qwen3"])
    cache = ours.new_cache(2, 11)
    ours(TOKENS, cache=cache)
    for index, layer in enumerate(theirs(TOKENS, use_cache=True).past_key_values.layers):
        keys, values = cache.read(index, torch.float32)
        close(keys.transpose(1, 2), layer.keys)
        close(values.transpose(1, 2), layer.values)


@torch.no_grad()
def test_what_transformers_caches_is_what_we_say_of_its_version():
    theirs, ours = theirs_and_ours(CONFIGS["v3"])
    cached = theirs(TOKENS, use_cache=True).past_key_values.layers[0]
    per_token = cached.keys[0, :, 0].numel() + cached.values[0, :, 0].numel()
    expanded = sum(heads * width for heads, width in ours.arch.cache_rows("expanded").values())
    assert per_token == (ours.arch.latent_width if RELEASE >= (5, 15) else expanded), transformers.__version__


@pytest.mark.skipif(RELEASE < (5, 0), reason="the file names experts as transformers 5")
@torch.no_grad()
def test_the_trained_models_logits_are_those_of_transformers():
    theirs = AutoModelForCausalLM.from_pretrained(small.small_path(), dtype=torch.float32).eval()
    ours = checkpoint.load_model(small.small_path(), weights="fp32")
    torch.testing.assert_close(ours(PIECES), theirs(PIECES).logits, rtol=1e-3, atol=1e-3)
