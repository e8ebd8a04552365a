"""Deployments: the article's with their margins, and those that people published, which all are said to fit."""

import re

import numpy as np
import pytest

import dsmem
from dsmem.config.hardware import GPUS
from dsmem.footprint.checkpoints.gguf import gguf_bytes
from dsmem.footprint.fit.engines import llama_cpp, vllm
from dsmem.footprint.fit.verdict import fit
from dsmem.runs.measured import compare, rows
from dsmem.units import GIB

GPT3 = {  # 175B: 96 layers of width 12,288, as GPT-3's paper has them (arXiv 2005.14165, table 2.1)
    "model_type": "gpt2",
    "n_embd": 12_288,
    "n_layer": 96,
    "n_head": 96,
    "n_positions": 2048,
    "vocab_size": 50_257,
}


# --- The article's ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "model", "fields", "spare_gib"),
    [
        ("RTX 4090", "llama-2-13b", {"weights": "int8", "batch": 1, "seq_len": 512}, 9.7),
        ("RTX 4090", "llama-2-7b", {"weights": "fp16", "batch": 4, "seq_len": 1024}, 8.0),
        ("RTX 4090", "deepseek-r1-distill-qwen-7b", {"weights": "fp16", "batch": 4, "seq_len": 1024}, 7.2),
        ("T4", "deepseek-r1-distill-qwen-7b", {"weights": "int8", "seq_len": 2048}, 5.2),
        ("Jetson AGX Orin 32 GB", "deepseek-r1-distill-qwen-7b", {"weights": "int8", "seq_len": 2048}, 20.1),
        ("Jetson AGX Orin 32 GB", "deepseek-r1-distill-qwen-7b", {"weights": "int4", "seq_len": 2048}, 23.2),
        ("p4d.24xlarge", "llama-1-65b", {"weights": "fp16", "batch": 1, "seq_len": 2048}, 22.6),
        ("p4d.24xlarge", GPT3, {"weights": "int4", "batch": 1, "seq_len": 2048}, 26.1),
    ],
)
def test_the_articles_deployments_fit_by_a_margin(gpu, model, fields, spare_gib):
    answer = fit(model, gpu=gpu, **fields)
    assert answer.fits and answer.spare_bytes / GIB == pytest.approx(spare_gib, abs=0.3)


def test_what_the_article_says_of_two_machines_and_is_not_so():
    assert not fit("deepseek-r1-distill-qwen-7b", gpu="T4").fits  # 16 bit on a "16 GB" card
    eight_gb = fit("deepseek-r1-distill-qwen-7b", gpu=("8 GB card", "8 GiB"), weights="int8", seq_len=512)
    assert not eight_gb.fits and not eight_gb.close
    p4d, p4de = (dsmem.config.devices.devices(name) for name in ("p4d.24xlarge", "p4de.24xlarge"))
    assert p4d.count == p4de.count == 8 and p4de.usable_bytes > 2 * p4d.usable_bytes - 2**30


# --- Others' ----------------------------------------------------------------------------------------------------------


def deployments():
    return {row["id"]: row for row in rows() if row["set"] == "r1_deployments"}


def gguf(row):
    """GiB of the file that a report names."""
    return f"{re.search(r'([0-9.]+) GiB', row['quant'])[1]} GiB"


def host(row, ram, gpu="L4"):
    """Experts on a machine's memory: what its file needs there, and what one GPU takes of R1 beside them."""
    assert GIB * float(re.search(r"[0-9.]+", gguf(row))[0]) < ram
    mix = dict(weights="q8_0", experts_on_host=True, seq_len=row["context"])
    return llama_cpp("deepseek-r1", gpu, kv_cache="q8_0" if row["cache"] == "q8_0" else "fp16", **mix)


