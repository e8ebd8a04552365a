"""Bytes a parameter: what each way to train keeps of every number that it trains, whatever the batch."""

from typing import Any

from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.table import Table
from dsmem.units import dtype_bits, one_of

RECIPES = {
    "all in FP32": ("fp32", Training("adamw")),
    "all in BF16": ("bf16", Training("adamw")),
    "autocast": ("bf16", Training("adamw", precision="autocast")),
    "master copy (ZeRO's 16)": ("bf16", Training("adamw", precision="master")),
    "master copy, FP32 gradients (18)": ("bf16", Training("adamw", precision="master", gradients="fp32")),
    "DeepSeek-V3: BF16 moments": (
        "bf16",
        Training("adamw", "loop", precision="master", gradients="fp32", moments="bf16"),
    ),
    "master copy, 8-bit AdamW": ("bf16", Training("adamw8bit", precision="master")),
    "master copy, Lion": ("bf16", Training("lion", precision="master")),
    "BF16, 8-bit AdamW": ("bf16", Training("adamw8bit")),
}
"""{name: (format of the pass, how it trains)}: those that papers and libraries speak of."""

_NUMBERS = {"adamw": 2, "sgd": 1, "lion": 1, "adamw8bit": 2, "lion8bit": 1, "none": 0}
_EIGHT_BIT = 1 + 4 / 256  # a byte, and a float32 for every 256


def bytes_per_parameter(training: Any = True, weights: str = "bf16") -> dict[str, float]:
    """{part: bytes} of one trained parameter: "weights", "gradients", "master_weights", "optimizer_states".

    training: as `Training.of` takes it. weights: format of the pass. Left out: what does not grow in proportion, as
    AdamW's counters and 8-bit tables, tensors too small for 8 bit, and the copies that autocast makes on the way.
    Raises ValueError for an optimizer whose states depend on the shapes, Adafactor or Muon, and for adapters.
    Sources: arXiv 1910.02054 (16 bytes), arXiv 2412.19437 (BF16 moments), arXiv 2110.02861 (8 bit).

    >>> sum(bytes_per_parameter({"precision": "master"}).values())
    16.0
    """
    training = Training.of(training)
    one_of("optimizer", training.optimizer, _NUMBERS, "an optimizer that keeps the same of every parameter")
    if training.lora_rank is not None:
        raise ValueError(
            f"lora_rank={training.lora_rank} trains adapters, not the model's parameters; leave it out, and ask again "
            "with their format as weights"
        )
    work = training.workload(Workload(weights=weights, cache="none"))
    own, stepped = (_bytes(name) for name in (training.parameters(work), training.stepped(work)))
    parts = {"weights": own, "gradients": _bytes(training.gradients) if training.gradients else own}
    if training.precision == "master":
        parts["master_weights"] = stepped
    return parts | {"optimizer_states": _NUMBERS[training.optimizer] * _each(training, stepped)}


def recipes_table() -> Table:
    """A `Table` of `RECIPES`: bytes a parameter by part, and in all."""
    columns = ("weights", "gradients", "master_weights", "optimizer_states")
    rows = []
    for name, (weights, training) in RECIPES.items():
        parts = bytes_per_parameter(training, weights)
        rows.append((name, *(parts.get(part) for part in columns), sum(parts.values())))
    return Table({"recipe": None} | dict.fromkeys((*columns, "bytes a parameter"), ".4g"), rows)


def _each(training, stepped):
    """Bytes of one of the optimizer's numbers."""
    if training.optimizer.endswith("8bit"):
        return _EIGHT_BIT
    if training.optimizer == "lion":
        return 4.0  # bitsandbytes keeps it in FP32, whatever the parameter
    return _bytes(training.moments) if training.moments else stepped


def _bytes(name):
    return dtype_bits(name) / 8
