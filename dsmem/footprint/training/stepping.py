"""What an optimizer's step makes and lets go of, kernel by kernel: torch's own, as their Python reads, and ours."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from dsmem.config.training import Training
from dsmem.units import dtype_bits

ROUNDS = 5
"""Newton-Schulz iterations of torch's Muon (torch.optim.Muon, ns_steps)."""


class Stepped(NamedTuple):
    """A tensor that an optimizer steps. dtype: its format. inside: whether it is one of a layer's."""

    shape: tuple
    dtype: str
    inside: bool = True

    @property
    def elements(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its bytes, and those of its gradient."""
        return self.elements * self.number

    @property
    def rows(self) -> int:
        """Bytes of one number for each row of a matrix, or of each matrix of a stack."""
        return self.nbytes // self.shape[-1]

    @property
    def columns(self) -> int:
        """The same for each column."""
        return self.nbytes // self.shape[-2]

    @property
    def number(self) -> int:
        """Bytes of one number."""
        return dtype_bits(self.dtype) // 8

    @property
    def by_muon(self) -> bool:
        """Whether Muon steps it, and not the AdamW beside it: the matrices of layers."""
        return len(self.shape) == 2 and self.inside


class Locals:
    """The tensors that a step's code holds, {name: bytes}, and the bytes of all at each height.

    A name keeps its last tensor until it is given the next one.
    """

    def __init__(self):
        self.held, self.heights = {}, []

    def passing(self, nbytes: int) -> None:
        """So many bytes come and go."""
        self.heights.append(sum(self.held.values()) + nbytes)

    def put(self, name: str, nbytes: int) -> None:
        """`name` gets a new tensor; its old one is there until then."""
        self.passing(nbytes)
        self.held[name] = nbytes

    def move(self, name: str, to: str) -> None:
        """`to` has the tensor of `name` from now on, which has none."""
        self.held[to] = self.held.pop(name)

    def drop(self, *names: str) -> None:
        """These names have no tensors any more."""
        for name in names:
            self.held.pop(name, None)


def heights(training: Training, tensors: Iterable[Stepped]) -> list[int]:
    """Bytes of temporaries at each height of a step of `tensors`, in order; [0] where it makes none."""
    tensors = list(tensors)
    if training.optimizer == "muon":
        matrices, rest = [t for t in tensors if t.by_muon], [t for t in tensors if not t.by_muon]
        return _muon(matrices) + _adamw(training, rest) or [0]
    if training.optimizer == "adafactor":
        return (_adafactor_foreach if training.optimizer_kernel == "foreach" else _adafactor)(tensors)
    if training.optimizer == "adamw":
        return _narrow_adamw(tensors) if narrow(training, tensors[0]) else _adamw(training, tensors)
    return [0]  # SGD writes into what is there; bitsandbytes' kernels keep what they make in registers


def narrow(training: Training, tensor: Stepped) -> bool:
    """Whether the moments of an FP32 tensor are kept in 16 bit, which an AdamW of our own does alone."""
    return training.moments not in (None, tensor.dtype)


def _adamw(training, tensors):
    """The roots of second moments: of all at once; or one and its quotient, beside the last one's; or none."""
    if training.optimizer_kernel == "fused":
        return [0]
    if training.optimizer_kernel == "foreach":
        return [sum(t.nbytes for t in tensors)]
    v = Locals()
    for t in tensors:
        v.passing(2 * t.nbytes)
        v.held["denom"] = t.nbytes
    return v.heights


def _narrow_adamw(tensors):
    """`model.narrow.NarrowAdamW`: both moments widened, of one tensor."""
    return [2 * t.nbytes for t in tensors]


def _adafactor(tensors):
    """torch.optim.Adafactor tensor by tensor: means of rows and columns, and an estimate that becomes the update."""
    v = Locals()
    for t in tensors:
        v.passing(t.number)
        if len(t.shape) > 1:
            v.put("row_mean", t.rows)
            v.put("col_mean", t.columns)
            v.put("var_estimate", t.nbytes)
            v.passing(t.rows // t.shape[-2])
        else:
            v.put("grad_squared", t.nbytes)
            v.put("var_estimate", t.nbytes)
        v.move("var_estimate", to="update")
        v.passing(t.number)
    return v.heights


def _adafactor_foreach(tensors):
    """The same with all matrices at once, then all vectors beside the matrices' updates; or the other way round."""
    v = Locals()
    for flat in dict.fromkeys(len(t.shape) == 1 for t in tensors):
        group = [t for t in tensors if (len(t.shape) == 1) == flat]
        total = sum(t.nbytes for t in group)
        v.passing(group[0].number)
        if flat:
            v.passing(total)
            v.put("var_estimates", total)
        else:
            v.passing(sum(t.rows for t in group))
            v.passing(sum(t.columns for t in group))
            v.put("var_estimates", total)
            v.passing(sum(t.rows // t.shape[-2] for t in group))
        v.move("var_estimates", to="updates")
        v.passing(group[0].number)
    return v.heights


def _muon(tensors):
    """torch.optim.Muon matrix by matrix: the update orthogonalized in BF16, through products as wide as its short side.

    A BF16 update is not copied first.
    """
    v = Locals()
    for t in tensors:
        short, nbytes = 2 * min(t.shape) ** 2, 2 * t.elements
        v.put("update", t.nbytes)
        if t.dtype != "bf16":
            v.put("ortho_grad", nbytes)
        v.passing(2 * 2)
        for _ in range(ROUNDS):
            v.put("gram_matrix", short)
            v.put("gram_update", short)
            v.put("ortho_grad", nbytes)
        v.drop("gram_matrix", "gram_update")
        v.move("ortho_grad", to="update")
    return v.heights
