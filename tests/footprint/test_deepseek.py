"""Latent attention and experts against transformers; latent against expanded; every cache; footprint and ledger."""

import numpy as np
import pytest
import torch
import transformers
from decoders import CONFIGS, SIZES, TOKENS, close, each_config, theirs_and_ours
from hypothesis import given, settings
from strategies import any_architectures, cached_workloads, latent_architectures, live_after, with_experts, workloads
from transformers import AutoModelForCausalLM

import dsmem
from dsmem import Architecture, Workload, build_model
from dsmem.model import checkpoint, hub, small

R1 = Architecture.from_config("deepseek-r1")


@each_config
@pytest.mark.parametrize("attention", ["fused", "eager"])
@torch.no_grad()
def test_logits_are_those_of_transformers(config, attention):
    theirs, ours = theirs_and_ours(config)
    close(ours(TOKENS, attention=attention), theirs(TOKENS).logits)


@each_config
@pytest.mark.parametrize("layout", ["static", "growing", "paged"])
@pytest.mark.parametrize("mla_cache", ["latent", "expanded"])
@torch.no_grad()
def test_prefill_then_decode_gives_the_logits_of_one_full_pass(config, layout, mla_cache):
    _, ours = theirs_and_ours(config)
    cache = ours.new_cache(2, 16, layout=layout, mla_cache=mla_cache)
    steps = [ours(TOKENS[:, :6], cache=cache), *(ours(TOKENS[:, i : i + 1], cache=cache) for i in range(6, 11))]
    close(torch.cat(steps, dim=1), ours(TOKENS))
    assert cache.length == 11


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@torch.no_grad()
def test_latent_and_expanded_agree_within_rounding(dtype):
    _, ours = theirs_and_ours(CONFIGS["v3"])
    half = build_model(ours.arch, dtype, "cpu")
    checkpoint.fill_from(half, ours.state_dict())
    last = {}
    for mla_cache in ("latent", "expanded"):
        cache = half.new_cache(2, 16, mla_cache=mla_cache)
        half(TOKENS[:, :10], cache=cache)
        last[mla_cache] = half(TOKENS[:, 10:], cache=cache).float()
    gap = (last["latent"] - last["expanded"]).norm() / last["expanded"].norm()
    assert gap < {"fp16": 0.01, "bf16": 0.05}[dtype]


@torch.no_grad()
def test_what_transformers_caches_is_what_we_say_of_its_version():
    theirs, ours = theirs_and_ours(CONFIGS["v3"])
    cached = theirs(TOKENS, use_cache=True).past_key_values.layers[0]
    per_token = cached.keys[0, :, 0].numel() + cached.values[0, :, 0].numel()
    expanded = sum(heads * width for heads, width in ours.arch.cache_rows("expanded").values())
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    assert per_token == (ours.arch.latent_width if release >= (5, 15) else expanded), transformers.__version__


def test_the_small_model_is_cached_by_transformers_as_its_release_does():
    found = hub.cached_numbers(small.small_path("config.json"))
    arch = Architecture.from_config(small.small_path("config.json"))
    both = [sum(heads * width for heads, width in arch.cache_rows(kind).values()) for kind in ("latent", "expanded")]
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    assert found == both[release < (5, 15)], transformers.__version__


