"""The optimizers themselves, torch's and bitsandbytes', each kernel by name; and the FP32 master copy they may step.

Fake tensors are stepped, too: the few numbers that an optimizer asks a tensor for are 1 there, and no shape depends on
them.
"""

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.overrides import TorchFunctionMode

from dsmem.config.training import Training
from dsmem.model.narrow import NarrowAdamW
from dsmem.units import format_name

BITSANDBYTES = {"lion": "Lion32bit", "adamw8bit": "AdamW8bit", "lion8bit": "Lion8bit"}
NOT_BY_MUON = ("embed", "lm_head", "score")  # matrices, but not of the layers


class Several:
    """Optimizers behind one `step`. optimizers: of torch or bitsandbytes; on a rank of many, those with states here."""

    def __init__(self, optimizers: list):
        self.optimizers = optimizers

    @property
    def state(self) -> dict:
        """Of every parameter that they step, the dict that its optimizer keeps for it."""
        return {key: value for optimizer in self.optimizers for key, value in optimizer.state.items()}

    @property
    def param_groups(self) -> list[dict]:
        """The parameter groups of all of them."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        """Steps every parameter that has a gradient."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Frees the gradient of all that they step, or with set_to_none=False fills it with zeros."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)


class ModelOptimizer(Several):
    """The optimizers of one model: two with Muon, else one. Made by `make_optimizer`.

    parameters: what it trains.
    """

    def __init__(self, training: Training, named: list[tuple[str, torch.nn.Parameter]]):
        self.training = training
        self.parameters = [parameter for _, parameter in named]
        super().__init__(_optimizers(training, named))

    def step(self) -> None:
        with _known_numbers(self.parameters):
            self._step()

    def states(self) -> dict[str, list[torch.Tensor]]:
        """The tensors that it keeps between two steps, by name: "exp_avg", "step" ...; a shared one once."""
        found = {}
        for state in self.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    found.setdefault(name, {})[value.untyped_storage()._cdata] = value
        return {name: list(tensors.values()) for name, tensors in found.items()}

    def _step(self):
        super().step()


class MasterOptimizer(ModelOptimizer):
    """Steps an FP32 copy of each 16-bit parameter, and copies it back.

    Gradients in 16 bit are widened tensor by tensor, each stepped and freed before the next: 2 + 2 + 12 bytes a
    parameter with AdamW. With gradients="fp32" each is widened as soon as backward has made it, the narrow one is
    freed, and all are stepped at once: 2 + 4 + 12 bytes. stepped: the copies.
    """

    def __init__(self, training: Training, named: list[tuple[str, torch.nn.Parameter]]):
        super().__init__(training, [(name, torch.nn.Parameter(p.detach().float())) for name, p in named])
        self.stepped, self.parameters = self.parameters, [parameter for _, parameter in named]
        if training.gradients == "fp32":
            for parameter, master in zip(self.parameters, self.stepped, strict=True):
                parameter.register_post_accumulate_grad_hook(_widener(master))

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def states(self) -> dict[str, list[torch.Tensor]]:
        return {"master weights": self.stepped} | super().states()

    @torch.no_grad()
    def _step(self):
        super()._step()  # those whose gradient is in FP32 already; an optimizer steps what has a gradient
        for parameter, master in zip(self.parameters, self.stepped, strict=True):
            if parameter.grad is not None:
                master.grad = parameter.grad.float()
                super()._step()  # this one alone
                master.grad = None
            parameter.copy_(master)


