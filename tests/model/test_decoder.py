"""The decoder's own promises: last logits, formats, seeds, any size in no memory, and calls that are refused."""

import psutil
import pytest
import torch
from decoders import CONFIGS, TOKENS, close, theirs_and_ours

import dsmem
from dsmem import Architecture, Workload, build_model
from dsmem.model.decoder import attention_for

each_attention = pytest.mark.parametrize("attention", ["fused", "expanded", "eager", "eager_fp32"])


@each_attention
@torch.no_grad()
def test_the_last_logits_are_the_last_of_all(attention):
    _, ours = theirs_and_ours(CONFIGS["qwen2"])
    last = ours(TOKENS, attention=attention, logits="last")
    close(last, ours(TOKENS, attention=attention)[:, -1:])


@pytest.mark.parametrize("weights", ["bf16", "fp16"])
@each_attention
@torch.no_grad()
def test_half_precision_is_near_float32(weights, attention):
    arch = Architecture.from_config(CONFIGS["qwen2"])
    exact = build_model(arch, "fp32", "cpu")
    rounded = build_model(arch, weights, "cpu")
    rounded.load_state_dict(exact.state_dict())
    assert rounded(TOKENS, attention=attention).dtype == rounded.like["dtype"]
    torch.testing.assert_close(
        rounded(TOKENS, attention=attention).float(), exact(TOKENS, attention=attention), rtol=0.05, atol=0.02
    )


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    arch = Architecture.from_config(CONFIGS["llama"])
    one, same, other = (build_model(arch, "fp32", "cpu", seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_tied_head_is_the_embedding_itself():
    model = build_model(Architecture.from_config(CONFIGS["qwen2, tied"]), "fp32", "cpu")
    assert model.lm_head.weight is model.embed_tokens.weight


def test_a_70b_model_runs_on_fake_tensors_in_little_memory():
    arch = Architecture.from_config("deepseek-r1-distill-llama-70b")
    before = psutil.Process().memory_info().rss
    run = dsmem.measure(arch, Workload(8, 8192, weights="bf16"))
    assert psutil.Process().memory_info().rss - before < 2**30
    assert run.ledger.by_category()["weight"] == 2 * 70_553_706_496
    assert run.ledger.by_category()["kv_cache"] == 8 * 8192 * 320 * 2**10


def test_fake_passes_take_fake_and_real_tokens_alike():
    model = build_model(Architecture.from_config(CONFIGS["llama"]), "fp16", "fake")
    real = model(TOKENS)
    with model.fake_mode:
        tokens = torch.zeros(2, 11, dtype=torch.long)
    assert model(tokens).shape == real.shape == (2, 11, 61)


def test_without_a_gpu_fused_attention_shares_keys():
    assert attention_for("cpu", Architecture.from_config("deepseek-r1-distill-qwen-7b")) == "fused"


@pytest.fixture(scope="module")
def tiny():
    return build_model(Architecture.from_config(CONFIGS["llama"]), "fp32", "cpu")


@pytest.mark.parametrize("argument", ["attention", "logits"])
def test_a_call_with_an_unknown_word_is_refused(tiny, argument, refuses):
    allowed = {"attention": "fused, expanded, eager, eager_fp32", "logits": "all, last"}[argument]
    refuses(lambda: tiny(TOKENS, **{argument: "some"}), argument, "'some'", allowed)


@pytest.mark.parametrize("shape", [(11,), (2, 0), (0, 3), (1, 2, 3)])
def test_tokens_of_another_shape_are_refused(tiny, shape, refuses):
    refuses(lambda: tiny(torch.zeros(shape, dtype=torch.long)), "tokens", shape, "(batch, seq_len)")


@pytest.mark.parametrize("device", ["gpu", "meta", None, "tpu:0"])
def test_an_unknown_device_is_refused(device, refuses):
    arch = Architecture.from_config(CONFIGS["llama"])
    refuses(lambda: build_model(arch, "fp16", device), "device", repr(device), "'cuda', 'cpu', 'fake'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_on_a_machine_without_a_gpu_is_refused(refuses):
    arch = Architecture.from_config(CONFIGS["llama"])
    refuses(lambda: build_model(arch, "fp16", "cuda"), "device", "'cuda'", "'cpu', 'fake'")


def test_unknown_weights_are_refused(refuses):
    arch = Architecture.from_config(CONFIGS["llama"])
    refuses(lambda: build_model(arch, "fp6", "fake"), "weights", "'fp6'", "fp16")


def test_scaled_rotary_positions_are_refused_by_name(refuses):
    scaling = {"rope_type": "linear", "factor": 4.0}
    arch = Architecture.from_config(CONFIGS["llama"] | {"rope_scaling": scaling})
    refuses(lambda: build_model(arch, "fp32", "cpu"), "rope_scaling", "'linear'", "default")


def test_scaled_rotary_positions_are_counted_on_fake_tensors():
    scaling = {"rope_type": "llama3", "factor": 8.0}
    arch = Architecture.from_config(CONFIGS["llama"] | {"rope_scaling": scaling})
    run = dsmem.measure(arch, dsmem.Workload(1, 8), device="fake")
    assert run.ledger.peak_bytes == run.footprint.total_bytes
