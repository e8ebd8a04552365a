"""Experts on the host, attention and cache on the GPU: all bytes are somewhere, and engines' logs say where."""

import json

import pytest

from dsmem.config.source import DATA
from dsmem.footprint.hosted import experts_on_host
from dsmem.footprint.stored import buffer_bytes, cache_bytes, weight_bytes

MIB = 2**20
ROWS = {
    row["id"]: row
    for row in json.loads((DATA / "measured" / "r1_deployments.json").read_text(encoding="utf-8"))["rows"]
}


@pytest.mark.parametrize("arch", ["deepseek-r1", "qwen3-30b-a3b", "deepseek-v2-lite"])
@pytest.mark.parametrize("weights", ["bf16", "fp8", "int4"])
@pytest.mark.parametrize("embedding", ["host", "gpu"])
def test_every_byte_is_in_one_place(arch, weights, embedding):
    split = experts_on_host(arch, seq_len=128, weights=weights, embedding=embedding)
    whole = weight_bytes(arch, weights) + buffer_bytes(arch)
    cache = sum(cache_bytes(arch, seq_len=128, weights=weights).values())
    assert sum(split["gpu"].values()) + sum(split["host"].values()) == whole + cache
    assert ("embed_tokens" in split["host"]) == (embedding == "host")
    assert "experts" in split["host"] and "shared_experts" not in split["host"] and "experts" not in split["gpu"]


def test_r1s_experts_are_58_layers_of_256_times_three_matrices():
    split = experts_on_host("deepseek-r1", seq_len=1, weights="bf16", embedding="gpu")
    assert split["host"] == {"experts": 58 * 256 * 3 * 7168 * 2048 * 2}


@pytest.mark.parametrize("row", [1, 10])
def test_the_cache_on_the_gpu_is_what_ik_llama_printed(row):
    measured = ROWS[row]["measured"]["gpu_kv_mib"]
    split = experts_on_host("deepseek-r1", seq_len=ROWS[row]["context"], weights="fp16", kv_cache="q8_0")
    printed = sum(measured) if isinstance(measured, list) else measured
    assert split["gpu"]["latent_cache"] / MIB == pytest.approx(printed, abs=0.03)  # two GPUs' figures, each rounded up


def test_one_card_of_24_gb_holds_what_is_not_an_expert():
    """Row 1, about 5 bits a weight there by its file's own mix, and row 15, FP8: between 4 bits and 8 of ours."""
    gpu = {weights: sum_of_weights(weights) for weights in ("int4", "fp8")}
    assert gpu["int4"] < ROWS[1]["measured"]["gpu_weights_mib"] * MIB < gpu["fp8"]
    assert ROWS[15]["measured"]["gpu_gb"] * 10**9 > gpu["fp8"]


def sum_of_weights(weights):
    split = experts_on_host("deepseek-r1", seq_len=1, weights=weights, modules_to_not_convert=())["gpu"]
    return sum(size for part, size in split.items() if part not in ("latent_cache", "buffers"))


def test_a_model_without_experts_is_refused(refuses):
    refuses(lambda: experts_on_host("qwen2.5-0.5b", seq_len=1), "routed experts")
    refuses(lambda: experts_on_host("deepseek-r1", seq_len=1, embedding="disk"), "embedding", "disk")
