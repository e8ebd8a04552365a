"""What a GPU's memory holds beside a model's tensors, part by part, each with its range; and the one rule of "fits".

No flat share: the CUDA context and cuBLAS's workspace are constants, and what the allocator adds follows from the sizes
of what stays in memory. Sources: `CONTEXT_BYTES`, torch's `CublasHandlePool.cpp`, and `footprint.segments`.
"""

from typing import Any

from dsmem.config.hardware import GPUS
from dsmem.units import MIB, whole_number

CONTEXT_BYTES = {
    "published, lazy loading: T4, torch 2.10 and 2.14 (140.875 MiB), fitcheck 0.3.1": 147_718_144,
    "published, lazy loading: PyTorch PR 86509": 287_047_680,
    "published, lazy loading: A100, torch 2.1 (0.47 GiB)": 504_658_657,
    "published, eager loading: PyTorch PR 86509": 666_632_192,
    "published, eager loading: A100, torch 1.13 (0.90 GiB)": 966_367_641,
}
"""What the CUDA context of one process takes, where somebody published it; nothing here is measured by this kit."""

CONTEXTS = {"T4": (147_718_144, 147_718_144), "other": (287_047_680, 504_658_657)}
"""The least and the most of them with lazy loading, the default since CUDA 12.2: of a T4, and of any other GPU."""

WORKSPACES = 4096 * 1024 * 2 + 16 * 1024 * 8, 32 * MIB
"""cuBLAS's workspace of one thread: before compute capability 9.0, and from there on."""


def overhead(devices: Any, segment_bytes: Any, threads: int = 1) -> dict[str, tuple[Any, Any]]:
    """{part: (least, most) bytes} that one GPU holds beside tensors.

    devices: what `config.devices.devices` returns. segment_bytes: the most that whole blocks and segments add to them,
    a number or an array: see `footprint.segments`. threads: with matrix products, each has a workspace of its own; a
    training step has 2, for autograd has its own. "context": of one process. "workspace": cuBLAS's. "segments": what
    the allocator adds. Of Metal and ROCm no context and workspace are published, and a CPU has none; Metal's and a
    CPU's allocators are others than the one that is modelled: such parts are left out, see `unknown`.

    >>> from dsmem.config.devices import devices
    >>> overhead(devices("T4"), 2**27)
    {'context': (147718144, 147718144), 'workspace': (8519680, 8519680), 'segments': (0, 134217728)}
    """
    if devices.backend in ("cpu", "metal"):
        return {}
    segments = {"segments": (0 * segment_bytes, segment_bytes)}
    if devices.backend == "rocm":
        return segments
    small, large = (threads * size for size in WORKSPACES)
    major = devices.capability[0] if devices.capability else None
    workspace = {None: (small, large), 9: (large, large), 10: (small, large), 12: (small, large)}
    known = GPUS.named(devices.name)  # of the GPU at hand it is the driver's name, "Tesla T4"
    context = CONTEXTS.get(known.name if known else "other", CONTEXTS["other"])
    return {"context": context, "workspace": workspace.get(major, (small, small)), **segments}


def unknown(devices: Any) -> str:
    """What is not published of such a device, in a sentence, or ""."""
    return {
        "metal": "What Metal keeps beside tensors is not published, and none is counted.",
        "rocm": "What ROCm keeps for a process is not published, and none is counted.",
        "cpu": "What the process, the system and other programs hold of the memory is not counted.",
    }.get(devices.backend, "")


def fits(nbytes: Any, usable_bytes: Any, overhead_bytes: int = 0) -> Any:
    """The one rule of this kit: a peak fits if it is at most the usable bytes less `overhead_bytes`.

    overhead_bytes: what is kept free, for the CUDA context and what the allocator adds. nbytes may be an array.

    >>> fits(10, 10), fits(10, 10, overhead_bytes=1)
    (True, False)
    """
    return nbytes <= usable_bytes - whole_number("overhead_bytes", overhead_bytes, least=0, what="bytes")
