"""GGUF files, as llama.cpp and ollama load them: the type of every tensor, and its bytes."""

import math
from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.footprint.checkpoints.published import decoder_tensors
from dsmem.units import BLOCK_FORMATS, format_name, one_of

MIXES = ("f32", "f16", "bf16", "q8_0", "q4_k_m")
"""What a file is called after: one type for every matrix, or "q4_k_m", q4_K with some matrices in q6_K."""

ROW_BLOCKS = {"q8_0": 32, "q4_k_m": 256}  # numbers of one row that a block takes
PLAIN_BYTES = {"f32": 4, "f16": 2, "bf16": 2}


def gguf_tensors(arch: Any, mix: str, doubled_kv_b: bool = False) -> dict[str, tuple[tuple, str]]:
    """{name: (shape, type)} of the tensors in a GGUF file of `arch`, named as in this kit; experts one by one.

    arch: whatever `Architecture.of` takes. mix: one of `MIXES`, in any case. doubled_kv_b: whether latent attention's
    kv_b is there a second time, cut into k_b and v_b, as some converters add it. Vectors and routers are float32.
    Raises ValueError for another mix, or a model that llama.cpp mixes by other rules.
    """
    mix = {"fp32": "f32", "fp16": "f16"}.get(format_name(mix), str(mix).lower())
    arch, mix = Architecture.of(arch), one_of("mix", mix, MIXES, "a mix of types")
    _check(arch, mix)
    found = {}
    for name, (shape, _) in decoder_tensors(arch, "bf16", mtp=False).items():
        found[name] = shape, _type(arch, mix, name, shape)
        if doubled_kv_b and ".kv_b_proj." in name:
            found[name.replace("kv_b_proj", "k_b_and_v_b")] = found[name]
    return found


def gguf_bytes(arch: Any, mix: str, doubled_kv_b: bool = False) -> int:
    """Bytes of all tensors of a GGUF file: what llama.cpp prints as the model's size. Left out: the file's header.

    The header holds the vocabulary and the like: 5,953,184 bytes for DeepSeek-R1-Distill-Qwen-7B in every mix.

    >>> gguf_bytes("deepseek-r1-distill-qwen-7b", "q4_k_m") + 5_953_184
    4683073184
    """
    return sum(tensor_bytes(*tensor) for tensor in gguf_tensors(arch, mix, doubled_kv_b).values())


def expert_bytes(arch: Any, mix: str) -> int:
    """Bytes of the routed experts of a GGUF file, all layers together. Arguments and errors as in `gguf_tensors`.

    >>> expert_bytes("deepseek-r1-distill-qwen-7b", "q4_k_m")
    0
    """
    return sum(tensor_bytes(*each) for name, each in gguf_tensors(arch, mix).items() if ".mlp.experts." in name)


def tensor_bytes(shape: tuple, kind: str) -> int:
    """Bytes of one tensor of a GGUF type.

    >>> tensor_bytes((18944, 3584), "q6_K")
    55695360
    """
    elements, nbytes = BLOCK_FORMATS.get(kind) or (1, PLAIN_BYTES[kind])
    return formulas.block_bytes(math.prod(shape), elements, nbytes)


def _type(arch, mix, name, shape):
    """llama.cpp's choice for one tensor (`llama_tensor_get_type` in its `llama-quant.cpp`)."""
    if len(shape) == 1 or ".mlp.gate." in name:
        return "f32"
    if mix != "q4_k_m":
        return mix
    if name.startswith("lm_head") or (arch.tie_word_embeddings and "embed_tokens" in name):
        return "q6_K"
    wide = name.endswith((".v_proj.weight", ".down_proj.weight"))
    return "q6_K" if wide and _more_bits(int(name.split(".")[2]), arch.num_hidden_layers) else "q4_K"


def _more_bits(layer, layers):
    """The first and last eighth of the layers, and every third between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _check(arch, mix):
    """Refuse what llama.cpp stores by rules that are not written here."""
    if arch.gpt_block:
        raise ValueError(
            f"arch={arch.name!r} has learned positions, whose GGUF files are not known here; allowed: families with "
            "rotary positions (footprint.weight_bytes has its bytes in other formats)"
        )
    if arch.indexed:
        raise ValueError(
            f"arch={arch.name!r} has an indexer, whose types in GGUF files are not known; allowed: attention to all "
            "keys (footprint.weight_bytes has its bytes in other formats)"
        )
    rows = [n_in for n_in, _, _ in arch.matrices().values()]
    whole = [each for each in MIXES if not any(n_in % ROW_BLOCKS.get(each, 1) for n_in in rows)]
    if mix not in whole:
        odd = next(n_in for n_in in rows if n_in % ROW_BLOCKS[mix])
        raise ValueError(
            f"mix={mix!r} puts {ROW_BLOCKS[mix]} numbers of a row into a block, which rows of {odd} in {arch.name} do "
            f"not fill; allowed there: {', '.join(whole)}"
        )
    if mix == "q4_k_m" and arch.joined_qkv:
        raise ValueError(
            f"mix={mix!r} of {arch.name} is not known, for llama.cpp mixes joined queries, keys and values by other "
            "rules; allowed there: f32, f16, bf16, q8_0"
        )
    if mix == "q4_k_m" and (arch.num_hidden_layers == 80 or arch.n_routed_experts == 8):
        raise ValueError(
            f"mix={mix!r} of {arch.name} is not known, for llama.cpp mixes 80 layers, and 8 experts, by other rules; "
            "allowed there: f32, f16, bf16, q8_0"
        )
