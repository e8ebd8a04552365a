"""Where and how a recording was made: GPU, driver, libraries, settings; and which settings the prediction knows."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dsmem.memory import cuda
from dsmem.model.decoder import check_device
from dsmem.model.flash import attention_backend

SAME = ("device", "driver", "torch", "transformers", "commit", "source", "environment")
"""What must not change within one recording."""

VARIABLES = (
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING"),
    *("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "TORCH_CUBLASLT_UNIFIED_WORKSPACE"),
    *("TORCH_CUBLAS_WORKSPACE_CACHE", "TORCH_BLAS_PREFER_CUBLASLT", "CUDA_MODULE_LOADING", "CUDA_LAUNCH_BLOCKING"),
)
"""Environment variables that move bytes on a GPU."""

_MODELLED = {"expandable_segments": bool, "max_split_size_mb": int, "large_segment_size_mb": int}
# these concern host memory, locks and graphs
_HARMLESS = re.compile(r"pinned_\w+|release_lock_on_\w+|graph_capture_\w+|backend")


def provenance(device: str = "cuda", command: str | None = None) -> dict[str, Any]:
    """Where and how a recording is made: GPU, driver, versions, settings, date, command, commit.

    device: "cuda", "cpu" or "fake". command: the command line to note. On a GPU, call it before the first tensor, for
    "used_before_bytes" is then this process's context and what other processes hold. Raises ValueError for a device
    that is not there, or for allocator settings that the replay does not know.
    """
    check_device(device)
    allocator_settings()
    gpu = _gpu() if device == "cuda" else {}
    made = {
        **{"device": f"{device} tensors, {platform.machine()}", "total_bytes": None, "capability": None},
        **{"driver": None, "torch": torch.__version__, "cuda": torch.version.cuda},
        "transformers": _version("transformers"),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": _said_by("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "source": _source(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "attention": attention_backend(device),
        "sdpa": _attempt(sdpa, device),
    }
    return made | gpu


def allocator_settings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The settings of torch's allocator in the environment, as keywords of `CachingAllocator`.

    environment: where PYTORCH_ALLOC_CONF, or its former name PYTORCH_CUDA_ALLOC_CONF, is looked up. Raises ValueError
    for a setting that changes the allocator's bytes and is not modelled.

    >>> allocator_settings({"PYTORCH_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128"})
    {'expandable_segments': True, 'max_split_size_mb': 128}
    """
    if environment.get("PYTORCH_NO_CUDA_MEMORY_CACHING"):
        raise ValueError("PYTORCH_NO_CUDA_MEMORY_CACHING turns the allocator off, which the replay models; unset it")
    variable = next((name for name in VARIABLES[:2] if environment.get(name)), VARIABLES[0])
    said = re.findall(r"([a-zA-Z]\w*)\s*:\s*(\[[^\]]*\]|[^,\s]+)", environment.get(variable, ""))
    for name, value in said:
        if name not in _MODELLED and not (_HARMLESS.fullmatch(name) and value != "cudaMallocAsync"):
            raise ValueError(
                f"{variable} sets {name}:{value}, which the replay does not model; allowed: {', '.join(_MODELLED)}"
            )
    return {name: _value(variable, name, value) for name, value in said if name in _MODELLED}


def _value(variable, name, value):
    if _MODELLED[name] is bool and value in ("True", "False"):
        return value == "True"
    if _MODELLED[name] is int and value.isdecimal():
        return int(value)
    allowed = "True or False" if _MODELLED[name] is bool else "a whole number"
    raise ValueError(f"{variable} sets {name}:{value}; it must be {allowed}")


def sdpa(device: str) -> dict[str, Any]:
    """The kernels that torch's own fused attention may choose, and those it chooses for a prefill and a decode step.

    device: as in `provenance`; fake tensors are asked as a CPU's. transformers' "sdpa" goes this way, our own model
    does not.
    """
    kinds = {"flash": "flash_sdp", "memory-efficient": "mem_efficient_sdp", "cuDNN": "cudnn_sdp", "math": "math_sdp"}
    enabled = [kind for kind, name in kinds.items() if getattr(torch.backends.cuda, f"{name}_enabled")()]
    chosen = {}
    for phase, seq_len in (("prefill", 64), ("decode", 1)):
        q, k = (torch.zeros(1, 8, n, 64, dtype=torch.float16, device=_real(device)) for n in (seq_len, 64))
        with contextlib.suppress(AttributeError, RuntimeError):  # a private function of torch
            choice = torch._fused_sdp_choice(q, k, k, None, 0.0, seq_len > 1)
            chosen[phase] = torch.nn.attention.SDPBackend(choice).name
    return {"enabled": enabled, "chosen": chosen}


def _real(device):
    return "cpu" if device == "fake" else device


def _gpu():
    """What is known of the current GPU, its free memory first: that must be read before any tensor is made."""
    free, total = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties()
    return {
        "device": properties.name,
        "total_bytes": properties.total_memory,
        "capability": [properties.major, properties.minor],
        "multi_processor_count": properties.multi_processor_count,
        "driver": _smi("driver_version"),
        "mig": _smi("mig.mode.current"),
        "used_before_bytes": total - free,
        "workspace": _workspace(),
        "allocator": _attempt(lambda: torch.cuda.memory._snapshot().get("allocator_settings")),
    }


def _workspace():
    """Bytes that cuBLAS keeps after a product, measured; and those that torch says, where it can be asked."""
    sizes = {name: getattr(torch.backends.cuda, f"{name}_workspace_size", None) for name in ("cublas", "cublaslt")}
    said = {name: _attempt(size) for name, size in sizes.items() if size}
    return {"measured": _attempt(cuda.workspace_bytes)} | said


def _attempt(call, *args):
    """What the call returns, or why it does not: no detail of a provenance may end a recording."""
    try:
        return call(*args)
    except Exception as error:
        return f"not known: {type(error).__name__}: {error}".splitlines()[0]


def _smi(field):
    lines = _said_by("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader")
    return lines.splitlines()[0] if lines else None


def _source():
    """A short digest of the library's code: a copy without git has no commit to name."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _said_by(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
