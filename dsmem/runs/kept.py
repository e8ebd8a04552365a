"""What autograd keeps of one training step's forward, in our code or in transformers'."""

from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.memory.saved import SavedTensors, saved_tensors
from dsmem.model import library
from dsmem.model.library_training import library_step
from dsmem.runs.run import CODES
from dsmem.runs.training_run import our_step
from dsmem.units import one_of


def kept_for_backward(
    arch: Any,
    work: Workload | None = None,
    training: Any = True,
    code: str = "dsmem",
    device: Any = "fake",
    **fields: Any,
) -> SavedTensors:
    """Run the forward of one training step and say what it keeps for backward: see `memory.saved.SavedTensors`.

    arch: whatever `Architecture.of` takes; with code="transformers" whatever `measure` takes. work, training, fields:
    as in `measure`. device: "fake" or "cpu". Raises ValueError as `measure` does.

    >>> kept = kept_for_backward("qwen2.5-0.5b", seq_len=64)
    >>> round(kept.layers["layers.3"] / kept.copy_bytes, 1)  # copies of its input that a layer keeps
    28.0
    """
    training = Training.of(training)
    work = training.workload(work, **fields)
    if one_of("code", code, CODES) == "dsmem":
        step = our_step(Architecture.of(arch), work, training, device)
    else:
        step, *_ = library_step(library.read(arch), work, training, device)
    return saved_tensors(step.forward, step.module)
