"""The pictures of this kit under sliders; each is also drawn once, for a page without a kernel, by its `plot_*`."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import capacities
from dsmem.config.schemes import SCHEMES
from dsmem.config.sharding import Sharding
from dsmem.config.training import KERNELS, OPTIMIZERS, Training
from dsmem.config.workload import Workload
from dsmem.footprint.stored import KEPT
from dsmem.footprint.training.step import training_footprint
from dsmem.memory.replay import replay
from dsmem.plots.cache import FORMATS, CachePicture
from dsmem.plots.footprint import FootprintPicture, LengthsPicture
from dsmem.plots.page import explorers as in_page
from dsmem.plots.page.explorer import PageExplorer
from dsmem.plots.ranks import RanksPicture
from dsmem.plots.reads import FORMATS as READ_FORMATS
from dsmem.plots.reads import SPEEDS, ReadsPicture
from dsmem.plots.segments import FREE, SegmentsPicture, part_of
from dsmem.plots.training import PARAMETERS, TrainingPicture, training_of
from dsmem.plots.weights import WeightsPicture
from dsmem.plots.widgets import Explorer, explore
from dsmem.units import FLOATS, QUANTIZED, one_of

CONTROLS = {
    "batch": (1, 512, 4),
    "seq_len": (128, 131_072, 1024),
    "weights": ["fp16", *(name for name in (*FLOATS, *QUANTIZED) if name != "fp16")],
    "attention": ["fused", "expanded", "eager", "eager_fp32"],
    "logits": ["all", "last"],
}

TRAINING_CONTROLS = {
    "batch": (1, 64, 1),
    "seq_len": (128, 32_768, 1024),
    "optimizer": list(OPTIMIZERS),
    "optimizer_kernel": list(KERNELS),
    "precision": ["master", "autocast", "pure"],
    "lora_rank": [0, 8, 64],
    "weights": ["bf16", "int8", "int4"],
    "checkpointing": ["none", "selective", "full"],
    "attention": ["fused", "eager"],
    "hide": ["nothing", "weights and states"],
}

RANK_CONTROLS = {
    "use": ["training", "serving"],
    "data": (1, 1024, 8),
    "zero": range(4),
    "tensor": (1, 64, 1),
    "expert": (1, 256, 1),
    "pipeline": (1, 16, 1),
    "attention": ["tensor", "data"],
    "batch": (1, 512, 1),
    "seq_len": (128, 131_072, 4096),
    "weights": ["bf16", "fp8"],
    "precision": ["pure", "master"],
}

PAGE_TRAINING_CONTROLS = {"lora_rank": [0, 8], "weights": ["bf16", "int4"]}
PAGE_RANK_CONTROLS = {"data": [8, 1, 256, 1024], "tensor": [1, 8], "expert": [1, 8], "pipeline": [1, 8]}


def explore_picture(make: Callable, show: Callable, /, **controls: Any) -> Explorer:
    """An explorer of a picture that stays: `make(ax)` draws it, `show(picture, **values)` moves what it drew.

    controls, and figsize: as in `explore`. Whatever `show` returns is the sentence under the picture.
    """

    def draw(ax, **values):
        picture = make(ax)
        show(picture, **values)
        return functools.partial(show, picture)

    return explore(draw, **controls)


def explore_footprint(
    arch: Any, *, capacity: Any = None, page: bool = False, **controls: Any
) -> Explorer | PageExplorer:
    """`plot_footprint` under sliders: every instant of a pass, for one model or a list to choose from.

    arch: a model, or a list of models to choose from, each in any form that `Architecture.of` takes. capacity: GPUs to
    choose from, in any form that `config.hardware.capacities` takes, the first one shown. controls: for any field of
    `Workload`, as in `explore`; these replace or extend `CONTROLS`. hide: a menu of families to leave out, "nothing"
    and "weights" if you name none. overhead_bytes: what "fits" keeps free of a capacity. menus: as in `explore`.
    page: draw in the page itself, without a kernel (`PageExplorer`); a control may then be {text: value}, a menu, and
    not a widget. Raises ValueError, one sentence, for anything else.
    """
    if page:
        return in_page.page_of_passes("pass", arch, capacity, {"hide": ["nothing", "weights"]} | CONTROLS | controls)
    return _of_workload(FootprintPicture, arch, capacity, {"hide": ["nothing", "weights"]} | controls)


def explore_curves(arch: Any, *, capacity: Any = None, page: bool = False, **controls: Any) -> Explorer | PageExplorer:
    """`plot_lengths` under sliders: the peak against the sequence length; arguments as in `explore_footprint`."""
    if page:
        return in_page.page_of_passes("curves", arch, capacity, CONTROLS | controls)
    return _of_workload(LengthsPicture, arch, capacity, controls)


def explore_weights(arch: Any, capacity: Any = None, page: bool = False, **controls: Any) -> Explorer | PageExplorer:
    """`plot_weights` with a menu each for model, format, what stays in 16 bit, and GPU; arguments as above.

    controls: as in `explore`; they replace the menus for weights and kept. page: as in `explore_footprint`.
    """
    models, gpus = _models(arch), _gpus(capacity)

    def show(picture, model, weights, kept, gpu="none"):
        return picture(models[model], weights, kept, gpus[gpu])

    formats = ["int8", *(name for name in ("bf16", *SCHEMES, "fp32") if name not in ("int8", "int8_w8a8"))]
    specs = {"model": list(models), "weights": formats, "kept": list(KEPT)} | controls
    specs |= {"gpu": list(gpus)} if capacity else {}
    if page:
        return in_page.page_of_weights(models, capacity, specs)
    return explore_picture(WeightsPicture, show, **{"figsize": (7.5, 3.3)} | specs)


def explore_cache(arch: Any, page: bool = False, **controls: Any) -> Explorer | PageExplorer:
    """`plot_cache` under sliders, for a model or a list of models; `controls` as in `explore` replace these.

    page: as in `explore_footprint`.
    """
    models = _models(arch)
    specs = {
        "model": list(models),
        "batch": (1, 256, 1),
        "seq_len": (128, 131_072, 4096),
        "num_key_value_heads": (1, 128, 8),
        "kv_cache": list(FORMATS),
        "mla_cache": ["latent", "expanded"],
    }

    def show(picture, model, **values):
        return picture(models[model], **values)

    if page:
        return in_page.page_of_cache(models, specs | controls)
    return explore_picture(CachePicture, show, **{"figsize": (7.5, 3.7)} | specs | controls)


def explore_training(
    arch: Any, *, capacity: Any = None, page: bool = False, **controls: Any
) -> Explorer | PageExplorer:
    """`plot_training` under sliders: the three phases of a training step; arguments as in `explore_footprint`.

    controls: for any field of `Workload` or `Training`; they replace or extend `TRAINING_CONTROLS`. A lora_rank of 0
    is full training; adapters are in FP32, so that a master copy of them is not another one. What has no formula, or
    cannot be trained, is said under the picture, which then stays. page: as in `explore_footprint`; the menus are then
    those of `PAGE_TRAINING_CONTROLS`, which have fewer values.
    """
    models, gpus = _models(arch), _gpus(capacity)
    of_training = Training.__dataclass_fields__
    fields = (*Workload.__dataclass_fields__, *of_training, *TrainingPicture.options, "menus", "figsize")
    for name in controls:
        one_of("field", name, fields, "a field of Workload or Training")
    specs = {"model": list(models) if len(models) > 1 else next(iter(models))} | TRAINING_CONTROLS
    if page:
        return in_page.page_of_training(models, capacity, specs | PAGE_TRAINING_CONTROLS | controls)
    specs |= controls
    specs |= {"gpu": list(gpus)} if capacity else {}

    @functools.lru_cache(64)
    def step(model, given):
        given = dict(given)
        own = {name: given.pop(name) for name in list(given) if name in of_training}
        return training_footprint(models[model], training=training_of(own), **given)

    def show(picture, model, gpu="none", hide="nothing", overhead_bytes=0, **values):
        hide = {"nothing": (), "weights and states": PARAMETERS}.get(hide, hide)
        return picture.show(step(model, tuple(values.items())), gpus[gpu], overhead_bytes, hide)

    return explore_picture(TrainingPicture, show, **{"figsize": (7.5, 3.7)} | specs)


def explore_ranks(arch: Any, *, capacity: Any = None, page: bool = False, **controls: Any) -> Explorer | PageExplorer:
    """`plot_ranks` under sliders: an even share, and what the first and the last rank hold at rest.

    arch, capacity: as in `explore_footprint`. controls: for fields of `Sharding`, and use, batch, seq_len, weights,
    precision; they replace or extend `RANK_CONTROLS`. use: "training" counts weights (always in BF16), gradients and
    AdamW's states by `precision`; "serving" weights and the cache of `batch` sequences of a replica. What cannot be cut
    so is said under the picture, which then stays. page: as in `explore_footprint`; the menus are then those of
    `PAGE_RANK_CONTROLS`, which have fewer values. Raises ValueError, one sentence, for anything else.
    """
    models, gpus = _models(arch), _gpus(capacity)
    of_sharding = Sharding.__dataclass_fields__
    for name in controls:
        one_of("field", name, (*RANK_CONTROLS, *of_sharding, "overhead_bytes", "menus", "figsize"), "a field of ranks")
    specs = {"model": list(models) if len(models) > 1 else next(iter(models))} | RANK_CONTROLS
    if page:
        return in_page.page_of_ranks(models, capacity, specs | PAGE_RANK_CONTROLS | controls)
    specs |= controls
    specs |= {"gpu": list(gpus)} if capacity else {}

    def show(picture, model, use, precision, weights, batch, seq_len, gpu="none", overhead_bytes=0, **degrees):
        training = Training(precision=precision) if use == "training" else None
        work = {"batch": batch, "seq_len": seq_len, "weights": "bf16" if training else weights}
        spread = Sharding(**degrees)
        return picture(models[model], None, spread, training, gpus[gpu], overhead_bytes, **work)

    return explore_picture(RanksPicture, show, **{"figsize": (7.5, 3.2)} | specs)


def explore_reads(arch: Any, page: bool = False, **controls: Any) -> Explorer | PageExplorer:
    """`plot_reads` under sliders, for a model or a list of models; `controls` as in `explore` replace these.

    page: as in `explore_footprint`.
    """
    models = _models(arch)
    specs = {
        "model": list(models),
        "num_experts_per_tok": (1, 256, 8),
        "batch": (1, 1024, 1),
        "tokens": (1024, 131_072, 4096),
        "weights": list(READ_FORMATS),
        "memory": ["H200", *(name for name in SPEEDS if name != "H200")],
    }

    def show(picture, model, **values):
        return picture(models[model], **values)

    if page:
        return in_page.page_of_reads(models, specs | controls)
    return explore_picture(ReadsPicture, show, **{"figsize": (7.5, 3.5)} | specs | controls)


def explore_settings(
    streams: Mapping[str, list], *, row_bytes: int = 32 * 2**20, rows: int = 1, **settings: Any
) -> Explorer:
    """`plot_segments` under sliders: the map of a stream of events, replayed up to a share of it under some settings.

    streams: {name: events}, as for `dsmem.replay`. row_bytes, rows: as in `SegmentsPicture`. settings: a control for
    each setting of `dsmem.replay`, and for progress in % of the events; a text in place of a setting means that it is
    not set. figsize, menus: as in `explore`. Raises ValueError for no streams.
    """
    if not streams:
        raise ValueError(f"streams must hold at least one stream of events, got {streams!r}")
    parts = dict.fromkeys(part_of(label) for events in streams.values() for _, _, label in events)

    @functools.cache
    def replayed(stream, chosen):
        return replay(streams[stream], **dict(chosen))

    def show(picture, stream, progress=100, **chosen):
        run = replayed(stream, tuple((name, value) for name, value in chosen.items() if not isinstance(value, str)))
        step = max(len(run.events) * progress // 100 - 1, 0)
        return f"{picture(run.segments(step))} At the end {run.peak_reserved_bytes:,} bytes were reserved at most."

    def make(ax):
        return SegmentsPicture(list(dict.fromkeys([*parts, FREE])), ax, row_bytes, rows)

    return explore_picture(make, show, **{"stream": list(streams), "progress": range(0, 101, 5)} | settings)


def _of_workload(kind, arch, capacity, controls):
    models, gpus = _models(arch), _gpus(capacity)
    fields = (*Workload.__dataclass_fields__, *kind.options, "menus", "figsize")
    for name in controls:
        one_of("field", name, fields, "a field of Workload")
    specs = {"model": list(models) if len(models) > 1 else next(iter(models))} | CONTROLS | controls
    specs |= {"gpu": list(gpus)} if capacity else {}

    def show(picture, model, gpu="none", **values):
        options = {name: values.pop(name) for name in kind.options if name in values}
        options |= {"hide": ()} if options.get("hide") == "nothing" else {}
        return picture(models[model], Workload(**values), gpus[gpu], **options)

    return explore_picture(kind, show, **specs)


def _models(arch):
    """{name: Architecture} of one model or of a list of them."""
    found = [Architecture.of(each) for each in (arch if isinstance(arch, list | tuple) else [arch])]
    if not found:
        raise ValueError("arch=[] names no model; it must be a model or a list of them")
    return {each.name: each for each in found}


def _gpus(capacity):
    """{label: what `capacity=` takes} to choose from, with "none" at the end."""
    return {label: {label: nbytes} for label, nbytes in capacities(capacity).items()} | {"none": None}
