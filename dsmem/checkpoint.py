"""Checkpoints: every tensor that a published one holds, by name, shape and format; and real weights in our decoder."""

import json
import math
from collections import Counter
from pathlib import Path

from dsmem.architecture import Architecture
from dsmem.schemes import FP8_TILE as TILE
from dsmem.units import dtype_bits


def tensors(arch, weights="bf16", mtp=True):
    """Every tensor of a published checkpoint of `arch`: {name: (shape, format)}, names as on the hub.

    weights: "fp8" (DeepSeek-V3 and R1: linear layers and experts in E4M3 with float32 scales), or one float format for
    all. mtp: with the modules that predict further tokens, where the model has them. The router's bias is float32.

    >>> r1 = tensors(Architecture.from_config("deepseek-r1"), "fp8")
    >>> r1["model.layers.3.mlp.experts.255.down_proj.weight_scale_inv"]
    ((56, 16), 'fp32')
    """
    if weights not in ("fp8", "fp32", "bf16", "fp16"):
        raise ValueError(f"weights={weights!r} is no format of a checkpoint; allowed: fp8, fp32, bf16, fp16")
    plain = "bf16" if weights == "fp8" else weights
    found = {"model.embed_tokens.weight": ((arch.vocab_size, arch.hidden_size), plain)}
    for index in range(arch.num_hidden_layers):
        found |= _layer(arch, index, arch.has_experts(index), weights, plain)
    for extra in range(arch.num_nextn_predict_layers if mtp else 0):
        found |= _next_token_module(arch, arch.num_hidden_layers + extra, weights, plain)
    found["model.norm.weight"] = (arch.hidden_size,), plain
    if not arch.tie_word_embeddings:
        found["lm_head.weight"] = (arch.vocab_size, arch.hidden_size), plain
    return found


def census(found):
    """Elements by format of `tensors`: {"fp8": ..., "bf16": ..., "fp32": ...}."""
    counts = Counter()
    for shape, fmt in found.values():
        counts[fmt] += math.prod(shape)
    return dict(counts)


def tensor_bytes(found):
    """Bytes of all tensors, without the file's header.

    >>> tensor_bytes(tensors(Architecture.from_config("deepseek-r1"), "fp8"))
    688574839360
    """
    return sum(count * dtype_bits(fmt) // 8 for fmt, count in census(found).items())


def _layer(arch, index, experts, weights, plain):
    """The tensors of one decoder layer."""
    prefix, found = f"model.layers.{index}.", {}
    for name, width in {"input_layernorm": arch.hidden_size, "post_attention_layernorm": arch.hidden_size}.items():
        found[f"{prefix}{name}.weight"] = (width,), plain
    for name, width in arch.norms().items():
        found[f"{prefix}self_attn.{name}.weight"] = (width,), plain
    for name, shape in arch.attention_linears().items():
        found |= _linear(f"{prefix}self_attn.{name}", *shape, weights, plain)
    for name, shape in (arch.shared_linears() if experts else arch.mlp_linears()).items():
        found |= _linear(f"{prefix}mlp.{name}", *shape, weights, plain)
    return found | (_experts(arch, f"{prefix}mlp.", weights, plain) if experts else {})


def _experts(arch, prefix, weights, plain):
    """The router, and the routed experts one by one."""
    found = {f"{prefix}gate.weight": ((arch.n_routed_experts, arch.hidden_size), plain)}
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
    joined = {f"{prefix}{name}.weight": (shape, plain) for name, shape in shapes.items()}
    return joined | _layer(arch, index, arch.n_routed_experts > 0, weights, plain)


def _linear(name, n_in, n_out, bias, weights, plain):
    found = {f"{name}.weight": ((n_out, n_in), weights)}
    if weights == "fp8":
        found[f"{name}.weight_scale_inv"] = (-(-n_out // TILE), -(-n_in // TILE)), "fp32"
    return found | ({f"{name}.bias": ((n_out,), plain)} if bias else {})


def load_model(folder, weights=None, device="cpu", **options):
    """The decoder whose `config.json` and safetensors files lie in `folder`, with its real weights.

    weights: as in `build_model`; left out, "fp32", "bf16" or "fp16" as stored. Other options: those of `build_model`.
    Raises ValueError where a file is missing, damaged, or holds other tensors than the architecture has.
    """
    from safetensors.torch import load_file

    from dsmem.model import build_model

    folder = Path(folder)
    arch = Architecture.from_config(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"folder={str(folder)!r} holds no safetensors file; it must hold the weights of {arch.name}")
    state = {}
    for file in files:
        try:
            state |= load_file(file)
        except Exception as error:  # the library raises an error of its own, of no common kind
            raise ValueError(f"folder={str(folder)!r} holds a damaged file, {file.name}: {error}") from None
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    own = names.get(stored.get("dtype") or stored.get("torch_dtype"), "fp32")
    model = build_model(arch, weights=weights or own, device=device, **options)
    fill_from(model, state)
    return model


def fill_from(model, state):
    """Put the tensors of `state`, named as transformers or the hub name them, into our decoder; rounds to its schemes.

    Raises ValueError that names the first tensor missing, left over, or of another shape.
    """
    import torch

    from dsmem.quantize import QuantizedLinear, QuantizedStack

    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    if model.arch.tie_word_embeddings:
        state["lm_head.weight"] = state.get("embed_tokens.weight")
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                module.set_weight(_take(state, f"{name}.weight", (module.out_features, module.in_features)))
                if module.bias is not None:
                    module.bias.copy_(_take(state, f"{name}.bias", module.bias.shape))
            elif isinstance(module, QuantizedStack):
                shape = module.experts, module.out_features, module.in_features
                for expert, matrix in enumerate(_stack(state, name, shape)):
                    module.set_weight(expert, matrix)
            else:
                _copy_own(state, name, module)
    if state:
        raise ValueError(f"state holds {next(iter(state))!r}, which {model.arch.name} has no place for")


def _copy_own(state, name, module):
    """The module's own parameters and lasting buffers."""
    own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    for part, tensor in own.items():
        key = f"{name}.{part}" if name else part
        if key == "inv_freq":
            continue
        if key.endswith("_proj.weight") and ".experts." in key:
            tensor.copy_(_stack(state, name, tensor.shape))
        else:
            tensor.copy_(_take(state, key, tensor.shape))


def _stack(state, name, shape):
    """A layer's routed experts as one tensor, be they stored so (transformers, this kit) or one by one (the hub)."""
    for key in (name, f"{name}.weight"):
        if key in state:
            return _take(state, key, shape)
    import torch

    prefix, _, part = name.rpartition(".")
    parts = ("gate_proj", "up_proj") if part == "gate_up_proj" else (part,)
    rows = (shape[1] // len(parts), shape[2])
    experts = range(shape[0])
    return torch.stack(
        [torch.cat([_take(state, f"{prefix}.{e}.{each}.weight", rows) for each in parts]) for e in experts]
    )


def _take(state, key, shape):
    if key not in state:
        raise ValueError(f"state has no {key!r}; it must hold every tensor of the model")
    tensor = state.pop(key)
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{key!r} has shape {tuple(tensor.shape)}; it must be {tuple(shape)}")
    return tensor
