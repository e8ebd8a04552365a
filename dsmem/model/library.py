"""Any model that the installed transformers builds: its config made of the very dict at hand, its class, its parts."""

import copy
import dataclasses
import difflib
import functools
from typing import Any

import torch

from dsmem.config.architecture import Architecture
from dsmem.config.source import load
from dsmem.config.written import config_of
from dsmem.model.devices import TORCH_DTYPES
from dsmem.model.hub import explained, quiet, require_transformers, version
from dsmem.table import Table
from dsmem.units import FLOATS, format_name

RUN_AS = {"kimi_k2": "deepseek_v3"}  # as its publisher says
# a language model that has no class but inside a whole: with positions of text alone it is this one
RUN_AS |= {"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "qwen2_5_vl_text": "qwen2"}
_TEXT_ALONE = ("kimi_k25",)  # its outer class looks at values of tokens, which fake tensors do not have
_NOT_APPLIED = ("quantization_config", "auto_map")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_LANGUAGE = ("language_model", "text_model", "lm_head")


@dataclasses.dataclass(frozen=True, repr=False)
class LibraryModel:
    """A model in transformers' code, before it runs: no formula, but its class, its config and its parameters.

    name: as `Architecture.name`. model_class, config: transformers' class that runs, and its config object.
    floats: the format of numbers that the config names, or None. quantized: how the config says that it is stored, or
    None; a run does not apply it. whole: class and config of the model that this one is a part of, or None.
    """

    name: str
    model_class: type
    config: Any
    floats: str | None = None
    quantized: str | None = None
    whole: tuple | None = None

    @property
    def model_type(self) -> str:
        """The family, as the config says it."""
        return (self.whole[1] if self.whole else self.config).model_type

    @functools.cached_property
    def parts(self) -> dict[str, int]:
        """Parameters of each top-level part of the model that runs: visual, language_model, lm_head; tied ones once."""
        return _parts(self.model_class, self.config)

    @functools.cached_property
    def apart(self) -> dict[str, int]:
        """Parameters of each part that the config has beside the model that runs; empty where the whole runs."""
        whole = _parts(*self.whole) if self.whole else {}
        return {name: count for name, count in whole.items() if name not in _LANGUAGE}

    @property
    def n_params(self) -> int:
        """All parameters of the model that runs."""
        return sum(self.parts.values())

    def table(self) -> Table:
        """Parameters of each part, those beside the run last."""
        rows = [(name, count, "runs") for name, count in self.parts.items()]
        rows += [("total", self.n_params, "runs")] + [(name, count, "apart") for name, count in self.apart.items()]
        return Table({"part": None, "parameters": ",", "": None}, rows, str(self))

    def __str__(self) -> str:
        apart = f"; without {' and '.join(self.apart)}" if self.apart else ""
        called = f"{self.model_class.__name__} of {version()}"
        return f"{self.name} ({self.model_type}): {self.n_params:,} parameters in {called}{apart}"

    def __repr__(self) -> str:
        return f"<LibraryModel {self}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def read(source: Any) -> LibraryModel:
    """The model that transformers makes of `source`, an `Architecture` or whatever `Architecture.of` takes.

    Raises ValueError, one sentence with the way on, for what the installed release does not build.

    >>> read("qwen2.5-0.5b").model_class.__name__
    'Qwen2ForCausalLM'
    """
    name, given = (source.name, config_of(source)) if isinstance(source, Architecture) else load(source)
    require_transformers(f"model_type={given.get('model_type')!r} runs")
    with quiet():
        config = _config_object(given)
        _check_sizes(given, config)
        model_class, runs = _class_and_config(config, given)
        whole = None if runs is config else (_mapped("IMAGE_TEXT_TO_TEXT", config), config)
    return LibraryModel(name, model_class, runs, _floats(given), _stored(given), whole)


def build(model: LibraryModel, weights: str, attention: str) -> torch.nn.Module:
    """transformers' module on the present device, in eval mode; eager where its class has no other attention.

    weights: one of `units.FLOATS`. attention: as transformers calls it, "sdpa" or "eager".
    """
    with quiet(), explained(f"{version()} does not build {model.name}"):
        if attention == "sdpa" and not getattr(model.model_class, "_supports_sdpa", False):
            attention = "eager"
        options = {"dtype": TORCH_DTYPES[weights], "attn_implementation": attention}
        return model.model_class._from_config(copy.deepcopy(model.config), **options).eval()


def allocate(module: torch.nn.Module) -> None:
    """Give every tensor of a module on the meta device a storage on the CPU, a tied one once; its values are any."""
    made = {}

    def new(tensor):
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            made[id(tensor)] = torch.nn.Parameter(empty, False) if isinstance(tensor, torch.nn.Parameter) else empty
        return made[id(tensor)]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers, vars(part)):
            tensors.update({name: new(each) for name, each in tensors.items() if isinstance(each, torch.Tensor)})


