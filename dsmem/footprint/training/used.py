"""What becomes of a gradient as soon as backward has made it: it may be widened, or used and freed at once."""

from collections.abc import Callable

from dsmem.config.training import Training
from dsmem.footprint.training import optimizers
from dsmem.footprint.training.graph import Parameter
from dsmem.footprint.training.stepping import Stepped
from dsmem.footprint.training.tape import Tape


def user(training: Training, tensors: dict[str, Stepped]) -> Callable | None:
    """What a `Tape` calls with a parameter whose gradient is there; None where it waits for the optimizer's step.

    tensors: {name of a decoder's parameter: what the optimizer steps}. With gradients="fp32" it takes its place in
    FP32 (`MasterOptimizer`); with step_in_backward it is used, by an optimizer of this parameter alone.
    """
    widened = training.gradients == "fp32"
    if training.optimizer == "none" or not (widened or training.step_in_backward):
        return None
    own = {_on_tape(name): tensor for name, tensor in tensors.items()}

    def use(tape: Tape, parameter: Parameter, name: str) -> None:
        tensor = own[parameter.name]
        if widened:
            wide = tape.make("gradients", tensor.nbytes)
            tape.note(f"{name}, {parameter.name} widened")
            parameter.grad = wide
        if training.step_in_backward:
            _step(tape, training, tensor, f"{name}, {parameter.name} stepped")
            parameter.grad = None

    return use


def _step(tape, training, tensor, name):
    for number, parts in enumerate(optimizers.instants(training, {name: tensor}).values()):
        made = [tape.make(part, nbytes) for part, nbytes in parts.items()]
        tape.note(f"{name} {number}" if number else name)
        del made


def _on_tape(name):
    """The name that a decoder's parameter has on a tape.

    >>> _on_tape("layers.0.mlp.gate_proj.weight"), _on_tape("norm.bias")
    ('layers.0.gate_proj', 'norm.bias')
    """
    return name.replace(".self_attn.", ".").replace(".mlp.", ".").removesuffix(".weight")