def make_optimizer(training: Any, parameters: Iterable) -> ModelOptimizer | None:
    """The optimizer of a model's parameters, as `training` asks for it; None for "none".

    training: as `Training.of` takes it. parameters: `model.named_parameters()`; Muon leaves embedding and head, which
    it knows by name, and what is no matrix, as norms and stacks of experts, to AdamW; the others take
    `model.parameters()` as well. Those without `requires_grad` are left out. Learning rates are those that torch and
    bitsandbytes give by default.
    Raises ValueError for what no optimizer can do, or where bitsandbytes is missing.

    >>> make_optimizer("sgd", torch.nn.Linear(2, 2).named_parameters()).optimizers[0].defaults["momentum"]
    0.9
    """
    training = Training.of(training)
    named = [pair if isinstance(pair, tuple) else (None, pair) for pair in parameters]
    named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    if training.optimizer == "none":
        return None
    if training.precision != "master":
        training.check_optimizer(sorted({format_name(parameter.dtype) for _, parameter in named}))
        return ModelOptimizer(training, named)
    training.check_optimizer(["fp32"])
    for name, parameter in named:
        _check_master(training, name, parameter)
    return MasterOptimizer(training, named)


def _optimizers(training, named):
    """The optimizers that step the named parameters."""
    if training.optimizer != "muon":
        return [_one(training, [parameter for _, parameter in named])]
    matrices = [parameter for name, parameter in named if _by_muon(name, parameter)]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for _, parameter in named if id(parameter) not in chosen]
    found = [torch.optim.Muon(matrices)] if matrices else []
    return found + ([torch.optim.AdamW(rest, **_kernel(training))] if rest else [])


def _by_muon(name, parameter):
    if name is None:
        raise ValueError(
            "parameters=model.parameters() have no names, by which Muon knows embedding and head; "
            "allowed: model.named_parameters()"
        )
    return parameter.ndim == 2 and not any(part.startswith(NOT_BY_MUON) for part in name.split("."))


def _one(training, parameters):
    if training.optimizer in BITSANDBYTES:
        return _of_bitsandbytes(training.optimizer, parameters)
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, **_kernel(training))
    if training.optimizer == "adafactor":
        return torch.optim.Adafactor(parameters, foreach=training.optimizer_kernel == "foreach")
    moments = _moments(training)
    if moments in (None, parameters[0].dtype):
        return torch.optim.AdamW(parameters, **_kernel(training))
    return NarrowAdamW(parameters, moments)


def _kernel(training):
    """torch's two flags, both said, so that no default decides."""
    if training.optimizer_kernel == "fused":
        return {"foreach": False, "fused": True}
    return {"foreach": training.optimizer_kernel == "foreach", "fused": False}


def _of_bitsandbytes(name, parameters):
    """bitsandbytes makes its tables of 256 values with real numbers; fake parameters get fake tables."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"optimizer={name!r} runs in bitsandbytes; install it with: pip install bitsandbytes")
    import bitsandbytes

    with unset_fake_temporarily():
        optimizer = getattr(bitsandbytes.optim, BITSANDBYTES[name])(parameters)
    if isinstance(parameters[0], FakeTensor):
        mode, tables = parameters[0].fake_mode, optimizer.name2qmap
        optimizer.name2qmap = {kind: mode.from_tensor(table) for kind, table in tables.items()}
    return optimizer


def _moments(training):
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return None if training.moments is None else named[training.moments]


def _check_master(training, name, parameter):
    kept = format_name(parameter.dtype)
    if kept == "fp32":
        raise ValueError(
            f"precision='master' keeps an FP32 copy of 16-bit parameters, and {name or 'one'} is in FP32; "
            "allowed there: pure, autocast"
        )
    if training.gradients not in (None, "fp32", kept):
        raise ValueError(
            f"gradients={training.gradients!r} is not a format of the gradients of {kept} parameters; "
            f"allowed: {kept}, fp32"
        )


def _widener(master):
    def widen(parameter):
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return widen


@contextlib.contextmanager
def _known_numbers(parameters) -> Iterator[None]:
    """Within a fake model's mode, and with 1 for every number that an optimizer asks of a tensor without values."""
    # of one that is cut over ranks, this rank's part
    own = (parameter.to_local() if hasattr(parameter, "to_local") else parameter for parameter in parameters)
    fake = next((part for part in own if isinstance(part, FakeTensor)), None)
    if fake is None:
        yield
        return
    with fake.fake_mode, _OneForAnyNumber():
        yield


class _OneForAnyNumber(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.item and isinstance(args[0], FakeTensor):
            return 1.0
        return func(*args, **(kwargs or {}))
