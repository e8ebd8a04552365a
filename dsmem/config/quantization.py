"""What a config says of how its weights are stored: `quantization_config`, read as data."""

import dataclasses
import fnmatch
import functools
import re
from typing import Any

from dsmem.config.layouts import LAYOUTS
from dsmem.units import format_name, one_of, whole_number

HEAD = ("lm_head",)
OWN = "with modules of its own"  # where others stay in 16 bit than usual


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How the linear layers of a checkpoint are stored.

    method: what the config calls it. layout: a name in `layouts.LAYOUTS`. bits: of one number. group_size: numbers of a
    row that share a scale, None for the whole row. tile: rows and columns that do. kept: modules that are not
    converted, as the config names them: by name, by the start or the end of one, with * and ?, or "re:" and an
    expression. symmetric: without zero points. ordered: whether each input says its group. double: whether scales are
    themselves quantized. static_input: whether inputs have scales, too. floating: FP8 rather than INT8.
    """

    method: str
    layout: str
    bits: int = 8
    group_size: int | None = None
    tile: tuple[int, int] = (128, 128)
    kept: tuple[str, ...] = ()
    symmetric: bool = True
    ordered: bool = False
    double: bool = False
    static_input: bool = False
    floating: bool = False

    def converts(self, module: str) -> bool:
        """Whether the linear layer with this full name is converted; inside a larger model it may have a prefix.

        >>> found = Quantization("fp8", "fp8_tiles", kept=("lm_head", "layers.1.*"))
        >>> found.converts("layers.1.mlp.up_proj"), found.converts("layers.10.mlp.up_proj")
        (False, True)
        """
        if not _names_an_expert(self.kept):
            module = re.sub(r"experts\.\d+\.", "experts.0.", module)  # all alike, so that few are asked
        return not _matches(self.kept, module)

    def tensors(self, n_in: int, n_out: int) -> dict[str, tuple[tuple, str]]:
        """What stands in place of a converted layer's weight: {end of the name: (shape, format)}, the numbers first.

        >>> Quantization("awq", "awq", bits=4, group_size=128).tensors(4096, 1024)["qzeros"]
        ((32, 128), 'int32')
        """
        return LAYOUTS[self.layout](self, n_in, n_out)

    def __str__(self) -> str:
        group = f", groups of {self.group_size}" if self.group_size else ""
        return f"{self.method} ({self.bits} bits{group})"


def said(config: dict[str, Any]) -> dict[str, Any] | None:
    """The `quantization_config` of a `config.json`, wherever it stands in it; None where there is none."""
    for place in (config, _inner(config)):
        for key in ("quantization_config", "compression_config"):
            if place.get(key) is not None:
                if not isinstance(place[key], dict):
                    raise ValueError(f"{key}={place[key]!r} is not a quantization; it must be a JSON object or null")
                return place[key]
    return None


def method_of(config: dict[str, Any]) -> str | None:
    """What a config calls its quantization: "fp8", "awq", "modelopt"; None where it has none."""
    found = said(config)
    if found is None:
        return None
    producer = found.get("producer")
    made_by = producer.get("name") if isinstance(producer, dict) else None
    return str(found.get("quant_method") or made_by or ("modelopt" if "quant_algo" in found else "unnamed"))


def quantization_of(config: dict[str, Any]) -> Quantization | None:
    """The `Quantization` that a `config.json` says, or None where it says none.

    config: as a dict. Raises ValueError, one sentence, for a method or a setting that is not read.

    >>> config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}}
    >>> print(quantization_of(config))
    gptq (4 bits, groups of 128)
    """
    found = said(config)
    if found is None:
        return None
    method = method_of(config)
    if "quant_algo" in found:
        return _modelopt(found)
    one_of("quant_method", method, METHODS, "read as a way to store weights")
    return METHODS[method](found, config)


_LAYERS = ("self_attn.q_proj", "self_attn.q_b_proj", "self_attn.kv_b_proj", "self_attn.v_proj", "self_attn.o_proj")
_LAYERS += ("mlp.up_proj", "mlp.down_proj", "mlp.experts.0.up_proj", "mlp.shared_experts.down_proj")


def stored_as(config: dict[str, Any]) -> str:
    """How a config says that weights are stored, as `Workload(weights=...)` would: "fp8" for DeepSeek's, or "fp32".

    The method's name where no pass in it is modelled, with its bits, groups and layers that stay where those are not as
    `schemes.packed` has them; "" for 16 bit and where a config says nothing.

    >>> stored_as({"quantization_config": {"quant_method": "awq", "bits": 4}}), stored_as({"dtype": "float32"})
    ('awq', 'fp32')
    """
    method = method_of(config)
    if method is None:
        named = [place.get(key) for place in (config, _inner(config)) for key in ("dtype", "torch_dtype")]
        return "fp32" if format_name(next((name for name in named if name), None)) == "fp32" else ""
    try:
        found = quantization_of(config)
    except ValueError:
        return method
    layers = config.get("num_hidden_layers", _inner(config).get("num_hidden_layers"))
    layers = range(layers) if isinstance(layers, int) else ()
    every = all(found.converts(f"model.layers.{index}.{name}") for index in layers for name in _LAYERS)
    usual = every and not found.converts("lm_head")
    if method == "fp8":
        return "fp8" if usual and found.layout == "fp8_tiles" and found.tile == (128, 128) else f"fp8 {OWN}"
    if method == "mxfp4":  # of gpt-oss's experts alone, whatever else a config leaves out
        return method if config.get("model_type") == "gpt_oss" else "mxfp4 of another family"
    whole = said(config)
    group = whole.get("group_size", whole.get("q_group_size", 128))  # which transformers takes where none is given
    as_packed = usual and (found.bits, group) == (4, 128)
    if method not in ("awq", "gptq") or as_packed:
        return method
    return str(found) if usual else f"{found} {OWN}"


def _inner(config):
    return config["text_config"] if isinstance(config.get("text_config"), dict) else {}


def packed_bits(config: dict[str, Any]) -> int | None:
    """Bits of one number in words of 32 bits, as `quantization_config` says them; None where it says none, or several.

    >>> packed_bits({"quantization_config": {"quant_method": "awq", "bits": 4}})
    4
    """
    found = said(config) or {}
    groups = found.get("config_groups")
    groups = [group.get("weights") for group in groups.values()] if isinstance(groups, dict) else []
    values = [found.get("bits", found.get("w_bit"))] + [group.get("num_bits") for group in groups if group]
    bits = {value for value in values if isinstance(value, int) and value in range(2, 9)}
    return bits.pop() if len(bits) == 1 else None


# --- Methods ----------------------------------------------------------------------------------------------------------


def _fp8(found, config):
    tile, kept = found.get("weight_block_size"), _names(found, "modules_to_not_convert", "ignored_layers")
    static = found.get("activation_scheme") == "static"
    one_of("fmt", found.get("fmt", "e4m3"), ("e4m3", "float8_e4m3fn"), "read in fp8")
    if tile is None:
        return Quantization("fp8", "fp8_tensor", kept=kept or HEAD, static_input=static)
    if not (isinstance(tile, list) and len(tile) == 2):
        raise ValueError(f"weight_block_size={tile!r} is not a tile; it must hold two whole numbers")
    tile = tuple(whole_number("weight_block_size", side) for side in tile)
    return Quantization("fp8", "fp8_tiles", tile=tile, kept=kept or HEAD)


def _awq(found, config):
    bits = whole_number("bits", found.get("bits", found.get("w_bit", 4)))
    if bits != 4:
        raise ValueError(f"bits={bits} is not read in awq; allowed: 4")
    one_of("version", str(found.get("version", "gemm")).lower(), ("gemm",), "a layout of awq that is read")
    kept = _names(found, "modules_to_not_convert")
    return Quantization("awq", "awq", 4, _group(found, "q_group_size"), kept=(*HEAD, *kept), symmetric=False)


def _gptq(found, config):
    bits = whole_number("bits", found.get("bits"))
    one_of("bits", str(bits), ("2", "3", "4", "8"), "read in gptq")
    one_of("checkpoint_format", found.get("checkpoint_format") or "gptq", ("gptq", "gptq_v2"), "read in gptq")
    if found.get("dynamic"):
        raise ValueError("dynamic gives each layer of a gptq checkpoint rules of its own; weigh its files instead")
    kept = _names(found, "modules_to_not_convert", "modules_in_block_to_not_quantize")
    kept = kept if found.get("lm_head") else (*HEAD, *kept)
    return Quantization("gptq", "gptq", bits, _group(found), kept=kept, ordered=True)


def _bitsandbytes(found, config):
    skipped = found.get("llm_int8_skip_modules")
    kept = HEAD if skipped is None else _names(found, "llm_int8_skip_modules")
    if str(config.get("transformers_version", "5")).split(".")[0] >= "5":
        kept = (*kept, "*.experts.*")  # plain parameters there, which bitsandbytes does not see
    if found.get("load_in_4bit") or found.get("_load_in_4bit"):
        double = bool(found.get("bnb_4bit_use_double_quant"))
        one_of("bnb_4bit_quant_type", found.get("bnb_4bit_quant_type", "fp4"), ("nf4", "fp4"), "read in bitsandbytes")
        storage = found.get("bnb_4bit_quant_storage", "uint8")
        one_of("bnb_4bit_quant_storage", storage, ("uint8",), "read in bitsandbytes")
        return Quantization("bitsandbytes", "bitsandbytes_4bit", 4, 64, kept=kept, double=double)
    return Quantization("bitsandbytes", "bitsandbytes_int8", 8, kept=kept)


def _compressed_tensors(found, config):
    groups = found.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        count = len(groups) if isinstance(groups, dict) else 0
        raise ValueError(f"config_groups holds {count} groups of layers; one is read (weigh the files instead)")
    group = next(iter(groups.values()))
    weights, inputs, layout = group.get("weights") or {}, group.get("input_activations"), found.get("format")
    one_of("targets", (group.get("targets") or ["Linear"])[0], ("Linear",), "read in compressed-tensors")
    kept, bits = _names(found, "ignore"), whole_number("num_bits", weights.get("num_bits"))
    if layout == "pack-quantized":
        ordered = weights.get("actorder") == "group"
        symmetric = bool(weights.get("symmetric", True))
        size = _group(weights)
        return Quantization("compressed-tensors", "packed", bits, size, kept=kept, symmetric=symmetric, ordered=ordered)
    if layout == "nvfp4-pack-quantized":
        return Quantization("compressed-tensors", "nvfp4_packed", 4, 16, kept=kept, static_input=inputs is not None)
    one_of("format", layout, ("float-quantized", "int-quantized"), "read in compressed-tensors")
    one_of("strategy", weights.get("strategy"), ("channel",), f"read in {layout}")
    if inputs is not None and not inputs.get("dynamic"):
        raise ValueError(f"input_activations of {layout} are static, which is not read; weigh the files instead")
    return Quantization("compressed-tensors", "channels", 8, kept=kept, floating=layout == "float-quantized")


def _modelopt(found):
    algorithm, kept = found["quant_algo"], _names(found, "ignore", "exclude_modules")
    one_of("quant_algo", algorithm, ("NVFP4", "FP8"), "read in modelopt (weigh the files instead)")
    if algorithm == "NVFP4":
        return Quantization("modelopt", "nvfp4", 4, 16, kept=kept, static_input=True)
    return Quantization("modelopt", "fp8_tensor", kept=kept, static_input=True)


def _mxfp4(found, config):
    return Quantization("mxfp4", "mxfp4", 4, 32, kept=_names(found, "modules_to_not_convert"))


METHODS = {
    "fp8": _fp8,
    "awq": _awq,
    "gptq": _gptq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "mxfp4": _mxfp4,
}
"""What reads each `quant_method`; ModelOpt's configs are known by their `quant_algo`."""


