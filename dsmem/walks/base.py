"""The walk itself, and the linear layers that every part of a pass goes through."""

from dsmem import formulas
from dsmem.units import dtype_bits


class Walk:
    """A pass retold instant by instant: what is alive so far, and the instants it has been through."""

    def __init__(self, held):
        self.alive = dict(held)
        self.phases = {}

    def instant(self, name, **temporary):
        """Note an instant: all that is alive, and `temporary` parts that are gone right after it."""
        self.phases[name] = self.alive | temporary

    def make(self, name, **parts):
        """Note the instant at which `parts` come to life; they stay alive."""
        self.alive |= parts
        self.instant(name)

    def drop(self, *parts):
        """These parts die."""
        for part in parts:
            self.alive.pop(part, None)


def walk_linear(walk, arch, work, name, out, positions=None, **beside):
    """A linear layer's instants: one, and one before it where numbers are unpacked or the input is rounded.

    out: its output's part; beside: other parts alive only now; positions: tokens per sequence, else all new ones.
    """
    n_in, n_out, _ = (arch.linears() | {"lm_head": (arch.hidden_size, arch.vocab_size, False)})[name]
    rows, bits = work.batch * (work.new_tokens if positions is None else positions), dtype_bits(work.activations)
    scheme = work.scheme(arch, name)
    if scheme in COPIED:
        walk.instant(name, **beside, **walk_copy(walk, scheme, name, n_in, n_out, bits, **beside), **out)
    elif scheme == "int8_w8a8":
        scales = formulas.tensor_bytes(rows, bits)
        held = {**beside, "input_int8": formulas.int8_rows_bytes(rows, n_in)}
        scaled = formulas.tensor_bytes(rows * n_in, bits)
        walk.instant(f"{name} quantize", **held, input_scales=scales, input_scaled=scaled)
        product, wide = formulas.int32_product_bytes(rows, n_out), formulas.tensor_bytes(rows * n_out, 32)
        # the scales are widened to float32, unless they are that already
        scales = scales + (work.activations != "fp32") * formulas.tensor_bytes(rows, 32)
        walk.instant(name, **held, input_scales=scales, int32_product=product, float32_product=wide)
    else:
        walk.instant(name, **beside, **out)


def walk_copy(walk, scheme, name, n_in, n_out, bits, **beside):
    """The parts that a quantized weight's copy is, once made; INT4 unpacks half of its numbers at a time beside it."""
    copy = {"weight_copy": formulas.tensor_bytes(n_in * n_out, bits)}
    if scheme == "int4":
        walk.instant(f"{name} unpack", **beside, **copy, weight_unpacked=n_out * formulas.tensor_bytes(n_in, 4))
    return copy


COPIED = ("int8", "fp8", "int4")  # schemes that multiply in the activations' format, through a copy of the weight
