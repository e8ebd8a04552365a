"""What a GPU holds beside the tensors of a pass, as the explorer of what fits counts it, in the page, too."""

from collections.abc import Mapping
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.devices import MIN_FLASH_CAPABILITY, attention_kernel, devices
from dsmem.config.hardware import GPUS
from dsmem.config.overhead import overhead
from dsmem.config.ranks import rank_architecture
from dsmem.config.workload import Workload
from dsmem.footprint.segments import ALONE, BLOCK, SHARED, SMALL, UNIT, segment_bytes
from dsmem.units import dtype_bits


def most(label: str, usable: int, arch: Architecture, work: Workload, sharding: Any) -> int:
    """Bytes of context, workspaces and segments, at most, of a GPU of that label with so many usable bytes."""
    segments = segment_bytes(arch, work, "", False, sharding)
    return sum(most for _, most in overhead(_device(label, usable), segments).values())


def facts(cards: Mapping[str, Any]) -> dict[str, list]:
    """What the script needs to know of GPUs and of the allocator.

    beside: for each of `cards`, {label: usable bytes or None}, what it keeps for itself, and whether segments count.
    lacks: for each what of `lacking` holds on it, or "".
    """
    return {
        "beside": [_kept(*card) for card in cards.items()],
        "segments": [BLOCK, SMALL, ALONE, SHARED, UNIT],
        "lacks": [generation(*card) for card in cards.items()],
    }


def generation(label: str, usable: int | None) -> str:
    """Which word of `lacking` holds on a GPU: "older" or "newer" than PyTorch's flash kernel wants; "" of others."""
    capability = None if usable is None else _device(label, usable).capability
    return "" if capability is None else "newer" if tuple(capability) >= MIN_FLASH_CAPABILITY else "older"


def lacking(arch: Architecture, work: Workload) -> dict[str, str]:
    """What to say of a fused pass where PyTorch has no such kernel, on GPUs "older" and "newer" than flash wants."""
    kernels = {"older": attention_kernel(arch, (0, 0), work.activations)}
    kernels["newer"] = attention_kernel(arch, MIN_FLASH_CAPABILITY, work.activations)
    return {
        age: f"; PyTorch has no such kernel there, and {kernel} attention counts what it runs"
        if work.attention == "fused" != kernel
        else ""
        for age, kernel in kernels.items()
    }


def _kept(label, usable):
    if usable is None:
        return ["0", 0]
    without, more = (sum(most for _, most in overhead(_device(label, usable), n).values()) for n in (0, 1))
    return [str(without), more - without]


def rule(arch: Architecture, work: Workload, sharding: Any, cached_tokens: int | None) -> tuple:
    """What `segment_bytes` counts, for the script: (fixed, beyond, least, page, rows).

    fixed: bytes that neither batch nor length moves. A sequence's cache has `beyond` tokens more than its length, at
    least `least`, in pages of `page` tokens. rows: (bits of a token, layers, tokens at most or 0) of each kind.
    """
    formats = {name: getattr(work, name) for name in ("weights", "activations", "modules_to_not_convert")}
    fixed = segment_bytes(arch, Workload(**formats, cache="none"), "", False, sharding)
    ends = (0, 0)
    if cached_tokens is not None:
        ends = (cached_tokens, 0) if work.phase == "prefill" else (0, cached_tokens + 1)
    arch = arch if sharding is None else rank_architecture(arch, sharding)
    window = 0 if arch.sliding_window is None else arch.sliding_window - 1
    rows = [
        (heads * width * dtype_bits(work.kv_cache), arch.layers_caching(name, slide), window if slide else 0)
        for name, (heads, width) in arch.cache_rows(work.mla_cache).items()
        for slide in (False, True)
    ]
    rows = [] if work.cache == "none" else [row for row in rows if row[1]]
    return fixed, *ends, work.block_size if work.cache == "paged" else 1, tuple(rows)


def _device(label, usable):
    """The device that a label and its bytes stand for: a known GPU, or one of which only the bytes are known."""
    return devices(label if label in GPUS and GPUS[label].usable_bytes == usable else (label, usable))
