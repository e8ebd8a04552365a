"""Real weights in our decoder: those of a folder with a checkpoint, or of a dict of tensors.

What a published checkpoint holds, by name, shape and format, is in `footprint.checkpoints.published`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmem.config.architecture import Architecture
from dsmem.config.names import BESIDE, TURNED, TURNED_STACKS, has_one_meaning, kit_name, published_name
from dsmem.units import FLOATS, format_name, one_of

if TYPE_CHECKING:
    import torch

    from dsmem.model.decoder import Decoder


def load_model(folder: str | Path, weights: Any = None, device: Any = "cpu", **options: Any) -> "Decoder":
    """The decoder whose `config.json` and safetensors files lie in `folder`, with its real weights.

    weights: as in `build_model`; defaults to the float format that the config names ("fp32" where it names none).
    device: "cpu" or "cuda". options: those of `build_model`.
    Raises ValueError where a file is missing or damaged, where the tensors are not those of the architecture, and for
    device="fake", whose tensors hold no numbers.

    >>> from dsmem.model.small import small_path
    >>> load_model(small_path()).arch.n_params
    1368576
    """
    from safetensors.torch import load_file

    from dsmem.model.decoder import build_model
    from dsmem.model.devices import check_device

    if check_device(device) == "fake":
        raise ValueError("device='fake' holds no numbers to load; allowed: 'cpu', 'cuda', or build_model for the bytes")
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
    model = build_model(arch, weights=weights or _own_format(folder), device=device, **options)
    fill_from(model, state)
    return model


def fill_from(model: "Decoder", state: "dict[str, torch.Tensor]") -> None:
    """Put the tensors of `state`, named as transformers or the hub name them, into our decoder; rounds to its schemes.

    model: on a real device. state: {name: tensor}; stays as it is. Raises ValueError that names the first tensor
    missing, left over, or of another shape.
    """
    import torch

    from dsmem.model.layers import RMSNorm
    from dsmem.model.quantize import QuantizedLinear, QuantizedStack

    state = {_bare(name): tensor for name, tensor in state.items()}
    if model.arch.apart:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(BESIDE)}
    if has_one_meaning(model.arch.model_type):
        state = {kit_name(model.arch.model_type, name): tensor for name, tensor in state.items()}
    else:
        state = _respelled(model, state)
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
                for expert, matrix in enumerate(_stack(state, name, shape, model.arch.model_type in TURNED_STACKS)):
                    module.set_weight(expert, matrix)
            else:
                _copy_own(state, name, module, model.arch.model_type in TURNED_STACKS)
                if model.arch.gemma_block and isinstance(module, RMSNorm):
                    module.weight.add_(1)
    if state:
        raise ValueError(f"state holds {next(iter(state))!r}, which {model.arch.name} has no place for")


def _bare(name):
    """A tensor's name without the part before the decoder's own, which files and libraries write or leave out."""
    for before in ("model.", "language_model.", "decoder.", "transformer."):
        name = name.removeprefix(before)
    return name


def _respelled(model, state):
    """`state` with the kit's names in place of the family's own, and matrices turned where they lie the other way."""
    family, found = model.arch.model_type, {}
    rest = {name.replace("classifier.", "score."): tensor for name, tensor in state.items()}
    # masks that old files of GPT-2 hold as if they were weights
    rest = {name: tensor for name, tensor in rest.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
    for name, module in model.named_modules():
        turned = family in TURNED and hasattr(module, "in_features") and name not in model.arch.head_linears()
        for part in ("weight", "bias"):
            theirs = _bare(published_name(family, f"{name}.{part}"))
            if theirs in rest:
                tensor = rest.pop(theirs)
                found[f"{name}.{part}"] = tensor.t() if turned and part == "weight" else tensor
    return found | rest


def _own_format(folder):
    """The float format that the folder's `config.json` names; transformers' own is FP32 where it names none."""
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = stored.get("dtype") or stored.get("torch_dtype") or "fp32"
    return one_of("dtype", format_name(named), FLOATS, "a float format (give weights=... instead)")


def _copy_own(state, name, module, turned):
    """The module's own parameters and lasting buffers."""
    own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    for part, tensor in own.items():
        key = f"{name}.{part}" if name else part
        if key in ("inv_freq", "local_inv_freq"):
            continue
        if key.endswith("_proj.weight") and ".experts." in key:
            tensor.copy_(_stack(state, name, tensor.shape, turned))
        else:
            tensor.copy_(_take(state, key, tensor.shape))


def _stack(state, name, shape, turned):
    """A layer's routed experts as one tensor, be they stored so (transformers, this kit), turned, or one by one.

    turned: whether a square one is turned, too, which its shape does not show.
    """
    for key in (name, f"{name}.weight"):
        if key in state:
            other = shape[0], shape[2], shape[1]
            if tuple(state[key].shape) == other and ((turned and key == name) or other != tuple(shape)):
                return _take(state, key, other).mT
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
