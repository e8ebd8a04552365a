"""Stored bytes in formats of other libraries: their logs, their tables, and tiny mixtures really loaded with them."""

import warnings

import pytest
import torch
from decoders import CONFIGS

import dsmem
from dsmem.config.workload import EXPERTS
from dsmem.footprint.stored import cache_bytes, weight_bytes
from dsmem.units import GIB, MIB


@pytest.mark.parametrize(("name", "nbytes"), [("qwen3-30b-a3b", 59_761_926_144), ("deepseek-r1", 1_320_264_884_736)])
def test_experts_stay_in_16_bit_in_nf4(name, nbytes):
    assert weight_bytes(name, "nf4") == nbytes  # loaded under transformers 5: bitsandbytes#1849


@pytest.mark.parametrize("name", ["qwen3_moe", "v3", "v3.2"])
@pytest.mark.parametrize("kind", ["nf4", "nf4_double", "int8"])
def test_a_mixture_loaded_with_bitsandbytes_holds_what_is_said(kind, name, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    config = {key: value for key, value in CONFIGS[name].items() if key != "num_nextn_predict_layers"}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    plain.save_pretrained(tmp_path)
    options = {"load_in_8bit": True} if kind == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    how = BitsAndBytesConfig(**options, bnb_4bit_use_double_quant=kind == "nf4_double")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=how, dtype=torch.bfloat16, device_map={"": "cpu"}
        )
    kept = ("lm_head", *EXPERTS) if kind == "int8" else ("lm_head",)
    said = weight_bytes(config, kind, modules_to_not_convert=kept)
    assert sum(weight.nbytes + state_bytes(weight) for weight in model.parameters()) == said


def state_bytes(weight):
    """Scales and tables that bitsandbytes hangs on a weight."""
    state, found = getattr(weight, "quant_state", None), [getattr(weight, "SCB", None)]
    if state is not None:
        found += [state.absmax, state.code]
        found += [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
    return sum(tensor.nbytes for tensor in found if tensor is not None)


def test_a_70b_in_awq_is_what_its_log_says():
    # 4 bits, groups of 128 with a float16 scale and a 4-bit zero point; the loader's log says 37.096 with its buffers
    assert weight_bytes("deepseek-r1-distill-llama-70b", "awq") / GIB == pytest.approx(37.037, abs=0.0005)
    by_group = [weight_bytes("deepseek-r1-distill-llama-70b", "awq", group_size=size) for size in (32, 64, 128)]
    assert by_group == sorted(by_group, reverse=True)


def test_gptq_names_the_group_of_each_input():
    arch = dsmem.Architecture.of("deepseek-r1-distill-llama-70b")
    inputs = sum(n_in * copies for name, (n_in, _, copies) in arch.matrices().items() if name != "lm_head")
    assert weight_bytes(arch, "gptq") - weight_bytes(arch, "awq") == 4 * inputs


def test_each_expert_is_packed_by_itself():
    arch = dsmem.Architecture.of("qwen3-30b-a3b")
    kept = dict(modules_to_not_convert=tuple(name for name in arch.matrices() if name not in EXPERTS))
    one = 3 * 768 * 2048 // 2 + 3 * 768 * 2048 // 16 + 3 * 8
    plain = 2 * (arch.n_params - 48 * 128 * 3 * 768 * 2048)
    assert weight_bytes(arch, "nvfp4", **kept) == plain + 48 * 128 * one


@pytest.mark.parametrize(
    ("kv_cache", "mib"), [("q8_0", 1_166.625), ("q4_0", 617.625), ("fp8_ds_mla", 61 * 656 / 32), ("bf16", 2_196)]
)
def test_r1s_cache_of_32768_tokens(kv_cache, mib):
    assert cache_bytes("deepseek-r1", seq_len=32_768, kv_cache=kv_cache) == {"latent_cache": mib * MIB}


def test_rows_are_padded_to_an_alignment():
    # vLLM pads each token's latent row of 1,152 bytes to a multiple of 256
    padded = cache_bytes("deepseek-v2-lite", seq_len=1024, batch=[1, 2], row_alignment=256)["latent_cache"]
    assert padded.tolist() == [27 * 1024 * 1280, 2 * 27 * 1024 * 1280]
    plain = cache_bytes("llama-2-7b", seq_len=8, kv_cache="int8")
    assert cache_bytes("llama-2-7b", seq_len=8, kv_cache="int8", row_alignment=128) == plain  # 128 bytes a row already


def test_a_row_that_is_not_latent_has_no_fp8_form(refuses):
    refuses(lambda: cache_bytes("llama-2-7b", kv_cache="fp8_ds_mla"), "kv_cache='fp8_ds_mla'", "keys and values")
    narrow = dsmem.Architecture.of("deepseek-v2-lite").scaled(kv_lora_rank=256)
    refuses(lambda: cache_bytes(narrow, kv_cache="fp8_ds_mla"), "no row of 320 numbers", "576")
    refuses(lambda: cache_bytes("deepseek-r1", row_alignment=0), "row_alignment=0")
    refuses(lambda: dsmem.inference_footprint("deepseek-r1", kv_cache="fp8_ds_mla"), "only the size is known")
    refuses(lambda: weight_bytes("llama-2-7b", "awq", group_size=0), "group_size=0")
