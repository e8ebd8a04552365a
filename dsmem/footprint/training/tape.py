"""Autograd on sizes alone: what each operator makes, keeps for backward, and gives back as gradients.

A `Tape` runs a model's layers written out on `Tensor`s that have bytes and no numbers. As in torch, a tensor lives as
long as somebody holds it: a name in the layer's code, or an operator that keeps it for backward. `backward` then runs
the operators in reverse; each takes the gradient of what it made, makes those of what it was given, and lets go.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dsmem.footprint.training.graph import PASSING, Fresh, Operator, Parameter, Summed, Tensor, View, gives, passes_on


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
    calls without arguments, made when backward comes to their place. casts: copies of weights, each with its `where`,
    that torch.autocast holds until the pass, or the stretch that runs again, is over. use: None, or what is called with
    the tape, each parameter whose gradient is there, and the name of the operator that made it.
    """

    def __init__(self, held: dict[str, Any]):
        self.alive = {part: nbytes for part, nbytes in held.items() if some(nbytes)}
        self.instants, self.operators, self.where = {}, [], ""
        self._again, self._second, self.casts, self.use, self._done = None, False, [], None, []

    def count(self, part: str, nbytes: Any) -> None:
        """`part` grows by so many bytes."""
        total = self.alive.get(part, 0) + nbytes
        if some(total):
            self.alive[part] = total
        else:
            self.alive.pop(part, None)

    def note(self, name: str) -> None:
        """The instant `name` is now; of the same name, all but the first are numbered."""
        name, count = self.where + name, 1
        while (f"{name} {count}" if count > 1 else name) in self.instants:
            count += 1
        self.instants[f"{name} {count}" if count > 1 else name] = dict(self.alive)

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
        bits: int | None = None,
    ) -> Any:
        """Run an operator, note its instant, and return its output, or a tuple of them; the first alone has gradients.

        inputs: `View`s and `Parameter`s, in the order in which `rule` gives their gradients. made: {part: bytes}.
        rule: called in backward with the gradient; gives for each input a `Fresh`, a `Summed`, or the gradient itself,
        and after those what is made beside them. What no input needs is not made.
        keep: what is kept for backward, if a gradient comes back at all: a number stands for an output; a pair
        (x, n) is kept only where the n-th input has a gradient. late: whether it keeps them when it has run, as
        operators of ours do, and not before. beside: {part: bytes} that are gone right after. bits: of the output's
        numbers, by default as the first input's.
        """
        inputs = list(inputs)
        operator, bits = Operator(self.where + name, inputs, 1, rule), bits or inputs[0].bits
        if not late:
            self._keep(operator, keep)
        tensors = [Tensor(self, part, nbytes) for part, nbytes in made.items()]
        self.glimpse(name, **(beside or {}))
        if late:
            self._keep(operator, [tensors[kept] if isinstance(kept, int) else kept for kept in keep])
        maker = self._record(operator)
        outputs = [View(tensor, None if number else maker, bits) for number, tensor in enumerate(tensors)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def glimpse(self, name: str, **beside: Any) -> None:
        """The instant `name`, with {part: bytes} that are gone right after."""
        aside = [Tensor(self, part, nbytes) for part, nbytes in beside.items()]
        self.note(name)
        del aside

    def parts(self, name: str, whole: View, sizes: Iterable) -> list[View]:
        """Views of one tensor, of `sizes` bytes; their gradients are put together into one of all of it."""
        sizes = list(sizes)
        maker = self._record(Operator(self.where + name, [whole], len(sizes), gives(whole.nbytes)))
        return [View(whole.tensor, maker, whole.bits, number, size) for number, size in enumerate(sizes)]

    def view(self, x: View) -> View:
        """The same in another shape: uses of it have their gradients added up before they meet those of `x`."""
        return self._seen("view", x, passes_on)

    def seen(self, name: str, x: View, nbytes: Any = None) -> View:
        """A part of `x`, or all heads' view of one; the gradient is a tensor of the size of `x`."""
        return self._seen(name, x, gives(x.nbytes), nbytes=nbytes)

    def inside(self, name: str, x: View, keep: Iterable = ()) -> View:
        """An operator that writes into `x` itself; its gradient is a tensor of that size."""
        return self._seen(name, x, gives(x.nbytes), keep)

    def _seen(self, name, x, rule, keep=(), nbytes=None):
        operator = Operator(self.where + name, [x], 1, rule)
        self._keep(operator, keep)
        return View(x.tensor, self._record(operator), x.bits, 0, x.nbytes if nbytes is None else nbytes)

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
        self.where, name, edges = "backward ", operator.name, operator.edges
        given = self._given(edges, operator.rule(grads if len(grads) > 1 else grads[0]))
        for edge, grad in zip(edges, given, strict=False):
            if isinstance(edge, Parameter) and isinstance(grad, Tensor):
                grad.becomes("gradients")
            del grad
        self.note(name)
        del kept  # of a stretch that ran again; what else it kept goes after the sums
        if any(isinstance(grad, _Sum) for grad in given):
            sums = [self.make(grad.part, grad.nbytes) if isinstance(grad, _Sum) else grad for grad in given]
            self.note(f"{name}, sum over rows")  # beside what is summed
            given = sums
            del sums
        operator.grads = operator.edges = operator.kept = operator.again = None
        given = given[: len(edges)]  # what the rule made beside its gradients goes
        del grads
        self._hand_on(edges, given, name)

    def _given(self, edges, recipes):
        """What a rule says, made; None in place of what no input needs."""
        needed = [edge is not None for edge in edges] + [True] * (len(recipes) - len(edges))
        return [self._one_given(recipe, is_needed) for recipe, is_needed in zip(recipes, needed, strict=True)]

    def _one_given(self, recipe, needed):
        if isinstance(recipe, Fresh):
            return self.make(recipe.part, recipe.nbytes, recipe.viewed) if needed or recipe.always else None
        if not needed or not isinstance(recipe, Summed):
            return recipe if needed else None
        return _Sum(recipe.nbytes, recipe.part, None if recipe.whole is None else self.make(PASSING, recipe.whole))

    def _hand_on(self, edges, given, name):
        """Each gradient to the weight, or to the operator, that its input came from; in order, and gone once there."""
        given.reverse()
        for edge in edges:
            if isinstance(edge, Parameter):
                self._give_to_parameter(edge, given, name)
            elif edge is not None:
                self._give(*edge, given.pop(), name)
            else:
                given.pop()

    def _give(self, operator, index, grad, name):
        """Into its place; a second gradient is added into the first, which nobody else holds, unless that is a view."""
        waiting = operator.grads[index]
        if waiting is None:
            operator.grads[index] = grad
        elif waiting.viewed:
            operator.grads[index] = self.make(PASSING, waiting.nbytes)
            self.note(f"{name}, sum")

    def _give_to_parameter(self, parameter, given, name):
        """The last of `given`, which nobody else holds; gradients of a weight used twice are added up likewise."""
        grads = [given.pop()]
        if parameter.grad is not None:
            if parameter.grad.viewed:
                grads.append(self.make(PASSING, parameter.grad.nbytes))
                self.note(f"{name}, sum")
            else:
                grads.append(parameter.grad)
        parameter.grad = grads[-1]
        del grads
        parameter.uses -= 1
        parameter.grad.becomes("gradients")
        if not parameter.uses:
            self._done.append(parameter)  # which holds its gradient
            if self.use:
                self.use(self, parameter, name)

    def _record(self, operator):
        """The operator, which waits for backward, or None where no gradient comes back to it."""
        if operator.learns and not self._second:
            self.operators.append(operator)
        return operator if operator.learns else None

    def _keep(self, operator, keep):
        if not operator.learns:
            return
        pairs = [kept if isinstance(kept, tuple) else (kept, None) for kept in keep]
        keep = [kept for kept, number in pairs if number is None or operator.edges[number] is not None]
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
            frame.found, self._again, self._second, where, casts = [], frame, True, self.where, self.casts
            self.where, self.casts = f"again {frame.where}", []
            try:
                frame.run()
            except _Enough:
                pass
            self._again, self._second, self.where, self.casts = None, False, where, casts
        start, end = operator.span
        kept, frame.found[start:end] = frame.found[start:end], [None] * (end - start)
        return kept


class _Sum(NamedTuple):
    """A `Summed` in the making, with the tensor that is summed."""

    nbytes: Any
    part: str
    whole: Tensor | None


def some(nbytes: Any) -> Any:
    """Whether there are any bytes, of an array in any place."""
    return nbytes.any() if hasattr(nbytes, "any") else nbytes
