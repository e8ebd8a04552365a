"""The pictures of this kit under sliders; each is also drawn once, for a page without a kernel, by its `plot_*`."""

import functools
from collections.abc import Callable
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import capacities
from dsmem.config.schemes import SCHEMES
from dsmem.footprint.stored import KEPT
from dsmem.memory.replay import replay
from dsmem.plots.cache import FORMATS, CachePicture
from dsmem.plots.footprint import WORKLOAD_FIELDS, FootprintPicture, LengthsPicture
from dsmem.plots.segments import FREE, SegmentsPicture, part_of
from dsmem.plots.weights import WeightsPicture
from dsmem.plots.widgets import Explorer, explore
from dsmem.units import FLOATS, QUANTIZED, one_of

CONTROLS = {
    "batch": (1, 512, 4),
    "seq_len": (128, 131_072, 1024),
    "weights": ["fp16", *(name for name in (*FLOATS, *QUANTIZED) if name != "fp16")],
    "attention": ["fused", "expanded", "eager"],
    "logits": ["all", "last"],
}


def explore_picture(make: Callable, show: Callable, /, **controls: Any) -> Explorer:
    """An explorer of a picture that stays: `make(ax)` draws it, `show(picture, **values)` moves what it drew.

    controls, and figsize: as in `explore`.
    """

    def draw(ax, **values):
        picture = make(ax)
        show(picture, **values)
        return functools.partial(show, picture)

    return explore(draw, **controls)


def explore_footprint(arch: Any, *, capacity: Any = None, **controls: Any) -> Explorer:
    """`plot_footprint` under sliders: every instant of a pass.

    arch: a model, or a list of models to choose from, each in any form that `Architecture.of` takes. capacity: GPUs to
    choose from, in any form that `config.hardware.capacities` takes, the first one shown. controls: for any field of
    `Workload`, as in `explore`; these replace or extend `CONTROLS`.
    """
    return _of_workload(FootprintPicture, arch, capacity, controls)


def explore_curves(arch: Any, *, capacity: Any = None, **controls: Any) -> Explorer:
    """`plot_lengths` under sliders: the peak against the sequence length; arguments as in `explore_footprint`."""
    return _of_workload(LengthsPicture, arch, capacity, controls)


def explore_weights(arch: Any, capacity: Any) -> Explorer:
    """`plot_weights` with a menu each for model, format, what stays in 16 bit, and GPU; arguments as above."""
    models, gpus = _models(arch), capacities(capacity)

    def show(picture, model, weights, kept, gpu):
        return picture(models[model], weights, kept, (gpu, gpus[gpu]))

    formats = ["int8", *(name for name in ("bf16", *SCHEMES, "fp32") if name not in ("int8", "int8_w8a8"))]
    menus = {"model": list(models), "weights": formats, "kept": list(KEPT), "gpu": list(gpus)}
    return explore_picture(WeightsPicture, show, figsize=(7.5, 3.2), **menus)


def explore_cache(arch: Any, **controls: Any) -> Explorer:
    """`plot_cache` under sliders, for a model or a list of models; `controls` as in `explore` replace these."""
    models = _models(arch)
    specs = {
        "model": list(models),
        "batch": (1, 256, 1),
        "seq_len": (128, 131_072, 4096),
        "num_key_value_heads": [8, 1, 2, 4, 16, 32, 64, 128],
        "kv_cache": list(FORMATS),
        "mla_cache": ["latent", "expanded"],
    }

    def show(picture, model, **values):
        return picture(models[model], **values)

    return explore_picture(CachePicture, show, figsize=(7.5, 3.6), **specs | controls)


def explore_settings(
    streams: dict[str, list],
    *,
    row_bytes: int = 32 * 2**20,
    rows: int = 1,
    figsize: tuple = (7.5, 4.6),
    **settings: Any,
) -> Explorer:
    """`plot_segments` under sliders: the map of a stream of events, replayed up to a share of it under some settings.

    streams: {name: events}, as for `dsmem.replay`. row_bytes, rows: as in `SegmentsPicture`. settings: a control for
    each setting of `dsmem.replay`; a text in place of a setting means that it is not set.
    """
    parts = dict.fromkeys(part_of(label) for events in streams.values() for _, _, label in events)

    @functools.cache
    def replayed(stream, chosen):
        return replay(streams[stream], **dict(chosen))

    def show(picture, stream, progress=100, **chosen):
        run = replayed(stream, tuple((name, value) for name, value in chosen.items() if not isinstance(value, str)))
        step = max(len(run.events) * progress // 100 - 1, 0)
        return f"{picture(run.segments(step))} At the end {run.peak_reserved_bytes:,} bytes were reserved at most."

    controls = {"stream": list(streams), "progress": range(0, 101, 5)} | settings
    return explore_picture(
        lambda ax: SegmentsPicture([*parts, FREE], ax, row_bytes, rows), show, figsize=figsize, **controls
    )


def _of_workload(kind, arch, capacity, controls):
    models, gpus = _models(arch), capacities(capacity)
    for name in controls:
        one_of("field", name, WORKLOAD_FIELDS, "a field of Workload")
    specs = {"model": list(models) if len(models) > 1 else next(iter(models))} | CONTROLS | controls
    if gpus:
        specs["gpu"] = [*gpus, "none"]

    def show(picture, model, gpu="none", **workload):
        return picture(models[model], (gpu, gpus[gpu]) if gpu in gpus else None, workload)

    return explore_picture(kind, show, **specs)


def _models(arch):
    """{name: Architecture} of one model or of a list of them."""
    found = [Architecture.of(each) for each in (arch if isinstance(arch, list | tuple) else [arch])]
    if not found:
        raise ValueError("arch=[] names no model; it must be a model or a list of them")
    return {each.name: each for each in found}
