"""LoRA (arXiv 2106.09685): a frozen linear layer and two thin matrices beside it, which alone are trained.

Written as peft computes it, so that it makes and keeps the same tensors.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmem.config.training import LORA_TARGETS, Training
from dsmem.model.devices import TORCH_DTYPES
from dsmem.model.nf4 import Nf4Linear
from dsmem.units import names, whole_number

SCALE = 2.0
"""What the adapter's output is multiplied by: alpha / rank, with alpha at twice the rank as is usual."""


class LoRALinear(nn.Module):
    """base(x) + SCALE * B(A(x)), in the format of the base's output; the base is frozen, A and B are trained.

    base: a linear layer of any kind, with in_features and out_features. rank: rows of A (rank, in_features) and columns
    of B (out_features, rank). dtype: of both; where it is wider than the base's, x and the sum are cast, and backward
    keeps the cast x.
    """

    def __init__(self, base: nn.Module, rank: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.base, self.in_features, self.out_features = base.requires_grad_(False), base.in_features, base.out_features
        like = next(base.parameters()).detach()  # fake beside fake ones, on the same device
        self.A = nn.Parameter(like.new_empty((whole_number("rank", rank), self.in_features), dtype=dtype))
        self.B = nn.Parameter(like.new_zeros((self.out_features, rank), dtype=dtype))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features). Returns (..., out_features)."""
        out = self.base(x)
        added = F.linear(F.linear(x.to(self.A.dtype), self.A), self.B) * SCALE
        if isinstance(self.base, Nf4Linear):  # peft copies its output and narrows what is added, not the sum
            return out.clone() + added.to(out.dtype)
        return (out + added).to(out.dtype)


def add_lora(
    module: nn.Module, rank: int, targets: Iterable[str] = LORA_TARGETS, dtype: torch.dtype = torch.float32
) -> int:
    """Freeze a module and give its linear layers whose last name is in `targets` adapters; returns numbers trained.

    Arguments as in `LoRALinear`. Raises ValueError where the module has no such layer.

    >>> model = nn.ModuleDict({"q_proj": nn.Linear(8, 16), "gate": nn.Linear(8, 16)})
    >>> add_lora(model, 2, ["q_proj"]), model["gate"].weight.requires_grad
    (48, False)
    """
    targets = names("targets", tuple(targets))
    module.requires_grad_(False)
    named = [(path, part) for path, part in module.named_modules() if path.rpartition(".")[2] in targets]
    layers = [(path, part) for path, part in named if hasattr(part, "in_features") and not hasattr(part, "experts")]
    if not layers:
        raise ValueError(f"targets={targets!r} are not in this module; at least one must name a linear layer of it")
    for path, part in layers:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, LoRALinear(part, rank, dtype))
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def put_adapters(module: nn.Module, training: Training) -> None:
    """Give a module the adapters that `training` asks for, if any, in FP32 where it does not say another format."""
    if training.lora_rank is not None:
        add_lora(module, training.lora_rank, training.lora_targets, TORCH_DTYPES[training.lora_weights or "fp32"])
