"""A pass on one rank of many: its ledger under DTensor, published models, and what shrinks or does not."""

import warnings

import numpy as np
import pytest
import torch
from one_rank import rank_of
from small_configs import SMALL, TINY, TINY_LATENT

import dsmem
from dsmem import Ledger, formulas, inference_footprint, training_footprint
from dsmem.footprint.inference import stage_footprints
from dsmem.footprint.sharded.passes import rank_cache
from dsmem.footprint.sharded.shares import rank_parameters

with warnings.catch_warnings():  # torch.distributed.optim uses torch.jit, which is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from dsmem.runs.ranks.engines import spread

WEIGHTS = ("weights", "weights_int8", "weights_fp8", "weights_int4", "weight_scales")
DENSE = TINY | {"num_key_value_heads": 4}
CASES = {
    "grouped": TINY,
    "wide MLP": TINY | {"intermediate_size": 1000, "vocab_size": 16},
    "wide heads": TINY | {"hidden_size": 32, "head_dim": 64, "vocab_size": 16},
    "large vocabulary": TINY | {"vocab_size": 3000},
    "head norms": SMALL["qwen3_vl"]["text_config"] | {"model_type": "qwen3", "vocab_size": 16},
    "latent": TINY_LATENT | {"first_k_dense_replace": 2},
}


@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_the_peak_of_a_tensor_rank_is_dtensor_s_to_the_byte(name, attention):
    arch, asked = dsmem.Architecture.of(CASES[name]), {"weights": "fp32", "attention": attention, "cache": "none"}
    ledger = pass_of_a_rank(arch, attention, rank=1)
    predicted = inference_footprint(arch, batch=2, seq_len=24, sharding=2, rank=1, **asked)
    assert predicted.total_bytes == ledger.peak_bytes, (predicted.parts, ledger.at_peak())


def test_a_vocabulary_that_does_not_divide_is_filled_up():
    """The rank with the last words fills its logits up in a copy, which DTensor makes and padded weights spare."""
    arch = dsmem.Architecture.of(TINY | {"vocab_size": 3001})
    ledger = pass_of_a_rank(arch, "fused", rank=1)
    fields = {"batch": 2, "seq_len": 24, "weights": "fp32", "cache": "none"}
    predicted = inference_footprint(arch, sharding=2, rank=1, **fields)
    short, full = (formulas.logits_bytes(2, 24, words, 32) for words in (1500, 1501))
    assert [record.nbytes for record in ledger.at_peak()[:2]] == [2 * full, 2 * full]
    assert predicted.total_bytes + short == ledger.peak_bytes


def pass_of_a_rank(arch, attention, rank):
    """The ledger of one of two tensor ranks: 2 x 24 tokens in FP32."""
    with rank_of(2, rank):
        model = spread(dsmem.build_model(arch, "fp32", "cpu"), dsmem.Sharding(tensor=2), "tensor", "cpu").model
        model.requires_grad_(False).eval()
        tokens = torch.zeros(2, 24, dtype=torch.long)
        with torch.no_grad():
            model(tokens, attention=attention)  # DTensor remembers what it has worked out
            with Ledger(model) as ledger:
                model(tokens, attention=attention)
    return ledger


@pytest.mark.parametrize("model", ["deepseek-r1", "qwen2.5-0.5b", "gpt2", "qwen3-30b-a3b", "deepseek-v2-lite"])
def test_one_rank_is_one_device(model):
    kinds = (
        {},
        {"phase": "decode", "cached_tokens": 50},
        {"attention": "eager"},
        {"weights": "int8", "logits": "last"},
    )
    for asked in kinds:
        alone, rank = (inference_footprint(model, batch=2, seq_len=64, sharding=s, **asked) for s in (None, 1))
        assert alone.instants == rank.instants


@pytest.mark.parametrize("weights", ["bf16", "int8", "int8_w8a8", "fp8", "int4"])
@pytest.mark.parametrize(
    "model, sharding",
    [
        ("deepseek-r1", {"tensor": 8, "expert": 8}),
        ("deepseek-r1", {"tensor": 8, "expert": 8, "attention": "data"}),
        ("deepseek-r1", {"data": 16, "expert": 16, "pipeline": 4}),
        ("qwen3-235b-a22b", {"tensor": 4}),
        ("llama-2-7b", {"tensor": 2, "pipeline": 3}),
        ("gpt2", {"tensor": 2, "pipeline": 2}),
    ],
)
def test_the_weights_of_a_pass_are_those_that_its_rank_lists(model, sharding, weights):
    sharding = dsmem.Sharding.of(sharding)
    for rank in range(0, sharding.ranks, sharding.stage_ranks):
        parts = inference_footprint(model, seq_len=64, weights=weights, sharding=sharding, rank=rank).parts
        held = rank_parameters(model, weights=weights, sharding=sharding, rank=rank)
        assert sum(parts.get(part, 0) for part in WEIGHTS) == sum(held.values())