def _config_object(given):
    """transformers' config object of the dict, without what is not applied and what would call for remote code."""
    from transformers import CONFIG_MAPPING

    family = RUN_AS.get(given.get("model_type"), given.get("model_type"))
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        near = ", ".join(difflib.get_close_matches(str(family), list(CONFIG_MAPPING.keys()), 3))
        its_own = ", and its own code (auto_map) is not run" if given.get("auto_map") else ""
        raise ValueError(
            f"model_type={given.get('model_type')!r} is not built by {version()}{its_own}; allowed: a model_type that "
            f"it has{f' (near: {near})' if near else ''}, or dsmem.checkpoint, which weighs files"
        )
    plain = {key: value for key, value in copy.deepcopy(given).items() if key not in _NOT_APPLIED}
    for value in plain.values():
        if isinstance(value, dict):
            for key in _NOT_APPLIED:
                value.pop(key, None)
    with explained(f"{version()} makes no config of model_type={family!r}"):
        return CONFIG_MAPPING[family].from_dict(plain | {"model_type": family})


def _check_sizes(given, config):
    """A size that the class did not take up would leave the model at the size of its defaults, without a word."""
    text = config.get_text_config()
    keys = ("num_hidden_layers", "hidden_size", "vocab_size") if text is config else given
    for key in keys if "text_config" not in given else ():
        value = given.get(key)
        if type(value) is int and key not in _IDS and value != getattr(text, key, value):
            raise ValueError(
                f"{key}={value!r} is not taken up by {version()} for model_type={given['model_type']!r}, whose "
                "language model is described under text_config; it must stand there"
            )


def _class_and_config(config, given):
    """The class that runs a language model of `config`, and the config that it takes: the whole's or the text's."""

    text, mapped = config.get_text_config(), [_mapped(kind, config) for kind in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT")]
    if config.model_type in _TEXT_ALONE:
        return _mapped("CAUSAL_LM", text), text
    named = _named(given.get("architectures"))
    if named not in mapped and getattr(named, "config_class", None) is type(config):
        return named, config  # a class without a language model's head, or with another one
    found = next(filter(None, mapped), None)
    if found is None:
        raise ValueError(
            f"model_type={given['model_type']!r} has no language model in {version()}; allowed: a family with a "
            "ForCausalLM or ForConditionalGeneration class, or architectures that name the class to run"
        )
    return found, text if getattr(found, "config_class", None) is type(text) else config


def _named(architectures):
    """transformers' class of the first name, however it is capitalized, or None."""
    import transformers

    if not isinstance(architectures, list) or not architectures:
        return None
    wanted = str(architectures[0]).lower()
    name = next((name for name in dir(transformers) if name.lower() == wanted), None)
    return name and getattr(transformers, name)


def _mapped(kind, config):
    """transformers' class of this kind for a config object, or None."""
    import transformers

    mapping = getattr(transformers, f"MODEL_FOR_{kind}_MAPPING")
    found = mapping[type(config)] if type(config) in mapping else None
    return found[0] if isinstance(found, list | tuple) else found


def _floats(given):
    text = given.get("text_config") if isinstance(given.get("text_config"), dict) else {}
    named = [given.get("dtype"), given.get("torch_dtype"), text.get("dtype"), text.get("torch_dtype")]
    found = format_name(next(filter(None, named), None))
    return found if found in FLOATS else None


def _stored(given):
    """The method that a quantization_config names, be it the whole's or the text's."""
    text = given.get("text_config") if isinstance(given.get("text_config"), dict) else {}
    found = given.get("quantization_config") or text.get("quantization_config")
    if not isinstance(found, dict):
        return None
    return str(found.get("quant_method") or found.get("quant_algo") or "a format of its own")


def _parts(model_class, config):
    """{top-level part: parameters}, the base model's parts in its place; a tensor counts where it comes first."""
    with quiet(), explained(f"{version()} does not build {model_class.__name__}"), torch.device("meta"):
        model = model_class._from_config(copy.deepcopy(config))
    counts, seen, base = {}, set(), model.base_model
    tops = [*base.named_children(), ("(itself)", base), *model.named_children(), ("(head)", model)]
    for name, module in tops:
        if module is base and name != "(itself)":
            continue
        fresh = [p for p in module.parameters(recurse=module is not model) if id(p) not in seen]
        seen |= {id(p) for p in fresh}
        if fresh:
            counts[name] = sum(p.numel() for p in fresh)
    return counts
