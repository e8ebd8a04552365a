"""Published checkpoints: every tensor that one holds, by name, shape and format."""

import math
from collections import Counter
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.names import STACKED, TURNED, published_name
from dsmem.config.quantization import HEAD, Quantization
from dsmem.config.schemes import FP8_TILE as TILE
from dsmem.units import FLOATS, dtype_bits, one_of

DEEPSEEK_FP8 = Quantization("fp8", "fp8_tiles", tile=(TILE, TILE), kept=HEAD)
LINEAR = "linear"  # in place of a format, until it is known whether the layer converts
WITHOUT_COPIES = ("glm_moe_dsa",)  # families whose modules for further tokens take the model's own embedding and head


def published_tensors(
    arch: Any, weights: str | Quantization = "bf16", mtp: bool = True, plain: str = "bf16"
) -> dict[str, tuple[tuple, str]]:
    """Every tensor of a published checkpoint of `arch`: {name: (shape, format)}, names as on the hub.

    arch: whatever `Architecture.of` takes. weights: "fp8" (DeepSeek-V3 and R1: linear layers and experts in E4M3 with
    float32 scales), one float format for all, or a `Quantization`. mtp: with the modules that predict further tokens,
    where the model has them. plain: the format of what does not convert. The router's bias is float32. GPT-2's files,
    which are in "fp32", hold a mask of each layer, too. Raises ValueError for another format.

    >>> r1 = published_tensors("deepseek-r1", "fp8")
    >>> r1["model.layers.3.mlp.experts.255.down_proj.weight_scale_inv"]
    ((56, 16), 'fp32')
    """
    arch = Architecture.of(arch)
    if not isinstance(weights, Quantization):
        one_of("weights", weights, ("fp8", *FLOATS), "a format of a checkpoint")
        plain, weights = (plain, DEEPSEEK_FP8) if weights == "fp8" else (weights, None)
    if arch.gpt_block:
        return _gpt(arch, _unconverted(arch, weights, plain))
    found = decoder_tensors(arch, LINEAR, mtp, plain)
    if arch.expert_bias and getattr(weights, "layout", "") == "mxfp4":
        found, weights = _stacked(arch, found, plain, weights), None  # which converts experts alone
    elif arch.model_type in STACKED:
        found = _stacked(arch, found, _unconverted(arch, weights, plain))
    named = {published_name(arch.model_type, name.removeprefix("model.")): tensor for name, tensor in found.items()}
    return _stored(named, weights, plain)


def _unconverted(arch, quantization, plain):
    """The format of all weights, of a family whose converted files are not known."""
    return one_of("weights", getattr(quantization, "method", plain), FLOATS, f"a format of a checkpoint of {arch.name}")


def decoder_tensors(
    arch: Architecture, weights: str, mtp: bool, plain: str | None = None
) -> dict[str, tuple[tuple, str]]:
    """The same with the kit's own names, experts one by one; `weights` is the format of every linear layer."""
    plain = plain or weights
    found = {"model.embed_tokens.weight": ((arch.vocab_size, arch.hidden_size), plain)}
    for index in range(arch.num_hidden_layers):
        found |= _layer(arch, index, arch.has_experts(index), weights, plain)
    for extra in range(arch.num_nextn_predict_layers if mtp else 0):
        found |= _next_token_module(arch, arch.num_hidden_layers + extra, weights, plain)
    found["model.norm.weight"] = (arch.hidden_size,), plain
    for name, shape in arch.head_linears().items() if not arch.tie_word_embeddings else ():
        found |= _linear(name, *shape, weights if name in HEAD else plain, plain)
    return found


def _stored(named, quantization, plain):
    """The same with what `quantization` stores in place of each linear layer that it converts."""
    found = {}
    for name, (shape, element) in named.items():
        module = name.removesuffix(".weight")
        if element != LINEAR:
            found[name] = shape, element
        elif quantization is None or not quantization.converts(module):
            found[name] = shape, plain
        else:
            n_out, n_in = shape
            found |= {f"{module}.{end}": tensor for end, tensor in quantization.tensors(n_in, n_out).items()}
    return found


def _stacked(arch, found, plain, quantization=None):
    """The same tensors with each layer's experts as one, turned; or as `quantization` has them, which turns none."""
    found = {name: tensor for name, tensor in found.items() if ".experts." not in name}
    for index in arch.expert_layers:
        for name, (experts, n_out, n_in) in arch.expert_stacks().items():
            stack = f"model.layers.{index}.mlp.{name}"
            if quantization is None:
                found[stack] = (experts, n_in, n_out), plain
            for end, (shape, element) in quantization.tensors(n_in, n_out).items() if quantization else ():
                found[f"{stack}_{end}"] = (experts, *shape), element
            if arch.expert_bias:
                found[f"{stack}_bias"] = (experts, n_out), plain
    return found


def elements_by_format(found: dict[str, tuple[tuple, str]]) -> dict[str, int]:
    """Elements by format of `published_tensors`: {"fp8": ..., "bf16": ..., "fp32": ...}."""
    counts = Counter()
    for shape, fmt in found.values():
        counts[fmt] += math.prod(shape)
    return dict(counts)


