"""Attention to chosen keys: the indexer's cache, its scores, and passes, against ledger, publishers, transformers."""

import numpy as np
import pytest
import torch
from decoders import CONFIGS, TOKENS, transformers_model
from hypothesis import given, settings
from strategies import cached_workloads, indexed_architectures, with_experts

import dsmem
from dsmem import Architecture, Workload, inference_footprint
from dsmem.footprint import cache_bytes, cache_growth, find_tensor, gguf_bytes, published_bytes, published_tensors

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


def test_flashmlas_rows_take_their_bytes():
    # 656 of the latent, and of the key 128 in FP8 with a float32 scale
    assert sum(cache_bytes(V32, seq_len=1, kv_cache="fp8_ds_mla").values()) == 61 * (656 + 132)


def test_what_shares_an_index_keeps_no_key_of_its_own():
    growth = cache_growth(GLM5.scaled(indexer_types=SHARED), np.array([100]), 128)
    assert growth["static"].tolist() == [128 * (78 * 576 + 21 * 128) * 2]


def test_whose_scores_they_are_is_found():
    named = [found.what for found in find_tensor("64.00 MiB", V32).candidates]
    assert "indexer scores" in named  # 4,096 by 4,096 tokens in float32


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
    for attention in ("fused", "eager", "eager_fp32"):
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


def test_the_fp8_files_of_glm_5_2_are_counted_to_the_byte():
    # tensors and bytes of the files, the module for a further token included, as a public loader's own test has them
    sizes = {"hidden_size": 6144, "intermediate_size": 12288, "num_attention_heads": 64, "vocab_size": 154880}
    sharing = {"index_topk_freq": 4, "index_skip_topk_offset": 3, "num_nextn_predict_layers": 1}
    found = published_tensors({"model_type": "glm_moe_dsa", "num_hidden_layers": 78} | sizes | sharing, "fp8")
    assert (len(found), published_bytes(found)) == (118_629, 755_617_140_416)


def test_no_scheme_converts_the_heads_weights():
    kept = dsmem.footprint.weight_formats(V32, weights="fp8")["weights"]
    of_r1 = dsmem.footprint.weight_formats(V32.scaled(index_topk=0), weights="fp8")["weights"]
    assert kept - of_r1 == 2 * 61 * (64 * 7168 + 2 * 128)


def test_further_tokens_of_a_last_layer_without_an_indexer_are_refused(refuses):
    arch = GLM5.scaled(indexer_types=SHARED)
    refuses(lambda: dsmem.build_model(arch, device="fake", mtp=True), "mtp=True", "no indexer", "False")


def test_gguf_files_of_it_are_not_known(refuses):
    refuses(lambda: gguf_bytes(V32, "q8_0"), "has an indexer", "GGUF", "allowed")


def test_a_cache_that_gives_tokens_up_is_refused(refuses):
    model = dsmem.build_model(V32.scaled(num_hidden_layers=1), "bf16", "fake")
    refuses(lambda: model.new_cache(1, 8, layout="sink"), "layout='sink'", "indexer")
