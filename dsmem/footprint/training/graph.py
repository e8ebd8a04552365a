"""The graph that autograd follows backward: tensors of bytes alone, who made them, and what a gradient is made into."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dsmem.footprint.training.tape import Again, Tape

PASSING = "activation_gradients"
"""The part that gradients of activations count under, until they have passed."""

NARROW = "narrow_gradients"
"""The same of the gradient of a weight's copy in fewer bits, until it is as wide as the weight."""


class Tensor:
    """Bytes of one tensor, counted under `part` from its birth until nobody holds it.

    viewed: whether torch handed on a view of it, as a linear layer's gradient is: no other gradient is added into that.
    """

    def __init__(self, tape: "Tape", part: str, nbytes: Any):
        self.tape, self.part, self.nbytes, self.viewed = tape, part, nbytes, False
        tape.count(part, nbytes)

    def __del__(self):
        self.tape.count(self.part, -self.nbytes)

    def becomes(self, part: str) -> None:
        """From now on it counts under another part."""
        self.tape.count(self.part, -self.nbytes)
        self.part = part
        self.tape.count(part, self.nbytes)


class View:
    """A tensor, or a part of one, as an operator made it; through the operator a gradient finds its way back.

    maker: None where no gradient comes back: nothing before this tensor is trained. nbytes: of what is seen, which may
    be less than the tensor. bits: of one of its numbers.
    """

    def __init__(self, tensor: Tensor, maker: "Operator | None", bits: int, index: int = 0, nbytes: Any = None):
        self.tensor, self.maker, self.bits, self.index = tensor, maker, bits, index
        self.nbytes = tensor.nbytes if nbytes is None else nbytes

    @property
    def learns(self) -> bool:
        """Whether a gradient comes back to it."""
        return self.maker is not None


class Parameter:
    """A weight. name: "layers.0.q_proj", from `Architecture.linears` and the like. nbytes: of its gradient, too.

    bits: of one of its numbers. learns: whether it is trained.
    """

    def __init__(self, name: str, nbytes: Any, bits: int, uses: int = 1, learns: bool = True):
        self.name, self.nbytes, self.bits, self.uses, self.learns, self.grad = name, nbytes, bits, uses, learns, None


class Fresh(NamedTuple):
    """A gradient that is a new tensor. viewed: as in `Tensor`. always: whether it is made although nobody needs it."""

    nbytes: Any
    part: str = PASSING
    viewed: bool = False
    always: bool = False


class Summed(NamedTuple):
    """A gradient that is summed up to a smaller shape, a bias's: made once the operator has let go of all it kept.

    nbytes: of the sum. whole: what is summed, a new tensor, where it is not the operator's own gradient.
    """

    nbytes: Any
    part: str = PASSING
    whole: Any = None


class Operator:
    """One operator that has run: who made its inputs, what it keeps, and the rule that turns gradients around.

    edges: where each input's gradient goes, None where it needs none. learns: whether one needs one.
    """

    def __init__(self, name: str, inputs: Iterable, outputs: int, rule: Callable):
        self.name, self.rule, self.grads = name, rule, [None] * outputs
        self.edges = [_edge(x) if x.learns else None for x in inputs]
        self.learns = any(edge is not None for edge in self.edges)
        self.kept, self.span = None, None
        self.again: Again | None = None


def gives(*sizes: Any, always: bool = False) -> Callable:
    """The rule of an operator that makes gradients of these sizes, one for each input and then those beside them.

    always: whether it makes all of them, needed or not.
    """
    return lambda grad: [Fresh(size, always=always) for size in sizes]


def passes_on(grad: Tensor) -> list[Tensor]:
    """The rule of an operator whose one input has the gradient of its output."""
    return [grad]


def passes_on_twice(grad: Tensor) -> list[Tensor]:
    """The same of two inputs."""
    return [grad, grad]


def _edge(x):
    return x if isinstance(x, Parameter) else (x.maker, x.index)
