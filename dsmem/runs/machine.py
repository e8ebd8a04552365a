"""What this machine is, and what that means for the notebooks: device, kernels, formats, free bytes, versions."""

import dataclasses
import html
import os
import platform

import psutil
import torch

from dsmem.model.flash import MIN_FLASH_CAPABILITY, attention_backend
from dsmem.table import Table
from dsmem.units import format_bytes


@dataclasses.dataclass(frozen=True)
class Machine:
    """The device that the notebooks measure on, and what it can do.

    device: "cuda" or "cpu", as every call takes it. name: of the GPU or the processor. capability: CUDA compute
    capability (major, minor) of a GPU, else None. total_bytes, free_bytes: the GPU's memory, or the machine's.
    attention: the kernel that fused attention runs on. bf16: "native", "emulated" or "on the CPU".
    """

    device: str
    name: str
    capability: tuple[int, int] | None
    total_bytes: int
    free_bytes: int
    attention: str
    bf16: str

    @property
    def versions(self) -> str:
        """The versions that a result depends on, in one line."""
        from dsmem import __version__

        return f"dsmem {__version__}, torch {torch.__version__}, Python {platform.python_version()}"

    def meaning(self) -> list[str]:
        """What follows from the device, one sentence each."""
        if self.device == "cpu":
            return [
                "No GPU here: real passes run on the CPU at a small size, full-size models run as fake tensors.",
                "Every tensor is counted the same way; what only a GPU can say is shown from recorded runs, "
                "or said to be missing.",
                "Half-precision products are slow on a CPU, so times here say nothing of a GPU.",
            ]
        shared = "shares" if self.attention == "flash" else "cannot share"
        return [
            f"The GPU's own counters stand beside formula and ledger; {format_bytes(self.free_bytes)} are free.",
            f"Fused attention runs on the {self.attention} kernel, which {shared} keys between heads.",
            f"BF16 is {self.bf16} on compute capability {self.capability[0]}.{self.capability[1]}.",
        ]

    def table(self) -> Table:
        """The machine as a `Table`: memory, attention kernel, BF16, versions."""
        rows = [("free memory", format_bytes(self.free_bytes)), ("memory in all", format_bytes(self.total_bytes))]
        if self.capability is not None:
            rows.append(("compute capability", "{}.{}".format(*self.capability)))
        rows += [("attention kernel", self.attention), ("BF16", self.bf16), ("versions", self.versions)]
        return Table({"": None, self.device: None}, rows, self.name)

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.meaning())
        return f"{self.table()._repr_html_()}<ul>{lines}</ul>"

    def __repr__(self) -> str:
        head = f"{self.name}: {format_bytes(self.free_bytes)} free of {format_bytes(self.total_bytes)}"
        return "\n".join([head, *(f"- {line}" for line in self.meaning()), self.versions])


def here() -> Machine:
    """The `Machine` that this process runs on: its present GPU where there is one.

    >>> here().device in ("cuda", "cpu")
    True
    """
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        free, total = torch.cuda.mem_get_info()
        capability = torch.cuda.get_device_capability()
        # is_bf16_supported() says True for emulation, too
        bf16 = "native" if capability >= MIN_FLASH_CAPABILITY else "emulated"
        return Machine("cuda", properties.name, capability, total, free, attention_backend("cuda"), bf16)
    memory = psutil.virtual_memory()
    name = f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
    return Machine("cpu", name, None, memory.total, memory.available, attention_backend("cpu"), "on the CPU")
