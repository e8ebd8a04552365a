"""A training step of any model in transformers' code, on the device and in the formats that are asked for."""

from typing import Any

import torch

from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.model.library import LibraryModel
from dsmem.model.library_pass import LibraryPass
from dsmem.model.lora import put_adapters
from dsmem.model.nf4 import nf4_layers
from dsmem.model.training import TrainingStep


def library_step(
    model: LibraryModel, work: Workload, training: Training, device: Any, seed: int = 0, nf4: bool = False
) -> tuple[TrainingStep, Workload, list[str]]:
    """The step, the workload that really runs, and what differs from what one may expect, a sentence each.

    work: a prefill without a cache. device, seed: as in `LibraryPass`. nf4: whether the frozen base is
    in NF4, as bitsandbytes and peft make it. A run may add to the sentences. Raises
    ValueError for what is not run in transformers' code.
    """
    weights = work.weights if training.lora_rank is not None else training.parameters(work)
    ready = LibraryPass(model, work, device, seed, weights)
    if nf4:
        nf4_layers(ready.module)
    ready.fill()
    ready.notes += set_dropout(ready.module, training.dropout)
    put_adapters(ready.module, training)
    if training.lora_rank is not None and training.checkpointing != "none":
        ready.module.enable_input_require_grads()  # as peft does: the first layer's input is to have a gradient
    step = TrainingStep(ready.module, ready.tokens, training, work.activations, around=ready.running)
    return step, ready.work, ready.notes


def set_dropout(module: torch.nn.Module, probability: float) -> list[str]:
    """Give every dropout that the config turns on this probability; a sentence where it had another."""
    had = set()
    for part in module.modules():
        for name, value in vars(part).items():
            named = name == "p" if isinstance(part, torch.nn.Dropout) else "dropout" in name
            if named and isinstance(value, float) and value not in (0, probability):
                had.add(value)
                setattr(part, name, probability)
    return [f"Dropout is {probability:g}, not {value:g} as its config says." for value in sorted(had)]
