"""A training step's formula against the ledger of a real step: every instant at which memory is at a height."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_configs import TINY, TINY_LATENT
from steps import check
from strategies import any_architectures, architectures, gpt_architectures, latent_architectures, with_experts

import dsmem
from dsmem.config.training import OPTIMIZERS, Training
from dsmem.config.workload import LINEARS, Workload
from dsmem.footprint.training.step import training_footprint

WIDE = {"intermediate": 96, "vocab": 200}
KERNELS = {"adamw": ("foreach", "loop", "fused"), "adafactor": ("foreach", "loop"), "muon": ("foreach", "loop")}
STEPS = [(name, kernel) for name in OPTIMIZERS for kernel in KERNELS.get(name, ("foreach",))]


@settings(max_examples=30)
@given(
    arch=any_architectures(width=48, **WIDE),
    work=st.builds(
        Workload,
        batch=st.integers(1, 3),
        seq_len=st.integers(2, 40),
        weights=st.sampled_from(("bf16", "fp16", "fp32")),
        attention=st.sampled_from(("fused", "expanded", "eager")),
        cache=st.just("none"),
    ),
    checkpointing=st.sampled_from(("none", "full", "selective")),
    optimizer=st.sampled_from(STEPS),
    precision=st.sampled_from(("pure", "master", "autocast")),
    at_once=st.booleans(),
)
def test_every_height_of_a_step_is_an_instant_of_the_formula(arch, work, checkpointing, optimizer, precision, at_once):
    assume(min(arch.hidden_size, arch.intermediate_size, arch.vocab_size) > 1)
    training = Training(
        *optimizer, precision, checkpointing=checkpointing, step_in_backward=at_once and optimizer[0] != "none"
    )
    try:
        training_footprint(arch, work, training)
    except ValueError as error:
        assert "no formula in training" in str(error)
        assume(False)
    check(arch, work, training)


@pytest.mark.parametrize("precision", ["pure", "master", "autocast"])
@pytest.mark.parametrize("kernel", ["foreach", "loop", "fused"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("config", [TINY, TINY_LATENT], ids=["dense", "latent, experts"])
def test_every_kernel_of_the_optimizers_makes_what_the_formula_says(config, optimizer, kernel, precision):
    # few tokens, so that the step itself is higher than backward
    work = Workload(batch=1, seq_len=4, weights="bf16", cache="none")
    check(dsmem.Architecture.of(config), work, Training(optimizer, kernel, precision))


MIXED = {"precision": "autocast", "checkpointing": "full"}


@pytest.mark.parametrize(("kernel", "peak"), {"foreach": 141.85, "loop": 117.54, "fused": 113.51}.items())
def test_a_7b_model_in_mixed_precision_peaks_where_a_ledger_of_transformers_has_it(kernel, peak):
    # the numbers are those of tests/runs/test_training.py
    fp = training_footprint("qwen2.5-7b", seq_len=2048, optimizer_kernel=kernel, **MIXED)
    assert round(fp.total_bytes / 2**30, 2) == peak
    assert fp.peak_phase == ("backward" if kernel == "fused" else "optimizer step")


@pytest.mark.parametrize("weights", ["bf16", "fp16"])
@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_under_autocast_products_run_on_casts(checkpointing, attention, weights):
    work = Workload(batch=2, seq_len=8, weights=weights, attention=attention, cache="none")
    arch = dsmem.Architecture.of(TINY).scaled(qkv_bias=True, qk_norm=True, tie_word_embeddings=True)
    check(arch, work, Training("none", precision="autocast", checkpointing=checkpointing))


LATE = TINY_LATENT | {"num_hidden_layers": 3, "first_k_dense_replace": 2}


@pytest.mark.parametrize("precision", ["pure", "autocast"])
@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize(
    "config, targets",
    [
        (TINY, ("q_proj", "k_proj", "v_proj", "o_proj")),
        (TINY, ("down_proj",)),  # attention of the first layer keeps nothing
        (TINY, ("lm_head",)),  # and here no layer does
        (TINY_LATENT, ("o_proj", "kv_b_proj", "gate_proj")),
        (LATE | {"n_shared_experts": 1, "joined_gate_up": False}, ("gate_proj",)),
    ],
)
def test_what_is_frozen_has_no_gradient_and_nothing_before_the_first_adapter_keeps_a_thing(
    config, targets, checkpointing, precision
):
    work = Workload(batch=2, seq_len=4, weights="bf16", cache="none")
    training = Training("adamw", "loop", precision, checkpointing=checkpointing, lora_rank=2, lora_targets=targets)
    check(dsmem.Architecture.of(config), work, training)


@pytest.mark.parametrize("weights", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("config", [TINY, TINY_LATENT], ids=["dense", "latent, experts"])
def test_a_quantized_base_is_copied_in_forward_and_again_in_backward(config, weights):
    work = Workload(batch=2, seq_len=8, weights=weights, activations="bf16", cache="none")
    training = Training("sgd", precision="autocast", lora_rank=2, lora_targets=("k_proj", "o_proj", "down_proj"))
    for checkpointing in ("none", "full"):
        check(dsmem.Architecture.of(config), work, Training.of(training, checkpointing=checkpointing))


PLAIN = {"attention_sinks": False, "expert_bias": False, "swiglu_limit": None}
PLAIN |= {"scale_emb": 1.0, "scale_depth": None, "dim_model_base": None}
SMALL = {"hidden": 64, "head_dim": 32} | WIDE


@settings(max_examples=20)
@given(
    arch=st.one_of(
        architectures(**SMALL),
        gpt_architectures(**SMALL),
        with_experts(latent_architectures(**SMALL), 48),
    ).map(lambda arch: arch.scaled(**PLAIN)),
    seq_len=st.integers(2, 20),
    weights=st.sampled_from(("bf16", "fp16", "int8")),
    attention=st.sampled_from(("fused", "expanded", "eager")),
    checkpointing=st.sampled_from(("none", "full", "selective")),
    precision=st.sampled_from(("pure", "autocast", "master")),
    rank=st.integers(1, 4),
    targets=st.sets(st.sampled_from(LINEARS), min_size=1, max_size=9).map(tuple),
    adapters=st.sampled_from((None, "bf16", "fp16")),
)
def test_every_height_of_a_step_of_adapters_is_an_instant_of_the_formula(
    arch, seq_len, weights, attention, checkpointing, precision, rank, targets, adapters
):
    assume(min(arch.hidden_size, arch.intermediate_size, arch.vocab_size) > 1)
    work = Workload(2, seq_len, weights=weights, attention=attention, cache="none")
    lora = {"lora_rank": rank, "lora_targets": targets, "lora_weights": adapters}
    training = Training("adamw", "loop", precision, checkpointing=checkpointing, **lora)
    try:
        training_footprint(arch, work, training)
    except ValueError as error:
        assert "no formula in training" in str(error) or "lora_targets" in str(error)
        return
    check(arch, work, training)


@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_dropout_of_a_gpt_block_keeps_its_masks(attention, checkpointing):
    arch = dsmem.Architecture.of("gpt2").scaled(
        hidden_size=48, num_attention_heads=4, num_key_value_heads=4, head_dim=12
    )
    arch = arch.scaled(intermediate_size=192, num_hidden_layers=2, vocab_size=99)
    work = Workload(batch=2, seq_len=16, weights="bf16", attention=attention, cache="none")
    check(arch, work, Training(dropout=0.1, checkpointing=checkpointing))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"precision": "autocast", "weights": "fp32"}, ["precision='autocast' of FP32 weights"]),
        ({"lora_rank": 8, "lora_targets": ("qkv_proj",)}, ["lora_targets=('qkv_proj',)", "qwen2.5-0.5b"]),
        ({"lora_rank": 8, "weights": "fp16", "lora_weights": "bf16"}, ["lora_weights='bf16' beside fp16"]),
        ({"lora_rank": 8, "weights": "int8_w8a8"}, ["weights='int8_w8a8'"]),
        ({"sharding": 2}, ["sharding=2", "'data': 8"]),
        ({"seq_len": 1}, ["seq_len=1"]),
        ({"phase": "decode", "cache": "static"}, ["phase='decode'"]),
        ({"weights": "int8"}, ["weights='int8'"]),
        ({"optimiser": "adamw"}, ["field='optimiser'"]),
    ],
)
def test_what_has_no_formula_is_refused_by_name_with_the_way_on(fields, words, refuses):
    refuses(lambda: training_footprint("qwen2.5-0.5b", **fields), *words)


def test_a_step_of_the_largest_model_is_told_in_a_second_and_over_arrays():
    fp = training_footprint("deepseek-r1", batch=np.array([1, 2, 8]), seq_len=4096, checkpointing="full")
    one = training_footprint("deepseek-r1", batch=8, seq_len=4096, checkpointing="full")
    assert fp.total_bytes[2] == one.total_bytes and fp.phases["forward"][2] == one.phases["forward"]
