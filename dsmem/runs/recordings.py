"""Recorded runs: what a machine's GPU says of a whole sweep, with provenance, and the prediction held against it.

python -m dsmem.runs record --out data/runs
python -m dsmem.runs compare data/runs/FILE.json
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dsmem.config.source import DATA
from dsmem.runs.cells import asked, cell, failure, question, question_text
from dsmem.runs.provenance import SAME, provenance
from dsmem.runs.sweep import sweep
from dsmem.runs.workers import Worker, only, sound

FORMAT = 1
LEVELS = {"allocated": ("replay_bytes", 0.005), "reserved": ("replay_reserved_bytes", 0.02)}
"""Levels of the GPU, each with the field that predicts it and the error that is allowed."""


def record(
    out: str | Path = DATA / "runs",
    device: str = "cuda",
    cells: Iterable[tuple] | None = None,
    command: str | None = None,
    resume: str | Path | None = None,
    apart: bool | None = None,
    measuring: Callable = cell,
) -> Path:
    """Measure the cells of a sweep on this machine, one after the other, and write them to a file in `out`.

    cells: pairs (Architecture, Workload), a third item "transformers" for that library's code, a fourth a `Training`
    for a step of it; defaults to `sweep()`.
    command: the command line to note. resume: a file of an earlier call that was cut off; what it answered is kept, and
    what failed there is tried again. apart: whether the cells run in a process of their own, which is replaced when it
    loses its GPU; defaults to yes on a GPU. measuring: what is called for a cell, as `cells.cell`; it must be a
    function that another process can import.
    The file is written after each cell. A cell that runs out of memory is recorded as "did not fit", one that stops
    with another error as "failed: ..." and its first line, and the sweep goes on. Returns the file's path.
    Raises ValueError for a device that is not there, a file to resume that is damaged or of another machine, or
    settings of the allocator that the prediction does not know.
    """
    apart = str(device).startswith("cuda") if apart is None else apart
    with only(device) as device, asking(device, apart) as ask:
        made = ask(provenance, device, command)
        recording = Recording.of(out, made, resume)
        cells = ask(sweep, device) if cells is None else cells
        for one in tqdm(recording.left(cells), desc="recording", unit="cell"):
            recording.add(measure_cell(ask, measuring, device, one), one[0])
    return recording.path


@contextlib.contextmanager
def asking(device: str, apart: bool) -> Iterator[Callable]:
    """`ask(function, *args)`: in a `Worker`, or in this process, which is cleaned before each call."""

    def here(function, *args, seconds=None):
        sound(device)
        return function(*args)

    if not apart:
        yield here
        return
    with Worker(device) as worker:
        yield worker.ask


def measure_cell(
    ask: Callable, measuring: Callable, device: str, one: tuple, seconds: float | None = None
) -> dict[str, Any]:
    """The recorded cell of `one`, (Architecture, Workload) and perhaps whose code; a lost process is an outcome, too.

    ask: see `asking`. measuring: see `record`. seconds: how long the cell may take.
    """
    try:
        return ask(measuring, device, *one, seconds=seconds)
    except RuntimeError as error:  # WorkerLost is one
        return question(*one) | failure(error)


class Recording:
    """A recorded run that grows: its file is whole after every change, however the program ends.

    path: the file. content: what stands in it, see `load`.
    """

    def __init__(self, path: Path, content: dict[str, Any]):
        self.path, self.content = path, content

    @classmethod
    def of(cls, folder: str | Path, made: dict[str, Any], resume: str | Path | None = None) -> "Recording":
        """A new recording in `folder`, or the one in the file `resume`, which must be of the same machine and code.

        made: what `provenance` says. Raises ValueError for another machine or a damaged file.
        """
        if resume is None:
            return cls(_new_path(Path(folder), made), {"format": FORMAT, "provenance": made, "models": {}, "cells": []})
        content = load(resume)
        _check_same(resume, content["provenance"], made)
        again = {name: made.get(name) for name in ("date", "command", "used_before_bytes")}
        content.setdefault("resumed", []).append(again)
        return cls(Path(resume), {"models": {}} | content)

    def left(self, cells: Iterable[tuple]) -> list[tuple]:
        """Those of `cells` that have no answer yet; first those never tried, then those that failed."""
        outcomes = {_key(asked(one)): one["outcome"] for one in self.content["cells"]}
        cells = [(outcomes.get(_key(question(*one))), one) for one in cells]
        untried = [one for outcome, one in cells if outcome is None]
        return untried + [one for outcome, one in cells if outcome and outcome.startswith("failed")]

    def add(self, new: dict[str, Any], arch: Any) -> None:
        """Write down a cell of the architecture `arch`; one of the same question that failed before gives way to it."""
        key, cells = _key(asked(new)), self.content["cells"]
        old = next((one for one in cells if _key(asked(one)) == key), None)
        if old:
            new = new | {"failed_before": [*old.get("failed_before", []), old["outcome"]]}
            cells[cells.index(old)] = new
        else:
            cells.append(new)
        self.content["models"][arch.name] = dataclasses.asdict(arch)
        self.write()

    def note(self, name: str, value: Any) -> None:
        """Write down something else under its own name."""
        self.content[name] = value
        self.write()

    def write(self) -> None:
        """Replace the file in one step, so that a run cut off in the middle leaves a whole one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.content, indent=1, default=str), encoding="utf-8")
        draft.replace(self.path)


