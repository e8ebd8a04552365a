"""What the kit predicts for a figure that somebody else measured: one predictor for each form of row.

A row is a dict, as `data/measured` or its publisher's file holds it. Every prediction comes from the kit's formulas,
footprint, published tensors and replay; what a report does not say, or what is not modelled, is refused in a sentence.
"""

import math
import re
from collections import Counter
from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Sharding
from dsmem.config.workload import Workload
from dsmem.footprint.checkpoints.gguf import gguf_bytes, gguf_tensors, tensor_bytes
from dsmem.footprint.checkpoints.published import published_tensors
from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.sharded.megatron import megatron_footprint
from dsmem.footprint.stored import cache_bytes, cache_rows, weight_bytes
from dsmem.footprint.training.recipes import bytes_per_parameter
from dsmem.memory.replay import replay
from dsmem.runs.generation import generation_peak
from dsmem.runs.lora_training import lora_peaks
from dsmem.units import GIB, dtype_bits

GGUF_HEADERS = {"deepseek-r1-distill-qwen-7b": 5_953_184}
"""Bytes of a file before its tensors: the published F16 file less its tensors; the same in every mix of one model."""

REPLICATED = (".q_a_proj.", ".kv_a_proj_with_mqa.", ".mlp.gate.", "norm")  # whole on every rank in vLLM


def predict(row: dict) -> dict[str, Any]:
    """{name: bytes} for the figures of a row that are modelled, by the names that the row gives them.

    row: a dict from `measured.rows()`, or as the publisher's file holds it: with "n_ctx" (a cache that llama.cpp
    printed), "input_tokens" (a peak of transformers), "rank" (a training run), "tensor" (ranks of Megatron-LM), "minus"
    (one run less another) or "measured" (a report). The values are bytes, whatever unit the name ends with; a list
    where the row has a list. Raises ValueError, in one sentence, where no figure of the row is modelled.

    >>> predict({"n_ctx": 32768, "cache": "latent q8_0", "kv_mib": 1166.62})
    {'kv_mib': 1223294976}
    """
    found = attempts(row)
    modelled = {name: nbytes for name, nbytes in found.items() if not isinstance(nbytes, str)}
    if not modelled:
        raise ValueError(next(iter(found.values()), f"row={row!r} holds no figure; it must hold at least one"))
    return modelled


def attempts(row: dict) -> dict[str, Any]:
    """{name: bytes, or the sentence that says why it is not modelled} for every figure of a row."""
    form = next((key for key in PREDICTORS if isinstance(row, dict) and key in row), None)
    if form is None:
        raise ValueError(f"row={row!r} is not of a known form; it must be a dict with one of: {', '.join(PREDICTORS)}")
    return {name: _attempt(PREDICTORS[form], row, name) for name in figures(row)}


def figures(row: dict) -> dict[str, Any]:
    """{name: value} of what a row measures."""
    return row["measured"] if "measured" in row else {k: v for k, v in row.items() if k.endswith(("_mib", "_gib"))}


def _attempt(predictor, row, name):
    try:
        return predictor(row, name)
    except ValueError as error:
        return str(error)


# --- One predictor for each form of row -------------------------------------------------------------------------------


def _cache_log(row, name):
    return stored_cache("deepseek-r1", row["n_ctx"], row["cache"])


def _generation(row, name):
    arch = Architecture.of(row["model"].lower().removesuffix("-instruct"))
    return generation_peak(arch, int(row["input_tokens"]), row["format"], int(row["gpus"]))


def _training(row, name):
    if name == "cuda_context_mib":
        raise ValueError("what the driver keeps for a process is measured, not derived: see gaps.CONTEXT_BYTES")
    asked = (row["model"], row["quant"], row["attn"], row["batch"], row["seq"], row["rank"], tuple(row["targets"]))
    peaks = lora_peaks(*asked)
    if name == "process_mib":
        return peaks["peak_reserved"] + round(row["cuda_context_mib"] * 2**20)
    return peaks[name.removesuffix("_mib")]


MEGATRON = {"llama3-70b": "deepseek-r1-distill-llama-70b", "llama3-405b": "llama-3.1-405b"}
NULL_TOKENIZER = 128_256 + 1  # words of Llama 3, and one that the tokenizer of the runs adds