@pytest.mark.parametrize(
    ("name", "mla_cache", "per_token"),
    [
        ("deepseek-r1", "latent", 70_272),  # arXiv 2505.09343, table 1
        ("deepseek-r1", "expanded", 4_997_120),
        ("qwen2.5-72b", "latent", 327_680),
        ("llama-3.1-405b", "latent", 516_096),
    ],
)
def test_a_cached_token_takes_the_published_bytes(name, mla_cache, per_token):
    arch = Architecture.from_config(name)
    work = Workload(1, 1, weights="bf16", mla_cache=mla_cache)
    fp = dsmem.inference_footprint(arch, work)
    assert fp.instants["lm_head"]["latent_cache" if mla_cache == "latent" and arch.latent else "kv_cache"] == per_token


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "fp8", "int8"])
@pytest.mark.parametrize("layout", ["static", "growing", "paged"])
@torch.no_grad()
def test_a_decode_loops_cache_is_the_formula_at_every_step(dtype, layout):
    arch = Architecture.from_config(SIZES | CONFIGS["v3"])
    for mla_cache in ("latent", "expanded"):
        model = build_model(arch, "fp32", "cpu")
        cache = model.new_cache(
            2, 24, dtype, layout, mla_cache=mla_cache, **({"block_size": 8} if layout == "paged" else {})
        )
        model(TOKENS, cache=cache)
        for cached in range(11, 14):
            step = Workload(
                2, 24, "decode", cached, "fp32", kv_cache=dtype, cache=layout, mla_cache=mla_cache, block_size=8
            )
            token = TOKENS[:, :1].clone()
            with dsmem.Ledger(model) as ledger:
                model(token, cache=cache)
            fp = dsmem.inference_footprint(arch, step)
            assert ledger.peak_bytes == fp.total_bytes
            held = ("kv_cache", "latent_cache", "cache_scales", "slot_mapping")
            assert cache.nbytes == sum(fp.instants["lm_head"].get(part, 0) for part in held)


@given(any_architectures(), cached_workloads())
@settings(max_examples=150)
def test_the_total_is_the_ledgers_peak_and_every_instant_is_seen(arch, work):
    run = dsmem.measure(arch, work, device="fake")
    assert run.footprint.total_bytes == run.ledger.peak_bytes
    assert set(run.footprint.totals.values()) <= set(run.ledger.timeline().live_bytes.tolist())


# Where the ledger sees an instant of a first layer with latent attention and experts: module, operator, which birth.
ATTENTION, MOE = "layers.0.self_attn", "layers.0.mlp"
LINEARS = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
SHARED = ("shared_experts.gate_proj", "shared_experts.up_proj", "shared_experts.down_proj")
INSTANTS = {
    **{name: (f"{ATTENTION}.{name}", None, 0) for name in LINEARS},
    "q_a_layernorm": (f"{ATTENTION}.q_a_layernorm", "rms_norm", 1),
    "rotate": (ATTENTION, "mul", 0),
    "kv_a_layernorm": (f"{ATTENTION}.kv_a_layernorm", "rms_norm", 1),
    "rotate_key": (ATTENTION, "mul", 1),
    "keys": (ATTENTION, "new_empty", 0),
    "pad_values": (ATTENTION, "constant_pad_nd", 0),
    "attention": (ATTENTION, "attention", 1),
    "trim_heads": (ATTENTION, "clone", 1),
    "add_attention": ("layers.0", "add", 0),
    "router": (f"{MOE}.gate", "mm", 0),
    "route": (f"{MOE}.gate", "_to_copy", 2),
    "experts.gate_up_proj": (f"{MOE}.experts.gate_up_proj", "grouped_linear", 0),
    "experts.silu": (f"{MOE}.experts", "silu", 0),
    "experts.gate_times_up": (f"{MOE}.experts", "mul", 0),
    "experts.down_proj": (f"{MOE}.experts.down_proj", "grouped_linear", 0),
    "experts.sum": (f"{MOE}.experts", "index", 1),
    **{name: (f"{MOE}.{name}", None, 0) for name in SHARED},
    "shared_experts.silu": (f"{MOE}.shared_experts", "silu", 0),
    "shared_experts.gate_times_up": (f"{MOE}.shared_experts", "mul", 0),
    "add_shared_experts": (MOE, "add", 0),
    "add_experts": ("layers.0", "add", 1),
    "lm_head": ("lm_head", None, 0),
}
ABSORBED = INSTANTS | {
    "absorb_queries": (ATTENTION, "cat", 0),
    "scores": (ATTENTION, "bmm", 1),
    "softmax": (ATTENTION, "_softmax", 0),
    "mix_latents": (ATTENTION, "bmm", 2),
    "absorb_output": (ATTENTION, "clone", 1),
}
EAGER = INSTANTS | {
    "widen_keys": (ATTENTION, "clone", 1),
    "widen_values": (ATTENTION, "clone", 2),
    "queries_by_head": (ATTENTION, "clone", 3),
    "scores": (ATTENTION, "bmm", 0),
    "softmax": (ATTENTION, "_softmax", 0),
    "merge_heads": (ATTENTION, "clone", 4),
}


