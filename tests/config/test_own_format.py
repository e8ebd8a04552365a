"""A config that says how its weights are stored is taken at its word where nobody asks for another format."""

import json

import pytest
from decoders import CONFIGS

import dsmem
from dsmem import Architecture, Workload, inference_footprint, measure
from dsmem.config.source import DATA
from dsmem.config.written import config_of

R1 = json.loads((DATA / "models" / "deepseek-r1.json").read_text(encoding="utf-8"))
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
TINY = CONFIGS["v3"] | {"num_nextn_predict_layers": 0}


def weights(fp):
    return sum(fp.parts.get(part, 0) for part in ("weights", "weights_fp8", "weight_scales"))


def test_r1s_own_config_is_in_fp8():
    own = R1 | {"quantization_config": FP8}
    for fp in (inference_footprint(own, Workload()), inference_footprint(own), inference_footprint(own, batch=2)):
        assert weights(fp) == 673_150_552_416  # as published, without the module for further tokens and router biases
        assert "weights fp8, as its config says" in repr(fp).splitlines()[0] and fp.work.weights == "fp8"
    assert sum(dsmem.footprint.weight_formats(own).values()) == 673_150_552_416
    assert weights(inference_footprint(own, weights="bf16")) == 1_342_052_808_704
    assert weights(inference_footprint(R1)) == 1_342_052_808_704 and "config" not in repr(inference_footprint(R1))


def test_a_run_says_so_too():
    run = measure(TINY | {"quantization_config": FP8}, seq_len=8)
    assert run.footprint.total_bytes == run.ledger.peak_bytes and "fp8, as its config says" in str(run)
    assert "fp8, in" not in str(run) and run.work.weights == "fp8"
    asked = measure(TINY | {"quantization_config": FP8}, seq_len=8, weights="fp8")
    assert asked.ledger.peak_bytes == run.ledger.peak_bytes and "config" not in str(asked)
    assert measure(TINY | {"dtype": "float32"}, seq_len=8).work.weights == "fp32"


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ({}, ""),
        ({"dtype": "bfloat16"}, ""),
        ({"torch_dtype": "float32"}, "fp32"),
        ({"dtype": "float32", "quantization_config": FP8}, "fp8"),
        ({"quantization_config": FP8 | {"modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]}}, "fp8"),
        ({"quantization_config": FP8 | {"modules_to_not_convert": ["lm_head", "model.layers.1.self_attn"]}}, "modules"),
        ({"quantization_config": FP8 | {"modules_to_not_convert": ["gate"]}}, "modules"),
        ({"quantization_config": FP8 | {"weight_block_size": [64, 64]}}, "modules"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64}}, "awq (4 bits, groups of 64)"),
        ({"quantization_config": GPTQ}, "gptq"),
        ({"quantization_config": GPTQ | {"bits": 8}}, "gptq (8 bits, groups of 128)"),
        ({"quantization_config": GPTQ | {"group_size": -1}}, "gptq (4 bits)"),
        (
            {"quantization_config": GPTQ | {"modules_in_block_to_not_quantize": ["mlp.down_proj"]}},
            "gptq (4 bits, groups of 128) with modules of its own",
        ),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4 of another family"),
        ({"quantization_config": {"quant_method": "hqq"}}, "hqq"),
        ({"quantization_config": {"quant_algo": "NVFP4", "producer": {"name": "modelopt"}}}, "modelopt"),
    ],
)
def test_what_a_config_says(said, stored):
    found = Architecture.of(TINY | said).stored
    assert found == stored if stored != "modules" else found == "fp8 with modules of its own"


def test_a_format_that_no_pass_is_modelled_in_is_refused_and_another_may_be_asked_for(refuses):
    awq = TINY | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    for call in (inference_footprint, measure, dsmem.footprint.weight_formats):
        refuses(lambda call=call: call(awq, seq_len=8), "awq", "weights=...", "dsmem.checkpoint")
    assert inference_footprint(awq, seq_len=8, weights="int4").total_bytes > 0
    refuses(lambda: Architecture.of(TINY | {"quantization_config": 3}), "quantization_config=3")


def test_a_workload_keeps_whether_its_weights_were_asked_for():
    arch = Architecture.of(TINY | {"quantization_config": FP8})
    own, asked = Workload().on(arch), Workload(weights="fp16").on(arch)
    assert (own.weights, asked.weights) == ("fp8", "fp16")
    assert own.changed(batch=2).weights_words == "fp8, as its config says"
    assert own.changed(weights="int8").weights_words == "int8"
    assert Workload().changed(batch=2).on(arch).weights == "fp8"
    assert Workload(weights="fp16").changed(batch=2).on(arch).weights == "fp16"
    assert Workload() == Workload(weights="fp16") and own == Workload(weights="fp8")
    assert Architecture.of(config_of(arch)) == arch.scaled(stored="")
