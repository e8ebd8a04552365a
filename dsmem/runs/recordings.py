"""Record what this machine's GPU says of a whole sweep, with provenance, and hold the prediction against it.

python -m dsmem.runs record --out data/runs
python -m dsmem.runs compare data/runs/FILE.json
"""

import argparse
import base64
import dataclasses
import datetime
import itertools
import json
import platform
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from dsmem.config.architecture import Architecture
from dsmem.config.families import DATA
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.memory.allocator import ReplayedOutOfMemory
from dsmem.memory.traces import pack_trace
from dsmem.model import hub
from dsmem.model.devices import attention_for, check_device
from dsmem.model.operators import attention_backend
from dsmem.runs.run import Run, Waterfall, explain, measure
from dsmem.units import INT8_SCHEMES

__all__ = ["Run", "Waterfall", "compare", "explain", "load", "measure", "record", "recorded", "sweep"]

FORMAT = 1


def record(out=DATA / "runs", device="cuda", cells=None, command=None, resume=None):
    """Measure the cells of a sweep on this machine, one after the other, and write them to a file in `out`.

    cells: pairs (Architecture, Workload), a third item "transformers" for that library's code; left out, `sweep()`.
    resume: a file of an earlier call that was cut off; its cells are kept and not measured again. The file is written
    after each cell. A cell that runs out of memory is recorded as "did not fit", one that stops with another error as
    "failed: ..." and its first line, and the sweep goes on. Returns the file's path.
    Raises ValueError for a device that is not there, or a file to resume that is damaged or of another machine.
    """
    check_device(device)
    cells = list(sweep(device) if cells is None else cells)
    made, results = provenance(device, command), []
    path = Path(resume) if resume else _new_path(Path(out), made)
    if resume:
        made, results = _resumed(path, made)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [_asked(cell) for cell in results]
    for cell in tqdm(cells, desc="recording", unit="cell"):
        if _question(*cell) not in done:
            results.append(_cell(device, *cell))
            _write(path, {"format": FORMAT, "provenance": made, "cells": results})
    return path


def load(path):
    """The recorded run in the file `path`: {"format", "provenance", "cells"}. ValueError if it is damaged."""
    try:
        run = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"path={str(path)!r} cannot be read ({error}); it must be a recorded run") from None
    if not _is_run(run):
        raise ValueError(f"path={str(path)!r} is damaged; it must be a recorded run of format {FORMAT}")
    return run


def _is_run(run):
    return (
        isinstance(run, dict)
        and run.get("format") == FORMAT
        and isinstance(run.get("provenance"), dict)
        and {"device", "date", "capability"} <= set(run["provenance"])
        and isinstance(run.get("cells"), list)
        and all(isinstance(cell, dict) and isinstance(cell.get("outcome"), str) for cell in run["cells"])
    )


def recorded(folder=DATA / "runs"):
    """All recorded GPU runs in `folder`, oldest first; an empty list where none is recorded yet."""
    runs = [load(path) for path in Path(folder).glob("*.json")]
    return sorted((run for run in runs if run["provenance"]["capability"]), key=lambda run: run["provenance"]["date"])


def sweep(device="fake"):
    """The cells that `record` measures unless told otherwise: pairs (Architecture, Workload), small ones first.

    Where transformers is installed, its own code for the same shapes follows: (Architecture, Workload, "transformers").
    """
    models = [
        Architecture.from_config(f"{name}b") for name in ("qwen2.5-0.5", *(f"{_DISTILL}-{n}" for n in ("1.5", "7")))
    ]
    shapes = itertools.product((1, 4, 16), (128, 1024, 4096))
    for arch, (batch, seq_len) in itertools.product(models, shapes):
        fused = attention_for(device, arch)
        # a GPU whose attention cannot share keys has no BF16 of its own either
        floats = ("fp16",) if attention_backend(device) == "memory-efficient" else ("fp16", "bf16")
        for weights in (*floats, *INT8_SCHEMES):
            yield arch, Workload(batch, seq_len, weights=weights, attention=fused)
            yield arch, Workload(batch, seq_len, "decode", weights=weights, attention=fused)
        yield arch, Workload(batch, seq_len, weights="fp16", attention=fused, logits="last")
        yield arch, Workload(batch, seq_len, weights="fp16", attention="eager", logits="last")
    if hub.has_transformers():
        for arch, (batch, seq_len) in itertools.product(models, itertools.product((1, 4), (128, 1024))):
            for attention, logits in (("fused", "all"), ("fused", "last"), ("eager", "last")):
                yield arch, Workload(batch, seq_len, weights="fp16", attention=attention, logits=logits), "transformers"


_DISTILL = "deepseek-r1-distill-qwen"


def compare(run):
    """Signed errors of the prediction against a recorded run, as text: by level, the worst cell, and what did not fit.

    run: what `load` returns. An error of +1% says that the prediction is 1% too high.
    """
    fitted = [cell for cell in run["cells"] if cell["outcome"] == "ok"]
    lines = [f"{len(run['cells'])} cells on {run['provenance']['device']}, {run['provenance']['date']}"]
    for level, predicted, bound in (("allocated", "replay_bytes", 0.005), ("reserved", "replay_reserved_bytes", 0.02)):
        errors = [(cell[predicted] / _said(cell["device"], level) - 1, cell) for cell in fitted if cell["device"]]
        if not errors:
            continue
        values = np.array([error for error, _ in errors])
        worst, cell = max(errors, key=lambda pair: abs(pair[0]))
        lines.append(
            f"{level}: median {np.median(values):+.2%}, from {values.min():+.2%} to {values.max():+.2%}, "
            f"{np.mean(np.abs(values) > bound):.0%} of the cells are off by more than {bound:.1%}"
        )
        lines.append(f"  worst, {worst:+.2%}: {_question_text(cell)}")
    ours = [cell for cell in fitted if cell.get("code", "dsmem") == "dsmem"]
    wrong = sum(cell["formula_bytes"] != cell["ledger_bytes"] for cell in ours)
    unfit = sum(cell["outcome"].startswith("did not fit") for cell in run["cells"])
    lines.append(f"formula and ledger differ in {wrong} cells; {unfit} cells did not fit")
    failures = [cell for cell in run["cells"] if cell["outcome"].startswith("failed")]
    lines += [f"  {cell['outcome']}: {_question_text(cell)}" for cell in failures]
    return "\n".join(lines)


