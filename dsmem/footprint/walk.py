"""A pass retold instant by instant, in the order in which `model` runs it.

Each function of this room walks beside one of the model's: what it makes, what is alive next to it, what dies. Of
layers that are alike only the last is walked, for no earlier one holds more; of those that slide and those that do not,
the last of each.
"""

from collections.abc import Callable
from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.workload import Workload
from dsmem.units import dtype_bits

COPIED = ("int8", "fp8", "int4")  # schemes that multiply in the activations' format, through a copy of the weight


class Pass:
    """`arch` running `work`: what is alive so far, and the instants that the pass has been through.

    held: parts that are alive from the first instant to the last. bits: of one element of an activation. tokens: new
    tokens of all sequences. prefix: stands before the names of instants in a layer that is not like most. slide:
    whether that layer attends to a window alone. Sizes are bytes, of numbers or of arrays.
    """

    def __init__(self, arch: Architecture, work: Workload, held: dict[str, Any] | None = None):
        self.arch, self.work = arch, work
        self.bits = dtype_bits(work.activations)
        self.tokens = work.batch * work.new_tokens
        self.alive = dict(held or {})
        self.instants, self.prefix, self.slide = {}, "", False
        self.span = 1  # sets of tokens that the routed experts work on at once: of one rank, or of several

    @property
    def choices(self) -> Any:
        """Rows that the routed experts work on: one for each expert that a token has chosen."""
        return self.tokens * self.arch.num_experts_per_tok

    def gathered(self, part: str) -> None:
        """Where ranks have tokens of their own, the part with those of all comes to life: see `sharded.passes`."""

    def reduced(self, part: str) -> None:
        """Where ranks have made addends of a part, their sum takes its place."""

    def dispatched(self) -> None:
        """Where ranks have experts of their own and tokens of their own, they hand tokens to one another."""

    def combined(self) -> None:
        """They hand back what the experts made of them."""

    def joined_logits(self) -> None:
        """Where each rank has made the logits of a part of the vocabulary, each receives those of all."""

    @property
    def kept_len(self) -> Any:
        """Tokens per sequence that the cache holds for this layer before the pass."""
        return self.arch.kept_tokens(self.slide, self.work.cached_tokens)

    @property
    def kept_new(self) -> Any:
        """New tokens per sequence that the cache keeps of this layer: the last, where a prompt is longer than it."""
        return self.arch.kept_tokens(self.slide, self.work.new_tokens)

    @property
    def kept_after(self) -> Any:
        """Tokens per sequence that the cache holds for this layer after the pass."""
        return self.arch.kept_tokens(self.slide, self.work.key_len)

    @property
    def key_len(self) -> Any:
        """Tokens per sequence that this layer's attention reads: those in the cache, and the new ones."""
        return self.kept_len + self.work.new_tokens

    def new(self, formula: Callable, *sizes: int) -> Any:
        """Bytes of a formula of (batch, tokens, sizes ..., bits) for the tokens that this pass computes."""
        return formula(self.work.batch, self.work.new_tokens, *sizes, self.bits)

    def seen(self, formula: Callable, *sizes: int) -> Any:
        """The same for all tokens that attention reads, cached and new."""
        return formula(self.work.batch, self.key_len, *sizes, self.bits)

    def hidden(self) -> Any:
        """Bytes of one hidden state of the new tokens."""
        return self.new(formulas.hidden_state_bytes, self.arch.hidden_size)

    def instant(self, name: str, **temporary: Any) -> None:
        """Note an instant: all that is alive, and `temporary` parts that are gone right after it."""
        self.instants[self.prefix + name] = self.alive | temporary

    def normed_output(self, name: str) -> None:
        """Note the norm of what half a layer gives, which takes its place."""
        inverse_rms = formulas.inverse_rms_bytes(self.work.batch, self.work.new_tokens, 1)
        self.instant(name, output_normed=self.hidden(), inverse_rms=inverse_rms)

    def make(self, name: str, **parts: Any) -> None:
        """Note the instant at which `parts` come to life; they stay alive."""
        self.alive |= parts
        self.instant(name)

    def drop(self, *parts: str) -> None:
        """These parts die."""
        for part in parts:
            self.alive.pop(part, None)

    def linear(self, name: str, out: str, positions: int | None = None) -> None:
        """The linear layer called `name`: its output, the part `out`, comes to life.

        One instant, and one before it where numbers are unpacked or the input is rounded. positions: tokens per
        sequence that pass through it; defaults to all new ones.
        """
        n_in, n_out, _ = self.arch.linears()[name]
        rows = self.tokens if positions is None else self.work.batch * positions
        made = {out: formulas.tensor_bytes(rows * n_out, self.bits)}
        scheme = self.work.scheme(self.arch, name)
        if scheme == "int8_w8a8":
            self._int8_product(name, rows, n_in, n_out)
        else:
            self.instant(name, **(self.copy(name, scheme, n_in, n_out) if scheme in COPIED else {}), **made)
        self.alive |= made

    def copy(self, name: str, scheme: str, n_in: int, n_out: int) -> dict[str, Any]:
        """The part that a quantized weight's copy is, once made; INT4 unpacks half of its numbers at a time."""
        copy = {"weight_copy": formulas.tensor_bytes(n_in * n_out, self.bits)}
        if scheme == "int4":
            self.instant(f"{name} unpack", **copy, weight_unpacked=n_out * formulas.tensor_bytes(n_in, 4))
        return copy

    def _int8_product(self, name: str, rows: Any, n_in: int, n_out: int) -> None:
        scales, scaled = formulas.tensor_bytes(rows, self.bits), formulas.tensor_bytes(rows * n_in, self.bits)
        rounded = formulas.int8_rows_bytes(rows, n_in)
        self.instant(f"{name} quantize", input_int8=rounded, input_scales=scales, input_scaled=scaled)
        product, wide = formulas.int32_product_bytes(rows, n_out), formulas.tensor_bytes(rows * n_out, 32)
        # the scales are widened to float32, unless they are that already
        scales = scales + (self.bits < 32) * formulas.tensor_bytes(rows, 32)
        self.instant(name, input_int8=rounded, input_scales=scales, int32_product=product, float32_product=wide)
