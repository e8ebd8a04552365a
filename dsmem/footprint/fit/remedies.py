"""What makes something fit: one change after the other, the cheapest first, each weighed by the footprint."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dsmem.config.workload import EXPERTS
from dsmem.footprint.fit.asked import Asked
from dsmem.footprint.fit.spread import spread
from dsmem.footprint.stored import weights_by_layer
from dsmem.units import FLOATS

if TYPE_CHECKING:
    from dsmem.footprint.fit.verdict import Fit

DOWN = {"fp32": "bf16", "bf16": "int8", "fp16": "int8", "fp8": "int4", "int8": "int4", "int8_w8a8": "int4"}
"""The next format of weights down."""

LIGHTER = {"adamw": "adamw8bit", "lion": "lion8bit"}
"""Optimizers whose states take a quarter."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A change in words, "kv_cache='fp8'", and the `Fit` with it; host_bytes: of the host's memory that it takes."""

    words: str
    answer: "Fit"
    host_bytes: int = 0


def changes(answer: "Fit") -> Iterator[Change]:
    """The changes that are worth a try, the cheapest first: what costs nothing, then bits, tokens, a few GPUs more, the
    host's memory, several of these at once, many GPUs.

    Those that the footprint refuses are left out.
    """
    tried = _of_step if answer.asked.training else _of_pass
    count = answer.devices.count
    yield from tried(answer)
    yield from _fewer(answer)
    yield from _more_devices(answer, range(count + 1, 2 * count + 1))
    yield from _experts_on_host(answer)
    yield from _together(answer)
    yield from _more_devices(answer, (2**power for power in range(1, 8) if 2**power > 2 * count))


def _of_pass(answer):
    for name, value in _without_loss(answer.asked.work).items():
        yield from _tried(answer, **{name: value})
    if _down(answer.asked):
        yield from _tried(answer, weights=_down(answer.asked))


def _without_loss(work):
    """{field: value} of what costs no token and no device: logits that nobody reads, a cache in 8 bits."""
    fields = {}
    if work.logits == "all" and work.phase == "prefill":
        fields["logits"] = "last"
    if work.cache != "none" and work.kv_cache in FLOATS:
        fields["kv_cache"] = "fp8"
    return fields


def _down(asked):
    """The next format of weights down, None where there is none."""
    return None if asked.stored else DOWN.get(asked.work.weights)


def _of_step(answer):
    training = answer.asked.training
    if training.optimizer_kernel != "fused":
        yield from _trained(answer, optimizer_kernel="fused")
    if training.checkpointing != "full":
        yield from _trained(answer, checkpointing="full")
    if training.optimizer in LIGHTER:
        yield from _trained(answer, optimizer=LIGHTER[training.optimizer])
    yield from _trained(answer, optimizer_kernel="fused", checkpointing="full")


def _fewer(answer):
    """Shorter sequences, or fewer of them, as many as fit."""
    asked = answer.asked
    for what, number, now, make in (
        ("token", answer.longest_context, asked.context, asked.with_context),
        ("sequence", answer.largest_batch, asked.work.batch, asked.with_batch),
    ):
        if number and number < now:
            words = f"{number:,} {what}{'s' * (number > 1)} in place of {now:,}"
            yield from _answered(answer, words, lambda n=number, make=make: make(n))


def _more_devices(answer, counts):
    """As few devices more as the model can be cut for."""
    for count in counts:
        found = list(_spread(answer, count))
        yield from found
        if any(change.answer.fits for change in found):
            return


def _spread(answer, count):
    alone, words = answer.asked.spread(None), f"{count} × {answer.devices.name}"
    try:
        several = answer.devices.several(count)
        yield Change(words, type(answer)(spread(alone, several), several))
    except ValueError:
        return


def _experts_on_host(answer):
    """Routed experts in the host's memory: their weights are not on the device."""
    asked = answer.asked
    arch = getattr(asked, "arch", None)
    if asked.training or not (arch and arch.n_routed_experts) or asked.stored or asked.sharding is not None:
        return
    kept = {"modules_to_not_convert": asked.work.modules_to_not_convert, "activations": asked.work.activations}
    layers = weights_by_layer(asked.arch, asked.work.weights, **kept)
    host = [sum(sizes) for sizes in zip(*(layers[name] for name in EXPERTS), strict=True)]
    yield from _answered(answer, "the routed experts on the host", lambda: OnHost(asked, host), sum(host))


class OnHost:
    """What was asked, with the weights of its routed experts elsewhere; all else counts as before."""

    def __init__(self, asked: Asked, host: list[int]):
        self.asked, self.host = asked, host  # bytes in the activations' format, converted numbers, scales

    def __getattr__(self, name: str) -> Any:
        return getattr(self.asked, name)

    def with_context(self, tokens: int) -> "OnHost":
        """The same with sequences of so many tokens."""
        return OnHost(self.asked.with_context(tokens), self.host)

    def with_batch(self, batch: int) -> "OnHost":
        """The same with so many sequences."""
        return OnHost(self.asked.with_batch(batch), self.host)

    def parts(self) -> dict[str, Any]:
        """{part: bytes} of the device at the peak."""
        parts, (plain, payload, scales) = dict(self.asked.parts()), self.host
        for part in parts:
            if part == "weights":
                parts[part] -= plain
            elif part == "weight_scales":
                parts[part] -= scales
            elif part.startswith("weights_"):
                parts[part] -= payload
        return parts

    def total(self) -> Any:
        """Bytes of the device at the peak."""
        return sum(self.parts().values())


def _together(answer):
    """All that costs no token and no device at once, then with weights further down."""
    asked = answer.asked
    if asked.training:
        return
    fields, weights = _without_loss(asked.work), _down(asked)
    if fields:
        yield from _tried(answer, **fields)
    while weights:
        yield from _tried(answer, **fields, weights=weights)
        weights = DOWN.get(weights)


def _tried(answer, **fields):
    words = " and ".join(f"{name}={value!r}" for name, value in fields.items())
    yield from _answered(answer, words, lambda: answer.asked.changed(**fields))


def _trained(answer, **fields):
    words = " and ".join(f"{name}={value!r}" for name, value in fields.items())
    training = dataclasses.replace(answer.asked.training, **fields)
    yield from _answered(answer, words, lambda: dataclasses.replace(answer.asked, training=training))


def _answered(answer, words, make, host_bytes=0):
    """The `Change`, or nothing where the footprint refuses it."""
    try:
        yield Change(words, type(answer)(make(), answer.devices), host_bytes)
    except ValueError:
        return
