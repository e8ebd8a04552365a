"""The devices that a model is to run on: so many of one GPU, a rented machine, the one at hand, or so many bytes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.hardware import GPU, Instance, capacities, counted, is_name
from dsmem.units import format_bytes, whole_number

HERE = "here"  # the device of the machine at hand
MIN_FLASH_CAPABILITY = (8, 0)
"""The compute capability from which torch has a flash kernel, and BF16 of its own."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """`count` devices of one kind.

    name: of one. usable_bytes: of each, all that its driver reports; usable_bytes_range: the least and the most that
    was seen of this kind. backend: "cuda", "rocm", "metal", "cpu", or "unknown" where only bytes are known. capability:
    CUDA's, or None. shared: whether the memory is the CPU's, too. instance: the rented machine's name, or "".
    host_bytes: the memory of the machine around them, or None.
    """

    name: str
    count: int
    usable_bytes: int
    usable_bytes_range: tuple[int, int]
    backend: str
    capability: tuple[int, int] | None = None
    shared: bool = False
    instance: str = ""
    host_bytes: int | None = None

    def several(self, count: int) -> "Devices":
        """The same with another count of devices."""
        return dataclasses.replace(self, count=whole_number("count", count, what="a count of GPUs"), instance="")

    def __str__(self) -> str:
        label = self.name if self.count == 1 else f"{self.count} × {self.name}"
        return f"{self.instance} ({label})" if self.instance else label


def devices(gpu: Any, count: int = 1) -> Devices:
    """The `Devices` of any form that `gpu=` takes.

    gpu: a GPU's name ("T4", "8 x H200"), a rented machine's ("p4d.24xlarge"), one of GPUS or INSTANCES,
    `dsmem.here()`, a pair (label, bytes), or {label: bytes}. count: how many of that. Raises ValueError for anything
    else.

    >>> print(devices("p4d.24xlarge"), devices("RTX 4090", 2), devices({"mine": "24 GiB"}).usable_bytes)
    p4d.24xlarge (8 × A100 40 GB) 2 × RTX 4090 25769803776
    """
    count = whole_number("count", count, what="a count of GPUs")
    if isinstance(gpu, str) and gpu.strip().lower() == HERE:
        raise ValueError("gpu='here' is a word of dsmem.fit and its command line; elsewhere give dsmem.here()")
    if isinstance(gpu, Devices):
        return gpu.several(gpu.count * count) if count > 1 else gpu
    if hasattr(gpu, "total_bytes") and hasattr(gpu, "device"):
        return _of_machine(gpu, count)
    if isinstance(gpu, GPU | Instance):
        gpu = gpu.name
    if isinstance(gpu, str):
        return _named(gpu, count)
    pair = isinstance(gpu, tuple) and len(gpu) == 2
    if not (pair or isinstance(gpu, Mapping) and len(gpu) == 1):
        raise ValueError(
            f"gpu={gpu!r} is not a device; it must be a GPU's name, a rented machine's, 'here', (label, bytes) or "
            "{label: bytes}"
        )
    label, nbytes = next(iter(capacities(dict([gpu]) if pair else gpu).items()))
    return Devices(label, count, nbytes, (nbytes, nbytes), "unknown")


def _named(text, count):
    if not is_name(text):
        raise ValueError(
            f"gpu={text!r} is a size, and no GPU's name; a device of so many bytes is {{'mine': {text!r}}}"
        )
    gpu, found, instance = counted(text)
    if gpu.usable_bytes is None:
        capacities(text)  # which refuses it
    where = (instance.name, instance.host_bytes) if instance and found == instance.count and count == 1 else ("", None)
    seen = gpu.usable_bytes_range or (gpu.usable_bytes, gpu.usable_bytes)
    about = gpu.usable_bytes, seen, gpu.backend, gpu.capability, gpu.shared
    return Devices(gpu.name, found * count, *about, *where)


def _of_machine(machine, count):
    """The device of what `dsmem.here()` returns."""
    if machine.device == "cpu" and count > 1:
        raise ValueError(f"count={count} of this machine's own memory is more than there is; it must be 1")
    about = machine.total_bytes, (machine.total_bytes, machine.total_bytes), machine.device, machine.capability
    return Devices(machine.name, count, *about, shared=machine.device == "cpu")


def attention_kernel(arch: Architecture, capability: Any, activations: str) -> str:
    """What attention="auto" means on a GPU: "fused", "expanded" or "eager", as in `Workload`.

    capability: CUDA's; None of a device without: "fused". activations: the format of queries and keys. PyTorch's flash
    kernel wants capability 8.0 and 16 bits. Elsewhere it has the memory-efficient one, which takes no heads that share
    keys and values: those are written out for all heads first. Neither caps scores, as Gemma 2 does.

    >>> arch = Architecture.of("deepseek-r1-distill-qwen-7b")
    >>> attention_kernel(arch, (7, 5), "fp16"), attention_kernel(arch, (8, 9), "fp16")
    ('expanded', 'fused')
    """
    if capability is None:
        return "fused"
    if arch.attn_logit_softcapping is not None:
        return "eager"
    flash = tuple(capability) >= MIN_FLASH_CAPABILITY and activations != "fp32"
    shared = not arch.latent and arch.num_attention_heads > arch.num_key_value_heads
    return "expanded" if shared and not flash else "fused"


def usable_words(found: Devices) -> str:
    """How much memory one of the devices has, in words.

    >>> usable_words(devices("T4"))
    '14.57 GiB'
    """
    return format_bytes(found.usable_bytes) + (" each" if found.count > 1 else "")
