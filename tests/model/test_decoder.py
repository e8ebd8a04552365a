"""The decoder computes what transformers computes, keeps its cache, and builds any size in no memory."""

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import dsmem
from dsmem import Architecture, Workload, build_model
from dsmem.model.decoder import attention_for

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
CONFIGS = {
    "llama": {"model_type": "llama"},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama, all heads apart": {"model_type": "llama", "num_key_value_heads": 6},
    "llama, one key head": {"model_type": "llama", "num_key_value_heads": 1},
    "llama, tied, another base": {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 500_000.0},
    "mistral": {"model_type": "mistral", "head_dim": 12, "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen2, tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3 with biases": {"model_type": "qwen3", "head_dim": 10, "attention_bias": True},
}
ATTENTION = ("fused", "expanded", "eager")
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
each_attention = pytest.mark.parametrize("attention", ATTENTION)
TOKENS = torch.randint(61, (2, 11), generator=torch.Generator().manual_seed(5))


def theirs_and_ours(config):
    """transformers' model with random weights, norms and biases included, and ours with the same ones, in float32."""
    config = {**SMALL, **config}
    torch.manual_seed(7)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = build_model(Architecture.from_config(config), weights="fp32", device="cpu")
    ours.load_state_dict({name.removeprefix("model."): w for name, w in theirs.state_dict().items()}, strict=True)
    return theirs, ours


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@each_attention
@each_config
@torch.no_grad()
def test_logits_are_those_of_transformers(config, attention):
    theirs, ours = theirs_and_ours(config)
    close(ours(TOKENS, attention=attention), theirs(TOKENS).logits)


@each_attention
@each_config
@torch.no_grad()
def test_prefill_then_decode_gives_the_logits_of_one_full_pass(config, attention):
    _, ours = theirs_and_ours(config)
    full, cache = ours(TOKENS, attention=attention), ours.new_cache(2, 16)
    steps = [ours(TOKENS[:, :7], cache=cache, attention=attention)]
    steps += [ours(TOKENS[:, i : i + 1], cache=cache, attention=attention) for i in range(7, 11)]
    close(torch.cat(steps, dim=1), full)
    assert cache.length == 11


@each_attention
@torch.no_grad()
def test_the_last_logits_are_the_last_of_all(attention):
    _, ours = theirs_and_ours(CONFIGS["qwen2"])
    last = ours(TOKENS, attention=attention, logits="last")
    close(last, ours(TOKENS, attention=attention)[:, -1:])


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
def test_a_cache_in_half_precision_changes_the_logits_a_little():
    _, ours = theirs_and_ours(CONFIGS["llama"])
    exact, rounded = ours(TOKENS), ours(TOKENS, cache=ours.new_cache(2, 11, dtype="fp16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("weights", ["bf16", "fp16"])
@each_attention
@torch.no_grad()
def test_half_precision_is_near_float32(weights, attention):
    config = {**SMALL, **CONFIGS["qwen2"]}
    arch = Architecture.from_config(config)
    exact = build_model(arch, "fp32", "cpu")
    rounded = build_model(arch, weights, "cpu")
    rounded.load_state_dict(exact.state_dict())
    assert rounded(TOKENS, attention=attention).dtype == rounded.like["dtype"]
    torch.testing.assert_close(
        rounded(TOKENS, attention=attention).float(), exact(TOKENS, attention=attention), rtol=0.05, atol=0.02
    )


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    arch = Architecture.from_config({**SMALL, **CONFIGS["llama"]})
    one, same, other = (build_model(arch, "fp32", "cpu", seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_tied_head_is_the_embedding_itself():
    model = build_model(Architecture.from_config({**SMALL, **CONFIGS["qwen2, tied"]}), "fp32", "cpu")
    assert model.lm_head.weight is model.embed_tokens.weight


@each_config
def test_the_model_holds_as_many_parameters_as_the_census_counts(config):
    arch = Architecture.from_config({**SMALL, **config})
    assert sum(p.numel() for p in build_model(arch, "fp16", "fake").parameters()) == arch.n_params


def test_a_70b_model_runs_on_fake_tensors_in_little_memory():
    arch = Architecture.from_config("deepseek-r1-distill-llama-70b")
    before = psutil.Process().memory_info().rss
    run = dsmem.measure(arch, Workload(8, 8192, weights="bf16"))
    assert psutil.Process().memory_info().rss - before < 2**30
    assert run.ledger.by_category()["weight"] == 2 * 70_553_706_496
    assert run.ledger.by_category()["kv_cache"] == 8 * 8192 * 320 * 2**10


def test_fake_passes_take_fake_and_real_tokens_alike():
    model = build_model(Architecture.from_config({**SMALL, **CONFIGS["llama"]}), "fp16", "fake")
    real = model(TOKENS)
    with model.fake_mode:
        tokens = torch.zeros(2, 11, dtype=torch.long)
    assert model(tokens).shape == real.shape == (2, 11, 61)


def test_without_a_gpu_fused_attention_shares_keys():
    assert attention_for("cpu", Architecture.from_config("deepseek-r1-distill-qwen-7b")) == "fused"


@pytest.fixture(scope="module")
def tiny():
    return build_model(Architecture.from_config({**SMALL, **CONFIGS["llama"]}), "fp32", "cpu")


@pytest.mark.parametrize("argument", ["attention", "logits"])
def test_a_call_with_an_unknown_word_is_refused(tiny, argument, refuses):
    allowed = {"attention": "fused, expanded, eager", "logits": "all, last"}[argument]
    refuses(lambda: tiny(TOKENS, **{argument: "some"}), argument, "'some'", allowed)


@pytest.mark.parametrize("shape", [(11,), (2, 0), (0, 3), (1, 2, 3)])
def test_tokens_of_another_shape_are_refused(tiny, shape, refuses):
    refuses(lambda: tiny(torch.zeros(shape, dtype=torch.long)), "tokens", shape, "(batch, seq_len)")


def test_a_full_cache_is_refused(tiny, refuses):
    cache = tiny.new_cache(2, 11)
    tiny(TOKENS, cache=cache)
    refuses(lambda: tiny(TOKENS[:, :1], cache=cache), "tokens", "(2, 1)", "2 sequences", "at most 0")
    assert cache.length == 11


def test_a_cache_that_is_too_short_is_refused(tiny, refuses):
    refuses(lambda: tiny(TOKENS, cache=tiny.new_cache(2, 10)), "tokens", "(2, 11)", "at most 10")


def test_a_cache_of_another_batch_is_refused(tiny, refuses):
    refuses(lambda: tiny(TOKENS, cache=tiny.new_cache(3, 11)), "tokens", "(2, 11)", "3 sequences")


def test_several_tokens_onto_a_cache_in_use_are_refused(tiny, refuses):
    cache = tiny.new_cache(2, 16)
    tiny(TOKENS[:, :4], cache=cache)
    refuses(lambda: tiny(TOKENS[:, 4:6], cache=cache), "tokens", "2 per sequence", "1 new token")


def test_a_cache_of_an_unknown_format_is_refused(tiny, refuses):
    refuses(lambda: tiny.new_cache(2, 16, dtype="fp6"), "dtype", "'fp6'", "fp16")


@pytest.mark.parametrize(("batch", "max_len"), [(0, 16), (2, -1), (2, 1.5)])
def test_a_cache_of_an_impossible_size_is_refused(tiny, batch, max_len, refuses):
    bad = "batch" if batch == 0 else "max_len"
    refuses(lambda: tiny.new_cache(batch, max_len), bad, {"batch": batch, "max_len": max_len}[bad], "at least 1")


@pytest.mark.parametrize("device", ["gpu", "meta", None, "tpu:0"])
def test_an_unknown_device_is_refused(device, refuses):
    arch = Architecture.from_config({**SMALL, **CONFIGS["llama"]})
    refuses(lambda: build_model(arch, "fp16", device), "device", repr(device), "'cuda', 'cpu', 'fake'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_on_a_machine_without_a_gpu_is_refused(refuses):
    arch = Architecture.from_config({**SMALL, **CONFIGS["llama"]})
    refuses(lambda: build_model(arch, "fp16", "cuda"), "device", "'cuda'", "'cpu', 'fake'")


def test_unknown_weights_are_refused(refuses):
    arch = Architecture.from_config({**SMALL, **CONFIGS["llama"]})
    refuses(lambda: build_model(arch, "fp6", "fake"), "weights", "'fp6'", "fp16")


def test_scaled_rotary_positions_are_refused_by_name(refuses):
    scaling = {"rope_type": "linear", "factor": 4.0}
    arch = Architecture.from_config({**SMALL, **CONFIGS["llama"], "rope_scaling": scaling})
    refuses(lambda: build_model(arch, "fp32", "cpu"), "rope_scaling", "'linear'", "default")


def test_scaled_rotary_positions_are_counted_on_fake_tensors():
    scaling = {"rope_type": "llama3", "factor": 8.0}
    arch = Architecture.from_config({**SMALL, **CONFIGS["llama"], "rope_scaling": scaling})
    run = dsmem.measure(arch, dsmem.Workload(1, 8), device="fake")
    assert run.ledger.peak_bytes == run.footprint.total_bytes