def published_bytes(found: dict[str, tuple[tuple, str]]) -> int:
    """Bytes of all tensors, without the file's header.

    >>> published_bytes(published_tensors("deepseek-r1", "fp8"))
    688574839360
    """
    return sum(count * dtype_bits(fmt) // 8 for fmt, count in elements_by_format(found).items())


def _gpt(arch, weights):
    """The tensors of GPT-2 and OPT."""
    one_of("weights", weights, FLOATS, f"a format of a checkpoint of {arch.name}")
    rows = arch.learned_positions + arch.position_offset
    shapes = {"embed_tokens.weight": (arch.vocab_size, arch.hidden_size)}
    shapes["embed_positions.weight"] = rows, arch.hidden_size
    for index in range(arch.num_hidden_layers):
        layer = f"layers.{index}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= dict.fromkeys((f"{layer}{norm}.weight", f"{layer}{norm}.bias"), (arch.hidden_size,))
        for half, linears in (("self_attn", arch.attention_linears()), ("mlp", arch.mlp_linears())):
            for name, (n_in, n_out, bias) in linears.items():
                matrix = (n_in, n_out) if arch.model_type in TURNED else (n_out, n_in)
                shapes |= {f"{layer}{half}.{name}.weight": matrix} | _bias(f"{layer}{half}.{name}", n_out, bias)
    shapes |= dict.fromkeys(("norm.weight", "norm.bias"), (arch.hidden_size,))
    for name, (n_in, n_out, bias) in arch.head_linears().items() if not arch.tie_word_embeddings else ():
        shapes |= {f"{name}.weight": (n_out, n_in)} | _bias(name, n_out, bias)
    if arch.model_type == "gpt2" and weights == "fp32":
        mask = 1, 1, arch.learned_positions, arch.learned_positions
        shapes |= {f"layers.{index}.self_attn.bias": mask for index in range(arch.num_hidden_layers)}
    return {published_name(arch.model_type, name): (shape, weights) for name, shape in shapes.items()}


def _bias(name, n_out, bias):
    return {f"{name}.bias": (n_out,)} if bias else {}


def _layer(arch, index, experts, weights, plain):
    """The tensors of one decoder layer."""
    prefix, found = f"model.layers.{index}.", {}
    for name in arch.layer_norms():
        found[f"{prefix}{name}.weight"] = (arch.hidden_size,), plain
    for name, width in arch.norms().items():
        found[f"{prefix}self_attn.{name}.weight"] = (width,), plain
    if arch.attention_sinks:
        found[f"{prefix}self_attn.sinks"] = (arch.num_attention_heads,), plain
    for name, shape in arch.attention_linears().items():
        found |= _linear(f"{prefix}self_attn.{name}", *shape, weights, plain)
    if arch.indexed and not arch.shares_index(index):
        found |= _indexer(arch, f"{prefix}self_attn.", weights, plain)
    for name, shape in (arch.shared_linears() if experts else arch.mlp_linears()).items():
        found |= _linear(f"{prefix}mlp.{name}", *shape, weights, plain)
    if experts and arch.shared_expert_intermediate_size:
        found |= _linear(f"{prefix}mlp.shared_expert_gate", arch.hidden_size, 1, False, plain, plain)
    return found | (_experts(arch, f"{prefix}mlp.", weights, plain) if experts else {})


def _indexer(arch, prefix, weights, plain):
    """An indexer's tensors; each head's weight stays in 16 bit in the FP8 files of DeepSeek-V3.2, as its code says."""
    found = {}
    for name, shape in arch.indexer_linears().items():
        found |= _linear(f"{prefix}{name}", *shape, weights, plain)
    for part in ("weight", "bias"):
        found[f"{prefix}indexer.k_norm.{part}"] = (arch.index_head_dim,), plain
    found[f"{prefix}indexer.weights_proj.weight"] = (arch.index_n_heads, arch.hidden_size), plain
    return found


def _experts(arch, prefix, weights, plain):
    """The router, and the routed experts one by one."""
    found = _linear(f"{prefix}gate", arch.hidden_size, arch.n_routed_experts, arch.expert_bias, plain, plain)
    if arch.scoring_func == "sigmoid":
        found[f"{prefix}gate.e_score_correction_bias"] = (arch.n_routed_experts,), "fp32"
    width, hidden = arch.moe_intermediate_size, arch.hidden_size
    for expert in range(arch.n_routed_experts):
        for name, shape in {
            "gate_proj": (hidden, width),
            "up_proj": (hidden, width),
            "down_proj": (width, hidden),
        }.items():
            found |= _linear(f"{prefix}experts.{expert}.{name}", *shape, False, weights, plain)
    return found


def _next_token_module(arch, index, weights, plain):
    """Multi-token prediction (arXiv 2412.19437, section 2.2): a layer, what joins its inputs, copies of both ends."""
    prefix, hidden = f"model.layers.{index}.", arch.hidden_size
    shapes = {
        "embed_tokens": (arch.vocab_size, hidden),
        "enorm": (hidden,),
        "hnorm": (hidden,),
        "eh_proj": (hidden, 2 * hidden),
        "shared_head.norm": (hidden,),
        "shared_head.head": (arch.vocab_size, hidden),
    }
    if arch.model_type in WITHOUT_COPIES:
        del shapes["embed_tokens"], shapes["shared_head.head"]
    joined = {f"{prefix}{name}.weight": (shape, plain) for name, shape in shapes.items()}
    return joined | _layer(arch, index, arch.n_routed_experts > 0, weights, plain)


def _linear(name, n_in, n_out, bias, weights, plain):
    return {f"{name}.weight": ((n_out, n_in), weights)} | ({f"{name}.bias": ((n_out,), plain)} if bias else {})