def _said(device, level):
    """A level of the device without what lay there before."""
    return device[level] - device.get("elsewhere", 0)


def provenance(device="cuda", command=None):
    """Where and how a recording was made: device, driver, torch, date, command, commit."""
    on_gpu = str(device).startswith("cuda")
    smi = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device} tensors, {platform.machine()}",
        "total_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "capability": list(torch.cuda.get_device_capability(device)) if on_gpu else None,
        "driver": _said_by(*smi) if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": _said_by("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
    }


def pack(rows):
    """A list of rows of whole numbers as short text; `unpack` gives the array back.

    >>> unpack(pack([[1, 0, 512], [-1, 0, 512]])).tolist()
    [[1, 0, 512], [-1, 0, 512]]
    """
    array = np.asarray(rows, dtype="<i8")
    columns = array.shape[1] if array.ndim > 1 else 1
    # column by column, for numbers of a kind compress better side by side
    return f"{columns}:{base64.b85encode(zlib.compress(array.T.tobytes(), 9)).decode()}"


def unpack(text):
    """The int64 array (rows, columns) in a text made by `pack`."""
    columns, _, data = text.partition(":")
    return np.frombuffer(zlib.decompress(base64.b85decode(data)), dtype="<i8").reshape(int(columns), -1).T


def _cell(device, arch, work, code="dsmem"):
    asked = _question(arch, work, code) | {"formula_bytes": int(inference_footprint(arch, work).total_bytes)}
    try:
        run = measure(arch, work, device, code=code)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        # the traceback would keep the failed pass's tensors alive into the next cell
        error.__traceback__ = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return asked | {"outcome": _outcome(error)}
    ops = list(dict.fromkeys(record.op for record, _ in run.ledger.events))
    stream = [[ops.index(record.op), sign * record.nbytes] for record, sign in run.ledger.events]
    return asked | {
        "outcome": "ok",
        "ledger_bytes": run.ledger.peak_bytes,
        "replay_bytes": run.replay.peak_allocated_bytes,
        "replay_reserved_bytes": run.replay.peak_reserved_bytes,
        "device": run.device_memory,
        "seconds": run.seconds,
        "operators": ops,
        "stream": pack(stream),
        "trace": pack_trace(run.trace) if run.trace else None,
    }


def _outcome(error):
    if isinstance(error, torch.OutOfMemoryError | ReplayedOutOfMemory):
        return "did not fit" + (" in the replay" if isinstance(error, ReplayedOutOfMemory) else "")
    return f"failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


def _question(arch, work, code="dsmem"):
    """What a cell asks, as it stands in the file: the model's name, whose code it is, and the workload's fields."""
    return json.loads(json.dumps({"model": arch.name, "code": code} | dataclasses.asdict(work)))


def _asked(cell):
    names = (field.name for field in dataclasses.fields(Workload))
    return {"model": cell["model"], "code": cell.get("code", "dsmem")} | {name: cell[name] for name in names}


def _question_text(cell):
    return ", ".join(f"{name}={value}" for name, value in _asked(cell).items() if name != "modules_to_not_convert")


def _resumed(path, made):
    earlier = load(path)
    for name in ("device", "driver", "torch", "commit"):
        if earlier["provenance"][name] != made[name]:
            raise ValueError(
                f"resume={str(path)!r} was recorded with {name} {earlier['provenance'][name]!r}; "
                f"it must be the present one, {made[name]!r}"
            )
    return earlier["provenance"], earlier["cells"]


def _new_path(folder, made):
    """A file that is not there yet, named after device and date."""
    stem = f"{made['device'].replace(',', '').replace(' ', '-').lower()}-{made['date'][:19].replace(':', '')}"
    names = itertools.chain([stem], (f"{stem}-{count}" for count in itertools.count(2)))
    return next(path for path in (folder / f"{name}.json" for name in names) if not path.exists())


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
    """Command line: `record`, `compare` and `measured`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m dsmem.runs", description="Recorded runs: make and compare them.")
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="measure a sweep on the GPU and keep it with its provenance")
    recording.add_argument("--out", default=DATA / "runs", help="folder for the new file")
    recording.add_argument("--device", default="cuda", help="cuda, cpu or fake")
    recording.add_argument("--resume", help="file of a recording that was cut off")
    comparing = commands.add_parser("compare", help="print the prediction's errors against a recorded run")
    comparing.add_argument("file")
    commands.add_parser("measured", help="print the prediction's errors against what others measured on their GPUs")
    options = parser.parse_args(arguments)
    try:
        if options.command == "measured":
            from dsmem.runs import measured

            print(measured.compare())
            return
        if options.command == "compare":
            print(compare(load(options.file)))
            return
        command = " ".join(["python -m dsmem.runs", *arguments])
        path = record(options.out, options.device, command=command, resume=options.resume)
        print(f"recorded in {path}")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
