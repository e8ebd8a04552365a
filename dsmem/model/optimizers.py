"""Optimizers for real: torch's own, with the kernel that `Training` asks for."""

from collections.abc import Iterable

import torch

from dsmem.config.training import Training


def make_optimizer(training: Training, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer | None:
    """The optimizer that `training` names, of these parameters; None for "none". It has no states yet.

    Raises ValueError for what is not run here.
    """
    if training.optimizer == "none":
        return None
    kernel = {"foreach": training.optimizer_kernel == "foreach", "fused": training.optimizer_kernel == "fused"}
    if training.precision != "master":
        if training.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=1e-4, **kernel)
        if training.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, **kernel)
    raise ValueError(
        f"optimizer={training.optimizer!r} with precision={training.precision!r} is not run yet; allowed: 'adamw', "
        "'sgd', 'none', with precision 'pure' or 'autocast'"
    )
