"""The kit's explorers that live in a page: will it fit, and the instants of a pass."""

from collections.abc import Mapping
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import GPUS, capacities
from dsmem.config.workload import Workload
from dsmem.plots import knobs, page_bars
from dsmem.plots.knobs import Knob
from dsmem.plots.page import PageExplorer
from dsmem.plots.passes import SEEN, Pass
from dsmem.units import FLOATS, QUANTIZED, format_bytes, names, one_of

FIT = {
    "weights": ["fp16", *(name for name in (*FLOATS, *QUANTIZED) if name != "fp16")],
    "activations": {"as weights": None, "fp32": "fp32"},
    "kv_cache": {"as activations": None, "fp8": "fp8", "int8": "int8"},
    "batch": (1, 512, 4),
    "seq_len": (128, 131_072, 1024),
    "phase": ["prefill", "decode"],
    "attention": ["fused", "expanded", "eager"],
    "logits": ["all", "last"],
}
NAMED = ("weights", "activations", "kv_cache", "batch", "seq_len", "phase", "attention", "logits")  # in the words


def explore_fit(arch: Any, *, gpu: Any = None, overhead_bytes: Any = 0, **controls: Any) -> PageExplorer:
    """Will it fit? One bar of the peak against a GPU's memory, and the answer in a sentence, drawn in the page.

    arch: a model, or a list of models to choose from, each in any form that `Architecture.of` takes. gpu: the GPUs to
    choose from, in any form that `config.hardware.capacities` takes; all whose memory is known if not given.
    overhead_bytes: what is kept free for context and allocator: bytes, or a list of them for a slider. controls: for
    any field of `Workload`, as in `dsmem.explore`, or {text: value} for a menu; they replace or extend `FIT`.
    Raises ValueError, one sentence, for anything else, and where the choices make too large a page.
    """
    cards = [name for name, card in GPUS.items() if card.usable_bytes] if gpu is None else gpu
    specs = {"hide": ["nothing", "weights"], "every_instant": False} | controls
    return _explorer("fit", arch, cards, FIT | specs, overhead_bytes)


def page_of_footprint(arch: Any, capacity: Any, specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_footprint` in the page."""
    specs = dict(specs)
    return _explorer("pass", arch, capacity, specs, specs.pop("overhead_bytes", 0))


def page_of_weights(models: Mapping[str, Architecture], capacity: Any, specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_weights` in the page."""
    cards = capacities(capacity) | {"none": None}
    return page_bars.weights_page(models, _read(specs), cards).explorer()


def page_of_cache(models: Mapping[str, Architecture], specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_cache` in the page."""
    return page_bars.cache_page(models, _read(specs)).explorer()


def _read(specs):
    """{name: Knob}; a menu of one is no control."""
    return {name: _knob(name, spec) for name, spec in specs.items() if name not in ("figsize", "menus")}


def _explorer(kind, arch, capacity, specs, overhead_bytes):
    models = {each.name: each for each in map(Architecture.of, arch if isinstance(arch, list | tuple) else [arch])}
    if not models:
        raise ValueError("arch=[] names no model; it must be a model or a list of them")
    for name in specs:
        one_of("field", name, (*Workload.__dataclass_fields__, *SEEN), "a field of Workload")
    cards = capacities(capacity) | {"none": None}
    specs = specs | {"overhead_bytes": overhead_bytes}
    return Pass(kind, models, cards, _knobs(list(models), list(cards), specs)).explorer()


def _knobs(models, cards, specs):
    """The knobs in the order of the page; there is one, if a fixed one, for all that the words name."""
    plain = {name: Workload.__dataclass_fields__[name].default for name in NAMED}
    wanted = {"model": models, "gpu": cards} | {name: specs[name] for name in specs if name not in SEEN}
    wanted |= {name: value for name, value in plain.items() if name not in specs}
    wanted |= {name: specs[name] for name in SEEN if name in specs}
    return [_knob(name, spec) for name, spec in wanted.items()]


def _knob(name, spec):
    if name in ("model", "gpu") and not isinstance(spec, str) and len(spec) == 1:
        return Knob(name, "fixed", tuple(spec))
    if name == "hide" and isinstance(spec, list) and len(spec) == 2 and spec[0] == "nothing":
        names(name, spec[1])
        return Knob(name, "box", tuple(spec), title=f"without {spec[1]}")
    knob = knobs.read(name, spec)
    sizes = tuple(format_bytes(n) for n in knob.values) if name == "overhead_bytes" else knob.texts
    return Knob(name, knob.kind, knob.values, knob.at, sizes)