@pytest.mark.parametrize(("places", "phase"), [(INSTANTS, "prefill"), (EAGER, "prefill"), (ABSORBED, "decode")])
def test_every_instant_is_what_the_ledger_holds_there(places, phase):
    attention = "eager" if places is EAGER else "fused"

    @given(with_experts(latent_architectures()), workloads(phase, attention, weights=("bf16", "fp16")))
    @settings(max_examples=40)
    def check(arch, work):
        arch, work = arch.scaled(first_k_dense_replace=0, mlp_only_layers=()), work.changed(kv_cache=None)
        run = dsmem.measure(arch, work)
        assert {name for name in run.footprint.totals} <= places.keys()
        seen = {name: live_after(run.ledger, *places[name]) for name in run.footprint.totals}
        assert run.footprint.totals == seen

    check()


SMALL = {"hidden": 48, "intermediate": 64, "vocab": 200, "head_dim": 16}


@given(with_experts(latent_architectures(rank=32, **SMALL), width=32), cached_workloads(batch=2, seq_len=16))
@settings(max_examples=30)
def test_the_total_is_the_ledgers_peak_on_real_tensors(arch, work):
    run = dsmem.measure(arch, work, device="cpu")
    assert run.footprint.total_bytes == run.ledger.peak_bytes


@pytest.mark.parametrize("weights", ["int8", "int8_w8a8", "fp8", "int4"])
def test_quantized_experts_peak_where_the_ledger_says(weights):
    @given(with_experts(latent_architectures(rank=32, **SMALL), width=32), cached_workloads(batch=2, seq_len=16))
    @settings(max_examples=15)
    def check(arch, work):
        widths = ("hidden_size", "intermediate_size", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim")
        widths = {name: -(-getattr(arch, name) // 8) * 8 for name in (*widths, "moe_intermediate_size")}
        rope = {"head_dim": 8, "qk_rope_head_dim": 8}
        arch = arch.scaled(**widths, **rope, q_lora_rank=arch.q_lora_rank and 16, vocab_size=64)
        work = work.changed(weights=weights, activations="bf16", kv_cache=work.kv_cache)
        for device in ("fake", "cpu"):
            run = dsmem.measure(arch, work, device=device)
            assert run.footprint.total_bytes == run.ledger.peak_bytes

    check()


def test_arrays_give_the_same_as_loops():
    arch = Architecture.from_config(SIZES | CONFIGS["v3"])
    for phase in ("prefill", "decode"):
        for cache in ("static", "growing", "paged"):
            for kv_cache in ("int8", "bf16"):
                options = {"phase": phase, "cache": cache, "kv_cache": kv_cache, "weights": "fp8", "block_size": 4}
                lengths = [1, 2, 5, 9, 64]
                whole = dsmem.inference_footprint(arch, Workload(3, lengths, **options))
                for index, length in enumerate(lengths):
                    one = dsmem.inference_footprint(arch, Workload(3, length, **options))
                    assert {name: total[index] for name, total in whole.totals.items() if np.ndim(total)} == {
                        name: one.totals[name] for name, total in whole.totals.items() if np.ndim(total)
                    }


def test_r1_at_full_size_on_fake_tensors():
    work = Workload(1, 4096, weights="fp8", activations="bf16")
    run = dsmem.measure(R1, work)
    assert run.ledger.peak_bytes == run.footprint.total_bytes
    assert run.ledger.by_category()["kv_cache"] == 4096 * 70_272
    # a hidden s**2 would be 128 heads of 4,096 x 4,096 scores
    assert (
        max(r.nbytes for r in run.ledger.records if r.category in ("activation", "temporary")) < 2 * 128 * 4096**2 // 2
    )
    decode = dsmem.measure(R1, Workload(1, 4097, "decode", weights="fp8", activations="bf16"))
    assert decode.ledger.peak_bytes == decode.footprint.total_bytes


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


def test_a_cache_that_gives_up_more_than_it_holds_is_refused(refuses):
    model = build_model(Architecture.from_config(SIZES | CONFIGS["v3"]), "fp32", "fake")
    refuses(lambda: model.new_cache(1, 4, layout="sink", sink=4), "sink=4", "max_len=4")
    refuses(lambda: model.new_cache(1, 4, layout="swapped"), "layout", "'swapped'", "paged")
    refuses(lambda: model.new_cache(1, 4, mla_cache="both"), "mla_cache", "'both'", "latent, expanded")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts_per_tok": 9}, ("num_experts_per_tok=9", "at most 4")),
        ({"n_group": 3}, ("n_group=3", "n_routed_experts=8")),
        ({"v_head_dim": 64}, ("v_head_dim=64", "at most 20")),
        ({"qk_rope_head_dim": 7}, ("7", "even")),
        ({"kv_lora_rank": 0}, ("kv_lora_rank", "at least 1")),
    ],
)
def test_impossible_shapes_are_refused(change, words, refuses):
    refuses(lambda: Architecture.from_config(SIZES | CONFIGS["v3"] | change), *words)


@torch.no_grad()
def test_a_prefix_goes_from_one_cache_to_another():
    _, ours = theirs_and_ours(CONFIGS["v3"])
    for dtype in ("fp32", "int8"):
        first, second = ours.new_cache(2, 16, dtype), ours.new_cache(2, 12, dtype, "growing")
        ours(TOKENS[:, :9], cache=first)
        second.load(first.tensors())
        close(ours(TOKENS[:, 9:10], cache=second), ours(TOKENS[:, 9:10], cache=first))


def test_a_prefix_that_does_not_fit_is_refused(refuses):
    model = build_model(Architecture.from_config(SIZES | CONFIGS["v3"]), "fp32", "cpu")
    cache = model.new_cache(2, 16)
    model(TOKENS, cache=cache)
    refuses(lambda: model.new_cache(2, 8).load(cache.tensors()), "[11]", "at most 8")
    refuses(lambda: model.new_cache(2, 16, mla_cache="expanded").load(cache.tensors()), "tensors", "names")


def trained(weights):
    return checkpoint.load_model(small.small_path(), weights=weights, activations="bf16")


PIECES = torch.tensor(list(small.small_text()[: 2 * 64])).view(2, 64)


@pytest.mark.parametrize("weights", ["bf16", "int8", "int8_w8a8", "fp8", "int4"])
@pytest.mark.parametrize("mla_cache", ["latent", "expanded"])
@torch.no_grad()
def test_the_trained_model_peaks_where_the_footprint_says(weights, mla_cache):
    model = trained(weights)
    cache, formats = model.new_cache(2, 65, mla_cache=mla_cache), {"weights": weights, "activations": "bf16"}
    model(PIECES, cache=cache)
    token, work = PIECES[:, :1].clone(), Workload(2, 65, "decode", 64, mla_cache=mla_cache, **formats)
    with dsmem.Ledger(model) as ledger:
        model(token, cache=cache)
    assert ledger.peak_bytes == dsmem.inference_footprint(model.arch, work).total_bytes
    tokens, work = PIECES.clone(), Workload(2, 64, cache="none", **formats)
    with dsmem.Ledger(model) as ledger:
        model(tokens)
    assert ledger.peak_bytes == dsmem.inference_footprint(model.arch, work).total_bytes


@pytest.mark.parametrize("weights", ["bf16", "int8", "fp8"])
@torch.no_grad()
def test_the_trained_model_says_the_same_on_latents_and_on_what_comes_of_them(weights):
    model, last = trained(weights), {}
    for mla_cache in ("latent", "expanded"):
        cache = model.new_cache(2, 65, mla_cache=mla_cache)
        model(PIECES[:, :63], cache=cache)
        last[mla_cache] = model(PIECES[:, 63:], cache=cache).float().log_softmax(dim=-1)
    assert (last["latent"] - last["expanded"]).abs().max() < 0.15  # of a nat, in BF16 and after four layers


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="the file names experts as transformers 5")
@torch.no_grad()
def test_the_trained_models_logits_are_those_of_transformers():
    theirs = AutoModelForCausalLM.from_pretrained(small.small_path(), dtype=torch.float32).eval()
    ours = checkpoint.load_model(small.small_path(), weights="fp32")
    torch.testing.assert_close(ours(PIECES), theirs(PIECES).logits, rtol=1e-3, atol=1e-3)
