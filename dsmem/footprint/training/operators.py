"""The operators of a decoder in training, each with what it keeps for backward and what its gradient makes."""

from typing import Any, NamedTuple

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.training.adapters import adapted, first_adapted
from dsmem.footprint.training.folding import Folded, kinds
from dsmem.footprint.training.graph import NARROW, PASSING, Fresh, Parameter, Summed, Tensor, View, gives, passes_on
from dsmem.footprint.training.tape import Tape
from dsmem.footprint.walk import COPIED
from dsmem.units import dtype_bits


class Trained:
    """A step of training `arch`: its operators write on the tape `t`.

    held: {part: bytes} of what is alive from the first instant to the last. bits: of one number that a product makes.
    stored: of one of the model's own, its weights and the residual stream; under torch.autocast they are FP32, but for
    frozen ones. tokens: of all sequences. folded: which layers run, and what is known of the others.
    """

    def __init__(self, arch: Architecture, work: Workload, training: Training, held: dict[str, Any]):
        self.arch, self.work, self.training, self.t = arch, work, training, Tape(held)
        self.bits, self.tokens = dtype_bits(work.activations), work.batch * work.seq_len
        self.autocast = training.precision == "autocast" and self.bits < 32
        self.stored = 32 if self.autocast and training.lora_rank is None else self.bits
        self.folded = Folded(self.t, kinds(arch, first_adapted(arch, training)))

    def parameter(self, name: str, elements: Any, uses: int = 1, bits: int | None = None) -> Parameter:
        """A weight of the part of the model that runs now; frozen where LoRA trains its adapters, which say `bits`."""
        learns = bits is not None or self.training.lora_rank is None
        return Parameter(self.t.where + name, self.bytes(elements, bits), bits or self.stored, uses, learns)

    def bytes(self, elements: Any, bits: int | None = None) -> Any:
        """Bytes of so many elements, by default in the model's own format."""
        return formulas.tensor_bytes(elements, bits or self.stored)

    def rows(self, width: Any, bits: int | None = None) -> Any:
        """Bytes of `width` elements for every token, likewise."""
        return self.bytes(self.tokens * width, bits)

    def linear(self, name: str, x: View, out: str, weight: Parameter | None = None) -> View:
        """A linear layer: keeps its input where the weight learns, and the weight where the input does."""
        n_in, n_out, bias = self.arch.linears()[name]
        own = adapted(self.training, name)
        made = "lora_base" if own else out
        if (scheme := self.work.scheme(self.arch, name)) in COPIED:
            base = self.by_copy(name, x, made, n_in, n_out, scheme)
        else:
            base = self.product(name, x, made, n_in, n_out, bias, weight)
        return self.with_adapter(name, x, out, base, n_in, n_out) if own else base

    def by_copy(self, name: str, x: View, out: str, n_in: int, n_out: int, scheme: str) -> View:
        """`quantize.QuantizedLinear`: keeps nothing, for it makes a copy of its weight in forward and in backward."""
        copy, size = {"weight_copy": self.bytes(n_in * n_out)}, x.nbytes

        def made():
            if scheme == "int4":  # while the copy is filled
                self.t.glimpse(f"{name} unpack", **copy, weight_unpacked=formulas.tensor_bytes(n_in, 4) * n_out)

        def rule(grad):
            made()
            return [Fresh(size), *[Fresh(nbytes, part) for part, nbytes in copy.items()]]

        made()
        return self.t.apply(name, [x], {out: self.rows(n_out)}, rule, beside=copy)

    def with_adapter(self, name: str, x: View, out: str, base: View, n_in: int, n_out: int) -> View:
        """`lora.LoRALinear.forward` after its base: in the adapters' format, and back in that of the base."""
        rank, bits = self.training.lora_rank, dtype_bits(self.training.lora_weights or "fp32")
        down, up = (self.parameter(f"{name}.{part}", n * rank, bits=bits) for part, n in (("A", n_in), ("B", n_out)))
        wide = self.cast(f"{name}.to adapter", x, "lora_input", bits)
        inner = self.product(f"{name}.A", wide, "lora_inner", n_in, rank, weight=down)
        del wide
        added = self.product(f"{name}.B", inner, "lora_added", rank, n_out, weight=up)
        del inner
        added = self.like(f"{name}.scale", added, "lora_added")
        return self.cast(f"{name}.from adapter", self.plus(f"{name}.add", base, added, out), out, base.bits)

    def product(
        self,
        name: str,
        x: View,
        out: str,
        n_in: int,
        n_out: int,
        bias: bool = False,
        weight: "Parameter | View | None" = None,
        flat: bool = False,
    ) -> View:
        """The same by its sizes; weight: where it has another use, too. flat: whether `x` has rows and no sequences."""
        weight = weight or self.parameter(name, n_in * n_out)
        added = [self.lowered(self.parameter(f"{name}.bias", n_out), f"{name}.bias")] if bias else []
        wide, weight = weight.bits, self.lowered(weight, f"{name}.weight")  # in this order, the last argument first
        x = self.lowered(x, f"{name}.input")
        part = NARROW if weight.bits < wide else PASSING
        inputs, given = [x, weight], [Fresh(x.nbytes, viewed=not flat), Fresh(weight.nbytes, part, viewed=True)]
        if bias:  # torch flattens x, then transposes the weight, and without a bias after: backward it is in this order
            inputs, given = [*added, weight, x], [Summed(added[0].nbytes, part), *given[::-1]]
        keep = [(x, 1), (weight, inputs.index(x))]
        return self.t.apply(name, inputs, {out: self.rows(n_out, x.bits)}, lambda grad: given, keep)

    def lowered(self, x: "View | Parameter", name: str, held: bool = True) -> "View | Parameter":
        """What torch.autocast hands to a product: a copy in its format.

        held: whether it holds that of a weight until the pass is over, as it does for products of its own.
        """
        if not self.autocast:
            return x
        out = "weight_casts" if isinstance(x, Parameter) else f"{x.tensor.part}_cast"
        made = self.cast(f"{name} cast", x, out, self.bits)
        if made is not x and isinstance(x, Parameter) and held:
            self.t.casts.append((self.t.where, made))
        return made

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
        weights = [self.cast(f"{each} cast", self.parameter(each, width), "weight_casts", x.bits) for each in names]
        rule = gives(x.nbytes, *[weight.nbytes for weight in weights])
        keep = [x, weights[0], *range(1, 1 + statistics)]
        return self.t.apply(name, [x, *weights], made, rule, keep, late=True)[0]

    def like(self, name: str, x: View, out: str, keep: list = (), late: bool = False) -> View:
        """An operator whose output is as large as its input, and so is the gradient."""
        return self.t.apply(name, [x], {out: x.nbytes}, gives(x.nbytes), keep, late)

    def activated(self, name: str, x: View, out: str) -> View:
        """SiLU or GELU keep their input, ReLU and the sigmoid what they give."""
        result = name.endswith(("relu", "sigmoid"))
        return self.like(name, x, out, [0] if result else [x], late=result)

    def rotated(self, name: str, x: View, out: str, angles: list) -> View:
        """`rotary.rotate`: as wide as the tables of angles; the gradient is turned back as wide, then cast."""
        size = x.nbytes * self.stored // x.bits
        rule = gives(x.nbytes, *([size] if x.bits < self.stored else []))
        return self.t.apply(name, [x], {out: size}, rule, angles, late=True, bits=self.stored)

    def rotated_part(self, name: str, x: View, out: str, angles: list, part: int, whole: int) -> View:
        """`rotary.rotate_part`, of `part` of each `whole` numbers: a copy, or in place where nothing learns."""
        beside = {f"{out}_rotated": x.nbytes * self.stored // x.bits // whole * part}
        if not x.learns:
            self.t.glimpse(name, **beside)
            return x
        return self.t.apply(name, [x], {out: x.nbytes}, gives(x.nbytes, *beside.values()), angles, True, beside)

    def cast(self, name: str, x: "View | Parameter", out: str, bits: int, grad: str = PASSING) -> "View | Parameter":
        """`x` in another format, or `x` itself where it has that already; keeps nothing. grad: its gradient's part."""
        if bits == x.bits:
            return x
        made = {out: x.nbytes * bits // x.bits}
        size = x.nbytes
        return self.t.apply(name, [x], made, lambda _: [Fresh(size, grad)], bits=bits)

    def copied(self, name: str, x: View, out: str) -> View:
        """A copy in another layout, whose gradient is the same tensor."""
        return self.t.apply(name, [x], {out: x.nbytes}, passes_on)

    def resized(self, name: str, x: View, out: str, nbytes: Any) -> View:
        """Padded with zeros or widened for all heads; the gradient has the size of the input again."""
        return self.t.apply(name, [x], {out: nbytes}, gives(x.nbytes))

    def times(self, name: str, a: View, b: View, out: str) -> View:
        """A product of two tensors that are alike: keeps of each what the other's gradient needs."""
        return self.t.apply(name, [a, b], {out: a.nbytes}, gives(a.nbytes, b.nbytes), [(a, 1), (b, 0)])

    def scaled(self, name: str, x: View, gate: View, out: str) -> View:
        """The same with one number a token, whose gradient is made in the size of `x` and summed up."""
        size, narrow = x.nbytes, gate.nbytes
        of_gate = Summed(narrow, whole=size) if self.arch.hidden_size > 1 else Fresh(narrow)
        return self.t.apply(name, [x, gate], {out: size}, lambda _: [Fresh(size), of_gate], [(x, 1), (gate, 0)])

    def plus(self, name: str, a: View, b: View, out: str) -> View:
        """A sum, as wide as the wider addend, keeps nothing; both have its gradient, the narrower a cast of it."""
        bits = max(a.bits, b.bits)
        sizes = [(x.nbytes, x.bits) for x in (a, b)]

        def rule(grad):
            return [grad if own == bits else Fresh(size) for size, own in sizes]

        return self.t.apply(name, [a, b], {out: a.nbytes * bits // a.bits}, rule, bits=bits)

    def dropped(self, name: str, x: View, out: str) -> View:
        """`layers.drop`: keeps a mask of one byte each; nothing where no dropout is asked for."""
        if not (self.training.dropout and self.arch.gpt_block):
            return x
        made = {out: x.nbytes, "dropout_mask": x.nbytes * 8 // x.bits}
        return self.t.apply(name, [x], made, gives(x.nbytes), [1], late=True)[0]

    def autocasted(self, *tensors: View) -> list[View]:
        """`layers.autocasted`, before operators of ours, which torch.autocast does not know."""
        return [self.lowered(x, f"attention.{x.tensor.part}") for x in tensors]

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