R1, V2 = "deepseek-r1", 256 * GIB
RUNS = {  # by the row's number: what was run, asked of the kit
    1: lambda row: host(row, V2),
    3: lambda row: fit(R1, gpu=("CPU, two sockets", 768 * GIB), weights="q8_0", seq_len=512, mla_cache="expanded"),
    4: lambda row: fit(R1, gpu=("CPU", 768 * GIB), weights="q8_0", seq_len=2048, kv_cache="q8_0"),
    6: lambda row: llama_cpp(R1, "15 x RTX 3090", weight_bytes=gguf(row), seq_len=163_840),
    7: lambda row: llama_cpp(R1, "16 x RTX 3090", weight_bytes=gguf(row), seq_len=16_384),
    9: lambda row: llama_cpp(R1, ("RAM", V2), weight_bytes=gguf(row), seq_len=163_840, kv_cache="q8_0"),
    10: lambda row: host(row, 512 * GIB, "2 x RTX 4090"),
    12: lambda row: llama_cpp(R1, ("RAM", 1024 * GIB), weights="q4_k_m", seq_len=163_840),
    13: lambda row: llama_cpp(R1, "RTX 4090", weights="q4_k_m", seq_len=8192, experts_on_host=True),
    14: lambda row: llama_cpp(R1, "RTX 4090", weights="q4_k_m", seq_len=8192, experts_on_host=True),
    15: lambda row: llama_cpp(R1, "RTX 4090", weights="q4_k_m", seq_len=139_000, experts_on_host=True),
    16: lambda row: fit("deepseek-v3.2", gpu="L40S", weights="int4", seq_len=4096).change.answer,
    18: lambda row: fit(R1, gpu=("Gaudi", "94.62 GiB"), count=8, weights="fp8", seq_len=4096),
    20: lambda row: llama_cpp(R1, "16 x RTX 3090", weight_bytes=f"{16 * 19.5904} GiB", seq_len=4096),
    21: lambda row: llama_cpp(R1, ("any", "416 GiB"), weights="q4_k_m", seq_len=2048),
    22: lambda row: fit(R1, gpu="Apple M3 Ultra 512 GB", weights="q4_k_m", seq_len=13_860, logits="last"),
    24: lambda row: llama_cpp("deepseek-r1-distill-qwen-7b", "RTX 4090", weights="f16"),
    26: lambda row: llama_cpp("deepseek-r1-distill-qwen-7b", "RTX 3060", weights="q4_k_m"),
    27: lambda row: vllm("deepseek-r1-distill-qwen-14b", "2 x RTX 4090", weights="bf16"),
    28: lambda row: vllm("deepseek-r1-distill-qwen-14b", "A100 80 GB", seq_len=8192, weights="bf16"),
    30: lambda row: llama_cpp("deepseek-r1-distill-qwen-14b", ("desktop", "16 GiB"), seq_len=8192),
}
ELSEWHERE = {23: "LoRA on 1.2 TB of host memory, whose split is not modelled", 31: "a run that spills to host memory"}


def test_every_published_deployment_is_asked_or_says_why_not():
    assert set(deployments()) == set(RUNS) | set(ELSEWHERE) and len(deployments()) == 23


@pytest.mark.parametrize("number", RUNS)
def test_a_deployment_that_is_known_to_run_is_said_to_fit(number):
    answer = RUNS[number](deployments()[number])
    assert answer.fits, str(answer)


def test_the_one_that_spills_does_so_with_some_context():
    """R1-Distill-Qwen-32B in 4 bit on an RTX 4090: 24 GB hold it, and some thousand tokens, no more."""
    short, long = (llama_cpp("deepseek-r1-distill-qwen-32b", "RTX 4090", seq_len=n) for n in (8192, 32_768))
    assert short.fits and not long.fits


@pytest.mark.parametrize("fields", [{}, {"logits": "last"}, {"phase": "decode"}, {"kv_cache": "fp8", "logits": "last"}])
def test_r1_in_fp8_does_not_fit_eight_h100(fields):
    answer = fit(R1, gpu="8 x H100", weights="fp8", seq_len=4096, **fields)
    assert not answer.fits and not answer.close
    assert fit(R1, gpu="8 x H200", weights="fp8", seq_len=4096, **fields).fits


def test_each_figure_that_formulas_reach_is_within_one_per_cent_and_the_rest_says_what_the_engine_adds():
    found = compare(deployments().values())
    far = [line for line in found.modelled if abs(line.error) > 0.01]
    assert (
        [line.name for line in far] == ["kv_pool_gib"] and abs(far[0].error) < 0.04 and "CUDA graphs" in far[0].reason
    )
    assert all(line.reason for line in found.not_modelled) and len(found.modelled) >= 15


# --- Engines ----------------------------------------------------------------------------------------------------------


def test_vllms_pool_is_what_it_printed_but_for_its_own_buffers():
    found = vllm("deepseek-r1-distill-qwen-14b", "A100 80 GB", seq_len=8192, weights="bf16")
    printed = 41.96 * GIB  # vLLM 0.28, and it says less than this, for its own buffers are not in ours
    assert printed < found.numbers["blocks"] * found.numbers["block bytes"] < 1.03 * printed
    assert found.numbers["requests"] == found.numbers["blocks"] // 512
    assert "CUDA graphs" in found.notes[0]


def test_vllms_weights_of_a_rank_are_what_it_printed():
    found = vllm("deepseek-r1-distill-qwen-14b", "2 x RTX 4090", weights="bf16")
    weights, blocks = found.parts["weights"] / GIB, found.parts["segments"] / GIB
    assert weights < 13.9476 < weights + blocks and blocks < 0.02 * weights


