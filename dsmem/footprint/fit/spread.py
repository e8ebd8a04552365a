"""What is asked, on devices: shared out between several, with the attention that theirs has."""

from typing import Any

from dsmem.config.devices import Devices, attention_kernel
from dsmem.config.sharding import Sharding
from dsmem.config.workload import Workload
from dsmem.footprint.fit.asked import GGUF_MIXES, Asked


def asked_on(
    found: Devices, arch: Any, work: Workload | None = None, training: Any = None, sharding: Any = None, **fields: Any
) -> Asked:
    """What these arguments ask of devices. Arguments and errors as in `Asked.of` and `spread`.

    attention: without a `Workload` "auto", which is what PyTorch has on such a device: see `attention_kernel`.
    """
    asked = Asked.of(arch, work, training, **({"attention": "auto"} if work is None else {}) | fields)
    if asked.work.attention == "auto":
        asked = asked.changed(attention=_kernel(asked, found))
    return spread(asked, found, sharding)


def _kernel(asked, found):
    """The attention of what runs there: PyTorch's, or of a GGUF file llama.cpp's own."""
    if asked.stored in GGUF_MIXES:
        return "fused"
    return attention_kernel(asked.arch, found.capability, asked.work.activations)


def spread(asked: Asked, found: Devices, sharding: Any = None) -> Asked:
    """`asked` over the devices: as `sharding` says, or tensor parallel where there are several and it says nothing.

    A training step over several shards all of itself: ZeRO stage 3. Raises ValueError where a sharding has another
    number of ranks than there are devices.
    """
    if sharding is None and found.count == 1:
        return asked
    if sharding is None:
        sharding = Sharding(data=found.count, zero=3) if asked.training else Sharding(tensor=found.count)
    sharding = Sharding.of(sharding)
    if sharding.ranks != found.count:
        raise ValueError(
            f"sharding has {sharding.ranks} ranks, and count={found.count} says how many devices there are; they must "
            "be as many"
        )
    sharding.check(asked.arch)
    return asked.spread(sharding if sharding.ranks > 1 else None)


def attention_note(asked: Any, found: Devices) -> str:
    """What PyTorch's attention on such a device means for these bytes, in a sentence, or ""."""
    if getattr(asked, "arch", None) is None:
        return ""
    has, counted = _kernel(asked, found), asked.work.attention
    where = f"PyTorch's attention on {found.name}"
    if has == "expanded" and counted == "expanded":
        return f"{where} wants keys and values written out for all heads: that copy is counted."
    if has == "expanded" and counted == "fused":
        return f"{where} wants keys and values written out for all heads, which is not counted (attention='auto' does)."
    if has == "eager" and counted == "eager":
        return f"{where} has no kernel that caps scores: all of one layer's are in memory, and counted."
    if has == "eager" and counted == "fused":
        return f"{where} has no kernel that caps scores: one layer's are not counted (attention='auto' does)."
    return ""
