"""Measure one pass at every level this machine has, explain the gaps, and record sweeps of a GPU with provenance.

python -m dsmem.runs record --out data/runs
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dsmem.allocator import Replay, replay
from dsmem.architecture import DATA, Architecture
from dsmem.footprint import Footprint, inference_footprint
from dsmem.ledger import Ledger
from dsmem.model import attention_for, build_model, check_device
from dsmem.workload import Workload

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """One pass at up to four levels: `footprint`, `ledger`, `replay` and, on a GPU, `device_memory` (else None).

    device_memory: bytes under "requested", "allocated", "reserved" (peaks of torch's allocator), "used" (the whole
    card) and "workspace" (what cuBLAS keeps). seconds: wall time of the pass under the ledger, None on fake tensors.
    """

    arch: Architecture
    work: Workload
    device: str
    footprint: Footprint
    ledger: Ledger
    replay: Replay
    device_memory: dict | None
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Waterfall:
    """The levels of a run and the gaps between them: `steps` of (name, bytes, "total" or "gap")."""

    steps: list

    def __repr__(self):
        return "\n".join(f"{name:<44}{nbytes:>20,} B" for name, nbytes, _ in self.steps)


def measure(arch, work, device="fake", seed=0):
    """Run `work` once on `arch` with random weights and token ids, watched at every level; returns a `Run`.

    device: "fake" (any size, no memory), "cpu" or "cuda". Raises ValueError for a workload with arrays or a device that
    is not there, torch.OutOfMemoryError where it does not fit.
    """
    check_device(device)
    for name in ("batch", "seq_len", "cached_tokens"):
        if not isinstance(getattr(work, name), int):
            raise ValueError(f"{name} is an array; measure() runs one workload, so it must be a whole number")
    forward, model = _prepared(arch, work, device, seed)
    with torch.no_grad():
        device_memory = _watch_device(forward) if str(device).startswith("cuda") else None
        with Ledger(model) as ledger:
            start = time.perf_counter()
            forward()
            _wait(device)
            seconds = time.perf_counter() - start
    seconds = None if device == "fake" else seconds
    footprint = inference_footprint(arch, work)
    return Run(arch, work, str(device), footprint, ledger, replay(ledger), device_memory, seconds)


def explain(run):
    """The `Waterfall` from formula to device: every level a total, every difference between two a named gap."""
    formula, ledger, allocated = run.footprint.total_bytes, run.ledger.peak_bytes, run.replay.peak_allocated_bytes
    steps = [
        ("formula", formula, "total"),
        ("not in the formula", ledger - formula, "gap"),
        ("ledger", ledger, "total"),
        ("rounding to 512-byte blocks", allocated - ledger, "gap"),
        ("allocator (predicted)", allocated, "total"),
    ]
    real = run.device_memory
    if real is not None:
        steps += [
            ("cuBLAS workspace", real["workspace"], "gap"),
            ("other kernel scratch", real["allocated"] - allocated - real["workspace"], "gap"),
            ("allocated on the GPU", real["allocated"], "total"),
            ("cached segments, not in use", real["reserved"] - real["allocated"], "gap"),
            ("reserved on the GPU", real["reserved"], "total"),
            ("CUDA context and other processes", real["used"] - real["reserved"], "gap"),
            ("used, as nvidia-smi says", real["used"], "total"),
        ]
    return Waterfall(steps)


def record(out=DATA / "runs", device="cuda", cells=None, command=None):
    """Measure every cell of a sweep on this machine and write them, one after the other, to a new file in `out`.

    cells: pairs (Architecture, Workload); left out, `sweep()`. A cell that runs out of memory is recorded as
    "did not fit" and the sweep goes on. Returns the file's path. Raises ValueError for a device that is not there.
    """
    check_device(device)
    cells = list(sweep()) if cells is None else list(cells)
    made = provenance(device, command)
    path = Path(out) / f"{made['device'].replace(' ', '-').lower()}-{made['date'][:19].replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for arch, work in tqdm(cells, desc="recording", unit="cell"):
        results.append(_cell(arch, work, device))
        _write(path, {"format": FORMAT, "provenance": made, "cells": results})
    return path


def load(path):
    """The recorded run in the file `path`, as {"format", "provenance", "cells"}; ValueError if it is damaged."""
    try:
        run = json.loads(Path(path).read_text(encoding="utf-8"))
        missing = {"format", "provenance", "cells"} - set(run)
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"path={str(path)!r} is damaged; it must be a recorded run ({error})") from None
    if missing or run["format"] != FORMAT:
        raise ValueError(f"path={str(path)!r} is no recorded run of format {FORMAT}; record it again")
    return run


def recorded(folder=DATA / "runs"):
    """All recorded runs in `folder`, oldest first; an empty list where none is recorded yet."""
    return sorted((load(path) for path in Path(folder).glob("*.json")), key=lambda run: run["provenance"]["date"])


def sweep():
    """The cells that `record` measures unless told otherwise: pairs (Architecture, Workload)."""
    small = Architecture.from_config("qwen2.5-0.5b")
    distill = Architecture.from_config("deepseek-r1-distill-qwen-1.5b")
    grid = itertools.product((small, distill), ("fp16", "bf16"), (1, 4, 16), (128, 1024, 4096))
    for arch, weights, batch, seq_len in grid:
        for attention, logits in itertools.product(("fused", "eager"), ("all", "last")):
            attention = attention if attention == "eager" else attention_for("cuda", arch, weights)
            yield arch, Workload(batch, seq_len, weights=weights, attention=attention, logits=logits)
        yield arch, Workload(batch, seq_len, "decode", weights=weights, attention=attention_for("cuda", arch))


def provenance(device="cuda", command=None):
    """Where and how a recording was made: device, driver, torch, date, command, commit."""
    on_gpu = str(device).startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device} tensors on {platform.machine()}",
        "total_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "capability": list(torch.cuda.get_device_capability(device)) if on_gpu else None,
        "driver": _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": _said_by("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
    }


def _prepared(arch, work, device, seed):
    """A call that runs `work` from the same start each time, and the model that it runs on."""
    formats = {"activations": work.activations, "modules_to_not_convert": work.modules_to_not_convert}
    model = build_model(arch, weights=work.weights, device=device, seed=seed, **formats)
    place = "cpu" if device == "fake" else device
    tokens = torch.randint(arch.vocab_size, (work.batch, work.new_tokens)).to(place)
    cache = model.new_cache(work.batch, int(work.cache_len), work.kv_cache) if work.cache == "static" else None

    def forward():
        if cache is not None:
            cache.length = work.cached_tokens
        return model(tokens, cache=cache, attention=work.attention, logits=work.logits)

    return forward, model


def _watch_device(forward):
    """Peaks of one pass without the ledger, after one to load kernels; bytes by level."""
    workspace = _workspace_bytes()
    forward()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    forward()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return {
        "requested": torch.cuda.memory_stats()["requested_bytes.all.peak"],
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "used": total - free,
        "workspace": workspace,
    }


def _workspace_bytes():
    """What the first matrix product of a process leaves allocated: cuBLAS's workspace."""
    torch._C._cuda_clearCublasWorkspaces()
    factor = torch.ones(64, 64, device="cuda", dtype=torch.float16)
    before = torch.cuda.memory_allocated()
    product = factor @ factor
    return torch.cuda.memory_allocated() - before - product.untyped_storage().nbytes()


