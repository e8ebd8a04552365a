"""The front door of "will it fit": by formulas, by running transformers' code on fake tensors, or by a file's headers.

`fit` picks the depth and says which. The formulas' part is `footprint.fit.verdict`; this file adds the other two, and
the device of the machine at hand.
"""

from pathlib import Path
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.devices import HERE, Devices, devices
from dsmem.config.families import UnknownFamily
from dsmem.config.workload import Workload
from dsmem.footprint.checkpoints.files import has_files
from dsmem.footprint.fit import verdict as by_formula
from dsmem.footprint.fit import which as by_format
from dsmem.footprint.fit.files import FileFit
from dsmem.footprint.fit.verdict import Fit
from dsmem.table import Table


def fit(
    model: Any,
    work: Workload | None = None,
    gpu: Any = HERE,
    count: int = 1,
    sharding: Any = None,
    training: Any = None,
    **fields: Any,
) -> Fit:
    """Will it fit? The `Fit` of a model and its work on devices; `str` is one sentence, `.table()` the bytes.

    model: a name in `data/models`, a path, a dict, a config or an `Architecture`; or a folder or file of a checkpoint.
    Three depths, and `.asked.depth` says which: "formula" where the family is read; "ledger" where only the installed
    transformers builds it, whose code then runs on fake tensors at a few points; "checkpoint" where a path holds
    weights and no config: their bytes alone, without cache and activations.
    work: a `Workload`, or its fields as keywords; weights also in a format of `fit.asked.STORED`, such as "awq",
    and by default those that the model is published in.
    gpu: a GPU's name ("RTX 4090", "8 x H200"), a rented machine's ("p4d.24xlarge"), "here" (this machine's GPU, or its
    memory where it has none), (label, bytes), or {label: bytes}. count, sharding, training: as in the formulas' part,
    `footprint.fit.verdict.fit`.
    Raises ValueError, one sentence, for what is not known or not modelled.

    >>> answer = fit("deepseek-r1-distill-qwen-32b", gpu="RTX 4090", weights="int4", seq_len=4096, logits="last")
    >>> answer.fits, answer.largest_batch, answer.longest_context
    (True, 2, 10088)
    """
    found = here(gpu, count)
    if _weights_alone(model):
        asked = {"work": work, "sharding": sharding, "training": training or None} | fields
        for name, value in asked.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} asks for a pass, and {model} holds weights without a config.json, which are "
                    "weighed as they are; leave it out, or give a config"
                )
        return FileFit(model, found)
    try:
        arch = Architecture.of(model)
    except UnknownFamily:
        from dsmem.runs.fit_library import asked_of  # not above: it loads torch

        return Fit(asked_of(model, work, found, sharding, training, fields), found)
    return by_formula.fit(arch, work, found, 1, sharding, training, **fields)


def which(gpu: Any = HERE, count: int = 1, **options: Any) -> Table:
    """Which of R1 and its distilled models runs here? A `Table`, the best that fits first; see `footprint.fit.which`.

    gpu, count: as in `fit`. options: models, formats, and the fields of a workload, as in `footprint.fit.which.which`.

    >>> which("T4").column("model")[0]
    'deepseek-r1-distill-qwen-14b'
    """
    return by_format.which(here(gpu, count), **options)


def here(gpu: Any, count: int = 1) -> Devices:
    """The `Devices` of any form that `fit` takes, "here" among them."""
    if isinstance(gpu, str) and gpu.strip().lower() == HERE:
        from dsmem.runs import machine  # not above: it loads torch

        gpu = machine.here()
    return devices(gpu, count)


def _weights_alone(model):
    """Whether this is a path to weights without a config beside them, or to one file of them."""
    if not isinstance(model, str | Path):
        return False
    path = Path(model)
    if path.is_dir():
        return has_files(path) and not (path / "config.json").is_file()
    return path.is_file() and path.suffix in (".safetensors", ".gguf") or path.name.endswith(".safetensors.index.json")