def test_tensor_ranks_share_heads_and_widths_and_not_the_latent_cache():
    asked = {"batch": 8, "seq_len": 4096, "weights": "fp8", "logits": "last"}
    alone, cut = (inference_footprint("deepseek-r1", sharding=s, **asked) for s in (1, 8))
    assert cut.parts["latent_cache"] == alone.parts["latent_cache"]
    attention = [fp.instants["attention"] for fp in (alone, cut)]
    shrink = {part: attention[0][part] / attention[1][part] for part in attention[1]}
    assert {part for part, ratio in shrink.items() if ratio == 8} >= {"query", "key", "attention_padded", "logsumexp"}
    assert {part for part, ratio in shrink.items() if ratio == 1} >= {"residual", "normed", "rope_tables"}


def test_attention_by_sequences_shares_out_the_latent_cache():
    asked = {"batch": 16, "seq_len": 4096, "weights": "fp8", "logits": "last"}
    cut = inference_footprint("deepseek-r1", sharding={"tensor": 8, "expert": 8}, **asked)
    by_sequence = {"tensor": 8, "expert": 8, "attention": "data"}
    own = inference_footprint("deepseek-r1", sharding=by_sequence, **asked)
    assert own.parts["latent_cache"] * 8 == cut.parts["latent_cache"]
    assert own.instants["router"]["normed"] == 8 * own.instants["router"]["residual"]  # tokens of all ranks
    assert own.instants["add_experts"]["mlp_out"] == own.instants["add_experts"]["residual"]  # and back
    odd = inference_footprint("deepseek-r1", sharding=by_sequence, **asked | {"batch": 17})
    assert odd.parts["latent_cache"] == own.parts["latent_cache"] // 2 * 3  # one rank has three sequences


def test_replicas_bring_their_tokens_together_for_the_experts():
    one = inference_footprint("deepseek-r1", batch=1, seq_len=4096, weights="fp8", sharding={"data": 8, "expert": 8})
    at = one.instants["experts.gate_up_proj"]
    assert at["tokens_gathered"] == 8 * at["residual"]
    assert at["expert_rows"] == 8 * at["residual"]  # each token's 8 choices, spread evenly over 8 ranks


def test_each_stage_has_its_end():
    stages = stage_footprints("llama-2-7b", seq_len=128, sharding={"pipeline": 4, "tensor": 2})
    assert list(stages) == [0, 2, 4, 6]
    assert [("lm_head" in fp.instants, "all_reduce embed_tokens" in fp.instants) for fp in stages.values()] == [
        (False, True),
        (False, False),
        (False, False),
        (True, False),
    ]
    caches = [fp.instants["mlp" if "mlp" in fp.instants else "add_mlp"]["kv_cache"] for fp in stages.values()]
    whole = inference_footprint("llama-2-7b", seq_len=128).parts["kv_cache"]
    assert caches == [whole // 8] * 4


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("cache", ["static", "paged"])
def test_the_cache_of_a_rank_is_that_of_its_pass(phase, cache):
    asked = {"batch": 16, "seq_len": 1000, "weights": "bf16", "cache": cache, "phase": phase}
    for model, spread in (("deepseek-r1", 8), ("deepseek-r1", {"tensor": 8, "attention": "data"}), ("llama-2-7b", 8)):
        held = rank_cache(model, sharding=spread, **asked)
        parts = inference_footprint(model, sharding=spread, **asked).parts
        assert held == {part: parts[part] for part in held}


def test_context_ranks_share_out_the_tokens():
    asked = {"batch": 3, "seq_len": 1001, "weights": "bf16"}
    one, many = (rank_cache("deepseek-r1", sharding={"context": c}, **asked)["latent_cache"] for c in (1, 4))
    assert one == 3 * 1001 * 70_272 and many == 3 * 251 * 70_272
    many = rank_cache("llama-2-7b", sharding={"context": 4, "tensor": 2, "pipeline": 4}, **asked)["kv_cache"]
    assert many == 3 * 251 * 524_288 // (2 * 4)


def test_batches_may_be_arrays():
    batches = np.array([1, 7, 8, 64])
    for sharding in ({"tensor": 8, "expert": 8}, {"tensor": 8, "expert": 8, "attention": "data"}):
        many = inference_footprint("deepseek-r1", batch=batches, seq_len=128, sharding=sharding).total_bytes
        each = [inference_footprint("deepseek-r1", batch=int(b), seq_len=128, sharding=sharding) for b in batches]
        assert list(many) == [fp.total_bytes for fp in each]


def test_what_has_no_formula_is_refused(refuses):
    for fields in ({"data": 8, "zero": 3}, {"context": 2}, {"tensor": 2, "sequence_parallel": True}):
        refuses(lambda fields=fields: inference_footprint("llama-2-7b", sharding=fields), "no formula")
    refuses(lambda: inference_footprint("qwen2.5-0.5b", sharding={"tensor": 2, "attention": "data"}), "head is tied")
    for told in (inference_footprint, training_footprint):
        refuses(lambda told=told: told("qwen2.5-0.5b", rank=1), "rank=1", "without a sharding")