def _megatron(row, name):
    if name != "peak_allocated_mib":
        raise ValueError("what the allocator reserves under Megatron-LM is not replayed")
    arch = Architecture.of(MEGATRON[row["model"]]).scaled(num_hidden_layers=row["layers"], vocab_size=NULL_TOKENIZER)
    arch = arch.scaled(num_key_value_heads=row.get("num_key_value_heads", arch.num_key_value_heads))
    spread = Sharding(tensor=row["tensor"], pipeline=row["pipeline"], data=row["data"])
    ranks = range(0, spread.ranks, spread.stage_ranks)
    peaks = [megatron_footprint(arch, spread, rank).total_bytes for rank in ranks]
    return peaks if len(peaks) > 1 else peaks[0]


def _report(row, name):
    for pattern, predictor in REPORTS.items():
        if re.fullmatch(pattern, name):
            return predictor(row, name)
    raise ValueError(next(reason for pattern, reason in NOT_MODELLED.items() if re.search(pattern, name)))


def _difference(row, name):
    """What one run holds after its step more than another: all that both have alike falls out."""
    arch = Architecture.of((row.get("configs") or {}).get(row["model"], row["model"]))
    more, minus = row["more"], row["minus"]
    if more.get("batch") != minus.get("batch"):
        raise ValueError("what the publisher's own layers keep for backward is not run here")
    return round(held_after_step(arch, more) - held_after_step(arch, minus))


PREDICTORS = {
    "n_ctx": _cache_log,
    "input_tokens": _generation,
    "rank": _training,
    "tensor": _megatron,
    "minus": _difference,
    "measured": _report,
}
"""The key that a row of each form has: (row, name) -> bytes."""


def held_after_step(arch: Architecture, how: dict[str, Any]) -> float:
    """Weights, gradients and AdamW's states, in bytes: of full training in BF16, or of adapters in FP32.

    how: {} or, of LoRA, its lora_rank, lora_targets and the format of the frozen weights; "inference": weights alone.
    """
    if not how:
        return arch.n_params * sum(bytes_per_parameter("adamw", "bf16").values())
    weights = weight_bytes(arch, how.get("weights", "bf16"))
    if how.get("inference"):
        return weights
    linears = arch.linears()
    adapters = sum(formulas.lora_params(how["lora_rank"], *linears[name][:2]) for name in how["lora_targets"])
    return weights + arch.num_hidden_layers * adapters * sum(bytes_per_parameter("adamw", "fp32").values())


# --- Reports ----------------------------------------------------------------------------------------------------------


def stored_cache(arch: Any, tokens: int, words: str) -> int:
    """Bytes of a cache that `words` describe: its format, "expanded" keys and values, a "transposed" copy."""
    arch = Architecture.of(arch)
    kind = next((each for each in ("q8_0", "q4_0", "bf16") if each in words), "fp16")
    layout = "expanded" if "expanded" in words else "latent"
    nbytes = sum(cache_bytes(arch, seq_len=tokens, kv_cache=kind, mla_cache=layout).values())
    if "transposed" in words:
        bits = dtype_bits(kind, "cache")
        nbytes += formulas.transposed_latents_bytes(1, tokens, arch.num_hidden_layers, arch.kv_lora_rank, bits)
    return nbytes


def model_of(row: dict) -> Architecture:
    """The shape of the model that a report names in its own words; V3 and R1 are one shape."""
    name = row["model"]
    if "671B" in name:
        return Architecture.of("deepseek-r1")
    return Architecture.of(f"deepseek-{name.lower()}" if name.startswith("R1-Distill") else name)


