"""The cache: decoding over it gives one full pass's logits, latent or expanded; prefixes move; sinks keep the ends."""

import pytest
import torch
from decoders import CONFIGS, TOKENS, close, each_config, theirs_and_ours

from dsmem import Architecture, Workload, build_model
from dsmem.footprint.stored import cache_bytes
from dsmem.model import checkpoint, small

ARCH = Architecture.from_config("deepseek-r1-distill-qwen-7b").scaled(
    num_hidden_layers=2,
    hidden_size=64,
    head_dim=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=61,
)
LATENT = Architecture.from_config(CONFIGS["v3"])
INDEXED = Architecture.from_config(CONFIGS["v3.2"])
INDEXED = Architecture.from_config(CONFIGS["v3.2"])
LAYOUTS = {"static": ("fused", "expanded", "eager"), "growing": ("fused",), "paged": ("eager",)}
PIECES = torch.tensor(list(small.small_text()[: 2 * 64])).view(2, 64)


def kinds(arch):
    """What a cache of this architecture may keep: only latent attention has the choice."""
    return ("latent", "expanded") if arch.latent else ("latent",)


@each_config
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_prefill_then_decode_gives_the_logits_of_one_full_pass(config, layout):
    _, ours = theirs_and_ours(config)
    full = ours(TOKENS)
    for mla_cache in kinds(ours.arch):
        for attention in LAYOUTS[layout]:
            cache = ours.new_cache(2, 16, layout=layout, mla_cache=mla_cache)
            parts = [TOKENS[:, :9], *TOKENS[:, 9:].split(1, dim=1)]
            close(torch.cat([ours(part, cache=cache, attention=attention) for part in parts], dim=1), full)
            assert cache.length == 11