# --- Their keys -------------------------------------------------------------------------------------------------------


def _names(found, *keys):
    """A list of names under the first of `keys` that is there; () where none is."""
    key = next((key for key in keys if found.get(key) is not None), keys[0])
    names = found.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key}={names!r} is not a list of names; it must be one, or null")
    return tuple(names)


def _group(found, other="group_size"):
    """Numbers that share a scale; -1 and null stand for the whole row."""
    size = found.get("group_size", found.get(other))
    return None if size in (None, -1) else whole_number("group_size", size)


@functools.cache
def _names_an_expert(patterns):
    return any(re.search(r"experts\.\d", pattern) for pattern in patterns)


@functools.cache
def _matches(patterns, module):
    """Whether any of `patterns` names the module, as it is called or as a part of a larger model."""
    outer = f"language_model.{module}", f"model.language_model.{module.removeprefix('model.')}"
    return any(_matches_name(patterns, name) for name in (module, *outer))


def _matches_name(patterns, name):
    words = name.split(".")
    starts_and_ends = {".".join(part) for i in range(len(words)) for part in (words[: i + 1], words[i:])}
    return not starts_and_ends.isdisjoint(patterns) or any(each.match(name) for each in _expressions(patterns))


@functools.cache
def _expressions(patterns):
    """Those of `patterns` that are more than a name, compiled."""
    found = [re.compile(pattern[3:]) for pattern in patterns if pattern.startswith("re:")]
    globs = [p for p in patterns if not p.startswith("re:") and any(letter in p for letter in "*?[")]
    return found + [re.compile(fnmatch.translate(each)) for p in globs for each in (p, f"{p}.*")]
