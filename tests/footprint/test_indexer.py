"""Attention to chosen keys: the indexer's cache, its scores, and passes, against ledger, publishers, transformers."""

import numpy as np
import pytest
import torch
from decoders import CONFIGS, TOKENS, transformers_model
from hypothesis import given, settings
from strategies import cached_workloads, indexed_architectures, with_experts

import dsmem
from dsmem import Architecture, Workload, inference_footprint
from dsmem.footprint import cache_bytes, published_tensors

# DeepSeek-V3.2 and GLM-5 by the sizes that their publishers give
V32 = Architecture.from_config("deepseek-r1").scaled(
    name="deepseek-v3.2", index_n_heads=64, index_head_dim=128, index_topk=2048
)
GLM5 = V32.scaled(
    name="glm-5", num_hidden_layers=78, hidden_size=6144, index_n_heads=32, qk_nope_head_dim=192, v_head_dim=256
)
SHARED = ("full",) * 3 + ("shared", "shared", "shared", "full") * 18 + ("shared",) * 3  # as in GLM-5.2


@pytest.mark.parametrize(
    ("arch", "per_token"),
    [(V32, 85_888), (GLM5, 109_824), (GLM5.scaled(indexer_types=SHARED), 78 * 576 * 2 + 21 * 128 * 2)],
)
def test_a_cached_token_takes_the_latent_and_an_indexers_key(arch, per_token):
    parts = cache_bytes(arch, seq_len=1, weights="bf16")
    assert sum(parts.values()) == per_token
    assert parts["indexer_cache"] == len(arch.indexer_layers) * 128 * 2


@pytest.mark.parametrize("name", ["v3.2", "glm-5"])
@torch.no_grad()
def test_what_is_cached_is_what_transformers_caches(name):
    arch, theirs = Architecture.from_config(CONFIGS[name]), transformers_model(CONFIGS[name])
    layers = theirs(TOKENS, use_cache=True).past_key_values.layers
    held = sum(t.nbytes for layer in layers for t in (layer.keys, layer.values, layer.indexer_keys))
    assert sum(cache_bytes(arch, batch=2, seq_len=11, weights="fp32").values()) == held


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("device", ["fake", "cpu"])
def test_the_total_is_the_ledgers_peak_on_every_cache(phase, device):
    small = {"hidden": 48, "intermediate": 96, "vocab": 200, "head_dim": 16, "rank": 24}

    @given(with_experts(indexed_architectures(**small), 32), cached_workloads(phase=phase, batch=2, seq_len=40))
    @settings(max_examples=8 if device == "fake" else 20)
    def check(arch, work):
        run = dsmem.measure(arch.scaled(index_topk=min(arch.index_topk, 30)), work, device=device)
        assert run.footprint.total_bytes == run.ledger.peak_bytes
        assert set(run.footprint.totals.values()) <= set(run.ledger.timeline().live_bytes.tolist())

    check()


def test_arrays_give_the_same_as_loops_on_both_sides_of_what_is_chosen():
    cached = np.array([0, 5, 2047, 2048, 5000])
    for attention in ("fused", "eager"):
        work = Workload(2, 8, "decode", cached_tokens=cached, weights="bf16", attention=attention)
        loop = [inference_footprint(V32, work.changed(cached_tokens=int(c))).total_bytes for c in cached]
        assert inference_footprint(V32, work).total_bytes.tolist() == loop


def test_one_heads_scores_are_made_in_a_fused_pass_and_all_heads_in_an_eager_one():
    square = 4 * 8192 * 8192
    fused, eager = (
        inference_footprint(V32, seq_len=8192, weights="bf16", attention=a).instants for a in ("fused", "eager")
    )
    assert (fused["index_scores"]["head_scores"], fused["index_scores"]["index_scores"]) == (square, square)
    assert eager["index_scores"]["head_scores"] == 64 * square
    assert fused["choose_keys"]["chosen_keys"] == 8192 * 2048 * 8
    assert fused["attention"]["index_bias"] == square // 2


def test_a_published_file_has_the_indexers_tensors():
    found = published_tensors(V32, "fp8")
    indexer = {
        name.partition(".indexer.")[2]: tensor for name, tensor in found.items() if "layers.7.self_attn.indexer" in name
    }
    assert indexer == {
        "wq_b.weight": ((8192, 1536), "fp8"),
        "wq_b.weight_scale_inv": ((64, 12), "fp32"),
        "wk.weight": ((128, 7168), "fp8"),
        "wk.weight_scale_inv": ((1, 56), "fp32"),
        "k_norm.weight": ((128,), "bf16"),
        "k_norm.bias": ((128,), "bf16"),
        "weights_proj.weight": ((64, 7168), "bf16"),
    }


def test_no_scheme_converts_the_heads_weights():
    kept = dsmem.footprint.weight_formats(V32, weights="fp8")["weights"]
    of_r1 = dsmem.footprint.weight_formats(V32.scaled(index_topk=0), weights="fp8")["weights"]
    assert kept - of_r1 == 2 * 61 * (64 * 7168 + 2 * 128)


def test_a_pass_with_a_shared_index_is_refused_with_the_way_on(refuses):
    arch = GLM5.scaled(indexer_types=SHARED)
    for call in (lambda: inference_footprint(arch), lambda: dsmem.build_model(arch, device="fake")):
        refuses(call, "indexer_types", "share an index", "code='transformers'")


def test_a_cache_that_gives_tokens_up_is_refused(refuses):
    model = dsmem.build_model(V32.scaled(num_hidden_layers=1), "bf16", "fake")
    refuses(lambda: model.new_cache(1, 8, layout="sink"), "layout='sink'", "indexer")
