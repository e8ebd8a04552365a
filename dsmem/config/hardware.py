"""GPUs and rented machines by name, with the memory that a device reports; and what `capacity=` means in every call."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from dsmem.config.source import DATA
from dsmem.units import format_bytes, parse_bytes, whole_number


@dataclasses.dataclass(frozen=True)
class GPU:
    """One kind of GPU.

    usable_bytes: all of the memory that its device reports, None where nobody has published it; of an Apple GPU what
    Metal recommends to use at most. usable_bytes_range: the least and the most that was seen. box_gb: the number on the
    box, in GB or GiB as its maker likes. bandwidth_bytes_per_s: of its memory, as published. capability: CUDA compute
    capability (major, minor), else None. shared: whether the memory is the CPU's, too. source: of the figures.
    """

    name: str
    usable_bytes: int | None
    usable_bytes_range: tuple[int, int] | None
    box_gb: float
    bandwidth_bytes_per_s: int
    memory: str
    capability: tuple[int, int] | None
    note: str = ""
    source: str = ""
    shared: bool = False

    @property
    def backend(self) -> str:
        """What runs on it: "cuda", "metal" or "rocm"."""
        return "cuda" if self.capability else "metal" if self.shared else "rocm"

    def __str__(self) -> str:
        usable = format_bytes(self.usable_bytes) if self.usable_bytes else "usable memory not published"
        rate = f"{self.bandwidth_bytes_per_s / 1e9:,.4g} GB/s"
        return f"{self.name}: {usable}, {rate}" + (f" ({self.note})" if self.note else "")


class UnknownGPU(KeyError, ValueError):
    """A name that `GPUS` does not know."""

    def __str__(self) -> str:
        return self.args[0]


class GPUTable(dict):
    """GPUs by name; spaces, hyphens, capitals and the maker's words do not matter, and a size may be left out.

    A size that is given must be the one on the box; a name that comes in several sizes needs it.

    >>> GPUS["rtx-4090"].name, GPUS["Tesla T4"].usable_bytes, GPUS["NVIDIA A100-SXM4-40GB"].name
    ('RTX 4090', 15642329088, 'A100 40 GB')
    """

    def __missing__(self, name: Any) -> GPU:
        wanted = _bare(name)
        found = [gpu for known, gpu in self.items() if wanted in (_bare(known), _bare(f"{known}{gpu.box_gb:g}GB"))]
        found = found or [gpu for known, gpu in self.items() if wanted and wanted in _shorter(known)]
        if len(found) == 1:
            return found[0]
        names = found and [gpu.name for gpu in found] or list(self)
        problem = "is more than one GPU" if found else "is not a known GPU"
        raise UnknownGPU(f"gpu={name!r} {problem}; allowed: {', '.join(names)}")

    def named(self, name: Any) -> GPU | None:
        """The GPU of this name, also as its driver spells it, or None where none is known or it is not clear."""
        try:
            return self[name]
        except UnknownGPU:
            return None

    def __repr__(self) -> str:
        return "\n".join(map(str, self.values()))


@dataclasses.dataclass(frozen=True)
class Instance:
    """A machine that a cloud rents: `count` GPUs of one kind; host_bytes: its own memory, None where not noted."""

    name: str
    gpu: str
    count: int
    host_bytes: int | None
    source: str

    def __str__(self) -> str:
        return f"{self.name}: {self.count} × {self.gpu}"


@functools.cache
def _facts() -> dict[str, Any]:
    return json.loads((DATA / "gpus.json").read_text(encoding="utf-8"))


def _gpus() -> GPUTable:
    return GPUTable({name: _gpu(name, **facts) for name, facts in _facts()["gpus"].items()})


def _gpu(name, box_GB, capability, usable_bytes_range, **facts):
    pairs = (tuple(pair) if pair else None for pair in (capability, usable_bytes_range))
    return GPU(name, box_gb=box_GB, **dict(zip(("capability", "usable_bytes_range"), pairs, strict=True)), **facts)


def capacities(capacity: Any) -> dict[str, int]:
    """{label: bytes} of any form that `capacity=` takes in this kit.

    capacity: None, a GPU's name ("T4", or "8 x H200" for several), a rented machine's ("p4d.24xlarge"), a list of
    names, a pair (label, bytes), or a dict {label: bytes}; bytes may be a text with a unit ("24 GiB").
    Raises ValueError for an unknown name, a GPU whose memory is not published, or bytes below 1.

    >>> capacities("8 x H200")
    {'8 × H200': 1200879566848}
    >>> capacities({"mine": "24 GiB"})
    {'mine': 25769803776}
    """
    if capacity is None:
        return {}
    if isinstance(capacity, GPU):
        capacity = capacity.name
    if isinstance(capacity, str):
        return dict([_named(capacity)])
    if isinstance(capacity, tuple) and len(capacity) == 2 and not is_name(capacity[1]):
        capacity = dict([capacity])
    if isinstance(capacity, Mapping):
        sizes = {str(label): parse_bytes(size, f"capacity[{label!r}]") for label, size in capacity.items()}
        return {label: whole_number(f"capacity[{label!r}]", n, what="bytes") for label, n in sizes.items()}
    if isinstance(capacity, list | tuple) and all(isinstance(name, str) for name in capacity):
        return dict(map(_named, capacity))
    raise ValueError(
        f"capacity={capacity!r} is not a capacity; it must be a GPU's name, a list of names, (label, bytes), "
        "{label: bytes} or None"
    )


def is_name(value: Any) -> bool:
    """Is this the name of a GPU, rather than a size such as "24 GiB"?"""
    return isinstance(value, str) and not re.fullmatch(
        r"\s*-?[\d.,_]+\s*(?:[kMGT]i?B|[kMGT]|B)\s*", value, re.IGNORECASE
    )


def _named(text: str) -> tuple[str, int]:
    """The label and the bytes of one GPU or of several: "T4", "8 x H200", "p4d.24xlarge"."""
    gpu, count, instance = counted(text)
    if gpu.usable_bytes is None:
        raise ValueError(f"gpu={text!r} has no published usable memory; give its bytes, as {{{gpu.name!r}: ...}}")
    label = gpu.name if count == 1 else f"{count} × {gpu.name}"
    return (f"{instance.name} ({label})" if instance else label), count * gpu.usable_bytes


def counted(text: str) -> tuple[GPU, int, Instance | None]:
    """The GPU, how many of it, and the rented machine, of "T4", "8 x H200" or "p4d.24xlarge".

    Raises ValueError for an unknown name, or a count below 1.

    >>> gpu, count, instance = counted("p4d.24xlarge")
    >>> gpu.name, count
    ('A100 40 GB', 8)
    """
    number, name = re.fullmatch(r"\s*(?:(-?\d+)\s*[x×*]\s*)?(.*?)\s*", text, re.DOTALL).groups()
    count = whole_number("capacity", int(number or 1), what="a count of GPUs")
    found = next((each for each in INSTANCES.values() if _plain(each.name) == _plain(name)), None)
    return (GPUS[found.gpu], count * found.count, found) if found else (GPUS[name], count, None)


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _bare(name: Any) -> str:
    """A GPU's name without its maker's words: "a10040gb" of "NVIDIA A100-SXM4-40GB"."""
    return _plain(re.sub(r"\b(nvidia|geforce|tesla|amd|instinct|sxm\d*|hbm\d*e?)\b", "", str(name).lower()))


def _shorter(known: str) -> tuple[str, ...]:
    """What else a known name may be called: without its size, by its number alone, with half a unit."""
    unsized = _bare(re.sub(r"\s\d+ GB$", "", known))
    return unsized, unsized.removeprefix("rtx"), _bare(known).removesuffix("b"), _bare(known).removesuffix("gb")


GPUS = _gpus()
"""Every GPU of `data/gpus.json` by name."""

INSTANCES = {name: Instance(name, **facts) for name, facts in _facts()["instances"].items()}
"""Machines that clouds rent, by name: so many of one GPU of `GPUS`."""
