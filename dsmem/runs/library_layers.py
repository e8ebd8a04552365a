"""One decoder layer as torchao and bitsandbytes store it: the ways that can be made here, and what a module keeps.

Their layers cannot be built on fake tensors, so a layer is quantized for real, on the CPU.
"""

import copy
import importlib.metadata
import importlib.util
import sys
from typing import Any

import torch
from torch import nn

from dsmem.config.architecture import Architecture
from dsmem.memory.ledger import plain_tensors
from dsmem.model.decoder import build_model
from dsmem.model.hub import quiet
from dsmem.model.layers import Step
from dsmem.model.quantize import LAYERS
from dsmem.units import one_of

LIBRARIES = ("torchao", "bitsandbytes")

LIBRARY_FORMATS = {
    "torchao int8": ("torchao", "Int8WeightOnlyConfig"),
    "torchao int8 dynamic": ("torchao", "Int8DynamicActivationInt8WeightConfig"),
    "bitsandbytes int8": ("bitsandbytes", None),
    "bitsandbytes nf4": ("bitsandbytes", False),
    "bitsandbytes nf4 double": ("bitsandbytes", True),
}
"""Name: the library, and its configuration (torchao) or whether scales are quantized as well (bitsandbytes NF4)."""


def library_version(name: str) -> str | None:
    """The installed version of a library, or None; looks, and imports nothing."""
    return importlib.metadata.version(name) if importlib.util.find_spec(name) else None


def library_versions() -> dict[str, str | None]:
    """{library: version} of torchao and bitsandbytes, None for one that is not installed."""
    return {name: library_version(name) for name in LIBRARIES}


def missing_libraries() -> str | None:
    """One line on what is left out for want of a library, or None where both are installed."""
    absent = [name for name, version in library_versions().items() if version is None]
    if not absent:
        return None
    return f"Not shown: {' and '.join(absent)}, not installed here; `pip install {' '.join(absent)}` adds them."


def layer_formats() -> list[str]:
    """The ways to store a layer that can be made here: "bf16", our schemes, then those of the installed libraries."""
    found = library_versions()
    return ["bf16", *LAYERS, *(name for name, (library, _) in LIBRARY_FORMATS.items() if found[library])]


@torch.no_grad()
def one_layer(arch: Any, weights: str = "bf16", seq_len: int = 1, seed: int = 0) -> tuple[nn.Module, Step]:
    """One decoder layer of `arch` on the CPU with random weights, computing in BF16, and the `Step` of a pass.

    arch: whatever `Architecture.of` takes. weights: as in `build_model`. seq_len: tokens of the pass.
    """
    changed = {"num_hidden_layers": 1, "vocab_size": 8, "tie_word_embeddings": False, "rope_scaling": ()}
    model = build_model(Architecture.of(arch).scaled(**changed), weights, "cpu", activations="bf16", seed=seed)
    return model.layers[0], model.step(seq_len)


def quantized(layer: nn.Module, name: str, arch: Any, seed: int = 0) -> nn.Module:
    """A copy of `layer`, a BF16 decoder layer of `arch`, stored as `name` says, one of `layer_formats()`.

    seed: the one that `layer` was made with, for our own schemes are made anew. Raises ValueError for another name.
    """
    one_of("name", name, layer_formats(), "a format that can be made here")
    if name == "bf16":
        return layer
    if name in LAYERS:
        return one_layer(arch, name, seed=seed)[0]
    library, option = LIBRARY_FORMATS[name]
    with quiet():
        return (by_torchao if library == "torchao" else by_bitsandbytes)(copy.deepcopy(layer), option)


def by_torchao(layer: nn.Module, config: str) -> nn.Module:
    """`layer` itself with its linear layers in torchao. config: the name of a class in `torchao.quantization`."""
    import torchao.quantization as torchao

    torchao.quantize_(layer, getattr(torchao, config)())
    return layer


def by_bitsandbytes(layer: nn.Module, double: bool | None) -> nn.Module:
    """`layer` itself with every `nn.Linear` replaced as transformers does it; double: as in `bitsandbytes_linear`."""
    for parent in list(layer.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(parent, name, bitsandbytes_linear(linear, double))
    return layer


def bitsandbytes_linear(linear: nn.Linear, double: bool | None) -> nn.Module:
    """bitsandbytes' layer with the weights of `linear`. double: None for INT8, else NF4, True with quantized scales."""
    import bitsandbytes.nn as library

    shape = linear.in_features, linear.out_features
    options = {"bias": linear.bias is not None, "device": "meta"}
    if double is None:
        made = library.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0, **options)
        made.weight = library.Int8Params(linear.weight.data, has_fp16_weights=False, requires_grad=False)
    else:
        kind = {"quant_type": "nf4", "compress_statistics": double}
        made = library.Linear4bit(*shape, compute_dtype=linear.weight.dtype, **kind, **options)
        made.weight = library.Params4bit(linear.weight.data, requires_grad=False, module=made, **kind)
    made.bias = linear.bias
    return made.to("cpu").eval()  # the move is what quantizes


def module_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """{place: tensor} of everything that `module` keeps, each storage once, with what libraries keep beside weights.

    A quantized weight has its scales in attributes (bitsandbytes) or inside a tensor subclass (torchao), where
    `sum(p.nbytes for p in module.parameters())` does not see them.
    """
    found, seen = {}, set()
    for name, part in module.named_modules():
        own = dict(part.named_parameters(recurse=False, remove_duplicate=False))
        own |= dict(part.named_buffers(recurse=False, remove_duplicate=False))
        for place, tensor in _reached(name, {**own, "state": vars(part).get("state")}, set()):
            for plain in plain_tensors(tensor):
                if plain.untyped_storage()._cdata not in seen:
                    seen.add(plain.untyped_storage()._cdata)
                    found[place if place not in found else f"{place} ({len(found)})"] = plain
    return found


def module_bytes(module: nn.Module) -> int:
    """Bytes of the storages of `module_tensors`."""
    return sum(tensor.untyped_storage().nbytes() for tensor in module_tensors(module).values())


def _reached(place, item, seen, depth=0):
    """The tensors in `item`, in its values, and in the attributes of tensors and states, with their places."""
    if id(item) in seen or depth > 6:
        return
    seen.add(id(item))
    if isinstance(item, torch.Tensor):
        yield place, item
    if isinstance(item, dict):
        inside = item
    elif isinstance(item, (torch.Tensor, *_states())):
        inside = {name: value for name, value in vars(item).items() if not isinstance(value, nn.Module)}
    else:
        return
    for name, value in inside.items():
        yield from _reached(f"{place}.{name}".strip("."), value, seen, depth + 1)


def _states():
    """The classes in which bitsandbytes keeps what belongs to a weight."""
    library = sys.modules.get("bitsandbytes")
    return () if library is None else (library.functional.QuantState, library.MatmulLtState)
