"""The kit's explorers that live in a page: will it fit, passes, weights, caches, reads, ranks, and training."""

import re
from collections.abc import Mapping
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import GPUS, capacities
from dsmem.config.sharding import Sharding
from dsmem.config.workload import Workload
from dsmem.plots import knobs
from dsmem.plots.knobs import Knob
from dsmem.plots.page import bars
from dsmem.plots.page.explorer import PageExplorer
from dsmem.plots.page.passes import SEEN, SPREAD, Pass
from dsmem.plots.page.ranks import Ranks
from dsmem.plots.page.training import Steps
from dsmem.plots.reads import speed_name
from dsmem.units import FLOATS, QUANTIZED, format_bytes, names, one_of

FIT = {
    "weights": ["fp16", *(name for name in (*FLOATS, *QUANTIZED) if name != "fp16")],
    "activations": None,
    "kv_cache": {"as activations": None, "fp8": "fp8", "int8": "int8"},
    "batch": (1, 512, 4),
    "seq_len": (128, 131_072, 1024),
    "phase": ["prefill", "decode"],
    "attention": ["fused", "expanded", "eager"],
    "logits": ["all", "last"],
}
NAMED = ("weights", "activations", "kv_cache", "batch", "seq_len", "phase", "attention", "logits")  # in the words


def explore_fit(
    arch: Any, *, gpu: Any = None, count: Any = None, sharding: Any = None, overhead_bytes: Any = None, **controls: Any
) -> PageExplorer:
    """Will it fit? One bar of the peak against a GPU's memory, and the answer in a sentence, drawn in the page.

    arch: a model, or a list of models to choose from, each in any form that `Architecture.of` takes. gpu: the GPUs to
    choose from, in any form that `config.hardware.capacities` takes; all whose memory is known if not given.
    count: numbers of GPUs to choose from, tensor parallel; [1, 2, 4, 8] if not given. sharding: in place of count,
    {text: whatever `Sharding.of` takes} to choose from, or one of these, without a pipeline, for its ranks are not
    alike; the bytes are those of each rank, and the batch is of one replica.
    overhead_bytes: None for what context, workspaces and segments take at most, as `dsmem.fit` counts it; else what is
    kept free in place of that: bytes, or a list of them, of None and bytes for a menu. controls: for
    any field of `Workload`, as in `dsmem.explore`, or {text: value} for a menu; they replace or extend `FIT`.
    Raises ValueError, one sentence, for anything else, and where the choices make too large a page.
    """
    cards = capacities([name for name, card in GPUS.items() if card.usable_bytes] if gpu is None else gpu)
    for label in cards:
        if re.match(r"\d+ × ", label):
            raise ValueError(f"gpu={label!r} is several GPUs; it must name one, and count or sharding says how many")
    specs = {"hide": ["nothing", "weights"], "every_instant": False} | controls
    return _explorer("fit", arch, cards, _spread(count, sharding) | FIT | specs, overhead_bytes)


def _spread(count, sharding):
    """The knob for how many GPUs there are."""
    if sharding is None:
        return {"count": [1, 2, 4, 8] if count is None else count}
    if count is not None:
        raise ValueError(f"count={count!r} is given beside a sharding, which says how many GPUs there are; omit one")
    named = isinstance(sharding, Mapping) and not set(sharding) <= set(Sharding.__dataclass_fields__)
    ways = {text: Sharding.of(each) for text, each in (sharding if named else {"as given": sharding}).items()}
    for each in ways.values():
        if each.pipeline > 1:
            raise ValueError(
                f"sharding with pipeline={each.pipeline} has stages that hold unlike amounts, and the page draws one "
                "rank for all; dsmem.fit answers by the fullest"
            )
    return {"sharding": ways}


def page_of_passes(kind: str, arch: Any, capacity: Any, specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_footprint` and `explore_curves` in the page; kind: as in `passes.Pass`."""
    specs = dict(specs)
    return _explorer(kind, arch, capacity, specs, specs.pop("overhead_bytes", 0))


def page_of_weights(models: Mapping[str, Architecture], capacity: Any, specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_weights` in the page."""
    cards = capacities(capacity) | {"none": None}
    return bars.weights_page(models, _read(specs), cards).explorer()


def page_of_cache(models: Mapping[str, Architecture], specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_cache` in the page."""
    return bars.cache_page(models, _read(specs)).explorer()


def page_of_reads(models: Mapping[str, Architecture], specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_reads` in the page."""
    return bars.reads_page(models, _read(specs)).explorer()


def page_of_ranks(models: Mapping[str, Architecture], capacity: Any, specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_ranks` in the page."""
    cards = capacities(capacity) | {"none": None}
    return Ranks(models, cards, list(_read(_with_cards(cards, specs)).values())).explorer()


def page_of_training(models: Mapping[str, Architecture], capacity: Any, specs: Mapping[str, Any]) -> PageExplorer:
    """`explorers.explore_training` in the page."""
    cards = capacities(capacity) | {"none": None}
    return Steps(models, cards, list(_read(_with_cards(cards, specs)).values())).explorer()


def _with_cards(cards, specs):
    """The specs with a menu for the GPU after that for the model."""
    return {"model": specs["model"], "gpu": list(cards)} | dict(specs)


def _read(specs):
    """{name: Knob}; a menu of one is no control."""
    return {name: _knob(name, spec) for name, spec in specs.items() if name not in ("figsize", "menus")}


def _explorer(kind, arch, capacity, specs, overhead_bytes):
    models = {each.name: each for each in map(Architecture.of, arch if isinstance(arch, list | tuple) else [arch])}
    if not models:
        raise ValueError("arch=[] names no model; it must be a model or a list of them")
    seen = ["overhead_bytes"] if kind == "curves" else SEEN
    allowed = (*Workload.__dataclass_fields__, *seen, *(SPREAD if kind == "fit" else ()))
    for name in specs:
        one_of("field", name, allowed, "a field of Workload")
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
    if knob.kind == "menu" and len(knob.values) == 1:
        return Knob(name, "fixed", knob.values, 0, knob.texts)
    sizes = knob.texts
    if name == "memory":
        sizes = knob.texts or tuple(map(speed_name, knob.values))
    if name == "overhead_bytes":
        sizes = tuple("what is usual" if n is None else format_bytes(n) for n in knob.values)
    return Knob(name, knob.kind, knob.values, knob.at, sizes)
