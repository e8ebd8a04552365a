"""What a decode step reads: against counts of parameters, published sizes and speeds, and others' files on a disk."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import dsmem
from dsmem import formulas
from dsmem.footprint.checkpoints.gguf import gguf_tensors, tensor_bytes
from dsmem.footprint.reads import floor_seconds, step_reads
from dsmem.model.hub import quiet

MIXTURES = ("deepseek-r1", "deepseek-v2-lite", "qwen3-30b-a3b", "mixtral-8x7b-v0.1", "minimax-m2.5", "kimi-k2-instruct")


@pytest.mark.parametrize("name", [*MIXTURES, "llama-2-7b", "deepseek-r1-distill-qwen-7b"])
def test_one_token_reads_the_active_parameters_and_one_row_of_the_embedding(name):
    arch = dsmem.Architecture.of(name)
    read = sum(step_reads(arch).values())
    embedding = arch.vocab_size * arch.hidden_size
    assert read == pytest.approx(2 * (arch.n_active_params - embedding + arch.hidden_size), rel=1e-12)


def test_a_tied_embedding_is_read_as_the_head():
    arch = dsmem.Architecture.of("qwen2.5-0.5b")
    assert sum(step_reads(arch, batch=3).values()) == 2 * arch.n_params


@pytest.mark.parametrize("name", MIXTURES)
def test_a_large_batch_reads_every_expert(name):
    arch = dsmem.Architecture.of(name)
    read = step_reads(arch, batch=100_000, weights="fp8")
    parts = dsmem.footprint.weight_parts(arch, "fp8")
    kept = sum(parts.values()) - parts["embed_tokens"]
    assert sum(read.values()) - read["embed_tokens"] == pytest.approx(kept)


def test_the_bytes_are_those_that_torchao_states_for_llama_3_8b():
    # pytorch/ao, torchao/quantization/README.md: Model Size 15.01 GB, from which its GB/s follow
    read = sum(step_reads("deepseek-r1-distill-llama-8b").values())  # of the same shape
    assert round(read / 1e9, 2) == 15.01
    assert 95.64 * read / 1e9 == pytest.approx(1435.54, rel=1e-3)  # A100
    assert 126.90 * read / 1e9 == pytest.approx(1904.75, rel=1e-3)  # H100


def test_each_token_of_deepseek_in_q4_k_m_reads_12_gigabytes_of_experts():
    experts = [t for name, t in gguf_tensors("deepseek-r1", "q4_k_m").items() if ".mlp.experts." in name]
    assert len(experts) == 58 * 256 * 3
    assert 8 / 256 * sum(tensor_bytes(*tensor) for tensor in experts) == pytest.approx(12.3e9, rel=0.002)


def test_an_expert_on_a_disk_is_as_large_as_a_log_says():
    # github.com/JustVugg/colibri issue 1154, DeepSeek-V4-Flash in FP4: reads=9354 payload_bytes=117700558848
    assert 9354 * formulas.tensor_bytes(3 * 4096 * 2048, 4) == 117_700_558_848


def test_the_cache_is_read_by_every_sequence():
    one, four = (step_reads("deepseek-r1", batch=batch, tokens=1000)["kv_cache"] for batch in (1, 4))
    assert one == 1000 * 70_272 and four == 4 * one


def test_a_window_bounds_what_is_read():
    arch = dsmem.Architecture.of("gpt-oss-20b")  # half of 24 layers slide over 128 tokens; 8 heads of 64
    row = 2 * 8 * 64 * 2
    assert step_reads(arch, tokens=10_000)["kv_cache"] == 12 * row * (10_000 + 127)


def test_an_indexer_reads_all_of_its_keys_and_2048_latents():
    arch = dsmem.Architecture.of("deepseek-v3.2")
    assert step_reads(arch, tokens=1000)["kv_cache"] == 61 * 2 * (576 + 128) * 1000  # all fit
    assert step_reads(arch, tokens=131_072)["kv_cache"] == 61 * 2 * (576 * 2048 + 128 * 131_072)


def test_arrays_give_what_numbers_give():
    batches = np.array([1, 7, 64])
    together = step_reads("deepseek-v3.2", batch=batches, tokens=5000, weights="int8")
    for place, batch in enumerate(batches):
        alone = step_reads("deepseek-v3.2", batch=int(batch), tokens=5000, weights="int8")
        assert {part: np.broadcast_to(each, 3)[place] for part, each in together.items()} == pytest.approx(alone)


def test_the_floor_is_the_inverse_of_the_rate_that_memory_allows():
    reads = step_reads("deepseek-r1-distill-qwen-7b", batch=8, tokens=2048)
    cache = reads.pop("kv_cache")
    rate = formulas.decode_tokens_per_s(8, sum(reads.values()), cache / 8, 2039e9)
    assert floor_seconds(reads | {"kv_cache": cache}, 2039e9) == pytest.approx(8 / rate)


def test_what_cannot_be_read_is_refused(refuses):
    refuses(lambda: step_reads("llama-2-7b", batch=0), "batch=0")
    refuses(lambda: step_reads("llama-2-7b", tokens=-1), "tokens=-1")
    refuses(lambda: step_reads("llama-2-7b", weights="fp7"), "weights='fp7'")
    refuses(lambda: floor_seconds({"a": 1}, 0), "bandwidth_bytes_per_s=0 moves nothing")


def test_linear_attention_keeps_what_transformers_keeps():
    shapes = {"linear_num_value_heads": 6, "linear_num_key_heads": 3, "linear_key_head_dim": 16}
    config = AutoConfig.for_model(
        "qwen3_5_text", hidden_size=32, intermediate_size=32, vocab_size=50, num_hidden_layers=2, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, linear_value_head_dim=8, eos_token_id=1, **shapes,
        layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad(), quiet():
        layers = model(torch.zeros(3, 7, dtype=torch.int64), use_cache=True).past_key_values.layers
    kept = sum(state.nbytes for state in layers[0].recurrent_states.values())
    assert kept == formulas.linear_state_bytes(3, 1, 6, 16, 8, 32)
