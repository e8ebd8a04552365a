"""Host memory: what a process takes before it does anything, while it loads a checkpoint, and while it feeds data.

Each measurement runs in a process of its own, because a process that has loaded something before would measure that
too. Linux only.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dsmem.units import format_bytes, whole_number, whole_numbers

_SCRIPT = """
import json, sys, torch
{imports}
def resident():
    lines = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    return {{name: int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM", "RssAnon", "RssFile")}}
before = resident()
try:
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak of the imports
except OSError:
    pass
{load}
loaded = resident()
{copy}
print(json.dumps({{"before": before, "loaded": loaded, "after": resident()}}))
"""
_COPY = """
model = {name: torch.empty_like(tensor) for name, tensor in state.items()}
for name in model:
    model[name].copy_(state[name])
"""
_SAFETENSORS = "from safetensors.torch import load_file"
_LOADERS = {  # imports, load, copy
    "nothing": ("", "", ""),
    "pickle": ("", "state = torch.load(sys.argv[1], weights_only=True)", _COPY),
    "pickle_mmap": ("", "state = torch.load(sys.argv[1], weights_only=True, mmap=True)", _COPY),
    "safetensors": (_SAFETENSORS, "state = load_file(sys.argv[1])", _COPY),
    "safetensors_assign": (_SAFETENSORS, "state = load_file(sys.argv[1])", ""),
}
_FEED = """
import os, sys, time, torch
workers, factor, batch_bytes = map(int, sys.argv[1:])
class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        return torch.ones(batch_bytes, dtype=torch.uint8)
def shared():
    seen = os.statvfs("/dev/shm")
    return (seen.f_blocks - seen.f_bfree) * seen.f_frsize
before = shared()
feed = iter(torch.utils.data.DataLoader(Batches(), batch_size=None, num_workers=workers, prefetch_factor=factor))
batch = next(feed)
held, deadline = -1, time.monotonic() + 20
while held != shared() - before and time.monotonic() < deadline:
    held = shared() - before
    time.sleep(0.3)
print(held)
"""


@dataclasses.dataclass(frozen=True)
class HostRun:
    """One measured process, in bytes.

    baseline_bytes: resident memory after the imports. The others are counted above this baseline. predicted_bytes and
    peak_bytes: the predicted and the measured peak. own_bytes: memory of the process itself. file_bytes: pages of a
    mapped file, which the system may take back.
    """

    baseline_bytes: int
    predicted_bytes: int
    peak_bytes: int
    own_bytes: int
    file_bytes: int

    def __str__(self):
        predicted, peak = format_bytes(self.predicted_bytes), format_bytes(self.peak_bytes)
        own, file = format_bytes(self.own_bytes), format_bytes(self.file_bytes)
        return f"predicted {predicted:>10}, measured {peak:>10}: {own:>10} its own, {file:>9} of the file"


def loading_bytes(checkpoint_bytes: int, model_bytes: int) -> int:
    """Peak bytes of loading: the checkpoint's tensors plus the model that they are copied into.

    checkpoint_bytes: of all tensors in the file. model_bytes: of the model; 0 if the loaded tensors become the model.

    >>> loading_bytes(15_231_233_024, 15_231_233_024) / 1e9
    30.462466048
    """
    return whole_numbers("checkpoint_bytes", checkpoint_bytes, 0) + whole_numbers("model_bytes", model_bytes, 0)


def prefetch_bytes(num_workers: int, prefetch_factor: int, batch_bytes: int) -> int:
    """Bytes that a DataLoader holds: `prefetch_factor` batches ready for each worker, and the one in use.

    num_workers, prefetch_factor: as in `torch.utils.data.DataLoader`. batch_bytes: of one batch.

    >>> prefetch_bytes(4, 2, 16 * 2048 * 8)
    2359296
    """
    batches = whole_numbers("num_workers", num_workers, 0) * whole_numbers("prefetch_factor", prefetch_factor) + 1
    return batches * whole_numbers("batch_bytes", batch_bytes)


def pinned_bytes(batch_bytes: int, batches: int = 1) -> int:
    """Bytes of pinned copies for the GPU; PyTorch's pinned allocator rounds each one up to a power of two.

    batch_bytes: of one batch. batches: how many are pinned at once.

    >>> pinned_bytes(3 * 2**20)
    4194304
    """
    batch_bytes = whole_number("batch_bytes", batch_bytes, what="bytes")
    return whole_number("batches", batches) * (1 << (batch_bytes - 1).bit_length())


def measure_loading(path: str | Path, loader: str = "pickle") -> HostRun:
    """Load the checkpoint at `path` in a process of its own, copy it into a model, and return a `HostRun`.

    path: a file of tensors by name. loader: "pickle" (`torch.load`), "pickle_mmap" (with mmap=True), "safetensors"
    (memory-mapped), "safetensors_assign" (the mapped tensors become the model: nothing is copied, and nothing is read
    before it is used), or "nothing". Raises ValueError for an unknown loader, and for a file that does not exist or
    cannot be loaded.

    >>> measure_loading("missing.pt")
    Traceback (most recent call last):
    ValueError: path='missing.pt' is not a file; it must be a checkpoint
    """
    if loader not in _LOADERS:
        raise ValueError(f"loader={loader!r} is unknown; allowed: {', '.join(_LOADERS)}")
    if not Path(path).is_file():
        raise ValueError(f"path={str(path)!r} is not a file; it must be a checkpoint")
    copied = Path(path).stat().st_size if _LOADERS[loader][2] else 0
    return _host_run(_load(path, loader), "after", copied)


def _load(path, loader):
    """What a process of its own reports of its memory before loading, after loading, and after copying."""
    script = _SCRIPT.format(**dict(zip(("imports", "load", "copy"), _LOADERS[loader], strict=True)))
    child = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    if child.returncode:
        reason = child.stderr.strip().splitlines()[-1]
        raise ValueError(f"path={str(path)!r} cannot be loaded with loader={loader!r} ({reason})")
    return json.loads(child.stdout)


def _host_run(seen, when, copied):
    """The `HostRun` of a process at one point (`when`: "loaded" or "after"). copied: bytes copied, 0 for none."""
    before, after = seen["before"], seen[when]
    return HostRun(
        baseline_bytes=before["VmRSS"],
        predicted_bytes=loading_bytes(copied, copied),
        peak_bytes=after["VmHWM"] - before["VmRSS"],
        own_bytes=after["RssAnon"] - before["RssAnon"],
        file_bytes=after["RssFile"] - before["RssFile"],
    )


def compare_loaders(checkpoint_bytes: int) -> dict[str, HostRun]:
    """{loader: HostRun} for a checkpoint of eight tensors, by the loaders that are installed here.

    checkpoint_bytes: of all eight tensors together. Both loaders run at the same time, each in a process of its own.
    What the safetensors process reports before it copies is the figure for "safetensors_assign". The files are deleted
    afterwards. The result is empty if the system is not Linux.
    """
    checkpoint_bytes = whole_number("checkpoint_bytes", checkpoint_bytes, 16, "bytes of eight tensors")
    if sys.platform != "linux":
        return {}
    import torch  # not above: the formulas do not need it

    mapped = "safetensors" if importlib.util.find_spec("safetensors") else "pickle_mmap"
    state = {f"layer.{i}": torch.full((checkpoint_bytes // 16,), i, dtype=torch.bfloat16) for i in range(8)}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        files = {"pickle": Path(folder, "model.pt"), mapped: Path(folder, "model.pt")}
        torch.save(state, files["pickle"])
        if mapped == "safetensors":
            files[mapped] = Path(folder, "model.safetensors")
            importlib.import_module("safetensors.torch").save_file(state, files[mapped])
        sizes = [file.stat().st_size for file in files.values()]
        seen = dict(zip(files, pool.map(_load, files.values(), files), strict=True))
    runs = {loader: _host_run(seen[loader], "after", size) for loader, size in zip(files, sizes, strict=True)}
    return runs | ({"safetensors_assign": _host_run(seen[mapped], "loaded", 0)} if mapped == "safetensors" else {})


def measure_prefetch(num_workers: int, prefetch_factor: int, batch_bytes: int) -> int:
    """Bytes of shared memory that a DataLoader fills while its consumer holds one batch, from a process of its own.

    num_workers, prefetch_factor, batch_bytes: as in `prefetch_bytes`. If other processes use /dev/shm at the same time,
    their bytes are counted too. Raises ValueError for a count below 1.

    >>> measure_prefetch(0, 2, 4096)
    Traceback (most recent call last):
    ValueError: num_workers=0 is not a count; it must be a whole number of at least 1
    """
    arguments = {"num_workers": num_workers, "prefetch_factor": prefetch_factor, "batch_bytes": batch_bytes}
    for name, value in arguments.items():
        whole_number(name, value)
    command = [sys.executable, "-c", _FEED, *map(str, arguments.values())]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return int(child.stdout)
