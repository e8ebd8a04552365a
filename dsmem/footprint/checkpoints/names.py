"""Tensors by the names that publishers give them: the part of a model that each is of, and what is packed in it."""

import functools
import re
from collections.abc import Mapping

from dsmem.footprint.checkpoints.headers import StoredTensor

PARTS = {  # the first that matches; names of transformers, of DeepSeek's and Mistral's own files, and of llama.cpp
    "weight_scales": r"[._](weight|input|output|[qkv])_scale(_inv|_2)?$|_(global_scale|zero_point)$"
    r"|_proj_scale(s|_inv)?$|\.(weight_shape|weight_g_idx|scales|qzeros|g_idx|SCB|weight_format)$|(?<!norm)\.scale$"
    r"|\.weight\.((nested_)?(absmax|quant_map)|quant_state\..*)$",
    "buffers": r"(inv_freq|e_score_correction_bias|\.attn\.(masked_)?bias|position_ids|exp_probs_b\.bias)$"
    r"|rope_freqs\.weight$",
    "mtp": r"(^|\.)(mtp|nextn|eh_proj|enorm|hnorm|shared_head)(\.|$)",
    "vision": r"(^|\.)(vision|visual|image|multi_modal|patch_merge)|^(v|mm)\.",
    "audio": r"(^|\.)(audio|speech|sound)|^a\.",
    "shared_experts": r"shared_experts?\.|_shexp\.|shared_mlp\.",
    "experts": r"[._]experts[._]|_exps\.",
    "router": r"\.(gate|router|router\.\w+|ffn_gate_inp|shared_expert_gate)\.(weight|bias)$",
    "norms": r"(norm\w*|ln_?\w*)\.(weight|bias|scale)$",
    "lm_head": r"(^|\.)lm_head\.|^(output|head|score)\.\w+$",
    "embed_tokens": r"(^|\.)(embed_tokens\w*|embed|wte|wpe|token_embd|tok_embeddings|word_embeddings|embeddings)\.",
    "attention": r"attn|attention",
    "mlp": r"(^|[._])(mlp|ffn\w*|feed_forward|fc1|fc2)\.",
}
OTHER = "other"
_PAIRED = (  # how the name of a tensor with two numbers in a byte ends, and that of the scales beside it
    ("_blocks", "_scales"),
    (".weight_packed", ".weight_scale"),
    (".weight", ".weight_scale"),
    ("_proj", "_proj_scale"),
    (".weight", ".weight.absmax"),
)
_WORDS = (".qweight", ".weight_packed")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def part_of(name: str, layers: int | None = None) -> str:
    """The part of a model that a tensor belongs to, by its name: a key of `PARTS`, or "other".

    layers: the model's number of layers, where it is known: a layer beyond them predicts further tokens ("mtp").

    >>> part_of("model.layers.3.mlp.experts.255.down_proj.weight"), part_of("blk.3.ffn_gate_exps.weight")
    ('experts', 'experts')
    """
    found = _part(re.sub(r"\.\d+(?=\.)", ".0", name))
    if found not in ("weight_scales", "buffers") and layers is not None:
        layer = _LAYER.search(name)
        return "mtp" if layer and int(layer[1]) >= layers else found
    return found


@functools.cache  # a model has a hundred thousand names, and few that differ in more than numbers
def _part(name):
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), OTHER)


def numbers_in(tensor: StoredTensor, beside: Mapping[str, str], bits: int | None) -> tuple[int | None, str]:
    """(numbers of the model that a tensor holds, their format): scales, tables and buffers hold none.

    beside: {name: format} of all tensors beside it. bits: of a number in words of 32 bit (AWQ, GPTQ,
    compressed-tensors), where a config says them; without, what is packed in such words is not known: None.

    >>> numbers_in(StoredTensor("a.qweight", (4096, 512), "int32", 8388608, ""), {"a.scales": "fp16"}, 4)
    (16777216, 'int4 in int32')
    """
    if part_of(tensor.name) in ("weight_scales", "buffers"):
        return 0, tensor.element
    if tensor.name.endswith(_WORDS) and tensor.element == "int32":
        return (tensor.elements * 32 // bits, f"int{bits} in int32") if bits else (None, tensor.element)
    if _holds_two(tensor, beside):
        return 2 * tensor.elements, f"4 bit in {tensor.element}"
    return tensor.elements, tensor.element


def _holds_two(tensor, beside):
    """Whether a byte holds two numbers, which a tensor of scales beside it gives away (MXFP4, NVFP4, bitsandbytes)."""
    partners = {tensor.name.removesuffix(end) + partner for end, partner in _PAIRED if tensor.name.endswith(end)}
    if tensor.element == "int8":  # experts of DeepSeek-V4 in MXFP4: a scale is an exponent alone
        return beside.get(tensor.name.removesuffix(".weight") + ".scale") == "f8_e8m0"
    return tensor.element == "uint8" and not partners.isdisjoint(beside)
