"""What a layer keeps for backward: all, its input alone, or all but what attention makes again."""

import functools

import torch
from torch.utils.checkpoint import checkpoint

from dsmem.config.training import Training
from dsmem.model.folding import layers_of
from dsmem.model.hub import quiet


def keep_less(module: torch.nn.Module, training: Training) -> None:
    """Make the layers of `module` keep for backward what `training.checkpointing` says, from now on.

    "full": each decoder layer runs again in backward from its input (torch.utils.checkpoint, without reentrance).
    """
    # with dropout the same numbers must be drawn again; their generator's state is a tensor of its own
    again = {"use_reentrant": False, "preserve_rng_state": training.dropout > 0}
    if training.checkpointing == "full":
        if hasattr(module, "gradient_checkpointing_enable"):
            with quiet():  # its name is another from release to release, and the old one warns
                module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
            return
        for layer in layers_of(module):
            layer.forward = functools.partial(checkpoint, layer.forward, **again)
