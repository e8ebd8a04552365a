"""How a model is trained: the optimizer and its kernel, the precision of each copy, what is kept for backward."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from dsmem.config.workload import LINEARS, Workload
from dsmem.units import FLOATS, format_name, names, one_of, whole_number

OPTIMIZERS = ("adamw", "sgd", "adafactor", "muon", "lion", "adamw8bit", "lion8bit", "none")
BITSANDBYTES = ("lion", "adamw8bit", "lion8bit")
KERNELS = ("foreach", "loop", "fused")
_CHOICES = {
    "optimizer": OPTIMIZERS,
    "optimizer_kernel": KERNELS,
    "precision": ("pure", "autocast", "master"),
    "checkpointing": ("none", "full", "selective"),
}
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclasses.dataclass(frozen=True)
class Training:
    """How a step of training goes: forward, loss, backward, optimizer. The batch and its length are the workload's.

    optimizer: "adamw", "sgd" (with momentum), "adafactor", "muon" (matrices of the layers; the rest by AdamW), torch's
    own; "lion", "adamw8bit", "lion8bit" of bitsandbytes; or "none": forward and backward alone.
    optimizer_kernel: of torch's optimizers, "foreach" (torch's default on CUDA: one operator for all tensors), "loop"
    (tensor by tensor) or "fused" (one kernel, no temporaries).
    precision: "pure": parameters, gradients and activations in the workload's format. "autocast": parameters and
    gradients in FP32, the pass under `torch.autocast` in the workload's format. "master": the pass as in "pure", while
    the optimizer steps an FP32 copy of the parameters (16 bytes a parameter with AdamW).
    gradients: with "master", the format in which gradients are handed to the optimizer: the workload's own by default,
    or "fp32" (18 bytes a parameter).
    moments: the format of the optimizer's states, by default that of the parameters it steps; DeepSeek-V3 steps an FP32
    master copy with "bf16" moments.
    checkpointing: what a layer keeps for backward: all ("none"), its input alone ("full"), or all but what attention
    makes again ("selective").
    loss_chunk: tokens of a sequence whose logits are in memory at a time, or None for all.
    step_in_backward: whether each gradient is used and freed as soon as it is there.
    dropout: probability, of a GPT block's three dropouts; other families have none.
    lora_rank: of the adapters that are trained while all else is frozen, or None for full training. lora_targets: names
    of linear layers. lora_weights: format of the adapters, by default "fp32" where the pass is in 16 bit.
    Raises ValueError, one sentence, for anything else.
    """

    optimizer: str = "adamw"
    optimizer_kernel: str = "foreach"
    precision: str = "pure"
    gradients: str | None = None
    moments: str | None = None
    checkpointing: str = "none"
    loss_chunk: int | None = None
    step_in_backward: bool = False
    dropout: float = 0.0
    lora_rank: int | None = None
    lora_targets: tuple = LORA_TARGETS
    lora_weights: str | None = None

    def __post_init__(self):
        for argument, allowed in _CHOICES.items():
            one_of(argument, getattr(self, argument), allowed)
        for argument in ("gradients", "moments", "lora_weights"):
            if (value := getattr(self, argument)) is not None:
                self._settle(argument, one_of(argument, format_name(value), FLOATS))
        if self.gradients is not None and self.precision != "master":
            raise ValueError(
                f"gradients={self.gradients!r} is a choice of precision='master' alone; with "
                f"precision={self.precision!r} gradients have the format of the parameters"
            )
        for argument in ("loss_chunk", "lora_rank"):
            if (value := getattr(self, argument)) is not None:
                whole_number(argument, value)
        if type(self.step_in_backward) is not bool:
            raise ValueError(f"step_in_backward={self.step_in_backward!r} is not a choice; allowed: True, False")
        if self.step_in_backward and self.optimizer == "none":
            raise ValueError("step_in_backward=True has nothing to step with optimizer='none'; it must be False there")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout!r} is not a probability; it must be a number from 0 to below 1")
        self._settle("lora_targets", names("lora_targets", self.lora_targets))
        for name in self.lora_targets:
            one_of("lora_targets", name, LINEARS)
        for name, default in (("lora_targets", LORA_TARGETS), ("lora_weights", None)):
            if self.lora_rank is None and (value := getattr(self, name)) != default:
                raise ValueError(f"{name}={value!r} is of adapters, which lora_rank=None has not; give a lora_rank")

    @classmethod
    def of(cls, training: Any = None, **fields: Any) -> "Training":
        """`training` itself, changed by `fields`; a dict of fields, an optimizer's name, or True for the defaults.

        Raises ValueError for anything else, or for a field that it does not have.

        >>> Training.of("sgd").optimizer, Training.of({"lora_rank": 8}).lora_rank, Training.of(True) == Training()
        ('sgd', 8, True)
        """
        if training is None or training is True:
            training = {}
        if isinstance(training, str):
            training = {"optimizer": training}
        if not isinstance(training, dict | cls):
            raise ValueError(
                f"training={training!r} is not a Training; it must be one, its fields as a dict, the name of an "
                "optimizer, or True"
            )
        for name in (*(training if isinstance(training, dict) else ()), *fields):
            one_of("field", name, (field.name for field in dataclasses.fields(cls)), "a field of Training")
        if isinstance(training, dict):
            return cls(**training | fields)
        return dataclasses.replace(training, **fields) if fields else training

    def workload(self, work: Workload | None = None, **fields: Any) -> Workload:
        """What one step runs: a whole prompt without a cache, logits of all positions, BF16 where no format is given.

        Arguments as in `Workload.of`. Raises ValueError for a decode, for cached tokens, and for weights of a scheme
        that are to be trained themselves.

        >>> Training().workload(seq_len=64).weights
        'bf16'
        """
        if work is None:
            fields = {"weights": "bf16"} | fields
        work = Workload.of(work, **fields)
        one_of("phase", work.phase, ("prefill",), "what a training step runs")
        if np.any(work.cached_tokens):
            raise ValueError(f"cached_tokens={work.cached_tokens} is nothing that a training step reads; it must be 0")
        if self.lora_rank is None:
            one_of("weights", work.weights, FLOATS, "a format that all parameters are trained in")
        return work.changed(cache="none", logits="all")

    def parameters(self, work: Workload) -> str:
        """The format that the model's parameters, those that are trained, are kept in; with LoRA, its adapters."""
        if self.lora_rank is not None:
            return self.lora_weights or "fp32"
        return "fp32" if self.precision == "autocast" else work.activations

    def stepped(self, work: Workload) -> str:
        """The format of what the optimizer steps: the parameters, or their master copy."""
        return "fp32" if self.precision == "master" else self.parameters(work)

    def check_optimizer(self, stepped: Iterable[str]) -> None:
        """Raise ValueError for a kernel that the optimizer has not, or moments that it does not keep.

        stepped: formats of what it steps. Optimizers keep moments in the format of what they step; those of FP32 an
        AdamW of our own keeps in 16 bit.
        """
        if self.optimizer_kernel == "fused" and self.optimizer in ("adafactor", "muon"):
            one_of(f"optimizer_kernel of {self.optimizer}", "fused", [kind for kind in KERNELS if kind != "fused"])
        if self.moments is None:
            return
        if self.optimizer in BITSANDBYTES:
            raise ValueError(
                f"moments={self.moments!r} is not a choice of optimizer={self.optimizer!r}, whose name says how its "
                "states are kept; leave it out"
            )
        stepped = set(stepped)
        if stepped != {self.moments} and (self.optimizer, self.optimizer_kernel, stepped) != (
            "adamw",
            "loop",
            {"fp32"},
        ):
            raise ValueError(
                f"moments={self.moments!r} is not kept by optimizer={self.optimizer!r} with "
                f"optimizer_kernel={self.optimizer_kernel!r}; moments in 16 bit of FP32 parameters or master copies "
                "are allowed with optimizer='adamw', optimizer_kernel='loop'"
            )

    def words(self, work: Workload) -> str:
        """How a step trains, in words.

        >>> Training(precision="autocast", checkpointing="full").words(Workload(weights="bf16"))
        'adamw (foreach), fp32 parameters under bf16 autocast, full checkpointing'
        >>> Training("sgd", lora_rank=8).words(Workload(weights="bf16"))
        'sgd (foreach), frozen bf16 weights, LoRA of rank 8'
        """
        own = self.optimizer in ("adamw", "sgd", "adafactor", "muon")
        name = self.optimizer.replace("none", "no optimizer")
        precision = {
            "pure": f"all in {work.activations}",
            "autocast": f"{self.parameters(work)} parameters under {work.activations} autocast",
            "master": f"{work.activations} with a {self.stepped(work)} master copy",
        }
        frozen = self.lora_rank is not None
        said = [f"{name} ({self.optimizer_kernel})" if own else name]
        said.append(f"frozen {work.weights} weights" if frozen else precision[self.precision])
        said += [f"{self.checkpointing} checkpointing"] if self.checkpointing != "none" else []
        said += [f"LoRA of rank {self.lora_rank}"] if frozen else []
        said += [f"loss in chunks of {self.loss_chunk}"] if self.loss_chunk is not None else []
        return ", ".join(said + (["step in backward"] if self.step_in_backward else []))

    def _settle(self, name, value):
        object.__setattr__(self, name, value)
