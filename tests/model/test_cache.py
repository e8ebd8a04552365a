"""A cache takes a prefix that fills it exactly, and refuses one token more."""

import pytest
import torch

from dsmem import Architecture, build_model

ARCH = Architecture.from_config("deepseek-r1-distill-qwen-7b").scaled(
    num_hidden_layers=2,
    hidden_size=64,
    head_dim=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=61,
)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("layout", ["static", "paged", "growing"])
@torch.no_grad()
def test_a_prefix_fills_a_cache_exactly_and_not_by_one_token_more(layout, dtype, refuses):
    model = build_model(ARCH, "fp32", "cpu")
    source = model.new_cache(2, 12, dtype)
    model(torch.arange(22).view(2, 11), cache=source)
    prefix = source.tensors()
    full, small = (model.new_cache(2, max_len, dtype, layout) for max_len in (11, 10))
    full.load(prefix)
    assert full.length == 11 and full.room == (None if layout == "growing" else 0)
    assert all(torch.equal(rows, prefix[name]) for name, rows in full.tensors().items())
    if layout == "growing":  # it has no end
        small.load(prefix)
        assert small.length == 11
    else:
        refuses(lambda: small.load(prefix), "[11]", "at most 10")
        assert small.length == 0
