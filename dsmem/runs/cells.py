"""One cell of a recording: what was asked, what came of it, or why nothing came, as it stands in the file."""

import base64
import dataclasses
import json
import traceback
import zlib
from typing import Any

import numpy as np
import torch

from dsmem.config.architecture import Architecture
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.training.step import training_footprint
from dsmem.memory.allocator import ReplayedOutOfMemory
from dsmem.memory.replay import replay
from dsmem.memory.traces import pack_trace
from dsmem.runs.provenance import allocator_settings
from dsmem.runs.run import Run, measure, tokens_per_second

NO_ROOM = ("out of memory", "STATUS_ALLOC_FAILED", "can't allocate memory")
ERROR_CHARACTERS = 4000


def cell(
    device: str, arch: Architecture, work: Workload, code: str = "dsmem", training: Training | None = None
) -> dict[str, Any]:
    """The recorded cell of one pass, or of one training step; whatever goes wrong stands in it and is not raised.

    device, arch, work, code, training: as in `measure`. "outcome" is "ok", "did not fit", "did not fit in the replay",
    or "failed: " and the error's first line, with the whole of it under "error".
    """
    asked = question(arch, work, code, training)
    try:
        run = measure(arch, work, device, code=code, **({"training": training} if training else {}))
        return asked | {"outcome": "ok"} | _levels(run)
    except Exception as error:
        return asked | {"formula_bytes": _formula(arch, work, training)} | failure(error)


def rate(device: str, arch: Architecture, works: list[Workload]) -> dict[str, Any]:
    """Tokens a second of one model in each of `works`, as recorded; what goes wrong stands in it, as in `cell`."""
    asked = {"model": arch.name, "works": [question(arch, work) for work in works]}
    try:
        rates = tokens_per_second(arch, works, device)
        return asked | {"outcome": "ok", "tokens_per_second": [float(f"{value:.4g}") for value in rates]}
    except Exception as error:
        return asked | failure(error)


def failure(error: Exception) -> dict[str, str]:
    """The outcome that `error` stands for, and its text unless the pass merely did not fit.

    >>> failure(KeyError("head"))["outcome"]
    "failed: KeyError: 'head'"
    """
    said = outcome(error)
    if said.startswith("did not fit"):
        return {"outcome": said}
    return {"outcome": said, "error": "".join(traceback.format_exception(error))[-ERROR_CHARACTERS:]}


def outcome(error: Exception) -> str:
    """ "did not fit" where memory was missing, of the GPU or of cuBLAS; "failed: ..." for every other error.

    >>> outcome(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    'did not fit'
    """
    if isinstance(error, ReplayedOutOfMemory):
        return "did not fit in the replay"
    text = str(error).strip()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in NO_ROOM):
        return "did not fit"
    kind = type(error).__name__
    words = [kind] * (type(error) is not RuntimeError or not text) + text.splitlines()[:1]
    return "failed: " + ": ".join(words)


def question(
    arch: Architecture, work: Workload, code: str = "dsmem", training: Training | None = None
) -> dict[str, Any]:
    """What a cell asks, as it stands in the file: the model's name, whose code it is, and the workload's fields.

    Of a training step its own, too, under "training".
    """
    how = {"training": dataclasses.asdict(training)} if training else {}
    return json.loads(json.dumps({"model": arch.name, "code": code} | dataclasses.asdict(work) | how))


def asked(recorded: dict[str, Any]) -> dict[str, Any]:
    """The question of a recorded cell, to be held against `question`."""
    names = (field.name for field in dataclasses.fields(Workload))
    known = {"model": recorded.get("model"), "code": recorded.get("code", "dsmem")}
    how = {"training": recorded["training"]} if recorded.get("training") else {}
    return known | {name: recorded.get(name) for name in names} | how


def question_text(recorded: dict[str, Any]) -> str:
    """The question of a recorded cell in one line; what is as `Workload` has it by default is left out."""
    said, always = asked(recorded), ("model", "code", "batch", "seq_len", "phase", "weights", "attention", "logits")
    training = said.pop("training", None)
    given = {name: said[name] for name in always[2:6] if said[name] is not None}
    usual = json.loads(json.dumps(dataclasses.asdict(Workload(**given))))
    rows = [f"{name}={value}" for name, value in said.items() if name in always or value != usual[name]]
    if training:
        default = json.loads(json.dumps(dataclasses.asdict(Training())))
        changed = [f"{name}={value}" for name, value in training.items() if value != default.get(name)]
        rows.append(f"a training step ({', '.join(changed) or 'as by default'})")
    return ", ".join(rows)


def pack(rows: Any) -> str:
    """A list of rows of whole numbers as short text; `unpack` gives the array back.

    >>> unpack(pack([[1, 0, 512], [-1, 0, 512]])).tolist()
    [[1, 0, 512], [-1, 0, 512]]
    """
    array = np.asarray(rows, dtype="<i8")
    columns = array.shape[1] if array.ndim > 1 else 1
    # column by column, for numbers of a kind compress better side by side
    return f"{columns}:{base64.b85encode(zlib.compress(array.T.tobytes(), 9)).decode()}"


def unpack(text: str) -> np.ndarray:
    """The int64 array (rows, columns) in a text made by `pack`."""
    columns, _, data = text.partition(":")
    return np.frombuffer(zlib.decompress(base64.b85decode(data)), dtype="<i8").reshape(int(columns), -1).T


def _levels(run: Run) -> dict[str, Any]:
    """What every level says of the pass, and the streams that it can be checked from."""
    ops = list(dict.fromkeys(record.op for record, _ in run.ledger.events))
    stream = [[ops.index(record.op), sign * record.nbytes] for record, sign in run.ledger.events]
    replayed = _replay(run)
    return {
        "formula_bytes": int(run.footprint.total_bytes) if run.footprint else None,
        "ledger_bytes": run.ledger.peak_bytes,
        "replay_bytes": replayed.peak_allocated_bytes,
        "replay_reserved_bytes": replayed.peak_reserved_bytes,
        "attention_ran": run.work.attention,
        "device": run.device_memory,
        "seconds": run.seconds,
        "operators": ops,
        "stream": pack(stream),
        "trace": pack_trace(run.trace) if run.trace else None,
    } | _of_step(run)


def _of_step(run):
    """Of a training step: the peak of each phase, where each begins in the stream, and how long each takes."""
    if run.training is None:
        return {}
    return {"phases": run.ledger.phases, "marks": run.ledger.marks, "step_seconds": run.step_seconds}


def _replay(run):
    """The run's replay, with the settings that this process's allocator has, if any."""
    settings = allocator_settings() if run.device_memory else {}
    if not settings:
        return run.replay
    return replay(run.replay.events, **run.replay.settings | settings)  # the workspace is among its events


def _formula(arch, work, training):
    try:
        fp = training_footprint(arch, work, training) if training else inference_footprint(arch, work)
        return int(fp.total_bytes)
    except ValueError:
        return None
