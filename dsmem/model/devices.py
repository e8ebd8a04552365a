"""Where a model runs: the devices that every call takes, torch's number formats, and a device's own attention."""

from typing import Any

import torch

from dsmem.config.architecture import Architecture
from dsmem.config.devices import attention_kernel
from dsmem.config.workload import EAGER, Workload
from dsmem.units import FLOATS, format_name, one_of

DEVICES = ("cuda", "cpu", "fake")
ATTENTION = ("fused", "expanded", *EAGER, "auto")
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_device(device: Any) -> str:
    """The kit's name of a device, "fake", "cpu" or "cuda"; ValueError where this machine does not have it.

    device: one of the names, a `torch.device`, or "cuda:0" where that is the present GPU (`torch.cuda.set_device`
    chooses it). "fake" stands for tensors with shapes and lifetimes but without memory.

    >>> check_device("fake"), check_device(torch.device("cpu"))
    ('fake', 'cpu')
    """
    name, _, index = str(device).partition(":")
    if not isinstance(device, (str, torch.device)) or name not in DEVICES or (index and not index.isdecimal()):
        allowed = ", ".join(map(repr, DEVICES))
        raise ValueError(f"device={device!r} is not a device of this kit; allowed: {allowed} ('cuda' is the GPU)")
    if name != "cuda":
        return name
    if not torch.cuda.is_available():
        raise ValueError(f"device={device!r} is not on this machine; allowed here: 'cpu', 'fake'")
    present = torch.cuda.current_device()
    if index and int(index) != present:
        raise ValueError(
            f"device={device!r} is not the present GPU, 'cuda:{present}'; call torch.cuda.set_device({index}) first"
        )
    return "cuda"


def attention_for(device: Any, arch: Any, activations: Any = "fp16") -> str:
    """The fused attention that a device can run on `arch`: "fused", or "expanded" where its kernel shares no keys.

    device: as in `check_device`. arch: whatever `Architecture.of` takes. activations: the format of queries and keys.
    Below compute capability 8.0 (a T4), and in FP32, the GPU's kernel wants as many key heads as query heads.

    >>> attention_for("cpu", "qwen2.5-0.5b")
    'fused'
    """
    arch, activations = Architecture.of(arch), one_of("activations", format_name(activations), FLOATS)
    capability = torch.cuda.get_device_capability("cuda") if check_device(device) == "cuda" else None
    return attention_kernel(arch, capability, activations)


def settled(arch: Architecture, work: Workload, device: Any) -> Workload:
    """`work` with attention="auto" replaced by what `device` can run on `arch`."""
    if work.attention != "auto":
        return work
    return work.changed(attention=attention_for(device, arch, work.activations))
