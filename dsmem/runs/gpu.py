"""Everything that a GPU can tell this kit, in one command that ends in time and can be taken up again.

python -m dsmem.runs gpu
python -m dsmem.runs gpu --resume data/runs/FILE.json
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsmem.config.source import DATA
from dsmem.memory import cuda
from dsmem.runs import sweep
from dsmem.runs.cells import cell, failure, question, question_text, rate
from dsmem.runs.provenance import provenance
from dsmem.runs.recordings import LEVELS, Recording, asking, error_of, measure_cell
from dsmem.runs.suite import gpu_tests
from dsmem.runs.summary import summary
from dsmem.runs.workers import only

CELL_SECONDS = 120
KEPT_SECONDS = 30  # for the start of Python, a last process and the summary
TEST_SHARE = 0.25  # of the minutes, at most
FIRST = 90  # cells before tokens a second are taken


def run_all(
    out: str | Path = DATA / "runs",
    device: str = "cuda",
    minutes: float = 10,
    resume: str | Path | None = None,
    command: str | None = None,
    cells: list[tuple] | None = None,
    tests: Callable | None = gpu_tests,
    measuring: Callable = cell,
) -> Path:
    """Context, tests, sweep and tokens a second, each written to one file as soon as it is known; prints a summary.

    out: folder of the new file. device: "cuda", "cuda:1" for the second GPU, "cpu" or "fake" for a rehearsal on small
    models. minutes: when it ends, at the latest, ready or not. resume: the file of an earlier call, which goes on.
    command: the command line to note. cells, measuring: as in `record`. tests: runs the GPU's tests, None for none.
    Returns the file's path. Raises ValueError as `record` does.
    """
    end = time.monotonic() + 60 * minutes - KEPT_SECONDS
    with only(device) as kind, asking(kind, apart=True) as ask:
        made = ask(provenance, kind, command, seconds=CELL_SECONDS)
        recording = Recording.of(out, made, resume)
        cells, rates = (cells, []) if cells else ask(_asked_for, kind, seconds=CELL_SECONDS)
        stages, left = _Stages(ask, measuring, kind, recording, end), recording.left(cells)
        try:
            stages.context()
            if tests:
                stages.tests(tests, 60 * minutes * TEST_SHARE)
            stages.cells(left[:FIRST])
            stages.rates(rates)
            stages.cells(left[FIRST:])
        finally:
            print(summary(recording, cells), flush=True)
    return recording.path


def _asked_for(kind):
    """The cells and rates for this device; the process that sees the GPU must say them."""
    small = kind != "cuda"
    return (sweep.rehearsal if small else sweep.sweep)(kind), sweep.rates(kind, small)


class _Stages:
    """The parts of a recording, each skipped where the file has it already or the time is over."""

    def __init__(self, ask, measuring, kind, recording, end):
        self.ask, self.measuring, self.kind = ask, measuring, kind
        self.recording, self.end = recording, end
        recording.write()
        _say(f"writing to {recording.path}")

    def left(self):
        """Seconds until the end."""
        return self.end - time.monotonic()

    def context(self):
        """What one more process takes of the GPU before its first tensor."""
        if self.kind != "cuda" or isinstance(self.recording.content.get("context_bytes"), int) or self.left() <= 0:
            return
        self.recording.note("context_bytes", self._asked(cuda.context_bytes))

    def tests(self, run_tests, seconds):
        """The GPU's tests; run again, for twice as long, where they were cut off."""
        earlier = self.recording.content.get("tests", {}).get("outcome")
        if earlier not in (None, "cut off") or self.left() <= 0:
            return
        seconds *= 2 if earlier else 1
        _say("tests marked gpu")
        result = run_tests(min(seconds, self.left()))
        self.recording.note("tests", result)
        _say(f"  {result['outcome']}: {result.get('counts', {})}")

    def cells(self, cells):
        """One cell after the other, as far as the time goes."""
        for number, one in enumerate(cells, 1):
            if self.left() <= 0:
                return
            start = time.monotonic()
            new = measure_cell(self.ask, self.measuring, self.kind, one, seconds=min(CELL_SECONDS, self.left()))
            if "WorkerLost" in new["outcome"] and self.left() <= 0:
                return  # cut off by the end of the time: not the cell's fault
            self.recording.add(new, one[0])
            _say(f"  {number}/{len(cells)} {time.monotonic() - start:5.1f} s  {_line(new)}")

    def rates(self, asked):
        """Tokens a second of each model and format that is not known yet."""
        known = self.recording.content.get("rates", [])
        for arch, works in asked:
            mark = {"model": arch.name, "works": [question(arch, work) for work in works]}
            old = next((one for one in known if {name: one[name] for name in mark} == mark), None)
            if self.left() <= 0 or (old and not old["outcome"].startswith("failed")):
                continue
            new = mark | self._asked(rate, self.kind, arch, works)
            known = [*(one for one in known if one is not old), new]
            self.recording.note("rates", known)
            _say(f"  tokens a second, {arch.name}, {works[0].weights}: {new.get('tokens_per_second', new['outcome'])}")

    def _asked(self, function, *args):
        try:
            return self.ask(function, *args, seconds=min(CELL_SECONDS, max(self.left(), 1)))
        except (RuntimeError, ValueError) as error:
            return failure(error)


def _line(new):
    """A cell and what came of it in one line."""
    errors = []
    if new["outcome"] == "ok" and new["device"]:
        errors = [f"{level} {error_of(new, level):+.2%}" for level in LEVELS]
    return f"{', '.join([new['outcome'], *errors])}: {question_text(new)}"


def _say(line: Any):
    print(line, flush=True)