def _cell(arch, work, device):
    asked = {"model": arch.name} | dataclasses.asdict(work)
    predicted = {"formula_bytes": inference_footprint(arch, work).total_bytes}
    try:
        run = measure(arch, work, device)
    except torch.OutOfMemoryError as error:
        # the traceback would keep the failed pass's tensors alive into the next cell
        error.__traceback__ = None
        torch.cuda.empty_cache()
        return asked | predicted | {"outcome": "did not fit"}
    levels = {"ledger_bytes": run.ledger.peak_bytes, "replay_bytes": run.replay.peak_allocated_bytes}
    return asked | predicted | levels | {"outcome": "ok", "device": run.device_memory, "seconds": run.seconds}


def _wait(device):
    if str(device).startswith("cuda"):
        torch.cuda.synchronize()


def _write(path, content):
    """Replace the file in one step, so that a run cut off in the middle leaves a whole one."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(path)


def _said_by(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def main(arguments=None):
    """Command line: `record`."""
    parser = argparse.ArgumentParser(prog="python -m dsmem.runs", description="Record measured runs of this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="measure a sweep on the GPU and write it with its provenance")
    recording.add_argument("--out", default=DATA / "runs", help="folder for the new file")
    recording.add_argument("--device", default="cuda", help="cuda, cpu or fake")
    options = parser.parse_args(arguments)
    try:
        path = record(
            options.out, options.device, command=" ".join(["python -m dsmem.runs", *(arguments or sys.argv[1:])])
        )
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    print(f"recorded in {path}")


if __name__ == "__main__":
    main()