def _cache(row, name):
    if not isinstance(row.get("context"), int):
        raise ValueError("how many tokens the cache holds is not stated")
    arch = model_of(row)
    layers = row.get("layers", arch.num_hidden_layers)
    words = f"{row.get('cache', '')} {row.get('engine', '')}"
    parts = row["measured"][name]
    if not isinstance(parts, list):
        return stored_cache(arch.scaled(num_hidden_layers=layers), row["context"], words)
    # whole layers, spread as evenly as they can be
    counts = [layers // len(parts) + (gpu < layers % len(parts)) for gpu in range(len(parts))]
    return [stored_cache(arch.scaled(num_hidden_layers=count), row["context"], words) for count in counts]


def _keys(row, name):
    arch = model_of(row)
    rows, scales = cache_rows(row["cache"], 1, row["context"], *arch.cache_rows()["keys"])
    return arch.num_hidden_layers * (rows + scales) // row["ranks"]


def _pool(row, name):
    usable = re.search(r"([\d.]+) GiB usable", row.get("hardware", ""))
    share = re.search(r"util ([\d.]+)", row.get("engine", ""))
    if not (usable and share and isinstance(row.get("context"), int)):
        raise ValueError("the GPU's usable memory, the share that the engine may take, or the batch is not stated")
    work = Workload(seq_len=row["context"], weights=row["quant"].lower(), cache="none", logits="last")
    return round(float(usable[1]) * float(share[1]) * GIB) - inference_footprint(model_of(row), work).total_bytes


def _gguf(row, name):
    mix = re.match(r"GGUF (F16|BF16|Q8_0|Q4_K_M)\b", row.get("quant", ""))
    if mix is None:
        raise ValueError("which tensor of the file has which type is not stated; its header says so")
    arch = model_of(row)
    nbytes = gguf_bytes(arch, mix[1], doubled_kv_b=_doubled(row))
    return nbytes + GGUF_HEADERS[arch.name] if name == "file_bytes" else nbytes


def _doubled(row):
    return model_of(row).latent and "without the doubled kv_b" not in row["quant"]


def _gguf_on_host(row, name):
    if "CPU only" not in row.get("hardware", ""):
        raise ValueError(NOT_MODELLED["weights"])
    return _gguf(row, name)


def _gguf_on_gpu(row, name):
    if not row["quant"].endswith("experts and embedding on the host"):
        raise ValueError(NOT_MODELLED["weights"])
    tensors = gguf_tensors(model_of(row), "q8_0", _doubled(row))
    here = (each for key, each in tensors.items() if ".experts." not in key and "embed_tokens" not in key)
    return sum(tensor_bytes(*each) for each in here)


def _weights(row, name):
    return weight_bytes(model_of(row), row["quant"].lower())


def _rank_weights(row, name):
    """One rank's share of the weights as vLLM cuts and joins them, each tensor in a block of its own."""
    ranks = int(re.search(r"TP(\d+)", f"{row['hardware']} {row['engine']}")[1])
    blocks = Counter()
    for key, (shape, kind) in published_tensors(model_of(row), row["quant"].lower(), mtp=False).items():
        nbytes = math.prod(shape) * dtype_bits(kind) // 8
        blocks[_joined(key)] += nbytes if any(word in key for word in REPLICATED) else nbytes // ranks
    return replay([(key, nbytes, key) for key, nbytes in blocks.items()]).peak_allocated_bytes


def _joined(key):
    """The tensor that vLLM keeps this one in: q, k and v are one, gate and up are one, a layer's experts are one."""
    key = re.sub(r"\.experts\.\d+\.", ".experts.", key)
    return re.sub(r"\.[qkv]_proj\.", ".qkv_proj.", re.sub(r"\.(gate|up)_proj\.", ".gate_up_proj.", key))


def _cast(row, name):
    census = model_of(row).census()
    return formulas.tensor_bytes(census["embed_tokens"] + census["lm_head"], dtype_bits("fp32"))


REPORTS = {
    r"kv_pool_gib": _pool,
    r"(gpu_|host_)?kv_\w+": _cache,
    r"keys_gib_per_gpu": _keys,
    r"file_\w+": _gguf,
    r"cpu_weights_mib": _gguf_on_host,
    r"gpu_weights_mib": _gguf_on_gpu,
    r"weights_mib": _weights,
    r"weights_(gib_)?per_(gpu|device)(_gib)?": _rank_weights,
    r"cast_mib": _cast,
}
"""Names of figures in reports, as regular expressions, and who predicts them."""

NOT_MODELLED = {
    r"compute|graph": "compute buffers that the engine plans for its own kernels",
    r"sum|required": "a sum with the engine's compute buffers in it",
    r"at_least|^gpu_gb|gpu_total|dram|ram_tb": "a round figure for a split over GPU and host that is not modelled",
    r"used": "a whole process with compute buffers and CUDA context in it",
    r"weights": "which tensor has which type, and which of them lie where, is not stated",
    r"^peak": "MLX's working memory and its 4-bit format are not modelled",
    r"activation": "the batch of the engine's profile run is not stated",
    r"non_torch|host|usable": "what the driver and the engine's process keep beside tensors",
    r"freed": "the allocator's events behind it are not published",
    r"verdict": "a verdict, not bytes",
    r"": "nothing of this name is modelled",
}
"""Why a figure is not modelled, by a regular expression that is searched in its name; the first that fits counts."""