@torch.no_grad()
def test_a_cache_in_half_precision_changes_the_logits_a_little():
    _, ours = theirs_and_ours(CONFIGS["llama"])
    exact, rounded = ours(TOKENS), ours(TOKENS, cache=ours.new_cache(2, 11, dtype="fp16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("dtype", "bound"), [("fp16", 0.01), ("bf16", 0.05)])
@torch.no_grad()
def test_latent_and_expanded_agree_within_rounding(dtype, bound):
    _, half = theirs_and_ours(CONFIGS["v3"], dtype)
    last = {}
    for mla_cache in ("latent", "expanded"):
        cache = half.new_cache(2, 16, mla_cache=mla_cache)
        half(TOKENS[:, :10], cache=cache)
        last[mla_cache] = half(TOKENS[:, 10:], cache=cache).float()
    assert (last["latent"] - last["expanded"]).norm() / last["expanded"].norm() < bound


@pytest.mark.parametrize("weights", ["bf16", "int8", "fp8"])
@torch.no_grad()
def test_the_trained_model_says_the_same_on_latents_and_on_what_comes_of_them(weights):
    model, last = checkpoint.load_model(small.small_path(), weights=weights, activations="bf16"), {}
    for mla_cache in ("latent", "expanded"):
        cache = model.new_cache(2, 65, mla_cache=mla_cache)
        model(PIECES[:, :63], cache=cache)
        last[mla_cache] = model(PIECES[:, 63:], cache=cache).float().log_softmax(dim=-1)
    assert (last["latent"] - last["expanded"]).abs().max() < 0.15  # of a nat, in BF16 and after four layers


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "fp8", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_decode_loops_cache_is_the_formula_at_every_step(dtype, layout):
    paging = {"block_size": 8} if layout == "paged" else {}
    for arch in (ARCH, LATENT, INDEXED):
        model = build_model(arch, "fp32", "cpu")
        for mla_cache in kinds(arch):
            cache = model.new_cache(2, 24, dtype, layout, mla_cache=mla_cache, **paging)
            model(TOKENS, cache=cache)
            work = Workload(2, 24, "decode", 0, "fp32", kv_cache=dtype, cache=layout, mla_cache=mla_cache, **paging)
            for cached in range(11, 14):
                # a growing cache counts as it stands before the pass
                assert cache.nbytes == sum(cache_bytes(arch, work, cached_tokens=cached).values())
                model(TOKENS[:, :1], cache=cache)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@torch.no_grad()
def test_a_cache_takes_the_pages_that_hold_a_token_or_all_of_its_room(dtype):
    model = build_model(LATENT, "fp32", "cpu")
    paged, static = (model.new_cache(2, 24, dtype, layout, block_size=8) for layout in ("paged", "static"))
    assert paged.taken_bytes == 0
    for length, pages in ((11, 2), (16, 2), (17, 3)):
        for cache in (paged, static):
            model(TOKENS[:, :1].expand(2, length - cache.length).clone(), cache=cache)
        assert static.taken_bytes == static.nbytes
        assert 3 * paged.taken_bytes == pages * static.nbytes  # there is room for 3 pages each


# Prefixes


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
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


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@torch.no_grad()
def test_a_prefix_goes_from_one_cache_to_another(dtype):
    _, ours = theirs_and_ours(CONFIGS["v3"])
    first, second = ours.new_cache(2, 16, dtype), ours.new_cache(2, 12, dtype, "growing")
    ours(TOKENS[:, :9], cache=first)
    second.load(first.tensors())
    close(ours(TOKENS[:, 9:10], cache=second), ours(TOKENS[:, 9:10], cache=first))


def test_a_prefix_of_another_kind_is_refused(refuses):
    model = build_model(LATENT, "fp32", "cpu")
    cache = model.new_cache(2, 16)
    model(TOKENS, cache=cache)
    refuses(lambda: model.new_cache(2, 16, mla_cache="expanded").load(cache.tensors()), "tensors", "names")


# Sinks, and refusals


@torch.no_grad()
def test_the_most_recent_tokens_and_the_first_are_what_a_sink_cache_keeps():
    _, ours = theirs_and_ours(CONFIGS["v3"])
    cache = ours.new_cache(2, 6, layout="sink", sink=2)
    full = ours.new_cache(2, 16)
    for step in range(11):
        ours(TOKENS[:, step : step + 1], cache=cache)
        ours(TOKENS[:, step : step + 1], cache=full)
    kept = cache.read(0, torch.float32)[0]
    everything = full.read(0, torch.float32)[0]
    order = [0, 1, 10, 7, 8, 9]  # tokens 2 to 10 pass through four places in turn
    close(kept, everything[:, order])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "sink", "sink": 4}, ("sink=4", "max_len=4")),
        ({"layout": "swapped"}, ("layout", "'swapped'", "paged")),
        ({"mla_cache": "both"}, ("mla_cache", "'both'", "latent, expanded")),
        ({"dtype": "fp6"}, ("dtype", "'fp6'", "fp16")),
        ({"batch": 0}, ("batch", "0", "at least 1")),
        ({"max_len": -1}, ("max_len", "-1", "at least 1")),
        ({"max_len": 1.5}, ("max_len", "1.5", "at least 1")),
    ],
)
def test_an_impossible_cache_is_refused(options, words, refuses):
    model = build_model(LATENT, "fp32", "fake")
    refuses(lambda: model.new_cache(**{"batch": 1, "max_len": 4} | options), *words)


@pytest.fixture(scope="module")
def tiny():
    return build_model(Architecture.from_config(CONFIGS["llama"]), "fp32", "cpu")


def test_a_full_cache_is_refused(tiny, refuses):
    cache = tiny.new_cache(2, 11)
    tiny(TOKENS, cache=cache)
    refuses(lambda: tiny(TOKENS[:, :1], cache=cache), "tokens", "(2, 1)", "2 sequences", "at most 0")
    assert cache.length == 11


def test_a_cache_that_is_too_short_is_refused(tiny, refuses):
    refuses(lambda: tiny(TOKENS, cache=tiny.new_cache(2, 10)), "tokens", "(2, 11)", "at most 10")


def test_a_cache_of_another_batch_is_refused(tiny, refuses):
    refuses(lambda: tiny(TOKENS, cache=tiny.new_cache(3, 11)), "tokens", "(2, 11)", "3 sequences")
