"""Autograd on sizes alone: what each operator makes, keeps for backward, and gives back as gradients.

A `Tape` runs a model's layers written out on `Tensor`s that have bytes and no numbers. As in torch, a tensor lives as
long as somebody holds it: a name in the layer's code, or an operator that keeps it for backward. `backward` then runs
the operators in reverse; each takes the gradient of what it made, makes those of what it was given, and lets go.
"""

from collections.abc import Callable, Iterable
from typing import Any

PASSING = "activation_gradients"
"""The part that gradients of activations count under, until they have passed."""


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

    nbytes: of what is seen, which may be less than the tensor.
    """

    def __init__(self, tensor: Tensor, maker: "Operator | None" = None, index: int = 0, nbytes: Any = None):
        self.tensor, self.maker, self.index = tensor, maker, index
        self.nbytes = tensor.nbytes if nbytes is None else nbytes


class Parameter:
    """A trained weight. name: as in `Architecture.linears` and the like. nbytes: of its gradient."""

    def __init__(self, name: str, nbytes: Any, uses: int = 1):
        self.name, self.nbytes, self.uses, self.grad = name, nbytes, uses, None


class Summed:
    """A gradient that is summed up to a smaller shape, a bias's: made once the operator has let go of all it kept.

    nbytes: of the sum. whole: what is summed, where it is not the operator's own gradient.
    """

    def __init__(self, nbytes: Any, whole: Tensor | None = None):
        self.nbytes, self.whole = nbytes, whole


class Operator:
    """One operator that has run: who made its inputs, what it keeps, and the rule that turns gradients around."""

    def __init__(self, name: str, inputs: Iterable, outputs: int, rule: Callable):
        self.name, self.rule, self.grads = name, rule, [None] * outputs
        self.edges = [x if isinstance(x, Parameter) else (x.maker, x.index) if x.maker else None for x in inputs]
        self.kept, self.again, self.span = None, None, None


class Again:
    """A stretch of the pass that runs a second time in backward, since nothing of it was kept but what it began with.

    run: the stretch, a call without arguments. count: how many tensors its operators want to keep.
    """

    def __init__(self, run: Callable, where: str):
        self.run, self.where, self.count, self.found = run, where, 0, None


class _Enough(Exception):
    """All that was to be kept is there again; the rest of the stretch need not run."""


class Tape:
    """What is alive as a step of training goes on, and each instant of it.

    held: {part: bytes} that are alive from the first instant to the last. instants: {name: {part: bytes}}, each after
    the operator of that name. where: stands before the names, such as "layers.0.". operators: those that have run, and
    calls without arguments, made when backward comes to their place.
    """

    def __init__(self, held: dict[str, Any]):
        self.alive = {part: nbytes for part, nbytes in held.items() if some(nbytes)}
        self.instants, self.operators, self.where = {}, [], ""
        self._again, self._second, self.trained = None, False, []

    def count(self, part: str, nbytes: Any) -> None:
        """`part` grows by so many bytes."""
        total = self.alive.get(part, 0) + nbytes
        if some(total):
            self.alive[part] = total
        else:
            self.alive.pop(part, None)

    def note(self, name: str) -> None:
        """The instant `name` is now."""
        self.instants[self.where + name] = dict(self.alive)

    def make(self, part: str, nbytes: Any, viewed: bool = False) -> Tensor:
        """A new tensor, not yet of an instant: gradients in a rule, and what has none. viewed: as in `Tensor`."""
        made = Tensor(self, part, nbytes)
        made.viewed = viewed
        return made

    def apply(
        self,
        name: str,
        inputs: Iterable,
        made: dict[str, Any],
        rule: Callable,
        keep: Iterable = (),
        late: bool = False,
        beside: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator, note its instant, and return its output, or a tuple of them; the first alone has gradients.

        inputs: `View`s and `Parameter`s, in the order in which `rule` gives their gradients. made: {part: bytes}.
        rule: called in backward with the tape and the gradient; gives a `Tensor` or a `Summed` for each
        input, and after those what it makes beside them.
        keep: tensors for backward; a number stands for an output, None for a weight. late: whether it keeps them when
        it has run, as operators of ours do, and not before. beside: {part: bytes} that are gone right after.
        """
        operator = Operator(self.where + name, inputs, 1, rule)
        keep = list(keep)
        if not late:
            self._keep(operator, keep)
        tensors = [Tensor(self, part, nbytes) for part, nbytes in made.items()]
        aside = [Tensor(self, part, nbytes) for part, nbytes in (beside or {}).items()]
        self.note(name)
        del aside
        if late:
            self._keep(operator, [tensors[kept] if isinstance(kept, int) else kept for kept in keep])
        self._record(operator)
        outputs = [View(tensor, operator if number == 0 else None) for number, tensor in enumerate(tensors)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def parts(self, name: str, whole: View, sizes: Iterable) -> list[View]:
        """Views of one tensor, of `sizes` bytes; their gradients are put together into one of all of it."""
        sizes = list(sizes)
        operator = Operator(self.where + name, [whole], len(sizes), gives(whole.nbytes))
        self._record(operator)
        return [View(whole.tensor, operator, number, size) for number, size in enumerate(sizes)]

    def view(self, x: View) -> View:
        """The same in another shape: uses of it have their gradients added up before they meet those of `x`."""
        operator = Operator(f"{self.where}view", [x], 1, passes_on)
        self._record(operator)
        return View(x.tensor, operator, 0, x.nbytes)

    def seen(self, name: str, x: View, nbytes: Any = None) -> View:
        """A part of `x`, or all heads' view of one; the gradient is a tensor of the size of `x`."""
        operator = Operator(self.where + name, [x], 1, gives(x.nbytes))
        self._record(operator)
        return View(x.tensor, operator, 0, x.nbytes if nbytes is None else nbytes)

    def inside(self, name: str, x: View, keep: Iterable = ()) -> View:
        """An operator that writes into `x` itself; its gradient is a tensor of that size."""
        operator = Operator(self.where + name, [x], 1, gives(x.nbytes))
        self._keep(operator, list(keep))
        self._record(operator)
        return View(x.tensor, operator, 0, x.nbytes)

    def again(self, run: Callable, *given: View) -> View:
        """`run(*given)`, of which nothing is kept but what it is given: in backward it runs again."""
        self._again = Again(lambda: run(*given), self.where)
        out = run(*given)
        self._again = None
        return out

    def backward(self, output: View, seed: Tensor) -> None:
        """Gradients of all parameters. seed: the gradient of `output`."""
        output.maker.grads[0] = seed
        del output, seed
        while self.operators:
            operator = self.operators.pop()
            if not isinstance(operator, Operator):
                operator()
            elif any(grad is not None for grad in operator.grads):
                self._turn(operator)

    def _turn(self, operator):
        """Run one operator backward: its rule; then what it kept and was given goes; its gradients go their way."""
        kept, grads = self._kept(operator), operator.grads
        given = operator.rule(self, grads if len(grads) > 1 else grads[0])
        self.where, name, edges = "backward ", operator.name, operator.edges
        for edge, grad in zip(edges, given, strict=False):
            if isinstance(edge, Parameter) and isinstance(grad, Tensor):
                grad.becomes("gradients")
        self.note(name)
        del kept  # of a stretch that ran again; what else it kept goes after the sums
        if any(isinstance(grad, Summed) for grad in given):
            sums = [self.make(PASSING, grad.nbytes) if isinstance(grad, Summed) else grad for grad in given]
            self.note(f"{name}, sum over rows")  # beside what is summed
            given = sums
            del sums
        operator.grads = operator.edges = operator.kept = operator.again = None
        given = given[: len(edges)]  # what the rule made beside its gradients goes
        del grads
        self._hand_on(edges, given, name)

    def _hand_on(self, edges, given, name):
        """Each gradient to the weight, or to the operator, that its input came from; in order, and gone once there."""
        given.reverse()
        for edge in edges:
            grad = given.pop()
            if isinstance(edge, Parameter):
                self._give_to_parameter(edge, grad, name)
            elif edge is not None:
                self._give(*edge, grad, name)
            del grad

    def _give(self, operator, index, grad, name):
        """Into its place; a second gradient is added into the first, which nobody else holds, unless that is a view."""
        waiting = operator.grads[index]
        if waiting is None:
            operator.grads[index] = grad
        elif waiting.viewed:
            operator.grads[index] = self.make(PASSING, waiting.nbytes)
            self.note(f"{name}, sum")

    def _give_to_parameter(self, parameter, grad, name):
        """Gradients of a weight that is used twice, as a tied head's, wait for each other and become a third tensor."""
        if parameter.grad is not None:
            grad = self.make(PASSING, grad.nbytes)
            self.note(f"{name}, sum")
        parameter.grad = grad
        parameter.uses -= 1
        grad.becomes("gradients")
        if not parameter.uses:
            self.trained.append(parameter)

    def _record(self, operator):
        if not self._second:
            self.operators.append(operator)

    def _keep(self, operator, keep):
        keep = [kept.tensor if isinstance(kept, View) else kept for kept in keep]
        if self._second:
            self._again.found += keep
            if len(self._again.found) == self._again.count:
                raise _Enough
        elif self._again is None:
            operator.kept = keep
        elif keep:
            operator.again, operator.span = self._again, (self._again.count, self._again.count + len(keep))
            self._again.count += len(keep)

    def _kept(self, operator):
        """What an operator keeps; after a stretch of which nothing was kept, once that has run again."""
        frame = operator.again
        if frame is None:
            return operator.kept or []
        if frame.found is None:
            frame.found, self._again, self._second, where = [], frame, True, self.where
            self.where = f"again {frame.where}"
            try:
                frame.run()
            except _Enough:
                pass
            self._again, self._second, self.where = None, False, where
        start, end = operator.span
        kept, frame.found[start:end] = frame.found[start:end], [None] * (end - start)
        return kept


def gives(*sizes: Any) -> Callable:
    """The rule of an operator that makes gradients of these sizes, one for each input and then those beside them."""
    return lambda tape, grad: [tape.make(PASSING, size) for size in sizes]


def passes_on(tape: Tape, grad: Tensor) -> list[Tensor]:
    """The rule of an operator whose one input has the gradient of its output."""
    return [grad]


def passes_on_twice(tape: Tape, grad: Tensor) -> list[Tensor]:
    """The same of two inputs."""
    return [grad, grad]


def some(nbytes: Any) -> Any:
    """Whether there are any bytes, of an array in any place."""
    return nbytes.any() if hasattr(nbytes, "any") else nbytes
