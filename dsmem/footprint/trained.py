"""The operators of a decoder in training, each with what it keeps for backward and what its gradient makes."""

import functools
from typing import Any, NamedTuple

import numpy as np

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.folding import Folded, kinds
from dsmem.footprint.tape import PASSING, Parameter, Summed, Tape, Tensor, View, gives, passes_on, passes_on_twice
from dsmem.units import dtype_bits


class Trained:
    """A step of training `arch`: its operators write on the tape `t`.

    held: {part: bytes} of what is alive from the first instant to the last. bits: of one element of an activation.
    tokens: of all sequences. tensors: {name: bytes} of what is trained, in the order in which the pass meets it.
    folded: which layers run, and what is known of the others.
    """

    def __init__(self, arch: Architecture, work: Workload, training: Training, held: dict[str, Any]):
        self.arch, self.work, self.training, self.t = arch, work, training, Tape(held)
        self.bits, self.tokens = dtype_bits(work.activations), work.batch * work.seq_len
        self.tensors = {}
        self.folded = Folded(self.t, kinds(arch), self.tensors)

    def parameter(self, name: str, nbytes: Any, uses: int = 1) -> Parameter:
        """A trained weight of the part of the model that runs now."""
        self.tensors.setdefault(self.t.where.removeprefix("again ") + name, nbytes)
        return Parameter(name, nbytes, uses)

    def bytes(self, elements: Any) -> Any:
        """Bytes of so many elements in the format of activations."""
        return formulas.tensor_bytes(elements, self.bits)

    def rows(self, width: Any) -> Any:
        """Bytes of `width` elements for every token."""
        return self.bytes(self.tokens * width)

    def linear(self, name: str, x: View, out: str, weight: Parameter | None = None) -> View:
        """A linear layer: keeps its input."""
        n_in, n_out, bias = self.arch.linears()[name]
        return self.product(name, x, out, n_in, n_out, bias, weight)

    def product(
        self, name: str, x: View, out: str, n_in: int, n_out: int, bias: bool = False, weight: Parameter | None = None
    ) -> View:
        """The same by its sizes; weight: where it has another use, too."""
        weight = weight or self.parameter(name, self.bytes(n_in * n_out))
        of_bias = self.bytes(n_out)
        inputs = [x, weight] + ([self.parameter(f"{name}.bias", of_bias)] if bias else [])
        size = self.rows(n_in)

        def rule(tape, grad):
            of_weight = tape.make(PASSING, weight.nbytes)
            given = [tape.make(PASSING, size, viewed=True), of_weight]
            return given + ([Summed(of_bias)] if bias else [])

        return self.t.apply(name, inputs, {out: self.rows(n_out)}, rule, [x, None])

    def norm(self, name: str, x: View, out: str, width: int, vectors: int = 1) -> View:
        """`layers.RMSNorm`: keeps its input and one float32 for each of `vectors` a token."""
        inverse = formulas.inverse_rms_bytes(self.work.batch, self.work.seq_len, vectors)
        return self._normed(name, x, {out: x.nbytes, "inverse_rms": inverse}, width, 1)

    def layer_norm(self, name: str, x: View, out: str) -> View:
        """`layers.LayerNorm`: keeps its input, and mean and deviation of each token."""
        half = formulas.layer_norm_statistics_bytes(self.work.batch, self.work.seq_len) // 2
        made = {out: x.nbytes, "norm_mean": half, "norm_deviation": half}
        return self._normed(name, x, made, self.arch.hidden_size, 2)

    def _normed(self, name, x, made, width, statistics):
        names = [name, f"{name}.bias"][:statistics]
        weights = [self.parameter(each, self.bytes(width)) for each in names]
        rule = gives(x.nbytes, *[weight.nbytes for weight in weights])
        keep = [x, None, *range(1, 1 + statistics)]
        return self.t.apply(name, [x, *weights], made, rule, keep, late=True)[0]

    def like(self, name: str, x: View, out: str, keep: list = (), late: bool = False, **beside: Any) -> View:
        """An operator whose output is as large as its input, and so is the gradient; `beside`: as in `Tape.apply`."""
        rule = gives(x.nbytes, *beside.values())
        return self.t.apply(name, [x], {out: x.nbytes}, rule, keep, late, beside)

    def activated(self, name: str, x: View, out: str) -> View:
        """SiLU or GELU keep their input, ReLU and the sigmoid what they give."""
        result = name.endswith(("relu", "sigmoid"))
        return self.like(name, x, out, [0] if result else [x], late=result)

    def cast(self, name: str, x: View, out: str, elements: Any, bits: int, grad: str = PASSING) -> View:
        """`x` in another format, or `x` itself where it has that already; keeps nothing. grad: its gradient's part."""
        if bits == self.bits:
            return x
        size = x.nbytes
        made = {out: formulas.tensor_bytes(elements, bits)}
        return self.t.apply(name, [x], made, lambda tape, _: [tape.make(grad, size)])

    def copied(self, name: str, x: View, out: str) -> View:
        """A copy in another layout, whose gradient is the same tensor."""
        return self.t.apply(name, [x], {out: x.nbytes}, passes_on)

    def resized(self, name: str, x: View, out: str, nbytes: Any) -> View:
        """Padded with zeros or widened for all heads; the gradient has the size of the input again."""
        return self.t.apply(name, [x], {out: nbytes}, gives(x.nbytes))

    def times(self, name: str, a: View, b: View, out: str) -> View:
        """A product of two tensors that are alike: keeps both factors."""
        return self.t.apply(name, [a, b], {out: a.nbytes}, gives(a.nbytes, b.nbytes), [a, b])

    def scaled(self, name: str, x: View, gate: View, out: str) -> View:
        """The same with one number a token, whose gradient is made in the size of `x` and summed up."""
        size, narrow = x.nbytes, gate.nbytes

        def rule(tape, grad):
            first = tape.make(PASSING, size)
            return [
                first,
                Summed(narrow, tape.make(PASSING, size)) if self.arch.hidden_size > 1 else tape.make(PASSING, narrow),
            ]

        return self.t.apply(name, [x, gate], {out: size}, rule, [x, gate])

    def plus(self, name: str, a: View, b: View, out: str) -> View:
        """A sum keeps nothing, and both addends have its gradient."""
        return self.t.apply(name, [a, b], {out: a.nbytes}, passes_on_twice)

    def dropped(self, name: str, x: View, out: str) -> View:
        """`layers.drop`: keeps a mask of one byte each; nothing where no dropout is asked for."""
        if not (self.training.dropout and self.arch.gpt_block):
            return x
        made = {out: x.nbytes, "dropout_mask": x.nbytes * 8 // self.bits}
        return self.t.apply(name, [x], made, gives(x.nbytes), [1], late=True)[0]

    def attended(self, q: View, k: View, v: View, mask: Tensor | None) -> View:
        """Attention as the workload asks for it; with selective checkpointing it runs again in backward."""
        run = functools.partial(self.eager, mask) if self.work.attention == "eager" else self.fused
        return self.t.again(run, q, k, v) if self.training.checkpointing == "selective" else run(q, k, v)

    def by_head(self, x: View, groups: int = 1) -> View:
        """`layers.repeat_heads`: a copy, head by head, `groups` of each; gradients of a group are added up."""
        name, part = f"{x.tensor.part}_by_head", x.tensor.part
        if groups > 1:
            return self.resized(f"widen_{part}", x, f"{part}_expanded", x.nbytes * groups)
        return self.copied(name, x, name)

    def split(self, x: View, heads: int, in_order: bool) -> View:
        """`layers.split_heads`: moves nothing, but a gradient that comes head by head is copied into the order of x.

        in_order: whether the gradient comes in that order already.
        """
        return x if in_order or heads == 1 else self.t.seen(f"split_{x.tensor.part}", x)

    def eager(self, mask: Tensor, q: View, k: View, v: View) -> View:
        """`layers.eager_attention` of queries, keys and values that lie head by head: keeps the softmax's result.

        Left out: a GPU's softmax makes one more tensor of the scores' size in backward.
        """
        arch = self.arch
        size = self.bytes(self.tokens * self.work.seq_len * arch.num_attention_heads)
        out = self.rows(arch.num_attention_heads * arch.value_head_dim)

        scores = self.t.apply("scores", [q, k], {"scores": size}, gives(q.nbytes, k.nbytes), [q, k])
        scores = self.t.inside("scale", scores)
        scores = self.t.inside("hide_future", scores, [mask])
        weights = self.like("softmax", scores, "attention_weights", [0], late=True)
        del scores
        weights = self.dropped("drop_weights", weights, "attention_weights")
        rule = gives(size, v.nbytes)
        mixed = self.t.apply("mix_values", [weights, v], {"attention_mixed": out}, rule, [weights, v])
        if arch.num_attention_heads > 1 and np.all(np.asarray(self.work.batch) > 1):
            mixed = self.t.seen("heads_together", mixed)
        return self.copied("merge_heads", mixed, "attention_out")

    def fused(self, q: View, k: View, v: View) -> View:
        """`operators.attention`: keeps queries, keys, values, what it gives and one float32 a row."""
        rows = formulas.logsumexp_bytes(self.work.batch, self.work.seq_len, self.arch.num_attention_heads)
        rule = gives(q.nbytes, k.nbytes, v.nbytes)
        made = {"attention_out": q.nbytes, "logsumexp": rows}
        return self.t.apply("attention", [q, k, v], made, rule, [q, k, v, 0, 1], late=True)[0]

    def shared(self) -> "Shared":
        """What all layers of this pass share."""
        angles, masks = [], {}
        if not self.arch.learned_positions:
            cosines = self.bytes(self.work.seq_len * self.arch.rotated_dim)
            angles = [Tensor(self.t, "rope_tables", size) for size in (cosines, -(-cosines // 2))]
        if self.work.attention == "eager":
            size = formulas.causal_mask_bytes(self.work.seq_len, self.work.seq_len)
            kinds = {False: "causal_mask", True: "window_mask"}
            masks = {kind: Tensor(self.t, part, size) for kind, part in kinds.items() if self.arch.layers_that(kind)}
        return Shared(angles, masks)


class Shared(NamedTuple):
    """Tensors that live as long as the pass, or one of its operators that waits for backward, has them.

    angles: cosines and sines, which rotations keep. masks: of eager attention, by whether a layer slides.
    """

    angles: list[Tensor]
    masks: dict[bool, Tensor]