def load(path: str | Path) -> dict[str, Any]:
    """The recorded run in the file `path`: {"format", "provenance", "models", "cells"}. ValueError if it is damaged."""
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


def recorded(folder: str | Path = DATA / "runs") -> list[dict]:
    """All recorded GPU runs in `folder`, oldest first; an empty list where none is recorded yet."""
    runs = [load(path) for path in Path(folder).glob("*.json")]
    return sorted((run for run in runs if run["provenance"]["capability"]), key=lambda run: run["provenance"]["date"])


def error_report(run: dict[str, Any]) -> str:
    """Signed errors of the prediction against a recorded run, as text: by level, the worst cell, and what did not fit.

    run: what `load` returns. An error of +1% says that the prediction is 1% too high.
    """
    fitted = [cell for cell in run["cells"] if cell["outcome"] == "ok"]
    lines = [f"{len(run['cells'])} cells on {run['provenance']['device']}, {run['provenance']['date']}"]
    for level, (_, bound) in LEVELS.items():
        errors = [(error_of(cell, level), cell) for cell in fitted if cell["device"]]
        if not errors:
            continue
        values = np.array([error for error, _ in errors])
        worst, cell = max(errors, key=lambda pair: abs(pair[0]))
        lines.append(
            f"{level}: median {np.median(values):+.2%}, {values.min():+.2%} to {values.max():+.2%}; "
            f"{np.mean(np.abs(values) > bound):.0%} of cells off by more than {bound:.1%}"
        )
        lines.append(f"  worst, {worst:+.2%}: {question_text(cell)}")
    ours = [cell for cell in fitted if cell.get("code", "dsmem") == "dsmem"]
    wrong = sum(cell["formula_bytes"] not in (None, cell["ledger_bytes"]) for cell in ours)
    unfit = sum(cell["outcome"].startswith("did not fit") for cell in run["cells"])
    lines.append(f"formula and ledger differ in {wrong} cells; {unfit} cells did not fit")
    failures = [cell for cell in run["cells"] if cell["outcome"].startswith("failed")]
    lines += [f"  {cell['outcome']}: {question_text(cell)}" for cell in failures]
    return "\n".join(lines)


def error_of(cell: dict[str, Any], level: str) -> float:
    """Signed error of the prediction of a recorded cell, as a share; level: "allocated" or "reserved"."""
    said = cell["device"][level] - cell["device"].get("elsewhere", 0)  # without what lay there before
    return cell[LEVELS[level][0]] / said - 1


def _key(asked_for):
    return json.dumps(asked_for, sort_keys=True)


def _check_same(path, earlier, made):
    for name in SAME:
        if earlier.get(name) != made[name]:
            raise ValueError(
                f"resume={str(path)!r} was recorded with {name} {earlier.get(name)!r}; "
                f"it must be the present one, {made[name]!r}"
            )


def _new_path(folder, made):
    """A file that is not there yet, named after device and date."""
    stem = f"{made['device'].replace(',', '').replace(' ', '-').lower()}-{made['date'][:19].replace(':', '')}"
    names = itertools.chain([stem], (f"{stem}-{count}" for count in itertools.count(2)))
    return next(path for path in (folder / f"{name}.json" for name in names) if not path.exists())