def test_llama_cpps_weights_and_cache_of_a_file():
    one = llama_cpp("deepseek-r1-distill-qwen-7b", "RTX 3090", weights="q8_0", seq_len=8192)
    two = llama_cpp("deepseek-r1-distill-qwen-7b", "2 x RTX 3090", weights="q8_0", seq_len=8192)
    assert one.parts["weights"] + one.host_bytes == gguf_bytes("deepseek-r1-distill-qwen-7b", "q8_0")
    assert one.parts["kv_cache"] == 8192 * 57_344 == 2 * two.parts["kv_cache"]
    assert one.parts["weights"] / 2 < two.parts["weights"] < 0.6 * one.parts["weights"]
    r1 = llama_cpp("deepseek-r1", "L4", weights="q8_0", experts_on_host=True, doubled_kv_b=True)
    assert r1.parts["weights"] / 2**20 == pytest.approx(17_744.02, abs=0.05)  # as ik_llama.cpp printed it


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vllm(R1, "T4", utilization=1.5), ("utilization=1.5",)),
        (lambda: vllm(R1, "T4", utilization="x"), ("utilization",)),
        (lambda: vllm(R1, "T4", seq_len=0), ("seq_len=0",)),
        (lambda: llama_cpp("deepseek-r1-distill-llama-70b", "T4"), ("q4_k_m", "80 layers")),
        (lambda: llama_cpp(R1, "T4", weights="iq2_xs"), ("iq2_xs",)),
        (lambda: llama_cpp(R1, "T4", weight_bytes="many"), ("weight_bytes='many'",)),
    ],
)
def test_nonsense_is_one_sentence(call, words, refuses):
    refuses(call, *words)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vllm("qwen2.5-7b", "T4", training=True), ("field='training'", "weights")),
        (lambda: vllm("qwen2.5-7b", "T4", cache="static"), ("field='cache'",)),
        (lambda: vllm("qwen2.5-7b", "T4", utilization=np.array([0.9])), ("utilization",)),
        (lambda: llama_cpp("qwen2.5-7b", "T4", batch=[1, 2]), ("batch=[1, 2]",)),
        (lambda: llama_cpp("qwen2.5-7b", "T4", kv_cache="fp8"), ("kv_cache='fp8'", "q8_0, q4_0")),
        (lambda: llama_cpp("qwen2.5-7b", "T4", experts_on_host=True), ("experts_on_host=True", "qwen2.5-7b")),
        (lambda: llama_cpp("deepseek-r1", "T4", experts_on_host="yes"), ("experts_on_host='yes'",)),
        (lambda: llama_cpp("deepseek-r1", "T4", experts_on_host=True, weight_bytes="9 GiB"), ("weight_bytes='9 GiB'",)),
    ],
)
def test_an_engine_refuses_what_would_change_nothing(call, words, refuses):
    refuses(call, *words)


def test_engines_say_what_is_not_published_and_take_their_own_spellings():
    assert all("ROCm" in engine("qwen2.5-7b", "MI300X").notes[-1] for engine in (vllm, llama_cpp))
    spelled = [
        llama_cpp("qwen2.5-7b", "T4", weights=w, kv_cache=c).parts for w, c in (("f16", "f16"), ("fp16", "fp16"))
    ]
    assert spelled[0] == spelled[1]


def test_a_block_of_expanded_latents_has_all_heads():
    latent, expanded = (
        vllm("deepseek-r1", "8 x H200", weights="fp8", mla_cache=kept).numbers["block bytes"]
        for kept in ("latent", "expanded")
    )
    # 512 + 64 numbers on every rank; of 128 heads in eight shares 192 + 128 each
    assert latent == 61 * 16 * 576 * 2 and expanded == 61 * 16 * (128 // 8) * (192 + 128) * 2


# --- Which ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "best"),
    [
        ("8 x H200", ("deepseek-r1", "fp8")),
        ("Apple M3 Ultra 512 GB", ("deepseek-r1", "q4_k_m")),
        ("H200", ("deepseek-r1-distill-llama-70b", "bf16")),
        ("RTX 4090", ("deepseek-r1-distill-qwen-32b", "q4_k_m")),
        ("T4", ("deepseek-r1-distill-qwen-14b", "q4_k_m")),
    ],
)
def test_which_of_them_on_my_gpu(gpu, best):
    table = dsmem.which(gpu)
    assert (table.column("model")[0], table.column("weights")[0]) == best and len(table) == 7
    assert " ".join(best[:1]) in table.title and table.column("fits")[0] == "yes"
    for model, weights, verdict, needed, spare, *_, count in table:
        where = f"{count} x {gpu.removeprefix('8 x ')}"  # 28 heads are not cut in eight
        assert count == (8 if gpu.startswith("8") else 1) or "qwen-7b" in model or "qwen-1.5b" in model
        answer = fit(model, gpu=where, weights=weights, seq_len=4096, logits="last")
        assert (answer.fits, answer.needed_bytes, answer.spare_bytes) == (verdict == "yes", needed, spare)


def test_which_takes_other_models_and_formats():
    table = dsmem.which("T4", models=["qwen2.5-0.5b", "qwen2.5-7b"], formats=["fp16"], seq_len=128)
    assert table.column("fits") == ["yes", "close"] and GPUS["T4"].name in table.title
