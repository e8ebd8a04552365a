"""What training holds, by formula, against what papers print and what autograd keeps."""

import pytest
import torch
from small_configs import TINY

import dsmem
from dsmem import formulas
from dsmem.memory.saved import saved_tensors
from dsmem.model.lora import add_lora

GB, GIB = 10**9, 2**30
PER_PARAMETER = {  # bits of weights, gradients, master copy, moments: bytes a parameter, and who says so
    "ZeRO, arXiv 1910.02054": ((16, 16, 32, 32), 16),
    "ml-engineering, gradients in FP32": ((16, 32, 32, 32), 18),
    "Transformer Math 101, AdamW alone": ((0, 0, 32, 32), 12),
    "Transformer Math 101, 8-bit alone": ((0, 0, 32, 8), 6),
    "DeepSeek-V3, arXiv 2412.19437, section 3.3.3, weights in BF16": ((16, 32, 32, 16), 14),
}
GPT3 = {"num_attention_heads": 96, "seq_len": 2048, "hidden_size": 12288}
MT_NLG = {"num_attention_heads": 128, "seq_len": 2048, "hidden_size": 20480}


@pytest.mark.parametrize("name", PER_PARAMETER)
def test_recipes_take_the_published_bytes_a_parameter(name):
    bits, per_parameter = PER_PARAMETER[name]
    assert formulas.training_states_bytes(1000, *bits) == 1000 * per_parameter


def test_zero_counts_120_gb_for_7_5_billion_parameters_and_16_tb_for_a_trillion():
    assert formulas.training_states_bytes(7.5e9, 16, 16, 32, 32) == 120 * GB
    assert formulas.training_states_bytes(10**12, 16, 16, 32, 32) == 16_000 * GB


@pytest.mark.parametrize(("moments", "bits", "gigabytes"), [(2, 32, 60.9), (1, 32, 30.5), (2, 16, 30.5)])
def test_states_of_a_7b_model(moments, bits, gigabytes):
    assert round(formulas.optimizer_states_bytes(7_615_616_512, moments, bits) / GB, 1) == gigabytes


def test_eight_bit_states_of_a_7b_model_save_three_quarters():
    eight = formulas.optimizer_states_8bit_bytes(7_615_616_512, 2)
    assert round(eight / GB, 1) == 15.5
    assert eight / formulas.optimizer_states_bytes(7_615_616_512, 2, 32) == pytest.approx(0.25, abs=0.005)


def test_a_block_keeps_34_and_5_of_its_scores():
    # arXiv 2205.05198: 5 a s / h is 80 for GPT-3 and 64 for MT-NLG
    for model, scores in ((GPT3, 80), (MT_NLG, 64)):
        one = model["seq_len"] * model["hidden_size"]
        assert formulas.block_saved_bytes(batch=1, bits=16, **model) == (34 + scores) * one
    saved = 80 / (34 + 80), 64 / (34 + 64)
    assert [round(share, 2) for share in saved] == [0.70, 0.65]  # what its selective recomputation saves


def test_the_parts_of_a_block_add_up():
    work = {"batch": 3, "seq_len": 7, "bits": 16}
    parts = [
        formulas.attention_saved_bytes(**work, hidden_size=40),
        formulas.scores_saved_bytes(**work, num_attention_heads=5),
        formulas.mlp_saved_bytes(**work, hidden_size=40),
        formulas.norms_saved_bytes(**work, hidden_size=40),
    ]
    assert [parts[0], *parts[2:]] == [each * 3 * 7 * 40 for each in (11, 19, 4)]
    assert formulas.block_saved_bytes(**work, hidden_size=40, num_attention_heads=5) == sum(parts)
    fused = formulas.fused_block_saved_bytes(**work, hidden_size=40, num_attention_heads=5)
    assert fused == sum(parts) - parts[1] + 4 * 3 * 7 * 5


@pytest.mark.parametrize("attention", ["fused", "eager"])
def test_autograd_keeps_of_a_gpt_block_what_the_paper_says(attention):
    heads, width, batch, seq_len = 4, 64, 2, 32
    arch = dsmem.Architecture.of("gpt2").scaled(
        hidden_size=width, num_attention_heads=heads, num_key_value_heads=heads, head_dim=width // heads
    )
    arch = arch.scaled(intermediate_size=4 * width, num_hidden_layers=3, vocab_size=99)
    model = dsmem.build_model(arch, weights="bf16", device="fake").requires_grad_(True)
    model.train().dropout = 0.1
    kept = saved_tensors(lambda: model(torch.zeros(batch, seq_len, dtype=torch.long), attention=attention), model)
    name = "block_saved_bytes" if attention == "eager" else "fused_block_saved_bytes"
    expected = getattr(formulas, name)(batch, seq_len, width, heads, 16)
    statistics = 2 * formulas.layer_norm_statistics_bytes(batch, seq_len)
    assert kept.layers["layers.1"] == expected + statistics


def test_checkpoints_are_one_copy_a_layer():
    # arXiv 2205.05198, table 2: 2 s b h a layer
    assert formulas.checkpoints_bytes(16, 2048, 4096, 32, 16) == 32 * 2 * 16 * 2048 * 4096 == 8 * GIB


def test_the_square_root_of_the_layers_is_the_best_number_of_segments():
    # arXiv 1604.06174, section 4.2: 2 sqrt(n) where a segment's input is as large as what a layer keeps
    kept = {k: formulas.segments_bytes(900, k, 1, 1) for k in range(1, 901)}
    assert min(kept, key=kept.get) == 30 and kept[30] == 60 and kept[1] == 901 == kept[900]


@pytest.mark.parametrize(
    ("layers", "matrices", "rank", "width", "millions"),
    [  # arXiv 2106.09685, tables 2 and 4
        (12, 2, 8, 768, 0.3),  # RoBERTa base
        (24, 2, 8, 1024, 0.8),  # RoBERTa large
        (48, 2, 16, 1536, 4.7),  # DeBERTa XXL
        (96, 2, 1, 12288, 4.7),  # GPT-3
        (96, 2, 8, 12288, 37.7),  # GPT-3
    ],
)
def test_adapters_have_the_published_number_of_parameters(layers, matrices, rank, width, millions):
    assert round(layers * matrices * formulas.lora_params(rank, width, width) / 1e6, 1) == millions


def test_our_adapters_have_as_many():
    # tests/model/test_lora.py holds them against peft's
    arch = dsmem.Architecture.of(TINY)
    linears = arch.linears()
    expected = sum(formulas.lora_params(4, *linears[name][:2]) for name in ("q_proj", "v_proj"))
    model = dsmem.build_model(arch, weights="bf16", device="fake")
    assert add_lora(model, 4, ("q_proj", "v_proj")) == arch.num_hidden_layers * expected
