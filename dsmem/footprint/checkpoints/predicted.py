"""A checkpoint that is not there: the tensors that its files would hold, predicted from its `config.json` alone."""

import math
from pathlib import Path

from dsmem.config.architecture import Architecture
from dsmem.config.quantization import Quantization, quantization_of
from dsmem.config.source import load
from dsmem.footprint.checkpoints.files import Files, config_in
from dsmem.footprint.checkpoints.headers import StoredTensor
from dsmem.footprint.checkpoints.names import numbers_in, part_of
from dsmem.footprint.checkpoints.published import published_tensors
from dsmem.units import FLOATS, dtype_bits, format_name, one_of

NOT_READ = "predicted from config.json, not read: the files may hold more, such as vision, draft layers or cache scales"


def predict(path: Path) -> Files:
    """The tensors that the checkpoint of a `config.json` would hold, by its `quantization_config` and `dtype`.

    Raises ValueError, one sentence, for a family whose shapes or names are not known, or a quantization not read.
    """
    config = load(path)[1] | config_in(path.parent)  # a file of its own may say the quantization
    arch, how, plain = Architecture.from_config(config), quantization_of(config), _plain(config)
    found = published_tensors(arch, how or plain, plain=plain)
    tensors = [
        StoredTensor(name, shape, element, math.prod(shape) * dtype_bits(element) // 8, "")
        for name, (shape, element) in found.items()
    ]
    _check(arch, tensors, how)
    notes = [NOT_READ, f"as its quantization_config says: {how}" if how else f"no quantization_config: all in {plain}"]
    return Files(path.parent, tensors, list(found), sum(t.nbytes for t in tensors), None, config, notes, predicted=True)


def _plain(config):
    """The float format that a config names; bf16 where it names none."""
    inner = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    named = [place.get(key) for place in (config, inner) for key in ("dtype", "torch_dtype")]
    return one_of("dtype", format_name(next((name for name in named if name), "bf16")), FLOATS, "a float format")


def _check(arch: Architecture, tensors: list[StoredTensor], how: Quantization | None) -> None:
    """Raise ValueError where the names that are known do not hold the model's parameters."""
    beside, layers = {tensor.name: tensor.element for tensor in tensors}, arch.num_hidden_layers
    own = [t for t in tensors if part_of(t.name, layers) != "mtp"]
    held = sum(numbers_in(tensor, beside, how.bits if how else None)[0] for tensor in own)
    if held != arch.n_params:
        raise ValueError(
            f"model_type={arch.model_type!r} names tensors of its files in a way that is not known; weigh the files "
            "themselves, or dsmem.measure runs the model"
        )
