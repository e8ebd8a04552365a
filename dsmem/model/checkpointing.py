"""What a layer keeps for backward: all, its input alone, or all but what attention makes again."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from dsmem.config.training import Training
from dsmem.model.folding import layers_of
from dsmem.model.hub import quiet, version


def keep_less(module: torch.nn.Module, training: Training) -> None:
    """Make the layers of `module` keep for backward what `training.checkpointing` says, from now on.

    "full": each decoder layer runs again in backward from its input (torch.utils.checkpoint, without reentrance).
    "selective": attention alone runs again, from queries, keys and values (arXiv 2205.05198, section 5); models of
    transformers do so inside `attention_again`.
    """
    again = _options(training)
    if training.checkpointing == "selective":
        for part in module.modules():
            if hasattr(part, "attend"):  # of our decoder's attention layers
                part.attend = functools.partial(checkpoint, **again)
    if training.checkpointing == "full":
        if hasattr(module, "gradient_checkpointing_enable"):
            with quiet():  # its name is another from release to release, and the old one warns
                module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
            return
        for layer in layers_of(module):
            layer.forward = functools.partial(checkpoint, layer.forward, **again)


@contextlib.contextmanager
def attention_again(training: Training) -> Iterator[None]:
    """Inside, the attention of transformers' models runs again in backward where checkpointing is "selective".

    Raises ValueError where this release has not one function for it in all models.
    """
    if training.checkpointing != "selective":
        yield
        return
    from transformers.modeling_utils import AttentionInterface

    look, again = getattr(AttentionInterface, "get_interface", None), _options(training)
    if look is None:
        raise ValueError(
            f"checkpointing='selective' is not run in {version()}, whose models find their attention in many ways; "
            "allowed: none, full"
        )

    def found(self: Any, *names: Any) -> Any:
        return functools.partial(checkpoint, look(self, *names), **again)

    AttentionInterface.get_interface = found
    try:
        yield
    finally:
        AttentionInterface.get_interface = look


def _options(training):
    # with dropout the same numbers must be drawn again; their generator's state is a tensor of its own
    return {"use_reentrant": False, "preserve_rng_state": training.dropout > 0}
